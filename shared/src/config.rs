//! What a function reads from its environment, and the clients that follow from it.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `OWMM_TABLE` | name of the table | none: must be set |
//! | `OWMM_DEFAULT_POOL` | the pool of a join that names none | `default` |
//! | `OWMM_LOG` | log level | `info` |
//! | `AWS_ENDPOINT_URL_DYNAMODB`, `AWS_ENDPOINT_URL_ECS` | other endpoints, for the laptop | AWS |

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

/// A variable that is missing or out of range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("set the environment variable {variable}: {problem}")]
pub struct ConfigError {
    variable: &'static str,
    problem: String,
}

/// What a function must be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The table's name.
    pub table: String,
    /// The pool of a join that names none.
    pub default_pool: PoolName,
}

impl Config {
    /// From the environment.
    ///
    /// # Errors
    /// A variable is missing or out of range; the error names it.
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

/// The SDK has no attempt timeout of its own, so a hung connection would last until the function dies. Half of API
/// Gateway's 30 s are left for everything else.
pub fn timeouts() -> TimeoutConfig {
    TimeoutConfigBuilder::new()
        .connect_timeout(Duration::from_secs(1))
        .operation_attempt_timeout(Duration::from_secs(3))
        .operation_timeout(Duration::from_secs(8))
        .build()
}

/// Three attempts.
pub fn retries() -> RetryConfig {
    RetryConfig::standard().with_max_attempts(3)
}

/// The SDK's configuration: region, credentials and endpoints as usual, our timeouts, three attempts.
pub async fn sdk() -> SdkConfig {
    aws_config::defaults(BehaviorVersion::v2026_01_12()).timeout_config(timeouts()).retry_config(retries()).load().await
}

/// OWMM over AWS, or over whatever the SDK's configuration points at; and who tells of the calls of that function.
pub fn connect(function: &'static str, config: Config, sdk: &SdkConfig) -> (Owmm, Calls) {
    let (meter, clock) = (Meter::default(), Clock::system());
    let dynamodb = aws_sdk_dynamodb::config::Builder::from(sdk).interceptor(meter.clone()).build();
    let dynamodb = aws_sdk_dynamodb::Client::from_conf(dynamodb);
    let ecs = aws_sdk_ecs::Client::new(sdk);
    let owmm = assemble(config, dynamodb, ecs, clock.clone(), Rng::system());
    // Lambda's name for it has the stack's in it, so that the metrics of two stages in one account stay apart.
    let function = std::env::var("AWS_LAMBDA_FUNCTION_NAME").unwrap_or_else(|_| function.to_owned());
    (owmm, Calls::new(function, meter, clock))
}

/// OWMM over these clients, with this clock and these dice.
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
    fn a_missing_variable_is_named() {
        let error = Config::from_variables(|_| None).map(|_| ()).map_err(|error| error.to_string());
        assert_eq!(error, Err("set the environment variable OWMM_TABLE: the name of the DynamoDB table".to_owned()));
    }

    #[test]
    fn a_pool_out_of_range_is_named() {
        let error = Config::from_variables(|name| Some(if name == "OWMM_TABLE" { "t" } else { "a b" }.to_owned()));
        assert!(error.is_err_and(|error| error.to_string().contains("OWMM_DEFAULT_POOL")));
    }
}
