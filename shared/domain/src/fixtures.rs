//! Ids and images for this crate's tests: a pool `p`, its server `s` with two slots, and players named by one letter.

use super::{
    Assignment, Claim, Launch, Ledger, Placement, PlayerId, PoolLimits, PoolName, Seat, ServerId, ServerState, Span,
    Time, TokenHash,
};

/// The current time in the tests.
pub(super) const NOW: Time = Time(2_000_000);
/// One millisecond, the least difference between two times.
pub(super) const TICK: Span = Span(1);

/// The expected labels where no case holds.
pub(super) const NONE: [&str; 0] = [];

/// The labels of the cases that satisfy `holds`. A test compares them with the expected labels, so a failure names its
/// case.
pub(super) fn which<T, const N: usize>(cases: [(&'static str, T); N], holds: impl Fn(T) -> bool) -> Vec<&'static str> {
    cases.into_iter().filter_map(|(label, case)| holds(case).then_some(label)).collect()
}

/// A server in each state, without claims.
pub(super) fn states() -> [(&'static str, Ledger); 4] {
    [("starting", starting(&[])), ("ready", ready(&[])), ("draining", draining(&[])), ("stopped", stopped())]
}

pub(super) fn player(name: &str) -> PlayerId {
    PlayerId::parse(name).unwrap()
}

pub(super) fn server(name: &str) -> ServerId {
    ServerId::parse(name).unwrap()
}

pub(super) fn pool(name: &str) -> PoolName {
    PoolName::parse(name).unwrap()
}

/// The hash of the token of server `s`.
pub(super) fn token() -> TokenHash {
    TokenHash::of("token")
}

pub(super) fn placement(placement: i64) -> Placement {
    Placement::new(placement).unwrap()
}

pub(super) fn reserved(of: i64) -> Claim {
    Claim::Reserved(placement(of))
}

pub(super) fn connected(of: i64) -> Claim {
    Claim::Connected(placement(of))
}

/// The seat of a player with this claim on a server of the pool `p`.
pub(super) fn seat(on: &str, claim: Claim) -> Seat {
    Seat::Assigned(Assignment { server: server(on), pool: pool("p"), claim })
}

/// The ledger of server `s` while it starts, with these claims and without a launch.
pub(super) fn starting(claims: &[(&str, Claim)]) -> Ledger {
    let limits = PoolLimits { capacity: 2, ..PoolLimits::DEFAULT };
    let claims = claims.iter().map(|(name, claim)| (player(name), *claim)).collect();
    Ledger { claims, ..Ledger::new(server("s"), pool("p"), &limits, token()) }
}

/// A launch whose RunTask call is due now and whose deadline is one second later.
pub(super) fn launch() -> Launch {
    Launch {
        token: "secret".to_owned(),
        call_at: NOW,
        deadline: NOW + Span(1_000),
        time_to_start: Span(1_000),
        spec: "also secret".to_owned(),
    }
}

/// The ledger of server `s` once it has registered, with these claims: its lease ends now, and the index does not list
/// it.
pub(super) fn ready(claims: &[(&str, Claim)]) -> Ledger {
    Ledger {
        state: ServerState::Ready,
        lease_until: Some(NOW),
        seen: Some(NOW),
        ready_at: Some(NOW),
        ..starting(claims)
    }
}

pub(super) fn draining(claims: &[(&str, Claim)]) -> Ledger {
    Ledger { state: ServerState::Draining, ..ready(claims) }
}

pub(super) fn stopped() -> Ledger {
    Ledger { state: ServerState::Stopped, ..ready(&[]) }
}
