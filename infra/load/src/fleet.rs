//! `load reconcile`: measures two reconcile runs over a large fleet. In the first every server needs a write, in the
//! second none does.
//!
//! The fleet is a table of ledgers without tasks, so ECS has none to list. On AWS the time of ECS comes on top: a run
//! lists and describes a hundred tasks per call.

use std::time::{Duration, Instant};

use aws_sdk_dynamodb::{
    Client,
    error::DisplayErrorContext,
    types::{PutRequest, WriteRequest},
};
use local::{Options, Stack, stack};
use shared::{
    Owmm, Pool,
    clock::{Clock, Rng},
    domain::{
        Claim, Endpoint, Fill, Ledger, Placement, PlayerId, PoolLimits, PoolName, PoolStatus, Rollout, ServerState,
        Span, Time, TokenHash,
    },
    table::{self, keys},
};

use crate::{
    args::ReconcileArgs,
    error::Error,
    report::{self, Figures, say},
};

/// Items of one BatchWriteItem at most ("BatchWriteItem" in the API reference).
const BATCH: usize = 25;
/// Lease of each server, longer than any run.
const LONG: Span = Span::seconds(86_400);

/// Measures `args.runs` times and returns the table of figures.
pub(crate) async fn reconcile(args: &ReconcileArgs) -> Result<String, Error> {
    let mut runs = Vec::new();
    for run in 1..=args.runs {
        say(&format!("run {run} of {}", args.runs));
        runs.push(one_run(args, run).await?);
    }
    let ReconcileArgs { servers, pools, players, .. } = args;
    let title =
        format!("one reconcile run over {servers} servers in {pools} pool(s), {players} connected players each");
    Ok(report::table(&title, &runs))
}

async fn one_run(args: &ReconcileArgs, run: u32) -> Result<Figures, Error> {
    let table = match args.dynamodb {
        Some(_) => format!("owmm-load-{}-{run}", Clock::system().now().0),
        None => stack::TABLE.to_owned(),
    };
    let stack = Stack::start(Options {
        port: 0,
        data: None,
        dynamodb: args.dynamodb.clone(),
        table: table.clone(),
        limits: PoolLimits::DEFAULT,
        rollout: Rollout::Lazy,
        keeps_pool: false,
        pools: None,
        game_server: vec!["sleep".into(), "3600".into()],
        start_delay: Duration::ZERO,
        reconcile_every: Duration::from_secs(3_600),
        functions: None,
    })
    .await?;
    let measured = measure(args, &stack, &table).await;
    if args.dynamodb.is_some()
        && let Err(error) = stack.dynamodb().delete_table().table_name(&table).send().await
    {
        say(&format!("the table {table} could not be deleted, delete it by hand: {error}"));
    }
    stack.stop().await;
    measured
}

async fn measure(args: &ReconcileArgs, stack: &Stack, table: &str) -> Result<Figures, Error> {
    say("  filling the table");
    fill(args, stack.owmm(), stack.dynamodb(), table).await?;
    let mut figures = Figures::default();
    for (key, label) in [("first", "all need a write"), ("second", "none needs a write")] {
        say(&format!("  measuring a reconcile run: {label}"));
        stack.meter().reset();
        report::forget_peak();
        let (_, before) = report::memory(None);
        let (begun, worked) = (Instant::now(), report::processor_time());
        let run = stack.owmm().reconcile().await.map_err(|error| Error::Reconcile(error.to_string()))?;
        let took = begun.elapsed().as_secs_f64();
        let worked = report::processor_time().zip(worked).map(|(after, before)| (after - before).as_secs_f64());
        let (peak, _) = report::memory(None);
        let usage = stack.meter().read();
        let repaired = run.repaired.values().sum::<u32>();
        let complete = run.servers == args.servers as usize && run.failed == 0;
        let expected = repaired == if key == "first" { args.servers } else { 0 };
        if !complete || !expected {
            return Err(Error::Reconcile(format!("the run had an unexpected outcome: {run:?}")));
        }
        let mut add = |name: &str, what: &str, decimals, value: Option<f64>| {
            figures.add(&format!("{key}{name}"), &format!("{label}: {what}"), decimals, value);
        };
        add("Seconds", "seconds", 1, Some(took));
        add("ProcessorSeconds", "processor time, s", 1, worked);
        add("Requests", "requests", 0, Some(usage.total_requests() as f64));
        add("ReadUnits", "read units", 0, Some(usage.read_units()));
        add("WriteUnits", "write units", 0, Some(usage.write_units()));
        add("PeakMb", "peak memory, MB", 1, peak);
        add(
            "MoreMb",
            "peak memory above the memory before, MB",
            1,
            peak.zip(before).map(|(peak, before)| peak - before),
        );
    }
    Ok(figures)
}

