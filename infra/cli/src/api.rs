//! Client of OWMM's HTTP contract: paths, retries, pages, and the meaning of an answer.

use std::time::{Duration, Instant};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Client, Method, Response, Url, header::HeaderMap, redirect};
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::{
    args::Global,
    failure::{Failure, Problem, say},
    json,
    show::{now, time_of_answer},
    sign::{Signer, causes, is_loopback},
};

/// Attempts of one call.
const TRIES: u32 = 5;
/// Pauses between the attempts of one call, at most in total.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pages of one listing at most. A page has 100 servers and a pool at most 10,000 live ones, so more pages mean a loop.
const PAGES: usize = 1_000;
/// Characters that are percent-encoded in a path segment: all but RFC 3986's unreserved ones, as a signature requires.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A client of OWMM's API.
#[derive(Debug)]
pub(crate) struct Api {
    http: Client,
    base: String,
    signer: Signer,
    timeout: Duration,
    tries: u32,
    verbose: bool,
}

/// An answer with a success status.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The body; null if there is none.
    pub(crate) body: Value,
    /// The API's time, so that ages are right even if this machine's clock is wrong.
    pub(crate) now: OffsetDateTime,
}

impl Api {
    /// Creates a client for the URL and the credentials of the command line and the environment.
    pub(crate) async fn new(global: &Global) -> Result<Self, Failure> {
        let url = base(global.url.as_deref())?;
        let mut http = Client::builder()
            .user_agent(concat!("owmm/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(5))
            // A signature is made for one host and must not be sent to another one.
            .redirect(redirect::Policy::none());
        if is_loopback(&url) {
            http = http.no_proxy();
        }
        let http = http
            .build()
            .map_err(|error| Failure::Usage(format!("cannot create an HTTP client: {}", causes(&error))))?;
        let signer = Signer::new(global, &url).await?;
        if global.verbose {
            say(&format!("signing for the region {}", signer.region()));
        }
        Ok(Self {
            http,
            base: url.as_str().trim_end_matches('/').to_owned(),
            signer,
            timeout: Duration::from_secs(global.timeout),
            tries: TRIES,
            verbose: global.verbose,
        })
    }

    /// Turns retries off, for a caller that repeats the call anyway.
    pub(crate) fn without_retries(self) -> Self {
        Self { tries: 1, ..self }
    }

    /// Sends a GET request.
    pub(crate) async fn get(&self, path: &[&str]) -> Result<Answer, Failure> {
        self.call(Method::GET, path, None, None).await
    }

    /// Sends a request with an optional JSON body.
    pub(crate) async fn send(&self, method: Method, path: &[&str], body: Option<&Value>) -> Result<Answer, Failure> {
        self.call(method, path, None, body).await
    }

    /// Reads all pages of a pool's servers. Returns the servers, and the API's time at the last page.
    pub(crate) async fn servers(&self, pool: &str) -> Result<(Vec<Value>, OffsetDateTime), Failure> {
        let mut all = Vec::new();
        let mut after: Option<String> = None;
        for _ in 0..PAGES {
            let query = after.as_deref().map(|after| ("after", after));
            let mut page = self.call(Method::GET, &["pools", pool, "servers"], query, None).await?;
            let servers = page.body.get_mut("servers").and_then(Value::as_array_mut).map(std::mem::take);
            all.extend(servers.ok_or_else(|| not_owmm("a page of servers has no `servers`"))?);
            match page.body.get("next").and_then(Value::as_str) {
                Some(next) => after = Some(next.to_owned()),
                None => return Ok((all, page.now)),
            }
        }
        Err(not_owmm("the listing of servers has too many pages"))
    }

    async fn call(
        &self,
        method: Method,
        path: &[&str],
        query: Option<(&str, &str)>,
        body: Option<&Value>,
    ) -> Result<Answer, Failure> {
        let url = self.url(path, query)?;
        let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        let (begun, mut tried) = (Instant::now(), 0);
        loop {
            tried += 1;
            let problem = match self.once(&method, &url, &body).await? {
                Ok(answer) => return Ok(answer),
                Err(problem) => problem,
            };
            let pause = problem.retry_after.unwrap_or_else(|| Duration::from_secs(1 << tried.min(4)));
            let in_time = begun.elapsed() + pause <= PATIENCE;
            if !problem.is_temporary() || tried >= self.tries || !in_time {
                return Err(Failure::Problem(Box::new(problem)));
            }
            if self.verbose {
                say(&format!("{}: retrying in {} s", problem.status, pause.as_secs()));
            }
            tokio::time::sleep(pause).await;
        }
    }

    fn url(&self, path: &[&str], query: Option<(&str, &str)>) -> Result<Url, Failure> {
        let mut url = self.base.clone();
        for segment in path {
            url.push('/');
            url.extend(utf8_percent_encode(segment, SEGMENT));
        }
        if let Some((name, value)) = query {
            url.push_str(&format!("?{name}={}", utf8_percent_encode(value, SEGMENT)));
        }
        Url::parse(&url).map_err(|error| Failure::Usage(format!("`{url}` is not a URL: {error}")))
    }

    /// Sends a request once.
    async fn once(&self, method: &Method, url: &Url, body: &[u8]) -> Result<Result<Answer, Problem>, Failure> {
        let begun = Instant::now();
        let mut request = self.http.request(method.clone(), url.clone()).timeout(self.timeout);
        for (name, value) in self.signer.headers(method, url, body).await? {
            request = request.header(name, value);
        }
        if !body.is_empty() {
            request = request.header("content-type", "application/json").body(body.to_vec());
        }
        let sent = request.send().await;
        if self.verbose {
            let came = sent.as_ref().map_or_else(|_| "no answer".to_owned(), |answer| answer.status().to_string());
            say(&format!("{method} {url}: {came} after {} ms", begun.elapsed().as_millis()));
        }
        let lost = |error: reqwest::Error| self.lost(&error);
        answered(sent.map_err(lost)?).await.map_err(lost)?
    }

    fn lost(&self, error: &reqwest::Error) -> Failure {
        let base = &self.base;
        Failure::Unknown(if error.is_connect() {
            format!(
                "{base} cannot be reached: {}.\n  hint: check the URL in `--url` or OWMM_URL, and that the API runs",
                causes(error)
            )
        } else if error.is_timeout() {
            let seconds = self.timeout.as_secs();
            format!(
                "{base} has not answered within {seconds} s. Whether the call took effect is unknown. It may be \
                 repeated."
            )
        } else {
            format!(
                "the answer of {base} was lost: {}. Whether the call took effect is unknown. It may be repeated.",
                causes(error)
            )
        })
    }
}

type Outcome = Result<Result<Answer, Problem>, Failure>;

async fn answered(response: Response) -> Result<Outcome, reqwest::Error> {
    let status = response.status();
    let headers = response.headers().clone();
    let text = response.text().await?;
    let read = if text.is_empty() { Ok(Value::Null) } else { serde_json::from_str::<Value>(&text) };
    if status.is_success() {
        let now = time_of_answer(header(&headers, "date"), now());
        return Ok(match read {
            Ok(body) => Ok(Ok(Answer { body, now })),
            Err(error) => Err(not_owmm(&format!("{status}, but {}", json::in_words(&error)))),
        });
    }
    let body = read.unwrap_or_default();
    let request = body.get("requestId").and_then(Value::as_str);
    let request =
        request.or_else(|| header(&headers, "apigw-requestid")).or_else(|| header(&headers, "x-amzn-requestid"));
    let retry_after = header(&headers, "retry-after").and_then(|text| text.parse().ok()).map(Duration::from_secs);
    let request = request.map(str::to_owned);
    Ok(Ok(Err(Problem { status: status.as_u16(), body, request, retry_after })))
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn not_owmm(why: &str) -> Failure {
    Failure::Unknown(format!(
        "the response is not an answer of OWMM's API: {why}.\n  hint: check the URL in `--url` or OWMM_URL"
    ))
}

/// Parses and validates the API's URL.
fn base(given: Option<&str>) -> Result<Url, Failure> {
    let given = given.filter(|given| !given.is_empty()).ok_or_else(|| {
        let why = "the API's URL is missing.\n  hint: give it with `--url` or in OWMM_URL: on AWS the URL of the HTTP \
                   API, https://ID.execute-api.REGION.amazonaws.com; for the local stack the URL that it prints after \
                   `ready`, by default http://127.0.0.1:9000";
        Failure::Usage(why.to_owned())
    })?;
    let wrong = |why: &str| Failure::Usage(format!("the API's URL `{given}` cannot be used: {why}"));
    let url = Url::parse(given).map_err(|error| wrong(&error.to_string()))?;
    if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("it may only have a scheme, a host, a port and a stage"));
    }
    match url.scheme() {
        "https" => Ok(url),
        "http" if is_loopback(&url) => Ok(url),
        "http" => {
            Err(wrong("http is allowed for this machine only, because it would expose the session token: use https"))
        }
        _ => Err(wrong("it must begin with https://")),
    }
}

/// Returns the body of a call with one optional number; none without the number.
pub(crate) fn optional(name: &str, value: Option<u32>) -> Option<Value> {
    value.map(|value| json!({ name: value }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_url_must_be_https_or_on_loopback() {
        for good in ["https://x.execute-api.eu-west-1.amazonaws.com/prod/", "http://127.0.0.1:9000", "http://[::1]:1"] {
            assert!(base(Some(good)).is_ok(), "{good}");
        }
        for bad in ["http://owmm.example.com", "ftp://127.0.0.1", "owmm", "https://a:b@x.com", "https://x.com?a=b"] {
            assert!(matches!(base(Some(bad)), Err(Failure::Usage(_))), "{bad}");
        }
    }

    #[test]
    fn a_missing_url_is_an_error_that_names_the_option_and_the_variable() {
        for nothing in [None, Some("")] {
            let error = base(nothing).unwrap_err().to_string();
            assert!(error.contains("--url") && error.contains("OWMM_URL") && error.contains("ready"), "{error}");
        }
    }
}
