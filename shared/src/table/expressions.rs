//! Every write as a DynamoDB expression: the other face of `apply` in the domain.
//!
//! `#name` stands for the attribute `name`, always, because many of our names are reserved words; only the players in a
//! claims map have placeholders of their own (`#player`, `#e0`, `#e1`, …). A condition has no arithmetic, so sums go out
//! as numbers.

use std::{borrow::Cow, fmt::Write as _};

use aws_sdk_dynamodb::types::AttributeValue;

use super::{
    items::{self, n, s},
    keys::Attributes,
};
use crate::domain::{
    Claim, ExpectedSeat, Fill, FrontierWrite, LedgerWrite, MAX_FREED, Placement, PlayerId, PoolStatusWrite, Rank,
    SeatWrite, ServerState, Span, StopBy, Time,
    bug::{self, Bug},
};

/// How long DynamoDB keeps an item that nobody needs any more, at least. Long enough for every late write and for a
/// look at what happened; DynamoDB deletes "within a few days" of it ("Using time to live" in the developer guide).
const KEEP: Span = Span::seconds(24 * 3600);

/// A conditional update, ready to be sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Expression {
    /// The update expression.
    pub update: Cow<'static, str>,
    /// The condition.
    pub condition: Cow<'static, str>,
    /// What the placeholders `:name` stand for.
    pub values: Attributes,
    /// Placeholders `#name` that stand for something else than `name`.
    renamed: Vec<(String, String)>,
}

impl Expression {
    fn new<const N: usize>(
        update: impl Into<Cow<'static, str>>,
        condition: impl Into<Cow<'static, str>>,
        values: [(&str, AttributeValue); N],
    ) -> Self {
        Self {
            update: update.into(),
            condition: condition.into(),
            values: values.map(|(name, value)| (name.to_owned(), value)).into(),
            renamed: Vec::new(),
        }
    }

    fn about(mut self, player: &PlayerId) -> Self {
        self.renamed.push(("#player".to_owned(), player.to_string()));
        self
    }

    fn with(mut self, name: &str, value: AttributeValue) -> Self {
        self.values.insert(name.to_owned(), value);
        self
    }

    /// The claims of these players become `:placement`, and they are exactly as they were seen. Ends in a list of what is
    /// removed.
    fn place(&mut self, players: &[(PlayerId, Option<Claim>)], condition: &mut String) -> String {
        let mut update = "SET ".to_owned();
        for (i, (player, held)) in players.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            // Writing to a string cannot fail.
            let _ = write!(update, "{comma}#claims.#p{i} = :placement");
            self.renamed.push((format!("#p{i}"), player.to_string()));
            match held {
                None => {
                    let _ = write!(condition, " AND attribute_not_exists(#claims.#p{i})");
                }
                Some(claim) => {
                    let _ = write!(condition, " AND #claims.#p{i} = :p{i}");
                    self.values.insert(format!(":p{i}"), n(claim.number()));
                }
            }
        }
        update.push_str(" REMOVE #idleSince");
        update
    }

    /// Adds the removal of these claims, and that they are exactly so. `update` ends in a list of what is removed.
    fn evict(&mut self, claims: &[(PlayerId, Claim)], update: &mut String, condition: &mut String) {
        for (i, (player, claim)) in claims.iter().enumerate() {
            // Writing to a string cannot fail.
            let _ = write!(update, ", #claims.#e{i}");
            self.renamed.push((format!("#e{i}"), player.to_string()));
            if bug::injected(Bug::EvictInexactly) {
                continue;
            }
            let _ = write!(condition, " AND #claims.#e{i} = :e{i}");
            self.values.insert(format!(":e{i}"), n(claim.number()));
        }
    }

    /// What the placeholders `#name` stand for: exactly those that occur, as DynamoDB demands.
    pub fn names(&self) -> Vec<(String, String)> {
        let mut names = Vec::new();
        for text in [&self.update, &self.condition] {
            for part in text.split('#').skip(1) {
                let end = part.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(part.len());
                let (name, _) = part.split_at(end);
                let placeholder = format!("#{name}");
                let renamed = self.renamed.iter().find(|(from, _)| *from == placeholder);
                let name = renamed.map_or(name, |(_, to)| to).to_owned();
                if !names.iter().any(|(seen, _)| *seen == placeholder) {
                    names.push((placeholder, name));
                }
            }
        }
        names
    }
}

