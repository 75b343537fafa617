//! Every write, both ways on a real engine: where `apply` says that it takes, the expression takes and leaves the same
//! item; where `apply` refuses, so does the engine, and hands back the item as it is.

use std::collections::{BTreeMap, BTreeSet};

use shared::{
    domain::{
        Answer, Assignment, Claim, Endpoint, ExpectedSeat, Fill, Frontier, FrontierWrite, Launch, Ledger, LedgerWrite,
        MAX_FREED, Placement, PlayerId, PoolLimits, PoolStatus, PoolStatusWrite, Registration, Seat, SeatWrite,
        ServerId, ServerState, Span, StopBy, Time, TokenHash, UNTIL_RESUMED,
    },
    table::{items, keys},
};

use crate::support::{World, pool};

const NOW: Time = Time(1_000_000);

fn id(name: &str) -> ServerId {
    ServerId::parse(name).unwrap()
}

fn player(name: &str) -> PlayerId {
    PlayerId::parse(name).unwrap()
}

fn placement(n: i64) -> Placement {
    Placement::new(n).unwrap()
}

fn reserved(n: i64) -> Claim {
    Claim::Reserved(placement(n))
}

fn connected(n: i64) -> Claim {
    Claim::Connected(placement(n))
}

fn hash() -> TokenHash {
    TokenHash::of("token")
}

fn launch() -> Launch {
    Launch {
        token: "token".into(),
        call_at: Time(500),
        deadline: Time(9_000_000),
        time_to_start: Span(60_000),
        spec: "{}".into(),
    }
}

fn ledger(state: ServerState, claims: &[(&str, Claim)]) -> Ledger {
    let starting = state == ServerState::Starting;
    let registered = (!starting).then_some(NOW);
    let limits = PoolLimits { capacity: 3, ..PoolLimits::DEFAULT };
    Ledger {
        build: 1,
        state,
        claims: claims.iter().map(|(name, claim)| (player(name), *claim)).collect(),
        lease_until: registered.map(|at| at + Span(30_000)),
        seen: registered,
        ready_at: registered,
        endpoint: registered.map(|_| Endpoint { address: "127.0.0.1".into(), port: 7777 }),
        launch: starting.then(launch),
        ..Ledger::new(id("s1"), pool("default"), &limits, hash())
    }
}

fn ready(claims: &[(&str, Claim)]) -> Ledger {
    ledger(ServerState::Ready, claims)
}

fn starting(claims: &[(&str, Claim)]) -> Ledger {
    ledger(ServerState::Starting, claims)
}

fn listed(fill: Option<i64>, ledger: Ledger) -> Ledger {
    Ledger { listed: fill.and_then(Fill::from_number), ..ledger }
}

fn claim(name: &str, n: i64) -> LedgerWrite {
    LedgerWrite::Claim { player: player(name), placement: placement(n), now: NOW, seen_by: NOW + Span(20_000) }
}

fn evicting(name: &str, evict: &[(&str, Claim)], capacity: u32) -> LedgerWrite {
    together(&[(name, None)], evict, capacity)
}

fn together(players: &[(&str, Option<Claim>)], evict: &[(&str, Claim)], capacity: u32) -> LedgerWrite {
    LedgerWrite::ClaimExactly {
        players: players.iter().map(|(name, held)| (player(name), *held)).collect(),
        placement: placement(50),
        now: NOW,
        seen_by: NOW + Span(20_000),
        evict: evict.iter().map(|(name, claim)| (player(name), *claim)).collect(),
        capacity,
    }
}

fn list(was: Option<i64>, fill: Fill) -> LedgerWrite {
    LedgerWrite::List { build: 1, was: was.and_then(Fill::from_number), fill }
}

fn unlist(was: Fill) -> LedgerWrite {
    LedgerWrite::Unlist { build: 1, was, now: NOW }
}

fn connect(by: TokenHash, n: i64, reserved: bool) -> LedgerWrite {
    LedgerWrite::Connect { by, player: player("a"), placement: placement(n), reserved }
}

fn release(by: Option<TokenHash>, claim: Claim, ready: bool) -> LedgerWrite {
    LedgerWrite::Free { by, player: player("a"), claim, ready }
}

