//! The simulation: the real functions and the real SDK against the real engine, in one thread, with virtual time, and
//! everything that is left to chance decided by one number.
//!
//! | module | owns |
//! |---|---|
//! | `chance` | a stream of decisions |
//! | `plan` | what a seed chooses: the pool, the actors, the faults |
//! | `world` | what everything in a run shares; virtual time |
//! | `call` | one run of a function |
//! | `connection` | where players meet game servers |
//! | `engine` | the table behind the wire, and what it held a while ago |
//! | `wire` | the SDK's HTTP connector, and what goes wrong on it |
//! | `functions` | processes that run the functions; killed, frozen, their clocks apart |
//! | `server` | game servers, by the server protocol |
//! | `players` | players and parties |
//! | `others` | schedule, event bus, operators, strangers |
//! | `checks` | the invariants |
//! | `injected` | bugs that no conditional write can have |
//! | `finish` | what must be true once faults have stopped |
//! | `flag` | waiting for something, in a fixed order |
//! | `history` | what happened, line by line |
//! | `run` | one seed, from its plan to its outcome |
//! | `sweep` | many seeds at once, and what they came to |
//!
//! What is real: the handlers, the local gateway's events and authorizers in front of them, `shared`, the SDK with its
//! retries, timeouts and signatures, the embedded engine, the local ECS with its idempotency and its life cycle of a
//! task. What is simulated: time, sockets, processes, EventBridge, and the people.
//!
//! A run has two parts. For a minute or two of virtual time everybody does what they do while faults strike. Then faults
//! stop, and what is left must come to rest: everybody who wants a slot gets one, every slot can be used, and an empty
//! fleet goes away.

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