/// The server takes new claims: it is starting, or it is ready, its lease is not over, and this write is not a late one
/// (the last heartbeat would then be well after the request).
const OPEN: &str = "(#state = :starting OR (#state = :ready AND #leaseUntil >= :now AND #heartbeatAt <= :seenBy))";
/// The player has no claim and there is room, or the claim that stands is an older one, or this very reservation.
const ROOM_OR_MINE: &str = "((attribute_not_exists(#claims.#player) AND size(#claims) < #capacity) \
                            OR #claims.#player BETWEEN :older AND :placement)";
/// There is room for all once the expired claims are gone. The capacity is pinned.
const ROOM_FOR_ALL: &str = "#capacity = :capacity AND size(#claims) <= :limit";
/// The slot becomes the player's, and the server is not idle.
const CLAIM: &str = "SET #claims.#player = :placement REMOVE #idleSince";
/// The caller is the server itself.
const BY_SERVER: &str = "#tokenHash = :tokenHash";
/// The server has registered and is not stopped.
const REGISTERED: &str = "#state IN (:ready, :draining)";
/// The player's claim is connected under this placement.
const CONNECTED: &str = "#claims.#player = :connected";
/// The player's claim carries this placement, reserved or connected.
const OF_PLACEMENT: &str = "#claims.#player IN (:reserved, :connected)";
/// The slot is free.
const FREE: &str = "REMOVE #claims.#player";
/// The slot is free, and the server is in the index with it: as it was, or else among the fullest.
const FREE_AND_LIST: &str =
    "SET #open = if_not_exists(#open, #indexPart), #rank = if_not_exists(#rank, #topRank) REMOVE #claims.#player";
/// The server is in the index: as it was, or else among the fullest. What is removed follows; a server with claims to
/// remove is not noted as idle.
const LIST_AND_FREE: &str =
    "SET #open = if_not_exists(#open, #indexPart), #rank = if_not_exists(#rank, #topRank) REMOVE #idleSince";
/// starting → ready, listed, with a lease; the launch with its token is forgotten.
const REGISTER: &str = "SET #state = :ready, #address = :address, #port = :port, #readyAt = :now, #heartbeatAt = :now, \
                        #leaseUntil = :now + #leaseMs, #open = #indexPart, #rank = #topRank";
/// The lease runs from now.
const HEARTBEAT: &str = "SET #heartbeatAt = :now, #leaseUntil = :now + #leaseMs";
/// ready → draining: no longer listed.
const DRAIN: &str = "SET #state = :draining REMOVE #open, #rank";
/// Everything that makes a stopped server: no claim, not listed, no launch, deleted one day.
const STOP: &str = "SET #state = :stopped, #claims = :none, #ttl = :ttl REMOVE #open, #rank, #launch";
/// This attempt has not registered and is the latest.
const IS_ATTEMPT: &str = "#state = :starting AND #attempt = :attempt";

fn seconds(time: Time) -> AttributeValue {
    n(time.0.saturating_div(1_000))
}

fn state(state: ServerState) -> AttributeValue {
    s(state.as_str())
}

fn rank(build: u32, fill: Fill) -> AttributeValue {
    n(Rank { build, fill }.number())
}

fn reserved(placement: Placement) -> AttributeValue {
    n(Claim::Reserved(placement).number())
}

fn connected(placement: Placement) -> AttributeValue {
    n(Claim::Connected(placement).number())
}

