//! The five calls of a dedicated server to OWMM. This module owns their format and their retries.

use std::time::Duration;

use reqwest::{Client, RequestBuilder};
use serde::{
    Deserialize, Serialize,
    de::{DeserializeOwned, IgnoredAny},
};
use tokio::time::sleep;
use tracing::warn;

use super::config::Config;
use crate::{
    http::{self, Backoff, Failure, Problem, http_client, segment},
    secret::Secret,
};

/// Longest list of players in a heartbeat, in bytes. OWMM refuses a body over 192 KiB; the rest is for the JSON around
/// it.
const MAX_NAMES_BYTES: usize = 188 * 1024;

/// Client of OWMM for one server.
#[derive(Clone)]
pub(super) struct Owmm {
    http: Client,
    /// `URL/servers/ID`, the prefix of every call's URL.
    server: String,
    token: Secret,
}

/// Answer to the registration.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Registered {
    pub(super) state: State,
    pub(super) capacity: u32,
    heartbeat_seconds: f64,
}

impl Registered {
    /// Returns the interval of heartbeats: that of the answer, limited to 0.1 s to 300 s.
    pub(super) fn heartbeat_every(&self) -> Duration {
        Duration::from_secs_f64(self.heartbeat_seconds.clamp(0.1, 300.0))
    }
}

/// Answer to a heartbeat.
#[derive(Debug, Deserialize)]
pub(super) struct HeartbeatAnswer {
    pub(super) state: State,
    /// Slots that are reserved for players who have not connected yet.
    #[serde(default)]
    pub(super) reserved: u32,
    /// Players that OWMM counts as connected, and that the heartbeat did not list.
    #[serde(default)]
    pub(super) unknown: Vec<Placed>,
}

/// A player that OWMM counts as connected to this server, with the placement.
#[derive(Debug, Deserialize)]
pub(super) struct Placed {
    pub(super) player: String,
    pub(super) placement: u64,
}

/// State of the server at OWMM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum State {
    /// The server gets new players.
    Ready,
    /// The server gets no new players, and must end when the last one has left.
    Draining,
    /// A state that this client does not know: continue.
    #[serde(other)]
    Other,
}

impl Owmm {
    pub(super) fn new(config: &Config) -> Result<Self, reqwest::Error> {
        Ok(Self {
            http: http_client()?,
            server: format!("{}/servers/{}", config.url, segment(&config.server_id)),
            token: config.token.clone(),
        })
    }

    /// Registers the server. Retries until OWMM answers.
    pub(super) async fn register_server(&self, address: &str, port: u16, capacity: u32) -> Result<Registered, Problem> {
        let body = serde_json::json!({ "address": address, "port": port, "capacity": capacity });
        self.until_answered("register server", || self.http.put(&self.server).json(&body)).await
    }

    /// Sends a heartbeat. Does not retry, because the next heartbeat replaces it. Omits a list of players that is too
    /// long; then OWMM only renews the lease.
    pub(super) async fn heartbeat(&self, players: &[String]) -> Result<HeartbeatAnswer, Failure> {
        #[derive(Serialize)]
        struct Body<'a> {
            #[serde(skip_serializing_if = "Option::is_none")]
            players: Option<&'a [String]>,
        }
        let fits = players.iter().map(|name| name.len() + 3).sum::<usize>() <= MAX_NAMES_BYTES;
        let body = Body { players: fits.then_some(players) };
        let request = self.http.post(format!("{}/heartbeat", self.server)).json(&body);
        http::call(request.bearer_auth(self.token.expose())).await
    }

    /// Registers a player and returns the placement, which the disconnect must name. Retries until OWMM answers.
    pub(super) async fn register_player(&self, player: &str, ticket: &Secret) -> Result<u64, Problem> {
        #[derive(Deserialize)]
        struct Answer {
            placement: u64,
        }
        let url = self.player(player);
        let body = serde_json::json!({ "ticket": ticket.expose() });
        let answer: Answer = self.until_answered("register player", || self.http.put(&url).json(&body)).await?;
        Ok(answer.placement)
    }

    /// Disconnects a player. Retries until OWMM answers. A late retry is harmless, because it names the placement and
    /// so cannot affect a newer one.
    pub(super) async fn deregister_player(
        &self,
        player: &str,
        placement: u64,
        grace_seconds: u32,
    ) -> Result<(), Problem> {
        let mut url = format!("{}?placement={placement}", self.player(player));
        if grace_seconds > 0 {
            url.push_str(&format!("&grace={grace_seconds}"));
        }
        self.until_answered::<IgnoredAny>("deregister player", || self.http.delete(&url)).await?;
        Ok(())
    }

    /// Deregisters the server. Retries until OWMM answers.
    pub(super) async fn deregister_server(&self) -> Result<(), Problem> {
        self.until_answered::<IgnoredAny>("deregister server", || self.http.delete(&self.server)).await?;
        Ok(())
    }

    fn player(&self, player: &str) -> String {
        format!("{}/players/{}", self.server, segment(player))
    }

    /// Repeats a call until OWMM answers or refuses finally. There is no limit on retries, because after giving up it
    /// would be unknown whether the call took effect. The caller, or the end of the server, limits the time.
    async fn until_answered<T: DeserializeOwned>(
        &self,
        what: &'static str,
        request: impl Fn() -> RequestBuilder,
    ) -> Result<T, Problem> {
        let mut backoff = Backoff::new();
        loop {
            let failure = match http::call(request().bearer_auth(self.token.expose())).await {
                Ok(answer) => return Ok(answer),
                Err(Failure::Problem(problem)) if problem.is_final() => return Err(problem),
                Err(failure) => failure,
            };
            let pause = backoff.pause(failure.retry_after());
            warn!(what, %failure, pause_ms = pause.as_millis() as u64, "call to OWMM failed, retrying");
            sleep(pause).await;
        }
    }
}
