//! Every key and attribute name of the table.
//!
//! | item | `pk` | `sk` |
//! |---|---|---|
//! | ledger | `SERVER#<id>` | `LEDGER` |
//! | seat | `PLAYER#<id>` | `SEAT` |
//! | pool | `POOLS` | `<name>` |
//! | frontier | `POOL#<name>` | `FRONTIER#<k>` |
//! | pool status | `POOL#<name>` | `STATUS` |
//! | roster entry | `POOL#<name>` | `SERVER#<id>` |
//!
//! The index [`INDEX`] is sparse: partition [`LISTED`] = `<pool>#<shard>`, sort [`RANK`]. Only ready servers with room
//! have both. Names are short, because DynamoDB charges a write by the size of the item, names included.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;

use crate::domain::{PlayerId, PoolName, ServerId};

/// Partition key of the table.
pub const PK: &str = "pk";
/// Sort key of the table.
pub const SK: &str = "sk";
/// Time from which DynamoDB may delete the item, in seconds since 1970. Only ledgers of stopped servers and seats that
/// are not connected have one.
pub const TTL: &str = "ttl";
/// Name of the index of servers with room.
pub const INDEX: &str = "open";

/// Ledger: pool and shard, `<pool>#<shard>`. While the server is listed, [`LISTED`] is a copy of it.
pub const INDEX_PART: &str = "indexPart";
/// Ledger: the server's state.
pub const STATE: &str = "state";
/// Ledger and pool: number of slots of a server.
pub const CAPACITY: &str = "capacity";
/// Ledger: map from player to claim.
pub const CLAIMS: &str = "claims";
/// Ledger and pool: duration of a reservation, in milliseconds.
pub const RESERVATION_MS: &str = "reservationMs";
/// Ledger and pool: duration of a lease, in milliseconds.
pub const LEASE_MS: &str = "leaseMs";
/// Ledger: end of the lease, in milliseconds since 1970.
pub const LEASE_UNTIL: &str = "leaseUntil";
/// Ledger: time of the last heartbeat, in milliseconds since 1970.
pub const HEARTBEAT_AT: &str = "heartbeatAt";
/// Ledger: time since which the server has no claim, in milliseconds since 1970.
pub const IDLE_SINCE: &str = "idleSince";
/// Ledger: deadline at which a draining server is stopped, in milliseconds since 1970.
pub const DRAIN_BY: &str = "drainBy";
/// Ledger: time of the registration, in milliseconds since 1970.
pub const READY_AT: &str = "readyAt";
/// Ledger: host name or IP address to which players connect.
pub const ADDRESS: &str = "address";
/// Ledger: port to which players connect.
pub const PORT: &str = "port";
/// Ledger: metadata that the server sent when it registered.
pub const METADATA: &str = "metadata";
/// Ledger: SHA-256 of the server's token.
pub const TOKEN_HASH: &str = "tokenHash";
/// Ledger: number of the current attempt to start the server.
pub const ATTEMPT: &str = "attempt";
/// Ledger: ARN of the server's ECS task.
pub const TASK: &str = "task";
/// Ledger: map with the parameters of RunTask, until the server has registered.
pub const LAUNCH: &str = "launch";
/// Launch: the server's token in clear text.
pub const TOKEN: &str = "token";
/// Launch: time at which RunTask is next due, in milliseconds since 1970.
pub const CALL_AT: &str = "callAt";
/// Launch: time by which the server must have registered, in milliseconds since 1970.
pub const DEADLINE: &str = "deadline";
/// Launch and pool: settings of the ECS task, as JSON.
pub const SPEC: &str = "spec";
/// Ledger: partition key of the index; absent unless the server is listed.
pub const LISTED: &str = "open";
/// Ledger: sort key of the index, the server's rank; absent unless the server is listed.
pub const RANK: &str = "rank";
/// Ledger: rank of a server of the same build at the highest fill level.
pub const TOP_RANK: &str = "topRank";

/// Seat: the player's server; absent if the seat is vacant. Frontier: the server that is being filled.
pub const SERVER: &str = "server";
/// Seat: the pool of the player's server.
pub const POOL: &str = "pool";
/// Seat: the placement's number, negative if connected.
pub const PLACEMENT: &str = "placement";