/// `condition`, and also that the caller is the server whose token this is, if it is a server that calls.
fn by(hash: Option<&crate::domain::TokenHash>, condition: &str, expression: Expression) -> Expression {
    match hash {
        Some(hash) => Expression { condition: format!("{BY_SERVER} AND {condition}").into(), ..expression }
            .with(":tokenHash", items::hash(hash)),
        None => Expression { condition: condition.to_owned().into(), ..expression },
    }
}

/// A write on a ledger.
pub fn ledger(write: &LedgerWrite) -> Expression {
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
                // Holds for every placement there is.
                _ if bug::injected(Bug::ReleaseAnyStamp) => "#claims.#player BETWEEN :connected AND :reserved",
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
            if bug::injected(Bug::ReleaseAnyStamp) {
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
                expression = expression.with(":metadata", items::metadata(&registration.metadata));
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
                expression = expression.with(":claims", items::claims(claims));
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
            let values = [(":ready", state(ServerState::Ready)), (":to", rank(*build, *fill))];
            let update = "SET #open = #indexPart, #rank = :to";
            match was {
                None => Expression::new(
                    update,
                    "#state = :ready AND attribute_not_exists(#rank) AND #topRank = :topRank",
                    values,
                )
                .with(":topRank", rank(*build, Fill::TOP)),
                Some(was) => {
                    Expression::new(update, "#state = :ready AND #rank = :was", values).with(":was", rank(*build, *was))
                }
            }
        }
        LedgerWrite::Unlist { build, was, now } => Expression::new(
            "REMOVE #open, #rank",
            "#rank = :was AND (#state <> :ready OR size(#claims) >= #capacity OR #leaseUntil < :now)",
            [(":was", rank(*build, *was)), (":ready", state(ServerState::Ready)), (":now", n(now.0))],
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
                (":tokenHash", items::hash(token_hash)),
                (":launch", items::launch(launch)),
            ],
        ),
        LedgerWrite::AbandonLaunch { failed, now } => {
            let stop = Expression { condition: IS_ATTEMPT.into(), ..stop(*now) };
            stop.with(":starting", state(ServerState::Starting)).with(":attempt", n(*failed))
        }
    }
}

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

/// The condition under which a new item may be put.
pub const IS_NEW: &str = "attribute_not_exists(pk)";
/// The condition under which an item may be deleted that must be there, so that only one of many deletes it.
pub const IS_THERE: &str = "attribute_exists(pk)";

/// The condition under which a pool's configuration may be replaced: it is the one that was seen. Older releases wrote no
/// revision.
pub const IS_AS_SEEN: &str = "attribute_exists(pk) AND (attribute_not_exists(#version) OR #version = :version)";

