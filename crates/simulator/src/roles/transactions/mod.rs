//! Teams that write in transactions.
//!
//! | module | what it is |
//! |---|---|
//! | `session` | one transaction: what is recorded of it, and how it ended |
//! | `team` | writers of several partitions, whose ids are taken over, whose time runs out, and who die; readers of both kinds |
//! | `chain` | workers that read as members of a group and write what they make of it, each record once |
//! | `worker` | one worker of a chain |

mod chain;
mod session;
mod team;
mod worker;

pub use chain::chain;
pub use team::writers;
