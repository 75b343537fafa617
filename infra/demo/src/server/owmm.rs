//! The five calls that a dedicated server makes. It owns their form, and which of them are repeated until answered.

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

/// A body over 192 KiB is refused; this leaves room for what surrounds the names.
const MAX_NAMES_BYTES: usize = 188 * 1024;

/// OWMM, as seen by one server.
#[derive(Clone)]
pub(super) struct Owmm {
    http: Client,
    /// `URL/servers/ID`: every call is about this server.
    server: String,
    token: Secret,
}

/// Answer to registering.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Registered {
    pub(super) state: State,
    pub(super) capacity: u32,
    heartbeat_seconds: f64,
}

impl Registered {
    /// Neither so often that it is a flood nor so seldom that it is silence, whatever the answer says.
    pub(super) fn heartbeat_every(&self) -> Duration {
        Duration::from_secs_f64(self.heartbeat_seconds.clamp(0.1, 300.0))
    }
}

/// Answer to a heartbeat.
#[derive(Debug, Deserialize)]
pub(super) struct Beat {
    pub(super) state: State,
    /// Slots that are held for players who are on their way.
    #[serde(default)]
    pub(super) reserved: u32,
    /// Players whom OWMM believes inside, and whom the heartbeat did not name.
    #[serde(default)]
    pub(super) unknown: Vec<Placed>,
}

/// A placement that OWMM holds for a player on this server.
#[derive(Debug, Deserialize)]
pub(super) struct Placed {
    pub(super) player: String,
    pub(super) placement: u64,
}

/// The state that OWMM wants the server to be in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum State {
    /// Takes players.
    Ready,
    /// Gets no new players, and ends when the last has left.
    Draining,
    /// One that this build does not know yet: carry on.
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

    /// Repeated until answered.
    pub(super) async fn register_server(&self, address: &str, port: u16, capacity: u32) -> Result<Registered, Problem> {
        let body = serde_json::json!({ "address": address, "port": port, "capacity": capacity });
        self.until_answered("register server", || self.http.put(&self.server).json(&body)).await
    }

    /// Tried once: the next heartbeat is its repetition. Without `players` only the lease is extended.
    pub(super) async fn heartbeat(&self, players: &[String]) -> Result<Beat, Failure> {
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

    /// Repeated until answered, and then the number of the placement: the disconnect names it.
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

    /// Repeated until answered. Naming the placement makes a late repetition harmless: it cannot touch a newer one.
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

    /// Repeated until answered.
    pub(super) async fn deregister_server(&self) -> Result<(), Problem> {
        self.until_answered::<IgnoredAny>("deregister server", || self.http.delete(&self.server)).await?;
        Ok(())
    }

    fn player(&self, player: &str) -> String {
        format!("{}/players/{}", self.server, segment(player))
    }

    /// Repeats a call until OWMM has said yes or a final no. It has no end of its own, for giving up would leave open
    /// what the call has done: the caller bounds it, or the end of the server does.
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
            warn!(what, %failure, pause_ms = pause.as_millis() as u64, "asking again");
            sleep(pause).await;
        }
    }
}
