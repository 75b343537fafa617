//! The invariants, looked at after every write and every answer.
//!
//! The table is known from the engine itself, item by item as it is read back after each write; who is inside is known
//! from the simulated game servers. An invariant is checked where it could break: a write on a ledger, a player let in,
//! an answer given.
//!
//! | name | checked |
//! |---|---|
//! | I1 capacity | after each write on a ledger, and when somebody is let in |
//! | I2 one place | for everybody whom a write concerns: who is inside holds that claim and that seat, both connected |
//! | I3 no leak | a stopped server has no claims; a write that only frees slots leaves a ready server listed; nothing is held longer than the pool says; at the end, all of it can be used |
//! | I4 no over-launch | a frontier moves on only when it has too little left, and is used up only by a server that had no room; live servers within the maximum; one task per server and attempt |
//! | I5 nothing forgotten | at the end: no launch undecided, no task that no server stands for, the count right |
//! | I6 kept word | what was answered with 200 or 202 is in the ledger, and stays there until it may go |
//! | I7 authority | no write on a server by another's token, none by strangers, none on somebody else's claim |

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

/// How far apart two clocks may be, and a little for the way.
const CLOCKS: Span = Span(5_000 + 1_500);
/// The longest grace that a simulated server asks for.
pub(super) const LONGEST_GRACE_SECONDS: u64 = 20;
/// A call that has not been answered may still take effect for so long.
const LINGERS: Span = Span::seconds(90);

/// An invariant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the table above says what each is")]
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
    /// Every one.
    pub const ALL: [Self; 7] = [
        Self::Capacity,
        Self::OnePlace,
        Self::NoLeak,
        Self::NoOverLaunch,
        Self::NothingForgotten,
        Self::KeptWord,
        Self::Authority,
    ];

    /// Its name.
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

/// An invariant that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// When, in milliseconds since the start.
    pub at_ms: u64,
    /// Which.
    pub invariant: Invariant,
    /// What was seen.
    pub what: String,
}

/// Who makes a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// The simulation, before anything begins.
    Setup,
    /// A player.
    Player(PlayerId),
    /// A trusted backend, for these players.
    Backend(Vec<PlayerId>),
    /// A game server with its token.
    Server(ServerId, TokenHash),
    /// An operator.
    Operator,
    /// Somebody with a token that is not theirs.
    Stranger,
    /// The schedule.
    Schedule,
    /// A task event.
    Event,
}

/// What a player was promised.
#[derive(Clone, Debug)]
struct Promise {
    server: ServerId,
    until: Time,
}

/// What is known of a server besides its ledger.
#[derive(Clone, Debug, Default)]
struct Known {
    /// A process of it has died, or was told to.
    died: bool,
    /// It has had no room, or has not taken claims, at some time.
    had_no_room: bool,
    /// How long its registration was under way to the table: reservations count from when it was sent.
    registered_late: Span,
    /// When somebody last had reason to end one of its promises: a disconnect, a stop, the end of a process.
    disturbed: Option<Time>,
}

/// The table and the world, as far as the invariants need them.
#[derive(Default)]
pub(super) struct Checks {
    begun: Time,
    now: Time,
    pub(super) ledgers: BTreeMap<ServerId, Ledger>,
    pub(super) seats: BTreeMap<PlayerId, Seat>,
    pub(super) concurrent_launches: BTreeMap<String, Frontier>,
    pub(super) statuses: BTreeMap<String, PoolStatus>,
    pub(super) roster: BTreeSet<String>,
    max_servers: u32,
    /// How far a function's clock may be ahead.
    skew: Span,
    pub(super) pools: BTreeMap<String, Pool>,
    known: BTreeMap<ServerId, Known>,
    inside: BTreeMap<PlayerId, BTreeMap<ServerId, Placement>>,
    tasks: BTreeMap<(ServerId, String), u32>,
    promises: BTreeMap<PlayerId, Promise>,
    /// Players to whom a server is disconnect.
    leaving: BTreeSet<(PlayerId, ServerId)>,
    /// Until when calls that give up what the player holds may take effect.
    giving_up: BTreeMap<PlayerId, Time>,
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

