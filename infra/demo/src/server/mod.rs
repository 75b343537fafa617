//! The demo game server: registers, beats, lets players in and out, disconnect.
//!
//! | module | owns |
//! |---|---|
//! | `address` | where players find the server |
//! | `config` | what the environment says |
//! | `owmm` | the calls to OWMM, and repeating them |
//! | `ticket` | checking a ticket offline |
//! | `roster` | who is inside, and one call at a time about one player |
//! | `players` | coming in, going out, being sent away |
//! | `visit` | one connection |
//!
//! This module owns the life of the whole: the order of its steps, and what makes it end.

mod address;
mod config;
mod owmm;
mod players;
mod roster;
mod ticket;
mod visit;

use std::{convert::Infallible, io, net::Ipv4Addr, process::ExitCode, sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tracing::{error, info, warn};

pub use self::{
    address::{Address, Services},
    config::{Config, ConfigError},
};
use self::{
    owmm::{Owmm, State},
    players::Players,
    visit::Door,
};
use crate::http::{Backoff, Failure, Problem, reasons};

/// Whoever has not been able to register for so long has missed the launch's deadline, and another runs in its place.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(600);
/// An empty server that OWMM has not answered for so long gets no players any more, so it ends instead of running for
/// ever. A server with players inside never ends for that: an outage of OWMM must not become an outage of the game.
const ABANDONED_AFTER: Duration = Duration::from_secs(300);
/// The disconnect of a server that was told to stop: whoever stops it kills it soon after.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(3);
/// After an accept that failed, most likely for want of file descriptors: give them time to come back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why a server ends other than in peace.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The environment is incomplete or wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The failure switch `OWMM_DEMO_EXIT_BEFORE_REGISTER` is on.
    #[error("told to fail by OWMM_DEMO_EXIT_BEFORE_REGISTER")]
    ToldToFail,
    /// No socket, or no signal handler.
    #[error("the system refuses: {0}")]
    System(#[from] io::Error),
    /// No HTTP client.
    #[error("no HTTP client: {}", reasons(.0))]
    Http(#[from] reqwest::Error),
    /// OWMM does not want this server: it came too late, was replaced by a newer attempt, or has a wrong token.
    #[error("OWMM refused to register this server: {0}")]
    NotRegistered(#[source] Problem),
    /// OWMM has stopped this server, or does not know it.
    #[error("OWMM has no use for this server any more: {0}")]
    Released(#[source] Problem),
    /// Nobody is inside, and nobody can be sent here.
    #[error("OWMM has not answered for {} s", .0.as_secs())]
    Abandoned(Duration),
}

impl Error {
    /// What the process exits with: 2 for a bad environment, 3 for the failure switch, 1 for the rest.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) => 2,
            Self::ToldToFail => 3,
            _ => 1,
        }
    }
}

/// The whole program: environment in, exit code out. Logs go to whatever `tracing` subscriber is there.
pub async fn main() -> ExitCode {
    let ended = async { run(Config::from_env()?, stop_signal()?).await }.await;
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(%error, "the server ends");
            ExitCode::from(error.exit_code())
        }
    }
}

/// Runs a server until it has no reason to, or until `stop`.
///
/// `Ok` means that it has ended in peace: it was stopped, or drained to the last player.
pub async fn run(config: Config, stop: impl Future<Output = ()>) -> Result<(), Error> {
    if config.exit_before_register {
        return Err(Error::ToldToFail);
    }
    let owmm = Owmm::new(&config)?;
    // Ending a life drops it, and with it its socket and every connection: players are out before the disconnect is said.
    tokio::select! {
        () = stop => info!(server = config.server_id, "told to stop"),
        ended = live(&config, &owmm) => ended?,
    }
    deregister(&config, &owmm).await;
    Ok(())
}

