//! The invariants, checked after every write and every answer.
//!
//! The items come from the engine, which reads them back after each write; the connected players come from the
//! simulated game servers. An invariant is checked when an event could break it: a write on a ledger, an admitted
//! player, an answer.
//!
//! | name | checked |
//! |---|---|
//! | I1 capacity | after each write on a ledger, and when a server admits a player |
//! | I2 one place | for each player whom a write concerns: a connected player has a claim and a seat, both connected |
//! | I3 no leak | a stopped server has no claims; a write that only frees slots leaves a ready server listed |
//! | | a reservation lasts no longer than the pool's setting; at the end, every slot can be used |
//! | I4 no over-launch | a frontier advances only if it has too few slots left, and is used up only by a full server |
//! | | live servers are within the maximum; one task runs per server and attempt |
//! | I5 nothing forgotten | at the end: every launch is decided, every task has a live server, the count is right |
//! | I6 kept word | a slot that was answered with 200 or 202 is in the ledger, and stays there until its promise ends |
//! | I7 authority | no write on a server with another server's token, by a stranger, or on another player's claim |

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_dynamodb::{primitives::Blob, types::AttributeValue};
use serde_json::Value;
use shared::{
    Pool,
    domain::{
        Claim, Frontier, Ledger, Placement, PlayerId, PoolStatus, Seat, ServerId, ServerState, Span, Time, TokenHash,
    },
    table::{
        self,
        keys::{self, Attributes},
    },
};

use super::engine::Change;

/// Largest difference between two clocks (5 s), and the time of a request (1.5 s).
const CLOCKS: Span = Span(5_000 + 1_500);
/// Longest grace that a simulated server requests.
pub(super) const LONGEST_GRACE_SECONDS: u64 = 20;
/// Longest time after which a call without an answer takes effect.
const LINGERS: Span = Span::seconds(90);

/// An invariant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the table above describes each invariant")]
pub enum Invariant {
    Capacity,
    OnePlace,
    NoLeak,
    NoOverLaunch,
    NothingForgotten,
    KeptWord,
    Authority,
}

impl Invariant {
    /// All invariants.
    pub const ALL: [Self; 7] = [
        Self::Capacity,
        Self::OnePlace,
        Self::NoLeak,
        Self::NoOverLaunch,
        Self::NothingForgotten,
        Self::KeptWord,
        Self::Authority,
    ];

    /// Returns the name of the invariant.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Capacity => "I1 capacity",
            Self::OnePlace => "I2 one place",
            Self::NoLeak => "I3 no leak",
            Self::NoOverLaunch => "I4 no over-launch",
            Self::NothingForgotten => "I5 nothing forgotten",
            Self::KeptWord => "I6 kept word",
            Self::Authority => "I7 authority",
        }
    }
}

/// A violated invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Time of the violation, in milliseconds since the start of the run.
    pub at_ms: u64,
    /// The invariant.
    pub invariant: Invariant,
    /// Description of the violation.
    pub what: String,
}

/// The caller of a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// The simulation itself, before the actors start.
    Setup,
    /// A player.
    Player(PlayerId),
    /// A trusted backend that places these players.
    Backend(Vec<PlayerId>),
    /// A game server with its token.
    Server(ServerId, TokenHash),
    /// An operator.
    Operator,
    /// A caller with another server's token, or with an invented one.
    Stranger,
    /// The schedule of reconcile.
    Schedule,
    /// The event bus, with a task event.
    Event,
}

/// A slot that an answer promised to a player.
#[derive(Clone, Debug)]
struct Promise {
    server: ServerId,
    until: Time,
}

/// State of a server that its ledger does not have.
#[derive(Clone, Debug, Default)]
struct Known {
    /// The server's current process has died or was ordered to stop.
    died: bool,
    /// The server was full or took no claims at some time.
    had_no_room: bool,
    /// Time that the registration needed to reach the table: reservations count from when it was sent.
    registered_late: Span,
    /// Time of the last event that may end promises on the server: a disconnect or a stop.
    disturbed: Option<Time>,
}