/// A write on a seat.
pub fn seat(write: &SeatWrite) -> Expression {
    const ASSIGN: &str = "SET #server = :server, #pool = :pool, #placement = :placement, #ttl = :ttl";
    const VACATE: &str = "SET #placement = :reserved, #ttl = :ttl REMOVE #server, #pool";
    let ttl = |placement: Placement| seconds(placement.time() + KEEP);
    match write {
        SeatWrite::Assign { from, server, pool, placement } => {
            let values = [
                (":server", s(server.as_str())),
                (":pool", s(pool.as_str())),
                (":placement", reserved(*placement)),
                (":ttl", ttl(*placement)),
            ];
            match from {
                ExpectedSeat::Vacant => Expression::new(
                    ASSIGN,
                    "attribute_not_exists(#server) AND (attribute_not_exists(#placement) OR #placement < :placement)",
                    values,
                ),
                ExpectedSeat::Exactly { server, claim } => {
                    Expression::new(ASSIGN, "#server = :wasServer AND #placement = :was", values)
                        .with(":wasServer", s(server.as_str()))
                        .with(":was", n(claim.number()))
                }
            }
        }
        SeatWrite::Connect { server, placement } if bug::injected(Bug::ReadOnlySeat) => Expression::new(
            "SET #server = :server",
            "#server = :server AND #placement IN (:reserved, :connected)",
            [
                (":server", s(server.as_str())),
                (":reserved", reserved(*placement)),
                (":connected", connected(*placement)),
            ],
        ),
        // A connected seat has no TTL: it must outlast the visit.
        SeatWrite::Connect { server, placement } => Expression::new(
            "SET #placement = :connected REMOVE #ttl",
            "#server = :server AND #placement IN (:reserved, :connected)",
            [
                (":server", s(server.as_str())),
                (":reserved", reserved(*placement)),
                (":connected", connected(*placement)),
            ],
        ),
        SeatWrite::Vacate { server, claim } => {
            let placement = claim.placement();
            let values =
                [(":server", s(server.as_str())), (":reserved", reserved(placement)), (":ttl", ttl(placement))];
            match claim {
                Claim::Reserved(_) => Expression::new(VACATE, "#server = :server AND #placement = :reserved", values),
                Claim::Connected(_) => {
                    Expression::new(VACATE, "#server = :server AND #placement IN (:reserved, :connected)", values)
                        .with(":connected", connected(placement))
                }
            }
        }
        SeatWrite::KeepForReconnect { server, from, to } => Expression::new(
            "SET #placement = :to, #ttl = :ttl",
            "#server = :server AND #placement = :connected",
            [
                (":server", s(server.as_str())),
                (":connected", connected(*from)),
                (":to", reserved(*to)),
                (":ttl", ttl(*to)),
            ],
        ),
    }
}

/// A write on a frontier.
pub fn frontier(write: &FrontierWrite) -> Expression {
    match write {
        FrontierWrite::Take { slots } => {
            // With the injected bug the condition never holds.
            let enough = if bug::injected(Bug::LaunchOnEmptyIndex) {
                "#remaining >= :slots AND #remaining < :slots"
            } else {
                "#remaining >= :slots"
            };
            Expression::new("SET #remaining = #remaining - :slots", enough, [(":slots", n(*slots))])
        }
        FrontierWrite::GiveBack { server, seen, slots } => Expression::new(
            "SET #remaining = :remaining",
            "#server = :server AND #remaining = :seen",
            [(":server", s(server.as_str())), (":seen", n(*seen)), (":remaining", n(seen.saturating_add(*slots)))],
        ),
        FrontierWrite::Advance { from, to, remaining } => {
            let update = "SET #server = :to, #remaining = :remaining";
            let values = [(":to", s(to.as_str())), (":remaining", n(*remaining))];
            match from {
                None => Expression::new(update, "attribute_not_exists(#server)", values),
                Some(from) => Expression::new(update, "#server = :from AND #remaining = :left", values)
                    .with(":from", s(from.server.as_str()))
                    .with(":left", n(from.remaining)),
            }
        }
        FrontierWrite::UsedUp { server } => Expression::new(
            "SET #remaining = :zero",
            "#server = :server",
            [(":zero", n(0)), (":server", s(server.as_str()))],
        ),
        FrontierWrite::AddFreed { server } => Expression::new(
            "ADD #freed :servers",
            "attribute_exists(#server) AND (attribute_not_exists(#freed) OR size(#freed) < :most)",
            [(":servers", items::servers([server])), (":most", n(MAX_FREED as i64))],
        ),
        FrontierWrite::RemoveFreed { server } => Expression::new(
            "DELETE #freed :servers",
            "contains(#freed, :server)",
            [(":servers", items::servers([server])), (":server", s(server.as_str()))],
        ),
        FrontierWrite::Return { from, to, remaining } => Expression::new(
            "SET #server = :to, #remaining = :remaining DELETE #freed :servers",
            "#server = :from AND #remaining = :left AND contains(#freed, :to)",
            [
                (":to", s(to.as_str())),
                (":remaining", n(*remaining)),
                (":servers", items::servers([to])),
                (":from", s(from.server.as_str())),
                (":left", n(from.remaining)),
            ],
        ),
    }
}

