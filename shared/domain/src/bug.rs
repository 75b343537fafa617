//! Injected bugs: typical errors of such a design, switched on to show that the checks of `verify` find them.
//!
//! This module owns the list of the bugs and the switch. A bug of a conditional write is in both forms of the write,
//! `apply` and the table's expression, which call [`injected`]; every other bug is in `verify`, outside the product. No
//! control flow of the product depends on the switch. Without the cargo feature `injected-bugs`, `injected` is
//! constantly false and the compiler removes it. Only `verify` is built with the feature, never the deployed functions.

/// A bug that can be injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bug {
    /// A second join of a connected player turns `connected` back into `reserved`.
    ReserveAgain,
    /// A release does not compare the placement.
    FreeAnyPlacement,
    /// Register-player reads the seat but does not change it to connected.
    ReadOnlySeat,
    /// Expired claims are removed without a condition on the exact value that was read.
    EvictInexactly,
    /// A write that frees a slot does not put the server back into the index.
    FreeUnlisted,
    /// A server is started because the index lists none, although no frontier is used up.
    LaunchOnEmptyIndex,
    /// Each RunTask call has its own client token, so a repeated call starts a second task.
    FreshRunTaskToken,
    /// Scale-in checks that the server is empty before its write, and not in the condition of the write.
    CheckedScaleIn,
    /// A lapsed lease stops the server although players are connected.
    LapseStopsPlayers,
}

impl Bug {
    /// Every bug, in the order of declaration.
    pub const ALL: [Self; 9] = [
        Self::ReserveAgain,
        Self::FreeAnyPlacement,
        Self::ReadOnlySeat,
        Self::EvictInexactly,
        Self::FreeUnlisted,
        Self::LaunchOnEmptyIndex,
        Self::FreshRunTaskToken,
        Self::CheckedScaleIn,
        Self::LapseStopsPlayers,
    ];

    /// A description of the bug in words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ReserveAgain => "a second join turns connected back into reserved",
            Self::FreeAnyPlacement => "a release does not compare the placement",
            Self::ReadOnlySeat => "register-player only reads the seat",
            Self::EvictInexactly => "expired claims are removed without their exact value",
            Self::FreeUnlisted => "a freed slot is not listed",
            Self::LaunchOnEmptyIndex => "a server is started on an empty index",
            Self::FreshRunTaskToken => "RunTask has a fresh token per call",
            Self::CheckedScaleIn => "scale-in checks before it writes",
            Self::LapseStopsPlayers => "a lapsed lease stops a server with players",
        }
    }
}

/// Whether this bug is injected; always false without the cargo feature `injected-bugs`.
#[cfg(not(feature = "injected-bugs"))]
pub const fn injected(_: Bug) -> bool {
    false
}

#[cfg(feature = "injected-bugs")]
pub use switch::{Injection, inject, injected};

#[cfg(feature = "injected-bugs")]
mod switch {
    use std::{cell::Cell, marker::PhantomData};

    use super::Bug;

    thread_local! {
        // Each thread has its own value, so tests that run in parallel do not inject bugs into each other.
        static ON: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Whether this bug is injected on this thread.
    pub fn injected(bug: Bug) -> bool {
        ON.get() == Some(bug)
    }

    /// Injects `bug` on this thread until the returned guard is dropped; `None` injects no bug for that time.
    #[must_use]
    pub fn inject(bug: Option<Bug>) -> Injection {
        Injection { before: ON.replace(bug), of_this_thread: PhantomData }
    }

    /// Guard of an injected bug: dropping it restores the bug that was injected before, if any.
    #[derive(Debug)]
    pub struct Injection {
        before: Option<Bug>,
        of_this_thread: PhantomData<*const ()>,
    }

    impl Drop for Injection {
        fn drop(&mut self) {
            ON.set(self.before);
        }
    }
}
