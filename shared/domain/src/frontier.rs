//! The frontier of a pool: the item that hands out the slots of a server that is being started.

use std::collections::BTreeSet;

use super::{
    ServerId,
    bug::{self, Bug},
};

/// The image of a frontier. A server is started for players only when a frontier has no slots left.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Frontier {
    /// The server whose slots the frontier hands out.
    pub server: ServerId,
    /// Slots of the server that the frontier can still hand out.
    pub remaining: u32,
    /// Starting servers with freed slots that `remaining` does not count, at most [`MAX_FREED`]. The frontier returns
    /// to them before a new server is started.
    pub freed: BTreeSet<ServerId>,
}

/// The most freed servers that a frontier stores, so that its item stays below 1 KB, which is one write unit of
/// DynamoDB. Freed slots on further servers are found through the index once their server is ready.
pub const MAX_FREED: usize = 20;

impl Frontier {
    /// A frontier that hands out `remaining` slots of `server`, without freed servers.
    pub const fn new(server: ServerId, remaining: u32) -> Self {
        Self { server, remaining, freed: BTreeSet::new() }
    }

    /// Whether the frontier has the same server and the same number of remaining slots as `seen`.
    fn stands_at(&self, seen: &Self) -> bool {
        self.server == seen.server && self.remaining == seen.remaining
    }
}

/// One conditional write on a frontier.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FrontierWrite {
    /// Takes slots. Refused if fewer remain.
    Take {
        /// Number of slots: one for a player, or one for each player of a party.
        slots: u32,
    },
    /// Gives back slots that were taken and not used. Refused if the frontier has changed since it was read, so a
    /// repeated write adds nothing.
    GiveBack {
        /// The server of the slots.
        server: ServerId,
        /// Remaining slots when the frontier was read.
        seen: u32,
        /// Number of slots to give back.
        slots: u32,
    },
    /// Advances the frontier to a new server. Refused unless the server and the remaining slots are as they were read
    /// (used up, or too few for a party), so only one caller advances.
    Advance {
        /// The frontier as it was read; `None` for the first server of a frontier.
        from: Option<Frontier>,
        /// The new server.
        to: ServerId,
        /// The new server's slots, less those that the caller takes.
        remaining: u32,
    },
    /// Sets the remaining slots to 0, because the server turned out to be full or to accept no players.
    UsedUp {
        /// The server.
        server: ServerId,
    },
    /// Adds a starting server with a freed slot that `remaining` does not count. Refused if [`MAX_FREED`] are stored.
    AddFreed {
        /// The server.
        server: ServerId,
    },
    /// Removes a freed server, because it has no room any more.
    RemoveFreed {
        /// The server.
        server: ServerId,
    },
    /// Returns the frontier to a freed server instead of advancing it to a new one. Refused unless the server and the
    /// remaining slots are as they were read, so only one caller returns.
    Return {
        /// The frontier as it was read.
        from: Frontier,
        /// The freed server.
        to: ServerId,
        /// The freed server's free slots, less those that the caller takes.
        remaining: u32,
    },
}