fn register(by: TokenHash, capacity: Option<u32>) -> LedgerWrite {
    let registration = Registration {
        endpoint: Endpoint { address: "game.example".into(), port: 1 },
        capacity,
        metadata: BTreeMap::from([("build".into(), "7".into())]),
    };
    LedgerWrite::Register { by, registration, now: NOW }
}

/// Each condition's every clause, met and broken.
fn ledger_cases() -> Vec<(Ledger, LedgerWrite)> {
    use ServerState::{Draining, Ready, Starting, Stopped};
    let full = [("b", connected(1)), ("c", reserved(2)), ("d", reserved(3))];
    let other = TokenHash::of("other");
    let lapsed = Ledger { lease_until: Some(NOW - Span(1)), ..ready(&[]) };
    let beaten_since = Ledger { seen: Some(NOW + Span(20_001)), lease_until: Some(NOW + Span(50_001)), ..ready(&[]) };
    let second = Ledger { attempt: 2, ..starting(&[]) };
    let with_task = Ledger { task: Some("arn".into()), ..starting(&[]) };
    let every = |write: &LedgerWrite| {
        ServerState::ALL.map(|state| (ledger(state, &[("a", reserved(5)), ("b", connected(6))]), write.clone()))
    };
    let mut cases = vec![
        (ready(&[]), claim("a", 9)),
        (starting(&full[..2]), claim("a", 9)),
        (lapsed.clone(), claim("a", 9)),
        (beaten_since.clone(), claim("a", 9)),
        (Ledger { seen: Some(NOW + Span(20_000)), ..beaten_since }, claim("a", 9)),
        (Ledger { lease_until: Some(NOW), ..lapsed }, claim("a", 9)),
        (ready(&full), claim("a", 9)),
        (ready(&full), claim("d", 9)),
        (ready(&full), claim("d", 3)),
        (ready(&full), claim("d", 2)),
        (ready(&full), claim("b", 9)),
        (ready(&full), claim("b", 1)),
        (ready(&[("b", connected(20))]), claim("b", 9)),
        (ready(&full), evicting("a", &[("c", reserved(2)), ("d", reserved(3))], 3)),
        (ready(&full), evicting("a", &[("c", reserved(2))], 3)),
        (starting(&full), evicting("a", &[("c", reserved(2))], 3)),
        (ledger(Draining, &full), evicting("a", &[("c", reserved(2))], 3)),
        (ready(&full), evicting("a", &[("c", reserved(4))], 3)),
        (ready(&full), evicting("a", &[("c", connected(2))], 3)),
        (ready(&full), evicting("a", &[("e", reserved(2))], 3)),
        (ready(&full), evicting("a", &[("c", reserved(2))], 4)),
        (ready(&full), evicting("d", &[("c", reserved(2))], 3)),
        (Ledger { capacity: 2, ..ready(&full) }, evicting("a", &[("c", reserved(2))], 2)),
        (ready(&[("a", reserved(5))]), connect(hash(), 5, true)),
        (ready(&[("a", connected(5))]), connect(hash(), 5, true)),
        (ready(&[("a", connected(5))]), connect(hash(), 5, false)),
        (ready(&[("a", reserved(5))]), connect(hash(), 5, false)),
        (ready(&[("a", reserved(6))]), connect(hash(), 5, true)),
        (ready(&[]), connect(hash(), 5, true)),
        (ready(&[("a", reserved(5))]), connect(other, 5, true)),
        (ready(&[("a", connected(5))]), release(Some(hash()), connected(5), true)),
        (listed(Some(0), ready(&[("a", connected(5))])), release(Some(hash()), connected(5), true)),
        (ready(&[("a", reserved(5))]), release(Some(hash()), connected(5), true)),
        (ready(&[("a", connected(6))]), release(Some(hash()), connected(5), true)),
        (ready(&[]), release(Some(hash()), connected(5), true)),
        (ready(&[("a", connected(5))]), release(Some(other), connected(5), true)),
        (ready(&[("a", connected(5))]), release(Some(hash()), connected(5), false)),
        (ledger(Draining, &[("a", connected(5))]), release(Some(hash()), connected(5), false)),
        (ledger(Draining, &[("a", connected(5))]), release(Some(hash()), connected(5), true)),
        (ready(&[("a", reserved(5))]), release(None, reserved(5), true)),
        (ready(&[("a", connected(5))]), release(None, reserved(5), true)),
        (starting(&[("a", reserved(5))]), release(None, reserved(5), false)),
        (starting(&[]), register(other, None)),
        (starting(&full), register(hash(), Some(3))),
        (starting(&full), register(hash(), Some(2))),
        (ready(&[("b", connected(1))]), together(&[("a", None), ("c", None)], &[], 3)),
        (ready(&full[..2]), together(&[("a", None), ("e", None)], &[], 3)),
        (ready(&full), together(&[("a", None), ("d", Some(reserved(3)))], &[("c", reserved(2))], 3)),
        (ready(&full), together(&[("a", None), ("d", None)], &[("c", reserved(2))], 3)),
        (ready(&full), together(&[("c", Some(reserved(2))), ("d", Some(reserved(3)))], &[], 3)),
        (ready(&full), together(&[("c", Some(reserved(2))), ("d", Some(reserved(4)))], &[], 3)),
        (starting(&[]), together(&[("a", None), ("c", None), ("d", None), ("e", None)], &[], 3)),
        (listed(Some(1), ready(&[])), list(Some(1), Fill::TOP)),
        (listed(Some(1), ready(&[])), list(Some(0), Fill::TOP)),
        (listed(Some(1), ready(&[])), list(None, Fill::TOP)),
        (ready(&[]), list(None, Fill::EMPTY)),
        (Ledger { build: 2, ..ready(&[]) }, list(None, Fill::EMPTY)),
        (Ledger { build: 0, ..listed(Some(1), ready(&[])) }, list(Some(1), Fill::EMPTY)),
        (ready(&[]), list(Some(1), Fill::EMPTY)),
        (ledger(Draining, &[]), list(None, Fill::EMPTY)),
        (listed(Some(2), ready(&full)), unlist(Fill::TOP)),
        (Ledger { build: 2, ..listed(Some(2), ready(&full)) }, unlist(Fill::TOP)),
        (listed(Some(2), ready(&full[1..])), unlist(Fill::TOP)),
        (listed(Some(2), Ledger { lease_until: Some(NOW), ..ready(&[]) }), unlist(Fill::TOP)),
        (listed(Some(2), Ledger { lease_until: Some(NOW - Span(1)), ..ready(&[]) }), unlist(Fill::TOP)),
        (listed(Some(1), ready(&full)), unlist(Fill::TOP)),
        (ready(&full), unlist(Fill::TOP)),
        (listed(Some(2), ledger(Draining, &[])), unlist(Fill::TOP)),
        (with_task, LedgerWrite::Recall { attempt: 1, was: Time(500), call_at: Time(900) }),
        (starting(&[]), LedgerWrite::Recall { attempt: 1, was: Time(501), call_at: Time(900) }),
        (second.clone(), LedgerWrite::Recall { attempt: 1, was: Time(500), call_at: Time(900) }),
        (second.clone(), LedgerWrite::TaskStarted { attempt: 1, task: "arn".into() }),
        (second.clone(), LedgerWrite::NextAttempt { failed: 1, token_hash: other, launch: launch() }),
        (second, LedgerWrite::AbandonLaunch { failed: 1, now: NOW }),
        (ready(&full), LedgerWrite::Stop { by: StopBy::Server(other), now: NOW }),
        (ready(&full), LedgerWrite::Heartbeat { by: other, now: NOW }),
        (Ledger { seen: Some(NOW + Span(1)), ..ready(&full) }, LedgerWrite::Heartbeat { by: hash(), now: NOW }),
        (Ledger { requested_at: Some(NOW), ..ready(&full) }, LedgerWrite::Drain { at: NOW, drain_by: None }),
        (Ledger { requested_at: Some(NOW), ..ready(&full) }, LedgerWrite::Drain { at: NOW + Span(1), drain_by: None }),
        (
            ready(&[("a", connected(5))]),
            LedgerWrite::KeepForReconnect { by: hash(), player: player("a"), from: placement(5), to: placement(7) },
        ),
        (
            ready(&[("a", reserved(5))]),
            LedgerWrite::KeepForReconnect { by: hash(), player: player("a"), from: placement(5), to: placement(7) },
        ),
        (
            ready(&[("a", connected(6))]),
            LedgerWrite::KeepForReconnect { by: hash(), player: player("a"), from: placement(5), to: placement(7) },
        ),
        (
            ready(&[("a", connected(5))]),
            LedgerWrite::KeepForReconnect { by: other, player: player("a"), from: placement(5), to: placement(7) },
        ),
    ];
    let idle = |since: i64| Ledger { idle_since: Some(Time(since)), ..ready(&[]) };
    let sweep = |evict: &[(&str, Claim)], ready| LedgerWrite::Sweep {
        evict: evict.iter().map(|(name, claim)| (player(name), *claim)).collect(),
        ready,
    };
    cases.extend([
        (idle(5), claim("a", 9)),
        (Ledger { idle_since: Some(Time(5)), ..ready(&full) }, evicting("a", &[("c", reserved(2))], 3)),
        (ready(&[]), LedgerWrite::Idle { now: NOW }),
        (idle(5), LedgerWrite::Idle { now: NOW }),
        (ready(&full), LedgerWrite::Idle { now: NOW }),
        (ledger(Draining, &[]), LedgerWrite::Idle { now: NOW }),
        (listed(Some(0), idle(5)), LedgerWrite::DrainIdle { idle_by: Time(5) }),
        (idle(6), LedgerWrite::DrainIdle { idle_by: Time(5) }),
        (ready(&[]), LedgerWrite::DrainIdle { idle_by: Time(5) }),
        (Ledger { idle_since: Some(Time(5)), ..ready(&full) }, LedgerWrite::DrainIdle { idle_by: Time(5) }),
        (Ledger { idle_since: Some(Time(5)), ..ledger(Draining, &[]) }, LedgerWrite::DrainIdle { idle_by: Time(5) }),
        (ready(&full), sweep(&[("c", reserved(2)), ("d", reserved(3))], true)),
        (ready(&full), sweep(&[("c", connected(2))], true)),
        (ready(&full), sweep(&[("c", reserved(2)), ("x", reserved(3))], true)),
        (ready(&full), sweep(&[("c", reserved(2))], false)),
        (ledger(Draining, &full), sweep(&[("c", reserved(2))], false)),
        (ledger(Draining, &full), sweep(&[("c", reserved(2))], true)),
    ]);
    let silent = |attempt, silent_since, claims: Option<&[(&str, Claim)]>| LedgerWrite::StopSilent {
        attempt,
        silent_since,
        claims: claims.map(|claims| claims.iter().map(|(name, claim)| (player(name), *claim)).collect()),
        now: NOW,
    };
    let later = NOW + Span(30_001);
    cases.extend([
        (listed(Some(2), ready(&full)), silent(1, later, None)),
        (ready(&full), silent(1, later, Some(&full))),
        (ready(&[]), silent(1, later, Some(&[]))),
        (ready(&full), silent(1, later, Some(&full[..2]))),
        (ready(&[("a", connected(5))]), silent(1, later, Some(&[("a", reserved(5))]))),
        (ready(&[]), silent(1, NOW + Span(30_000), Some(&[]))),
        (ready(&[]), silent(2, later, Some(&[]))),
        (Ledger { lease_until: Some(later), ..ready(&[]) }, silent(1, later, None)),
    ]);
    cases.extend(every(&silent(1, later, Some(&[("a", reserved(5)), ("b", connected(6))]))));
    assert_eq!(ServerState::ALL, [Starting, Ready, Draining, Stopped]);
    for write in [
        claim("c", 9),
        connect(hash(), 5, true),
        release(None, reserved(5), true),
        release(None, reserved(5), false),
        register(hash(), None),
        LedgerWrite::Heartbeat { by: hash(), now: NOW },
        LedgerWrite::Drain { at: NOW, drain_by: None },
        LedgerWrite::Drain { at: NOW, drain_by: Some(NOW) },
        LedgerWrite::Retire,
        LedgerWrite::Stop { by: StopBy::Server(hash()), now: NOW },
        LedgerWrite::Stop { by: StopBy::Attempt(1), now: NOW },
        LedgerWrite::Stop { by: StopBy::Attempt(2), now: NOW },
        LedgerWrite::Stop { by: StopBy::Drained { attempt: 1, drain_by: None }, now: NOW },
        LedgerWrite::Stop { by: StopBy::Drained { attempt: 1, drain_by: Some(NOW) }, now: NOW },
        LedgerWrite::Recall { attempt: 1, was: Time(500), call_at: Time(900) },
        LedgerWrite::TaskStarted { attempt: 1, task: "arn".into() },
        LedgerWrite::NextAttempt { failed: 1, token_hash: other, launch: launch() },
        LedgerWrite::AbandonLaunch { failed: 1, now: NOW },
    ] {
        cases.extend(every(&write));
    }
    cases
}

