//! Every key and attribute name of the table, once.
//!
//! | item | `pk` | `sk` |
//! |---|---|---|
//! | ledger | `SERVER#<id>` | `LEDGER` |
//! | seat | `PLAYER#<id>` | `SEAT` |
//! | pool | `POOLS` | `<name>` |
//! | frontier | `POOL#<name>` | `FRONTIER#<k>` |
//! | fleet | `POOL#<name>` | `STATUS` |
//! | roster entry | `POOL#<name>` | `SERVER#<id>` |
//!
//! The index [`INDEX`] is sparse: partition [`LISTED`] = `<pool>#<shard>`, sort [`RANK`]. Only ready servers with room
//! have both. Names are short because a write is paid by the size of the item, names included.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;

use crate::domain::{PlayerId, PoolName, ServerId};

/// Partition key of the table.
pub const PK: &str = "pk";
/// Sort key of the table.
pub const SK: &str = "sk";
/// When DynamoDB may delete the item: seconds since 1970. Ledgers of stopped servers and seats of players who are not
/// inside a server have one.
pub const TTL: &str = "ttl";
/// The index of servers with room.
pub const INDEX: &str = "open";

/// Ledger: pool and shard, `<pool>#<shard>`. The index's partition key is a copy of it.
pub const INDEX_PART: &str = "indexPart";
/// Ledger: the server's state.
pub const STATE: &str = "state";
/// Ledger and pool: slots of a server.
pub const CAPACITY: &str = "capacity";
/// Ledger: map of player to claim.
pub const CLAIMS: &str = "claims";
/// Ledger and pool: reservation time in milliseconds.
pub const RESERVATION_MS: &str = "reservationMs";
/// Ledger and pool: lease time in milliseconds.
pub const LEASE_MS: &str = "leaseMs";
/// Ledger: end of the lease, in milliseconds.
pub const LEASE_UNTIL: &str = "leaseUntil";
/// Ledger: last heartbeat, in milliseconds.
pub const HEARTBEAT_AT: &str = "heartbeatAt";
/// Ledger: without a claim since then, in milliseconds.
pub const IDLE_SINCE: &str = "idleSince";
/// Ledger: a draining server is stopped then, in milliseconds.
pub const DRAIN_BY: &str = "drainBy";
/// Ledger: time of the registration, in milliseconds.
pub const READY_AT: &str = "readyAt";
/// Ledger: where players connect to.
pub const ADDRESS: &str = "address";
/// Ledger: where players connect to.
pub const PORT: &str = "port";
/// Ledger: what the server says of itself.
pub const METADATA: &str = "metadata";
/// Ledger: SHA-256 of the server's token.
pub const TOKEN_HASH: &str = "tokenHash";
/// Ledger: number of the attempt to start it.
pub const ATTEMPT: &str = "attempt";
/// Ledger: ARN of its task.
pub const TASK: &str = "task";
/// Ledger: map with what RunTask is called with, until the server has registered.
pub const LAUNCH: &str = "launch";
/// Launch: the token in the clear.
pub const TOKEN: &str = "token";
/// Launch: when RunTask is due (again).
pub const CALL_AT: &str = "callAt";
/// Launch: when the server must have registered.
pub const DEADLINE: &str = "deadline";
/// Launch: parameters of the task, as JSON.
pub const SPEC: &str = "spec";
/// Ledger: partition key of the index.
pub const LISTED: &str = "open";
/// Ledger: sort key of the index: the rank of the server.
pub const RANK: &str = "rank";
/// Ledger: the rank of the fullest server of its build.
pub const TOP_RANK: &str = "topRank";

/// Seat: the server; absent when the seat is vacant. Frontier: the server being filled.
pub const SERVER: &str = "server";
/// Seat: the server's pool.
pub const POOL: &str = "pool";
/// Seat: the placement, negative when connected.
pub const PLACEMENT: &str = "placement";

/// Frontier: slots left.
pub const REMAINING: &str = "remaining";
/// Frontier: set of starting servers with freed slots that are not among those left to give; absent if there is none.
pub const FREED: &str = "freed";
/// PoolStatus: servers that live.
pub const LIVE: &str = "live";
/// Servers that have ever been counted in or out.
pub const CHANGES: &str = "changes";
/// PoolStatus: failed launches in a row.
pub const FAILURES: &str = "failures";
/// PoolStatus: launching is paused until then, in milliseconds.
pub const BACKOFF_UNTIL: &str = "backoffUntil";
/// PoolStatus: launching is paused by an operator until then, in milliseconds.
pub const PAUSED_UNTIL: &str = "pausedUntil";
/// PoolStatus: when an operator last paused or resumed launching; ledger: when one last said that it is to drain. In milliseconds.
pub const REQUESTED_AT: &str = "requestedAt";

/// Pool: servers that may live.
pub const MAX_SERVERS: &str = "maxServers";
/// Pool: free slots to keep ahead of demand.
pub const HEADROOM: &str = "headroom";
/// Pool: how long a server may be empty, in milliseconds.
pub const IDLE_MS: &str = "idleMs";
/// Pool: how often it has been configured since it was made.
pub const VERSION: &str = "version";
/// Pool: its build, from 0.
pub const BUILD: &str = "build";
/// Pool: what becomes of servers of an older build.
pub const ROLLOUT: &str = "rollout";
/// Pool: number of frontiers.
pub const CONCURRENT_LAUNCHES: &str = "concurrentLaunches";
/// Pool: the most frontiers that it has ever had.
pub const SHARDS: &str = "shards";
/// Pool: list of the ECS clusters that it has left, the last one first.
pub const PREVIOUS_CLUSTERS: &str = "previousClusters";
/// Pool and launch: time to register in, in milliseconds.
pub const LAUNCH_MS: &str = "launchMs";

/// A key or an item, as the SDK takes it.
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

/// Partition key of everything else about a pool.
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

/// What the sort keys of a pool's roster begin with.
pub const ROSTER: &str = "SERVER#";

/// Key of a server's entry in its pool's roster: there as long as the fleet's count includes the server.
pub fn roster(pool: &PoolName, server: &ServerId) -> Attributes {
    key(of_pool(pool), format!("{ROSTER}{server}"))
}

/// The server that a ledger's partition key, or a roster entry's sort key, names.
pub fn server_of(key: &str) -> Option<ServerId> {
    ServerId::parse(key.strip_prefix(ROSTER)?).ok()
}

/// Pool and shard as the ledger's [`INDEX_PART`] and the index's partition key have them.
pub fn index_part(pool: &PoolName, shard: u32) -> String {
    format!("{pool}#{shard}")
}

/// The inverse of [`index_part`].
pub fn parse_index_part(part: &str) -> Option<(PoolName, u32)> {
    let (pool, shard) = part.rsplit_once('#')?;
    Some((PoolName::parse(pool).ok()?, shard.parse().ok()?))
}
