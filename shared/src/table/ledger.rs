//! Ledger items: conversion, expressions for writes, and table calls. Matches `domain::ledger`.

use std::{collections::BTreeMap, future::Future, time::Duration};

use aws_sdk_dynamodb::types::{AttributeValue, KeysAndAttributes, ReturnConsumedCapacity};

use super::{
    Malformed, Table, TableError,
    attributes::{
        claim, connected, hash_value, map, n, number, opt_number, opt_text, rank, reserved, s, seconds, text, time,
    },
    expression::{Expression, KEEP},
    keys::{self, Attributes},
    pool_status::NOT_SUPERSEDED,
};
use crate::domain::{
    Answer, Claim, Endpoint, Fill, Launch, Ledger, LedgerWrite, PlayerId, PoolName, Rank, ServerId, ServerState, Span,
    StopBy, Time, TokenHash,
    bug::{self, Bug},
};

/// Most servers that one query of the index returns.
const LISTED_AT_MOST: i32 = 200;
/// Most keys of one BatchGetItem call ("BatchGetItem" in the API reference).
const BATCH_AT_MOST: usize = 100;
/// Most calls of BatchGetItem for the same keys, because a call may leave keys unprocessed.
const BATCH_TRIES: u32 = 6;

/// Condition: the server takes new claims. It is starting; or it is ready, its lease has not lapsed, and this write is
/// not late (otherwise the last heartbeat would be well after the request).
const OPEN: &str = "(#state = :starting OR (#state = :ready AND #leaseUntil >= :now AND #heartbeatAt <= :seenBy))";
/// Condition: the player has no claim and there is room; or the player's reservation is older, or is this very one.
const ROOM_OR_MINE: &str = "((attribute_not_exists(#claims.#player) AND size(#claims) < #capacity) \
                            OR #claims.#player BETWEEN :older AND :placement)";
/// Condition: there is room for all players once the expired claims are removed. The capacity is pinned.
const ROOM_FOR_ALL: &str = "#capacity = :capacity AND size(#claims) <= :limit";
/// Update: reserves a slot for the player, and marks the server as not idle.
const CLAIM: &str = "SET #claims.#player = :placement REMOVE #idleSince";
/// Condition: the caller is the server itself.
const BY_SERVER: &str = "#tokenHash = :tokenHash";
/// Condition: the server has registered and is not stopped.
const REGISTERED: &str = "#state IN (:ready, :draining)";
/// Condition: the player's claim is connected under this placement.
const CONNECTED: &str = "#claims.#player = :connected";
/// Condition: the player's claim has this placement, reserved or connected.
const OF_PLACEMENT: &str = "#claims.#player IN (:reserved, :connected)";
/// Update: frees the player's slot.
const FREE: &str = "REMOVE #claims.#player";
/// Update: frees the player's slot, and lists the server in the index: at its current rank, or else at the highest fill
/// level of its build.
const FREE_AND_LIST: &str =
    "SET #open = if_not_exists(#open, #indexPart), #rank = if_not_exists(#rank, #topRank) REMOVE #claims.#player";
/// Update: lists the server in the index as [`FREE_AND_LIST`] does. Claims to remove are appended. `idleSince` is
/// removed too, because a server with claims is not idle.
const LIST_AND_FREE: &str =
    "SET #open = if_not_exists(#open, #indexPart), #rank = if_not_exists(#rank, #topRank) REMOVE #idleSince";
/// Update: starting → ready, listed, with a lease. The expression also removes the launch with its token.
const REGISTER: &str = "SET #state = :ready, #address = :address, #port = :port, #readyAt = :now, #heartbeatAt = :now, \
                        #leaseUntil = :now + #leaseMs, #open = #indexPart, #rank = #topRank";
