//! Finds a server with room, takes slots from frontiers, and starts servers.

use std::sync::Arc;

use super::{Failure, Owmm, RACE_JITTER, driver::Run};
use crate::{
    domain::{Answer, Frontier, FrontierWrite, Hint, Ledger, MAX_FREED, NoLaunch, NoSlot, ServerId, TakenSlots},
    hints::Permit,
    pool::Pool,
};

/// Most rounds of conditional writes on a frontier. After them `take_slots` returns busy, and `give_back` leaves the
/// count of remaining slots as it is.
const FRONTIER_TURNS: u32 = 4;

impl Owmm {
    /// Finds a server that may have room: a ready one of the index, or else the one that a frontier fills.
    pub(super) async fn find(
        &self,
        run: &mut Run,
        pool: &Pool,
        slots: u32,
        tried: &[ServerId],
        listed: bool,
        fresh: bool,
    ) -> Result<Hint, Failure> {
        run.chosen = None;
        if !fresh {
            run.permit = None;
        }
        if listed {
            let listing = self.hints.listing(&pool.name);
            let limiters = (0..pool.limits.concurrent_launches).map(|k| self.hints.limiter(&pool.name, k).in_flight());
            let in_flight = limiters.flatten().collect();
            let mut not_before = fresh.then_some(run.started);
            let chosen = loop {
                listing.refresh(&self.table, pool, not_before, self.clock.now()).await?;
                let chosen = listing.pick(pool, slots, tried, &in_flight, &self.rng);
                // Before an old build is chosen from a cached answer, the index is queried again: a server of a newer
                // build may be ready by now.
                match &chosen {
                    Some(chosen) if chosen.build < pool.build && not_before.is_none() => {
                        not_before = Some(run.started);
                    }
                    _ => break chosen,
                }
            };
            if let Some(chosen) = chosen {
                let server = chosen.server.clone();
                run.chosen = Some(chosen);
                run.permit = None;
                return Ok(Hint::Listed(server));
            }
        }
        if fresh {
            return Ok(Hint::Unknown);
        }
        let mut permit = self.enter(pool, slots).await;
        if permit.server.is_none()
            && let Some(frontier) = self.table.frontier(&pool.name, permit.k).await?
        {
            permit.limiter().observe(&frontier);
            permit.server = Some(frontier.server);
        }
        let hint = permit.server.clone().map_or(Hint::Unknown, Hint::Frontier);
        run.permit = Some(permit);
        Ok(hint)
    }

    /// Waits for a permit for one of the pool's frontiers, chosen at random.
    async fn enter(&self, pool: &Pool, slots: u32) -> Permit {
        let k = u32::try_from(self.rng.below(pool.limits.concurrent_launches as usize)).unwrap_or(0);
        self.hints.limiter(&pool.name, k).enter(k, slots).await
    }

    /// Takes slots from a frontier. If the frontier is used up and `may_start` is true, starts a server and takes its
    /// first slots.
    pub(super) async fn take_slots(
        &self,
        run: &mut Run,
        pool: &Pool,
        slots: u32,
        may_start: bool,
    ) -> Result<TakenSlots, Failure> {
        let mut permit = match run.permit.take() {
            Some(permit) => permit,
            None => self.enter(pool, slots).await,
        };
        let (limiter, k) = (Arc::clone(permit.limiter()), permit.k);
        if !may_start {
            let taken = self.take(pool, slots, &mut permit).await?;
            return Ok(match taken {
                Ok(frontier) => {
                    run.permit = Some(permit);
                    TakenSlots::On(frontier.server)
                }
                Err(_) => {
                    // The caller that is about to start a server keeps its permit; the others wait for the new server's
                    // id.
                    run.permit = Some(permit);
                    TakenSlots::UsedUp
                }
            });
        }
        for turn in 1..=FRONTIER_TURNS {
            let advancing = limiter.advance().await;
            // Another call of this process may have advanced the frontier in the meantime, and its server may have
            // slots left.
            if let Some(another) = limiter.reserve(k, slots) {
                permit = another;
            }
            let seen = match self.take(pool, slots, &mut permit).await? {
                Ok(frontier) => {
                    run.permit = Some(permit);
                    return Ok(TakenSlots::On(frontier.server));
                }
                Err(seen) => seen,
            };
            if let Some(frontier) = self.go_back(pool, k, seen.as_ref(), slots).await? {
                limiter.goes_back(&frontier);
                permit.took(&frontier.server);
                run.permit = Some(permit);
                return Ok(TakenSlots::On(frontier.server));
            }
            match self.launcher.advance(pool, k, seen, slots).await? {
                Ok(ledger) => {
                    limiter.observe(&Frontier::new(ledger.id.clone(), ledger.capacity.saturating_sub(slots)));
                    permit.took(&ledger.id);
                    drop(advancing);
                    run.permit = Some(permit);
                    self.launcher.call(&ledger).await?;
                    return Ok(TakenSlots::On(ledger.id));
                }
                Err(None) => {
                    drop(advancing);
                    tokio::time::sleep(self.rng.jitter(RACE_JITTER.times(i64::from(turn)))).await;
                }
                Err(Some(NoLaunch::Paused(until))) => return Ok(TakenSlots::No(NoSlot::LaunchPaused(until))),
                Err(Some(NoLaunch::AtMaximum)) => {
                    // Other calls must not wait for this limiter while this call tries the other frontiers.
                    drop(advancing);
                    drop(permit);
                    return self.other_frontiers(pool, k, slots).await;
                }
            }
        }
        Ok(TakenSlots::No(NoSlot::Busy))
    }

