//! Who is inside, and whose turn it is to speak about a player.
//!
//! OWMM's protocol leans on one thing from its servers: the calls about one player are made one after the other. Two
//! connections of one player, a disconnect that is being repeated and a heartbeat's answer may all want to call at the same
//! moment. So each takes the player's *turn* first, and holds it until its call has been answered. Turns are given in
//! the order in which they were asked for. Different players do not wait for each other.
//!
//! Who is inside can be changed only by the holder of the turn. This module knows nothing of HTTP or sockets.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, oneshot};

/// All players who are inside or about whom a call is in flight.
#[derive(Debug, Default)]
pub(super) struct Roster {
    entries: Mutex<HashMap<String, Entry>>,
}

#[derive(Debug, Default)]
struct Entry {
    turn: Arc<AsyncMutex<()>>,
    /// There while the player is inside. Never sent on: dropping it is what tells the visit that it is over.
    inside: Option<oneshot::Sender<()>>,
}

impl Roster {
    /// Waits until nobody else speaks about this player.
    pub(super) async fn turn(&self, player: &str) -> Turn<'_> {
        let turn = Arc::clone(&self.entries().entry(player.to_owned()).or_default().turn);
        Turn { _alone: turn.lock_owned().await, roster: self, player: player.to_owned() }
    }

    /// The turn, unless somebody has it: then that one will see to the player.
    pub(super) fn try_turn(&self, player: &str) -> Option<Turn<'_>> {
        let mut entries = self.entries();
        let turn = Arc::clone(&entries.entry(player.to_owned()).or_default().turn);
        let alone = turn.try_lock_owned().ok()?;
        drop(entries);
        Some(Turn { _alone: alone, roster: self, player: player.to_owned() })
    }

    /// Everyone who is inside.
    pub(super) fn players(&self) -> Vec<String> {
        self.entries().iter().filter(|(_, entry)| entry.inside.is_some()).map(|(player, _)| player.clone()).collect()
    }

    /// Nobody is inside, and no call about anyone is in flight.
    pub(super) fn is_idle(&self) -> bool {
        self.entries().values().all(|entry| entry.inside.is_none() && Arc::strong_count(&entry.turn) == 1)
    }

    /// The lock is held for a look-up at a time and never across an `await`.
    fn entries(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to speak about one player. Given back when dropped.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    roster: &'a Roster,
    player: String,
    _alone: OwnedMutexGuard<()>,
}

impl Turn<'_> {
    pub(super) fn is_inside(&self) -> bool {
        self.roster.entries().get(&self.player).is_some_and(|entry| entry.inside.is_some())
    }

    /// The player is inside with this visit from now on. A visit from before learns that it has been replaced.
    pub(super) fn let_in(&self) -> Stay {
        let (inside, over) = oneshot::channel();
        self.roster.entries().entry(self.player.clone()).or_default().inside = Some(inside);
        Stay { over }
    }

    /// The player is outside from now on, unless a newer visit has replaced this one: then nothing changes, and the
    /// answer is `false`.
    pub(super) fn let_out(&self, mut stay: Stay) -> bool {
        let still_mine = matches!(stay.over.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        if still_mine && let Some(entry) = self.roster.entries().get_mut(&self.player) {
            entry.inside = None;
        }
        still_mine
    }
}

impl Drop for Turn<'_> {
    /// Forgets a player who is outside and whom nobody waits to speak about: then the map and this turn are the only
    /// two who hold the lock. Whoever waits will forget in our place.
    fn drop(&mut self) {
        let mut entries = self.roster.entries();
        if entries.get(&self.player).is_some_and(|entry| entry.inside.is_none() && Arc::strong_count(&entry.turn) == 2)
        {
            entries.remove(&self.player);
        }
    }
}

/// One visit's hold on its place inside.
#[derive(Debug)]
pub(super) struct Stay {
    over: oneshot::Receiver<()>,
}

impl Stay {
    /// Waits until a newer visit of the same player has replaced this one.
    pub(super) async fn replaced(&mut self) {
        let _ = (&mut self.over).await;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may end at the first surprise")]
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

    /// Far longer than anything here takes; it only ends a test that hangs.
    const BOUND: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn calls_about_one_player_never_overlap_and_keep_their_order() {
        let roster = Arc::new(Roster::default());
        let speaking = Arc::new(AtomicU32::new(0));
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut calls = JoinSet::new();
        for number in 0..50 {
            let (roster, speaking, order) = (Arc::clone(&roster), Arc::clone(&speaking), Arc::clone(&order));
            calls.spawn(async move {
                let _turn = roster.turn("ann").await;
                assert_eq!(speaking.fetch_add(1, Ordering::SeqCst), 0, "two speak about ann");
                for _ in 0..5 {
                    yield_now().await;
                }
                order.lock().unwrap().push(number);
                speaking.fetch_sub(1, Ordering::SeqCst);
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
    async fn a_turn_that_somebody_has_is_not_taken() {
        let roster = Roster::default();
        let turn = roster.turn("ann").await;
        assert!(roster.try_turn("ann").is_none());
        assert!(!roster.is_idle(), "a call is in flight");
        drop(turn);
        assert!(roster.is_idle());
        assert!(roster.try_turn("ann").is_some());
    }

    #[tokio::test]
    async fn a_player_stays_inside_between_turns() {
        let roster = Roster::default();
        let stay = roster.turn("ann").await.let_in();
        assert_eq!(roster.players(), ["ann"]);
        assert!(!roster.is_idle());
        let turn = roster.turn("ann").await;
        assert!(turn.is_inside());
        assert!(turn.let_out(stay));
        assert!(!turn.is_inside() && roster.players().is_empty());
        assert!(!roster.is_idle(), "the disconnect is still being said");
        drop(turn);
        assert!(roster.is_idle() && roster.entries().is_empty());
    }

    #[tokio::test]
    async fn a_newer_visit_replaces_the_older_one_which_then_may_not_say_disconnect() {
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
    async fn waiting_for_a_turn_can_be_given_up() {
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
