//! The Lambda function `players`: configuration, clients, run.

use lambda_http::{Error, run, service_fn};
use shared::config::{Config, connect, sdk};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    shared::telemetry::log_as_json();
    let owmm = connect(Config::from_env()?, &sdk().await);
    run(service_fn(|request| players::handle(&owmm, request))).await
}
