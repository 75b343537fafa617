//! The address that players connect to.
//!
//! A process on AWS cannot read its public address locally: the address belongs to the task's network interface, or to
//! the host. The simplest solution is `auto`: OWMM takes the source address of the registration. [`public`] queries AWS
//! instead: the task metadata endpoint (version 4) for the interface, then EC2 for the interface's public address; with
//! host networking, the instance metadata service (version 2). This module does not depend on the use of the address.
//!
//! Tested with stubs of the three services, never on AWS.

use std::{
    error::Error,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use aws_credential_types::Credentials;
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SigningSettings, sign},
    sign::v4,
};
use reqwest::{Client, Method, RequestBuilder};
use serde::Deserialize;

use crate::http::reasons;

/// Time limit of one request. Link-local services answer at once or never; EC2 takes a little longer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Version of EC2's API, which has only one ("Query requests for Amazon EC2").
const EC2_VERSION: &str = "2016-11-15";

/// How the server determines its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// The loopback address: players on this machine only.
    Loopback,
    /// The source address of the registration.
    Auto,
    /// The public address of the task's network interface, or of the host.
    Interface,
    /// A configured host name or address.
    Named(String),
}

/// Why the address could not be determined.
#[derive(Debug, thiserror::Error)]
pub(super) enum AddressError {
    /// A service did not answer, or refused the request.
    #[error("{what} did not answer: {}", reasons(.source))]
    Http {
        /// Name of the service.
        what: &'static str,
        /// Cause.
        source: reqwest::Error,
    },
    /// The request cannot be signed.
    #[error("the request to EC2 cannot be signed: {0}")]
    Signing(String),
    /// An answer lacks the required value.
    #[error("{0}")]
    Missing(&'static str),
}

/// URLs of the AWS services that know the public address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Services {
    /// The task metadata endpoint; `None` outside ECS.
    pub task: Option<String>,
    /// The endpoint of the task role's credentials; `None` without a role.
    pub credentials: Option<String>,
    /// The instance metadata service.
    pub instance: String,
    /// EC2's API; `None` for the default endpoint of the region.
    pub ec2: Option<String>,
}

impl Services {
    /// Reads the URLs from the environment variables of a task.
    pub fn from_variables(get: impl Fn(&str) -> Option<String>) -> Self {
        // "Task IAM role" in the ECS developer guide: the address is always this one.
        let credentials =
            get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI").map(|path| format!("http://169.254.170.2{path}"));
        Self {
            task: get("ECS_CONTAINER_METADATA_URI_V4"),
            credentials,
            instance: "http://169.254.169.254".to_owned(),
            ec2: get("AWS_ENDPOINT_URL_EC2"),
        }
    }
}

/// Fields of "Task metadata v4" that this module reads.
#[derive(Deserialize)]
struct Task {
    #[serde(rename = "TaskARN")]
    arn: String,
    #[serde(rename = "Containers", default)]
    containers: Vec<Container>,
}

#[derive(Deserialize)]
struct Container {
    #[serde(rename = "Networks", default)]
    networks: Vec<Network>,
}

#[derive(Deserialize)]
struct Network {
    #[serde(rename = "NetworkMode")]
    mode: String,
    #[serde(rename = "MACAddress")]
    mac: Option<String>,
}

/// Answer of the credentials endpoint.
#[derive(Deserialize)]
struct Keys {
    #[serde(rename = "AccessKeyId")]
    id: String,
    #[serde(rename = "SecretAccessKey")]
    secret: String,
    #[serde(rename = "Token")]
    token: String,
}

async fn text(what: &'static str, request: RequestBuilder) -> Result<String, AddressError> {
    let answer = async { request.send().await?.error_for_status()?.text().await }.await;
    // The error must not have the URL, which locates the credentials.
    answer.map_err(|source| AddressError::Http { what, source: source.without_url() })
}

fn parse<'a, T: Deserialize<'a>>(text: &'a str, missing: &'static str) -> Result<T, AddressError> {
    serde_json::from_str(text).map_err(|_| AddressError::Missing(missing))
}