    fn hold(&mut self, invariant: Invariant, holds: bool, what: impl FnOnce() -> String) {
        *self.checked.entry(invariant).or_default() += 1;
        if !holds {
            let at_ms = (self.now - self.begun).0.unsigned_abs();
            self.violations.push(Violation { at_ms, invariant, what: what() });
        }
    }

    /// Something that must hold at the end.
    pub(super) fn end(&mut self, now: Time, invariant: Invariant, holds: bool, what: impl FnOnce() -> String) {
        self.now = now;
        self.hold(invariant, holds, what);
    }

    fn known(&mut self, server: &ServerId) -> &mut Known {
        self.known.entry(server.clone()).or_default()
    }

    /// A write has changed these items.
    pub(super) fn wrote(&mut self, now: Time, by: &Caller, update: &str, changes: &[Change]) {
        self.now = now;
        self.hold(Invariant::Authority, *by != Caller::Stranger || changes.is_empty(), || {
            format!("a stranger has changed {:?}", changes.iter().map(|change| &change.key).collect::<Vec<_>>())
        });
        let mut concerned = BTreeSet::new();
        // A transaction's new ledger says what its frontier may do.
        let (ledgers, others) = changes.iter().partition::<Vec<_>, _>(|change| change.key.1 == "LEDGER");
        for change in ledgers.into_iter().chain(others) {
            self.take(change, by, update, &mut concerned);
        }
        for player in concerned {
            self.look_inside(&player);
        }
    }