/// Fills the table with ready servers that the index does not list yet, so that the first run writes each of them.
async fn fill(args: &ReconcileArgs, owmm: &Owmm, client: &Client, table: &str) -> Result<(), Error> {
    let (now, rng) = (owmm.time(), Rng::system());
    let default = owmm.table().pool(&PoolName::parse(stack::POOL)?).await?.ok_or(Error::NoStack)?;
    let mut items = Vec::new();
    for k in 0..args.pools {
        let pool = Pool { name: PoolName::parse(&format!("pool-{k}"))?, ..default.clone() };
        let servers = args.servers / args.pools + u32::from(k < args.servers % args.pools);
        items.push(table::pool::to_item(&pool).map_err(|error| Error::Reconcile(error.to_string()))?);
        items.push(table::pool_status::to_item(&pool.name, &PoolStatus { live: servers, ..PoolStatus::default() }));
        for _ in 0..servers {
            let ledger = ready(&pool, args.players, now, &rng)?;
            items.push(keys::roster(&pool.name, &ledger.id));
            items.push(table::ledger::to_item(&ledger));
            while items.len() >= BATCH {
                write(client, table, items.drain(..BATCH).collect()).await?;
            }
        }
    }
    if items.is_empty() { Ok(()) } else { write(client, table, items).await }
}

fn ready(pool: &Pool, players: u32, now: Time, rng: &Rng) -> Result<Ledger, Error> {
    let claim = Placement::new(now.0).map(Claim::Connected);
    let connected = (0..players).map(|i| Ok((PlayerId::parse(&format!("player-0123456789-{i:04}"))?, claim)));
    let connected = connected.collect::<Result<Vec<_>, Error>>()?;
    let ledger = Ledger::new(rng.server_id(now), pool.name.clone(), &pool.limits, TokenHash::of(&rng.token()));
    Ok(Ledger {
        state: ServerState::Ready,
        claims: connected.into_iter().filter_map(|(player, claim)| Some((player, claim?))).collect(),
        lease_until: Some(now + LONG),
        seen: Some(now),
        ready_at: Some(now),
        endpoint: Some(Endpoint { address: "127.0.0.1".to_owned(), port: 7777 }),
        listed: None::<Fill>,
        ..ledger
    })
}

async fn write(client: &Client, table: &str, items: Vec<keys::Attributes>) -> Result<(), Error> {
    let put =
        |item| Ok(WriteRequest::builder().put_request(PutRequest::builder().set_item(Some(item)).build()?).build());
    let writes = items.into_iter().map(put).collect::<Result<Vec<_>, aws_sdk_dynamodb::error::BuildError>>();
    let writes = writes.map_err(|error| Error::Reconcile(error.to_string()))?;
    let answer = client.batch_write_item().request_items(table, writes).send().await;
    let answer = answer.map_err(|error| Error::Reconcile(DisplayErrorContext(error).to_string()))?;
    match answer.unprocessed_items().is_none_or(std::collections::HashMap::is_empty) {
        true => Ok(()),
        false => Err(Error::Reconcile("BatchWriteItem left items of the fleet unwritten".to_owned())),
    }
}
