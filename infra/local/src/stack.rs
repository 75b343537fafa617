//! The local stack: table, ECS, gateway and functions in one process, on loopback.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, time::Duration};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_dynamodb::config::{Credentials, SharedCredentialsProvider};
use ecs::LocalEcs;
use serde_json::Value;
use shared::{
    Owmm, Pool, TaskSettings,
    clock::{Clock, Rng},
    config::{Config, assemble, timeouts},
    domain::{PoolLimits, PoolName, Rollout},
    table::create_table,
    telemetry::Meter,
};
use tokio::{
    net::TcpListener,
    sync::broadcast::{Receiver, error::RecvError},
    task::JoinHandle,
};

use crate::{
    engine::Engine,
    error::Error,
    gateway,
    iam::{Iam, acting_as},
    pools_file,
    remote::Remote,
};

/// Name of the table.
pub const TABLE: &str = "owmm";
/// Name of the default pool: the pool of a join that names none.
pub const POOL: &str = "default";
/// Ports for game servers, below the range that operating systems assign to outgoing connections.
const PORTS: &str = "20000-29999";
/// Region for the SDK, which requires one. Its value does not matter on loopback.
const REGION: &str = "eu-central-1";

/// Options of the local stack.
#[derive(Clone, Debug)]
pub struct Options {
    /// The gateway's port; 0 takes a free one.
    pub port: u16,
    /// File of the table; in memory without one.
    pub data: Option<PathBuf>,
    /// DynamoDB endpoint to use instead of the embedded engine.
    pub dynamodb: Option<String>,
    /// The table's name.
    pub table: String,
    /// The default pool's limits.
    pub limits: PoolLimits,
    /// What happens to the default pool's servers when its task definition changes.
    pub rollout: Rollout,
    /// Whether pools that the table has already keep their settings, except for the URL that their servers call.
    pub keeps_pool: bool,
    /// File with pools, each a body of `PUT /pools/{pool}`. A pool named `default` replaces `limits` and `rollout`.
    pub pools: Option<PathBuf>,
    /// Program, with its arguments, that the local ECS starts for a task.
    pub game_server: Vec<OsString>,
    /// How long the local ECS waits before it starts a task's process.
    pub start_delay: Duration,
    /// Time between two reconcile runs.
    pub reconcile_every: Duration,
    /// Lambda endpoint of the functions that have routes. The functions for task events and the schedule, and without
    /// an endpoint all functions, run in this process.
    pub functions: Option<String>,
}

/// The running stack.
pub struct Stack {
    owmm: Owmm,
    ecs: LocalEcs,
    dynamodb: aws_sdk_dynamodb::Client,
    meter: Meter,
    url: String,
    dynamodb_url: String,
    ecs_url: String,
    servers: Vec<JoinHandle<()>>,
    _engine: Option<Engine>,
}

async fn listen(port: u16) -> Result<(TcpListener, SocketAddr), Error> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await.map_err(|error| Error::Port(port, error))?;
    let address = listener.local_addr().map_err(|error| Error::Port(port, error))?;
    Ok((listener, address))
}

fn serve(listener: TcpListener, router: axum::Router) -> JoinHandle<()> {
    tokio::spawn(async move {
        let service = router.into_make_service_with_connect_info::<SocketAddr>();
        if let Err(error) = axum::serve(listener, service).await {
            tracing::error!(%error, "HTTP listener has stopped serving");
        }
    })
}

