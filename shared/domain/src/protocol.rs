//! What a protocol may ask of the world, and what it may be told.
//!
//! A protocol is a value that is told the answer to its last question and returns the next one. It never waits and
//! never fails: a call whose outcome is unknown ends the run (the caller is told to ask again), which is the same as
//! the function being killed there. So every place where a real function can die is a place where a model can stop.

use super::{Ledger, LedgerWrite, NoSlot, PlayerId, Seat, SeatWrite, ServerId, Time};

/// What a conditional write came to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Answer<T> {
    /// The write took; the item as it is now.
    Written(T),
    /// The condition refused it; the item as it is, if it is there at all.
    Refused(Option<T>),
}

/// A server on which there may be room. Only a hint: a wrong one costs time or a launch, never correctness.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Hint {
    /// The index lists this ready server.
    Listed(ServerId),
    /// No ready server is known to have room; the frontier was last seen filling this one.
    Frontier(ServerId),
    /// No ready server is known to have room, and no frontier is known either.
    Unknown,
}

/// What a frontier came to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TakenSlots {
    /// The slots are on this server.
    On(ServerId),
    /// It has not as many: a server would have to be started.
    UsedUp,
    /// There is none.
    No(NoSlot),
}

/// A question to the world.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Where may there be room? `listed` is false when the index has been tried often enough.
    Find {
        /// Slots that are wanted on one server: one, or a party's.
        slots: u32,
        /// Servers that this request has found without room.
        tried: Vec<ServerId>,
        /// Whether servers of the index may be named.
        listed: bool,
        /// Whether the index is to be asked anew, because a server is about to be started.
        fresh: bool,
    },
    /// Take slots from the frontier.
    TakeSlots {
        /// How many, all on one server.
        slots: u32,
        /// Whether a server may be started: the frontier was seen used up, and the index has been asked anew since.
        may_start: bool,
    },
    /// This server had no room or takes no one: drop it from the hints, and from the frontier if it is named there.
    UsedUp(ServerId),
    /// A slot was freed on a server that is starting: its frontier may hand it out again.
    GiveBack(Box<Ledger>),
    /// Read the player's seat.
    ReadSeat,
    /// Read the seats of these players, each for itself.
    ReadSeats(Vec<PlayerId>),
    /// Read a server's ledger.
    ReadLedger(ServerId),
    /// Write the player's seat.
    WriteSeat(SeatWrite),
    /// Write the seats of these players, each for itself and in any order.
    WriteSeats(Vec<(PlayerId, SeatWrite)>),
    /// Write a server's ledger.
    WriteLedger(ServerId, LedgerWrite),
}

/// The world's answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reply {
    /// Nothing yet: this is the first step.
    Start,
    /// To [`Effect::Find`].
    Found(Hint),
    /// To [`Effect::TakeSlots`].
    SlotsTaken(TakenSlots),
    /// To [`Effect::UsedUp`] and [`Effect::GiveBack`], which have no answer.
    Done,
    /// To [`Effect::ReadSeat`].
    SeatRead(Option<Seat>),
    /// To [`Effect::ReadSeats`], in the order of the question.
    SeatsRead(Vec<Option<Seat>>),
    /// To [`Effect::ReadLedger`].
    LedgerRead(Option<Ledger>),
    /// To [`Effect::WriteSeat`].
    SeatWritten(Answer<Seat>),
    /// To [`Effect::WriteSeats`], in the order of the question.
    SeatsWritten(Vec<Answer<Seat>>),
    /// To [`Effect::WriteLedger`].
    LedgerWritten(Answer<Ledger>),
}

/// What a protocol wants next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step<T> {
    /// Ask this and come back with the answer.
    Effect(Effect),
    /// It is over.
    Done(T),
}

/// A placement's protocol, one step at a time.
pub trait Protocol {
    /// How it can end.
    type Outcome;

    /// Takes the answer to the last question and says what comes next. `now` is read right before the call that the
    /// answer leads to, because a function that was frozen wakes up with old variables.
    fn next(&mut self, now: Time, reply: Reply) -> Step<Self::Outcome>;
}
