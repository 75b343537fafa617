//! The model: explores every reachable state of small worlds, with the domain's own code.
//!
//! `stateright` explores the protocols ([`domain::Protocol`]) and writes (`apply`) that the functions run. The model
//! adds only their surroundings: items, calls in flight, servers, an index that lags, time, and faults. A world has a
//! budget of each kind of event (`scope::Left`), so it is finite, and every order of events within that budget is
//! explored.

mod call;
mod injected;
mod kept;
mod laws;
mod scope;
mod world;

use std::time::Duration;

use domain::bug;
use stateright::{Checker, HasDiscoveries, Model, Path, Property};

use self::{
    laws::LAWS,
    world::{Step, World},
};

pub use injected::stops_although_connected;
pub use laws::laws;
pub use scope::{Scope, Size, scopes};

/// The result of one world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explored {
    /// Distinct states.
    pub states: u64,
    /// Steps between states.
    pub steps: u64,
    /// Length of the longest path.
    pub depth: u64,
    /// The violated law, and the path to the violation, one event per line.
    pub broken: Option<(&'static str, String)>,
}

impl Model for Scope {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self)]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        let _in_the_code = bug::inject(self.bug);
        world.steps(self, steps);
    }

    fn next_state(&self, _: &World, step: Step) -> Option<World> {
        Some(step.to)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        LAWS.iter().map(|(name, law)| Property::always(name, *law)).collect()
    }
}

/// Explores a world to its end, or to the first violated law. Calls `progress` with the number of states and the depth
/// every 20 ms.
pub fn explore(scope: &Scope, threads: usize, mut progress: impl FnMut(usize, usize)) -> Explored {
    let checker = scope.clone().checker().threads(threads).finish_when(HasDiscoveries::AnyFailures).spawn_bfs();
    while !checker.is_done() {
        progress(checker.unique_state_count(), checker.max_depth());
        #[allow(clippy::disallowed_methods, reason = "no runtime runs here; the checker has threads of its own")]
        std::thread::sleep(Duration::from_millis(20));
    }
    let checker = checker.join();
    let broken = checker.discoveries().into_iter().min_by_key(|(name, _)| *name);
    Explored {
        states: checker.unique_state_count() as u64,
        steps: checker.state_count() as u64,
        depth: checker.max_depth() as u64,
        broken: broken.map(|(law, path)| (law, describe(path))),
    }
}

/// Formats a path as one event per line, with the next effect of each call.
fn describe(path: Path<World, Step>) -> String {
    let mut lines = Vec::new();
    for (world, step) in path.into_vec() {
        if let Some(step) = step {
            lines.push(format!("{:>3}. {}", lines.len() + 1, world.describe(&step)));
        } else {
            lines.push(format!("     {}", world.summary()));
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_order_of_events_in_the_small_worlds_violates_a_law() {
        // README.md groups digits by commas.
        let readme = include_str!("../../README.md").replace(',', "");
        for scope in scopes(Size::Small) {
            let explored = explore(&scope, 2, |_, _| {});
            assert_eq!(explored.broken, None, "{}", scope.name);
            let row = format!("\n| {} | {} | ", scope.name, explored.states);
            assert!(readme.contains(&row), "verify/README.md must have the row {row:?}: correct its table");
        }
    }

    #[test]
    fn a_world_has_the_same_states_in_every_run_and_with_two_threads() {
        let scope = scopes(Size::Small).swap_remove(0);
        let explored = explore(&scope, 1, |_, _| {});
        assert_eq!(explore(&scope, 1, |_, _| {}), explored);
        let parallel = explore(&scope, 2, |_, _| {});
        assert_eq!((parallel.states, parallel.steps), (explored.states, explored.steps));
    }
}
