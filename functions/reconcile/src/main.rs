//! The Lambda function `reconcile`: configuration, clients, run.

use lambda_http::{
    Error,
    lambda_runtime::{LambdaEvent, run, service_fn},
};
use shared::config::{Config, connect, sdk};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    shared::telemetry::log_as_json();
    let (owmm, calls) = connect(env!("CARGO_PKG_NAME"), Config::from_env()?, &sdk().await);
    let (owmm, calls) = (&owmm, &calls);
    run(service_fn(async |_: LambdaEvent<reconcile::Tick>| {
        calls.told(reconcile::handle(owmm)).await.map_err(Error::from)
    }))
    .await
}
