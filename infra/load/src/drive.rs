//! The players: each joins, and asks again as the answers say, until a slot on a running server is there.
//!
//! A player comes when a place among the calls in flight is free, and gives it back while it waits: `--at-once` limits
//! calls, not players. A repeated call waits for a place like everybody else.

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
    world::{Door, Reply, World},
};

/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// What the player was told last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Last {
    /// A slot on this server.
    Slot(String),
    /// That there is none.
    Refused,
    /// Nothing that says whether there is a slot.
    Unclear,
}

/// How it went for one player.
pub(crate) struct Played {
    /// Who.
    pub(crate) id: PlayerId,
    /// How long the first call took.
    pub(crate) first_call: Duration,
    /// When the slot was the player's (200 or 202), from the start of the run.
    pub(crate) held: Option<Duration>,
    /// When the server was there too (200), from the start of the run.
    pub(crate) ready: Option<Duration>,
    /// From the player's first call until then.
    pub(crate) to_slot: Option<Duration>,
    /// What the player was told last.
    pub(crate) last: Last,
    /// Calls made.
    calls: u64,
}

/// How it went.
pub(crate) struct Driven {
    /// Everybody.
    pub(crate) players: Vec<Played>,
    /// Join calls, repeated ones included.
    pub(crate) calls: u64,
    /// Answers without a slot, by their code.
    pub(crate) refusals: BTreeMap<String, u64>,
    /// Processor time of this process meanwhile.
    pub(crate) processor_time: Option<Duration>,
}

struct Crowd {
    began: Instant,
    door: Arc<Door>,
    places: Arc<Semaphore>,
    patience: Duration,
    servers: Option<UnboundedSender<String>>,
    refusals: Mutex<BTreeMap<String, u64>>,
    held: AtomicU32,
    ready: AtomicU32,
}

/// Plays everybody to the end.
pub(crate) async fn drive(world: &World, args: &Args, servers: &Servers, tag: &str) -> Result<Driven, Error> {
    let crowd = Arc::new(Crowd {
        began: Instant::now(),
        door: Arc::clone(&world.door),
        places: Arc::new(Semaphore::new(args.at_once as usize)),
        patience: Duration::from_secs(args.patience_seconds),
        servers: servers.seen(),
        refusals: Mutex::default(),
        held: AtomicU32::new(0),
        ready: AtomicU32::new(0),
    });
    let cpu = report::processor_time();
    let everybody = async {
        let (mut tasks, mut players) = (JoinSet::new(), Vec::new());
        for i in 0..args.players {
            let id = PlayerId::parse(&format!("player-{tag}-{i:06}"))?;
            let Ok(place) = Arc::clone(&crowd.places).acquire_owned().await else { break };
            tasks.spawn(Arc::clone(&crowd).play(id, place));
            // A finished task keeps all of its memory until it is asked how it went.
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
        players = everybody => players?,
        never = tell(&crowd, args.players) => match never {},
    };
    let refusals = crowd.refusals.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let processor_time = report::processor_time().zip(cpu).map(|(after, before)| after.saturating_sub(before));
    Ok(Driven { calls: players.iter().map(|player| player.calls).sum(), players, refusals, processor_time })
}

async fn tell(crowd: &Crowd, of: u32) -> std::convert::Infallible {
    loop {
        sleep(PROGRESS_EVERY).await;
        let (held, ready) = (crowd.held.load(Ordering::Relaxed), crowd.ready.load(Ordering::Relaxed));
        let seconds = crowd.began.elapsed().as_secs();
        say(&format!("  {seconds:>3} s  {held} of {of} players hold a slot, {ready} of them on a server that runs"));
    }
}

impl Crowd {
    async fn play(self: Arc<Self>, id: PlayerId, place: OwnedSemaphorePermit) -> Played {
        let came = Instant::now();
        let mut played = Played {
            id,
            first_call: Duration::ZERO,
            held: None,
            ready: None,
            to_slot: None,
            last: Last::Unclear,
            calls: 0,
        };
        let mut place = Some(place);
        loop {
            let taken = match place.take() {
                Some(place) => Some(place),
                None => Arc::clone(&self.places).acquire_owned().await.ok(),
            };
            // Boxed, since the call takes kilobytes that a waiting player does not need.
            let reply = Box::pin(self.door.join(&played.id)).await;
            drop(taken);
            played.calls += 1;
            if played.calls == 1 {
                played.first_call = came.elapsed();
            }
            let pause = match reply {
                Reply::Ready(server) => {
                    self.hold(&mut played, server);
                    self.ready.fetch_add(1, Ordering::Relaxed);
                    (played.ready, played.to_slot) = (Some(self.began.elapsed()), Some(came.elapsed()));
                    return played;
                }
                Reply::Starting(server, pause) => {
                    if let Some(servers) = &self.servers {
                        // Nobody listens any more once the run is over.
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
            if came.elapsed() + pause > self.patience {
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
