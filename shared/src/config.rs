//! The environment variables that a function reads, and the AWS clients that are built from them.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `OWMM_TABLE` | name of the DynamoDB table | none: must be set |
//! | `OWMM_DEFAULT_POOL` | pool of a join that names no pool | `default` |
//! | `OWMM_LOG` | log level | `info` |
//! | `AWS_ENDPOINT_URL_DYNAMODB`, `AWS_ENDPOINT_URL_ECS` | other endpoints, for local use | AWS |

use std::time::Duration;

use aws_config::{
    BehaviorVersion, SdkConfig,
    retry::RetryConfig,
    timeout::{TimeoutConfig, TimeoutConfigBuilder},
};

use crate::{
    Owmm,
    clock::{Clock, Rng},
    domain::PoolName,
    launching::Launcher,
    table::Table,
    telemetry::{Calls, Meter},
};

/// An environment variable is missing or has an invalid value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("set the environment variable {variable}: {problem}")]
pub struct ConfigError {
    variable: &'static str,
    problem: String,
}

/// The settings that a function reads from its environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Name of the DynamoDB table.
    pub table: String,
    /// Pool of a join that names no pool.
    pub default_pool: PoolName,
}

impl Config {
    /// Reads the settings from the environment.
    ///
    /// # Errors
    /// A variable is missing or has an invalid value; the error names the variable.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    fn from_variables(get: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let table = get("OWMM_TABLE").filter(|table| !table.is_empty());
        let default_pool = get("OWMM_DEFAULT_POOL").unwrap_or_else(|| "default".to_owned());
        Ok(Self {
            table: table
                .ok_or(ConfigError { variable: "OWMM_TABLE", problem: "the name of the DynamoDB table".into() })?,
            default_pool: PoolName::parse(&default_pool)
                .map_err(|bad| ConfigError { variable: "OWMM_DEFAULT_POOL", problem: bad.to_string() })?,
        })
    }
}

/// Timeouts of AWS calls: 1 s to connect, 3 s per attempt, 8 s per call.
///
/// The SDK has no attempt timeout of its own, so a hung connection would last until the function is killed. API Gateway
/// ends a request after 30 s; two calls that time out leave about half of that.
pub fn timeouts() -> TimeoutConfig {
    TimeoutConfigBuilder::new()
        .connect_timeout(Duration::from_secs(1))
        .operation_attempt_timeout(Duration::from_secs(3))
        .operation_timeout(Duration::from_secs(8))
        .build()
}

/// Retries of AWS calls: at most three attempts, with the SDK's standard backoff.
pub fn retries() -> RetryConfig {
    RetryConfig::standard().with_max_attempts(3)
}

/// Loads the SDK's configuration: region, credentials and endpoints from the environment, with [`timeouts`] and
/// [`retries`].
pub async fn sdk() -> SdkConfig {
    aws_config::defaults(BehaviorVersion::v2026_01_12()).timeout_config(timeouts()).retry_config(retries()).load().await
}

/// Creates OWMM with the clients that the SDK's configuration describes, and the recorder of the function's calls.
pub fn connect(function: &'static str, config: Config, sdk: &SdkConfig) -> (Owmm, Calls) {
    let (meter, clock) = (Meter::default(), Clock::system());
    let dynamodb = aws_sdk_dynamodb::config::Builder::from(sdk).interceptor(meter.clone()).build();
    let dynamodb = aws_sdk_dynamodb::Client::from_conf(dynamodb);
    let ecs = aws_sdk_ecs::Client::new(sdk);
    let owmm = assemble(config, dynamodb, ecs, clock.clone(), Rng::system());
    // Lambda's function name includes the stack's name, so the metrics of two stages in one account stay apart.
    let function = std::env::var("AWS_LAMBDA_FUNCTION_NAME").unwrap_or_else(|_| function.to_owned());
    (owmm, Calls::new(function, meter, clock))
}

/// Creates OWMM from its parts: clients, clock and random number generator.
pub fn assemble(
    config: Config,
    dynamodb: aws_sdk_dynamodb::Client,
    ecs: aws_sdk_ecs::Client,
    clock: Clock,
    rng: Rng,
) -> Owmm {
    let table = Table::new(dynamodb, config.table);
    let launcher = Launcher::new(ecs, table.clone(), clock.clone(), rng.clone());
    Owmm::new(table, launcher, clock, rng, config.default_pool)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_about_a_missing_variable_names_the_variable() {
        let error = Config::from_variables(|_| None).map(|_| ()).map_err(|error| error.to_string());
        assert_eq!(error, Err("set the environment variable OWMM_TABLE: the name of the DynamoDB table".to_owned()));
    }

    #[test]
    fn an_error_about_an_invalid_default_pool_names_the_variable() {
        let error = Config::from_variables(|name| Some(if name == "OWMM_TABLE" { "t" } else { "a b" }.to_owned()));
        assert!(error.is_err_and(|error| error.to_string().contains("OWMM_DEFAULT_POOL")));
    }
}
