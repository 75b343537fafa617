//! The stack and the pool of one run: a stack in this process, or one that already runs. Each run has a pool of its
//! own.

use std::{sync::Arc, time::Duration};

use aws_config::{BehaviorVersion, Region};
use aws_sdk_dynamodb::{
    Client,
    config::{Credentials, SharedCredentialsProvider},
};
use demo::player::{Joined, Player};
use local::{Options, Stack, cli::demo_game_server, stack};
use reqwest::StatusCode;
use serde_json::json;
use shared::{
    JoinOutcome, Owmm, Slot,
    domain::{Endpoint, NoSlot, PlayerId, PoolLimits, PoolName, Registration, Rollout, ServerId, Span, TokenHash},
    table::{Table, TableError},
};

use crate::{
    args::{Args, Over, Servers},
    error::Error,
    report::say,
};

/// Duration of reservations and leases. A load run has no connects and no heartbeats, so both must outlast it.
const OUTLASTS_A_RUN: Span = Span::seconds(3_600);
/// Pauses that the functions request in `Retry-After`. A caller of the operation itself gets no such header.
const POLL_AFTER: Duration = Duration::from_secs(1);
const BUSY_AFTER: Duration = Duration::from_secs(1);
const FULL_AFTER: Duration = Duration::from_secs(5);
/// Address and port that the servers register with.
const ENDPOINT: (&str, u16) = ("127.0.0.1", 7777);
/// Attempts to register one server.
const REGISTER_TRIES: u32 = 20;

/// The stack and the pool of one run.
pub(crate) struct World {
    /// The pool of this run.
    pub(crate) pool: PoolName,
    /// The pool's limits.
    pub(crate) limits: PoolLimits,
    /// The table, through OWMM's own operations.
    pub(crate) table: Table,
    /// The table's name.
    pub(crate) table_name: String,
    /// The DynamoDB client: OWMM's own if the stack is in this process.
    pub(crate) client: Client,
    /// How players and servers reach OWMM.
    pub(crate) api: Arc<Api>,
    /// The stack, if it is in this process.
    pub(crate) stack: Option<Stack>,
    /// Whether to delete the table at the end: it was created for this run, in an engine that outlives the run.
    drop_table: bool,
}

/// How players and servers reach OWMM.
pub(crate) enum Api {
    /// Over HTTP.
    Http {
        /// The gateway's URL.
        url: String,
        /// The pool to name in a join; none for the default pool.
        pool: Option<PoolName>,
        /// The client.
        http: reqwest::Client,
    },
    /// By calling OWMM's operations in this process.
    Calls(Box<Owmm>),
}

/// The reply to a join.
pub(crate) enum Reply {
    /// A slot on a running server: the server's id.
    Ready(String),
    /// A slot on a starting server: the server's id, and the pause before the next poll.
    Starting(String, Duration),
    /// No slot, and nothing is held: the problem code, and the pause before the next join.
    Refused(String, Duration),
    /// Unknown whether the player has a slot: the reason, and the pause before the next join.
    Unclear(String, Duration),
}

fn limits(args: &Args) -> PoolLimits {
    PoolLimits {
        capacity: args.capacity,
        max_servers: args.max_servers(),
        concurrent_launches: args.concurrent_launches,
        reservation: OUTLASTS_A_RUN,
        lease: OUTLASTS_A_RUN,
        ..PoolLimits::DEFAULT
    }
}

impl World {
    /// Creates the world of one run. `name` must be unique: it names the run's pool, or its table.
    pub(crate) async fn open(args: &Args, name: &str) -> Result<Self, Error> {
        match (&args.url, &args.dynamodb, &args.table) {
            (Some(url), Some(dynamodb), Some(table)) => Self::elsewhere(args, name, url, dynamodb, table).await,
            _ => Self::here(args, name).await,
        }
    }