/// Launching is paused neither for failures nor by an operator.
const NOT_BACKOFF_UNTIL: &str = "(attribute_not_exists(#backoffUntil) OR #backoffUntil <= :now) AND (attribute_not_exists(#pausedUntil) OR #pausedUntil <= :now)";
/// Neither this operator command nor a later one was applied.
const NOT_SUPERSEDED: &str = "(attribute_not_exists(#requestedAt) OR #requestedAt < :at)";

/// A write on a fleet.
pub fn pool_status(write: &PoolStatusWrite) -> Expression {
    match write {
        PoolStatusWrite::Started { max_servers, now } => Expression::new(
            "ADD #live :one, #changes :one",
            format!("(attribute_not_exists(#live) OR #live < :max) AND {NOT_BACKOFF_UNTIL}"),
            [(":one", n(1)), (":max", n(*max_servers)), (":now", n(now.0))],
        ),
        PoolStatusWrite::StartedAhead { changes, max_servers, now } => {
            let room = "(attribute_not_exists(#live) OR #live < :max)";
            let values = [(":one", n(1)), (":max", n(*max_servers)), (":now", n(now.0))];
            let update = "ADD #live :one, #changes :one";
            match changes {
                // Also one whose item an older release wrote.
                0 => {
                    let condition = format!("attribute_not_exists(#changes) AND {room} AND {NOT_BACKOFF_UNTIL}");
                    Expression::new(update, condition, values)
                }
                seen => {
                    Expression::new(update, format!("#changes = :changes AND {room} AND {NOT_BACKOFF_UNTIL}"), values)
                        .with(":changes", n(*seen))
                }
            }
        }
        // A fleet whose item an older release wrote has counted no changes.
        PoolStatusWrite::Recount { changes: 0, live } => Expression::new(
            "SET #live = :live",
            "attribute_exists(#live) AND attribute_not_exists(#changes)",
            [(":live", n(*live))],
        ),
        PoolStatusWrite::Recount { changes, live } => Expression::new(
            "SET #live = :live",
            "#changes = :changes",
            [(":live", n(*live)), (":changes", n(*changes))],
        ),
        PoolStatusWrite::Ended => {
            Expression::new("SET #live = #live - :one ADD #changes :one", "#live >= :one", [(":one", n(1))])
        }
        PoolStatusWrite::Failed { was, backoff_until } => {
            let same = if *was == 0 { "attribute_not_exists(#failures)" } else { "#failures = :was" };
            let mut expression = Expression::new(
                "ADD #changes :one SET #live = #live - :one, #failures = :failures",
                format!("#live >= :one AND {same}"),
                [(":one", n(1)), (":failures", n(was.saturating_add(1)))],
            );
            if *was > 0 {
                expression = expression.with(":was", n(*was));
            }
            match backoff_until {
                None => expression,
                Some(until) => {
                    let update = format!("{}, #backoffUntil = :backoffUntil", expression.update);
                    Expression { update: update.into(), ..expression }.with(":backoffUntil", n(until.0))
                }
            }
        }
        PoolStatusWrite::Recovered => {
            Expression::new("REMOVE #failures, #backoffUntil", "attribute_exists(#failures)", [])
        }
        PoolStatusWrite::Pause { at, until } => Expression::new(
            "SET #pausedUntil = :until, #requestedAt = :at, #live = if_not_exists(#live, :zero)",
            NOT_SUPERSEDED,
            [(":until", n(until.0)), (":at", n(at.0)), (":zero", n(0))],
        ),
        PoolStatusWrite::Resume { at } => Expression::new(
            "SET #requestedAt = :at, #live = if_not_exists(#live, :zero) REMOVE #pausedUntil, #failures, #backoffUntil",
            NOT_SUPERSEDED,
            [(":at", n(at.0)), (":zero", n(0))],
        ),
    }
}
