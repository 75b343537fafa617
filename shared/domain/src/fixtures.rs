//! Names and images for the tests of this module: a pool `p`, its server `s` with two slots, and players of one letter.

use super::{
    Assignment, Claim, Launch, Ledger, Placement, PlayerId, PoolLimits, PoolName, Seat, ServerId, ServerState, Span,
    Time, TokenHash,
};

/// The time of a test.
pub(super) const NOW: Time = Time(2_000_000);
/// A moment.
pub(super) const TICK: Span = Span(1);

/// Of no case.
pub(super) const NONE: [&str; 0] = [];

/// The labels of the cases that satisfy `holds`, to be compared with the labels that should: a failure names its case.
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

/// The hash of the server's token.
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

/// The seat of a player who is placed on a server of the pool `p`.
pub(super) fn seat(on: &str, claim: Claim) -> Seat {
    Seat::Assigned(Assignment { server: server(on), pool: pool("p"), claim })
}

/// The server as the launcher makes it.
pub(super) fn starting(claims: &[(&str, Claim)]) -> Ledger {
    let limits = PoolLimits { capacity: 2, ..PoolLimits::DEFAULT };
    let claims = claims.iter().map(|(name, claim)| (player(name), *claim)).collect();
    Ledger { claims, ..Ledger::new(server("s"), pool("p"), &limits, token()) }
}

/// A launch that is due at once, and has a second.
pub(super) fn launch() -> Launch {
    Launch {
        token: "secret".to_owned(),
        call_at: NOW,
        deadline: NOW + Span(1_000),
        time_to_start: Span(1_000),
        spec: "also secret".to_owned(),
    }
}

/// The server once it has registered, its lease just about to end, the index silent about it.
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
