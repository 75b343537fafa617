//! Who finds which mistake.
//!
//! Every mistake that designs of this kind make is put back ([`shared::domain::teeth`]), one at a time, and the checks are
//! run as they always are.

use shared::domain::teeth::Mistake;

use crate::report::{Table, Verdict, print};

/// Lists the mistakes.
pub fn run() -> Verdict {
    let mut table = Table::new(["mistake"]);
    for mistake in Mistake::ALL {
        table.row([mistake.as_str().to_owned()]);
    }
    print(&table);
    Verdict::Holds
}
