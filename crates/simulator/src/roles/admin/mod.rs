//! Teams of administrators.
//!
//! | module | what it is |
//! |---|---|
//! | `topics` | topics that are created, altered, given more partitions, deleted and created again under the same name |
//! | `leaders` | leaders of everybody's partitions that are moved |

mod leaders;
mod topics;

pub use leaders::leaders;
pub use topics::topics;
