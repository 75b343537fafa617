//! Configuration of the server from environment variables. This module owns their names and valid values.

use std::{ops::RangeInclusive, time::Duration};

use super::address::{Address, Services};
use crate::{http::is_id, secret::Secret};

/// Configuration of a game server. OWMM sets the first five variables for every task, on a laptop and on AWS.
///
/// | variable | value |
/// |---|---|
/// | `OWMM_URL` | OWMM's URL, `http://` or `https://` |
/// | `OWMM_SERVER_ID` | the server's id |
/// | `OWMM_SERVER_TOKEN` | the server's secret, which authenticates its calls and from which the key of tickets is derived |
/// | `OWMM_POOL` | the server's pool |
/// | `OWMM_CAPACITY` | most players that may be connected |
/// | `OWMM_ADDRESS` | optional: the address for players. `auto`: the source address of the registration; `interface`: the public address of the network interface or host, from AWS; otherwise a name or an address. Default: loopback |
/// | `OWMM_PORTS` | optional: `FROM-TO`; the server listens on the first free port of the range. Default: any free port |
/// | `OWMM_DEMO_GRACE_SECONDS` | optional: how long a slot is kept for a player whose connection dropped. Default: 0, the slot is freed at once |
///
/// Switches for drills and tests:
///
/// | variable | effect |
/// |---|---|
/// | `OWMM_DEMO_EXIT_BEFORE_REGISTER=1` | the process exits at once with code 3, like a broken build |
/// | `OWMM_DEMO_START_MS` | the server waits this long before it registers, like a server that loads a map |
#[derive(Debug, Clone)]
pub struct Config {
    /// `OWMM_URL`, without a trailing slash.
    pub url: String,
    /// `OWMM_SERVER_ID`.
    pub server_id: String,
    /// `OWMM_SERVER_TOKEN`.
    pub token: Secret,
    /// `OWMM_POOL`.
    pub pool: String,
    /// `OWMM_CAPACITY`.
    pub capacity: u32,
    /// `OWMM_ADDRESS`.
    pub address: Address,
    /// `OWMM_PORTS`; 0 is any free port.
    pub ports: RangeInclusive<u16>,
    /// AWS services that know the public address.
    pub services: Services,
    /// `OWMM_DEMO_GRACE_SECONDS`.
    pub grace_seconds: u32,
    /// `OWMM_DEMO_EXIT_BEFORE_REGISTER`.
    pub exit_before_register: bool,
    /// `OWMM_DEMO_START_MS`.
    pub start_delay: Duration,
}

/// A variable is missing or invalid. The error does not quote the value, which may be the token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable} must be {expected}, but {}", if *set { "has another value" } else { "is not set" })]
pub struct ConfigError {
    /// Name of the variable.
    pub variable: &'static str,
    /// Description of valid values.
    pub expected: &'static str,
    /// Whether the variable is set.
    pub set: bool,
}

impl Config {
    /// Reads the environment of this process.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::from_variables(|variable| std::env::var(variable).ok())
    }

    fn from_variables(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let env = Variables { lookup };
        Ok(Self {
            url: env.required("OWMM_URL", "an http:// or https:// URL", url)?,
            server_id: env.required("OWMM_SERVER_ID", NAME, name)?,
            token: env.required("OWMM_SERVER_TOKEN", "visible ASCII without spaces", token)?,
            pool: env.required("OWMM_POOL", NAME, name)?,
            capacity: env.required("OWMM_CAPACITY", "a number of 1 or more", |text| number(text).filter(|n| *n > 0))?,
            address: env.optional("OWMM_ADDRESS", ADDRESS, address)?.unwrap_or(Address::Loopback),
            ports: env.optional("OWMM_PORTS", PORTS, ports)?.unwrap_or(0..=0),
            services: Services::from_variables(&env.lookup),
            grace_seconds: env.optional("OWMM_DEMO_GRACE_SECONDS", NUMBER, number)?.unwrap_or(0),
            exit_before_register: env.optional("OWMM_DEMO_EXIT_BEFORE_REGISTER", "1, or not be set", switch)?.is_some(),
            start_delay: env.optional("OWMM_DEMO_START_MS", NUMBER, number)?.map_or(Duration::ZERO, milliseconds),
        })
    }
}

/// Source of variables: the environment, or a replacement in a test, because a test cannot safely set environment
/// variables while threads run.
struct Variables<F> {
    lookup: F,
}

impl<F: Fn(&str) -> Option<String>> Variables<F> {
    fn optional<T>(
        &self,
        variable: &'static str,
        expected: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(text) = (self.lookup)(variable) else { return Ok(None) };
        parse(&text).map(Some).ok_or(ConfigError { variable, expected, set: true })
    }

    fn required<T>(
        &self,
        variable: &'static str,
        expected: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<T, ConfigError> {
        self.optional(variable, expected, parse)?.ok_or(ConfigError { variable, expected, set: false })
    }
}

const NAME: &str = "1 to 64 characters of A-Z a-z 0-9 . _ : -, and not one or two dots only";
const NUMBER: &str = "a number";
const ADDRESS: &str = "auto, interface, or 1 to 255 visible ASCII characters without blanks";
const PORTS: &str = "FROM-TO, with 1 <= FROM <= TO <= 65535";

fn url(text: &str) -> Option<String> {
    let url = reqwest::Url::parse(text).ok()?;
    let plain = matches!(url.scheme(), "http" | "https") && url.query().is_none() && url.fragment().is_none();
    plain.then(|| text.trim_end_matches('/').to_owned())
}

fn name(text: &str) -> Option<String> {
    is_id(text, 64, "._:-").then(|| text.to_owned())
}

/// Parses a token, which must be a valid HTTP header value.
fn token(text: &str) -> Option<Secret> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())).then(|| text.into())
}

