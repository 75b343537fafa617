//! The connected players, and the turns that order the calls about each player.
//!
//! OWMM's protocol requires that a server makes the calls about one player one after the other. Two connections of a
//! player, a disconnect that is being retried, and the answer to a heartbeat may all need a call at the same time. So
//! each of them takes the player's *turn* first, and keeps it until OWMM has answered the call. Turns are granted in
//! the order of the requests. Different players do not wait for each other.
//!
//! Only the owner of a turn can connect or disconnect the player. This module does not depend on HTTP or sockets.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, oneshot};

/// All players who are connected, or about whom a call is in flight.
#[derive(Debug, Default)]
pub(super) struct Roster {
    entries: Mutex<HashMap<String, Entry>>,
}

#[derive(Debug, Default)]
struct Entry {
    turn: Arc<AsyncMutex<()>>,
    /// Set while the player is connected. No value is ever sent: dropping the sender notifies the visit that it ended.
    connected: Option<oneshot::Sender<()>>,
}

impl Roster {
    /// Waits for the player's turn.
    pub(super) async fn turn(&self, player: &str) -> Turn<'_> {
        let turn = Arc::clone(&self.entries().entry(player.to_owned()).or_default().turn);
        Turn { _guard: turn.lock_owned().await, roster: self, player: player.to_owned() }
    }

    /// Takes the player's turn if it is free. Otherwise returns `None`, and the owner of the turn handles the player.
    pub(super) fn try_turn(&self, player: &str) -> Option<Turn<'_>> {
        let mut entries = self.entries();
        let turn = Arc::clone(&entries.entry(player.to_owned()).or_default().turn);
        let guard = turn.try_lock_owned().ok()?;
        drop(entries);
        Some(Turn { _guard: guard, roster: self, player: player.to_owned() })
    }

    /// Returns the ids of the connected players.
    pub(super) fn players(&self) -> Vec<String> {
        self.entries().iter().filter(|(_, entry)| entry.connected.is_some()).map(|(player, _)| player.clone()).collect()
    }

    /// Returns whether no player is connected and no call about a player is in flight.
    pub(super) fn is_idle(&self) -> bool {
        self.entries().values().all(|entry| entry.connected.is_none() && Arc::strong_count(&entry.turn) == 1)
    }

    /// Locks the map. The lock is kept for one access, and never across an `await`.
    fn entries(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The exclusive right to make calls about one player. Dropping it releases the turn.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    roster: &'a Roster,
    player: String,
    _guard: OwnedMutexGuard<()>,
}

impl Turn<'_> {
    pub(super) fn is_connected(&self) -> bool {
        self.roster.entries().get(&self.player).is_some_and(|entry| entry.connected.is_some())
    }

    /// Marks the player as connected with a new visit. An earlier visit of the player is notified that it was replaced.
    pub(super) fn let_in(&self) -> Stay {
        let (connected, over) = oneshot::channel();
        self.roster.entries().entry(self.player.clone()).or_default().connected = Some(connected);
        Stay { over }
    }

    /// Marks the player as disconnected. If a newer visit has replaced this one, changes nothing and returns `false`.
    pub(super) fn let_out(&self, mut stay: Stay) -> bool {
        let is_current = matches!(stay.over.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        if is_current && let Some(entry) = self.roster.entries().get_mut(&self.player) {
            entry.connected = None;
        }
        is_current
    }
}

impl Drop for Turn<'_> {
    /// Removes a disconnected player from the map, unless another caller waits for the turn. Without a waiter, the map
    /// and this turn have the only two references to the lock. With a waiter, the waiter's drop removes the player.
    fn drop(&mut self) {
        let mut entries = self.roster.entries();
        if entries
            .get(&self.player)
            .is_some_and(|entry| entry.connected.is_none() && Arc::strong_count(&entry.turn) == 2)
        {
            entries.remove(&self.player);
        }
    }
}

/// Token of one visit, by which the roster recognises the visit.
#[derive(Debug)]
pub(super) struct Stay {
    over: oneshot::Receiver<()>,
}

impl Stay {
    /// Waits until a newer visit of the same player replaces this one.
    pub(super) async fn replaced(&mut self) {
        let _ = (&mut self.over).await;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use std::{
        sync::atomic::{AtomicU32, Ordering},
        time::Duration,
    };

    use tokio::{
        task::{JoinSet, yield_now},
        time::timeout,
    };

    use super::*;

    /// Time limit that only ends a test that hangs.
    const BOUND: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn calls_about_one_player_run_one_at_a_time_in_the_order_of_requests() {
        let roster = Arc::new(Roster::default());
        let active = Arc::new(AtomicU32::new(0));
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut calls = JoinSet::new();
        for number in 0..50 {
            let (roster, active, order) = (Arc::clone(&roster), Arc::clone(&active), Arc::clone(&order));
            calls.spawn(async move {
                let _turn = roster.turn("ann").await;
                assert_eq!(active.fetch_add(1, Ordering::SeqCst), 0, "two turns of ann overlap");
                for _ in 0..5 {
                    yield_now().await;
                }
                order.lock().unwrap().push(number);
                active.fetch_sub(1, Ordering::SeqCst);
            });
        }
        timeout(BOUND, calls.join_all()).await.unwrap();
        assert_eq!(*order.lock().unwrap(), (0..50).collect::<Vec<_>>());
        assert!(roster.is_idle() && roster.entries().is_empty());
    }

    #[tokio::test]
    async fn different_players_do_not_wait_for_each_other() {
        let roster = Roster::default();
        let _ann = roster.turn("ann").await;
        let _bob = timeout(BOUND, roster.turn("bob")).await.unwrap();
        assert!(roster.try_turn("cid").is_some());
    }

    #[tokio::test]
    async fn try_turn_returns_none_while_the_turn_is_taken() {
        let roster = Roster::default();
        let turn = roster.turn("ann").await;
        assert!(roster.try_turn("ann").is_none());
        assert!(!roster.is_idle(), "a call is in flight");
        drop(turn);
        assert!(roster.is_idle());
        assert!(roster.try_turn("ann").is_some());
    }

    #[tokio::test]
    async fn a_player_stays_connected_between_turns() {
        let roster = Roster::default();
        let stay = roster.turn("ann").await.let_in();
        assert_eq!(roster.players(), ["ann"]);
        assert!(!roster.is_idle());
        let turn = roster.turn("ann").await;
        assert!(turn.is_connected());
        assert!(turn.let_out(stay));
        assert!(!turn.is_connected() && roster.players().is_empty());
        assert!(!roster.is_idle(), "the disconnect is still in flight");
        drop(turn);
        assert!(roster.is_idle() && roster.entries().is_empty());
    }

    #[tokio::test]
    async fn a_newer_visit_replaces_the_older_one_which_then_cannot_disconnect_the_player() {
        let roster = Roster::default();
        let mut first = roster.turn("ann").await.let_in();
        let second = roster.turn("ann").await.let_in();
        timeout(BOUND, first.replaced()).await.unwrap();
        assert!(!roster.turn("ann").await.let_out(first));
        assert_eq!(roster.players(), ["ann"]);
        assert!(roster.turn("ann").await.let_out(second));
        assert!(roster.is_idle());
    }

    #[tokio::test]
    async fn waiting_for_a_turn_can_be_cancelled() {
        let roster = Roster::default();
        let turn = roster.turn("ann").await;
        tokio::select! {
            biased;
            _ = roster.turn("ann") => unreachable!("the turn is taken"),
            () = yield_now() => {}
        }
        drop(turn);
        assert!(roster.is_idle());
    }
}
