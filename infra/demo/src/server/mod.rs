//! The demo game server: registers, sends heartbeats, connects and disconnects players, deregisters.
//!
//! | module | owns |
//! |---|---|
//! | `address` | the address that players connect to |
//! | `config` | the configuration from environment variables |
//! | `owmm` | the calls to OWMM, and their retries |
//! | `ticket` | the offline check of a ticket |
//! | `roster` | the connected players, and the order of calls per player |
//! | `players` | connecting and disconnecting players |
//! | `visit` | one connection |
//!
//! This module owns the server's lifecycle: the order of its steps, and the conditions that end it.

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

/// Time limit for registering. After so long the launch's deadline has passed, and OWMM has started another server.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(600);
/// How long an empty server runs without an answer of OWMM. After that it ends, because OWMM sends it no more players.
/// A server with connected players continues: an outage of OWMM must not become an outage of the game.
const ABANDONED_AFTER: Duration = Duration::from_secs(300);
/// Time limit for deregistering. A stopped server is killed soon after SIGTERM.
const DEREGISTER_TIMEOUT: Duration = Duration::from_secs(3);
/// Pause after a failed accept, so that file descriptors, the most likely shortage, can be freed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why a server ends with an error.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An environment variable is missing or invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The failure switch `OWMM_DEMO_EXIT_BEFORE_REGISTER` is on.
    #[error("OWMM_DEMO_EXIT_BEFORE_REGISTER is set")]
    ToldToFail,
    /// The operating system refused a socket or a signal handler.
    #[error("the operating system refused a socket or a signal handler: {0}")]
    System(#[from] io::Error),
    /// The HTTP client could not be created.
    #[error("the HTTP client cannot be created: {}", reasons(.0))]
    Http(#[from] reqwest::Error),
    /// OWMM refused the registration: it was too late, a newer attempt replaced this server, or the token is wrong.
    #[error("OWMM refused the registration of this server: {0}")]
    NotRegistered(#[source] Problem),
    /// OWMM has stopped this server, or does not know it.
    #[error("OWMM has stopped this server, or does not know it: {0}")]
    Released(#[source] Problem),
    /// OWMM did not answer, and no player is connected.
    #[error("OWMM has not answered for {} s, and no player is connected", .0.as_secs())]
    Abandoned(Duration),
}

impl Error {
    /// Returns the exit code of the process: 2 for an invalid environment, 3 for the failure switch, otherwise 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) => 2,
            Self::ToldToFail => 3,
            _ => 1,
        }
    }
}

/// Entry point of the game server: reads the environment and returns the exit code. Logs to the current `tracing`
/// subscriber.
pub async fn main() -> ExitCode {
    let ended = async { run(Config::from_env()?, stop_signal()?).await }.await;
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(%error, "game server ends with an error");
            ExitCode::from(error.exit_code())
        }
    }
}

/// Runs a server until it is drained and empty, fails, or `stop` completes.
///
/// Returns `Ok` if the server was stopped by `stop`, or was drained to the last player.
pub async fn run(config: Config, stop: impl Future<Output = ()>) -> Result<(), Error> {
    if config.exit_before_register {
        return Err(Error::ToldToFail);
    }
    let owmm = Owmm::new(&config)?;
    // The end of this select drops the socket and every connection, so no player is connected when the server
    // deregisters.
    tokio::select! {
        () = stop => info!(server = config.server_id, "stop requested"),
        ended = serve(&config, &owmm) => ended?,
    }
    deregister(&config, &owmm).await;
    Ok(())
}

/// Opens the socket, registers, and serves players until the server is drained and empty.
async fn serve(config: &Config, owmm: &Owmm) -> Result<(), Error> {
    sleep(config.start_delay).await;
    // The socket is opened before the registration, because OWMM sends players here at once. They wait in its queue.
    let listener = listen(config).await?;
    let heartbeat_every = register(config, owmm, &listener).await?;
    let players = Arc::new(Players::new(owmm.clone()));
    let door = Door::new(config, Arc::clone(&players));
    tokio::select! {
        ended = send_heartbeats(owmm, players, heartbeat_every) => ended,
        never = accept(listener, door, config.capacity) => match never {},
    }
}

/// Listens on the first free port of the range. With host networking, the servers of a host share its ports.
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

/// Returns the address to register. Retries AWS until it answers, because a server without an address is useless.
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
                    warn!(%error, "cannot determine the public address, retrying");
                    sleep(backoff.pause(None)).await;
                }
            }
        },
    }
}

/// Registers the server's address at OWMM. Returns the interval of heartbeats.
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
    let heartbeat_every = registered.heartbeat_every();
    info!(
        server = config.server_id,
        pool = config.pool,
        address,
        port,
        state = ?registered.state,
        capacity = registered.capacity,
        heartbeat_every_s = heartbeat_every.as_secs(),
        "server registered"
    );
    Ok(heartbeat_every)
}

