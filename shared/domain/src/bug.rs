//! Injected bugs: errors that designs of this kind make, switched on to show that the checks of `verify` find them.
//!
//! Owns the list and the switch. A bug of a conditional write sits in both faces of the write, `apply` and the table's
//! expression, which ask [`injected`]; every other bug sits in `verify`, outside the product. Control flow of the product
//! never asks. Without the cargo feature `injected-bugs`, `injected` is constantly false and leaves no trace in the program.
//! The functions are never built with the feature; `verify` is.

/// A bug that can be injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bug {
    /// A second join of a connected player turns `connected` back into `reserved`.
    ReserveAgain,
    /// A release does not compare the placement.
    ReleaseAnyStamp,
    /// Register-player only reads the seat.
    ReadOnlySeat,
    /// Expired claims are removed without a condition on the exact value that was seen.
    EvictInexactly,
    /// A write that frees a slot does not put the server back into the index.
    FreeUnlisted,
    /// A server is started because the index lists none, not because a frontier was seen used up.
    LaunchOnEmptyIndex,
    /// Each RunTask call has a token of its own.
    FreshRunTaskToken,
    /// Scale-in looks whether the server is empty before it writes, and not in the write.
    CheckedScaleIn,
    /// A lease that lapses stops the server although players are inside.
    LapseStopsPlayers,
}

impl Bug {
    /// Every one.
    pub const ALL: [Self; 9] = [
        Self::ReserveAgain,
        Self::ReleaseAnyStamp,
        Self::ReadOnlySeat,
        Self::EvictInexactly,
        Self::FreeUnlisted,
        Self::LaunchOnEmptyIndex,
        Self::FreshRunTaskToken,
        Self::CheckedScaleIn,
        Self::LapseStopsPlayers,
    ];

    /// What it is, in words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ReserveAgain => "a second join turns connected back into reserved",
            Self::ReleaseAnyStamp => "a release does not compare the placement",
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

/// Whether this bug is injected: never, without the feature.
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
        // A thread's own, so that tests that run side by side do not inject into each other.
        static ON: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Whether this bug is injected on this thread.
    pub fn injected(bug: Bug) -> bool {
        ON.get() == Some(bug)
    }

    /// Injects a bug on this thread, or none, until the returned guard is dropped.
    #[must_use]
    pub fn inject(bug: Option<Bug>) -> Injection {
        Injection { before: ON.replace(bug), of_this_thread: PhantomData }
    }

    /// Guard of an injected bug: the drop restores what was injected before.
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