/// The state that the checks of the invariants need: the items, the connected players and the promises.
#[derive(Default)]
pub(super) struct Checks {
    begun: Time,
    now: Time,
    pub(super) ledgers: BTreeMap<ServerId, Ledger>,
    pub(super) seats: BTreeMap<PlayerId, Seat>,
    pub(super) frontier_items: BTreeMap<String, Frontier>,
    pub(super) statuses: BTreeMap<String, PoolStatus>,
    pub(super) roster: BTreeSet<String>,
    max_servers: u32,
    /// Largest time that a function's clock may be ahead.
    skew: Span,
    pub(super) pools: BTreeMap<String, Pool>,
    known: BTreeMap<ServerId, Known>,
    inside: BTreeMap<PlayerId, BTreeMap<ServerId, Placement>>,
    tasks: BTreeMap<(ServerId, String), u32>,
    promises: BTreeMap<PlayerId, Promise>,
    /// Players whose disconnect a server has sent and which has no answer yet.
    leaving: BTreeSet<(PlayerId, ServerId)>,
    /// Time until which a call that frees the player's slot may take effect.
    freeing: BTreeMap<PlayerId, Time>,
    pub(super) violations: Vec<Violation>,
    pub(super) checked: BTreeMap<Invariant, u64>,
}

fn attribute(value: &Value) -> Option<AttributeValue> {
    let (kind, inner) = value.as_object()?.iter().next()?;
    Some(match (kind.as_str(), inner) {
        ("S", Value::String(text)) => AttributeValue::S(text.clone()),
        ("N", Value::String(digits)) => AttributeValue::N(digits.clone()),
        ("B", Value::String(text)) => AttributeValue::B(Blob::new(aws_smithy_types::base64::decode(text).ok()?)),
        ("M", Value::Object(fields)) => {
            let fields = fields.iter().map(|(name, value)| Some((name.clone(), attribute(value)?)));
            AttributeValue::M(fields.collect::<Option<_>>()?)
        }
        ("SS", Value::Array(texts)) => {
            AttributeValue::Ss(texts.iter().map(|text| text.as_str().map(str::to_owned)).collect::<Option<_>>()?)
        }
        ("L", Value::Array(elements)) => AttributeValue::L(elements.iter().map(attribute).collect::<Option<_>>()?),
        _ => return None,
    })
}

fn attributes(item: &Value) -> Option<Attributes> {
    item.as_object()?.iter().map(|(name, value)| Some((name.clone(), attribute(value)?))).collect()
}

impl Checks {
    pub(super) fn new(begun: Time, max_servers: u32, skew: Span) -> Self {
        Self { begun, now: begun, max_servers, skew, ..Self::default() }
    }

    /// Counts a check, and notes a violation if `holds` is false.
    fn hold(&mut self, invariant: Invariant, holds: bool, what: impl FnOnce() -> String) {
        *self.checked.entry(invariant).or_default() += 1;
        if !holds {
            let at_ms = (self.now - self.begun).0.unsigned_abs();
            self.violations.push(Violation { at_ms, invariant, what: what() });
        }
    }

    /// Checks that something holds at `now`, from outside this module.
    pub(super) fn end(&mut self, now: Time, invariant: Invariant, holds: bool, what: impl FnOnce() -> String) {
        self.now = now;
        self.hold(invariant, holds, what);
    }

    fn known(&mut self, server: &ServerId) -> &mut Known {
        self.known.entry(server.clone()).or_default()
    }

    /// Checks the items that a write has changed. `update` is its update expression.
    pub(super) fn wrote(&mut self, now: Time, by: &Caller, update: &str, changes: &[Change]) {
        self.now = now;
        self.hold(Invariant::Authority, *by != Caller::Stranger || changes.is_empty(), || {
            format!("a stranger changed {:?}", changes.iter().map(|change| &change.key).collect::<Vec<_>>())
        });
        let mut concerned = BTreeSet::new();
        // Ledgers go first, because the check of a frontier reads the ledger of the same transaction.
        let (ledgers, others) = changes.iter().partition::<Vec<_>, _>(|change| change.key.1 == "LEDGER");
        for change in ledgers.into_iter().chain(others) {
            self.take(change, by, update, &mut concerned);
        }
        for player in concerned {
            self.check_player(&player);
        }
    }

