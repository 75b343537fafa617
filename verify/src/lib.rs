//! The evidence: what is promised of OWMM is checked here by machines, and the checks are themselves put to the test.
//!
//! | module | owns |
//! |---|---|
//! | [`teeth`] | the mistakes that the checks must find |
//! | [`report`] | progress and summary tables, which all commands share |

pub mod report;
pub mod teeth;
