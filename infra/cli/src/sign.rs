//! AWS credentials and signatures (Signature Version 4, service `execute-api`).
//!
//! Secrets stay in this module. The headers that it returns go to the API and are never printed, and its errors contain
//! no secret.

use std::{cell::RefCell, net::IpAddr, time::Duration};

use aws_config::{BehaviorVersion, Region};
use aws_credential_types::{
    Credentials,
    provider::{ProvideCredentials, SharedCredentialsProvider},
};
use aws_sigv4::{
    http_request::{PayloadChecksumKind, SignableBody, SignableRequest, SigningSettings, sign},
    sign::v4,
};
use reqwest::{Method, Url};

use crate::{args::Global, failure::Failure, show::system_time};

/// The service name of API Gateway in a signature.
const SERVICE: &str = "execute-api";
/// Key, secret and region for an API on loopback if none are given: the local stack accepts any signature.
const PLACEHOLDER: &str = "local";
/// Credentials that expire within this time are fetched again.
const FRESH: Duration = Duration::from_secs(60);

/// Signs requests with the operator's AWS credentials, and keeps these until shortly before they expire.
#[derive(Debug)]
pub(crate) struct Signer {
    provider: SharedCredentialsProvider,
    region: String,
    kept: RefCell<Option<Credentials>>,
}

impl Signer {
    /// Creates a signer with the credentials and the region of the command line, the URL and the AWS configuration.
    pub(crate) async fn new(global: &Global, url: &Url) -> Result<Self, Failure> {
        let by_url = url.host_str().and_then(region_of);
        let given = global.region.as_deref().or(by_url);
        let on_loopback = is_loopback(url);
        if on_loopback && global.profile.is_none() && variable("AWS_ACCESS_KEY_ID").is_none() {
            // The whole credential chain would query the network for an instance's credentials, which takes seconds,
            // and would use real credentials where none are needed.
            let placeholder = Credentials::new(PLACEHOLDER, PLACEHOLDER, None, None, "placeholder");
            let region = given.map(str::to_owned).or_else(|| variable("AWS_REGION"));
            return Ok(Self::of(
                SharedCredentialsProvider::new(placeholder),
                region.unwrap_or_else(|| PLACEHOLDER.into()),
            ));
        }
        let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12());
        if let Some(profile) = &global.profile {
            loader = loader.profile_name(profile);
        }
        if let Some(region) = given {
            loader = loader.region(Region::new(region.to_owned()));
        }
        let sdk = loader.load().await;
        let region = sdk.region().map(|region| region.as_ref().to_owned());
        let region = region.or_else(|| on_loopback.then(|| PLACEHOLDER.to_owned())).ok_or_else(|| {
            let why =
                "the API's AWS region is unknown.\n  hint: give it with `--region`, in AWS_REGION or in the profile";
            Failure::Usage(why.to_owned())
        })?;
        let provider = sdk.credentials_provider().ok_or_else(|| no_credentials("no provider"))?;
        Ok(Self::of(provider, region))
    }

    const fn of(provider: SharedCredentialsProvider, region: String) -> Self {
        Self { provider, region, kept: RefCell::new(None) }
    }

    /// Returns the region in the signatures.
    pub(crate) fn region(&self) -> &str {
        &self.region
    }

    async fn credentials(&self) -> Result<Credentials, Failure> {
        let kept = self.kept.borrow().clone();
        let soon = system_time() + FRESH;
        if let Some(kept) = kept.filter(|kept| kept.expiry().is_none_or(|expiry| expiry > soon)) {
            return Ok(kept);
        }
        let fetched = self.provider.provide_credentials().await.map_err(|error| no_credentials(&causes(&error)))?;
        self.kept.replace(Some(fetched.clone()));
        Ok(fetched)
    }

    /// Returns the headers that sign a request.
    pub(crate) async fn headers(
        &self,
        method: &Method,
        url: &Url,
        body: &[u8],
    ) -> Result<Vec<(String, String)>, Failure> {
        let wrong = |error: String| Failure::Usage(format!("the request cannot be signed: {error}"));
        let mut settings = SigningSettings::default();
        // API Gateway computes the hash from the body and does not need the header, which helps in debugging.
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        let identity = self.credentials().await?.into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name(SERVICE)
            .time(system_time())
            .settings(settings)
            .build()
            .map_err(|error| wrong(error.to_string()))?
            .into();
        let request =
            SignableRequest::new(method.as_str(), url.as_str(), std::iter::empty(), SignableBody::Bytes(body))
                .map_err(|error| wrong(error.to_string()))?;
        let (signed, _) = sign(request, &params).map_err(|error| wrong(error.to_string()))?.into_parts();
        Ok(signed.headers().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }
}

fn no_credentials(why: &str) -> Failure {
    Failure::Usage(format!(
        "there are no AWS credentials to sign with: {why}.\n  hint: name a profile with `--profile` or AWS_PROFILE, set \
         AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or log in again with `aws sso login`"
    ))
}

/// Returns the text of an error and of all its sources, separated by colons.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let chain = std::iter::successors(Some(error), |error| error.source());
    let mut texts = chain.map(ToString::to_string).collect::<Vec<_>>();
    texts.dedup();
    texts.join(": ")
}

/// Returns an environment variable; none if it is unset or empty.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Whether the URL's host is this machine's loopback interface.
pub(crate) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Returns the region in an API Gateway host name: `ID.execute-api.REGION.amazonaws.com`.
fn region_of(host: &str) -> Option<&str> {
    let (_, rest) = host.split_once(".execute-api.")?;
    let (region, domain) = rest.split_once('.')?;
    matches!(domain, "amazonaws.com" | "amazonaws.com.cn").then_some(region)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn only_hosts_on_this_machine_count_as_loopback() {
        for (url, is) in [
            ("http://127.0.0.1:9000", true),
            ("http://127.8.0.1", true),
            ("http://[::1]:9000", true),
            ("http://localhost:9000", true),
            ("http://localhost.example.com", false),
            ("http://127.0.0.1.example.com", false),
            ("https://10.0.0.1", false),
        ] {
            assert_eq!(is_loopback(&Url::parse(url).unwrap()), is, "{url}");
        }
    }

    #[test]
    fn the_region_is_read_from_an_api_gateway_host_name() {
        assert_eq!(region_of("abc123.execute-api.eu-west-1.amazonaws.com"), Some("eu-west-1"));
        assert_eq!(region_of("abc123.execute-api.cn-north-1.amazonaws.com.cn"), Some("cn-north-1"));
        assert_eq!(region_of("abc123.execute-api.eu-west-1.example.com"), None);
        assert_eq!(region_of("owmm.example.com"), None);
    }
}
