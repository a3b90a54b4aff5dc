//! Teams that read as consumer groups: members come, go, die and come back, and what they commit is read by others.
//!
//! | module | what it is |
//! |---|---|
//! | `team` | the topics, who writes to them and who reads what is committed, and the last member, who reads all that is left |
//! | `member` | one member of a group, life after life |
//! | `listener` | notes which partitions a member has |
//! | `offsets` | what is committed, and how far a group lags |

pub(crate) mod listener;
mod member;
pub(crate) mod offsets;
mod team;

pub use team::members;
