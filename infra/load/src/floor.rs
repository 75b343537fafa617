//! The floor: the rate of the two conditional writes that every join needs, measured with the same engine, the same
//! client and the same concurrency. One write creates an item of the player, the other adds the player to the item of a
//! server with room.
//!
//! The floor has a table of its own, which the audit does not read. It does not search for a server, read items or sign
//! tickets.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use aws_sdk_dynamodb::{
    Client,
    error::DisplayErrorContext,
    types::AttributeValue::{self, M, N, S},
};
use shared::table::create_table;
use tokio::task::JoinSet;

use crate::{args::Args, error::Error, report, world::World};

/// The measured floor.
pub(crate) struct Floor {
    /// Pairs of writes per second.
    pub(crate) pairs_per_second: f64,
    /// Processor time of this process for all pairs. It includes the engine's if the engine is in this process.
    pub(crate) processor_time: Option<Duration>,
    /// Duration of each pair.
    pub(crate) pairs: Vec<Duration>,
}

fn failed<E: std::error::Error>(error: E) -> Error {
    Error::Floor(DisplayErrorContext(error).to_string())
}

fn key(pk: String, sk: &str) -> HashMap<String, AttributeValue> {
    HashMap::from([("pk".to_owned(), S(pk)), ("sk".to_owned(), S(sk.to_owned()))])
}

/// Measures one pair of writes for each player.
pub(crate) async fn floor(world: &World, args: &Args) -> Result<Floor, Error> {
    let table: Arc<str> = format!("{}-floor", world.table_name).into();
    create_table(&world.client, &table).await?;
    let measured = measure(&world.client, &table, args).await;
    world.client.delete_table().table_name(&*table).send().await.map_err(failed)?;
    measured
}

async fn measure(client: &Client, table: &Arc<str>, args: &Args) -> Result<Floor, Error> {
    for server in 0..args.needed() {
        let mut item = key(format!("SERVER#{server:026}"), "LEDGER");
        item.insert("capacity".to_owned(), N(args.capacity.to_string()));
        item.insert("claims".to_owned(), M(HashMap::new()));
        client.put_item().table_name(&**table).set_item(Some(item)).send().await.map_err(failed)?;
    }
    let next = Arc::new(AtomicU32::new(0));
    let (began, cpu) = (Instant::now(), report::processor_time());
    let mut workers = JoinSet::new();
    for _ in 0..args.at_once.min(args.players) {
        let (client, table, next) = (client.clone(), Arc::clone(table), Arc::clone(&next));
        let (players, servers) = (args.players, args.needed());
        workers.spawn(async move {
            let mut pairs = Vec::new();
            loop {
                let player = next.fetch_add(1, Ordering::Relaxed);
                if player >= players {
                    return Ok::<_, Error>(pairs);
                }
                let began = Instant::now();
                pair(&client, &table, player, player % servers).await?;
                pairs.push(began.elapsed());
            }
        });
    }
    let mut pairs = Vec::new();
    for worker in workers.join_all().await {
        pairs.extend(worker?);
    }
    let took = began.elapsed();
    let processor_time = report::processor_time().zip(cpu).map(|(after, before)| after.saturating_sub(before));
    Ok(Floor { pairs_per_second: f64::from(args.players) / took.as_secs_f64(), processor_time, pairs })
}

async fn pair(client: &Client, table: &str, player: u32, server: u32) -> Result<(), Error> {
    let player = format!("player-00000000-{player:06}");
    let server = format!("{server:026}");
    let placement = N("1700000000000".to_owned());
    let seat = client
        .update_item()
        .table_name(table)
        .set_key(Some(key(format!("PLAYER#{player}"), "SEAT")))
        .update_expression("SET #server = :server, #pool = :pool, #placement = :placement")
        .condition_expression("attribute_not_exists(pk)")
        .expression_attribute_names("#server", "server")
        .expression_attribute_names("#pool", "pool")
        .expression_attribute_names("#placement", "placement")
        .expression_attribute_values(":server", S(server.clone()))
        .expression_attribute_values(":pool", S("default".to_owned()))
        .expression_attribute_values(":placement", placement.clone());
    seat.send().await.map_err(failed)?;
    let claim = client
        .update_item()
        .table_name(table)
        .set_key(Some(key(format!("SERVER#{server}"), "LEDGER")))
        .update_expression("SET #claims.#player = :placement")
        .condition_expression("size(#claims) < #capacity")
        .expression_attribute_names("#claims", "claims")
        .expression_attribute_names("#player", player)
        .expression_attribute_names("#capacity", "capacity")
        .expression_attribute_values(":placement", placement);
    claim.send().await.map_err(failed)?;
    Ok(())
}