/// Update: the lease starts again now.
const HEARTBEAT: &str = "SET #heartbeatAt = :now, #leaseUntil = :now + #leaseMs";
/// Update: ready → draining, no longer listed.
const DRAIN: &str = "SET #state = :draining REMOVE #open, #rank";
/// Update: stops the server. It has no claims and no launch, is not listed, and gets a TTL.
const STOP: &str = "SET #state = :stopped, #claims = :none, #ttl = :ttl REMOVE #open, #rank, #launch";
/// Condition: the server has not registered, and this is its current attempt.
const IS_ATTEMPT: &str = "#state = :starting AND #attempt = :attempt";

/// Converts a server's metadata to a map attribute.
fn metadata_value(metadata: &BTreeMap<String, String>) -> AttributeValue {
    AttributeValue::M(metadata.iter().map(|(key, value)| (key.clone(), s(value))).collect())
}

/// Converts the claims of a ledger to a map attribute.
fn claims_value(claims: &BTreeMap<PlayerId, Claim>) -> AttributeValue {
    AttributeValue::M(claims.iter().map(|(player, claim)| (player.to_string(), n(claim.number()))).collect())
}

/// Converts a launch to a map attribute.
fn launch_value(launch: &Launch) -> AttributeValue {
    let pairs = [
        (keys::TOKEN, s(&launch.token)),
        (keys::CALL_AT, n(launch.call_at.0)),
        (keys::DEADLINE, n(launch.deadline.0)),
        (keys::LAUNCH_MS, n(launch.time_to_start.0)),
        (keys::SPEC, s(&launch.spec)),
    ];
    AttributeValue::M(pairs.map(|(name, value)| (name.to_owned(), value)).into())
}

/// Reads a launch from its map attribute.
fn read_launch(item: &Attributes) -> Result<Launch, Malformed> {
    Ok(Launch {
        token: text(item, keys::TOKEN)?.to_owned(),
        call_at: Time(number(item, keys::CALL_AT)?),
        deadline: Time(number(item, keys::DEADLINE)?),
        time_to_start: Span(number(item, keys::LAUNCH_MS)?),
        spec: text(item, keys::SPEC)?.to_owned(),
    })
}

/// Reads a ledger from its item.
pub fn from_item(item: &Attributes) -> Result<Ledger, Malformed> {
    let (pool, shard) = keys::parse_index_part(text(item, keys::INDEX_PART)?).ok_or(Malformed(keys::INDEX_PART))?;
    let claims = map(item, keys::CLAIMS)?.ok_or(Malformed(keys::CLAIMS))?;
    let claims = claims.iter().map(|(player, value)| {
        Ok((PlayerId::parse(player).map_err(|_| Malformed(keys::CLAIMS))?, claim(value, keys::CLAIMS)?))
    });
    let endpoint = match (opt_text(item, keys::ADDRESS)?, opt_number(item, keys::PORT)?) {
        (Some(address), Some(port)) => Some(Endpoint { address: address.to_owned(), port }),
        _ => None,
    };
    let texts = |map: &Attributes| {
        let pairs = map.iter().map(|(key, value)| {
            let text = value.as_s().map_err(|_| Malformed(keys::METADATA))?;
            Ok((key.clone(), text.clone()))
        });
        pairs.collect::<Result<BTreeMap<_, _>, Malformed>>()
    };
    let hash = item.get(keys::TOKEN_HASH).and_then(|value| value.as_b().ok());
    Ok(Ledger {
        id: keys::server_of(text(item, keys::PK)?).ok_or(Malformed(keys::PK))?,
        pool,
        shard,
        build: rank(item, keys::TOP_RANK)?.ok_or(Malformed(keys::TOP_RANK))?.build,
        state: ServerState::parse(text(item, keys::STATE)?).ok_or(Malformed(keys::STATE))?,
        capacity: number(item, keys::CAPACITY)?,
        claims: claims.collect::<Result<_, Malformed>>()?,
        reservation: Span(number(item, keys::RESERVATION_MS)?),
        lease_for: Span(number(item, keys::LEASE_MS)?),
        lease_until: time(item, keys::LEASE_UNTIL)?,
        seen: time(item, keys::HEARTBEAT_AT)?,
        idle_since: time(item, keys::IDLE_SINCE)?,
        drain_by: time(item, keys::DRAIN_BY)?,
        requested_at: time(item, keys::REQUESTED_AT)?,
        ready_at: time(item, keys::READY_AT)?,
        endpoint,
        metadata: map(item, keys::METADATA)?.map(texts).transpose()?.unwrap_or_default(),
        token_hash: hash.and_then(|blob| TokenHash::from_bytes(blob.as_ref())).ok_or(Malformed(keys::TOKEN_HASH))?,
        attempt: number(item, keys::ATTEMPT)?,
        task: opt_text(item, keys::TASK)?.map(str::to_owned),
        launch: map(item, keys::LAUNCH)?.map(read_launch).transpose()?,
        listed: rank(item, keys::RANK)?.map(|rank| rank.fill),
    })
}

