//! A command as it is in a group's log.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

/// A command for a group's state machine: a small head of fixed meaning, and a body that is shared and never copied
/// in memory.
#[derive(Clone, PartialEq, Eq)]
pub struct EncodedCommand {
    /// [`EncodedCommand::PREFIX`], then the state machine's own head: as it goes to disk and to the wire.
    prefixed_head: Bytes,
    body: Bytes,
}

impl EncodedCommand {
    /// The log's own mark of a command, in front of every head: the version of log entries and the kind. It is kept with
    /// the head, so that writing a command and reading it copies neither.
    pub const PREFIX: [u8; 2] = [1, 1];

    /// A command with the state machine's `head` (its first byte is its version by convention) and `body`.
    pub fn new(head: &[u8], body: Bytes) -> Self {
        let mut prefixed = BytesMut::with_capacity(Self::PREFIX.len() + head.len());
        prefixed.put_slice(&Self::PREFIX);
        prefixed.put_slice(head);
        Self {
            prefixed_head: prefixed.freeze(),
            body,
        }
    }

    /// From an entry of the log, whose prefix the caller has checked.
    pub fn from_log(prefixed_head: Bytes, body: Bytes) -> Self {
        debug_assert!(
            prefixed_head.starts_with(&Self::PREFIX),
            "an entry's head begins with version and kind"
        );
        Self { prefixed_head, body }
    }

    /// The head with its prefix, and the body: what [`EncodedCommand::from_log`] takes.
    pub fn into_log(self) -> (Bytes, Bytes) {
        (self.prefixed_head, self.body)
    }

    /// The state machine's head.
    pub fn head(&self) -> &[u8] {
        &self.prefixed_head[Self::PREFIX.len()..]
    }

    /// The body of the command.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The body alone. Copies nothing.
    pub fn into_body(self) -> Bytes {
        self.body
    }

    /// Bytes that it takes in the log.
    pub fn size(&self) -> usize {
        self.prefixed_head.len() + self.body.len()
    }
}

impl fmt::Debug for EncodedCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command of {} + {} bytes", self.head().len(), self.body.len())
    }
}

impl fmt::Display for EncodedCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_goes_into_the_log_and_comes_back_without_a_copy_of_its_body() {
        let body = Bytes::from(vec![7; 100]);
        let command = EncodedCommand::new(&[1, 2], body.clone());
        assert_eq!(command.size(), 104);
        let (head, shared) = command.clone().into_log();
        assert_eq!(head[..], [1, 1, 1, 2]);
        assert_eq!(shared.as_ptr(), body.as_ptr());
        let read = EncodedCommand::from_log(head, shared);
        assert_eq!((read.head(), &read), (&[1, 2][..], &command));
        assert_eq!(read.into_body().as_ptr(), body.as_ptr());
    }
}