/// From the socket to the last player.
async fn live(config: &Config, owmm: &Owmm) -> Result<(), Error> {
    sleep(config.start_delay).await;
    // The socket comes before the registration: from then on players are sent here, and wait in its queue at most.
    let listener = listen(config).await?;
    let beat_every = register(config, owmm, &listener).await?;
    let players = Arc::new(Players::new(owmm.clone()));
    let door = Door::new(config, Arc::clone(&players));
    tokio::select! {
        ended = beat(owmm, players, beat_every) => ended,
        never = accept(listener, door, config.capacity) => match never {},
    }
}

/// On the first port that is free: with host networking, servers share the ports of their host.
async fn listen(config: &Config) -> io::Result<TcpListener> {
    let host = if config.address == Address::Loopback { Ipv4Addr::LOCALHOST } else { Ipv4Addr::UNSPECIFIED };
    let mut taken = io::Error::from(io::ErrorKind::AddrInUse);
    for port in config.ports.clone() {
        match TcpListener::bind((host, port)).await {
            Ok(listener) => return Ok(listener),
            Err(error) => taken = error,
        }
    }
    Err(taken)
}

/// What to tell OWMM. Asks AWS until it knows: without an address the server is of no use.
async fn address(config: &Config) -> String {
    let mut backoff = Backoff::new();
    match &config.address {
        Address::Loopback => Ipv4Addr::LOCALHOST.to_string(),
        Address::Auto => "auto".to_owned(),
        Address::Named(name) => name.clone(),
        Address::Interface => loop {
            match address::public(&config.services).await {
                Ok(address) => return address.to_string(),
                Err(error) => {
                    warn!(%error, "the public address is not known");
                    sleep(backoff.pause(None)).await;
                }
            }
        },
    }
}

/// Tells OWMM where the players find this server. Answers how often to beat.
async fn register(config: &Config, owmm: &Owmm, listener: &TcpListener) -> Result<Duration, Error> {
    let port = listener.local_addr()?.port();
    let register = async {
        let address = address(config).await;
        let registered = owmm.register_server(&address, port, config.capacity).await;
        registered.map(|registered| (address, registered))
    };
    let (address, registered) = timeout(REGISTER_TIMEOUT, register)
        .await
        .map_err(|_| Error::Abandoned(REGISTER_TIMEOUT))?
        .map_err(Error::NotRegistered)?;
    let beat_every = registered.heartbeat_every();
    info!(
        server = config.server_id,
        pool = config.pool,
        address,
        port,
        state = ?registered.state,
        capacity = registered.capacity,
        beat_every_s = beat_every.as_secs(),
        "registered"
    );
    Ok(beat_every)
}

/// Keeps the lease, and learns from the answers. Ends well when the server is drained and nobody is left.
async fn beat(owmm: &Owmm, players: Arc<Players>, every: Duration) -> Result<(), Error> {
    // Goodbyes take as long as they take; the next beat does not wait for them.
    let mut disconnects = JoinSet::new();
    let mut backoff = Backoff::new();
    let mut answered = Instant::now();
    let mut pause = every;
    loop {
        sleep(pause).await;
        while disconnects.try_join_next().is_some() {}
        let inside = players.inside();
        match owmm.heartbeat(&inside).await {
            Ok(beat) => {
                answered = Instant::now();
                backoff = Backoff::new();
                pause = every;
                for placed in beat.unknown {
                    let players = Arc::clone(&players);
                    disconnects.spawn(async move { players.disconnect_unknown(placed).await });
                }
                // Who was promised a slot before the server drained may still come.
                if beat.state == State::Draining && beat.reserved == 0 && players.is_idle() {
                    info!("drained, and nobody is inside");
                    return Ok(());
                }
            }
            Err(Failure::Problem(problem)) if ends_the_server(&problem) => return Err(Error::Released(problem)),
            Err(_) if inside.is_empty() && answered.elapsed() > ABANDONED_AFTER => {
                return Err(Error::Abandoned(ABANDONED_AFTER));
            }
            Err(failure) => {
                pause = backoff.pause(failure.retry_after());
                warn!(%failure, pause_ms = pause.as_millis() as u64, "a heartbeat failed");
            }
        }
    }
}

