//! Simulated players. Each one joins, and polls after the pause that the answer names, until it has a slot on a running
//! server.
//!
//! `--at-once` limits calls in flight and not players: a call needs a permit, and a player returns its permit while it
//! waits. A player's first call starts when a permit is free, and so does each repeated call.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use shared::domain::PlayerId;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc::UnboundedSender},
    task::JoinSet,
    time::sleep,
};

use crate::{
    args::Args,
    error::Error,
    report::{self, say},
    servers::Servers,
    world::{Api, Reply, World},
};

/// Interval of the lines of progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// A player's last answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Last {
    /// A slot on the server with this id.
    Slot(String),
    /// A refusal: no slot.
    Refused,
    /// An answer, or none, that leaves open whether the player has a slot.
    Unclear,
}

/// The result of one player.
pub(crate) struct Played {
    /// The player.
    pub(crate) id: PlayerId,
    /// Duration of the first call.
    pub(crate) first_call: Duration,
    /// Time from the start of the run to the first answer with a slot (200 or 202).
    pub(crate) held: Option<Duration>,
    /// Time from the start of the run to the answer with a slot on a running server (200).
    pub(crate) ready: Option<Duration>,
    /// Time from the player's first call to the answer with a slot on a running server (200).
    pub(crate) to_slot: Option<Duration>,
    /// The player's last answer.
    pub(crate) last: Last,
    /// Join calls that the player made.
    calls: u64,
}

/// The result of all players.
pub(crate) struct Driven {
    /// The result of each player.
    pub(crate) players: Vec<Played>,
    /// Join calls, repeated ones included.
    pub(crate) calls: u64,
    /// Number of answers without a slot, by code.
    pub(crate) refusals: BTreeMap<String, u64>,
    /// Processor time of this process during the joins.
    pub(crate) processor_time: Option<Duration>,
}

struct Crowd {
    began: Instant,
    api: Arc<Api>,
    permits: Arc<Semaphore>,
    patience: Duration,
    servers: Option<UnboundedSender<String>>,
    refusals: Mutex<BTreeMap<String, u64>>,
    held: AtomicU32,
    ready: AtomicU32,
}

/// Runs all players until each has a slot on a running server or has waited for `--patience-seconds`.
pub(crate) async fn drive(world: &World, args: &Args, servers: &Servers, tag: &str) -> Result<Driven, Error> {
    let crowd = Arc::new(Crowd {
        began: Instant::now(),
        api: Arc::clone(&world.api),
        permits: Arc::new(Semaphore::new(args.at_once as usize)),
        patience: Duration::from_secs(args.patience_seconds),
        servers: servers.awaited(),
        refusals: Mutex::default(),
        held: AtomicU32::new(0),
        ready: AtomicU32::new(0),
    });
    let cpu = report::processor_time();
    let all = async {
        let (mut tasks, mut players) = (JoinSet::new(), Vec::new());
        for i in 0..args.players {
            let id = PlayerId::parse(&format!("player-{tag}-{i:06}"))?;
            let Ok(permit) = Arc::clone(&crowd.permits).acquire_owned().await else { break };
            tasks.spawn(Arc::clone(&crowd).play(id, permit));
            // A finished task keeps all of its memory until its result is taken.
            while let Some(played) = tasks.try_join_next() {
                players.push(played?);
            }
        }
        while let Some(played) = tasks.join_next().await {
            players.push(played?);
        }
        Ok::<_, Error>(players)
    };
    let players = tokio::select! {
        players = all => players?,
        never = report_progress(&crowd, args.players) => match never {},
    };
    let refusals = crowd.refusals.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let processor_time = report::processor_time().zip(cpu).map(|(after, before)| after.saturating_sub(before));
    Ok(Driven { calls: players.iter().map(|player| player.calls).sum(), players, refusals, processor_time })
}

async fn report_progress(crowd: &Crowd, of: u32) -> std::convert::Infallible {
    loop {
        sleep(PROGRESS_EVERY).await;
        let (held, ready) = (crowd.held.load(Ordering::Relaxed), crowd.ready.load(Ordering::Relaxed));
        let seconds = crowd.began.elapsed().as_secs();
        say(&format!("  {seconds:>3} s  {held} of {of} players have a slot, {ready} of them on a running server"));
    }
}

impl Crowd {
    async fn play(self: Arc<Self>, id: PlayerId, permit: OwnedSemaphorePermit) -> Played {
        let began = Instant::now();
        let mut played = Played {
            id,
            first_call: Duration::ZERO,
            held: None,
            ready: None,
            to_slot: None,
            last: Last::Unclear,
            calls: 0,
        };
        let mut permit = Some(permit);
        loop {
            let taken = match permit.take() {
                Some(permit) => Some(permit),
                None => Arc::clone(&self.permits).acquire_owned().await.ok(),
            };
            // Boxed, because the call's future has kilobytes that a waiting player does not need.
            let reply = Box::pin(self.api.join(&played.id)).await;
            drop(taken);
            played.calls += 1;
            if played.calls == 1 {
                played.first_call = began.elapsed();
            }
            let pause = match reply {
                Reply::Ready(server) => {
                    self.hold(&mut played, server);
                    self.ready.fetch_add(1, Ordering::Relaxed);
                    (played.ready, played.to_slot) = (Some(self.began.elapsed()), Some(began.elapsed()));
                    return played;
                }
                Reply::Starting(server, pause) => {
                    if let Some(servers) = &self.servers {
                        // A failed send means that the run has ended.
                        let _ = servers.send(server.clone());
                    }
                    self.hold(&mut played, server);
                    pause
                }
                Reply::Refused(code, pause) => {
                    played.last = Last::Refused;
                    self.count(code);
                    pause
                }
                Reply::Unclear(code, pause) => {
                    played.last = Last::Unclear;
                    self.count(code);
                    pause
                }
            };
            if began.elapsed() + pause > self.patience {
                return played;
            }
            sleep(pause).await;
        }
    }

    fn hold(&self, played: &mut Played, server: String) {
        played.last = Last::Slot(server);
        if played.held.is_none() {
            played.held = Some(self.began.elapsed());
            self.held.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn count(&self, code: String) {
        *self.refusals.lock().unwrap_or_else(PoisonError::into_inner).entry(code).or_default() += 1;
    }
}
