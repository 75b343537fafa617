//! What a join and a party share: the search for a server with room, and its bounds.
//!
//! Owns which pool is searched, which servers the request has found without room, and how many tries are left. Must not
//! know whose seats and claims are written.

use super::Effect;
use crate::{PoolName, ServerId, Span, Time};

/// Tries that one request has left. Each kind is bounded; a request that has used up one answers [`NoSlot::Busy`], and
/// its caller asks again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Tries {
    /// Servers of the index that may turn out to be full.
    listed: u8,
    /// Servers of the index that may turn out to take nobody. They are unlisted, and do not count as full ones do.
    gone: u8,
    /// Turns at a frontier; starting a server takes two.
    frontier: u8,
    /// Lost races against other calls about the same player or slot.
    races: u8,
}

impl Tries {
    pub(super) const ALL: Self = Self { listed: 3, gone: 8, frontier: 6, races: 6 };

    pub(super) const fn may_use_index(&self) -> bool {
        self.listed > 0
    }

    pub(super) const fn listed(&mut self) {
        self.listed = self.listed.saturating_sub(1);
    }

    /// The server of the index that was just tried takes nobody.
    pub(super) const fn gone(&mut self) {
        if let Some(left) = self.gone.checked_sub(1) {
            (self.gone, self.listed) = (left, self.listed + 1);
        }
    }

    /// Whether there is another turn at the frontier.
    pub(super) const fn frontier(&mut self) -> bool {
        let left = self.frontier.checked_sub(1);
        self.frontier = self.frontier.saturating_sub(1);
        left.is_some()
    }

    /// Whether this may be begun anew once more.
    pub(super) const fn race(&mut self) -> bool {
        let left = self.races.checked_sub(1);
        self.races = self.races.saturating_sub(1);
        left.is_some()
    }
}

/// The search of one request for a server with room.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Search {
    /// The pool in which a new slot is searched for.
    pub(super) pool: PoolName,
    /// Slots of one server of the pool, until a ledger says otherwise.
    pub(super) capacity: u32,
    /// A claim is a late write if the server's last heartbeat is more than this after it.
    late_after: Span,
    /// Whether the frontier was seen used up, so that the index is queried anew before a server is started.
    pub(super) used_up: bool,
    /// Servers that this request has found without room.
    pub(super) tried: Vec<ServerId>,
    /// Tries left.
    pub(super) tries: Tries,
}

impl Search {
    /// A search in `pool`, whose servers have `capacity` slots and send a heartbeat every `heartbeat`.
    pub(super) const fn new(pool: PoolName, capacity: u32, heartbeat: Span) -> Self {
        let late_after = heartbeat.times(2);
        Self { pool, capacity, late_after, used_up: false, tried: Vec::new(), tries: Tries::ALL }
    }

    /// The effect that finds a server for so many slots.
    pub(super) fn find(&self, slots: u32) -> Effect {
        Effect::Find {
            pool: self.pool.clone(),
            slots,
            tried: self.tried.clone(),
            listed: self.tries.may_use_index(),
            fresh: self.used_up,
        }
    }

    /// One turn at a frontier: whether it may start a server. `None` if no turn is left.
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

    /// Notes that a server has no room; the effect that drops it from the hints.
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
    fn a_server_of_the_index_that_takes_nobody_costs_no_try() {
        let mut tries = Tries::ALL;
        tries.listed();
        tries.listed();
        tries.gone();
        assert_eq!((tries.listed, tries.gone), (2, 7));
    }
}