    /// Parses the item after the change. Only roster entries may be deleted, and every other item must be readable.
    fn read<T, E>(&mut self, change: &Change, read: impl FnOnce(&Attributes) -> Result<T, E>) -> Option<T> {
        let item = change.after.as_ref().and_then(attributes).and_then(|item| read(&item).ok());
        self.hold(Invariant::NoLeak, item.is_some(), || format!("{:?} cannot be read: {:?}", change.key, change.after));
        item
    }

    fn take(&mut self, change: &Change, by: &Caller, update: &str, concerned: &mut BTreeSet<PlayerId>) {
        let (pk, sk) = &change.key;
        match sk.as_str() {
            "LEDGER" => {
                let Some(ledger) = self.read(change, table::ledger::from_item) else { return };
                let before = self.ledgers.insert(ledger.id.clone(), ledger.clone());
                self.ledger(before.as_ref(), &ledger, by, concerned);
            }
            "SEAT" => {
                let Some(player) = pk.strip_prefix("PLAYER#").and_then(|id| PlayerId::parse(id).ok()) else { return };
                let Some(seat) = self.read(change, table::seat::from_item) else { return };
                let before = self.seats.insert(player.clone(), seat.clone());
                let forward = before.is_none_or(|before| before.placement() <= seat.placement());
                self.hold(Invariant::OnePlace, forward, || format!("the placement of {player}'s seat decreased"));
                let theirs = match by {
                    Caller::Player(caller) => *caller == player,
                    Caller::Backend(callers) => callers.contains(&player),
                    _ => true,
                };
                self.hold(Invariant::Authority, theirs, || format!("{by:?} wrote the seat of {player}"));
                concerned.insert(player);
            }
            "STATUS" => {
                if let Some(status) = self.read(change, table::pool_status::from_item) {
                    self.statuses.insert(pk.clone(), status);
                }
            }
            frontier if frontier.starts_with("FRONTIER#") => {
                if let Some(after) = self.read(change, table::frontier::from_item) {
                    let before = self.frontier_items.insert(format!("{pk}/{sk}"), after.clone());
                    self.frontier(before.as_ref(), &after, update.contains(":zero"));
                }
            }
            pool if pk == keys::POOLS => {
                if let Some(read) = self.read(change, table::pool::from_item) {
                    self.pools.insert(pool.to_owned(), read);
                }
            }
            entry if entry.starts_with(keys::ROSTER) => {
                let name = format!("{pk}/{sk}");
                match change.after {
                    Some(_) => self.roster.insert(name),
                    None => self.roster.remove(&name),
                };
            }
            _ => {}
        }
    }

