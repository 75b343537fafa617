//! Every write of the domain on a real DynamoDB engine: the expression must give the same result as `apply`.
//!
//! Where `apply` returns a new item, the engine must write that item. Where `apply` refuses, the engine must refuse too
//! and return the current item.

use std::collections::{BTreeMap, BTreeSet};

use shared::{
    domain::{
        Answer, Assignment, Claim, Endpoint, ExpectedSeat, Fill, Frontier, FrontierWrite, Launch, Ledger, LedgerWrite,
        MAX_FREED, Placement, PlayerId, PoolLimits, PoolStatus, PoolStatusWrite, Registration, Seat, SeatWrite,
        ServerId, ServerState, Span, StopBy, Time, TokenHash, UNTIL_RESUMED,
    },
    table::{self, keys},
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

/// The case's name, the ledger before the write, and the write.
type LedgerCase = (String, Ledger, LedgerWrite);

/// Cases in which every clause of every condition is met, and cases in which it is not.
fn ledger_cases() -> Vec<LedgerCase> {
    use ServerState::{Draining, Ready, Starting, Stopped};
    let full = [("b", connected(1)), ("c", reserved(2)), ("d", reserved(3))];
    let other = TokenHash::of("other");
    let lapsed = Ledger { lease_until: Some(NOW - Span(1)), ..ready(&[]) };
    let heartbeat_since =
        Ledger { seen: Some(NOW + Span(20_001)), lease_until: Some(NOW + Span(50_001)), ..ready(&[]) };
    let second = Ledger { attempt: 2, ..starting(&[]) };
    let with_task = Ledger { task: Some("arn".into()), ..starting(&[]) };
    let every = |write: &LedgerWrite| {
        ServerState::ALL.map(|state| {
            let image = ledger(state, &[("a", reserved(5)), ("b", connected(6))]);
            (format!("in state {}", state.as_str()), image, write.clone())
        })
    };
    let keep = |by| LedgerWrite::KeepForReconnect { by, player: player("a"), from: placement(5), to: placement(7) };
    let mut cases = vec![
        ("an empty ready server", ready(&[]), claim("a", 9)),
        ("a starting server with a slot", starting(&full[..2]), claim("a", 9)),
        ("the lease has lapsed", lapsed.clone(), claim("a", 9)),
        ("heartbeat after `seen_by`", heartbeat_since.clone(), claim("a", 9)),
        ("heartbeat at `seen_by`", Ledger { seen: Some(NOW + Span(20_000)), ..heartbeat_since }, claim("a", 9)),
        ("the lease ends now", Ledger { lease_until: Some(NOW), ..lapsed }, claim("a", 9)),
        ("full, no claim of the player", ready(&full), claim("a", 9)),
        ("full, an older reservation of the player", ready(&full), claim("d", 9)),
        ("full, the same reservation", ready(&full), claim("d", 3)),
        ("full, a newer reservation", ready(&full), claim("d", 2)),
        ("full, an older connection", ready(&full), claim("b", 9)),
        ("full, the same connection", ready(&full), claim("b", 1)),
        ("a newer connection", ready(&[("b", connected(20))]), claim("b", 9)),
        ("two to evict", ready(&full), evicting("a", &[("c", reserved(2)), ("d", reserved(3))], 3)),
        ("one to evict, ready", ready(&full), evicting("a", &[("c", reserved(2))], 3)),
        ("one to evict, starting", starting(&full), evicting("a", &[("c", reserved(2))], 3)),
        ("one to evict, draining", ledger(Draining, &full), evicting("a", &[("c", reserved(2))], 3)),
        ("the one to evict has another placement", ready(&full), evicting("a", &[("c", reserved(4))], 3)),
        ("the one to evict was seen connected", ready(&full), evicting("a", &[("c", connected(2))], 3)),
        ("the one to evict is not there", ready(&full), evicting("a", &[("e", reserved(2))], 3)),
        ("another capacity was seen", ready(&full), evicting("a", &[("c", reserved(2))], 4)),
        ("the player has a claim that was not seen", ready(&full), evicting("d", &[("c", reserved(2))], 3)),
        ("more claims than capacity", Ledger { capacity: 2, ..ready(&full) }, evicting("a", &[("c", reserved(2))], 2)),
        ("reserved", ready(&[("a", reserved(5))]), connect(hash(), 5, true)),
        ("connected already", ready(&[("a", connected(5))]), connect(hash(), 5, true)),
        ("connected already, late ticket", ready(&[("a", connected(5))]), connect(hash(), 5, false)),
        ("reserved, late ticket", ready(&[("a", reserved(5))]), connect(hash(), 5, false)),
        ("reserved under another placement", ready(&[("a", reserved(6))]), connect(hash(), 5, true)),
        ("no claim", ready(&[]), connect(hash(), 5, true)),
        ("another token", ready(&[("a", reserved(5))]), connect(other, 5, true)),
        ("connected, ready", ready(&[("a", connected(5))]), release(Some(hash()), connected(5), true)),
        (
            "connected, ready and listed",
            listed(Some(0), ready(&[("a", connected(5))])),
            release(Some(hash()), connected(5), true),
        ),
        ("reserved, seen connected", ready(&[("a", reserved(5))]), release(Some(hash()), connected(5), true)),
        ("connected under another placement", ready(&[("a", connected(6))]), release(Some(hash()), connected(5), true)),
        ("no claim", ready(&[]), release(Some(hash()), connected(5), true)),
        ("another token", ready(&[("a", connected(5))]), release(Some(other), connected(5), true)),
        ("ready, seen draining", ready(&[("a", connected(5))]), release(Some(hash()), connected(5), false)),
        (
            "draining, seen draining",
            ledger(Draining, &[("a", connected(5))]),
            release(Some(hash()), connected(5), false),
        ),
        ("draining, seen ready", ledger(Draining, &[("a", connected(5))]), release(Some(hash()), connected(5), true)),
        ("a reservation, without a token", ready(&[("a", reserved(5))]), release(None, reserved(5), true)),
        ("connected, seen reserved", ready(&[("a", connected(5))]), release(None, reserved(5), true)),
        ("a reservation on a starting server", starting(&[("a", reserved(5))]), release(None, reserved(5), false)),
        ("another token", starting(&[]), register(other, None)),
        ("as many reservations as the capacity", starting(&full), register(hash(), Some(3))),
        ("more reservations than the capacity", starting(&full), register(hash(), Some(2))),
        ("room for two", ready(&[("b", connected(1))]), together(&[("a", None), ("c", None)], &[], 3)),
        ("room for one of two", ready(&full[..2]), together(&[("a", None), ("e", None)], &[], 3)),
        (
            "one evicts and one renews",
            ready(&full),
            together(&[("a", None), ("d", Some(reserved(3)))], &[("c", reserved(2))], 3),
        ),
        (
            "one has a claim that was not seen",
            ready(&full),
            together(&[("a", None), ("d", None)], &[("c", reserved(2))], 3),
        ),
        ("both renew", ready(&full), together(&[("c", Some(reserved(2))), ("d", Some(reserved(3)))], &[], 3)),
        (
            "one of two has another placement",
            ready(&full),
            together(&[("c", Some(reserved(2))), ("d", Some(reserved(4)))], &[], 3),
        ),
        (
            "more than the capacity",
            starting(&[]),
            together(&[("a", None), ("c", None), ("d", None), ("e", None)], &[], 3),
        ),
        ("listed as it was seen", listed(Some(1), ready(&[])), list(Some(1), Fill::TOP)),
        ("listed with another fill than was seen", listed(Some(1), ready(&[])), list(Some(0), Fill::TOP)),
        ("listed, seen unlisted", listed(Some(1), ready(&[])), list(None, Fill::TOP)),
        ("unlisted, seen unlisted", ready(&[]), list(None, Fill::EMPTY)),
        ("a newer build, unlisted", Ledger { build: 2, ..ready(&[]) }, list(None, Fill::EMPTY)),
        ("an older build, listed", Ledger { build: 0, ..listed(Some(1), ready(&[])) }, list(Some(1), Fill::EMPTY)),
        ("unlisted, seen listed", ready(&[]), list(Some(1), Fill::EMPTY)),
        ("draining", ledger(Draining, &[]), list(None, Fill::EMPTY)),
        ("full", listed(Some(2), ready(&full)), unlist(Fill::TOP)),
        ("full, a newer build", Ledger { build: 2, ..listed(Some(2), ready(&full)) }, unlist(Fill::TOP)),
        ("a slot is free", listed(Some(2), ready(&full[1..])), unlist(Fill::TOP)),
        (
            "empty, the lease ends now",
            listed(Some(2), Ledger { lease_until: Some(NOW), ..ready(&[]) }),
            unlist(Fill::TOP),
        ),
        (
            "empty, the lease has lapsed",
            listed(Some(2), Ledger { lease_until: Some(NOW - Span(1)), ..ready(&[]) }),
            unlist(Fill::TOP),
        ),
        ("full, listed with another fill than was seen", listed(Some(1), ready(&full)), unlist(Fill::TOP)),
        ("full, not listed", ready(&full), unlist(Fill::TOP)),
        ("draining", listed(Some(2), ledger(Draining, &[])), unlist(Fill::TOP)),
        ("the task is on record", with_task, LedgerWrite::Recall { attempt: 1, was: Time(500), call_at: Time(900) }),
        ("due at another time", starting(&[]), LedgerWrite::Recall { attempt: 1, was: Time(501), call_at: Time(900) }),
        ("the next attempt", second.clone(), LedgerWrite::Recall { attempt: 1, was: Time(500), call_at: Time(900) }),
        ("the next attempt", second.clone(), LedgerWrite::TaskStarted { attempt: 1, task: "arn".into() }),
        (
            "the next attempt",
            second.clone(),
            LedgerWrite::NextAttempt { failed: 1, token_hash: other, launch: launch() },
        ),
        ("the next attempt", second, LedgerWrite::AbandonLaunch { failed: 1, now: NOW }),
        ("another token", ready(&full), LedgerWrite::Stop { by: StopBy::Server(other), now: NOW }),
        ("another token", ready(&full), LedgerWrite::Heartbeat { by: other, now: NOW }),
        (
            "a later heartbeat",
            Ledger { seen: Some(NOW + Span(1)), ..ready(&full) },
            LedgerWrite::Heartbeat { by: hash(), now: NOW },
        ),
        (
            "drained at the same time",
            Ledger { requested_at: Some(NOW), ..ready(&full) },
            LedgerWrite::Drain { at: NOW, drain_by: None },
        ),
        (
            "drained earlier",
            Ledger { requested_at: Some(NOW), ..ready(&full) },
            LedgerWrite::Drain { at: NOW + Span(1), drain_by: None },
        ),
        ("connected", ready(&[("a", connected(5))]), keep(hash())),
        ("reserved", ready(&[("a", reserved(5))]), keep(hash())),
        ("connected under another placement", ready(&[("a", connected(6))]), keep(hash())),
        ("another token", ready(&[("a", connected(5))]), keep(other)),
    ];
    let idle = |since: i64| Ledger { idle_since: Some(Time(since)), ..ready(&[]) };
    let sweep = |evict: &[(&str, Claim)], ready| LedgerWrite::Sweep {
        evict: evict.iter().map(|(name, claim)| (player(name), *claim)).collect(),
        ready,
    };
    let by_five = LedgerWrite::DrainIdle { idle_by: Time(5) };
    cases.extend([
        ("marked as idle", idle(5), claim("a", 9)),
        (
            "marked as idle, one to evict",
            Ledger { idle_since: Some(Time(5)), ..ready(&full) },
            evicting("a", &[("c", reserved(2))], 3),
        ),
        ("empty", ready(&[]), LedgerWrite::Idle { now: NOW }),
        ("marked as idle already", idle(5), LedgerWrite::Idle { now: NOW }),
        ("with claims", ready(&full), LedgerWrite::Idle { now: NOW }),
        ("draining", ledger(Draining, &[]), LedgerWrite::Idle { now: NOW }),
        ("idle for long enough", listed(Some(0), idle(5)), by_five.clone()),
        ("idle for too short a time", idle(6), by_five.clone()),
        ("not marked as idle", ready(&[]), by_five.clone()),
        ("with claims", Ledger { idle_since: Some(Time(5)), ..ready(&full) }, by_five.clone()),
        ("draining", Ledger { idle_since: Some(Time(5)), ..ledger(Draining, &[]) }, by_five),
        ("ready, two to evict", ready(&full), sweep(&[("c", reserved(2)), ("d", reserved(3))], true)),
        ("the one to evict was seen connected", ready(&full), sweep(&[("c", connected(2))], true)),
        ("one of two is not there", ready(&full), sweep(&[("c", reserved(2)), ("x", reserved(3))], true)),
        ("ready, seen draining", ready(&full), sweep(&[("c", reserved(2))], false)),
        ("draining, seen draining", ledger(Draining, &full), sweep(&[("c", reserved(2))], false)),
        ("draining, seen ready", ledger(Draining, &full), sweep(&[("c", reserved(2))], true)),
    ]);
    let silent = |attempt, silent_since, claims: Option<&[(&str, Claim)]>| LedgerWrite::StopSilent {
        attempt,
        silent_since,
        claims: claims.map(|claims| claims.iter().map(|(name, claim)| (player(name), *claim)).collect()),
        now: NOW,
    };
    let later = NOW + Span(30_001);
    cases.extend([
        ("full, claims not compared", listed(Some(2), ready(&full)), silent(1, later, None)),
        ("full as it was seen", ready(&full), silent(1, later, Some(&full))),
        ("empty as it was seen", ready(&[]), silent(1, later, Some(&[]))),
        ("one claim more than was seen", ready(&full), silent(1, later, Some(&full[..2]))),
        ("connected, seen reserved", ready(&[("a", connected(5))]), silent(1, later, Some(&[("a", reserved(5))]))),
        ("the lease ends as the silence begins", ready(&[]), silent(1, NOW + Span(30_000), Some(&[]))),
        ("another attempt", ready(&[]), silent(2, later, Some(&[]))),
        ("a heartbeat since", Ledger { lease_until: Some(later), ..ready(&[]) }, silent(1, later, None)),
    ]);
    let mut cases =
        cases.into_iter().map(|(case, image, write)| (case.to_owned(), image, write)).collect::<Vec<LedgerCase>>();
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

/// Outcomes of each variant of a write (written or refused); a test must see both of every variant.
#[derive(Default)]
struct Seen(BTreeMap<String, BTreeSet<bool>>);

impl Seen {
    fn note(&mut self, write: &impl std::fmt::Debug, taken: bool) {
        self.0.entry(variant(write)).or_default().insert(taken);
    }

    fn both(&self, variants: usize) {
        assert_eq!(self.0.len(), variants, "a variant without a case: {:?}", self.0);
        for (write, outcomes) in &self.0 {
            assert_eq!(outcomes.len(), 2, "{write} has only one outcome: {outcomes:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_write_on_a_ledger_has_the_result_of_apply() {
    let world = World::new(|_| {}).await;
    let table = world.stack.owmm().table().clone();
    let mut seen = Seen::default();
    for (case, image, write) in ledger_cases() {
        let case = format!("{case}: {write:?} on {image:?}");
        put(&world, table::ledger::to_item(&image)).await;
        let expected = write.apply(Some(&image));
        seen.note(&write, expected.is_some());
        let answer = table.write_ledger(&image.id, &write).await.unwrap();
        match expected {
            Some(new) => assert_eq!(answer, Answer::Written(new), "{case}"),
            None => assert_eq!(answer, Answer::Refused(Some(image.clone())), "{case}"),
        }
        // A second application leaves the same item, as when the SDK repeats a request whose first response was lost.
        let once = table.ledger(&image.id).await.unwrap().unwrap();
        table.write_ledger(&image.id, &write).await.unwrap();
        assert_eq!(table.ledger(&image.id).await.unwrap().unwrap(), once, "not idempotent: {case}");
    }
    seen.both(20);
    // Every write on a ledger that does not exist is refused, and creates none.
    for (case, _, write) in ledger_cases() {
        let answer = table.write_ledger(&id("nobody"), &write).await.unwrap();
        assert_eq!(answer, Answer::Refused(None), "{case}: {write:?} on no ledger");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connected_claim_is_not_reserved_again_under_its_placement() {
    // Asserted explicitly, because `apply` and its expression could both be wrong.
    let world = World::new(|_| {}).await;
    let table = world.stack.owmm().table().clone();
    for (case, stands) in [
        ("the same connection", connected(9)),
        ("a newer connection", connected(10)),
        ("a newer reservation", reserved(10)),
    ] {
        let image = ready(&[("a", stands)]);
        put(&world, table::ledger::to_item(&image)).await;
        let answer = table.write_ledger(&image.id, &claim("a", 9)).await.unwrap();
        assert_eq!(answer, Answer::Refused(Some(image)), "{case}");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_has_changed_since_it_was_seen_is_not_evicted() {
    // Asserted explicitly, because `apply` and its expression could both be wrong.
    let world = World::new(|_| {}).await;
    let table = world.stack.owmm().table().clone();
    let seen = [("b", reserved(1)), ("c", reserved(2)), ("d", reserved(3))];
    for (case, now) in [("connected since", connected(2)), ("reserved again since", reserved(7))] {
        let image = ready(&[("b", reserved(1)), ("c", now), ("d", reserved(3))]);
        put(&world, table::ledger::to_item(&image)).await;
        for write in [
            evicting("a", &seen, 3),
            LedgerWrite::Sweep { evict: seen.iter().map(|(it, claim)| (player(it), *claim)).collect(), ready: true },
        ] {
            let answer = table.write_ledger(&image.id, &write).await.unwrap();
            assert_eq!(answer, Answer::Refused(Some(image.clone())), "{case}: {write:?}");
        }
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_write_on_a_seat_has_the_result_of_apply() {
    let world = World::new(|_| {}).await;
    let table = world.stack.owmm().table().clone();
    let at =
        |server: &str, claim: Claim| Some(Seat::Assigned(Assignment { server: id(server), pool: pool("p"), claim }));
    let seats = [
        ("no seat", None),
        ("vacant, older placement", Some(Seat::Vacant(placement(4)))),
        ("vacant, the same placement", Some(Seat::Vacant(placement(9)))),
        ("reserved there", at("s1", reserved(5))),
        ("connected there", at("s1", connected(5))),
        ("reserved there under another placement", at("s1", reserved(6))),
        ("reserved elsewhere", at("s2", reserved(5))),
        ("connected elsewhere", at("s2", connected(5))),
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
    for (case, seat) in &seats {
        for write in &writes {
            remove(&world, keys::seat(&alice)).await;
            if let Some(seat) = seat {
                put(&world, table::seat::to_item(&alice, seat)).await;
            }
            let expected = write.apply(seat.as_ref());
            seen.note(write, expected.is_some());
            let answer = table.write_seat(&alice, write).await.unwrap();
            match expected {
                Some(new) => assert_eq!(answer, Answer::Written(new), "{case}: {write:?}"),
                None => assert_eq!(answer, Answer::Refused(seat.clone()), "{case}: {write:?}"),
            }
            let once = table.seat(&alice).await.unwrap();
            table.write_seat(&alice, write).await.unwrap();
            assert_eq!(table.seat(&alice).await.unwrap(), once, "{case}: {write:?} is not idempotent");
        }
    }
    seen.both(4);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connected_seat_has_no_ttl_and_every_other_seat_has_one() {
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
async fn every_write_on_a_frontier_and_a_pool_status_has_the_result_of_apply() {
    let world = World::new(|_| {}).await;
    let table = world.stack.owmm().table().clone();
    let mut seen = Seen::default();
    let name = pool("busy");
    let new = |server, remaining| Frontier::new(id(server), remaining);
    let with = |server, remaining, freed: &[&str]| Frontier {
        freed: freed.iter().map(|server| id(server)).collect(),
        ..new(server, remaining)
    };
    let names = (0..MAX_FREED).map(|n| format!("freed{n}")).collect::<Vec<_>>();
    let names = names.iter().map(String::as_str).collect::<Vec<_>>();
    let frontiers = [
        ("no frontier", None),
        ("two slots left", Some(new("s1", 2))),
        ("one slot left", Some(new("s1", 1))),
        ("used up", Some(new("s1", 0))),
        ("another server, used up", Some(new("s2", 0))),
        ("one freed server", Some(with("s1", 0, &["s2"]))),
        ("two freed servers", Some(with("s1", 0, &["s2", "s3"]))),
        ("the maximum of freed servers", Some(with("s1", 0, &names))),
    ];
    for (case, frontier) in frontiers {
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
                put(&world, table::frontier::to_item(&name, 0, frontier)).await;
            }
            let expected = write.apply(frontier.as_ref());
            seen.note(&write, expected.is_some());
            let answer = table.write_frontier(&name, 0, &write).await.unwrap();
            match expected {
                Some(new) => assert_eq!(answer, Answer::Written(new), "{case}: {write:?}"),
                None => assert_eq!(answer, Answer::Refused(frontier.clone()), "{case}: {write:?}"),
            }
        }
    }
    seen.both(7);
    let mut seen = Seen::default();
    let statuses = [
        ("no item", None),
        ("two servers", Some(PoolStatus { live: 2, ..PoolStatus::default() })),
        ("no server", Some(PoolStatus::default())),
        (
            "a pause for failures that has ended",
            Some(PoolStatus { live: 1, changes: 3, failures: 2, backoff_until: Some(NOW), ..PoolStatus::default() }),
        ),
        (
            "paused for failures",
            Some(PoolStatus { live: 1, failures: 3, backoff_until: Some(NOW + Span(1)), ..PoolStatus::default() }),
        ),
        (
            "paused by an operator until it is resumed",
            Some(PoolStatus {
                live: 1,
                failures: 1,
                paused_until: Some(UNTIL_RESUMED),
                requested_at: Some(NOW),
                ..PoolStatus::default()
            }),
        ),
        (
            "an operator's pause that has ended",
            Some(PoolStatus {
                live: 1,
                paused_until: Some(NOW),
                requested_at: Some(NOW - Span(1)),
                ..PoolStatus::default()
            }),
        ),
        (
            "a later command of an operator",
            Some(PoolStatus {
                live: 1,
                failures: 2,
                backoff_until: Some(NOW),
                requested_at: Some(NOW + Span(1)),
                ..PoolStatus::default()
            }),
        ),
    ];
    for (case, status) in statuses {
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
                put(&world, table::pool_status::to_item(&name, status)).await;
            }
            let expected = write.apply(status.as_ref());
            seen.note(&write, expected.is_some());
            let answer = table.write_pool_status(&name, &write).await.unwrap();
            match expected {
                Some(new) => assert_eq!(answer, Answer::Written(new), "{case}: {write:?}"),
                None => assert_eq!(answer, Answer::Refused(status.clone()), "{case}: {write:?}"),
            }
        }
    }
    seen.both(8);
    world.end().await;
}