    async fn here(args: &Args, name: &str) -> Result<Self, Error> {
        let table_name = if args.dynamodb.is_some() { name } else { stack::TABLE }.to_owned();
        let game_server = match args.servers {
            Servers::Hand => vec!["sleep".into(), "3600".into()],
            Servers::Real => demo_game_server()?,
        };
        let options = Options {
            port: 0,
            data: None,
            dynamodb: args.dynamodb.clone(),
            table: table_name.clone(),
            limits: limits(args),
            rollout: Rollout::Lazy,
            keeps_pool: false,
            pools: None,
            game_server,
            start_delay: Duration::from_millis(args.start_delay),
            // No reconcile run during a load run, which measures joins and takes less than an hour.
            reconcile_every: Duration::from_secs(3_600),
            functions: None,
        };
        let stack = Stack::start(options).await?;
        let api = match args.over {
            Over::Http => Api::Http { url: stack.url().to_owned(), pool: None, http: demo::http_client()? },
            Over::Calls => Api::Calls(Box::new(stack.owmm().clone())),
        };
        Ok(Self {
            pool: PoolName::parse(stack::POOL)?,
            limits: limits(args),
            table: stack.owmm().table().clone(),
            table_name,
            client: stack.dynamodb().clone(),
            api: Arc::new(api),
            stack: Some(stack),
            drop_table: args.dynamodb.is_some(),
        })
    }

    async fn elsewhere(args: &Args, name: &str, url: &str, dynamodb: &str, table_name: &str) -> Result<Self, Error> {
        let client = client(dynamodb).await;
        let table = Table::new(client.clone(), table_name.to_owned());
        let mut pool = match table.pool(&PoolName::parse(stack::POOL)?).await {
            Ok(Some(default)) => default,
            Ok(None) | Err(TableError::Broken(_)) => return Err(Error::NoStack),
            Err(busy) => return Err(busy.into()),
        };
        pool.name = PoolName::parse(name)?;
        pool.limits = limits(args);
        table.put_pool(&pool, None).await?;
        let url = url.trim_end_matches('/').to_owned();
        let api = Api::Http { url, pool: Some(pool.name.clone()), http: demo::http_client()? };
        Ok(Self {
            pool: pool.name,
            limits: pool.limits,
            table,
            table_name: table_name.to_owned(),
            client,
            api: Arc::new(api),
            stack: None,
            drop_table: false,
        })
    }

    /// Opens one connection per concurrent call, so that neither the joins nor the floor include the time to connect.
    pub(crate) async fn warm_up(&self, at_once: u32) -> Result<(), Error> {
        let mut reads = tokio::task::JoinSet::new();
        for _ in 0..at_once {
            let (table, pool) = (self.table.clone(), self.pool.clone());
            reads.spawn(async move { table.pool_status(&pool).await });
        }
        for read in reads.join_all().await {
            read?;
        }
        Ok(())
    }

    /// Deletes the run's table, if it has one, and stops the run's stack.
    pub(crate) async fn close(self) {
        if self.drop_table
            && let Err(error) = self.client.delete_table().table_name(&self.table_name).send().await
        {
            say(&format!("the table {} could not be deleted, delete it by hand: {error}", self.table_name));
        }
        if let Some(stack) = self.stack {
            stack.stop().await;
        }
    }
}

/// Creates a client with the same key and region as the local stack's, because DynamoDB Local has separate tables for
/// each pair of both.
async fn client(url: &str) -> Client {
    let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .timeout_config(shared::config::timeouts())
        .endpoint_url(url);
    if std::env::var_os("AWS_ACCESS_KEY_ID").is_none() {
        let local = Credentials::new("local", "local", None, None, "the local stack");
        loader = loader.credentials_provider(SharedCredentialsProvider::new(local));
    }
    if std::env::var_os("AWS_REGION").is_none() {
        loader = loader.region(Region::from_static("eu-central-1"));
    }
    Client::new(&loader.load().await)
}

