//! The evidence: what is promised of OWMM is checked here by machines, and the checks are themselves put to the test.
//!
//! | module | owns |
//! |---|---|
//! | [`model`] | the model checker: every order of events, over the domain's own code |
//! | [`teeth`] | the mistakes that the checks must find |
//! | [`report`] | progress and summary tables, which all commands share |

pub mod model;
pub mod report;
pub mod teeth;
