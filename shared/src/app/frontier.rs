//! Finds a server with room, takes slots from frontiers, and starts servers.

use std::sync::Arc;

use super::{Failure, Owmm, RACE_JITTER, driver::Run};
use crate::{
    domain::{Answer, Frontier, FrontierWrite, Hint, Ledger, MAX_FREED, NoLaunch, NoSlot, ServerId, TakenSlots},
    hints::Permit,
    pool::Pool,
};

/// Turns that one question to a frontier takes at the most before the request starts over.
const FRONTIER_TURNS: u32 = 4;

impl Owmm {
    /// Where there may be room.
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
                // Nobody is sent to an old build on an old answer of the index: a newer one may be up by now.
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

    async fn enter(&self, pool: &Pool, slots: u32) -> Permit {
        let k = u32::try_from(self.rng.below(pool.limits.concurrent_launches as usize)).unwrap_or(0);
        self.hints.limiter(&pool.name, k).enter(k, slots).await
    }

    /// Takes slots from a frontier; if it is seen used up and `may_start`, starts a server and takes the first ones.
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
                    // Whoever is about to start a server keeps its leave; the others wait for that server's name.
                    run.permit = Some(permit);
                    TakenSlots::UsedUp
                }
            });
        }
        for turn in 1..=FRONTIER_TURNS {
            let advancing = limiter.advance().await;
            // Somebody in this process may have been faster, and its server may have slots left.
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
                    // Nobody may wait for this gate while this call asks at the others.
                    drop(advancing);
                    drop(permit);
                    return self.other_frontiers(pool, k, slots).await;
                }
            }
        }
        Ok(TakenSlots::No(NoSlot::Busy))
    }

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

    /// No server may be started for this frontier; another one may still have slots.
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

    /// Before a new server is started: a frontier that is used up goes back to a server that it has left, if that is still
    /// starting and slots were freed there. `None` if there is none, or somebody else has moved the frontier.
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
                // Too little for a party.
                None => continue,
            };
            let answer = self.table.write_frontier(&pool.name, k, &write).await?;
            if let (FrontierWrite::Return { .. }, Answer::Written(frontier)) = (write, answer) {
                return Ok(Some(frontier));
            }
        }
        Ok(None)
    }

    /// A slot was freed on a server that is starting. If its frontier still hands out that server's slots, it has one more;
    /// if it has moved on, it will come back before another server is started.
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
        // Many are taking and giving back. It need not be counted: the frontier looks before another server is started.
        let write = FrontierWrite::AddFreed { server: ledger.id.clone() };
        self.table.write_frontier(&ledger.pool, ledger.shard, &write).await?;
        Ok(())
    }

    /// A server had no room: no hint may name it any more.
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