impl Api {
    /// Sends one join of one player.
    pub(crate) async fn join(&self, player: &PlayerId) -> Reply {
        match self {
            Self::Http { url, pool, http } => {
                let pool = pool.as_ref().map(PoolName::as_str);
                match Player::new(url, player.as_str(), pool, http.clone()).join().await {
                    Ok(Joined::Ready(ready)) => Reply::Ready(ready.server),
                    Ok(Joined::Starting(starting)) => Reply::Starting(starting.server, starting.retry_after),
                    Err(failure) => refused(&failure),
                }
            }
            Self::Calls(owmm) => match owmm.join(player, None).await {
                Ok(JoinOutcome::Slot(Slot::Ready { server, .. })) => Reply::Ready(server.to_string()),
                Ok(JoinOutcome::Slot(Slot::Starting { server, .. })) => Reply::Starting(server.to_string(), POLL_AFTER),
                Ok(JoinOutcome::No(NoSlot::PoolFull)) => Reply::Refused("pool_full".into(), FULL_AFTER),
                Ok(JoinOutcome::No(NoSlot::LaunchPaused(until))) => {
                    let seconds = (until - owmm.time()).whole_seconds_up().unsigned_abs();
                    Reply::Refused("launch_paused".into(), Duration::from_secs(seconds))
                }
                Ok(JoinOutcome::No(NoSlot::Busy)) => Reply::Unclear("busy".into(), BUSY_AFTER),
                Ok(JoinOutcome::Elsewhere(pool)) => Reply::Unclear(format!("placed in {pool}"), BUSY_AFTER),
                Err(failure) => Reply::Unclear(failure.to_string(), BUSY_AFTER),
            },
        }
    }

    /// Registers a dedicated server, with retries: registering is safe to repeat.
    pub(crate) async fn register(&self, server: &ServerId, token: &str) -> Result<(), Error> {
        let mut why = String::new();
        for _ in 0..REGISTER_TRIES {
            match self.register_once(server, token).await {
                Ok(()) => return Ok(()),
                Err((refused, reason)) if refused => return Err(Error::Server(server.clone(), reason)),
                Err((_, reason)) => why = reason,
            }
            tokio::time::sleep(BUSY_AFTER).await;
        }
        Err(Error::Server(server.clone(), why))
    }

    /// Registers a server once. An error says whether OWMM refused, which makes a retry useless, and why.
    async fn register_once(&self, server: &ServerId, token: &str) -> Result<(), (bool, String)> {
        let (address, port) = ENDPOINT;
        match self {
            Self::Http { url, http, .. } => {
                let request = http.put(format!("{url}/servers/{server}")).bearer_auth(token);
                let answer = request.json(&json!({ "address": address, "port": port })).send().await;
                let answer = answer.map_err(|error| (false, error.to_string()))?;
                match answer.status() {
                    StatusCode::OK => Ok(()),
                    status => Err((status.is_client_error(), answer.text().await.unwrap_or_default())),
                }
            }
            Self::Calls(owmm) => {
                let endpoint = Endpoint { address: address.to_owned(), port };
                let registration =
                    Registration { endpoint, capacity: None, metadata: std::collections::BTreeMap::new() };
                match owmm.register_server(TokenHash::of(token), server, registration).await {
                    Ok(Ok(_)) => Ok(()),
                    Ok(Err(no)) => Err((true, format!("{no:?}"))),
                    Err(failure) => Err((false, failure.to_string())),
                }
            }
        }
    }
}

fn refused(failure: &demo::Failure) -> Reply {
    let after = failure.retry_after().unwrap_or(BUSY_AFTER);
    match failure {
        demo::Failure::Problem(problem) => match problem.code.as_str() {
            code @ ("pool_full" | "launch_paused") => Reply::Refused(code.to_owned(), after),
            // `busy` is also the code after a lost answer of the table, so the slot may have been claimed.
            code => Reply::Unclear(code.to_owned(), after),
        },
        demo::Failure::NoAnswer(_) => Reply::Unclear("no answer".to_owned(), after),
        demo::Failure::Unsendable(why) => Reply::Unclear(why.clone(), after),
    }
}
