//! Performs the effects of a protocol until the protocol ends.
//!
//! Every effect names its player, server or pool. A [`Run`] adds only what the hints need: the settings of the pool in
//! which the request searches for a slot, and the server or frontier that the request has chosen.

use std::{any::type_name, sync::Arc};

use futures_util::future::join_all;

use super::{Failure, Owmm};
use crate::{
    domain::{Answer, Effect, PoolName, Protocol, Reply, Step, Time},
    hints::{InFlight, Permit},
    pool::Pool,
};

/// The state that one request keeps between its effects.
pub(super) struct Run {
    /// Settings of the pool in which the request searches for a slot, as of the start of the request; `None` if the
    /// request searches for no slot.
    pool: Option<Arc<Pool>>,
    /// The listed server that the request has chosen and on which it has not claimed a slot yet.
    pub(super) chosen: Option<InFlight>,
    /// The permit to use a frontier.
    pub(super) permit: Option<Permit>,
    /// Start of the request.
    pub(super) started: Time,
}

impl Owmm {
    /// Runs a protocol to its end. `pool` is the pool in which the protocol searches for a slot, if it searches for
    /// one.
    pub(super) async fn run<P: Protocol>(
        &self,
        mut protocol: P,
        pool: Option<Arc<Pool>>,
    ) -> Result<P::Outcome, Failure> {
        let mut run = Run { pool, chosen: None, permit: None, started: self.clock.now() };
        let mut reply = Reply::Start;
        loop {
            match protocol.next(self.clock.now(), reply) {
                Step::Effect(effect) => reply = self.perform(&mut run, effect).await?,
                Step::Done(outcome) => return Ok(outcome),
                Step::ProtocolError => {
                    debug_assert!(false, "{} was given a reply that does not match its effect", type_name::<P>());
                    return Err(Failure::Protocol(type_name::<P>()));
                }
            }
        }
    }

    /// Returns the settings of the pool that an effect names: for the request's own pool, those as of the start of the
    /// request.
    async fn settings(&self, run: &Run, name: &PoolName) -> Result<Arc<Pool>, Failure> {
        match &run.pool {
            Some(pool) if pool.name == *name => Ok(Arc::clone(pool)),
            _ => self.pool(name).await,
        }
    }

    async fn perform(&self, run: &mut Run, effect: Effect) -> Result<Reply, Failure> {
        Ok(match effect {
            Effect::Find { pool, slots, tried, listed, fresh } => {
                let pool = self.settings(run, &pool).await?;
                Reply::Found(self.find(run, &pool, slots, &tried, listed, fresh).await?)
            }
            Effect::TakeSlots { pool, slots, may_start } => {
                let pool = self.settings(run, &pool).await?;
                Reply::SlotsTaken(self.take_slots(run, &pool, slots, may_start).await?)
            }
            Effect::UsedUp { pool, server } => {
                let pool = self.settings(run, &pool).await?;
                self.used_up(run, &pool, &server).await?;
                Reply::Done
            }
            Effect::GiveBack(ledger) => {
                self.give_back(&ledger).await?;
                Reply::Done
            }
            Effect::ReadSeat(player) => Reply::SeatRead(self.table.seat(&player).await?),
            Effect::ReadSeats(players) => {
                let seats = players.iter().map(|player| self.table.seat(player));
                Reply::SeatsRead(join_all(seats).await.into_iter().collect::<Result<_, _>>()?)
            }
            Effect::ReadLedger(server) => {
                // A request that reads one server's ledger is about to claim no slot on another server.
                run.chosen = None;
                run.permit = None;
                Reply::LedgerRead(self.table.ledger(&server).await?)
            }
            Effect::WriteSeat(player, write) => Reply::SeatWritten(self.table.write_seat(&player, &write).await?),
            Effect::WriteSeats(writes) => {
                let seats = writes.iter().map(|(player, write)| self.table.write_seat(player, write));
                Reply::SeatsWritten(join_all(seats).await.into_iter().collect::<Result<_, _>>()?)
            }
            Effect::WriteLedger(server, write) => {
                let answer = self.table.write_ledger(&server, &write).await?;
                if let (Some(pool), Answer::Written(ledger) | Answer::Refused(Some(ledger))) = (&run.pool, &answer) {
                    self.hints.listing(&pool.name).observe(ledger, self.clock.now());
                }
                Reply::LedgerWritten(answer)
            }
        })
    }
}
