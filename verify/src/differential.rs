//! The differential test: applies the same write to the same image in memory, by `apply`, and on a real engine, by the
//! expression.
//!
//! Images and writes are random, and most writes match their image, so that both outcomes are frequent. On each engine
//! the outcome, the resulting item and the image in a refusal must equal those of `apply`. The engines are the embedded
//! one and, with `OWMM_TEST_DYNAMODB=URL`, a second one. The test shows that the model, which runs `apply`, has the
//! same writes as the functions, which send expressions.

mod any;

use std::collections::BTreeMap;

use aws_sdk_dynamodb::{
    Client,
    config::{BehaviorVersion, Credentials, Region},
};
use local::engine::Engine;
use shared::{
    clock::Rng,
    domain::Answer,
    table::{self, Table, create_table, keys},
};

use self::any::Any;
use crate::report::{self, Progress, Verdict, grouped, print};

/// Environment variable with the URL of a second engine.
const SECOND_ENGINE: &str = "OWMM_TEST_DYNAMODB";

/// Differences that are printed at most; the others are only counted.
const SHOWN: usize = 10;

/// An error that ends the comparison without a result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The embedded engine failed to start.
    #[error(transparent)]
    Engine(#[from] local::Error),
    /// A request to an engine failed, or the engine rejected a write as malformed.
    #[error("{0}: {1}")]
    Table(&'static str, String),
}

/// An engine with a table of its own.
struct Place {
    name: &'static str,
    client: Client,
    table: Table,
}

impl Place {
    async fn at(name: &'static str, url: &str) -> Result<Self, Error> {
        let config = aws_sdk_dynamodb::Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new("local", "local", None, None, "verify"))
            .endpoint_url(url)
            .build();
        let client = Client::from_conf(config);
        // A table name of its own, so that concurrent runs on one engine do not interfere.
        let table = format!("verify-{}", Rng::system().token());
        create_table(&client, &table).await.map_err(|error| Error::Table(name, error.to_string()))?;
        Ok(Self { name, table: Table::new(client.clone(), table), client })
    }

    async fn put(&self, key: keys::Attributes, item: Option<keys::Attributes>) -> Result<(), Error> {
        let failed = |error: String| Error::Table(self.name, error);
        match item {
            Some(item) => {
                let put = self.client.put_item().table_name(self.table.name()).set_item(Some(item));
                put.send().await.map(drop).map_err(|error| failed(format!("{error:?}")))
            }
            None => {
                let delete = self.client.delete_item().table_name(self.table.name()).set_key(Some(key));
                delete.send().await.map(drop).map_err(|error| failed(format!("{error:?}")))
            }
        }
    }
}

/// Number of applied and refused writes of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Writes whose condition held.
    pub taken: u64,
    /// Writes whose condition refused them.
    pub refused: u64,
}

/// The result of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Counts by kind of write.
    pub writes: BTreeMap<String, Count>,
    /// Descriptions of all cases in which an engine and `apply` differ.
    pub differences: Vec<String>,
}

impl Compared {
    fn note(&mut self, of: &str, write: &impl std::fmt::Debug, taken: bool) {
        let text = format!("{write:?}");
        let variant = text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
        let count = self.writes.entry(format!("{of} {variant}")).or_default();
        *if taken { &mut count.taken } else { &mut count.refused } += 1;
    }

    /// Returns the kinds of write that were seen with one outcome only.
    pub fn one_sided(&self) -> impl Iterator<Item = &str> {
        let one = self.writes.iter().filter(|(_, count)| count.taken == 0 || count.refused == 0);
        one.map(|(write, _)| write.as_str())
    }
}

/// Compares one write: puts the image, sends the write, reads the item, and notes a difference from `apply`.
macro_rules! compare {
    ($compared:ident, $seed:ident, $place:ident, $kind:literal, $image:expr, $write:expr, $key:expr, $item:expr, $send:expr, $read:expr) => {{
        let (image, write) = (&$image, &$write);
        $place.put($key, image.as_ref().map($item)).await?;
        let failed = |error: shared::table::TableError| Error::Table($place.name, format!("{write:?}: {error}"));
        let expected = match write.apply(image.as_ref()) {
            Some(new) => Answer::Written(new),
            None => Answer::Refused(image.clone()),
        };
        let answer = $send.await.map_err(failed)?;
        let stands = $read.await.map_err(failed)?;
        let left = match &expected {
            Answer::Written(new) => Some(new.clone()),
            Answer::Refused(old) => old.clone(),
        };
        $compared.note($kind, write, matches!(expected, Answer::Written(_)));
        if answer != expected || stands != left {
            $compared.differences.push(format!(
                "cargo run --release -p verify -- differential --seed {}\n{} on {}:\n  {write:?}\n  on {image:?}\n  apply says {expected:?}\n  the engine says {answer:?}\n  and then there is {stands:?}",
                $seed, $kind, $place.name
            ));
        }
    }};
}

