//! Model checking: every order of events, to the end, over the domain's own code.
//!
//! `stateright` explores the very protocols ([`domain::Protocol`]) and writes (`apply`) that the functions run; the
//! model adds only what is around them: items, calls on their way, servers, an index that lags, time, and faults. A
//! world has a budget of each kind of event (`scope::Left`), which is what makes it finite; within that budget nothing is
//! left out.

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

/// What one world came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explored {
    /// Distinct states.
    pub states: u64,
    /// Steps between them.
    pub steps: u64,
    /// The longest way.
    pub depth: u64,
    /// The law that is broken, and how it came to that, one event a line.
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

/// Explores a world to its end, or to the first broken law. `progress` is told states and depth now and then.
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
        broken: broken.map(|(law, path)| (law, tell(path))),
    }
}

/// A path as one event a line, with what each call was about to do.
fn tell(path: Path<World, Step>) -> String {
    let mut lines = Vec::new();
    for (world, step) in path.into_vec() {
        if let Some(step) = step {
            lines.push(format!("{:>3}. {}", lines.len() + 1, world.tell(&step)));
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
    fn no_order_of_events_in_the_small_worlds_breaks_a_law() {
        // Digits are grouped there.
        let reply = include_str!("../../README.md").replace(',', "");
        for scope in scopes(Size::Small) {
            let explored = explore(&scope, 2, |_, _| {});
            assert_eq!(explored.broken, None, "{}", scope.name);
            let row = format!("\n| {} | {} | ", scope.name, explored.states);
            assert!(reply.contains(&row), "README.md says something else than {row:?}");
        }
    }

    #[test]
    fn a_world_has_the_same_states_each_time_however_many_look() {
        let scope = scopes(Size::Small).swap_remove(0);
        let explored = explore(&scope, 1, |_, _| {});
        assert_eq!(explore(&scope, 1, |_, _| {}), explored);
        let together = explore(&scope, 2, |_, _| {});
        assert_eq!((together.states, together.steps), (explored.states, explored.steps));
    }
}
