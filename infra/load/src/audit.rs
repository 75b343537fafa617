//! The audit: reads the whole table after a run and compares it with the players' last answers and the local ECS's
//! counters.
//!
//! | rule | a violation means |
//! |---|---|
//! | a player whose last answer has a slot has a seat and exactly one claim on that server | a promise is broken |
//! | that claim and that seat have the same placement | the claim is not the seat's |
//! | no other player has a claim, except those whose last answer is unclear | a slot is lost |
//! | no ledger has more claims than slots | a server is overfull |
//! | the pool's status counts as many live servers as the ledgers show | the limit of servers is wrong |
//! | the local ECS started one process per server and attempt | a server without process, or a process without server |

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

/// Reads of the local ECS's count at most: a process is counted shortly after its RunTask.
const READS: u32 = 100;
/// Pause between two reads of the count.
const READ_AGAIN: Duration = Duration::from_millis(50);

/// The result of an audit.
#[derive(Default)]
pub(crate) struct Audited {
    /// Broken rules, each in a sentence.
    pub(crate) violations: Vec<String>,
    /// Players whose last answer has a slot.
    pub(crate) placed: usize,
    /// Claims on the fullest server.
    pub(crate) most_players: usize,
    /// Servers that OWMM started during the run.
    pub(crate) started: usize,
}

/// The items of one run.
struct Items {
    ledgers: Vec<Ledger>,
    seats: HashMap<PlayerId, Seat>,
}

/// Audits the table after a run.
pub(crate) async fn audit(world: &World, args: &Args, driven: &Driven) -> Result<Audited, Error> {
    let items = read(world).await?;
    let mut audited = Audited::default();
    check_claims(&items, driven, &mut audited);
    let prepared = args.prepared() as usize;
    let live = items.ledgers.iter().filter(|ledger| ledger.state != ServerState::Stopped).count();
    let status = world.table.pool_status(&world.pool).await?;
    if live != status.live as usize {
        audited.violations.push(format!("{live} servers are live, but the pool's status counts {}", status.live));
    }
    audited.started = items.ledgers.len().saturating_sub(prepared);
    check_processes(world, &items, prepared, &mut audited).await;
    Ok(audited)
}

fn check_claims(items: &Items, driven: &Driven, audited: &mut Audited) {
    let mut claims = BTreeMap::<&PlayerId, Vec<_>>::new();
    let now = Clock::system().now();
    for ledger in &items.ledgers {
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
                audited.violations.push(format!("{} was refused a slot, but has the claims {held:?}", player.id));
            }
            continue;
        };
        audited.placed += 1;
        let kept = match (items.seats.get(&player.id), held) {
            (Some(Seat::Assigned(place)), [(on, placement)]) => {
                place.server == **on && on.as_str() == server && place.claim.placement() == *placement
            }
            _ => false,
        };
        if !kept {
            let seat = items.seats.get(&player.id);
            let promised = format!("{} got the answer of a slot on {server}", player.id);
            audited.violations.push(format!("{promised}, but has the claims {held:?} and the seat {seat:?}"));
        }
    }
    for player in claims.keys().filter(|player| !known.contains(**player)) {
        audited.violations.push(format!("{player} has a claim, but is no player of this run"));
    }
}

/// Compares the number of servers with the processes that the local ECS started, if the stack is in this process.
async fn check_processes(world: &World, items: &Items, prepared: usize, audited: &mut Audited) {
    let Some(stack) = &world.stack else { return };
    let servers = items.ledgers.len().saturating_sub(prepared) as u64;
    // Each further attempt to launch a server may have started a process, or none if ECS refused.
    let again = items.ledgers.iter().map(|ledger| u64::from(ledger.attempt.saturating_sub(1))).sum::<u64>();
    let is_right = |started: u64| (servers..=servers + again).contains(&started);
    for _ in 0..READS {
        if is_right(stack.ecs().counts().processes_started) {
            return;
        }
        tokio::time::sleep(READ_AGAIN).await;
    }
    let started = stack.ecs().counts().processes_started;
    audited.violations.push(format!("the table has {servers} started servers, but ECS started {started} processes"));
}

/// Reads the ledgers of the run's pool and all seats.
async fn read(world: &World) -> Result<Items, Error> {
    let mut items = Items { ledgers: Vec::new(), seats: HashMap::new() };
    let scan = world.client.scan().table_name(&world.table_name).consistent_read(true);
    let mut pages = scan.into_paginator().send();
    while let Some(page) = pages.next().await {
        let page = page.map_err(|error| Error::Scan(DisplayErrorContext(error).to_string()))?;
        for item in page.items() {
            let key = |name| item.get(name).and_then(|value: &AttributeValue| value.as_s().ok());
            let (Some(pk), Some(sk)) = (key(keys::PK), key(keys::SK)) else { continue };
            if sk == "LEDGER" {
                items.ledgers.push(table::ledger::from_item(item)?);
            } else if let Some(player) = pk.strip_prefix("PLAYER#") {
                items.seats.insert(PlayerId::parse(player)?, table::seat::from_item(item)?);
            }
        }
    }
    items.ledgers.retain(|ledger| ledger.pool == world.pool);
    Ok(items)
}
