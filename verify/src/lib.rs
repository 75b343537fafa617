//! Checks of OWMM's invariants, and injected bugs that test the checks.
//!
//! | module | owns |
//! |---|---|
//! | [`differential`] | comparison of `apply` in memory with the expression on a real engine |
//! | [`model`] | the command of the model checker, which is the crate `verify/model` |
//! | [`injected_bugs`] | the command that injects each bug and runs the checks |
//! | [`simulate`] | simulation of the real code with faults from a seed |
//! | [`kill`] | real processes that are killed with SIGKILL, and the check of the table afterwards |
//! | [`report`] | progress lines and summary tables of all commands |

pub mod differential;
pub mod injected_bugs;
pub mod kill;
pub mod model;
pub mod report;
pub mod simulate;
