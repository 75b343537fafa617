//! Items to images and back. An item that does not read as what its key says is an error that names the attribute,
//! never a guess.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_dynamodb::{primitives::Blob, types::AttributeValue};

use super::keys::{self, Attributes};
use crate::domain::{
    Assignment, Claim, Endpoint, Frontier, Launch, Ledger, PlayerId, PoolLimits, PoolName, PoolStatus, Rank, Rollout,
    Seat, ServerId, ServerState, Span, Time, TokenHash,
};
use crate::pool::Pool;

/// An item of the table that is not as this version of OWMM writes it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the table's attribute `{0}` is missing or malformed")]
pub struct Malformed(pub &'static str);

/// A number attribute.
pub fn n(number: impl Into<i64>) -> AttributeValue {
    AttributeValue::N(Into::<i64>::into(number).to_string())
}

/// A text attribute.
pub fn s(text: impl Into<String>) -> AttributeValue {
    AttributeValue::S(text.into())
}

/// A list of texts.
pub fn texts(texts: &[String]) -> AttributeValue {
    AttributeValue::L(texts.iter().map(s).collect())
}

/// A set of servers, which must not be empty.
pub fn servers<'a>(ids: impl IntoIterator<Item = &'a ServerId>) -> AttributeValue {
    AttributeValue::Ss(ids.into_iter().map(ToString::to_string).collect())
}

/// A token's hash.
pub fn hash(hash: &TokenHash) -> AttributeValue {
    AttributeValue::B(Blob::new(hash.bytes()))
}

/// A server's words about itself.
pub fn metadata(metadata: &BTreeMap<String, String>) -> AttributeValue {
    AttributeValue::M(metadata.iter().map(|(key, value)| (key.clone(), s(value))).collect())
}

/// The claims of a ledger.
pub fn claims(claims: &BTreeMap<PlayerId, Claim>) -> AttributeValue {
    AttributeValue::M(claims.iter().map(|(player, claim)| (player.to_string(), n(claim.number()))).collect())
}

/// A launch.
pub fn launch(launch: &Launch) -> AttributeValue {
    let pairs = [
        (keys::TOKEN, s(&launch.token)),
        (keys::CALL_AT, n(launch.call_at.0)),
        (keys::DEADLINE, n(launch.deadline.0)),
        (keys::LAUNCH_MS, n(launch.time_to_start.0)),
        (keys::SPEC, s(&launch.spec)),
    ];
    AttributeValue::M(pairs.map(|(name, value)| (name.to_owned(), value)).into())
}

fn opt_text<'a>(item: &'a Attributes, name: &'static str) -> Result<Option<&'a str>, Malformed> {
    match item.get(name) {
        None => Ok(None),
        Some(AttributeValue::S(text)) => Ok(Some(text)),
        Some(_) => Err(Malformed(name)),
    }
}

fn text<'a>(item: &'a Attributes, name: &'static str) -> Result<&'a str, Malformed> {
    opt_text(item, name)?.ok_or(Malformed(name))
}

fn opt_number<T: TryFrom<i64>>(item: &Attributes, name: &'static str) -> Result<Option<T>, Malformed> {
    match item.get(name) {
        None => Ok(None),
        Some(AttributeValue::N(digits)) => {
            let number = digits.parse::<i64>().ok().and_then(|number| T::try_from(number).ok());
            number.map(Some).ok_or(Malformed(name))
        }
        Some(_) => Err(Malformed(name)),
    }
}

fn number<T: TryFrom<i64>>(item: &Attributes, name: &'static str) -> Result<T, Malformed> {
    opt_number(item, name)?.ok_or(Malformed(name))
}

fn map<'a>(item: &'a Attributes, name: &'static str) -> Result<Option<&'a Attributes>, Malformed> {
    match item.get(name) {
        None => Ok(None),
        Some(AttributeValue::M(map)) => Ok(Some(map)),
        Some(_) => Err(Malformed(name)),
    }
}

fn read_texts(item: &Attributes, name: &'static str) -> Result<Vec<String>, Malformed> {
    match item.get(name) {
        None => Ok(Vec::new()),
        Some(AttributeValue::L(list)) => {
            list.iter().map(|text| text.as_s().cloned().map_err(|_| Malformed(name))).collect()
        }
        Some(_) => Err(Malformed(name)),
    }
}

fn time(item: &Attributes, name: &'static str) -> Result<Option<Time>, Malformed> {
    Ok(opt_number(item, name)?.map(Time))
}