impl FrontierWrite {
    /// What the table makes of this write: the new frontier, or `None` when the condition refuses it.
    pub fn apply(&self, frontier: Option<&Frontier>) -> Option<Frontier> {
        if let (Self::Advance { from: None, to, remaining }, None) = (self, frontier) {
            return Some(Frontier::new(to.clone(), *remaining));
        }
        let old = frontier?;
        let mut new = old.clone();
        let takes = match self {
            Self::Take { slots } => {
                new.remaining = old.remaining.checked_sub(*slots)?;
                !bug::injected(Bug::LaunchOnEmptyIndex)
            }
            Self::GiveBack { server, seen, slots } => {
                new.remaining = seen.saturating_add(*slots);
                old.server == *server && old.remaining == *seen
            }
            Self::Advance { from: None, .. } => false,
            Self::Advance { from: Some(from), to, remaining } => {
                (new.server, new.remaining) = (to.clone(), *remaining);
                old.stands_at(from)
            }
            Self::UsedUp { server } => {
                new.remaining = 0;
                old.server == *server
            }
            Self::AddFreed { server } => {
                new.freed.insert(server.clone());
                old.freed.len() < MAX_FREED
            }
            Self::RemoveFreed { server } => new.freed.remove(server),
            Self::Return { from, to, remaining } => {
                (new.server, new.remaining) = (to.clone(), *remaining);
                new.freed.remove(to) && old.stands_at(from)
            }
        };
        takes.then_some(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::server;

    fn frontier(on: &str, remaining: u32) -> Frontier {
        Frontier::new(server(on), remaining)
    }

    #[test]
    fn a_frontier_hands_out_its_remaining_slots_and_accepts_unused_ones_back_once() {
        let take = |slots| FrontierWrite::Take { slots };
        for (slots, left) in [(0, Some(2)), (1, Some(1)), (2, Some(0)), (3, None)] {
            let taken = take(slots).apply(Some(&frontier("s", 2)));
            assert_eq!(taken.map(|it| it.remaining), left, "{slots} of two slots");
        }
        assert_eq!(take(1).apply(None), None);
        let back = FrontierWrite::GiveBack { server: server("s"), seen: 1, slots: 2 };
        assert_eq!(back.apply(Some(&frontier("s", 1))), Some(frontier("s", 3)));
        for (case, seen) in [("a repeat", frontier("s", 3)), ("another server", frontier("t", 1))] {
            assert_eq!(back.apply(Some(&seen)), None, "{case}");
        }
        let used_up = FrontierWrite::UsedUp { server: server("s") };
        assert_eq!(used_up.apply(Some(&frontier("s", 2))), Some(frontier("s", 0)));
        assert_eq!(used_up.apply(Some(&frontier("t", 2))), None);
    }

    #[test]
    fn a_frontier_advances_only_if_it_is_as_it_was_read() {
        let advance = |from| FrontierWrite::Advance { from, to: server("t"), remaining: 4 };
        let advanced = Some(frontier("t", 4));
        assert_eq!(advance(None).apply(None), advanced);
        assert_eq!(advance(None).apply(Some(&frontier("s", 0))), None);
        assert_eq!(advance(Some(frontier("s", 0))).apply(Some(&frontier("s", 0))), advanced);
        for (case, other) in [("a slot is left", frontier("s", 1)), ("another server", frontier("u", 0))] {
            assert_eq!(advance(Some(frontier("s", 0))).apply(Some(&other)), None, "{case}");
        }
        assert_eq!(advance(Some(frontier("s", 0))).apply(None), None);
    }

    #[test]
    fn a_frontier_stores_freed_servers_and_returns_to_them_only_if_it_is_as_it_was_read() {
        let with = |on: &str, remaining, freed: &[&str]| Frontier {
            freed: freed.iter().map(|id| server(id)).collect(),
            ..frontier(on, remaining)
        };
        let freed = FrontierWrite::AddFreed { server: server("s") };
        let with_freed = Some(with("t", 0, &["s"]));
        assert_eq!(freed.apply(Some(&frontier("t", 0))), with_freed);
        assert_eq!(freed.apply(with_freed.as_ref()), with_freed, "a repeat");
        assert_eq!(freed.apply(Some(&frontier("s", 0))), Some(with("s", 0, &["s"])), "its own server can be freed");
        assert_eq!(freed.apply(None), None);
        let names = (0..MAX_FREED).map(|n| format!("s{n}")).collect::<Vec<_>>();
        let names = names.iter().map(String::as_str).collect::<Vec<_>>();
        assert_eq!(freed.apply(Some(&with("t", 0, &names))), None, "the most freed servers are stored already");
        assert!(freed.apply(Some(&with("t", 0, &names[1..]))).is_some());

        let remove = FrontierWrite::RemoveFreed { server: server("s") };
        assert_eq!(remove.apply(with_freed.as_ref()), Some(frontier("t", 0)));
        for (case, seen) in [("no freed server", Some(frontier("t", 0))), ("no frontier", None)] {
            assert_eq!(remove.apply(seen.as_ref()), None, "{case}");
        }

        let back = FrontierWrite::Return { from: frontier("t", 0), to: server("s"), remaining: 2 };
        assert_eq!(back.apply(Some(&with("t", 0, &["r", "s"]))), Some(with("s", 2, &["r"])));
        let again = FrontierWrite::Return { from: frontier("s", 0), to: server("s"), remaining: 1 };
        assert_eq!(again.apply(Some(&with("s", 0, &["s"]))), Some(frontier("s", 1)));
        for (case, other) in [
            ("not among its freed servers", with("t", 0, &["r"])),
            ("a slot is left", with("t", 1, &["s"])),
            ("another server", with("u", 0, &["s"])),
        ] {
            assert_eq!(back.apply(Some(&other)), None, "{case}");
        }
        let advance = FrontierWrite::Advance { from: Some(frontier("t", 0)), to: server("u"), remaining: 4 };
        assert_eq!(advance.apply(with_freed.as_ref()), Some(with("u", 4, &["s"])), "freed servers stay stored");
    }
}