/// The name of an enum's variant.
fn variant(value: &impl std::fmt::Debug) -> String {
    let text = format!("{value:?}");
    text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned()
}

async fn put(world: &World, item: keys::Attributes) {
    world.stack.dynamodb().put_item().table_name(&world.table).set_item(Some(item)).send().await.unwrap();
}

async fn remove(world: &World, key: keys::Attributes) {
    world.stack.dynamodb().delete_item().table_name(&world.table).set_key(Some(key)).send().await.unwrap();
}

/// What each variant came to: both outcomes, or this test is not what it says.
#[derive(Default)]
struct Seen(BTreeMap<String, BTreeSet<bool>>);

impl Seen {
    fn note(&mut self, write: &impl std::fmt::Debug, taken: bool) {
        self.0.entry(variant(write)).or_default().insert(taken);
    }

    fn both(&self, variants: usize) {
        assert_eq!(self.0.len(), variants, "a write without a case: {:?}", self.0);
        for (write, outcomes) in &self.0 {
            assert_eq!(outcomes.len(), 2, "{write} has only one outcome: {outcomes:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_write_on_a_ledger_does_what_apply_says() {
    let world = World::new(|_| {}).await;
    let table = world.stack.owmm().table().clone();
    let mut seen = Seen::default();
    for (image, write) in ledger_cases() {
        put(&world, items::write_ledger(&image)).await;
        let expected = write.apply(Some(&image));
        seen.note(&write, expected.is_some());
        let answer = table.write_ledger(&image.id, &write).await.unwrap();
        match expected {
            Some(new) => assert_eq!(answer, Answer::Written(new.clone()), "{write:?} on {image:?}"),
            None => assert_eq!(answer, Answer::Refused(Some(image.clone())), "{write:?} on {image:?}"),
        }
        // Applied twice it comes to the same item, and so does a repeat of the SDK whose first answer was lost.
        let once = table.ledger(&image.id).await.unwrap().unwrap();
        table.write_ledger(&image.id, &write).await.unwrap();
        assert_eq!(table.ledger(&image.id).await.unwrap().unwrap(), once, "{write:?} is not safe twice");
    }
    seen.both(20);
    // A ledger that is not there refuses everything, and is not there afterwards either.
    for (_, write) in ledger_cases() {
        assert_eq!(table.write_ledger(&id("nobody"), &write).await.unwrap(), Answer::Refused(None), "{write:?}");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connected_claim_is_not_reserved_again_under_its_placement() {
    // Said in so many words, as below.
    let world = World::new(|_| {}).await;
    let table = world.stack.owmm().table().clone();
    for stands in [connected(9), connected(10), reserved(10)] {
        let image = ready(&[("a", stands)]);
        put(&world, items::write_ledger(&image)).await;
        let answer = table.write_ledger(&image.id, &claim("a", 9)).await.unwrap();
        assert_eq!(answer, Answer::Refused(Some(image)), "{stands:?}");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_has_changed_since_it_was_seen_is_not_evicted() {
    // Said in so many words, because `apply` and its expression could be wrong together.
    let world = World::new(|_| {}).await;
    let table = world.stack.owmm().table().clone();
    let seen = [("b", reserved(1)), ("c", reserved(2)), ("d", reserved(3))];
    for now in [connected(2), reserved(7)] {
        let image = ready(&[("b", reserved(1)), ("c", now), ("d", reserved(3))]);
        put(&world, items::write_ledger(&image)).await;
        for write in [
            evicting("a", &seen, 3),
            LedgerWrite::Sweep { evict: seen.iter().map(|(it, claim)| (player(it), *claim)).collect(), ready: true },
        ] {
            assert_eq!(table.write_ledger(&image.id, &write).await.unwrap(), Answer::Refused(Some(image.clone())));
        }
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_write_on_a_seat_does_what_apply_says() {
    let world = World::new(|_| {}).await;
    let table = world.stack.owmm().table().clone();
    let at =
        |server: &str, claim: Claim| Some(Seat::Assigned(Assignment { server: id(server), pool: pool("p"), claim }));
    let seats = [
        None,
        Some(Seat::Vacant(placement(4))),
        Some(Seat::Vacant(placement(9))),
        at("s1", reserved(5)),
        at("s1", connected(5)),
        at("s1", reserved(6)),
        at("s2", reserved(5)),
        at("s2", connected(5)),
    ];
    let place =
        |from: ExpectedSeat| SeatWrite::Assign { from, server: id("s3"), pool: pool("p"), placement: placement(9) };
    let writes = [
        place(ExpectedSeat::Vacant),
        place(ExpectedSeat::Exactly { server: id("s1"), claim: reserved(5) }),
        place(ExpectedSeat::Exactly { server: id("s1"), claim: connected(5) }),
        SeatWrite::Connect { server: id("s1"), placement: placement(5) },
        SeatWrite::Vacate { server: id("s1"), claim: reserved(5) },
        SeatWrite::Vacate { server: id("s1"), claim: connected(5) },
        SeatWrite::KeepForReconnect { server: id("s1"), from: placement(5), to: placement(7) },
    ];
    let alice = player("alice");
    let mut seen = Seen::default();
    for seat in &seats {
        for write in &writes {
            remove(&world, keys::seat(&alice)).await;
            if let Some(seat) = seat {
                put(&world, items::write_seat(&alice, seat)).await;
            }
            let expected = write.apply(seat.as_ref());
            seen.note(write, expected.is_some());
            let answer = table.write_seat(&alice, write).await.unwrap();
            match expected {
                Some(new) => assert_eq!(answer, Answer::Written(new), "{write:?} on {seat:?}"),
                None => assert_eq!(answer, Answer::Refused(seat.clone()), "{write:?} on {seat:?}"),
            }
            let once = table.seat(&alice).await.unwrap();
            table.write_seat(&alice, write).await.unwrap();
            assert_eq!(table.seat(&alice).await.unwrap(), once, "{write:?} is not safe twice");
        }
    }
    seen.both(4);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connected_seat_is_not_deleted_by_time_and_every_other_is() {
    let world = World::new(|_| {}).await;
    let server = world.ready_server("alice").await;
    let has_ttl = async |expected: bool| {
        let items = world.scan().await;
        let seat = items.iter().find(|item| item[keys::PK].as_s().unwrap() == "PLAYER#alice").unwrap();
        assert_eq!(seat.contains_key(keys::TTL), expected, "{seat:?}");
    };
    has_ttl(true).await;
    server.let_in(&world, "alice").await;
    has_ttl(false).await;
    server.disconnect(&world, "alice", "").await.is(204);
    has_ttl(true).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_write_on_a_frontier_and_a_fleet_does_what_apply_says() {
    let world = World::new(|_| {}).await;
    let table = world.stack.owmm().table().clone();
    let mut seen = Seen::default();
    let name = pool("frontiers");
    let new = |server, remaining| Frontier::new(id(server), remaining);
    let with = |server, remaining, freed: &[&str]| Frontier {
        freed: freed.iter().map(|server| id(server)).collect(),
        ..new(server, remaining)
    };
    let names = (0..MAX_FREED).map(|n| format!("spare{n}")).collect::<Vec<_>>();
    let names = names.iter().map(String::as_str).collect::<Vec<_>>();
    let frontiers = [
        None,
        Some(new("s1", 2)),
        Some(new("s1", 1)),
        Some(new("s1", 0)),
        Some(new("s2", 0)),
        Some(with("s1", 0, &["s2"])),
        Some(with("s1", 0, &["s2", "s3"])),
        Some(with("s1", 0, &names)),
    ];
    for frontier in frontiers {
        for write in [
            FrontierWrite::Take { slots: 1 },
            FrontierWrite::Take { slots: 2 },
            FrontierWrite::GiveBack { server: id("s1"), seen: 1, slots: 1 },
            FrontierWrite::Advance { from: None, to: id("s3"), remaining: 4 },
            FrontierWrite::Advance { from: Some(Frontier::new(id("s1"), 0)), to: id("s3"), remaining: 4 },
            FrontierWrite::Advance { from: Some(Frontier::new(id("s1"), 1)), to: id("s3"), remaining: 4 },
            FrontierWrite::UsedUp { server: id("s1") },
            FrontierWrite::AddFreed { server: id("s1") },
            FrontierWrite::AddFreed { server: id("s2") },
            FrontierWrite::RemoveFreed { server: id("s2") },
            FrontierWrite::Return { from: Frontier::new(id("s1"), 0), to: id("s2"), remaining: 1 },
            FrontierWrite::Return { from: Frontier::new(id("s1"), 1), to: id("s2"), remaining: 1 },
        ] {
            remove(&world, keys::frontier(&name, 0)).await;
            if let Some(frontier) = &frontier {
                put(&world, items::write_frontier(&name, 0, frontier)).await;
            }
            let expected = write.apply(frontier.as_ref());
            seen.note(&write, expected.is_some());
            let answer = table.write_frontier(&name, 0, &write).await.unwrap();
            match expected {
                Some(new) => assert_eq!(answer, Answer::Written(new), "{write:?} on {frontier:?}"),
                None => assert_eq!(answer, Answer::Refused(frontier.clone()), "{write:?} on {frontier:?}"),
            }
        }
    }
    seen.both(7);
    let mut seen = Seen::default();
    let statuses = [
        None,
        Some(PoolStatus { live: 2, failures: 0, backoff_until: None, ..PoolStatus::default() }),
        Some(PoolStatus { live: 0, failures: 0, backoff_until: None, ..PoolStatus::default() }),
        Some(PoolStatus { live: 1, changes: 3, failures: 2, backoff_until: Some(NOW), ..PoolStatus::default() }),
        Some(PoolStatus { live: 1, failures: 3, backoff_until: Some(NOW + Span(1)), ..PoolStatus::default() }),
        Some(PoolStatus {
            live: 1,
            failures: 1,
            paused_until: Some(UNTIL_RESUMED),
            requested_at: Some(NOW),
            ..PoolStatus::default()
        }),
        Some(PoolStatus {
            live: 1,
            paused_until: Some(NOW),
            requested_at: Some(NOW - Span(1)),
            ..PoolStatus::default()
        }),
        Some(PoolStatus {
            live: 1,
            failures: 2,
            backoff_until: Some(NOW),
            requested_at: Some(NOW + Span(1)),
            ..PoolStatus::default()
        }),
    ];
    for status in statuses {
        for write in [
            PoolStatusWrite::Started { max_servers: 2, now: NOW },
            PoolStatusWrite::StartedAhead { changes: 0, max_servers: 2, now: NOW },
            PoolStatusWrite::StartedAhead { changes: 3, max_servers: 2, now: NOW },
            PoolStatusWrite::Recount { changes: 0, live: 7 },
            PoolStatusWrite::Recount { changes: 3, live: 7 },
            PoolStatusWrite::Ended,
            PoolStatusWrite::Failed { was: 0, backoff_until: None },
            PoolStatusWrite::Failed { was: 2, backoff_until: Some(NOW + Span(9)) },
            PoolStatusWrite::Recovered,
            PoolStatusWrite::Pause { at: NOW, until: NOW + Span(5) },
            PoolStatusWrite::Pause { at: NOW + Span(1), until: UNTIL_RESUMED },
            PoolStatusWrite::Resume { at: NOW },
        ] {
            remove(&world, keys::pool_status(&name)).await;
            if let Some(status) = &status {
                put(&world, items::write_pool_status(&name, status)).await;
            }
            let expected = write.apply(status.as_ref());
            seen.note(&write, expected.is_some());
            let answer = table.write_pool_status(&name, &write).await.unwrap();
            match expected {
                Some(new) => assert_eq!(answer, Answer::Written(new), "{write:?} on {status:?}"),
                None => assert_eq!(answer, Answer::Refused(status.clone()), "{write:?} on {status:?}"),
            }
        }
    }
    seen.both(8);
    world.end().await;
}