fn claim(value: &AttributeValue, name: &'static str) -> Result<Claim, Malformed> {
    let digits = value.as_n().map_err(|_| Malformed(name))?;
    digits.parse().ok().and_then(Claim::from_number).ok_or(Malformed(name))
}

/// A launch, read.
fn read_launch(item: &Attributes) -> Result<Launch, Malformed> {
    Ok(Launch {
        token: text(item, keys::TOKEN)?.to_owned(),
        call_at: Time(number(item, keys::CALL_AT)?),
        deadline: Time(number(item, keys::DEADLINE)?),
        time_to_start: Span(number(item, keys::LAUNCH_MS)?),
        spec: text(item, keys::SPEC)?.to_owned(),
    })
}

fn rank(item: &Attributes, name: &'static str) -> Result<Option<Rank>, Malformed> {
    let number = opt_number::<i64>(item, name)?;
    number.map(|number| Rank::from_number(number).ok_or(Malformed(name))).transpose()
}

/// A ledger, read.
pub fn read_ledger(item: &Attributes) -> Result<Ledger, Malformed> {
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

/// A ledger, written.
pub fn write_ledger(ledger: &Ledger) -> Attributes {
    let mut item = keys::ledger(&ledger.id);
    let mut put = |name: &str, value: Option<AttributeValue>| {
        if let Some(value) = value {
            item.insert(name.to_owned(), value);
        }
    };
    let home = s(keys::index_part(&ledger.pool, ledger.shard));
    put(keys::LISTED, ledger.listed.map(|_| home.clone()));
    let build = ledger.build;
    put(keys::RANK, ledger.listed.map(|fill| n(Rank { build, fill }.number())));
    put(keys::TOP_RANK, Some(n(Rank::top(build).number())));
    put(keys::INDEX_PART, Some(home));
    put(keys::STATE, Some(s(ledger.state.as_str())));
    put(keys::CAPACITY, Some(n(ledger.capacity)));
    put(keys::CLAIMS, Some(claims(&ledger.claims)));
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
    put(keys::METADATA, (!ledger.metadata.is_empty()).then(|| metadata(&ledger.metadata)));
    put(keys::TOKEN_HASH, Some(hash(&ledger.token_hash)));
    put(keys::ATTEMPT, Some(n(ledger.attempt)));
    put(keys::TASK, ledger.task.as_ref().map(s));
    put(keys::LAUNCH, ledger.launch.as_ref().map(launch));
    item
}

/// A seat, read.
pub fn read_seat(item: &Attributes) -> Result<Seat, Malformed> {
    let claim = claim(item.get(keys::PLACEMENT).ok_or(Malformed(keys::PLACEMENT))?, keys::PLACEMENT)?;
    Ok(match opt_text(item, keys::SERVER)? {
        None => Seat::Vacant(claim.placement()),
        Some(server) => Seat::Assigned(Assignment {
            server: ServerId::parse(server).map_err(|_| Malformed(keys::SERVER))?,
            pool: PoolName::parse(text(item, keys::POOL)?).map_err(|_| Malformed(keys::POOL))?,
            claim,
        }),
    })
}

/// A seat, written.
pub fn write_seat(player: &PlayerId, seat: &Seat) -> Attributes {
    let mut item = keys::seat(player);
    match seat {
        Seat::Vacant(placement) => {
            item.insert(keys::PLACEMENT.into(), n(placement.get()));
        }
        Seat::Assigned(place) => {
            item.insert(keys::PLACEMENT.into(), n(place.claim.number()));
            item.insert(keys::SERVER.into(), s(place.server.as_str()));
            item.insert(keys::POOL.into(), s(place.pool.as_str()));
        }
    }
    item
}

/// A frontier, read.
pub fn read_frontier(item: &Attributes) -> Result<Frontier, Malformed> {
    Ok(Frontier {
        server: ServerId::parse(text(item, keys::SERVER)?).map_err(|_| Malformed(keys::SERVER))?,
        remaining: number(item, keys::REMAINING)?,
        freed: match item.get(keys::FREED) {
            None => BTreeSet::new(),
            Some(AttributeValue::Ss(ids)) => {
                let ids = ids.iter().map(|id| ServerId::parse(id).map_err(|_| Malformed(keys::FREED)));
                ids.collect::<Result<_, _>>()?
            }
            Some(_) => return Err(Malformed(keys::FREED)),
        },
    })
}

/// A frontier, written.
pub fn write_frontier(pool: &PoolName, k: u32, frontier: &Frontier) -> Attributes {
    let mut item = keys::frontier(pool, k);
    item.insert(keys::SERVER.into(), s(frontier.server.as_str()));
    item.insert(keys::REMAINING.into(), n(frontier.remaining));
    if !frontier.freed.is_empty() {
        item.insert(keys::FREED.into(), servers(&frontier.freed));
    }
    item
}

/// A fleet, written.
pub fn write_pool_status(pool: &PoolName, status: &PoolStatus) -> Attributes {
    let mut item = keys::pool_status(pool);
    item.insert(keys::LIVE.into(), n(status.live));
    if status.changes > 0 {
        item.insert(keys::CHANGES.into(), n(status.changes));
    }
    if status.failures > 0 {
        item.insert(keys::FAILURES.into(), n(status.failures));
    }
    if let Some(until) = status.backoff_until {
        item.insert(keys::BACKOFF_UNTIL.into(), n(until.0));
    }
    if let Some(until) = status.paused_until {
        item.insert(keys::PAUSED_UNTIL.into(), n(until.0));
    }
    if let Some(at) = status.requested_at {
        item.insert(keys::REQUESTED_AT.into(), n(at.0));
    }
    item
}

/// A fleet, read.
pub fn read_pool_status(item: &Attributes) -> Result<PoolStatus, Malformed> {
    Ok(PoolStatus {
        live: opt_number(item, keys::LIVE)?.unwrap_or(0),
        changes: opt_number(item, keys::CHANGES)?.unwrap_or(0),
        failures: opt_number(item, keys::FAILURES)?.unwrap_or(0),
        backoff_until: time(item, keys::BACKOFF_UNTIL)?,
        paused_until: time(item, keys::PAUSED_UNTIL)?,
        requested_at: time(item, keys::REQUESTED_AT)?,
    })
}

/// A pool, read.
pub fn read_pool(item: &Attributes) -> Result<Pool, Malformed> {
    let concurrent_launches = number(item, keys::CONCURRENT_LAUNCHES)?;
    Ok(Pool {
        name: PoolName::parse(text(item, keys::SK)?).map_err(|_| Malformed(keys::SK))?,
        limits: PoolLimits {
            capacity: number(item, keys::CAPACITY)?,
            max_servers: number(item, keys::MAX_SERVERS)?,
            concurrent_launches,
            headroom: number(item, keys::HEADROOM)?,
            idle: Span(number(item, keys::IDLE_MS)?),
            reservation: Span(number(item, keys::RESERVATION_MS)?),
            launch: Span(number(item, keys::LAUNCH_MS)?),
            lease: Span(number(item, keys::LEASE_MS)?),
        },
        rollout: Rollout::parse(text(item, keys::ROLLOUT)?).ok_or(Malformed(keys::ROLLOUT))?,
        version: opt_number(item, keys::VERSION)?.unwrap_or(0),
        build: number(item, keys::BUILD)?,
        shards: opt_number(item, keys::SHARDS)?.unwrap_or(concurrent_launches),
        previous_clusters: read_texts(item, keys::PREVIOUS_CLUSTERS)?,
        task: serde_json::from_str(text(item, keys::SPEC)?).map_err(|_| Malformed(keys::SPEC))?,
    })
}

/// A pool, written.
pub fn write_pool(pool: &Pool) -> Result<Attributes, serde_json::Error> {
    let mut item = keys::pool(&pool.name);
    let limits = &pool.limits;
    item.extend(
        [
            (keys::CAPACITY, n(limits.capacity)),
            (keys::MAX_SERVERS, n(limits.max_servers)),
            (keys::CONCURRENT_LAUNCHES, n(limits.concurrent_launches)),
            (keys::SHARDS, n(pool.shards)),
            (keys::HEADROOM, n(limits.headroom)),
            (keys::IDLE_MS, n(limits.idle.0)),
            (keys::RESERVATION_MS, n(limits.reservation.0)),
            (keys::LAUNCH_MS, n(limits.launch.0)),
            (keys::LEASE_MS, n(limits.lease.0)),
            (keys::ROLLOUT, s(pool.rollout.as_str())),
            (keys::VERSION, n(pool.version)),
            (keys::BUILD, n(pool.build)),
            (keys::PREVIOUS_CLUSTERS, texts(&pool.previous_clusters)),
            (keys::SPEC, s(serde_json::to_string(&pool.task)?)),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    Ok(item)
}

/// A server of the index, read.
pub fn read_listed(item: &Attributes) -> Result<(ServerId, Rank), Malformed> {
    let server = keys::server_of(text(item, keys::PK)?).ok_or(Malformed(keys::PK))?;
    Ok((server, rank(item, keys::RANK)?.ok_or(Malformed(keys::RANK))?))
}
