//! The injected bug [`Bug::LapseStopsPlayers`], which is in a decision of reconcile and not in a conditional write.

use std::collections::BTreeMap;

use domain::{
    Ledger, LedgerWrite, PoolBuild, Repair, StopReason, TaskStatus, Time,
    bug::{self, Bug},
};

/// Returns reconcile's decision about a server: the domain's, or the injected bug's if that stops the server.
pub(super) fn repair(ledger: &Ledger, pool: PoolBuild, task: TaskStatus, now: Time) -> Repair {
    match stops_although_connected(ledger, pool, task, now) {
        Some(_) => Repair::Stop(StopReason::Silent),
        None => ledger.next_repair(pool, task, now),
    }
}

/// Returns the write of [`Bug::LapseStopsPlayers`], which stops a server with connected players after a long lapse.
///
/// The bug decides as if the ledger had no claims. `None` for every other server, and without the bug.
pub fn stops_although_connected(ledger: &Ledger, pool: PoolBuild, task: TaskStatus, now: Time) -> Option<LedgerWrite> {
    if !bug::injected(Bug::LapseStopsPlayers) || !ledger.has_players() {
        return None;
    }
    let empty = Ledger { claims: BTreeMap::new(), ..ledger.clone() };
    let stops = empty.next_repair(pool, task, now) == Repair::Stop(StopReason::Silent);
    stops.then(|| ledger.stop_for(StopReason::Silent, now))
}