    /// The item as it is now; all but the roster's entries stay, and stay readable.
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
                self.hold(Invariant::OnePlace, forward, || format!("the placement of {player}'s seat goes back"));
                let theirs = match by {
                    Caller::Player(caller) => *caller == player,
                    Caller::Backend(callers) => callers.contains(&player),
                    _ => true,
                };
                self.hold(Invariant::Authority, theirs, || format!("{by:?} has written the seat of {player}"));
                concerned.insert(player);
            }
            "STATUS" => {
                if let Some(status) = self.read(change, table::pool_status::from_item) {
                    self.statuses.insert(pk.clone(), status);
                }
            }
            frontier if frontier.starts_with("FRONTIER#") => {
                if let Some(after) = self.read(change, table::frontier::from_item) {
                    let before = self.concurrent_launches.insert(format!("{pk}/{sk}"), after.clone());
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
        self.hold(Invariant::Capacity, claims <= capacity, || format!("{id}: {claims} claims of {capacity} slots"));
        let stopped = after.state == ServerState::Stopped;
        self.hold(Invariant::NoLeak, !stopped || claims == 0, || format!("{id} is stopped and has {claims} claims"));
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
                self.hold(Invariant::Authority, own, || format!("{by:?} has changed {id}"));
            }
        } else {
            let live = self.ledgers.values().filter(|ledger| ledger.pool == after.pool);
            let live = live.filter(|ledger| ledger.state != ServerState::Stopped).count();
            let most = self.max_servers as usize;
            self.hold(Invariant::NoOverLaunch, live <= most, || format!("{live} servers live, of {most}: {id} is new"));
        }
        if !stopped {
            let theirs = |player: &PlayerId| match by {
                Caller::Player(caller) => caller == player,
                Caller::Backend(callers) => callers.contains(player),
                Caller::Setup => false,
                _ => true,
            };
            for (player, claim) in &added {
                self.hold(Invariant::Authority, theirs(player), || format!("{by:?} has claimed for {player} on {id}"));
                if let (Claim::Reserved(placement), true) = (claim, after.ready_at.is_some()) {
                    let grace = Span::seconds(LONGEST_GRACE_SECONDS as u32);
                    let latest = now + after.reservation.max(grace) + CLOCKS + Span(50);
                    let ends = after.expires(Claim::Reserved(*placement)).is_some_and(|end| end <= latest);
                    self.hold(Invariant::NoLeak, ends, || format!("{player}'s {claim:?} on {id} ends too late"));
                }
            }
            for (player, claim) in &removed {
                let allowed = theirs(player) || after.is_over(**claim, now + CLOCKS);
                self.hold(Invariant::Authority, allowed, || format!("{by:?} has removed {player} from {id}"));
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
        self.hold(Invariant::NoLeak, later, || format!("the lease of {id} goes back"));
        let theirs = before.drain_by == after.drain_by || *by == Caller::Operator;
        let newer = before.requested_at <= after.requested_at;
        self.hold(Invariant::KeptWord, theirs && newer, || format!("{by:?} has changed the deadline of {id}"));
        let current = self.pools.get(before.pool.as_str()).is_none_or(|pool| pool.takes(before.build));
        if changed && after.state == ServerState::Draining && *by == Caller::Schedule && current {
            let claims = before.claims.len();
            let what = || format!("{id} is scaled in with {claims} claims");
            self.hold(Invariant::KeptWord, claims == 0, what);
        }
        if changed && after.state == ServerState::Stopped {
            let died = self.known(id).died || before.state == ServerState::Starting;
            let overdue = before.drain_by.is_some_and(|by| by <= now + CLOCKS);
            let by_itself = matches!(by, Caller::Server(..));
            let ends_a_game = before.has_players() && !died && !overdue && !by_itself;
            self.hold(Invariant::KeptWord, !ends_a_game, || {
                format!("{by:?} has stopped {id}, which lives and has players inside: {before:?}")
            });
            self.known(id).disturbed = Some(now);
        }
    }

    /// A claim is gone: it must not have been promised for longer.
    fn lost(&mut self, player: &PlayerId, before: Option<&Ledger>, after: &Ledger) {
        let now = self.now;
        let Some(promise) = self.promises.get(player).filter(|promise| promise.server == after.id).cloned() else {
            return;
        };
        let over = promise.until <= now + CLOCKS + self.known(&after.id).registered_late;
        let gives_up = self.giving_up.get(player).is_some_and(|until| now <= *until);
        let stopped = after.state == ServerState::Stopped;
        let died = stopped && {
            let long = before.and_then(|before| before.lease_until.map(|until| until + before.lease_for.times(3)));
            let silent = long.is_some_and(|end| end <= now + CLOCKS);
            let overdue = before.is_some_and(|before| before.drain_by.is_some_and(|by| by <= now + CLOCKS));
            let starting = before.is_some_and(|before| before.state == ServerState::Starting);
            self.known(&after.id).died || silent || overdue || starting
        };
        // Another call of the player, under way at the same time, has moved the seat on since: its answer is the newer one.
        let held = before.and_then(|before| before.claims.get(player)).map(|claim| claim.placement());
        let moved = self.seats.get(player).map(Seat::placement) > held;
        let kept = over || gives_up || died || moved;
        self.hold(Invariant::KeptWord, kept, || {
            format!(
                "{player} was promised a slot on {} until {:?}, and it is gone at {now:?}: {after:?}",
                after.id, promise.until
            )
        });
        self.promises.remove(player);
    }

    fn frontier(&mut self, before: Option<&Frontier>, after: &Frontier, used_up: bool) {
        let Some(before) = before else { return };
        // One that goes back starts no server.
        if before.server != after.server && !before.freed.contains(&after.server) {
            let capacity = self.ledgers.get(&after.server).map_or(1, |ledger| ledger.capacity);
            let asked = capacity.saturating_sub(after.remaining).max(1);
            self.hold(Invariant::NoOverLaunch, before.remaining < asked, || {
                format!("a frontier moves on from {before:?} to {after:?}, and {asked} slots were wanted")
            });
        } else if before.server == after.server && used_up {
            let server = before.server.clone();
            let turns_away = self.ledgers.get(&server).is_some_and(|ledger| self.turns_away(ledger));
            let reason = turns_away || self.known(&server).had_no_room || self.retired(&server);
            self.hold(Invariant::NoOverLaunch, reason, || {
                format!("a frontier is used up with {} slots left on {server}, which had room", before.remaining)
            });
        }
    }

    /// Whether somebody's clock says that it takes no claims now: a lease runs out without a write.
    fn turns_away(&self, ledger: &Ledger) -> bool {
        !ledger.takes_claims(self.now + self.skew)
    }

    fn retired(&self, server: &ServerId) -> bool {
        let ledger = self.ledgers.get(server);
        ledger.is_some_and(|it| self.pools.get(it.pool.as_str()).is_some_and(|pool| it.build < pool.build))
    }

    /// ECS has started a process for an attempt of a server.
    pub(super) fn task_started(&mut self, now: Time, server: &ServerId, token: &str) {
        self.now = now;
        self.known(server).died = false;
        let count = self.tasks.entry((server.clone(), token.to_owned())).or_default();
        *count += 1;
        let count = *count;
        self.hold(Invariant::NoOverLaunch, count == 1, || format!("{count} tasks run for one attempt of {server}"));
    }

    /// The process with this token has died, or is about to end.
    pub(super) fn died(&mut self, server: &ServerId, token: &TokenHash) {
        // A process of an older attempt is not the server.
        if self.ledgers.get(server).is_some_and(|ledger| ledger.token_hash == *token) {
            self.known(server).died = true;
            for servers in self.inside.values_mut() {
                servers.remove(server);
            }
        }
    }

    /// A server lets a player in.
    pub(super) fn let_in(&mut self, now: Time, server: &ServerId, player: &PlayerId, placement: Placement) {
        self.now = now;
        self.inside.entry(player.clone()).or_default().insert(server.clone(), placement);
        let inside = self.inside.values().filter(|servers| servers.contains_key(server)).count();
        let capacity = self.ledgers.get(server).map_or(0, |ledger| ledger.capacity as usize);
        self.hold(Invariant::Capacity, inside <= capacity, || format!("{inside} inside {server} of {capacity} slots"));
        self.look_inside(player);
    }

    /// A server has let a player out, and disconnect next.
    pub(super) fn let_out(&mut self, server: &ServerId, player: &PlayerId) {
        if let Some(servers) = self.inside.get_mut(player) {
            servers.remove(server);
        }
        self.promises.remove(player);
    }

    fn look_inside(&mut self, player: &PlayerId) {
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
                format!("{player} is inside {server} under {placement:?}; the ledger says {claim:?}, the seat {seat:?}")
            });
        }
        if places > 0 {
            self.hold(Invariant::OnePlace, places == 1, || format!("{player} is inside {places} servers"));
        }
    }

    /// Who is inside, by server.
    pub(super) fn inside(&self) -> impl Iterator<Item = (&PlayerId, &ServerId)> {
        self.inside.iter().flat_map(|(player, servers)| servers.keys().map(move |server| (player, server)))
    }

    /// Something is called that takes away what the player holds, wherever it is by then.
    pub(super) fn gives_up(&mut self, now: Time, player: &PlayerId) {
        self.promises.remove(player);
        self.giving_up.insert(player.clone(), now + LINGERS);
    }

    /// A server disconnects a player. Until it is answered, a slot there may go at any moment.
    pub(super) fn disconnect(&mut self, server: &ServerId, player: &PlayerId) {
        if self.promises.get(player).is_some_and(|promise| promise.server == *server) {
            self.promises.remove(player);
        }
        self.leaving.insert((player.clone(), server.clone()));
    }

    /// a disconnect has been answered.
    pub(super) fn gone(&mut self, now: Time, server: &ServerId, player: &PlayerId) {
        self.leaving.remove(&(player.clone(), server.clone()));
        self.known(server).disturbed = Some(now);
    }

    /// A function answers that the player holds a slot. `since` is when the call began.
    pub(super) fn promised(&mut self, now: Time, since: Time, player: &PlayerId, server: &ServerId, until: Time) {
        self.now = now;
        let gives_up = self.giving_up.get(player).is_some_and(|until| now <= *until);
        let disturbed = self.known(server).disturbed.is_some_and(|at| at >= since) || self.known(server).died;
        let leaves = self.leaving.contains(&(player.clone(), server.clone()));
        if gives_up || disturbed || leaves || until <= now + CLOCKS {
            return;
        }
        let ledger = self.ledgers.get(server).cloned();
        let held = ledger.as_ref().is_some_and(|ledger| ledger.claims.contains_key(player));
        self.hold(Invariant::KeptWord, held, || {
            format!("{player} is told of a slot on {server} that the ledger does not hold: {ledger:?}")
        });
        self.promises.insert(player.clone(), Promise { server: server.clone(), until });
    }
}