/// Other refusals are a defect to be seen in the log; players inside are better off with a server that goes on.
fn ends_the_server(problem: &Problem) -> bool {
    matches!(problem.status, 401 | 403) || matches!(problem.code.as_str(), "server_stopped" | "unknown_server")
}

/// Lets connections come, as many as there may be at once. More wait in the socket's queue.
async fn accept(listener: TcpListener, door: Door, capacity: u32) -> Infallible {
    // Twice the players, since each may come back on a new connection before the old one is known to be dead.
    let most = capacity.saturating_mul(2).saturating_add(16) as usize;
    let door = Arc::new(door);
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        while connections.len() >= most {
            connections.join_next().await;
        }
        match listener.accept().await {
            Ok((stream, _)) => {
                let door = Arc::clone(&door);
                connections.spawn(async move { door.serve(stream).await });
            }
            Err(error) => {
                warn!(%error, "a connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Every claim on the server is void after it, so players need no disconnects of their own.
async fn deregister(config: &Config, owmm: &Owmm) {
    let server = &config.server_id;
    match timeout(GOODBYE_TIMEOUT, owmm.deregister_server()).await {
        Ok(Ok(())) => info!(server, "server deregistered"),
        Ok(Err(problem)) => warn!(server, %problem, "the server deregistered was refused"),
        Err(_) => warn!(server, "no answer to the server deregistered; OWMM will find out by itself"),
    }
}

/// SIGTERM, which is how ECS stops a task, or Ctrl-C.
#[cfg(unix)]
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Ctrl-C.
#[cfg(not(unix))]
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    Ok(async {
        let _ = tokio::signal::ctrl_c().await;
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may end at the first surprise")]
mod tests {
    use super::*;

    fn config(url: String) -> Config {
        Config {
            url,
            server_id: "s1".into(),
            token: "t".into(),
            pool: "default".into(),
            capacity: 1,
            address: Address::Loopback,
            ports: 0..=0,
            services: Services::from_variables(|_| None),
            grace_seconds: 0,
            exit_before_register: false,
            start_delay: Duration::ZERO,
        }
    }

    #[tokio::test]
    async fn a_stop_ends_the_server_in_time_when_nobody_answers() {
        // It takes connections and never says a word.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let silent_url = format!("http://{}", silent.local_addr().unwrap());
        // And here nobody listens.
        let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let bound = GOODBYE_TIMEOUT * 3;
        let (a, b) = tokio::join!(
            timeout(bound, run(config(silent_url), async {})),
            timeout(bound, run(config(format!("http://{gone}")), async {})),
        );
        a.unwrap().unwrap();
        b.unwrap().unwrap();
    }

    #[tokio::test]
    async fn the_failure_switch_ends_the_server_before_it_does_anything() {
        let config = Config { exit_before_register: true, ..config("http://127.0.0.1:1".into()) };
        let error = run(config, std::future::pending()).await.unwrap_err();
        assert_eq!(error.exit_code(), 3);
    }

    #[tokio::test]
    async fn a_server_takes_the_first_port_that_is_free() {
        // Free a moment ago, both of them; who takes the second in between makes the test try again.
        for _ in 0..20 {
            let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = first.local_addr().unwrap().port();
            let Some(next) = port.checked_add(1) else { continue };
            let config = Config { ports: port..=next, ..config("http://127.0.0.1:1".into()) };
            let Ok(second) = listen(&config).await else { continue };
            assert_eq!(second.local_addr().unwrap().port(), next);
            assert!(listen(&config).await.is_err(), "all are taken");
            return;
        }
        panic!("no two ports in a row are free");
    }

    #[test]
    fn only_what_cannot_be_mended_ends_a_running_server() {
        for (status, code, ends) in [
            (410, "server_stopped", true),
            (404, "unknown_server", true),
            (401, "unauthorized", true),
            (403, "http_403", true),
            (404, "http_404", false),
            (400, "bad_request", false),
            (503, "busy", false),
        ] {
            let problem = Problem { status, code: code.into(), detail: String::new(), retry_after: None };
            assert_eq!(ends_the_server(&problem), ends, "{problem}");
        }
    }
}