    fn ledger(&mut self, before: Option<&Ledger>, after: &Ledger, by: &Caller, concerned: &mut BTreeSet<PlayerId>) {
        let now = self.now;
        let id = &after.id;
        let (claims, capacity) = (after.claims.len(), after.capacity as usize);
        self.hold(Invariant::Capacity, claims <= capacity, || format!("{id} has {claims} claims on {capacity} slots"));
        let stopped = after.state == ServerState::Stopped;
        self.hold(Invariant::NoLeak, !stopped || claims == 0, || format!("{id} is stopped but has {claims} claims"));
        if after.is_full() || [Some(after), before].into_iter().flatten().any(|ledger| self.turns_away(ledger)) {
            self.known(id).had_no_room = true;
        }
        let none = BTreeMap::new();
        let old = before.map_or(&none, |before| &before.claims);
        let removed = old.iter().filter(|(player, _)| !after.claims.contains_key(*player)).collect::<Vec<_>>();
        let added = after.claims.iter().filter(|(player, claim)| old.get(*player) != Some(*claim)).collect::<Vec<_>>();
        concerned.extend(removed.iter().chain(&added).map(|(player, _)| (*player).clone()));

        if let Some(before) = before {
            if after.state == ServerState::Ready && added.is_empty() && !removed.is_empty() {
                let listed = after.listed.is_some();
                self.hold(Invariant::NoLeak, listed, || format!("{id} has a freed slot that the index does not list"));
            }
            self.state(before, after, by);
            if let Caller::Server(server, hash) = by {
                let own = server == id && before.token_hash == *hash;
                self.hold(Invariant::Authority, own, || format!("{by:?} changed {id}"));
            }
        } else {
            let live = self.ledgers.values().filter(|ledger| ledger.pool == after.pool);
            let live = live.filter(|ledger| ledger.state != ServerState::Stopped).count();
            let most = self.max_servers as usize;
            self.hold(Invariant::NoOverLaunch, live <= most, || {
                format!("{live} servers are live with the new {id}, but the limit is {most}")
            });
        }
        if !stopped {
            let theirs = |player: &PlayerId| match by {
                Caller::Player(caller) => caller == player,
                Caller::Backend(callers) => callers.contains(player),
                Caller::Setup => false,
                _ => true,
            };
            for (player, claim) in &added {
                self.hold(Invariant::Authority, theirs(player), || {
                    format!("{by:?} claimed a slot on {id} for {player}")
                });
                if let (Claim::Reserved(placement), true) = (claim, after.ready_at.is_some()) {
                    let grace = Span::seconds(LONGEST_GRACE_SECONDS as u32);
                    let latest = now + after.reservation.max(grace) + CLOCKS + Span(50);
                    let ends = after.expires(Claim::Reserved(*placement)).is_some_and(|end| end <= latest);
                    self.hold(Invariant::NoLeak, ends, || format!("{player}'s {claim:?} on {id} expires too late"));
                }
            }
            for (player, claim) in &removed {
                let allowed = theirs(player) || after.is_over(**claim, now + CLOCKS);
                self.hold(Invariant::Authority, allowed, || format!("{by:?} removed {player}'s claim from {id}"));
            }
        }
        for (player, _) in &removed {
            self.lost(player, before, after);
        }
    }

    fn state(&mut self, before: &Ledger, after: &Ledger, by: &Caller) {
        let (id, now) = (&after.id, self.now);
        let changed = before.state != after.state;
        if let (None, Some(sent)) = (before.ready_at, after.ready_at) {
            self.known(id).registered_late = (now - sent).max(Span(0));
        }
        let later = before.lease_until.is_none() || before.lease_until <= after.lease_until;
        self.hold(Invariant::NoLeak, later, || format!("the lease of {id} became shorter"));
        let theirs = before.drain_by == after.drain_by || *by == Caller::Operator;
        let newer = before.requested_at <= after.requested_at;
        self.hold(Invariant::KeptWord, theirs && newer, || format!("{by:?} changed the drain deadline of {id}"));
        let current = self.pools.get(before.pool.as_str()).is_none_or(|pool| pool.takes(before.build));
        if changed && after.state == ServerState::Draining && *by == Caller::Schedule && current {
            let claims = before.claims.len();
            let what = || format!("scale-in drained {id}, which has {claims} claims");
            self.hold(Invariant::KeptWord, claims == 0, what);
        }
        if changed && after.state == ServerState::Stopped {
            let died = self.known(id).died || before.state == ServerState::Starting;
            let overdue = before.drain_by.is_some_and(|by| by <= now + CLOCKS);
            let by_itself = matches!(by, Caller::Server(..));
            let ends_a_game = before.has_players() && !died && !overdue && !by_itself;
            self.hold(Invariant::KeptWord, !ends_a_game, || {
                format!("{by:?} stopped {id}, which runs and has connected players: {before:?}")
            });
            self.known(id).disturbed = Some(now);
        }
    }