/// Converts a ledger to its item.
pub fn to_item(ledger: &Ledger) -> Attributes {
    let mut item = keys::ledger(&ledger.id);
    let mut put = |name: &str, value: Option<AttributeValue>| {
        if let Some(value) = value {
            item.insert(name.to_owned(), value);
        }
    };
    let index_part = s(keys::index_part(&ledger.pool, ledger.shard));
    put(keys::LISTED, ledger.listed.map(|_| index_part.clone()));
    let build = ledger.build;
    put(keys::RANK, ledger.listed.map(|fill| n(Rank { build, fill }.number())));
    put(keys::TOP_RANK, Some(n(Rank::top(build).number())));
    put(keys::INDEX_PART, Some(index_part));
    put(keys::STATE, Some(s(ledger.state.as_str())));
    put(keys::CAPACITY, Some(n(ledger.capacity)));
    put(keys::CLAIMS, Some(claims_value(&ledger.claims)));
    put(keys::RESERVATION_MS, Some(n(ledger.reservation.0)));
    put(keys::LEASE_MS, Some(n(ledger.lease_for.0)));
    put(keys::LEASE_UNTIL, ledger.lease_until.map(|time| n(time.0)));
    put(keys::HEARTBEAT_AT, ledger.seen.map(|time| n(time.0)));
    put(keys::IDLE_SINCE, ledger.idle_since.map(|time| n(time.0)));
    put(keys::DRAIN_BY, ledger.drain_by.map(|time| n(time.0)));
    put(keys::REQUESTED_AT, ledger.requested_at.map(|time| n(time.0)));
    put(keys::READY_AT, ledger.ready_at.map(|time| n(time.0)));
    put(keys::ADDRESS, ledger.endpoint.as_ref().map(|endpoint| s(&endpoint.address)));
    put(keys::PORT, ledger.endpoint.as_ref().map(|endpoint| n(endpoint.port)));
    put(keys::METADATA, (!ledger.metadata.is_empty()).then(|| metadata_value(&ledger.metadata)));
    put(keys::TOKEN_HASH, Some(hash_value(&ledger.token_hash)));
    put(keys::ATTEMPT, Some(n(ledger.attempt)));
    put(keys::TASK, ledger.task.as_ref().map(s));
    put(keys::LAUNCH, ledger.launch.as_ref().map(launch_value));
    item
}

/// Reads a server and its rank from an item of the index.
fn read_listed(item: &Attributes) -> Result<(ServerId, Rank), Malformed> {
    let server = keys::server_of(text(item, keys::PK)?).ok_or(Malformed(keys::PK))?;
    Ok((server, rank(item, keys::RANK)?.ok_or(Malformed(keys::RANK))?))
}

/// Converts a server's state to an attribute.
fn state(state: ServerState) -> AttributeValue {
    s(state.as_str())
}

/// Converts a rank to an attribute.
fn rank_number(build: u32, fill: Fill) -> AttributeValue {
    n(Rank { build, fill }.number())
}

