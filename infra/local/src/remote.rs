//! Functions at a Lambda endpoint: `cargo lambda watch`, or any other endpoint of Lambda's Invoke call.
//!
//! The endpoint receives the same events as the functions in this process, including the authorizer's result, so it
//! needs no authentication of its own. This module does not read the events.

use std::{collections::HashMap, time::Duration};

use axum::{body::Body as HttpBody, response::Response as HttpResponse};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde::Deserialize;
use serde_json::Value;

/// Time limit for a function's response, as at API Gateway.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Body of API Gateway's 503 response after that time.
const TOO_LATE: &str = r#"{"message":"Service Unavailable"}"#;

/// An endpoint of Lambda's Invoke call.
#[derive(Debug)]
pub(crate) struct Remote {
    url: String,
    http: reqwest::Client,
}

/// Response of a function, payload format 2.0.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    status_code: u16,
    #[serde(default)]
    headers: HashMap<String, String>,
    body: Option<String>,
    #[serde(default)]
    is_base64_encoded: bool,
}

impl Remote {
    pub(crate) fn new(url: &str) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder().timeout(ANSWER_WITHIN).no_proxy().build()?;
        Ok(Self { url: url.trim_end_matches('/').to_owned(), http })
    }

    /// Invokes a function and returns its response, or a 503 response if the function did not answer in time.
    pub(crate) async fn invoke(&self, function: &str, event: &Value) -> Result<HttpResponse, String> {
        let url = format!("{}/2015-03-31/functions/{function}/invocations", self.url);
        let failed = |error: reqwest::Error| format!("{function}: {error}");
        let answered = self.http.post(url).json(event).send().await.and_then(reqwest::Response::error_for_status);
        if answered.as_ref().is_err_and(reqwest::Error::is_timeout) {
            tracing::warn!(function, "no response of the function within {ANSWER_WITHIN:?}");
            let builder = HttpResponse::builder().status(503).header("content-type", "application/json");
            return builder.body(HttpBody::from(TOO_LATE)).map_err(|error| error.to_string());
        }
        let answer: Answer = answered.map_err(failed)?.json().await.map_err(failed)?;
        let body = answer.body.unwrap_or_default();
        let body = if answer.is_base64_encoded {
            BASE64_STANDARD.decode(body).map_err(|error| error.to_string())?
        } else {
            body.into_bytes()
        };
        let builder = HttpResponse::builder().status(answer.status_code);
        let builder = answer.headers.iter().fold(builder, |builder, (name, value)| builder.header(name, value));
        builder.body(HttpBody::from(body)).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use axum::{Json, Router, body::to_bytes, extract::Path, routing::post};
    use serde_json::json;

    use super::*;

    /// Starts an endpoint whose functions respond with their name and the event's route.
    async fn endpoint() -> Remote {
        let answer = async |Path(function): Path<String>, Json(event): Json<Value>| {
            let body = BASE64_STANDARD.encode(format!("{function} {}", event["routeKey"].as_str().unwrap_or_default()));
            let headers = json!({ "x-kind": "teapot" });
            Json(json!({ "statusCode": 418, "headers": headers, "body": body, "isBase64Encoded": true, "cookies": [] }))
        };
        let router = Router::new()
            .route("/2015-03-31/functions/broken/invocations", post(async || axum::http::StatusCode::BAD_GATEWAY))
            .route("/2015-03-31/functions/{function}/invocations", post(answer));
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Remote::new(&url).unwrap()
    }

    #[tokio::test]
    async fn the_response_of_a_remote_function_is_passed_on_unchanged() {
        let answered = endpoint().await.invoke("join", &json!({ "routeKey": "POST /join" })).await.unwrap();
        assert_eq!((answered.status().as_u16(), &answered.headers()["x-kind"]), (418, &"teapot".parse().unwrap()));
        assert_eq!(to_bytes(answered.into_body(), 100).await.unwrap(), "join POST /join");
    }

    #[tokio::test]
    async fn the_error_of_a_failed_remote_function_names_the_function() {
        let error = endpoint().await.invoke("broken", &json!({})).await.err().unwrap();
        assert!(error.starts_with("broken: ") && error.contains("502"), "{error}");
    }
}