async fn one(places: &[Place], seed: u64, compared: &mut Compared) -> Result<(), Error> {
    let mut any = Any::new(seed);
    let (server, player, pool) = (any.server(), any.player(), any.pool());
    let (ledger, seat, frontier, status) = (any.ledger(&server), any.seat(), any.frontier(), any.pool_status());
    let on_ledger = any.ledger_write(ledger.as_ref());
    let (on_seat, on_frontier) = (any.seat_write(seat.as_ref()), any.frontier_write(frontier.as_ref()));
    let on_status = any.pool_status_write(status.as_ref());
    // The table reads a missing pool status as a default one.
    let counted = status.is_some() || on_status.apply(None).is_some();
    for place in places {
        let table = &place.table;
        compare!(
            compared,
            seed,
            place,
            "ledger",
            ledger,
            on_ledger,
            keys::ledger(&server),
            table::ledger::to_item,
            table.write_ledger(&server, &on_ledger),
            table.ledger(&server)
        );
        compare!(
            compared,
            seed,
            place,
            "seat",
            seat,
            on_seat,
            keys::seat(&player),
            |seat| table::seat::to_item(&player, seat),
            table.write_seat(&player, &on_seat),
            table.seat(&player)
        );
        compare!(
            compared,
            seed,
            place,
            "frontier",
            frontier,
            on_frontier,
            keys::frontier(&pool, 0),
            |frontier| table::frontier::to_item(&pool, 0, frontier),
            table.write_frontier(&pool, 0, &on_frontier),
            table.frontier(&pool, 0)
        );
        compare!(
            compared,
            seed,
            place,
            "pool status",
            status,
            on_status,
            keys::pool_status(&pool),
            |status| table::pool_status::to_item(&pool, status),
            table.write_pool_status(&pool, &on_status),
            async { table.pool_status(&pool).await.map(|it| counted.then_some(it)) }
        );
    }
    Ok(())
}

/// Compares `seeds` seeds, beginning with `first`. Calls `progress` with the number of finished seeds.
///
/// # Errors
/// An engine gives no answer, or rejects a write as malformed.
pub async fn compare(first: u64, seeds: u64, mut progress: impl FnMut(u64)) -> Result<Compared, Error> {
    let engine = Engine::start(None)?;
    let mut places = vec![Place::at("the embedded engine", &engine.url()).await?];
    if let Ok(url) = std::env::var(SECOND_ENGINE) {
        places.push(Place::at("the second engine", &url).await?);
    }
    let mut compared = Compared::default();
    for seed in first..first.saturating_add(seeds) {
        one(&places, seed, &mut compared).await?;
        progress(seed - first + 1);
    }
    for place in places {
        // No other run uses this table, so a leftover after a failed delete does no harm.
        let _ = place.client.delete_table().table_name(place.table.name()).send().await;
    }
    Ok(compared)
}

/// Compares and prints a table. A kind of write with one outcome only is a violation, unless only one seed runs.
pub fn run(first: u64, seeds: u64) -> Verdict {
    let mut progress = Progress::default();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report::failed(&error),
    };
    let report_progress = |done: u64| progress.say(|| format!("{} of {} seeds", grouped(done), grouped(seeds)));
    let compared = match runtime.block_on(compare(first, seeds, report_progress)) {
        Ok(compared) => compared,
        Err(error) => return report::failed(&error),
    };
    let seconds = progress.elapsed().as_secs();
    drop(progress);
    for difference in compared.differences.iter().take(SHOWN) {
        print(difference);
    }
    let mut table = report::Table::new(["write", "taken", "refused"]);
    for (write, count) in &compared.writes {
        table.row([write.clone(), grouped(count.taken), grouped(count.refused)]);
    }
    print(&table);
    let one_sided = if seeds == 1 { Vec::new() } else { compared.one_sided().collect::<Vec<_>>() };
    if !one_sided.is_empty() {
        print(&format!("these writes had one outcome only, use more seeds: {}", one_sided.join(", ")));
    }
    let differ = compared.differences.len() as u64;
    let one_sided = one_sided.len();
    print(&format!(
        "{} seeds, {} differences, {one_sided} writes with one outcome only, {seconds} s",
        grouped(seeds),
        grouped(differ)
    ));
    Verdict::of(differ == 0 && one_sided == 0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use shared::domain::bug::{Bug, inject};

    use super::*;

    /// Number of writes: on a ledger, a seat, a frontier and a pool status.
    const WRITES: usize = 20 + 4 + 7 + 8;

    #[tokio::test]
    async fn every_write_has_the_same_result_in_memory_and_on_the_engine() {
        let compared = compare(0, 1_500, |_| {}).await.unwrap();
        assert_eq!(compared.differences, Vec::<String>::new());
        assert_eq!(compared.writes.len(), WRITES, "{:?}", compared.writes);
        assert_eq!(compared.one_sided().collect::<Vec<_>>(), Vec::<&str>::new());
    }

    #[tokio::test]
    async fn an_injected_bug_is_in_apply_and_in_the_expression_alike() {
        // Otherwise the model, which runs `apply`, would find bugs that the expression does not have.
        for bug in Bug::ALL {
            let _in_the_code = inject(Some(bug));
            assert_eq!(compare(0, 60, |_| {}).await.unwrap().differences, Vec::<String>::new(), "{bug:?}");
        }
    }
}
