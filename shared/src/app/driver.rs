//! Performs the effects of a protocol, until the protocol has ended.
//!
//! Every effect names the player, server or pool that it is about. A [`Run`] adds only what hints need: the settings of the
//! pool that the request searches, and where the request is on its way.

use std::{any::type_name, sync::Arc};

use futures_util::future::join_all;

use super::{Failure, Owmm};
use crate::{
    domain::{Answer, Effect, PoolName, Protocol, Reply, Step, Time},
    hints::{InFlight, Permit},
    pool::Pool,
};

/// What one request carries from effect to effect.
pub(super) struct Run {
    /// The settings of the pool that is searched for a slot, as they were when the request began; `None` where no slot is
    /// searched for.
    pool: Option<Arc<Pool>>,
    /// The listed server that the request has chosen and is on its way to.
    pub(super) chosen: Option<InFlight>,
    /// The permit for a frontier.
    pub(super) permit: Option<Permit>,
    /// When the request began.
    pub(super) started: Time,
}

impl Owmm {
    /// Runs a protocol to its end. `pool` is the pool that it searches for a slot, if it does.
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

    /// The settings of the pool that an effect names: those with which the request began, if it is that pool.
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
                // A request that reads a ledger is not on its way to another server.
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
