//! Batches that lie one after the other, as a fetch returns them.

use bytes::Bytes;

use super::error::{BatchError, Malformed};
use super::header::BatchHeader;

/// Splits concatenated batches without copying. Judges only the framing: [`verify`](super::verify) and
/// [`decode_records`](super::decode_records) check the checksum and the rest. A batch that is cut off is an error, and
/// the last item.
#[derive(Clone, Debug)]
pub struct BatchIter {
    rest: Bytes,
}

impl BatchIter {
    /// An iterator over the batches in `batches`.
    pub fn new(batches: Bytes) -> Self {
        Self { rest: batches }
    }

    /// Whether there are no more batches.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    fn split_next(&mut self) -> Result<(BatchHeader, Bytes), BatchError> {
        let header = BatchHeader::parse(&self.rest)?;
        let size = header.total_size();
        if size > self.rest.len() {
            return Err(Malformed::Truncated {
                needed: size,
                actual: self.rest.len(),
            }
            .into());
        }
        Ok((header, self.rest.split_to(size)))
    }
}

impl Iterator for BatchIter {
    type Item = Result<(BatchHeader, Bytes), BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let batch = self.split_next();
        if batch.is_err() {
            self.rest.clear();
        }
        Some(batch)
    }
}

impl std::iter::FusedIterator for BatchIter {}
