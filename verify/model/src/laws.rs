//! The invariants as laws: each is a property of a single state.

use domain::{Assignment, Claim, Ledger, Seat, ServerState, bug};

use super::{
    scope::{Scope, TICK, player_of, small},
    world::{Process, World},
};

/// A law: its name, and whether a state keeps it.
pub(super) type Law = (&'static str, fn(&Scope, &World) -> bool);

/// All laws.
pub(super) const LAWS: [Law; 7] = [
    ("I1 capacity", capacity),
    ("I2 one place", one_place),
    ("I3 no leak: a freed slot is listed", listed),
    ("I3 no leak: in the end every slot is free or used", no_stuck_slot),
    ("I4 no over-launch", no_over_launch),
    ("I6 kept word: a promised slot is in the ledger", kept_word),
    ("I6 kept word: no running server in use is stopped or scaled in", no_server_in_use_ends),
];

/// Returns the names of all laws.
pub fn laws() -> [&'static str; LAWS.len()] {
    LAWS.map(|(name, _)| name)
}

/// Checks that neither claims nor connected players exceed the capacity.
fn capacity(_: &Scope, world: &World) -> bool {
    (0..).zip(&world.ledgers).all(|(n, ledger)| {
        let slots = ledger.capacity as usize;
        ledger.claims.len() <= slots && world.inside.iter().filter(|inside| inside.server == n).count() <= slots
    })
}

/// Checks that a player is connected to one server at most, and that ledger and seat are connected under that
/// placement.
fn one_place(_: &Scope, world: &World) -> bool {
    world.inside.iter().all(|inside| {
        let once = world.inside.iter().filter(|other| other.player == inside.player).count() == 1;
        let Some(ledger) = world.ledger(inside.server) else { return false };
        let stopped = ledger.state == ServerState::Stopped;
        let claim = Claim::Connected(inside.placement);
        let claimed = ledger.claims.get(&Scope::player(inside.player)) == Some(&claim);
        let seat = world.seats.get(usize::from(inside.player)).and_then(Option::as_deref);
        let seated =
            matches!(seat, Some(Seat::Assigned(Assignment { server, claim: held, .. })) if *server == ledger.id && *held == claim);
        once && (stopped || claimed && seated)
    })
}

/// Checks that a ready server with room is in the index.
///
/// Two exceptions last until the server's next heartbeat: its lease ran out, or an eviction freed more slots than it
/// filled.
fn listed(scope: &Scope, world: &World) -> bool {
    let lapses = scope.pool.limits.lease < TICK.times(10);
    lapses
        || world.ledgers.iter().zip(&world.hidden).all(|(ledger, hidden)| {
            let found = ledger.listed.is_some() || *hidden;
            ledger.state != ServerState::Ready || ledger.is_full() || found
        })
}

/// Checks that no slot is stuck, from every state without a call in flight, once faults stop and time passes.
///
/// Then every slot is free or has its player, every server with room is listed, and every player gets a slot if there
/// is one.
fn no_stuck_slot(scope: &Scope, world: &World) -> bool {
    if !world.flights.is_empty() || !world.late.is_empty() {
        return true;
    }
    let _in_the_code = bug::inject(scope.bug);
    let rest = world.settle(scope);
    let used = |n: u8, ledger: &Ledger| ledger.claims.keys().all(|id| has(&rest, n, small(player_of(id))));
    let slots = (0..).zip(&rest.ledgers).all(|(n, ledger)| {
        let found = ledger.listed.is_some() || ledger.is_full() || ledger.state != ServerState::Ready;
        found && used(n, ledger)
    });
    let room = rest.ledgers.iter().any(|ledger| ledger.listed.is_some());
    let may_start = rest.status.live < scope.pool.limits.max_servers;
    let placed = (0..scope.players).all(|player| {
        let inside = rest.inside.iter().any(|inside| inside.player == player);
        inside || rest.has_promise(player) || !room && !may_start
    });
    slots && placed
}

/// Whether the player is connected to the server, or was placed on it by the last join.
fn has(rest: &World, server: u8, player: u8) -> bool {
    let inside = rest.inside.iter().any(|inside| inside.server == server && inside.player == player);
    inside
        || rest.has_promise(player)
            && rest.promises.get(usize::from(player)).is_some_and(|it| it.is_some_and(|it| it.server == server))
}

/// Checks that a server is started only if the one before has no slots left, and that live servers are within the
/// limit.
///
/// So every slot of every started server has been handed out or is at the frontier.
fn no_over_launch(scope: &Scope, world: &World) -> bool {
    let started = world.ledgers.len().saturating_sub(scope.ready.into());
    let limits = &scope.pool.limits;
    let accounted = world.handed + world.frontier.as_ref().map_or(0, |frontier| frontier.remaining);
    world.status.live <= limits.max_servers && started * limits.capacity as usize <= accounted as usize
}

/// Checks that a promised slot is in the ledger as long as the player's seat still names its placement.
fn kept_word(_: &Scope, world: &World) -> bool {
    (0..).zip(&world.promises).all(|(player, promise)| {
        let Some(promise) = promise.filter(|promise| world.now() < promise.until) else { return true };
        let Some(ledger) = world.ledger(promise.server) else { return true };
        let seat = world.seats.get(usize::from(player)).and_then(Option::as_deref);
        let stands =
            matches!(seat, Some(Seat::Assigned(place)) if place.server == ledger.id && place.claim.placement() == promise.placement);
        let held = ledger.claims.get(&Scope::player(player)).is_some_and(|claim| claim.placement() == promise.placement);
        !stands || held || ledger.state == ServerState::Stopped
    })
}

/// Checks that no running server is stopped with connected players, and that scale-in drains only servers without
/// claims.
///
/// Operators' deadlines, which may stop a server with players, are not in the model. A new build may drain servers in
/// use.
fn no_server_in_use_ends(_: &Scope, world: &World) -> bool {
    (0..).zip(&world.ledgers).all(|(n, ledger)| {
        let runs = world.process(n) == Process::Up;
        let ended = ledger.state == ServerState::Stopped && runs && world.inside.iter().any(|it| it.server == n);
        let scaled_in = ledger.state == ServerState::Draining && ledger.build == world.build;
        !ended && (!scaled_in || ledger.claims.is_empty())
    })
}
