//! The Lambda function `servers`: configuration, clients, run.

use lambda_http::{Error, run, service_fn};
use shared::config::{Config, connect, sdk};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    shared::telemetry::log_as_json();
    let (owmm, calls) = connect(env!("CARGO_PKG_NAME"), Config::from_env()?, &sdk().await);
    run(service_fn(|request| calls.told(servers::handle(&owmm, request)))).await
}
