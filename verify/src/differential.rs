//! The domain's `apply` against DynamoDB's language: the same write, on the same image, in memory and on a real engine.
//!
//! Random images and random writes that lean towards them, so that both outcomes are frequent. On each engine the item
//! afterwards, the outcome and the image that a refusal brings must be what `apply` says. The engine is the embedded one;
//! with `OWMM_TEST_DYNAMODB=URL` that one too. This ties the model, which runs `apply`, to what the functions send.

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

/// Where a second engine listens.
const ANOTHER: &str = "OWMM_TEST_DYNAMODB";

/// Differences that are printed; the others are counted.
const SHOWN: usize = 10;

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The engine does not start.
    #[error(transparent)]
    Engine(#[from] local::Error),
    /// The table gives no answer.
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
        // So that runs side by side on one engine do not meet.
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

/// How often a write took, and how often it was refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// It took.
    pub taken: u64,
    /// The condition refused it.
    pub refused: u64,
}

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// By kind of write.
    pub writes: BTreeMap<String, Count>,
    /// What did not agree.
    pub differences: Vec<String>,
}

impl Compared {
    fn note(&mut self, of: &str, write: &impl std::fmt::Debug, taken: bool) {
        let text = format!("{write:?}");
        let variant = text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
        let count = self.writes.entry(format!("{of} {variant}")).or_default();
        *if taken { &mut count.taken } else { &mut count.refused } += 1;
    }

    /// Writes that have been seen with one outcome only.
    pub fn one_sided(&self) -> impl Iterator<Item = &str> {
        let one = self.writes.iter().filter(|(_, count)| count.taken == 0 || count.refused == 0);
        one.map(|(write, _)| write.as_str())
    }
}

/// One comparison: puts the image, writes, and looks. `$read` and `$write` are the table's.
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
    // A fleet that is not there reads as one that has counted nothing.
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
            "fleet",
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

/// Compares on as many seeds, from the first on. `progress` is told how many are done.
///
/// # Errors
/// An engine gives no answer, or takes a write for malformed.
pub async fn compare(first: u64, seeds: u64, mut progress: impl FnMut(u64)) -> Result<Compared, Error> {
    let engine = Engine::start(None)?;
    let mut places = vec![Place::at("the embedded engine", &engine.url()).await?];
    if let Ok(url) = std::env::var(ANOTHER) {
        places.push(Place::at("the other engine", &url).await?);
    }
    let mut compared = Compared::default();
    for seed in first..first.saturating_add(seeds) {
        one(&places, seed, &mut compared).await?;
        progress(seed - first + 1);
    }
    for place in places {
        // Nobody else knows this table; if it cannot be deleted, the engine is gone, and the table with it.
        let _ = place.client.delete_table().table_name(place.table.name()).send().await;
    }
    Ok(compared)
}

/// Compares, and tells. One seed alone sees most writes with one outcome only; of more, that is a violation.
pub fn run(first: u64, seeds: u64) -> Verdict {
    let mut progress = Progress::default();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report::failed(&error),
    };
    let reply = |done: u64| progress.say(|| format!("{} of {} seeds", grouped(done), grouped(seeds)));
    let compared = match runtime.block_on(compare(first, seeds, reply)) {
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
        print(&format!("too few seeds, seen with one outcome only: {}", one_sided.join(", ")));
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

    /// Writes of the four kinds of items.
    const WRITES: usize = 20 + 4 + 7 + 8;

    #[tokio::test]
    async fn every_write_comes_to_the_same_in_memory_and_on_the_engine() {
        let compared = compare(0, 1_500, |_| {}).await.unwrap();
        assert_eq!(compared.differences, Vec::<String>::new());
        assert_eq!(compared.writes.len(), WRITES, "{:?}", compared.writes);
        assert_eq!(compared.one_sided().collect::<Vec<_>>(), Vec::<&str>::new());
    }

    #[tokio::test]
    async fn injected_bugs_are_in_both_faces_of_a_write() {
        // Or a check of one face would find what the other does not have.
        for bug in Bug::ALL {
            let _in_the_code = inject(Some(bug));
            assert_eq!(compare(0, 60, |_| {}).await.unwrap().differences, Vec::<String>::new(), "{bug:?}");
        }
    }
}
