//! The protocols of a placement's life, as state machines.
//!
//! A protocol is a value. [`Protocol::next`] takes the reply to the last effect and returns the next [`Step`]: another
//! [`Effect`], or the outcome. A protocol never waits and never performs a call itself. A call whose outcome is unknown
//! ends the run, and the caller repeats the request; to the protocol that is the same as the function being killed
//! there. So every place where a real function can die is a place where the model checker can stop.
//!
//! | protocol | what it performs |
//! |---|---|
//! | [`Join`] | the join, poll and reconnect of one player |
//! | [`Party`] | the join of several players, on one server, all or none |
//! | [`Connect`] | the registration of a player by a server |
//! | [`Disconnect`] | the deregistration of a player by a server, with or without a grace period |
//! | [`CancelReservation`] | the cancellation of a reservation by its player |
//! | [`Release`] | the release of a player by an operator |
//!
//! Every effect names its player, server or pool, so the caller needs nothing else to perform it. A reply that
//! does not match the last effect is a programming error of the caller: every protocol answers it with
//! [`Step::ProtocolError`], which is never a success.

mod cancel;
mod connect;
mod disconnect;
mod join;
mod party;
mod release;
mod search;
#[cfg(test)]
mod wrong_replies;

pub use cancel::CancelReservation;
pub use connect::{Connect, Connected, PresentedTicket};
pub use disconnect::{Disconnect, Disconnected};
pub use join::{Join, Joined, Placed};
pub use party::{Party, PartyJoined, Together};
pub use release::{Release, Released};

use crate::{Ledger, LedgerWrite, PlayerId, PoolName, Seat, SeatWrite, ServerId, Time};

/// The reply to a conditional write.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Answer<T> {
    /// The table applied the write; the item as it is now.
    Written(T),
    /// The condition failed; the item as it is, if it exists.
    Refused(Option<T>),
}

/// A server on which there may be room. Only a hint: a wrong one costs time or a launch, never correctness.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Hint {
    /// The index lists this ready server.
    Listed(ServerId),
    /// No ready server is known to have room; when last read, the frontier handed out slots of this starting server.
    Frontier(ServerId),
    /// No ready server is known to have room, and no frontier is known either.
    Unknown,
}

/// Why there is no slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NoSlot {
    /// The pool has as many live servers as it allows, and none has room.
    PoolFull,
    /// Servers of the pool have repeatedly failed to start, or an operator has paused launching; retry at this time.
    LaunchPaused(Time),
    /// The request has used up its tries. The player holds no slot, and the caller repeats the request.
    Busy,
}

/// The reply to [`Effect::TakeSlots`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TakenSlots {
    /// The frontier handed out the slots, which are on this server.
    On(ServerId),
    /// The frontier has fewer slots left than the call needs: a server would have to be started.
    UsedUp,
    /// The pool has no slot.
    No(NoSlot),
}

/// A call that a protocol wants performed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Find a server of a pool that may have room.
    Find {
        /// The pool.
        pool: PoolName,
        /// Slots needed on one server: one, or a party's.
        slots: u32,
        /// Servers that this request has found without room, to be left out.
        tried: Vec<ServerId>,
        /// Whether the reply may be a server of the index; false once the request has used up its tries of the index.
        listed: bool,
        /// Whether the index must be queried again instead of using known results, because a server may be started
        /// next.
        fresh: bool,
    },
    /// Take slots from a frontier of a pool.
    TakeSlots {
        /// The pool.
        pool: PoolName,
        /// How many slots, all on one server.
        slots: u32,
        /// Whether a server may be started: the frontier was used up, and the index has been queried again since.
        may_start: bool,
    },
    /// Drop a server without room from the pool's hints, and from the frontier that names it.
    UsedUp {
        /// The pool.
        pool: PoolName,
        /// The server.
        server: ServerId,
    },
    /// Return a slot freed on this starting server to its frontier, which may hand it out again.
    GiveBack(Box<Ledger>),
    /// Read a player's seat.
    ReadSeat(PlayerId),
    /// Read the seats of these players, each on its own.
    ReadSeats(Vec<PlayerId>),
    /// Read a server's ledger.
    ReadLedger(ServerId),
    /// Write a player's seat.
    WriteSeat(PlayerId, SeatWrite),
    /// Write the seats of these players, each on its own and in any order.
    WriteSeats(Vec<(PlayerId, SeatWrite)>),
    /// Write a server's ledger.
    WriteLedger(ServerId, LedgerWrite),
}

/// The reply to an [`Effect`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reply {
    /// No reply: the first step of a protocol.
    Start,
    /// To [`Effect::Find`].
    Found(Hint),
    /// To [`Effect::TakeSlots`].
    SlotsTaken(TakenSlots),
    /// To [`Effect::UsedUp`] and [`Effect::GiveBack`], whose replies carry nothing.
    Done,
    /// To [`Effect::ReadSeat`].
    SeatRead(Option<Seat>),
    /// To [`Effect::ReadSeats`], in the order of the players.
    SeatsRead(Vec<Option<Seat>>),
    /// To [`Effect::ReadLedger`].
    LedgerRead(Option<Ledger>),
    /// To [`Effect::WriteSeat`].
    SeatWritten(Answer<Seat>),
    /// To [`Effect::WriteSeats`], in the order of the players.
    SeatsWritten(Vec<Answer<Seat>>),
    /// To [`Effect::WriteLedger`].
    LedgerWritten(Answer<Ledger>),
}

/// The next step of a protocol.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step<T> {
    /// Perform this effect and pass its reply to [`Protocol::next`].
    Effect(Effect),
    /// The protocol has ended.
    Done(T),
    /// The reply did not match the last effect, or the protocol had ended before. A programming error of the caller;
    /// the outcome of the request is unknown.
    ProtocolError,
}

/// A protocol, one step at a time.
pub trait Protocol {
    /// How the protocol can end.
    type Outcome;

    /// Takes the reply to the last effect and returns the next step. `now` is read right before the effect is
    /// performed, because a function that was frozen resumes with old variables.
    fn next(&mut self, now: Time, reply: Reply) -> Step<Self::Outcome>;
}
