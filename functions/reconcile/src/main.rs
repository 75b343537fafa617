//! The Lambda function `reconcile`: configuration, clients, run.

use lambda_http::{
    Error,
    lambda_runtime::{LambdaEvent, run, service_fn},
};
use shared::config::{Config, connect, sdk};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    shared::telemetry::log_as_json();
    let owmm = connect(Config::from_env()?, &sdk().await);
    let owmm = &owmm;
    run(service_fn(async |_: LambdaEvent<reconcile::Tick>| reconcile::handle(owmm).await.map_err(Error::from))).await
}
