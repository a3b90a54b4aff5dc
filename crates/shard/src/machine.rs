//! The state of a shard as a replicated state machine.

use bytes::{BufMut, Bytes, BytesMut};
use jangada_coordinator as coordinator;
use jangada_machine::{Effects, EncodedCommand, Machine, RestoreError, Retention};
use jangada_transactions as transactions;
use jangada_types::{CodecError, LogPosition};

/// What the encodings are of, in errors.
const WHAT: &str = "command of a shard";

/// The version of a snapshot with transactional ids. What comes behind it: the length of their part (8 bytes, big-endian), that part, and
/// the groups' part.
const VERSION: u8 = 2;

/// Bytes in front of the parts of a snapshot with transactional ids.
const HEAD_BYTES: usize = 1 + size_of::<u64>();

/// The replicated state of a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shard {
    /// The consumer groups.
    pub groups: coordinator::Image,
    /// The transactional ids.
    pub transactions: transactions::Image,
}

/// A change of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// A change of a consumer group.
    Group(coordinator::Command),
    /// A change of transactional ids.
    Transaction(transactions::Command),
}

/// The outcome of a command, as its proposer is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// That of a change of a consumer group.
    Group(coordinator::Reply),
    /// That of a change of transactional ids.
    Transaction(transactions::Reply),
}

impl Machine for Shard {
    type Command = Command;
    type Reply = Reply;

    fn encode(command: Command) -> EncodedCommand {
        match command {
            Command::Group(command) => coordinator::Image::encode(command),
            Command::Transaction(command) => transactions::Image::encode(command),
        }
    }

    fn decode(command: EncodedCommand) -> Result<Command, CodecError> {
        match command.head() {
            [1] => coordinator::Image::decode(command).map(Command::Group),
            [2] => transactions::Image::decode(command).map(Command::Transaction),
            [version, ..] => Err(CodecError::UnknownVersion {
                what: WHAT,
                version: *version,
                known: VERSION,
            }),
            [] => Err(CodecError::Truncated {
                what: WHAT,
                length: 0,
                required: 1,
            }),
        }
    }

    fn apply(&mut self, at: LogPosition, command: &Command, effects: &mut Effects) -> Reply {
        match command {
            Command::Group(command) => Reply::Group(Machine::apply(&mut self.groups, at, command, effects)),
            Command::Transaction(command) => {
                Reply::Transaction(Machine::apply(&mut self.transactions, at, command, effects))
            }
        }
    }

    fn snapshot(&self) -> Bytes {
        let mut all = BytesMut::new();
        self.encode_into(&mut |piece| all.extend_from_slice(&piece));
        all.freeze()
    }

    fn encode_into(&self, sink: &mut dyn FnMut(Bytes)) {
        if !self.transactions.is_empty() {
            // It has a bound of 64 MiB, so it may be in memory once more.
            let ids = self.transactions.snapshot();
            let mut head = BytesMut::with_capacity(HEAD_BYTES);
            head.put_u8(VERSION);
            head.put_u64(ids.len() as u64);
            sink(head.freeze());
            sink(ids);
        }
        Machine::encode_into(&self.groups, sink);
    }

    fn restore(snapshot: &Bytes) -> Result<Self, RestoreError> {
        if snapshot.first() != Some(&VERSION) {
            return Ok(Self {
                groups: Machine::restore(snapshot)?,
                transactions: transactions::Image::new(),
            });
        }
        let cut_off = || RestoreError("a shard's snapshot is cut off".to_owned());
        let (head, parts) = snapshot.split_at_checked(HEAD_BYTES).ok_or_else(cut_off)?;
        let length = u64::from_be_bytes(head[1..].try_into().expect("the head has these bytes"));
        let length = usize::try_from(length).map_err(|_| cut_off())?;
        if length > parts.len() {
            return Err(cut_off());
        }
        let parts = snapshot.slice(HEAD_BYTES..);
        Ok(Self {
            transactions: Machine::restore(&parts.slice(..length))?,
            groups: Machine::restore(&parts.slice(length..))?,
        })
    }

    fn retention(&self) -> Retention {
        Retention::Compacted
    }
}