fn number(text: &str) -> Option<u32> {
    text.parse().ok()
}

fn address(text: &str) -> Option<Address> {
    Some(match text {
        "auto" => Address::Auto,
        "interface" => Address::Interface,
        name if (1..=255).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Address::Named(name.to_owned())
        }
        _ => return None,
    })
}

fn ports(text: &str) -> Option<RangeInclusive<u16>> {
    let (from, to) = text.split_once('-')?;
    let (from, to) = (from.parse().ok()?, to.parse().ok()?);
    (1..=to).contains(&from).then_some(from..=to)
}

fn switch(text: &str) -> Option<()> {
    (text == "1").then_some(())
}

fn milliseconds(ms: u32) -> Duration {
    Duration::from_millis(ms.into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use super::*;

    const GOOD: [(&str, &str); 5] = [
        ("OWMM_URL", "http://127.0.0.1:9000/"),
        ("OWMM_SERVER_ID", "01K5ZWT9V3"),
        ("OWMM_SERVER_TOKEN", "s3cret"),
        ("OWMM_POOL", "default"),
        ("OWMM_CAPACITY", "50"),
    ];

    /// Reads the valid environment with one variable changed, or removed.
    fn read(variable: &str, value: Option<&str>) -> Result<Config, ConfigError> {
        Config::from_variables(|name| match GOOD.iter().find(|(good, _)| *good == name) {
            _ if name == variable => value.map(str::to_owned),
            Some((_, good)) => Some((*good).to_owned()),
            None => None,
        })
    }

    #[test]
    fn the_variables_that_owmm_sets_for_a_task_are_sufficient() {
        let config = read("", None).unwrap();
        assert_eq!(config.url, "http://127.0.0.1:9000");
        assert_eq!((config.server_id.as_str(), config.token.expose()), ("01K5ZWT9V3", "s3cret"));
        assert_eq!((config.pool.as_str(), config.capacity), ("default", 50));
        assert_eq!((config.grace_seconds, config.exit_before_register, config.start_delay), (0, false, Duration::ZERO));
    }

    #[test]
    fn the_address_and_ports_are_read() {
        assert_eq!(read("", None).unwrap().address, Address::Loopback);
        for (text, address) in [
            ("auto", Address::Auto),
            ("interface", Address::Interface),
            ("eu-1.example.com", Address::Named("eu-1.example.com".into())),
        ] {
            assert_eq!(read("OWMM_ADDRESS", Some(text)).unwrap().address, address, "{text}");
        }
        assert_eq!(read("", None).unwrap().ports, 0..=0);
        assert_eq!(read("OWMM_PORTS", Some("7777-7876")).unwrap().ports, 7777..=7876);
    }

    #[test]
    fn the_demo_switches_are_read() {
        assert_eq!(read("OWMM_DEMO_GRACE_SECONDS", Some("30")).unwrap().grace_seconds, 30);
        assert!(read("OWMM_DEMO_EXIT_BEFORE_REGISTER", Some("1")).unwrap().exit_before_register);
        assert_eq!(read("OWMM_DEMO_START_MS", Some("250")).unwrap().start_delay, Duration::from_millis(250));
    }

    #[test]
    fn the_error_for_a_missing_variable_has_its_name() {
        for (variable, _) in GOOD {
            let error = read(variable, None).unwrap_err();
            assert_eq!((error.variable, error.set), (variable, false), "{variable}");
            assert!(error.to_string().starts_with(variable) && error.to_string().ends_with("is not set"), "{error}");
        }
    }

    #[test]
    fn the_error_for_an_invalid_value_has_the_variables_name_and_not_the_value() {
        for (variable, value) in [
            ("OWMM_URL", "localhost:9000"),
            ("OWMM_URL", "ftp://SHOWN"),
            ("OWMM_URL", "http://x/?SHOWN"),
            ("OWMM_SERVER_ID", "SHOWN/"),
            ("OWMM_SERVER_ID", ".."),
            ("OWMM_SERVER_TOKEN", ""),
            ("OWMM_SERVER_TOKEN", "SHOWN SHOWN"),
            ("OWMM_SERVER_TOKEN", "SHOWN\n"),
            ("OWMM_POOL", ""),
            ("OWMM_CAPACITY", "0"),
            ("OWMM_CAPACITY", "-1"),
            ("OWMM_CAPACITY", "SHOWN"),
            ("OWMM_ADDRESS", ""),
            ("OWMM_ADDRESS", "SHOWN SHOWN"),
            ("OWMM_PORTS", "7777"),
            ("OWMM_PORTS", "0-1"),
            ("OWMM_PORTS", "2-1"),
            ("OWMM_PORTS", "1-65536"),
            ("OWMM_DEMO_GRACE_SECONDS", "1s"),
            ("OWMM_DEMO_EXIT_BEFORE_REGISTER", "yes"),
            ("OWMM_DEMO_START_MS", "4294967296"),
        ] {
            let error = read(variable, Some(value)).unwrap_err();
            assert_eq!((error.variable, error.set), (variable, true), "{value}");
            assert!(error.to_string().starts_with(variable) && !error.to_string().contains("SHOWN"), "{error}");
        }
    }

    #[test]
    fn debug_output_of_the_configuration_does_not_have_the_token() {
        assert!(!format!("{:?}", read("", None).unwrap()).contains("s3cret"));
    }
}
