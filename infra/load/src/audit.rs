//! The audit: reads the whole table and compares it with what the players were told. Trusts no counter but the local
//! ECS's, which is compared too.
//!
//! | must be | or else |
//! |---|---|
//! | a player who was told of a slot has a seat that names that server, and exactly one claim, there, under the seat's placement | a slot was promised twice, or not kept |
//! | nobody else has a claim, but for players whose last answer said nothing either way | a slot is lost |
//! | no ledger has more claims than slots | players would not fit |
//! | ledgers of servers that live are as many as the fleet counts | the limit of servers is wrong |
//! | each has a process, and no process is without one | servers that cost money and hold nobody |

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use aws_sdk_dynamodb::{error::DisplayErrorContext, types::AttributeValue};
use shared::{
    clock::Clock,
    domain::{Ledger, PlayerId, Seat, ServerState},
    table::{self, keys},
};

use crate::{
    args::Args,
    drive::{Driven, Last},
    error::Error,
    world::World,
};

/// A process is counted a moment after its task was asked for: looks at the count, and between two of them.
const LOOKS: u32 = 100;
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What the table says.
#[derive(Default)]
pub(crate) struct Audited {
    /// What must not be.
    pub(crate) violations: Vec<String>,
    /// Players who hold a slot.
    pub(crate) placed: usize,
    /// Claims on the fullest server.
    pub(crate) most_players: usize,
    /// Servers that OWMM has started for the run.
    pub(crate) started: usize,
}

/// The table of one run.
struct Books {
    ledgers: Vec<Ledger>,
    seats: HashMap<PlayerId, Seat>,
}

/// Audits a run.
pub(crate) async fn audit(world: &World, args: &Args, driven: &Driven) -> Result<Audited, Error> {
    let books = read(world).await?;
    let mut audited = Audited::default();
    claims(&books, driven, &mut audited);
    let prepared = args.prepared() as usize;
    let live = books.ledgers.iter().filter(|ledger| ledger.state != ServerState::Stopped).count();
    let status = world.table.pool_status(&world.pool).await?;
    if live != status.live as usize {
        audited.violations.push(format!("{live} servers live, and the fleet counts {}", status.live));
    }
    audited.started = books.ledgers.len().saturating_sub(prepared);
    processes(world, &books, prepared, &mut audited).await;
    Ok(audited)
}

fn claims(books: &Books, driven: &Driven, audited: &mut Audited) {
    let mut claims = BTreeMap::<&PlayerId, Vec<_>>::new();
    let now = Clock::system().now();
    for ledger in &books.ledgers {
        audited.most_players = audited.most_players.max(ledger.claims.len());
        if ledger.claims.len() > ledger.capacity as usize {
            let (claims, capacity) = (ledger.claims.len(), ledger.capacity);
            audited.violations.push(format!("server {} has {claims} claims on {capacity} slots", ledger.id));
        }
        for (player, claim) in ledger.claims.iter().filter(|(_, claim)| !ledger.is_over(**claim, now)) {
            claims.entry(player).or_default().push((&ledger.id, claim.placement()));
        }
    }
    let mut known = HashSet::new();
    for player in &driven.players {
        known.insert(&player.id);
        let held = claims.get(&player.id).map(Vec::as_slice).unwrap_or_default();
        let Last::Slot(server) = &player.last else {
            if player.last == Last::Refused && !held.is_empty() {
                audited.violations.push(format!("{} was told that there is no slot, and has {held:?}", player.id));
            }
            continue;
        };
        audited.placed += 1;
        let kept = match (books.seats.get(&player.id), held) {
            (Some(Seat::Assigned(place)), [(on, placement)]) => {
                place.server == **on && on.as_str() == server && place.claim.placement() == *placement
            }
            _ => false,
        };
        if !kept {
            let seat = books.seats.get(&player.id);
            let told = format!("{} was told of a slot on {server}", player.id);
            audited.violations.push(format!("{told}, has the claims {held:?} and the seat {seat:?}"));
        }
    }
    for player in claims.keys().filter(|player| !known.contains(**player)) {
        audited.violations.push(format!("{player} has a claim and never came"));
    }
}

/// Compares with the local ECS, if it can be asked.
async fn processes(world: &World, books: &Books, prepared: usize, audited: &mut Audited) {
    let Some(stack) = &world.stack else { return };
    let servers = books.ledgers.len().saturating_sub(prepared) as u64;
    // A server that was tried again may have had a process each time, or none where ECS refused.
    let again = books.ledgers.iter().map(|ledger| u64::from(ledger.attempt.saturating_sub(1))).sum::<u64>();
    let is_right = |started: u64| (servers..=servers + again).contains(&started);
    for _ in 0..LOOKS {
        if is_right(stack.ecs().counts().processes_started) {
            return;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    let started = stack.ecs().counts().processes_started;
    audited.violations.push(format!("{servers} servers are on record, and {started} processes were started"));
}

/// The run's ledgers and all seats.
async fn read(world: &World) -> Result<Books, Error> {
    let mut books = Books { ledgers: Vec::new(), seats: HashMap::new() };
    let scan = world.client.scan().table_name(&world.table_name).consistent_read(true);
    let mut pages = scan.into_paginator().send();
    while let Some(page) = pages.next().await {
        let page = page.map_err(|error| Error::Scan(DisplayErrorContext(error).to_string()))?;
        for item in page.items() {
            let key = |name| item.get(name).and_then(|value: &AttributeValue| value.as_s().ok());
            let (Some(pk), Some(sk)) = (key(keys::PK), key(keys::SK)) else { continue };
            if sk == "LEDGER" {
                books.ledgers.push(table::ledger::from_item(item)?);
            } else if let Some(player) = pk.strip_prefix("PLAYER#") {
                books.seats.insert(PlayerId::parse(player)?, table::seat::from_item(item)?);
            }
        }
    }
    books.ledgers.retain(|ledger| ledger.pool == world.pool);
    Ok(books)
}