/// Sends heartbeats and handles their answers. Returns `Ok` when the server is drained and empty.
async fn send_heartbeats(owmm: &Owmm, players: Arc<Players>, every: Duration) -> Result<(), Error> {
    // Disconnects run in the background, so that a slow one does not delay the next heartbeat.
    let mut disconnects = JoinSet::new();
    let mut backoff = Backoff::new();
    let mut answered = Instant::now();
    let mut pause = every;
    loop {
        sleep(pause).await;
        while disconnects.try_join_next().is_some() {}
        let connected = players.connected();
        match owmm.heartbeat(&connected).await {
            Ok(heartbeat) => {
                answered = Instant::now();
                backoff = Backoff::new();
                pause = every;
                for placed in heartbeat.unknown {
                    let players = Arc::clone(&players);
                    disconnects.spawn(async move { players.disconnect_unknown(placed).await });
                }
                // A player whose slot was reserved before the drain may still connect.
                if heartbeat.state == State::Draining && heartbeat.reserved == 0 && players.is_idle() {
                    info!("drained, and no player is connected or reserved");
                    return Ok(());
                }
            }
            Err(Failure::Problem(problem)) if ends_the_server(&problem) => return Err(Error::Released(problem)),
            Err(_) if connected.is_empty() && answered.elapsed() > ABANDONED_AFTER => {
                return Err(Error::Abandoned(ABANDONED_AFTER));
            }
            Err(failure) => {
                pause = backoff.pause(failure.retry_after());
                warn!(%failure, pause_ms = pause.as_millis() as u64, "heartbeat failed, retrying");
            }
        }
    }
}

/// Returns whether a refused heartbeat ends the server. Other refusals indicate a defect and are logged; the server
/// continues, because that is better for its connected players.
fn ends_the_server(problem: &Problem) -> bool {
    matches!(problem.status, 401 | 403) || matches!(problem.code.as_str(), "server_stopped" | "unknown_server")
}

/// Accepts connections up to a limit. Further connections wait in the socket's queue.
async fn accept(listener: TcpListener, door: Door, capacity: u32) -> Infallible {
    // Twice the capacity, because each player may reconnect before the server detects that the old connection is dead.
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
                warn!(%error, "cannot accept a connection, retrying");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Deregisters the server, which voids every claim on it, so its players need no disconnect calls.
async fn deregister(config: &Config, owmm: &Owmm) {
    let server = &config.server_id;
    match timeout(DEREGISTER_TIMEOUT, owmm.deregister_server()).await {
        Ok(Ok(())) => info!(server, "server deregistered"),
        Ok(Err(problem)) => warn!(server, %problem, "OWMM refused to deregister the server"),
        Err(_) => warn!(server, "OWMM did not answer the deregistration in time; the lease will expire"),
    }
}

/// Waits for SIGTERM, with which ECS stops a task, or for Ctrl-C.
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

/// Waits for Ctrl-C.
#[cfg(not(unix))]
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    Ok(async {
        let _ = tokio::signal::ctrl_c().await;
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
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
    async fn a_stop_ends_the_server_in_time_when_owmm_does_not_answer() {
        // This socket accepts connections and never answers.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let silent_url = format!("http://{}", silent.local_addr().unwrap());
        // No socket listens on this port.
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let bound = DEREGISTER_TIMEOUT * 3;
        let (a, b) = tokio::join!(
            timeout(bound, run(config(silent_url), async {})),
            timeout(bound, run(config(format!("http://{closed}")), async {})),
        );
        a.unwrap().unwrap();
        b.unwrap().unwrap();
    }

    #[tokio::test]
    async fn the_failure_switch_ends_the_server_before_it_registers() {
        let config = Config { exit_before_register: true, ..config("http://127.0.0.1:1".into()) };
        let error = run(config, std::future::pending()).await.unwrap_err();
        assert_eq!(error.exit_code(), 3);
    }

    #[tokio::test]
    async fn a_server_listens_on_the_first_free_port_of_its_range() {
        // Another process may take the second port in between. Then the test tries other ports.
        for _ in 0..20 {
            let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = first.local_addr().unwrap().port();
            let Some(next) = port.checked_add(1) else { continue };
            let config = Config { ports: port..=next, ..config("http://127.0.0.1:1".into()) };
            let Ok(second) = listen(&config).await else { continue };
            assert_eq!(second.local_addr().unwrap().port(), next);
            assert!(listen(&config).await.is_err(), "both ports are taken");
            return;
        }
        panic!("no two ports in a row are free");
    }

    #[test]
    fn only_a_final_refusal_of_a_heartbeat_ends_a_running_server() {
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