/// Returns the public address of this task's network interface, or of the host if the task has no interface of its own.
pub(super) async fn public(services: &Services) -> Result<IpAddr, AddressError> {
    let client = Client::builder().no_proxy().timeout(TIMEOUT).build();
    let http = client.map_err(|source| AddressError::Http { what: "the HTTP client", source })?;
    let Some(endpoint) = &services.task else { return of_instance(&http, &services.instance).await };
    let answer = text("the task metadata endpoint", http.get(format!("{endpoint}/task"))).await?;
    let task: Task = parse(&answer, "the task metadata cannot be read")?;
    let mut networks = task.containers.iter().flat_map(|container| &container.networks);
    match networks.find(|network| network.mode == "awsvpc") {
        Some(Network { mac: Some(mac), .. }) => of_interface(&http, services, &task.arn, mac).await,
        Some(_) => Err(AddressError::Missing("the task metadata has no MAC address")),
        None => of_instance(&http, &services.instance).await,
    }
}

/// Returns the public address of a network interface ("DescribeNetworkInterfaces" in the EC2 API reference).
async fn of_interface(http: &Client, services: &Services, task: &str, mac: &str) -> Result<IpAddr, AddressError> {
    let region = task.split(':').nth(3).ok_or(AddressError::Missing("the task's ARN names no region"))?;
    let endpoint = services.ec2.clone().unwrap_or_else(|| format!("https://ec2.{region}.amazonaws.com/"));
    let from =
        services.credentials.as_ref().ok_or(AddressError::Missing("the task has no role with which to call EC2"))?;
    let answer = text("the task role's credentials endpoint", http.get(from)).await?;
    let keys: Keys = parse(&answer, "the task role's credentials cannot be read")?;
    let body = format!(
        "Action=DescribeNetworkInterfaces&Version={EC2_VERSION}&Filter.1.Name=mac-address&Filter.1.Value.1={}",
        percent_encoding::utf8_percent_encode(mac, percent_encoding::NON_ALPHANUMERIC)
    );
    let headers = signature(&endpoint, region, keys, &body).map_err(AddressError::Signing)?;
    let mut request = http.request(Method::POST, &endpoint).body(body);
    request = request.header("content-type", "application/x-www-form-urlencoded");
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let answer = text("EC2", request).await?;
    // The answer has a fixed format, so a search for its only needed element replaces an XML parser.
    let found = answer.split_once("<publicIp>").and_then(|(_, rest)| rest.split_once("</publicIp>"));
    let address = found.and_then(|(address, _)| address.trim().parse().ok());
    address.ok_or(AddressError::Missing("the task's network interface has no public address"))
}