/// Sets the condition of an expression; if `hash` is given, also requires it to be the hash of the server's token.
fn by(hash: Option<&crate::domain::TokenHash>, condition: &str, expression: Expression) -> Expression {
    match hash {
        Some(hash) => Expression { condition: format!("{BY_SERVER} AND {condition}").into(), ..expression }
            .with(":tokenHash", hash_value(hash)),
        None => Expression { condition: condition.to_owned().into(), ..expression },
    }
}

/// Renders a write on a ledger as an expression.
pub fn expression(write: &LedgerWrite) -> Expression {
    match write {
        LedgerWrite::Claim { player, placement, now, seen_by } => Expression::new(
            CLAIM,
            format!("{OPEN} AND {ROOM_OR_MINE}"),
            [
                (":starting", state(ServerState::Starting)),
                (":ready", state(ServerState::Ready)),
                (":now", n(now.0)),
                (":seenBy", n(seen_by.0)),
                (":older", n(if bug::injected(Bug::ReserveAgain) { 0 } else { 1 } - placement.get())),
                (":placement", reserved(*placement)),
            ],
        )
        .about(player),
        LedgerWrite::ClaimExactly { players, placement, now, seen_by, evict, capacity } => {
            let mut condition = format!("{OPEN} AND {ROOM_FOR_ALL}");
            let added = players.iter().filter(|(_, held)| held.is_none()).count();
            let count = |n: usize| i64::try_from(n).unwrap_or(i64::from(u32::MAX));
            let limit = i64::from(*capacity) + count(evict.len()) - count(added);
            let mut expression = Expression::new(
                "",
                "",
                [
                    (":starting", state(ServerState::Starting)),
                    (":ready", state(ServerState::Ready)),
                    (":now", n(now.0)),
                    (":seenBy", n(seen_by.0)),
                    (":placement", reserved(*placement)),
                    (":capacity", n(*capacity)),
                    (":limit", n(limit)),
                ],
            );
            let mut update = expression.place(players, &mut condition);
            expression.evict(evict, &mut update, &mut condition);
            Expression { update: update.into(), condition: condition.into(), ..expression }
        }
        LedgerWrite::Connect { by: hash, player, placement, reserved: reserved_will_do } => {
            let held = if *reserved_will_do { OF_PLACEMENT } else { CONNECTED };
            let expression = Expression::new(
                "SET #claims.#player = :connected",
                "",
                [
                    (":ready", state(ServerState::Ready)),
                    (":draining", state(ServerState::Draining)),
                    (":connected", connected(*placement)),
                ],
            )
            .about(player);
            let expression =
                if *reserved_will_do { expression.with(":reserved", reserved(*placement)) } else { expression };
            by(Some(hash), &format!("{REGISTERED} AND {held}"), expression)
        }
        LedgerWrite::Free { by: hash, player, claim, ready } => {
            let (update, in_state) = match ready {
                true if bug::injected(Bug::FreeUnlisted) => (FREE, "#state = :ready"),
                true => (FREE_AND_LIST, "#state = :ready"),
                false => (FREE, "#state <> :ready"),
            };
            let held = match claim {
                // With the injected bug the condition holds for every placement.
                _ if bug::injected(Bug::FreeAnyPlacement) => "#claims.#player BETWEEN :connected AND :reserved",
                Claim::Connected(_) => OF_PLACEMENT,
                Claim::Reserved(_) => "#claims.#player = :reserved",
            };
            let mut expression = Expression::new(
                update,
                "",
                [(":ready", state(ServerState::Ready)), (":reserved", reserved(claim.placement()))],
            )
            .about(player);
            if claim.is_connected() {
                expression = expression.with(":connected", connected(claim.placement()));
            }
            if bug::injected(Bug::FreeAnyPlacement) {
                expression = expression.with(":connected", n(i64::MIN)).with(":reserved", n(i64::MAX));
            }
            by(hash.as_ref(), &format!("{in_state} AND {held}"), expression)
        }
        LedgerWrite::KeepForReconnect { by: hash, player, from, to } => {
            let expression = Expression::new(
                "SET #claims.#player = :to",
                "",
                [(":to", reserved(*to)), (":connected", connected(*from))],
            )
            .about(player);
            by(Some(hash), CONNECTED, expression)
        }
        LedgerWrite::Register { by: hash, registration, now } => {
            let mut update = REGISTER.to_owned();
            let mut condition = "#state = :starting".to_owned();
            let mut expression = Expression::new(
                "",
                "",
                [
                    (":starting", state(ServerState::Starting)),
                    (":ready", state(ServerState::Ready)),
                    (":address", s(&registration.endpoint.address)),
                    (":port", n(registration.endpoint.port)),
                    (":now", n(now.0)),
                ],
            );
            if let Some(capacity) = registration.capacity {
                update.push_str(", #capacity = :capacity");
                condition.push_str(" AND size(#claims) <= :capacity");
                expression = expression.with(":capacity", n(capacity));
            }
            if registration.metadata.is_empty() {
                update.push_str(" REMOVE #launch, #metadata");
            } else {
                update.push_str(", #metadata = :metadata REMOVE #launch");
                expression = expression.with(":metadata", metadata_value(&registration.metadata));
            }
            by(Some(hash), &condition, Expression { update: update.into(), ..expression })
        }
        LedgerWrite::Heartbeat { by: hash, now } => {
            let values = [
                (":ready", state(ServerState::Ready)),
                (":draining", state(ServerState::Draining)),
                (":now", n(now.0)),
            ];
            by(Some(hash), &format!("{REGISTERED} AND #heartbeatAt <= :now"), Expression::new(HEARTBEAT, "", values))
        }
        LedgerWrite::Stop { by: StopBy::Server(hash), now } => by(Some(hash), "#state <> :stopped", stop(*now)),
        LedgerWrite::Stop { by: StopBy::Attempt(attempt), now } => {
            let condition = "#attempt = :attempt AND #state <> :stopped";
            Expression { condition: condition.into(), ..stop(*now) }.with(":attempt", n(*attempt))
        }
        LedgerWrite::Stop { by: StopBy::Drained { attempt, drain_by }, now } => {
            let as_seen = if drain_by.is_some() { "#drainBy = :by" } else { "attribute_not_exists(#drainBy)" };
            let condition = format!("#attempt = :attempt AND #state = :draining AND {as_seen}");
            let expression = Expression { condition: condition.into(), ..stop(*now) }
                .with(":attempt", n(*attempt))
                .with(":draining", state(ServerState::Draining));
            match drain_by {
                Some(by) => expression.with(":by", n(by.0)),
                None => expression,
            }
        }
        LedgerWrite::StopSilent { attempt, silent_since, claims, now } => {
            let mut condition = format!("{REGISTERED} AND #attempt = :attempt AND #leaseUntil < :silentSince");
            let mut expression = stop(*now)
                .with(":ready", state(ServerState::Ready))
                .with(":draining", state(ServerState::Draining))
                .with(":attempt", n(*attempt))
                .with(":silentSince", n(silent_since.0));
            if let Some(claims) = claims {
                condition.push_str(" AND #claims = :claims");
                expression = expression.with(":claims", claims_value(claims));
            }
            Expression { condition: condition.into(), ..expression }
        }
        LedgerWrite::Sweep { evict, ready } => {
            let (mut update, in_state) = match ready {
                true if bug::injected(Bug::FreeUnlisted) => ("REMOVE #idleSince".to_owned(), "#state = :ready"),
                true => (LIST_AND_FREE.to_owned(), "#state = :ready"),
                false => ("REMOVE #idleSince".to_owned(), "#state <> :ready"),
            };
            let mut condition = format!("attribute_exists(#state) AND {in_state}");
            let mut expression = Expression::new("", "", [(":ready", state(ServerState::Ready))]);
            expression.evict(evict, &mut update, &mut condition);
            Expression { update: update.into(), condition: condition.into(), ..expression }
        }
        LedgerWrite::Idle { now } => Expression::new(
            "SET #idleSince = :now",
            "#state = :ready AND size(#claims) = :zero AND attribute_not_exists(#idleSince)",
            [(":now", n(now.0)), (":ready", state(ServerState::Ready)), (":zero", n(0))],
        ),
        LedgerWrite::Drain { at, drain_by } => {
            let condition = format!("{REGISTERED} AND {NOT_SUPERSEDED}");
            let values =
                [(":draining", state(ServerState::Draining)), (":ready", state(ServerState::Ready)), (":at", n(at.0))];
            match drain_by {
                None => Expression::new(
                    "SET #state = :draining, #requestedAt = :at REMOVE #open, #rank, #drainBy",
                    condition,
                    values,
                ),
                Some(by) => Expression::new(
                    "SET #state = :draining, #requestedAt = :at, #drainBy = :drainBy REMOVE #open, #rank",
                    condition,
                    values,
                )
                .with(":drainBy", n(by.0)),
            }
        }
        LedgerWrite::Retire => Expression::new(
            DRAIN,
            "#state = :ready",
            [(":draining", state(ServerState::Draining)), (":ready", state(ServerState::Ready))],
        ),
        LedgerWrite::DrainIdle { .. } if bug::injected(Bug::CheckedScaleIn) => Expression::new(
            DRAIN,
            "#state = :ready",
            [(":draining", state(ServerState::Draining)), (":ready", state(ServerState::Ready))],
        ),
        LedgerWrite::DrainIdle { idle_by } => Expression::new(
            DRAIN,
            "#state = :ready AND size(#claims) = :zero AND #idleSince <= :idleBy",
            [
                (":draining", state(ServerState::Draining)),
                (":ready", state(ServerState::Ready)),
                (":zero", n(0)),
                (":idleBy", n(idle_by.0)),
            ],
        ),
        LedgerWrite::List { build, was, fill } => {
            let values = [(":ready", state(ServerState::Ready)), (":to", rank_number(*build, *fill))];
            let update = "SET #open = #indexPart, #rank = :to";
            match was {
                None => Expression::new(
                    update,
                    "#state = :ready AND attribute_not_exists(#rank) AND #topRank = :topRank",
                    values,
                )
                .with(":topRank", rank_number(*build, Fill::TOP)),
                Some(was) => Expression::new(update, "#state = :ready AND #rank = :was", values)
                    .with(":was", rank_number(*build, *was)),
            }
        }
        LedgerWrite::Unlist { build, was, now } => Expression::new(
            "REMOVE #open, #rank",
            "#rank = :was AND (#state <> :ready OR size(#claims) >= #capacity OR #leaseUntil < :now)",
            [(":was", rank_number(*build, *was)), (":ready", state(ServerState::Ready)), (":now", n(now.0))],
        ),
        LedgerWrite::Recall { attempt, was, call_at } => Expression::new(
            "SET #launch.#callAt = :callAt",
            format!("{IS_ATTEMPT} AND #launch.#callAt = :was AND attribute_not_exists(#task)"),
            [
                (":starting", state(ServerState::Starting)),
                (":attempt", n(*attempt)),
                (":was", n(was.0)),
                (":callAt", n(call_at.0)),
            ],
        ),
        LedgerWrite::TaskStarted { attempt, task } => Expression::new(
            "SET #task = :task",
            "#attempt = :attempt AND #state <> :stopped",
            [(":task", s(task)), (":attempt", n(*attempt)), (":stopped", state(ServerState::Stopped))],
        ),
        LedgerWrite::NextAttempt { failed, token_hash, launch } => Expression::new(
            "SET #attempt = :next, #tokenHash = :tokenHash, #launch = :launch REMOVE #task",
            IS_ATTEMPT,
            [
                (":starting", state(ServerState::Starting)),
                (":attempt", n(*failed)),
                (":next", n(failed.saturating_add(1))),
                (":tokenHash", hash_value(token_hash)),
                (":launch", launch_value(launch)),
            ],
        ),
        LedgerWrite::AbandonLaunch { failed, now } => {
            let stop = Expression { condition: IS_ATTEMPT.into(), ..stop(*now) };
            stop.with(":starting", state(ServerState::Starting)).with(":attempt", n(*failed))
        }
    }
}

