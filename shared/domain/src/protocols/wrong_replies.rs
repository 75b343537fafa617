//! Sends every protocol a wrong reply in every stage.
//!
//! Each protocol is explored from its start with a catalogue of replies. A reply that fits the pending effect leads to
//! further states; every other reply must be answered with [`Step::ProtocolError`], and so must every reply after that
//! or after the end. The names of the stages that were reached are compared with all stages of the protocol, so no
//! stage is left out.

use std::{
    collections::{BTreeSet, HashSet},
    fmt::Debug,
    hash::Hash,
};

use super::{
    Answer, CancelReservation, Connect, Disconnect, Effect, Hint, Join, NoSlot, Party, PresentedTicket, Protocol,
    Release, Reply, Step, TakenSlots,
};
use crate::{
    Claim, Ledger, Seat, Span, fill,
    fixtures::{
        NOW, TICK, connected, draining, placement, player, pool, ready, reserved, seat, server, starting, token,
    },
};

/// The most states of one protocol that are explored. It is enough for every stage, as the test asserts.
const STATES: usize = 4_000;

fn seats() -> Vec<Option<Seat>> {
    let elsewhere = Seat::Assigned(crate::Assignment { server: server("t"), pool: pool("q"), claim: reserved(999) });
    let new = seat("s", Claim::Reserved(crate::Placement::next(NOW, None)));
    let kept = seat("s", reserved(NOW.0 + 5_000));
    let vacant = Seat::Vacant(placement(1_000));
    [None]
        .into_iter()
        .chain([vacant, seat("s", reserved(1_000)), seat("s", connected(1_000)), elsewhere, new, kept].map(Some))
        .collect()
}

fn ledgers() -> Vec<Ledger> {
    let new = Claim::Reserved(crate::Placement::next(NOW, None));
    let full = [("c", connected(1)), ("d", connected(2))];
    vec![
        ready(&[]),
        ready(&[("a", reserved(1_000))]),
        ready(&[("a", connected(1_000))]),
        ready(&full),
        Ledger { listed: fill(1, 2), lease_until: Some(NOW - TICK), ..ready(&[]) },
        Ledger { listed: fill(0, 2), ..ready(&[("a", new), ("b", new)]) },
        Ledger { pool: pool("q"), id: server("t"), ..ready(&[("a", reserved(999))]) },
        starting(&[("a", reserved(1_000))]),
        starting(&[("a", new), ("b", new)]),
        draining(&[("a", connected(1_000))]),
    ]
}

fn answers<T: Clone>(items: impl IntoIterator<Item = Option<T>>) -> Vec<Answer<T>> {
    let both = |item: Option<T>| item.clone().map(Answer::Written).into_iter().chain([Answer::Refused(item)]);
    items.into_iter().flat_map(both).collect()
}

/// Replies to every effect. The replies with several seats have up to `members` of them.
fn catalogue(members: usize) -> Vec<Reply> {
    let hints = [Hint::Listed(server("s")), Hint::Frontier(server("s")), Hint::Unknown];
    let slots = [
        TakenSlots::On(server("s")),
        TakenSlots::On(server("t")),
        TakenSlots::UsedUp,
        TakenSlots::No(NoSlot::PoolFull),
    ];
    let images = || ledgers().into_iter().map(Some).chain([None]);
    let mut replies = vec![Reply::Start, Reply::Done];
    replies.extend(hints.map(Reply::Found));
    replies.extend(slots.map(Reply::SlotsTaken));
    replies.extend(seats().into_iter().map(Reply::SeatRead));
    replies.extend(images().map(Reply::LedgerRead));
    replies.extend(answers(seats()).into_iter().map(Reply::SeatWritten));
    replies.extend(answers(images()).into_iter().map(Reply::LedgerWritten));
    for count in 0..=members {
        replies.extend(seats().into_iter().map(|seat| Reply::SeatsRead(vec![seat; count])));
        replies.extend(answers(seats()).into_iter().map(|answer| Reply::SeatsWritten(vec![answer; count])));
    }
    replies
}

/// Whether `reply` is a possible reply to `effect`; `None` stands for the start.
fn fits(effect: Option<&Effect>, reply: &Reply) -> bool {
    match (effect, reply) {
        (None, Reply::Start)
        | (Some(Effect::Find { .. }), Reply::Found(_))
        | (Some(Effect::TakeSlots { .. }), Reply::SlotsTaken(_))
        | (Some(Effect::UsedUp { .. } | Effect::GiveBack(_)), Reply::Done)
        | (Some(Effect::ReadSeat(_)), Reply::SeatRead(_))
        | (Some(Effect::ReadLedger(_)), Reply::LedgerRead(_))
        | (Some(Effect::WriteSeat(..)), Reply::SeatWritten(_))
        | (Some(Effect::WriteLedger(..)), Reply::LedgerWritten(_)) => true,
        (Some(Effect::ReadSeats(players)), Reply::SeatsRead(seats)) => players.len() == seats.len(),
        (Some(Effect::WriteSeats(writes)), Reply::SeatsWritten(answers)) => writes.len() == answers.len(),
        _ => false,
    }
}

