//! One HTTP call to OWMM and what may come back: an answer, a problem, or nothing that can be understood.
//!
//! The three never mix, because they ask for different things. After an answer the caller goes on. After a problem that
//! is final it gives up, since asking again would be answered the same. In every other case it asks again, after a pause:
//! each call of the contract may be repeated safely.

use std::{error::Error, time::Duration};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Client, RequestBuilder, Response, header};
use serde::{Deserialize, de::DeserializeOwned};

use crate::line::preview;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The whole call. An answer that takes longer counts as lost.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest answer is a heartbeat's list of unknown players, and that is far below this.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;
/// No answer makes anyone wait longer than this: whoever asked for more may be back sooner.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// A client with a limit on everything. Clone it into each [`Player`](crate::player::Player) of a load test.
///
/// It ignores proxy variables: OWMM is reached directly. On a machine without any root certificates it still speaks plain
/// HTTP, which is all that the local stack needs; HTTPS then fails by name at the first call.
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

/// What OWMM answers when it does not do what was asked (RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{status} {code}: {detail}")]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// The stable name, such as `no_claim`. `http_STATUS` where something before OWMM answered.
    pub code: String,
    /// For people.
    pub detail: String,
    /// How long to wait before asking again, if the answer said so.
    pub retry_after: Option<Duration>,
}

impl Problem {
    /// Whether asking again would only be answered the same.
    pub fn is_final(&self) -> bool {
        self.status < 500 && !matches!(self.status, 408 | 429)
    }
}

/// Why a call has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// OWMM refused, or could not right now.
    #[error(transparent)]
    Problem(#[from] Problem),
    /// No answer, or none that can be read: whether the call took effect is unknown.
    #[error("no answer from OWMM: {0}")]
    NoAnswer(String),
    /// The call cannot be made at all, so nothing happened: a bad URL, or a token that does not fit into a header.
    #[error("the call cannot be made: {0}")]
    Unsendable(String),
}

impl Failure {
    /// Whether asking again would only fail the same way.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Problem(problem) => problem.is_final(),
            Self::NoAnswer(_) => false,
            Self::Unsendable(_) => true,
        }
    }

    /// How long to wait before asking again, if the answer said so.
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

/// Makes the call and reads its answer. An empty answer (204) is read as JSON's `null`.
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

/// An answer that is not OWMM's. JSON is not shown: it may hold a ticket.
fn unreadable(error: &serde_json::Error, body: &[u8]) -> String {
    if error.is_data() {
        format!("it is JSON, but not what OWMM answers: {error}")
    } else {
        format!("it is not OWMM's: expected JSON, got {}. Is this OWMM's URL?", preview(body))
    }
}

async fn read(mut response: Response) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Err(Failure::NoAnswer(format!("longer than {MAX_ANSWER_BYTES} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Seconds only: the contract knows no other form.
fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// Lenient, since a gateway or a proxy in front of OWMM answers in forms of its own.
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

/// The error with all that caused it; the outermost message alone rarely names the reason.
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

/// An id as one segment of a path. Ids may hold `|`, `@`, `=` and others that a router may take for something else.
pub(crate) fn segment(id: &str) -> String {
    const KEEP: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    utf8_percent_encode(id, KEEP).to_string()
}

/// An id of the contract: `1..=max` of the letters, digits and `punctuation` that it allows.
///
/// `.` and `..` are refused although they are made of allowed characters: as a segment of a path every HTTP client
/// resolves them, even percent-encoded, and the call would reach another route.
pub(crate) fn is_id(id: &str, max_bytes: usize, punctuation: &str) -> bool {
    (1..=max_bytes).contains(&id.len())
        && id.chars().all(|c| c.is_ascii_alphanumeric() || punctuation.contains(c))
        && !matches!(id, "." | "..")
}

/// Pauses that double up to a limit, with jitter so that many who failed together do not come back together.
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

    /// The next pause: not shorter than what the answer asked for.
    pub(crate) fn pause(&mut self, retry_after: Option<Duration>) -> Duration {
        let own = self.ceiling.mul_f64(rand::random_range(0.5..=1.0));
        self.ceiling = (self.ceiling * 2).min(Self::LONGEST);
        let asked_for = retry_after.unwrap_or_default().min(MAX_PAUSE);
        own.max(asked_for.mul_f64(rand::random_range(1.0..=1.1)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may end at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn an_id_becomes_one_segment_whatever_it_holds() {
        assert_eq!(segment("auth0|Ann@x.y=1+2:z-_"), "auth0%7CAnn%40x.y%3D1%2B2%3Az-_");
        assert_eq!(segment("a/../b %"), "a%2F..%2Fb%20%25");
    }

    #[test]
    fn dots_alone_are_no_id() {
        assert!(is_id("a.b", 64, "."));
        assert!(is_id("...", 64, "."));
        for id in ["", ".", "..", "a/b", "a b", "ä", &"x".repeat(65)] {
            assert!(!is_id(id, 64, "."), "{id}");
        }
    }

    #[test]
    fn a_problem_is_final_unless_the_status_says_try_again() {
        for (status, is_final) in
            [(400, true), (404, true), (409, true), (410, true), (408, false), (429, false), (503, false)]
        {
            assert_eq!(problem(status, None, b"").is_final(), is_final, "{status}");
        }
    }

    #[test]
    fn a_problem_in_another_form_still_has_a_code() {
        let ours = problem(409, None, br#"{"code":"no_claim","detail":"none","requestId":"r"}"#);
        assert_eq!((ours.code.as_str(), ours.detail.as_str()), ("no_claim", "none"));
        let gateway = problem(401, None, br#"{"message":"Unauthorized"}"#);
        assert_eq!((gateway.code.as_str(), gateway.detail.as_str()), ("http_401", "Unauthorized"));
        assert_eq!(problem(502, None, b"<html>").code, "http_502");
    }

    #[test]
    fn a_pause_grows_to_its_limit_and_is_not_shorter_than_asked_for() {
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
    async fn a_call_that_cannot_be_built_is_final_and_one_without_answer_is_not() {
        let http = http_client().unwrap();
        let bad: Result<(), _> = call(http.get("http://127.0.0.1/").bearer_auth("a\nb")).await;
        assert!(matches!(&bad, Err(Failure::Unsendable(_))), "{bad:?}");
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let refused: Result<(), _> = call(http.get(format!("http://{closed}/"))).await;
        assert!(matches!(&refused, Err(Failure::NoAnswer(why)) if why.contains("refused")), "{refused:?}");
    }

    #[test]
    fn an_answer_that_is_not_owmms_is_shown_unless_it_is_json() {
        let told = |body: &str| {
            let error = serde_json::from_str::<Vec<u8>>(body).unwrap_err();
            unreadable(&error, body.as_bytes())
        };
        assert_eq!(
            told("<!doctype html>"),
            "it is not OWMM's: expected JSON, got `<!doctype html>`. Is this OWMM's URL?"
        );
        let json = told(r#"{"ticket": "s3cret"}"#);
        assert!(json.starts_with("it is JSON, but not what OWMM answers: ") && !json.contains("s3cret"), "{json}");
    }
}
