//! One HTTP call to OWMM, and its three outcomes: an answer, a problem, or no valid response.
//!
//! Each outcome needs another reaction. After an answer the caller continues. After a final problem the caller gives
//! up, because a repeated call would fail in the same way. In every other case the caller repeats the call after a
//! pause: each call of the contract may be repeated safely.

use std::{error::Error, time::Duration};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Client, RequestBuilder, Response, header};
use serde::{Deserialize, de::DeserializeOwned};

use crate::line::preview;

/// Time limit for connecting to OWMM.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Time limit for the whole call. A slower response counts as lost.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest response, in bytes. The longest of OWMM, a heartbeat's list of unknown players, is far shorter.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;
/// Longest pause that a response can ask for. A longer `Retry-After` is shortened to this.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// Creates an HTTP client with time limits. Clone it into each [`Player`](crate::player::Player) of a load test.
///
/// The client ignores proxy variables and connects to OWMM directly. On a machine without root certificates the client
/// still supports plain HTTP, which the local stack uses; HTTPS then fails at the first call with an error that says
/// why.
pub fn http_client() -> Result<Client, reqwest::Error> {
    let limited = || {
        Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
    };
    limited().build().or_else(|_| limited().tls_certs_only([]).build())
}

/// Error response of OWMM, in the problem format of RFC 9457.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{status} {code}: {detail}")]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// The problem code, such as `no_claim`. `http_STATUS` if a gateway or proxy in front of OWMM responded.
    pub code: String,
    /// Description for people.
    pub detail: String,
    /// How long to wait before the next call, if the response has `Retry-After`.
    pub retry_after: Option<Duration>,
}

impl Problem {
    /// Whether a repeated call would get the same response.
    pub fn is_final(&self) -> bool {
        self.status < 500 && !matches!(self.status, 408 | 429)
    }
}

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// OWMM refused the call, or could not handle it now.
    #[error(transparent)]
    Problem(#[from] Problem),
    /// No response, or an invalid one. Whether the call took effect is unknown.
    #[error("no valid response from OWMM: {0}")]
    NoAnswer(String),
    /// The request cannot be built, so the call had no effect: a bad URL, or a token that is not a valid header value.
    #[error("the request cannot be built: {0}. Check URL and token")]
    Unsendable(String),
}

impl Failure {
    /// Whether a repeated call would fail in the same way.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Problem(problem) => problem.is_final(),
            Self::NoAnswer(_) => false,
            Self::Unsendable(_) => true,
        }
    }

    /// How long to wait before the next call, if the response has `Retry-After`.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Problem(problem) => problem.retry_after,
            Self::NoAnswer(_) | Self::Unsendable(_) => None,
        }
    }
}

impl From<reqwest::Error> for Failure {
    fn from(error: reqwest::Error) -> Self {
        let builder = error.is_builder();
        let reasons = reasons(&error.without_url());
        if builder { Self::Unsendable(reasons) } else { Self::NoAnswer(reasons) }
    }
}

/// Makes the call and parses the answer. An empty body (204) is parsed as JSON `null`.
pub(crate) async fn call<T: DeserializeOwned>(request: RequestBuilder) -> Result<T, Failure> {
    let response = request.send().await?;
    let status = response.status().as_u16();
    let success = response.status().is_success();
    let retry_after = retry_after(&response);
    let body = read(response).await?;
    if success {
        let json: &[u8] = if body.is_empty() { b"null" } else { &body };
        return serde_json::from_slice(json).map_err(|error| Failure::NoAnswer(unreadable(&error, json)));
    }
    Err(problem(status, retry_after, &body).into())
}

/// Describes an invalid answer. The message never quotes JSON, which may have a ticket.
fn unreadable(error: &serde_json::Error, body: &[u8]) -> String {
    if error.is_data() {
        format!("unexpected JSON: {error}")
    } else {
        format!("expected JSON, got {}. Is this OWMM's URL?", preview(body))
    }
}

