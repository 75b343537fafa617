//! Concurrent joins, disconnects and launches. Nothing is timed; every expected count is exact.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use shared::{
    JoinOutcome, Pool, Slot,
    domain::{Claim, Frontier, Ledger, Placement, PlayerId, PoolLimits, Span},
    table,
};
use tokio::task::JoinSet;

use crate::{
    reconcile_crash::{Interrupt, Testbed, Wire, a_pool, id, starting, write_fleet},
    reply::Reply,
    support::{World, demo_server, eventually, limits, seconds},
};

/// Joins `n` players at once over HTTP; returns each player with the response.
async fn join_at_once(world: &Arc<World>, n: usize) -> Vec<(String, Reply)> {
    let mut joins = JoinSet::new();
    for i in 0..n {
        let world = Arc::clone(world);
        joins.spawn(async move {
            let player = format!("player-{i}");
            let reply = world.join(&player).await;
            (player, reply)
        });
    }
    joins.join_all().await
}

async fn end(world: Arc<World>) {
    Arc::into_inner(world).unwrap().end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_hundred_joins_at_once_fill_three_servers_of_fifty_and_the_rest_get_pool_full() {
    let world = Arc::new(World::new(limits(50, 3)).await);
    // Three ready servers without a player.
    for i in 0..3 {
        let first = format!("first-{i}");
        let fillers = (0..50).map(|j| format!("filler-{i}-{j}")).collect::<Vec<_>>();
        let server = world.join(&first).await.is(202).server().to_owned();
        for filler in fillers.iter().take(49) {
            assert_eq!(world.join(filler).await.is(202).server(), server);
        }
    }
    for (player, _) in world.seats().await {
        world.call("DELETE", "/join", Some(player.as_str()), None).await.is(204);
    }
    for ledger in world.ledgers().await {
        assert!(ledger.claims.is_empty());
        world.game_server(ledger.id.as_str()).await.register(&world).await.is(200);
    }
    assert_eq!(world.stack.ecs().counts().run_task_calls, 3);

    let replies = join_at_once(&world, 300).await;
    let mut placed = HashMap::<_, u32>::new();
    let mut refused = Vec::new();
    for (player, reply) in replies {
        match reply.status.as_u16() {
            200 => *placed.entry(reply.server().to_owned()).or_default() += 1,
            _ => refused.push((player, reply)),
        }
    }
    // A player who got `busy` retries and gets a slot or `pool_full`.
    for (player, reply) in refused {
        let last = if reply.code() == "busy" { world.join_for_good(&player).await } else { reply };
        match last.status.as_u16() {
            200 => *placed.entry(last.server().to_owned()).or_default() += 1,
            _ => {
                last.problem(503, "pool_full");
            }
        }
    }
    assert_eq!(placed.values().sum::<u32>(), 150);
    assert!(placed.values().all(|players| *players == 50), "{placed:?}");
    assert_eq!(world.stack.ecs().counts().run_task_calls, 3, "no server was started");
    assert_eq!(world.audit().await, 150);
    end(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_joins_at_once_into_an_empty_pool_of_fifty_start_twenty_servers() {
    let world = Arc::new(World::new(|options| options.game_server = demo_server()).await);
    let replies = join_at_once(&world, 1_000).await;
    let mut servers = HashSet::new();
    for (player, reply) in replies {
        let reply = if reply.status == 503 { world.join_unless_busy(&player).await } else { reply };
        assert!(matches!(reply.status.as_u16(), 200 | 202), "{player} was lost: {reply:?}");
        servers.insert(reply.server().to_owned());
    }
    assert_eq!(servers.len(), 20);
    assert_eq!(world.stack.ecs().counts().processes_started, 20, "not 21");
    assert_eq!(world.audit().await, 1_000, "every player holds exactly one claim");
    // A player gets the address of the server on which the slot was reserved.
    for ledger in world.ledgers().await {
        assert_eq!(ledger.claims.len(), 50);
        let player = ledger.claims.keys().next().unwrap().to_string();
        assert_eq!(world.join_for_good(&player).await.is(200).server(), ledger.id.as_str());
    }
    assert_eq!(world.stack.ecs().counts().processes_started, 20);
    end(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn separate_processes_that_join_at_once_start_no_excess_server() {
    // Each process has its own hints, like each instance of a Lambda function.
    let world = World::new(limits(50, 100)).await;
    let mut joins = JoinSet::new();
    for copy in 0..8 {
        let owmm = world.stack.owmm().another_copy();
        for i in 0..50 {
            let owmm = owmm.clone();
            joins.spawn(async move {
                let player = PlayerId::parse(&format!("player-{copy}-{i}")).unwrap();
                let join = || async { owmm.join(&player, None).await.unwrap() };
                match eventually("a slot", join, |place| !matches!(place, JoinOutcome::No(_))).await {
                    JoinOutcome::Slot(Slot::Starting { server, .. }) => server,
                    other => panic!("no server is ready: {other:?}"),
                }
            });
        }
    }
    let servers = joins.join_all().await.into_iter().collect::<HashSet<_>>();
    assert_eq!(servers.len(), 8);
    assert_eq!(world.stack.ecs().counts().processes_started, 8);
    assert_eq!(world.audit().await, 400);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_player_who_joins_fifty_times_at_once_holds_one_slot() {
    let world = Arc::new(World::new(|_| {}).await);
    let mut joins = JoinSet::new();
    for _ in 0..50 {
        let world = Arc::clone(&world);
        joins.spawn(async move { world.join("alice").await });
    }
    let replies = joins.join_all().await;
    let servers = replies.iter().filter(|reply| reply.status == 202).map(Reply::server).collect::<HashSet<_>>();
    assert_eq!(servers.len(), 1, "{replies:?}");
    assert!(replies.iter().all(|reply| reply.status == 202 || reply.code() == "busy"), "{replies:?}");
    assert_eq!(world.audit().await, 1);
    assert_eq!(world.stack.ecs().counts().processes_started, 1);
    drop(replies);
    end(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn capacity_holds_while_players_come_and_go() {
    let world = Arc::new(World::new(limits(5, 1)).await);
    let server = world.ready_server("first").await;
    server.disconnect(&world, "first", "").await.is(204);
    let mut players = JoinSet::new();
    for i in 0..12 {
        let (world, server) = (Arc::clone(&world), server.clone());
        players.spawn(async move {
            let player = format!("player-{i}");
            for _ in 0..4 {
                let joined = world.join_until(&player, |joined| {
                    let refused = matches!(joined.code(), "pool_full" | "busy");
                    assert!(joined.status == 200 || refused, "{joined:?}");
                    !refused
                });
                let joined = joined.await;
                let connected = server.connect(&world, &player, Some(joined.ticket())).await.is(200);
                let ledger = world.ledger(&server.id).await;
                assert!(ledger.claims.len() <= 5, "I1: {ledger:?}");
                let placement = connected.body["placement"].as_i64().unwrap();
                server.disconnect(&world, &player, &format!("?placement={placement}")).await.is(204);
            }
        });
    }
    players.join_all().await;
    assert_eq!(world.audit().await, 0);
    // A join still finds the server: it is listed in the index with its free slots.
    assert_eq!(world.join_for_good("last").await.is(200).server(), server.id);
    end(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_frontiers_start_at_most_one_excess_server_each() {
    let world = Arc::new(
        World::new(|options| {
            limits(10, 100)(options);
            options.limits.concurrent_launches = 4;
        })
        .await,
    );
    let replies = join_at_once(&world, 200).await;
    for (player, reply) in replies {
        let reply = if reply.status == 503 { world.join_unless_busy(&player).await } else { reply };
        reply.is(202);
    }
    let started = world.stack.ecs().counts().processes_started;
    assert!((20..=23).contains(&started), "{started} servers for 200 players");
    assert_eq!(world.audit().await, 200);
    end(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_is_not_full_while_another_frontier_has_slots() {
    let world = World::new(|options| {
        limits(10, 2)(options);
        options.limits.concurrent_launches = 2;
    })
    .await;
    for i in 0..20 {
        world.join(&format!("player-{i}")).await.is(202);
    }
    assert_eq!(world.audit().await, 20);
    world.join("one-too-many").await.problem(503, "pool_full");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_joins_of_a_full_pool_with_several_frontiers_all_get_pool_full() {
    let world = Arc::new(
        World::new(|options| {
            limits(1, 2)(options);
            options.limits.concurrent_launches = 2;
        })
        .await,
    );
    let replies =
        tokio::time::timeout(crate::support::SOON, join_at_once(&world, 40)).await.expect("every join must end");
    let mut placed = 0;
    for (player, reply) in replies {
        let reply = if reply.code() == "busy" { world.join_unless_busy(&player).await } else { reply };
        match reply.status.as_u16() {
            202 => placed += 1,
            _ => {
                reply.problem(503, "pool_full");
            }
        }
    }
    assert_eq!(placed, 2);
    end(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_joins_of_one_player_whose_server_has_stopped_start_one_server() {
    let world = Arc::new(World::new(limits(1, 100)).await);
    let server = world.ready_server("alice").await;
    server.close(&world).await.is(204);
    let before = world.stack.ecs().counts().processes_started;
    let mut joins = JoinSet::new();
    for _ in 0..30 {
        let world = Arc::clone(&world);
        joins.spawn(async move { world.join("alice").await });
    }
    let replies = joins.join_all().await;
    assert!(replies.iter().all(|reply| reply.status == 202 || reply.code() == "busy"), "{replies:?}");
    let started = world.stack.ecs().counts().processes_started - before;
    assert_eq!(started, 1, "one server for one player");
    drop(replies);
    end(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_freed_slot_on_a_starting_server_is_handed_out_again() {
    let world = World::new(limits(2, 100)).await;
    let server = world.join("alice").await.is(202).server().to_owned();
    for _ in 0..5 {
        assert_eq!(world.join("bob").await.is(202).server(), server);
        world.call("DELETE", "/join", Some("bob"), None).await.is(204);
    }
    assert_eq!(
        world.stack.ecs().counts().processes_started,
        1,
        "joins and cancellations on a starting server start no other"
    );
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lapsed_servers_in_the_index_do_not_hide_a_server_with_free_slots() {
    let world = World::new(|options| {
        limits(2, 100)(options);
        options.limits.lease = seconds(2);
    })
    .await;
    // Five servers with one player each, which the index lists before the empty one.
    let mut silent = Vec::new();
    for i in 0..5 {
        let hand = world.ready_server(&format!("first-{i}")).await;
        world.join(&format!("second-{i}")).await.is(200);
        silent.push(hand);
    }
    let last = world.ready_server("last").await;
    for (i, hand) in silent.iter().enumerate() {
        hand.disconnect(&world, &format!("second-{i}"), "").await.is(204);
    }
    last.disconnect(&world, "last", "").await.is(204);
    for hand in &silent {
        world.until(&hand.id, "its lease has lapsed", |ledger| ledger.has_lapsed(world.stack.owmm().time())).await;
    }
    last.heartbeat(&world, None).await.is(200);
    let player = shared::domain::PlayerId::parse("carol").unwrap();
    let place = world.stack.owmm().another_copy().join(&player, None).await.unwrap();
    assert!(
        matches!(&place, shared::JoinOutcome::Slot(shared::Slot::Ready { server, .. }) if server.as_str() == last.id),
        "{place:?}"
    );
    // The next heartbeat of a lapsed server lists it again.
    silent[0].heartbeat(&world, None).await.is(200);
    assert!(world.ledger(&silent[0].id).await.listed.is_some());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_player_who_joins_and_leaves_at_once_uses_up_no_frontier() {
    let world = World::new(limits(20, 100)).await;
    let server = world.join("mallory").await.is(202).server().to_owned();
    let mut calls = JoinSet::new();
    for turn in 0..480 {
        let (http, url) = (world.http.clone(), format!("{}/join", world.stack.url()));
        let method = if turn % 2 == 0 { reqwest::Method::POST } else { reqwest::Method::DELETE };
        calls.spawn(async move { http.request(method, url).header("authorization", "Bearer mallory").send().await });
        if turn % 8 == 7 {
            while calls.join_next().await.is_some() {}
        }
    }
    world.call("DELETE", "/join", Some("mallory"), None).await.is(204);
    // Concurrent cancellations may lose a freed slot until the server is ready, but must not use up the frontier.
    let servers = world.ledgers().await.into_iter().map(|ledger| ledger.id.to_string()).collect::<Vec<_>>();
    assert_eq!(servers, [server], "one player needs one server");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_herd_that_joins_and_leaves_again_and_again_starts_no_more_servers_than_it_fills() {
    for (capacity, players, needed) in [(16, 48, 3), (4, 16, 4), (2, 3, 2), (1, 2, 2)] {
        let world = World::new(limits(capacity, 60)).await;
        for round in 0..6 {
            for method in [reqwest::Method::POST, reqwest::Method::DELETE] {
                let mut calls = JoinSet::new();
                for player in 0..players {
                    let call = world.http.request(method.clone(), format!("{}/join", world.stack.url()));
                    calls.spawn(call.header("authorization", format!("Bearer p{player}")).send());
                }
                while let Some(answer) = calls.join_next().await {
                    let status = answer.unwrap().unwrap().status();
                    assert!(status == 202 || status == 204, "{status} to {method} in round {round}");
                }
            }
        }
        let started = world.ledgers().await;
        assert!(started.iter().all(|ledger| ledger.claims.is_empty()));
        assert_eq!(started.len(), needed, "{players} players of {capacity} a server");
        world.end().await;
    }
}

/// Each seed begins at another frontier; every one of them must find the free slot.
#[tokio::test(flavor = "multi_thread")]
async fn a_pool_at_its_maximum_is_not_full_while_a_frontier_can_go_back_to_a_server_with_a_free_slot() {
    let testbed = Testbed::new().await;
    let now = testbed.now();
    let default = a_pool("default", 0);
    let limits = PoolLimits { concurrent_launches: 2, max_servers: 3, ..default.limits };
    let pool = Pool { limits, shards: 2, ..default };
    let claim = |i| Claim::Reserved(Placement::new(i).unwrap());
    let full = |name: &str, shard| {
        let claims = (1..=4).map(|i| (PlayerId::parse(&format!("{name}-{i}")).unwrap(), claim(i)));
        Ledger { claims: claims.collect(), shard, ..starting(name, now, now + Span::seconds(86_400)) }
    };
    for seed in 0..8 {
        let mut left = full("left", 0);
        left.claims.pop_first();
        write_fleet(&testbed, &pool, &[left, full("next", 0), full("another", 1)]).await;
        let freed = Frontier { freed: [id("left")].into(), ..Frontier::new(id("next"), 0) };
        let frontiers = [(0, freed), (1, Frontier::new(id("another"), 0))];
        let frontiers = frontiers.iter().map(|(k, it)| table::frontier::to_item(&pool.name, *k, it));
        testbed.put(frontiers.collect()).await;
        let owmm = testbed.owmm(&Wire::new(Interrupt::Never), seed);
        let place = owmm.join(&PlayerId::parse(&format!("player-{seed}")).unwrap(), None).await.unwrap();
        let is_there = matches!(&place, JoinOutcome::Slot(Slot::Starting { server, .. }) if *server == id("left"));
        assert!(is_there, "seed {seed}: {place:?}");
    }
    testbed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontier_removes_a_freed_server_that_has_no_free_slot() {
    let testbed = Testbed::new().await;
    let (now, pool) = (testbed.now(), a_pool("default", 0));
    let claim = |i| Claim::Reserved(Placement::new(i).unwrap());
    let full = |name: &str| {
        let claims = (1..=4).map(|i| (PlayerId::parse(&format!("{name}-{i}")).unwrap(), claim(i)));
        Ledger { claims: claims.collect(), ..starting(name, now, now + Span::seconds(86_400)) }
    };
    write_fleet(&testbed, &pool, &[full("left"), full("next")]).await;
    let frontier = Frontier { freed: [id("left")].into(), ..Frontier::new(id("next"), 0) };
    testbed.put(vec![table::frontier::to_item(&pool.name, 0, &frontier)]).await;
    let owmm = testbed.owmm(&Wire::new(Interrupt::Never), 1);
    let place = owmm.join(&PlayerId::parse("player").unwrap(), None).await.unwrap();
    let JoinOutcome::Slot(Slot::Starting { server, .. }) = place else { panic!("{place:?}") };
    let frontier = owmm.table().frontier(&pool.name, 0).await.unwrap();
    assert_eq!(frontier, Some(Frontier::new(server, 3)), "a new server and no freed server");
    testbed.end().await;
}
