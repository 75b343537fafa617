//! The search for a server with room, and its bounds, which a join and a party share.
//!
//! The search owns the pool, the servers that the request has found without room, and the number of tries left. It does
//! not know the players, seats and claims.

use super::Effect;
use crate::{PoolName, ServerId, Span, Time};

/// Tries that one request has left, by kind. A request without turns at the frontier or races left answers
/// [`NoSlot::Busy`](super::NoSlot::Busy), and the caller repeats it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Tries {
    /// Servers of the index that may turn out to be full.
    listed: u8,
    /// Servers of the index that may turn out to accept no claims. The request unlists them, so each gives back its try
    /// of `listed`.
    closed: u8,
    /// Turns at a frontier; starting a server takes two.
    frontier: u8,
    /// Lost races against other calls about the same player or slot.
    races: u8,
}

impl Tries {
    pub(super) const ALL: Self = Self { listed: 3, closed: 8, frontier: 6, races: 6 };

    /// Whether the request may try another server of the index.
    pub(super) const fn may_use_index(&self) -> bool {
        self.listed > 0
    }

    /// Counts a try of a server of the index.
    pub(super) const fn listed(&mut self) {
        self.listed = self.listed.saturating_sub(1);
    }

    /// Gives back the last try of the index, because that server accepts no claims.
    pub(super) const fn closed(&mut self) {
        if let Some(left) = self.closed.checked_sub(1) {
            (self.closed, self.listed) = (left, self.listed + 1);
        }
    }

    /// Counts a turn at the frontier; false if none was left.
    pub(super) const fn frontier(&mut self) -> bool {
        let left = self.frontier.checked_sub(1);
        self.frontier = self.frontier.saturating_sub(1);
        left.is_some()
    }

    /// Counts a lost race; false if no further one was allowed.
    pub(super) const fn race(&mut self) -> bool {
        let left = self.races.checked_sub(1);
        self.races = self.races.saturating_sub(1);
        left.is_some()
    }
}

/// The search of one request for a server with room.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Search {
    /// The pool in which the request searches for a slot.
    pub(super) pool: PoolName,
    /// Slots of a server of the pool whose ledger has not been read.
    pub(super) capacity: u32,
    /// How long after a claim was made the server's last heartbeat may be, before the claim counts as a late write.
    late_after: Span,
    /// Whether the last turn found the frontier used up, so that the index is queried again before a server is started.
    pub(super) used_up: bool,
    /// Servers that this request has found without room.
    pub(super) tried: Vec<ServerId>,
    /// The tries that the request has left.
    pub(super) tries: Tries,
}

impl Search {
    /// A search in `pool`, whose servers have `capacity` slots and send a heartbeat every `heartbeat`.
    pub(super) const fn new(pool: PoolName, capacity: u32, heartbeat: Span) -> Self {
        let late_after = heartbeat.times(2);
        Self { pool, capacity, late_after, used_up: false, tried: Vec::new(), tries: Tries::ALL }
    }

    /// The effect that finds a server with room for `slots`.
    pub(super) fn find(&self, slots: u32) -> Effect {
        Effect::Find {
            pool: self.pool.clone(),
            slots,
            tried: self.tried.clone(),
            listed: self.tries.may_use_index(),
            fresh: self.used_up,
        }
    }

    /// Counts a turn at a frontier and returns whether that turn may start a server; `None` if no turn is left.
    pub(super) const fn turn(&mut self) -> Option<bool> {
        if !self.tries.frontier() {
            return None;
        }
        let may_start = self.used_up;
        self.used_up = false;
        Some(may_start)
    }

    /// The effect that takes slots from a frontier.
    pub(super) fn take_slots(&self, slots: u32, may_start: bool) -> Effect {
        Effect::TakeSlots { pool: self.pool.clone(), slots, may_start }
    }

    /// Notes that a server has no room, and returns the effect that drops it from the hints.
    pub(super) fn without_room(&mut self, server: ServerId) -> Effect {
        self.tried.push(server.clone());
        Effect::UsedUp { pool: self.pool.clone(), server }
    }

    /// The latest heartbeat of a server on which a claim made `now` may still be applied.
    pub(super) fn seen_by(&self, now: Time) -> Time {
        now + self.late_after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listed_server_that_accepts_no_claims_gives_its_try_back() {
        let mut tries = Tries::ALL;
        tries.listed();
        tries.listed();
        tries.closed();
        assert_eq!((tries.listed, tries.closed), (2, 7));
    }
}