    /// Checks a removed claim: a promise for it must have ended.
    fn lost(&mut self, player: &PlayerId, before: Option<&Ledger>, after: &Ledger) {
        let now = self.now;
        let Some(promise) = self.promises.get(player).filter(|promise| promise.server == after.id).cloned() else {
            return;
        };
        let over = promise.until <= now + CLOCKS + self.known(&after.id).registered_late;
        let gives_up = self.freeing.get(player).is_some_and(|until| now <= *until);
        let stopped = after.state == ServerState::Stopped;
        let died = stopped && {
            let long = before.and_then(|before| before.lease_until.map(|until| until + before.lease_for.times(3)));
            let silent = long.is_some_and(|end| end <= now + CLOCKS);
            let overdue = before.is_some_and(|before| before.drain_by.is_some_and(|by| by <= now + CLOCKS));
            let starting = before.is_some_and(|before| before.state == ServerState::Starting);
            self.known(&after.id).died || silent || overdue || starting
        };
        // A concurrent call of the same player has moved the seat to a newer placement, so its answer is the newer
        // promise.
        let held = before.and_then(|before| before.claims.get(player)).map(|claim| claim.placement());
        let moved = self.seats.get(player).map(Seat::placement) > held;
        let kept = over || gives_up || died || moved;
        self.hold(Invariant::KeptWord, kept, || {
            format!(
                "{player} was promised a slot on {} until {:?}, but the claim was removed at {now:?}: {after:?}",
                after.id, promise.until
            )
        });
        self.promises.remove(player);
    }

    fn frontier(&mut self, before: Option<&Frontier>, after: &Frontier, used_up: bool) {
        let Some(before) = before else { return };
        // A frontier that returns to a freed server starts none.
        if before.server != after.server && !before.freed.contains(&after.server) {
            let capacity = self.ledgers.get(&after.server).map_or(1, |ledger| ledger.capacity);
            let asked = capacity.saturating_sub(after.remaining).max(1);
            self.hold(Invariant::NoOverLaunch, before.remaining < asked, || {
                format!("a frontier advanced from {before:?} to {after:?}, although only {asked} slots were needed")
            });
        } else if before.server == after.server && used_up {
            let server = before.server.clone();
            let turns_away = self.ledgers.get(&server).is_some_and(|ledger| self.turns_away(ledger));
            let reason = turns_away || self.known(&server).had_no_room || self.retired(&server);
            self.hold(Invariant::NoOverLaunch, reason, || {
                format!(
                    "a frontier was marked used up with {} slots left on {server}, which had room",
                    before.remaining
                )
            });
        }
    }

    /// Whether the server takes no claims by the clock that is furthest ahead: a lease runs out without a write.
    fn turns_away(&self, ledger: &Ledger) -> bool {
        !ledger.takes_claims(self.now + self.skew)
    }

    /// Whether the server has an older build than its pool.
    fn retired(&self, server: &ServerId) -> bool {
        let ledger = self.ledgers.get(server);
        ledger.is_some_and(|it| self.pools.get(it.pool.as_str()).is_some_and(|pool| it.build < pool.build))
    }

    /// Notes that ECS started a process for an attempt of a server. Each attempt may have one.
    pub(super) fn task_started(&mut self, now: Time, server: &ServerId, token: &str) {
        self.now = now;
        self.known(server).died = false;
        let count = self.tasks.entry((server.clone(), token.to_owned())).or_default();
        *count += 1;
        let count = *count;
        self.hold(Invariant::NoOverLaunch, count == 1, || format!("{count} tasks run for one attempt of {server}"));
    }

    /// Notes that the process with this token has died or is about to end.
    pub(super) fn died(&mut self, server: &ServerId, token: &TokenHash) {
        // The death of a process of an older attempt does not concern the server.
        if self.ledgers.get(server).is_some_and(|ledger| ledger.token_hash == *token) {
            self.known(server).died = true;
            for servers in self.inside.values_mut() {
                servers.remove(server);
            }
        }
    }