/// Delivers task events as EventBridge does: passes each event to the function `task-stopped`, and retries failures.
async fn deliver(mut events: Receiver<Value>, owmm: Owmm) {
    loop {
        let event = match events.recv().await {
            Ok(event) => event,
            Err(RecvError::Lagged(missed)) => {
                tracing::warn!(missed, "task events lost: the receiver was too slow");
                continue;
            }
            Err(RecvError::Closed) => return,
        };
        let owmm = owmm.clone();
        tokio::spawn(async move {
            for pause in [100, 500, 2_000] {
                let Ok(event) = serde_json::from_value(event.clone()) else { return };
                match acting_as(functions::TASK_STOPPED.name, functions::task_stopped::handle(&owmm, event)).await {
                    Ok(()) => return,
                    Err(error) => tracing::warn!(%error, "task-stopped failed, delivering the event again"),
                }
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
        });
    }
}

/// Runs the function `reconcile` periodically, as EventBridge's schedule does.
async fn schedule(every: Duration, owmm: Owmm) {
    loop {
        tokio::time::sleep(every).await;
        if let Err(error) = acting_as(functions::RECONCILE.name, functions::reconcile::handle(&owmm)).await {
            tracing::warn!(%error, "reconcile run failed");
        }
    }
}

/// Returns whether `url` is an HTTP URL with a host. The SDK would fail only on the first request, with a worse
/// message.
pub(crate) fn is_endpoint(url: &str) -> bool {
    let uri = url.parse::<axum::http::Uri>().ok();
    uri.is_some_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some())
}

/// Returns the environment that the task definition of infra/servers.yaml would add: `OWMM_PORTS`, unless this process
/// has it set.
fn task_environment() -> Vec<(String, String)> {
    const NAME: &str = "OWMM_PORTS";
    if std::env::var_os(NAME).is_some() { Vec::new() } else { vec![(NAME.to_owned(), PORTS.to_owned())] }
}

async fn sdk() -> SdkConfig {
    let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12()).timeout_config(timeouts());
    if std::env::var_os("AWS_ACCESS_KEY_ID").is_none() {
        // Nothing on loopback checks credentials, and real ones must not be sent there.
        let local = Credentials::new("local", "local", None, None, "the local stack");
        loader = loader.credentials_provider(SharedCredentialsProvider::new(local));
    }
    if std::env::var_os("AWS_REGION").is_none() {
        loader = loader.region(Region::from_static(REGION));
    }
    loader.load().await
}