/// The name of the stage of a protocol, as its `Debug` output shows it.
fn stage(protocol: &impl Debug) -> String {
    let text = format!("{protocol:?}");
    let (_, stage) = text.split_once(", stage: ").unwrap_or_default();
    stage.chars().take_while(|c| c.is_alphanumeric()).collect()
}

/// Explores the protocols from their starts, and asserts that exactly `stages` were reached.
fn explore<P: Protocol + Clone + Debug + Eq + Hash>(starts: Vec<P>, stages: &[&str]) {
    let catalogue = catalogue(2);
    let mut reached = BTreeSet::new();
    let mut known = HashSet::new();
    let mut open: std::collections::VecDeque<(P, Option<Effect>)> =
        starts.into_iter().map(|start| (start, None)).collect();
    while let Some((protocol, effect)) = open.pop_front() {
        reached.insert(stage(&protocol));
        for reply in &catalogue {
            let mut next = protocol.clone();
            let step = next.next(NOW, reply.clone());
            let error = matches!(step, Step::ProtocolError);
            if fits(effect.as_ref(), reply) {
                assert!(!error, "{protocol:?} refuses {reply:?}, a reply to {effect:?}");
            } else {
                assert!(error, "{protocol:?} accepts {reply:?} as a reply to {effect:?}");
            }
            match step {
                Step::Effect(effect) if known.len() < STATES && known.insert(next.clone()) => {
                    open.push_back((next, Some(effect)));
                }
                Step::Effect(_) => {}
                Step::Done(_) | Step::ProtocolError => {
                    reached.insert(stage(&next));
                    let again = next.next(NOW, reply.clone());
                    assert!(matches!(again, Step::ProtocolError), "{next:?} has ended, but accepts {reply:?}");
                }
            }
        }
    }
    assert_eq!(reached.iter().map(String::as_str).collect::<Vec<_>>(), stages, "the stages that were reached");
}

const HEARTBEAT: Span = Span::seconds(10);

#[test]
fn a_join_answers_a_wrong_reply_with_a_protocol_error_in_every_stage() {
    let join = |asked: Option<&str>| Join::new(player("a"), asked.map(pool), pool(asked.unwrap_or("p")), 2, HEARTBEAT);
    let stages = [
        "Claiming",
        "Finding",
        "Finishing",
        "Freed",
        "Leaving",
        "Looking",
        "MovingOn",
        "Over",
        "ReadingSeat",
        "Returned",
        "Returning",
        "Seating",
        "Start",
        "TakingSlot",
        "Unlisting",
    ];
    explore(vec![join(None), join(Some("p")), join(Some("q"))], &stages);
}

#[test]
fn a_party_answers_a_wrong_reply_with_a_protocol_error_in_every_stage() {
    let party = Party::new(vec![player("a"), player("b")], pool("p"), 2, HEARTBEAT);
    let stages = [
        "Claiming",
        "Finding",
        "Finishing",
        "Looking",
        "MovingOn",
        "Over",
        "ReadingSeats",
        "Seating",
        "Start",
        "TakingSlots",
        "Unlisting",
    ];
    explore(vec![party], &stages);
}

#[test]
fn a_registration_answers_a_wrong_reply_with_a_protocol_error_in_every_stage() {
    let ticket = PresentedTicket { placement: placement(1_000), expires: NOW + TICK };
    let connect = |ticket| Connect::new(token(), server("s"), player("a"), ticket);
    explore(vec![connect(None), connect(Some(ticket))], &["OnLedger", "OnSeat", "Over", "Reading", "Start", "Undoing"]);
}

#[test]
fn a_disconnect_answers_a_wrong_reply_with_a_protocol_error_in_every_stage() {
    let disconnect = |of, grace| Disconnect::new(token(), server("s"), player("a"), of, grace);
    let starts = vec![
        disconnect(Some(placement(1_000)), None),
        disconnect(None, None),
        disconnect(None, Some(Span::seconds(100))),
    ];
    explore(starts, &["KeepingClaim", "KeepingSeat", "Over", "Reading", "Releasing", "Start", "Voiding"]);
}

#[test]
fn a_cancellation_answers_a_wrong_reply_with_a_protocol_error_in_every_stage() {
    let stages = ["GivingBack", "Over", "Reading", "Releasing", "Start", "Voiding"];
    explore(vec![CancelReservation::new(player("a"))], &stages);
}

#[test]
fn a_release_answers_a_wrong_reply_with_a_protocol_error_in_every_stage() {
    let stages = ["Cancelling", "Looking", "Over", "Reading", "ReadingAgain", "Start", "Voiding"];
    explore(vec![Release::new(player("a"))], &stages);
}
