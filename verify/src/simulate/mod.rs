//! The simulation: runs the real functions and the real SDK against the real engine, in one thread and in virtual time.
//! A seed determines every random decision, so a run can be repeated.
//!
//! | module | owns |
//! |---|---|
//! | `chance` | streams of random decisions |
//! | `plan` | the plan of a seed: the pool, the actors, the faults |
//! | `world` | the shared state of a run, and virtual time |
//! | `call` | one run of a function |
//! | `connection` | connections between players and game servers |
//! | `engine` | the table behind the wire, and its items of the last seconds |
//! | `wire` | the SDK's HTTP connector, and the faults on it |
//! | `functions` | processes that run the functions: killed, frozen, with clocks that differ |
//! | `server` | game servers, by the server protocol |
//! | `players` | players and parties |
//! | `others` | schedule, event bus, operators, strangers |
//! | `checks` | the invariants |
//! | `injected` | injected bugs outside conditional writes |
//! | `finish` | the checks after faults have stopped |
//! | `flag` | a condition to wait for, with a fixed order of wake-ups |
//! | `history` | the text of all events of a run |
//! | `run` | one seed, from its plan to its outcome |
//! | `sweep` | many seeds at once, and the sum of their outcomes |
//!
//! Real are the handlers, the local gateway's events and authorizers in front of them, `shared`, the SDK with its
//! retries, timeouts and signatures, the embedded engine, and the local ECS with its idempotency and its life cycle of
//! a task. Simulated are time, sockets, processes, EventBridge, players and operators.
//!
//! A run has two parts. In the first, one to seven minutes of virtual time, all actors are active while faults strike.
//! Then faults stop, and the rest must settle: every player who wants a slot gets one, every slot can be used, and all
//! servers of an empty fleet are stopped.

mod call;
mod chance;
mod checks;
mod connection;
mod engine;
mod finish;
mod flag;
mod functions;
mod history;
mod injected;
mod others;
mod plan;
mod players;
mod run;
mod server;
mod sweep;
mod wire;
mod world;

pub use checks::{Invariant, Violation};
pub use run::{Outcome, run};
pub use sweep::{Sweep, many, one, sweep};
