//! The command of the model checker: explores worlds of [`::model`], and prints the result of each.

use ::model::{Size, explore, laws, scopes};

use crate::report::{Progress, Table, Verdict, grouped, print};

/// Returns the names of the worlds.
pub fn worlds() -> Vec<&'static str> {
    scopes(Size::Small).iter().map(|scope| scope.name).collect()
}

/// Explores every world of a size, or only the one named `only`, and prints a table.
pub fn run(size: Size, only: Option<&str>) -> Verdict {
    let mut table = Table::new(["world", "what is in it", "states", "steps", "depth", "seconds", "violations"]);
    let (mut states, mut steps, mut violations) = (0, 0, 0_u64);
    let whole = Progress::default();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    for scope in scopes(size).into_iter().filter(|scope| only.is_none_or(|only| scope.name == only)) {
        let mut progress = Progress::default();
        let explored = explore(&scope, threads, |states, depth| {
            let rate = states as f64 / whole.elapsed().as_secs_f64().max(0.001);
            progress.say(|| {
                format!(
                    "{}: {} states, depth {depth}, {} states per second",
                    scope.name,
                    grouped(states as u64),
                    grouped(rate as u64)
                )
            });
        });
        let seconds = progress.elapsed().as_secs();
        drop(progress);
        if let Some((law, path)) = &explored.broken {
            violations += 1;
            print(&format!("{} is violated in the world \"{}\" by these events:\n{path}\n", law, scope.name));
        }
        states += explored.states;
        steps += explored.steps;
        table.row([
            scope.name.to_owned(),
            scope.about.to_owned(),
            grouped(explored.states),
            grouped(explored.steps),
            explored.depth.to_string(),
            seconds.to_string(),
            explored.broken.map_or("0".to_owned(), |(law, _)| law.to_owned()),
        ]);
    }
    table.row([
        "all".to_owned(),
        format!("{} laws in each state", laws().len()),
        grouped(states),
        grouped(steps),
        String::new(),
        whole.elapsed().as_secs().to_string(),
        violations.to_string(),
    ]);
    print(&table);
    Verdict::of(violations == 0)
}