/// Frontier: number of slots left to hand out.
pub const REMAINING: &str = "remaining";
/// Frontier: set of starting servers with freed slots beyond [`REMAINING`]; absent if empty.
pub const FREED: &str = "freed";
/// Pool status: number of live servers.
pub const LIVE: &str = "live";
/// Pool status: number of times that a server was counted in or out.
pub const CHANGES: &str = "changes";
/// Pool status: number of failed launches in a row.
pub const FAILURES: &str = "failures";
/// Pool status: end of the launch pause after failures, in milliseconds since 1970.
pub const BACKOFF_UNTIL: &str = "backoffUntil";
/// Pool status: end of an operator's launch pause, in milliseconds since 1970.
pub const PAUSED_UNTIL: &str = "pausedUntil";
/// Pool status and ledger: timestamp of the last operator command (pause or resume; drain), in milliseconds since 1970.
pub const REQUESTED_AT: &str = "requestedAt";

/// Pool: maximum number of live servers.
pub const MAX_SERVERS: &str = "maxServers";
/// Pool: number of free slots to keep ready ahead of demand.
pub const HEADROOM: &str = "headroom";
/// Pool: time for which a server may be empty before it drains, in milliseconds.
pub const IDLE_MS: &str = "idleMs";
/// Pool: number of configurations since the first, from 0.
pub const VERSION: &str = "version";
/// Pool: number of the build, from 0.
pub const BUILD: &str = "build";
/// Pool: rule for servers of an older build.
pub const ROLLOUT: &str = "rollout";
/// Pool: number of frontiers.
pub const CONCURRENT_LAUNCHES: &str = "concurrentLaunches";
/// Pool: number of shards of the index, the highest number of frontiers that the pool has ever had.
pub const SHARDS: &str = "shards";
/// Pool: list of ECS clusters that the pool used before, the latest first.
pub const PREVIOUS_CLUSTERS: &str = "previousClusters";
/// Pool and launch: time in which a server must register, in milliseconds.
pub const LAUNCH_MS: &str = "launchMs";

/// A key or an item, in the form that the SDK takes.
pub type Attributes = HashMap<String, AttributeValue>;

fn key(pk: String, sk: impl Into<String>) -> Attributes {
    HashMap::from([(PK.into(), AttributeValue::S(pk)), (SK.into(), AttributeValue::S(sk.into()))])
}

/// Key of a server's ledger.
pub fn ledger(server: &ServerId) -> Attributes {
    key(format!("SERVER#{server}"), "LEDGER")
}

/// Key of a player's seat.
pub fn seat(player: &PlayerId) -> Attributes {
    key(format!("PLAYER#{player}"), "SEAT")
}

/// Partition key of all pools' configurations.
pub const POOLS: &str = "POOLS";

/// Key of a pool's configuration.
pub fn pool(pool: &PoolName) -> Attributes {
    key(POOLS.to_owned(), pool.as_str())
}

/// Partition key of a pool's status, frontiers and roster.
pub fn of_pool(pool: &PoolName) -> String {
    format!("POOL#{pool}")
}

/// Key of a pool's `k`-th frontier, from 0.
pub fn frontier(pool: &PoolName, k: u32) -> Attributes {
    key(of_pool(pool), format!("FRONTIER#{k}"))
}

/// Key of a pool's status.
pub fn pool_status(pool: &PoolName) -> Attributes {
    key(of_pool(pool), "STATUS")
}

/// Sort-key prefix of a pool's roster entries.
pub const ROSTER: &str = "SERVER#";

/// Key of a server's entry in its pool's roster. The entry exists as long as the pool's count includes the server.
pub fn roster(pool: &PoolName, server: &ServerId) -> Attributes {
    key(of_pool(pool), format!("{ROSTER}{server}"))
}

/// Parses the server id from a ledger's partition key or a roster entry's sort key.
pub fn server_of(key: &str) -> Option<ServerId> {
    ServerId::parse(key.strip_prefix(ROSTER)?).ok()
}

/// Renders pool and shard as the ledger's [`INDEX_PART`] and the index's partition key.
pub fn index_part(pool: &PoolName, shard: u32) -> String {
    format!("{pool}#{shard}")
}

/// Parses pool and shard from the text that [`index_part`] renders.
pub fn parse_index_part(part: &str) -> Option<(PoolName, u32)> {
    let (pool, shard) = part.rsplit_once('#')?;
    Some((PoolName::parse(pool).ok()?, shard.parse().ok()?))
}
