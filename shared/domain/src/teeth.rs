//! Mistakes that designs of this kind make, to be put back on purpose: a check that does not find them proves nothing.
//!
//! Owns the list and the switch. Where a mistake lives, the code asks [`has`], which without the cargo feature `teeth` is
//! constantly false and leaves no trace in the program. The functions are never built with it; `verify` is.

/// A mistake that can be put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mistake {
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

impl Mistake {
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

/// Whether this mistake has been put back.
#[cfg(not(feature = "teeth"))]
pub const fn has(_: Mistake) -> bool {
    false
}

#[cfg(feature = "teeth")]
pub use switch::{PutBack, has, put_back};

#[cfg(feature = "teeth")]
mod switch {
    use std::{cell::Cell, marker::PhantomData};

    use super::Mistake;

    thread_local! {
        // A thread's own, so that tests side by side do not meet each other's mistakes.
        static ON: Cell<Option<Mistake>> = const { Cell::new(None) };
    }

    /// Whether this mistake has been put back on this thread.
    pub fn has(mistake: Mistake) -> bool {
        ON.get() == Some(mistake)
    }

    /// Puts a mistake back on this thread, or none, until the answer is dropped.
    #[must_use]
    pub fn put_back(mistake: Option<Mistake>) -> PutBack {
        PutBack { before: ON.replace(mistake), of_this_thread: PhantomData }
    }

    /// A mistake is in the code.
    #[derive(Debug)]
    pub struct PutBack {
        before: Option<Mistake>,
        of_this_thread: PhantomData<*const ()>,
    }

    impl Drop for PutBack {
        fn drop(&mut self) {
            ON.set(self.before);
        }
    }
}