impl Stack {
    /// Starts every part of the stack, and logs the URL of each.
    ///
    /// # Errors
    /// A port is taken, or a file or an endpoint of `options` cannot be used.
    pub async fn start(options: Options) -> Result<Self, Error> {
        raise_open_files();
        if let Some(url) = options.dynamodb.as_ref().filter(|url| !is_endpoint(url)) {
            return Err(Error::Endpoint(url.clone()));
        }
        if let Some(url) = options.functions.as_ref().filter(|url| !is_endpoint(url)) {
            return Err(Error::FunctionsUrl(url.clone()));
        }
        let functions = options
            .functions
            .as_deref()
            .map(|url| Remote::new(url).map_err(|error| Error::Functions(url.to_owned(), error.to_string())));
        let functions = functions.transpose()?;
        let (gateway_listener, gateway_address) = listen(options.port).await?;
        let url = format!("http://{gateway_address}");
        let ecs_options = ecs::Options {
            start_delay: options.start_delay,
            environment: task_environment(),
            ..ecs::Options::new(options.game_server)
        };
        let task = TaskSettings {
            cluster: ecs_options.cluster.clone(),
            task_definition: "demo-game-server:1".into(),
            container: "game-server".into(),
            subnets: Vec::new(),
            security_groups: Vec::new(),
            assign_public_ip: false,
            launch_type: None,
            url: url.clone(),
        };
        let default_pool = PoolName::parse(POOL).map_err(|error| Error::Engine(error.to_string()))?;
        // The file is checked before anything starts.
        let mut pools = match &options.pools {
            Some(file) => pools_file::read(file, &task)?,
            None => Vec::new(),
        };
        if !pools.iter().any(|pool| pool.name == default_pool) {
            let (name, limits, rollout) = (default_pool.clone(), options.limits, options.rollout);
            pools.push(Pool {
                name,
                limits,
                task,
                rollout,
                version: 0,
                build: 0,
                shards: limits.concurrent_launches,
                previous_clusters: Vec::new(),
            });
        }
        let engine = match &options.dynamodb {
            Some(_) => None,
            None => Some(Engine::start(options.data.as_deref())?),
        };
        let dynamodb_url = match (&options.dynamodb, &engine) {
            (Some(url), _) => url.clone(),
            (None, Some(engine)) => engine.url(),
            (None, None) => return Err(Error::Engine("no engine and no endpoint".into())),
        };
        tracing::info!(url = dynamodb_url, "table engine ready");

        let ecs = LocalEcs::new(ecs_options);
        let (ecs_listener, ecs_address) = listen(0).await?;
        let ecs_url = format!("http://{ecs_address}");
        let mut servers = vec![serve(ecs_listener, ecs.router())];
        tracing::info!(url = ecs_url, "local ECS ready");

        let sdk = sdk().await;
        let (meter, iam) = (Meter::default(), Iam::deployed()?);
        let dynamodb_config = aws_sdk_dynamodb::config::Builder::from(&sdk)
            .endpoint_url(&dynamodb_url)
            .interceptor(meter.clone())
            .interceptor(iam.clone())
            .build();
        let dynamodb = aws_sdk_dynamodb::Client::from_conf(dynamodb_config);
        let ecs_config = aws_sdk_ecs::config::Builder::from(&sdk).endpoint_url(&ecs_url).interceptor(iam).build();
        create_table(&dynamodb, &options.table)
            .await
            .map_err(|error| Error::Table(dynamodb_url.clone(), error.to_string()))?;
        let owmm = assemble(
            Config { table: options.table, default_pool },
            dynamodb.clone(),
            aws_sdk_ecs::Client::from_conf(ecs_config),
            Clock::system(),
            Rng::system(),
        );
        for mut pool in pools {
            let failed = |error: shared::Failure| Error::Table(dynamodb_url.clone(), error.to_string());
            if options.keeps_pool
                && let Some(mut known) = owmm.table().pool(&pool.name).await.map_err(|error| failed(error.into()))?
            {
                tracing::info!(pool = %pool.name, "pool keeps the settings of the table");
                known.task.url = url.clone();
                pool = known;
            }
            owmm.configure(pool).await.map_err(failed)?;
        }
        servers.push(serve(gateway_listener, gateway::router(owmm.clone(), functions)));
        servers.push(tokio::spawn(deliver(ecs.events(), owmm.clone())));
        servers.push(tokio::spawn(schedule(options.reconcile_every, owmm.clone())));
        tracing::info!(url, "gateway ready");
        Ok(Self { owmm, ecs, dynamodb, meter, url, dynamodb_url, ecs_url, servers, _engine: engine })
    }

    /// The gateway's URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The table's endpoint.
    pub fn dynamodb_url(&self) -> &str {
        &self.dynamodb_url
    }

    /// The local ECS's endpoint.
    pub fn ecs_url(&self) -> &str {
        &self.ecs_url
    }

    /// The operations of OWMM that the functions call.
    pub const fn owmm(&self) -> &Owmm {
        &self.owmm
    }

    /// The local ECS.
    pub const fn ecs(&self) -> &LocalEcs {
        &self.ecs
    }

    /// The DynamoDB client of the functions.
    pub const fn dynamodb(&self) -> &aws_sdk_dynamodb::Client {
        &self.dynamodb
    }

    /// Meter of the functions' DynamoDB calls.
    pub const fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Stops the game servers, then the rest, so that each game server can still deregister at the gateway.
    pub async fn stop(self) {
        self.ecs.shutdown().await;
        for server in &self.servers {
            server.abort();
        }
    }
}

/// Raises the limit of open files: a thousand players need a few thousand sockets, and many shells allow only 1,024.
fn raise_open_files() {
    if let Err(error) = rlimit::increase_nofile_limit(1 << 16) {
        tracing::warn!(%error, "cannot raise the limit of open files: many concurrent connections may fail");
    }
}
