//! What looks into tables need.

use crate::marks::{Marks, Stamps};

/// What one look into a table needs, used again for each message.
#[derive(Debug, Default)]
pub(crate) struct Look {
    /// The numbers of the destinations that match.
    pub(crate) marks: Marks,
    /// Of a topic table the nodes, of a headers table the postings, that were seen.
    pub(super) seen: Stamps,
    /// Of a topic table the nodes that fit so far, of a headers table the postings that the message hits.
    pub(super) now: Vec<u32>,
    pub(super) next: Vec<u32>,
}