async fn read(mut response: Response) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Err(Failure::NoAnswer(format!("the response is longer than {MAX_ANSWER_BYTES} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Parses `Retry-After` in seconds, the only form in the contract.
fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// Parses a problem. The parser is lenient, because a gateway or proxy in front of OWMM responds in other formats.
fn problem(status: u16, retry_after: Option<Duration>, body: &[u8]) -> Problem {
    #[derive(Default, Deserialize)]
    struct Body {
        code: Option<String>,
        detail: Option<String>,
        title: Option<String>,
        message: Option<String>,
    }
    let body: Body = serde_json::from_slice(body).unwrap_or_default();
    Problem {
        status,
        code: body.code.unwrap_or_else(|| format!("http_{status}")),
        detail: body.detail.or(body.title).or(body.message).unwrap_or_else(|| "no detail given".to_owned()),
        retry_after,
    }
}

/// Returns the messages of the error and of all its sources. The outermost message alone rarely names the cause.
pub(crate) fn reasons(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Percent-encodes an id as one path segment. An id may have characters such as `|`, `@` and `=`.
pub(crate) fn segment(id: &str) -> String {
    const KEEP: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    utf8_percent_encode(id, KEEP).to_string()
}

/// Returns whether `id` is valid: 1 to `max_bytes` ASCII letters, digits and characters of `punctuation`.
///
/// `.` and `..` are invalid, although `punctuation` may allow their characters: HTTP clients resolve these path
/// segments, even percent-encoded, so the call would reach another route.
pub(crate) fn is_id(id: &str, max_bytes: usize, punctuation: &str) -> bool {
    (1..=max_bytes).contains(&id.len())
        && id.chars().all(|c| c.is_ascii_alphanumeric() || punctuation.contains(c))
        && !matches!(id, "." | "..")
}

/// Pauses between retries. They double up to a limit, with jitter, so that callers that failed at the same time do not
/// retry at the same time.
#[derive(Debug)]
pub(crate) struct Backoff {
    ceiling: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(200);
    const LONGEST: Duration = Duration::from_secs(5);

    pub(crate) fn new() -> Self {
        Self { ceiling: Self::FIRST }
    }

    /// Returns the next pause, which is at least `retry_after`.
    pub(crate) fn pause(&mut self, retry_after: Option<Duration>) -> Duration {
        let own = self.ceiling.mul_f64(rand::random_range(0.5..=1.0));
        self.ceiling = (self.ceiling * 2).min(Self::LONGEST);
        let asked_for = retry_after.unwrap_or_default().min(MAX_PAUSE);
        own.max(asked_for.mul_f64(rand::random_range(1.0..=1.1)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn any_id_is_encoded_as_one_path_segment() {
        assert_eq!(segment("auth0|Ann@x.y=1+2:z-_"), "auth0%7CAnn%40x.y%3D1%2B2%3Az-_");
        assert_eq!(segment("a/../b %"), "a%2F..%2Fb%20%25");
    }

    #[test]
    fn one_or_two_dots_are_not_a_valid_id() {
        assert!(is_id("a.b", 64, "."));
        assert!(is_id("...", 64, "."));
        for id in ["", ".", "..", "a/b", "a b", "ä", &"x".repeat(65)] {
            assert!(!is_id(id, 64, "."), "{id}");
        }
    }

    #[test]
    fn a_problem_is_final_unless_its_status_allows_a_retry() {
        for (status, is_final) in
            [(400, true), (404, true), (409, true), (410, true), (408, false), (429, false), (503, false)]
        {
            assert_eq!(problem(status, None, b"").is_final(), is_final, "{status}");
        }
    }

    #[test]
    fn a_problem_in_the_format_of_a_proxy_has_a_code_from_its_status() {
        let ours = problem(409, None, br#"{"code":"no_claim","detail":"none","requestId":"r"}"#);
        assert_eq!((ours.code.as_str(), ours.detail.as_str()), ("no_claim", "none"));
        let gateway = problem(401, None, br#"{"message":"Unauthorized"}"#);
        assert_eq!((gateway.code.as_str(), gateway.detail.as_str()), ("http_401", "Unauthorized"));
        assert_eq!(problem(502, None, b"<html>").code, "http_502");
    }

    #[test]
    fn a_pause_doubles_to_its_limit_and_is_at_least_retry_after() {
        let mut backoff = Backoff::new();
        assert!(backoff.pause(None) <= Backoff::FIRST);
        assert!(backoff.pause(Some(Duration::from_secs(30))) >= Duration::from_secs(30));
        assert!(backoff.pause(Some(Duration::MAX)) <= MAX_PAUSE.mul_f64(1.1));
        for _ in 0..20 {
            assert!(backoff.pause(None) <= Backoff::LONGEST);
        }
        assert!(backoff.pause(None) >= Backoff::LONGEST / 2);
    }

    #[tokio::test]
    async fn a_request_that_cannot_be_built_is_final_and_a_missing_response_is_not() {
        let http = http_client().unwrap();
        let bad: Result<(), _> = call(http.get("http://127.0.0.1/").bearer_auth("a\nb")).await;
        assert!(matches!(&bad, Err(Failure::Unsendable(_))), "{bad:?}");
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let refused: Result<(), _> = call(http.get(format!("http://{closed}/"))).await;
        assert!(matches!(&refused, Err(Failure::NoAnswer(why)) if why.contains("refused")), "{refused:?}");
    }

    #[test]
    fn the_error_of_an_invalid_answer_quotes_the_body_unless_it_is_json() {
        let message = |body: &str| {
            let error = serde_json::from_str::<Vec<u8>>(body).unwrap_err();
            unreadable(&error, body.as_bytes())
        };
        assert_eq!(message("<!doctype html>"), "expected JSON, got `<!doctype html>`. Is this OWMM's URL?");
        let json = message(r#"{"ticket": "s3cret"}"#);
        assert!(json.starts_with("unexpected JSON: ") && !json.contains("s3cret"), "{json}");
    }
}
