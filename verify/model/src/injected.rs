//! [`Bug::LapseStopsPlayers`], which no conditional write can have: it is in what reconcile decides.

use std::collections::BTreeMap;

use domain::{
    Ledger, LedgerWrite, PoolBuild, Repair, StopReason, TaskStatus, Time,
    bug::{self, Bug},
};

/// What reconcile decides about a server: the domain's decision, unless the bug is injected and wins.
pub(super) fn repair(ledger: &Ledger, pool: PoolBuild, task: TaskStatus, now: Time) -> Repair {
    match stops_although_connected(ledger, pool, task, now) {
        Some(_) => Repair::Stop(StopReason::Silent),
        None => ledger.next_repair(pool, task, now),
    }
}

/// With [`Bug::LapseStopsPlayers`] injected, the write that stops a server with connected players because its lease ran out
/// long ago: the decision is made as if the ledger had no claims. `None` for every other server, and without the bug.
pub fn stops_although_connected(ledger: &Ledger, pool: PoolBuild, task: TaskStatus, now: Time) -> Option<LedgerWrite> {
    if !bug::injected(Bug::LapseStopsPlayers) || !ledger.has_players() {
        return None;
    }
    let empty = Ledger { claims: BTreeMap::new(), ..ledger.clone() };
    let stops = empty.next_repair(pool, task, now) == Repair::Stop(StopReason::Silent);
    stops.then(|| ledger.stop_for(StopReason::Silent, now))
}
