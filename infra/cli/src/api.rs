//! OWMM's HTTP contract from the caller's side: paths, tries, pages, and what an answer means.

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

/// Tries of one call, and how long they may wait for each other in all.
const TRIES: u32 = 5;
const PATIENCE: Duration = Duration::from_secs(60);
/// Pages of one listing: 100 servers each, and a pool has at most 10,000 that live. More would be a loop.
const PAGES: usize = 1_000;
/// What a path segment may hold as it is: RFC 3986's unreserved characters, as a signature wants it.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// OWMM's API.
#[derive(Debug)]
pub(crate) struct Api {
    http: Client,
    base: String,
    signer: Signer,
    timeout: Duration,
    tries: u32,
    verbose: bool,
}

/// A success.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The body; null if there is none.
    pub(crate) body: Value,
    /// The API's time, so that ages are right on a machine whose clock is not.
    pub(crate) now: OffsetDateTime,
}

impl Api {
    /// The API that the command line and the environment name.
    pub(crate) async fn new(global: &Global) -> Result<Self, Failure> {
        let url = base(global.url.as_deref())?;
        let mut http = Client::builder()
            .user_agent(concat!("owmm/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(5))
            // A signature is for one host: what it leads to elsewhere is not ours to send it to.
            .redirect(redirect::Policy::none());
        if is_loopback(&url) {
            http = http.no_proxy();
        }
        let http = http.build().map_err(|error| Failure::Usage(format!("no HTTP client: {}", causes(&error))))?;
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

    /// The same, where the caller tries again anyway.
    pub(crate) fn impatient(self) -> Self {
        Self { tries: 1, ..self }
    }

    /// Reads.
    pub(crate) async fn get(&self, path: &[&str]) -> Result<Answer, Failure> {
        self.call(Method::GET, path, None, None).await
    }

    /// Calls.
    pub(crate) async fn send(&self, method: Method, path: &[&str], body: Option<&Value>) -> Result<Answer, Failure> {
        self.call(method, path, None, body).await
    }

    /// Every server of a pool, over all pages.
    pub(crate) async fn servers(&self, pool: &str) -> Result<(Vec<Value>, OffsetDateTime), Failure> {
        let mut all = Vec::new();
        let mut after: Option<String> = None;
        for _ in 0..PAGES {
            let query = after.as_deref().map(|after| ("after", after));
            let mut page = self.call(Method::GET, &["pools", pool, "servers"], query, None).await?;
            let servers = page.body.get_mut("servers").and_then(Value::as_array_mut).map(std::mem::take);
            all.extend(servers.ok_or_else(|| not_owmm("`servers` is missing"))?);
            match page.body.get("next").and_then(Value::as_str) {
                Some(next) => after = Some(next.to_owned()),
                None => return Ok((all, page.now)),
            }
        }
        Err(not_owmm("the pages do not end"))
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
                say(&format!("{}: asking again in {} s", problem.status, pause.as_secs()));
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

    /// One try.
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
                "{base} cannot be reached: {}.\n  hint: is `--url` (or OWMM_URL) right, and is it up?",
                causes(error)
            )
        } else if error.is_timeout() {
            let seconds = self.timeout.as_secs();
            format!(
                "{base} has not answered within {seconds} s. Whether the call took effect is unknown. It may be repeated."
            )
        } else {
            format!(
                "the answer of {base} is lost: {}. Whether the call took effect is unknown. It may be repeated.",
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
    Failure::Unknown(format!("that is not an answer of OWMM's: {why}.\n  hint: is `--url` (or OWMM_URL) right?"))
}

/// Where the API is.
fn base(said: Option<&str>) -> Result<Url, Failure> {
    let said = said.filter(|said| !said.is_empty()).ok_or_else(|| {
        let why = "there is no API to ask.\n  hint: give its URL with `--url` or in OWMM_URL: on AWS the HTTP API's, \
                   https://ID.execute-api.REGION.amazonaws.com; of the local stack what it prints after `ready`, \
                   http://127.0.0.1:9000 unless told otherwise";
        Failure::Usage(why.to_owned())
    })?;
    let wrong = |why: &str| Failure::Usage(format!("the API's URL `{said}` does not do: {why}"));
    let url = Url::parse(said).map_err(|error| wrong(&error.to_string()))?;
    if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("it must be scheme, host, and perhaps port and stage, and nothing else"));
    }
    match url.scheme() {
        "https" => Ok(url),
        "http" if is_loopback(&url) => Ok(url),
        "http" => {
            Err(wrong("http is for this machine only; the session token would be readable on the way: use https"))
        }
        _ => Err(wrong("it must begin with https://")),
    }
}

/// The body of a call that has one optional number.
pub(crate) fn optional(name: &str, value: Option<u32>) -> Option<Value> {
    value.map(|value| json!({ name: value }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_signature_goes_over_https_or_stays_on_this_machine() {
        for good in ["https://x.execute-api.eu-west-1.amazonaws.com/prod/", "http://127.0.0.1:9000", "http://[::1]:1"] {
            assert!(base(Some(good)).is_ok(), "{good}");
        }
        for bad in ["http://owmm.example.com", "ftp://127.0.0.1", "owmm", "https://a:b@x.com", "https://x.com?a=b"] {
            assert!(matches!(base(Some(bad)), Err(Failure::Usage(_))), "{bad}");
        }
    }

    #[test]
    fn without_a_url_the_error_says_what_to_do() {
        for nothing in [None, Some("")] {
            let error = base(nothing).unwrap_err().to_string();
            assert!(error.contains("--url") && error.contains("OWMM_URL") && error.contains("ready"), "{error}");
        }
    }
}
