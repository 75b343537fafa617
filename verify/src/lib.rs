//! The evidence: what is promised of OWMM is checked here by machines, and the checks are themselves put to the test.
//!
//! | module | owns |
//! |---|---|
//! | [`differential`] | `apply` in memory against the expression on a real engine |
//! | [`model`] | the command of the model checker, which is a crate of its own, `verify/model` |
//! | [`injected_bugs`] | the bugs that the checks must find |
//! | [`simulate`] | the real code, simulated with faults from a seed |
//! | [`kill`] | real processes that are killed, and what the table holds afterwards |
//! | [`report`] | progress and summary tables, which all commands share |

pub mod differential;
pub mod injected_bugs;
pub mod kill;
pub mod model;
pub mod report;
pub mod simulate;