    /// Notes that a server admits a player, and checks capacity and place.
    pub(super) fn let_in(&mut self, now: Time, server: &ServerId, player: &PlayerId, placement: Placement) {
        self.now = now;
        self.inside.entry(player.clone()).or_default().insert(server.clone(), placement);
        let inside = self.inside.values().filter(|servers| servers.contains_key(server)).count();
        let capacity = self.ledgers.get(server).map_or(0, |ledger| ledger.capacity as usize);
        self.hold(Invariant::Capacity, inside <= capacity, || {
            format!("{inside} players are connected to {server}, which has {capacity} slots")
        });
        self.check_player(player);
    }

    /// Notes that a server has closed a player's connection. Its disconnect call follows.
    pub(super) fn let_out(&mut self, server: &ServerId, player: &PlayerId) {
        if let Some(servers) = self.inside.get_mut(player) {
            servers.remove(server);
        }
        self.promises.remove(player);
    }

    /// Checks that the player is connected to one server at most, and that ledger and seat agree with that.
    fn check_player(&mut self, player: &PlayerId) {
        let servers = self.inside.get(player).cloned().unwrap_or_default();
        let mut places = 0;
        for (server, placement) in servers {
            let Some(ledger) = self.ledgers.get(&server).filter(|ledger| ledger.state != ServerState::Stopped) else {
                continue;
            };
            places += 1;
            let claim = ledger.claims.get(player).copied();
            let seat = self.seats.get(player).cloned();
            let seated = matches!(&seat, Some(Seat::Assigned(place)) if place.server == server && place.claim == Claim::Connected(placement));
            let agree = claim == Some(Claim::Connected(placement)) && seated;
            self.hold(Invariant::OnePlace, agree, || {
                format!(
                    "{player} is connected to {server} under {placement:?}, but the ledger has {claim:?} and the seat \
                     is {seat:?}"
                )
            });
        }
        if places > 0 {
            self.hold(Invariant::OnePlace, places == 1, || format!("{player} is connected to {places} servers"));
        }
    }

    /// Returns all connected players with their servers.
    pub(super) fn inside(&self) -> impl Iterator<Item = (&PlayerId, &ServerId)> {
        self.inside.iter().flat_map(|(player, servers)| servers.keys().map(move |server| (player, server)))
    }

    /// Notes a call that frees the player's slot on any server. Promises to the player do not count for a while.
    pub(super) fn gives_up(&mut self, now: Time, player: &PlayerId) {
        self.promises.remove(player);
        self.freeing.insert(player.clone(), now + LINGERS);
    }

    /// Notes that a server sends a disconnect. Until it is answered, the player's slot on that server may be freed at
    /// any moment.
    pub(super) fn disconnect(&mut self, server: &ServerId, player: &PlayerId) {
        if self.promises.get(player).is_some_and(|promise| promise.server == *server) {
            self.promises.remove(player);
        }
        self.leaving.insert((player.clone(), server.clone()));
    }

    /// Notes that a disconnect was answered.
    pub(super) fn gone(&mut self, now: Time, server: &ServerId, player: &PlayerId) {
        self.leaving.remove(&(player.clone(), server.clone()));
        self.known(server).disturbed = Some(now);
    }

    /// Notes that a function's answer promises a slot, and checks that the ledger has it. `since` is the start of the
    /// call.
    pub(super) fn promised(&mut self, now: Time, since: Time, player: &PlayerId, server: &ServerId, until: Time) {
        self.now = now;
        let gives_up = self.freeing.get(player).is_some_and(|until| now <= *until);
        let disturbed = self.known(server).disturbed.is_some_and(|at| at >= since) || self.known(server).died;
        let leaves = self.leaving.contains(&(player.clone(), server.clone()));
        if gives_up || disturbed || leaves || until <= now + CLOCKS {
            return;
        }
        let ledger = self.ledgers.get(server).cloned();
        let held = ledger.as_ref().is_some_and(|ledger| ledger.claims.contains_key(player));
        self.hold(Invariant::KeptWord, held, || {
            format!("an answer promises {player} a slot on {server}, but the ledger has no claim: {ledger:?}")
        });
        self.promises.insert(player.clone(), Promise { server: server.clone(), until });
    }
}