fn signature(endpoint: &str, region: &str, keys: Keys, body: &str) -> Result<Vec<(String, String)>, String> {
    let wrong = |error: &dyn Error| reasons(error);
    let identity = Credentials::new(keys.id, keys.secret, Some(keys.token), None, "the task's role").into();
    #[expect(clippy::disallowed_methods, reason = "a signature needs the real time")]
    let now = SystemTime::now();
    let settings = SigningSettings::default();
    let params = v4::SigningParams::builder().identity(&identity).region(region).name("ec2").time(now);
    let params = params.settings(settings).build().map_err(|error| wrong(&error))?.into();
    let headers = std::iter::once(("content-type", "application/x-www-form-urlencoded"));
    let request = SignableRequest::new("POST", endpoint, headers, SignableBody::Bytes(body.as_bytes()));
    let (signed, _) =
        sign(request.map_err(|error| wrong(&error))?, &params).map_err(|error| wrong(&error))?.into_parts();
    Ok(signed.headers().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

/// Returns the public address of the host ("Instance metadata", version 2, which needs a token first).
async fn of_instance(http: &Client, endpoint: &str) -> Result<IpAddr, AddressError> {
    const WHAT: &str = "the instance metadata service";
    let token = http.put(format!("{endpoint}/latest/api/token")).header("x-aws-ec2-metadata-token-ttl-seconds", "60");
    let token = text(WHAT, token).await?;
    let address = http.get(format!("{endpoint}/latest/meta-data/public-ipv4"));
    let address = text(WHAT, address.header("x-aws-ec2-metadata-token", token)).await?;
    address.trim().parse().map_err(|_| AddressError::Missing("the host has no public address"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use axum::{
        Router,
        http::{HeaderMap, StatusCode},
        routing::{get, post, put},
    };

    use super::*;

    /// Metadata of a task, shortened from "Task metadata v4 examples for tasks on Fargate".
    fn metadata(mode: &str) -> String {
        format!(
            r#"{{"Cluster": "owmm", "TaskARN": "arn:aws:ecs:eu-west-1:111122223333:task/owmm/cd18", "Family": "owmm-game-server",
                "Containers": [{{"Name": "game-server", "Networks": [{{"NetworkMode": "{mode}",
                "IPv4Addresses": ["192.0.2.3"], "AttachmentIndex": 0, "MACAddress": "0a:de:f6:10:51:e5"}}]}}]}}"#
        )
    }

    /// Stub of EC2: checks the format of the signature, and the filter.
    async fn interfaces(headers: HeaderMap, body: String) -> (StatusCode, String) {
        let header = |name: &str| headers.get(name).map_or("", |value| value.to_str().unwrap());
        let by = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/";
        let signed = header("authorization").starts_with(by)
            && header("authorization").contains("/eu-west-1/ec2/aws4_request")
            && header("authorization").contains("content-type")
            && header("x-amz-security-token") == "session"
            && !header("x-amz-date").is_empty();
        let asked = body.contains("Action=DescribeNetworkInterfaces") && body.contains("0a%3Ade%3Af6%3A10%3A51%3Ae5");
        if !signed {
            return (StatusCode::FORBIDDEN, "<Code>UnauthorizedOperation</Code>".into());
        }
        let found = "<association><ipOwnerId>amazon</ipOwnerId><publicIp>198.51.100.7</publicIp></association>";
        (StatusCode::OK, format!("<networkInterfaceSet>{}</networkInterfaceSet>", if asked { found } else { "" }))
    }

    async fn token(headers: HeaderMap) -> Result<&'static str, StatusCode> {
        headers.get("x-aws-ec2-metadata-token-ttl-seconds").map(|_| "a-token").ok_or(StatusCode::BAD_REQUEST)
    }

    async fn public_ipv4(headers: HeaderMap) -> Result<&'static str, StatusCode> {
        let shown = headers.get("x-aws-ec2-metadata-token").is_some_and(|token| token == "a-token");
        if shown { Ok("203.0.113.9") } else { Err(StatusCode::UNAUTHORIZED) }
    }

    /// Starts stubs of the three services on one socket, for a task with this network mode.
    async fn services(mode: &'static str) -> Services {
        let keys = r#"{"RoleArn": "r", "AccessKeyId": "AKIDEXAMPLE", "SecretAccessKey": "s", "Token": "session", "Expiration": "x"}"#;
        let router = Router::new()
            .route("/v4/id/task", get(async move || metadata(mode)))
            .route("/credentials", get(async move || keys))
            .route("/ec2", post(interfaces))
            .route("/latest/api/token", put(token))
            .route("/latest/meta-data/public-ipv4", get(public_ipv4));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Services {
            task: Some(format!("{url}/v4/id")),
            credentials: Some(format!("{url}/credentials")),
            ec2: Some(format!("{url}/ec2")),
            instance: url,
        }
    }

    #[tokio::test]
    async fn a_task_with_its_own_interface_gets_the_public_address_from_ec2() {
        assert_eq!(public(&services("awsvpc").await).await.unwrap().to_string(), "198.51.100.7");
    }

    #[tokio::test]
    async fn a_task_with_host_networking_and_a_process_outside_ecs_get_the_address_of_the_host() {
        let mut services = services("host").await;
        assert_eq!(public(&services).await.unwrap().to_string(), "203.0.113.9");
        services.task = None;
        assert_eq!(public(&services).await.unwrap().to_string(), "203.0.113.9");
    }

    #[tokio::test]
    async fn the_error_names_the_missing_service_without_the_credentials_url() {
        let mut around = services("awsvpc").await;
        around.credentials = Some(format!("{}/nothing-here", around.instance));
        let error = public(&around).await.unwrap_err().to_string();
        assert!(
            error.contains("credentials endpoint") && error.contains("404") && !error.contains("nothing"),
            "{error}"
        );
        around.credentials = None;
        assert!(public(&around).await.unwrap_err().to_string().contains("no role"));
        around.task = Some(format!("{}/nothing-here", around.instance));
        assert!(public(&around).await.unwrap_err().to_string().contains("task metadata endpoint"));
    }

    #[test]
    fn the_urls_of_the_services_come_from_the_tasks_environment() {
        let services = Services::from_variables(|name| match name {
            "ECS_CONTAINER_METADATA_URI_V4" => Some("http://169.254.170.2/v4/id".into()),
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI" => Some("/v2/credentials/id".into()),
            _ => None,
        });
        assert_eq!(services.task.as_deref(), Some("http://169.254.170.2/v4/id"));
        assert_eq!(services.credentials.as_deref(), Some("http://169.254.170.2/v2/credentials/id"));
        assert_eq!((services.instance.as_str(), services.ec2), ("http://169.254.169.254", None));
    }
}
