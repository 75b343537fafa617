//! What a run is made against: a stack in this process, or one that runs already. Either way a pool of its own.

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

/// Nobody connects in a load run and nobody beats, so reservations and leases have to outlast it.
const OUTLASTS_A_RUN: Span = Span::seconds(3_600);
/// What the functions tell a player over HTTP; whoever calls the operation itself has to know it.
const POLL_AFTER: Duration = Duration::from_secs(1);
const BUSY_AFTER: Duration = Duration::from_secs(1);
const FULL_AFTER: Duration = Duration::from_secs(5);
/// Where the servers say that they listen.
const ENDPOINT: (&str, u16) = ("127.0.0.1", 7777);
/// Registrations of one server before it is given up.
const REGISTER_TRIES: u32 = 20;

/// What a run is made against.
pub(crate) struct World {
    /// The pool of this run.
    pub(crate) pool: PoolName,
    /// Its limits.
    pub(crate) limits: PoolLimits,
    /// The table, as OWMM sees it.
    pub(crate) table: Table,
    /// The table's name.
    pub(crate) table_name: String,
    /// The client of the table; in this process, the one that OWMM uses.
    pub(crate) client: Client,
    /// How players and servers reach OWMM.
    pub(crate) door: Arc<Door>,
    /// The stack, if it is in this process.
    pub(crate) stack: Option<Stack>,
    /// The table is this run's alone, in an engine that outlives it.
    drop_table: bool,
}

/// How players and servers reach OWMM.
pub(crate) enum Door {
    /// Over HTTP.
    Http {
        /// The gateway.
        url: String,
        /// The pool to name, if it is not the default.
        pool: Option<PoolName>,
        /// The client.
        http: reqwest::Client,
    },
    /// By calling the operations.
    Calls(Box<Owmm>),
}

/// What a player is told.
pub(crate) enum Reply {
    /// A slot on a server that runs.
    Ready(String),
    /// A slot on a server that starts, and when to ask again.
    Starting(String, Duration),
    /// No slot, for this reason, and when to ask again. Nothing is held.
    Refused(String, Duration),
    /// No slot, or nobody knows: it may be asked again then.
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
    /// Makes a world for one run; `name` is nobody else's.
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
            // A run is shorter than that, and measures joins.
            reconcile_every: Duration::from_secs(3_600),
            functions: None,
        };
        let stack = Stack::start(options).await?;
        let door = match args.over {
            Over::Http => Door::Http { url: stack.url().to_owned(), pool: None, http: demo::http_client()? },
            Over::Calls => Door::Calls(Box::new(stack.owmm().clone())),
        };
        Ok(Self {
            pool: PoolName::parse(stack::POOL)?,
            limits: limits(args),
            table: stack.owmm().table().clone(),
            table_name,
            client: stack.dynamodb().clone(),
            door: Arc::new(door),
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
        let door = Door::Http { url, pool: Some(pool.name.clone()), http: demo::http_client()? };
        Ok(Self {
            pool: pool.name,
            limits: pool.limits,
            table,
            table_name: table_name.to_owned(),
            client,
            door: Arc::new(door),
            stack: None,
            drop_table: false,
        })
    }

    /// Opens as many connections as there will be calls at once: neither the joins nor the floor should pay for them.
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

    /// Ends everything that was started for the run.
    pub(crate) async fn close(self) {
        if self.drop_table
            && let Err(error) = self.client.delete_table().table_name(&self.table_name).send().await
        {
            say(&format!("the table {} is left behind: {error}", self.table_name));
        }
        if let Some(stack) = self.stack {
            stack.stop().await;
        }
    }
}

/// A client as the local stack makes its own: DynamoDB Local keeps a table set for each key and region.
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

impl Door {
    /// One join of one player.
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

    /// A dedicated server registers itself. Safe to repeat, and repeated.
    pub(crate) async fn register(&self, server: &ServerId, token: &str) -> Result<(), Error> {
        let mut why = String::new();
        for _ in 0..REGISTER_TRIES {
            match self.register_once(server, token).await {
                Ok(()) => return Ok(()),
                Err((said_no, reason)) if said_no => return Err(Error::Server(server.clone(), reason)),
                Err((_, reason)) => why = reason,
            }
            tokio::time::sleep(BUSY_AFTER).await;
        }
        Err(Error::Server(server.clone(), why))
    }

    /// If not, whether that is final, and why.
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
                let hello = Registration { endpoint, capacity: None, metadata: std::collections::BTreeMap::new() };
                match owmm.register_server(TokenHash::of(token), server, hello).await {
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
            // `busy` is also what a lost answer of the table comes to.
            code => Reply::Unclear(code.to_owned(), after),
        },
        demo::Failure::NoAnswer(_) => Reply::Unclear("no answer".to_owned(), after),
        demo::Failure::Unsendable(why) => Reply::Unclear(why.clone(), after),
    }
}