/// Creates the update that stops a server, without a condition.
fn stop(now: Time) -> Expression {
    Expression::new(
        STOP,
        "",
        [
            (":stopped", state(ServerState::Stopped)),
            (":none", AttributeValue::M(Attributes::new())),
            (":ttl", seconds(now + KEEP)),
        ],
    )
}

impl Table {
    /// Reads a server's ledger consistently; `None` if there is none.
    ///
    /// # Errors
    /// The call to the table failed, or the item is malformed.
    pub async fn ledger(&self, server: &ServerId) -> Result<Option<Ledger>, TableError> {
        Ok(self.get(keys::ledger(server)).await?.as_ref().map(from_item).transpose()?)
    }

    /// Reads the ledgers of several servers; servers without a ledger are left out.
    ///
    /// The read is eventually consistent, at half the price: every decision based on it is checked by a conditional
    /// write.
    pub async fn ledgers(&self, servers: &[ServerId]) -> Result<Vec<Ledger>, TableError> {
        let mut ledgers = Vec::with_capacity(servers.len());
        for some in servers.chunks(BATCH_AT_MOST) {
            let mut wanted = some.iter().map(keys::ledger).collect::<Vec<_>>();
            for pause in 0..BATCH_TRIES {
                tokio::time::sleep(Duration::from_millis(50) * pause).await;
                let keys = KeysAndAttributes::builder().set_keys(Some(std::mem::take(&mut wanted))).build();
                let keys = keys.map_err(|error| TableError::Broken(error.to_string()))?;
                let batch = self.client.batch_get_item().request_items(&self.name, keys);
                let page = batch.return_consumed_capacity(ReturnConsumedCapacity::Total).send().await;
                let page = page.map_err(TableError::of)?;
                for item in page.responses().and_then(|tables| tables.get(&self.name)).into_iter().flatten() {
                    ledgers.push(from_item(item)?);
                }
                let left = page.unprocessed_keys.and_then(|mut tables| tables.remove(&self.name));
                wanted = left.map(|left| left.keys).unwrap_or_default();
                if wanted.is_empty() {
                    break;
                }
            }
            if !wanted.is_empty() {
                return Err(TableError::Busy(format!(
                    "DynamoDB left {} ledgers of a BatchGetItem unread",
                    wanted.len()
                )));
            }
        }
        Ok(ledgers)
    }

    /// Queries one shard of the index for a pool's ready servers with room, newest build and fullest first.
    ///
    /// The index is eventually consistent. Returns at most 200 servers.
    pub async fn listed(&self, pool: &PoolName, shard: u32) -> Result<Vec<(ServerId, Rank)>, TableError> {
        let query = self
            .client
            .query()
            .table_name(&self.name)
            .index_name(keys::INDEX)
            .key_condition_expression("#open = :indexPart")
            .expression_attribute_names("#open", keys::LISTED)
            .expression_attribute_values(":indexPart", AttributeValue::S(keys::index_part(pool, shard)))
            .scan_index_forward(false)
            .return_consumed_capacity(ReturnConsumedCapacity::Total)
            .limit(LISTED_AT_MOST);
        let page = query.send().await.map_err(TableError::of)?;
        page.items().iter().map(|item| Ok(read_listed(item)?)).collect()
    }

    /// Performs one conditional write on a server's ledger.
    pub fn write_ledger(
        &self,
        server: &ServerId,
        write: &LedgerWrite,
    ) -> impl Future<Output = Result<Answer<Ledger>, TableError>> {
        self.write(keys::ledger(server), expression(write), from_item)
    }
}