    /// Takes slots from the permit's frontier with one conditional write. `Err` has the frontier that refused, if it
    /// exists.
    async fn take(
        &self,
        pool: &Pool,
        slots: u32,
        permit: &mut Permit,
    ) -> Result<Result<Frontier, Option<Frontier>>, Failure> {
        let answer = self.table.write_frontier(&pool.name, permit.k, &FrontierWrite::Take { slots }).await?;
        permit.spend();
        if let Answer::Written(frontier) | Answer::Refused(Some(frontier)) = &answer {
            permit.limiter().observe(frontier);
        }
        if let Answer::Written(frontier) = &answer {
            permit.took(&frontier.server);
        }
        Ok(match answer {
            Answer::Written(frontier) => Ok(frontier),
            Answer::Refused(frontier) => Err(frontier),
        })
    }

    /// Takes slots from any frontier of the pool except `but`, because no server may be started now.
    async fn other_frontiers(&self, pool: &Pool, but: u32, slots: u32) -> Result<TakenSlots, Failure> {
        for k in (0..pool.shards).filter(|k| *k != but) {
            let mut permit = self.hints.limiter(&pool.name, k).at_once(k, slots);
            let frontier = match self.take(pool, slots, &mut permit).await? {
                Ok(frontier) => Some(frontier),
                Err(seen) => self.go_back(pool, k, seen.as_ref(), slots).await?,
            };
            if let Some(frontier) = frontier {
                return Ok(TakenSlots::On(frontier.server));
            }
        }
        Ok(TakenSlots::No(NoSlot::PoolFull))
    }

    /// Moves a used-up frontier back to a server that it filled before, if that server is still starting and has freed
    /// slots.
    ///
    /// Runs before a new server is started. `None` if there is no such server, or another caller has moved the
    /// frontier.
    async fn go_back(
        &self,
        pool: &Pool,
        k: u32,
        seen: Option<&Frontier>,
        slots: u32,
    ) -> Result<Option<Frontier>, Failure> {
        let Some(seen) = seen else { return Ok(None) };
        for server in &seen.freed {
            let ledger = self.table.ledger(server).await?;
            let room = ledger.map_or(0, |ledger| ledger.room_to_start(pool.build));
            let write = match room.checked_sub(slots) {
                Some(remaining) => FrontierWrite::Return { from: seen.clone(), to: server.clone(), remaining },
                None if room == 0 => FrontierWrite::RemoveFreed { server: server.clone() },
                // Some room, but not enough for this party.
                None => continue,
            };
            let answer = self.table.write_frontier(&pool.name, k, &write).await?;
            if let (FrontierWrite::Return { .. }, Answer::Written(frontier)) = (write, answer) {
                return Ok(Some(frontier));
            }
        }
        Ok(None)
    }

    /// Returns a freed slot of a starting server to the server's frontier.
    ///
    /// If the frontier still fills that server, it gets one more slot. If it has moved on, it remembers the server and
    /// returns to it before another server is started.
    pub(super) async fn give_back(&self, ledger: &Ledger) -> Result<(), Failure> {
        for turn in 1..=FRONTIER_TURNS {
            let Some(seen) = self.table.frontier(&ledger.pool, ledger.shard).await? else { return Ok(()) };
            let write = if seen.server != ledger.id {
                if seen.freed.len() >= MAX_FREED {
                    return Ok(());
                }
                FrontierWrite::AddFreed { server: ledger.id.clone() }
            } else if seen.remaining < ledger.capacity {
                FrontierWrite::GiveBack { server: seen.server, seen: seen.remaining, slots: 1 }
            } else {
                return Ok(());
            };
            if let Answer::Written(_) = self.table.write_frontier(&ledger.pool, ledger.shard, &write).await? {
                return Ok(());
            }
            tokio::time::sleep(self.rng.jitter(RACE_JITTER.times(i64::from(turn)))).await;
        }
        // Each round lost a race against other writes. The slot need not be counted exactly: before another server is
        // started, the ledger of each remembered server is read.
        let write = FrontierWrite::AddFreed { server: ledger.id.clone() };
        self.table.write_frontier(&ledger.pool, ledger.shard, &write).await?;
        Ok(())
    }

    /// Removes a server without room from the hints, and from the frontiers that still fill it.
    pub(super) async fn used_up(&self, run: &mut Run, pool: &Pool, server: &ServerId) -> Result<(), Failure> {
        run.chosen = None;
        run.permit = None;
        self.hints.listing(&pool.name).used_up(server, self.clock.now());
        for k in 0..pool.shards {
            let limiter = self.hints.limiter(&pool.name, k);
            if limiter.server().as_ref() == Some(server) {
                let write = FrontierWrite::UsedUp { server: server.clone() };
                let answer = self.table.write_frontier(&pool.name, k, &write).await?;
                if let Answer::Written(frontier) | Answer::Refused(Some(frontier)) = answer {
                    limiter.observe(&frontier);
                }
            }
        }
        Ok(())
    }
}
