//! A pool's frontier: the item that hands out the slots of the server being started.

use std::collections::BTreeSet;

use super::{
    ServerId,
    bug::{self, Bug},
};

/// The image of a frontier: the one place that decides when a server is started.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Frontier {
    /// The server whose slots are given away.
    pub server: ServerId,
    /// Slots that are left to give.
    pub remaining: u32,
    /// Starting servers on which slots were freed that are not among those left to give: before a new server is started, it
    /// goes back to them.
    pub freed: BTreeSet<ServerId>,
}

/// Spare servers that a frontier remembers at the most, so that its item stays below 1 KB, which is one write unit.
/// Freed slots on others are found once their server is ready.
pub const MAX_FREED: usize = 20;

impl Frontier {
    /// One that has left no server with a free slot.
    pub const fn new(server: ServerId, remaining: u32) -> Self {
        Self { server, remaining, freed: BTreeSet::new() }
    }

    /// Whether it gives away the slots of the same server, and has as many left.
    fn stands_at(&self, seen: &Self) -> bool {
        self.server == seen.server && self.remaining == seen.remaining
    }
}

/// One conditional write on a frontier.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FrontierWrite {
    /// Takes slots, if as many are left.
    Take {
        /// How many: one, or a party's.
        slots: u32,
    },
    /// Gives slots back that were taken and not used, if the frontier is as it was seen: so a repeat adds nothing.
    GiveBack {
        /// The server that they are on.
        server: ServerId,
        /// Slots that were seen left.
        seen: u32,
        /// How many are given back.
        slots: u32,
    },
    /// Moves on to a new server. Only from what was seen to be used up (or to have too little left for a party), and by
    /// one caller alone.
    Advance {
        /// What the frontier was seen to be; `None` for the first server of a frontier.
        from: Option<Frontier>,
        /// The new server.
        to: ServerId,
        /// Its slots, less those that the caller takes.
        remaining: u32,
    },
    /// The server turned out to be full or gone: nothing of it is left to give.
    UsedUp {
        /// The server.
        server: ServerId,
    },
    /// A slot was freed on a starting server, and is not among those that are left to give.
    AddFreed {
        /// The server.
        server: ServerId,
    },
    /// There is no room on a freed server after all.
    RemoveFreed {
        /// The server.
        server: ServerId,
    },
    /// Goes back to a freed server instead of moving on to a new one, from what was seen, by one caller alone.
    Return {
        /// What the frontier was seen to be.
        from: Frontier,
        /// The freed server.
        to: ServerId,
        /// Its free slots, less those that the caller takes.
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
    fn a_frontier_gives_what_it_has_and_takes_back_what_it_gave() {
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
    fn a_frontier_moves_on_from_exactly_what_was_seen() {
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
    fn a_frontier_goes_back_to_a_server_on_which_a_slot_was_freed() {
        let with = |on: &str, remaining, freed: &[&str]| Frontier {
            freed: freed.iter().map(|id| server(id)).collect(),
            ..frontier(on, remaining)
        };
        let freed = FrontierWrite::AddFreed { server: server("s") };
        let with_freed = Some(with("t", 0, &["s"]));
        assert_eq!(freed.apply(Some(&frontier("t", 0))), with_freed);
        assert_eq!(freed.apply(with_freed.as_ref()), with_freed, "a repeat");
        assert_eq!(freed.apply(Some(&frontier("s", 0))), Some(with("s", 0, &["s"])), "too many gave back at once");
        assert_eq!(freed.apply(None), None);
        let names = (0..MAX_FREED).map(|n| format!("s{n}")).collect::<Vec<_>>();
        let names = names.iter().map(String::as_str).collect::<Vec<_>>();
        assert_eq!(freed.apply(Some(&with("t", 0, &names))), None, "it remembers enough");
        assert!(freed.apply(Some(&with("t", 0, &names[1..]))).is_some());

        let not = FrontierWrite::RemoveFreed { server: server("s") };
        assert_eq!(not.apply(with_freed.as_ref()), Some(frontier("t", 0)));
        for (case, seen) in [("no spare server", Some(frontier("t", 0))), ("no frontier", None)] {
            assert_eq!(not.apply(seen.as_ref()), None, "{case}");
        }

        let back = FrontierWrite::Return { from: frontier("t", 0), to: server("s"), remaining: 2 };
        assert_eq!(back.apply(Some(&with("t", 0, &["r", "s"]))), Some(with("s", 2, &["r"])));
        let again = FrontierWrite::Return { from: frontier("s", 0), to: server("s"), remaining: 1 };
        assert_eq!(again.apply(Some(&with("s", 0, &["s"]))), Some(frontier("s", 1)));
        for (case, other) in [
            ("not among its spare servers", with("t", 0, &["r"])),
            ("a slot is left", with("t", 1, &["s"])),
            ("another server", with("u", 0, &["s"])),
        ] {
            assert_eq!(back.apply(Some(&other)), None, "{case}");
        }
        let advance = FrontierWrite::Advance { from: Some(frontier("t", 0)), to: server("u"), remaining: 4 };
        assert_eq!(advance.apply(with_freed.as_ref()), Some(with("u", 4, &["s"])), "it remembers on");
    }
}
