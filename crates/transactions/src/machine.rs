//! The image as a replicated state machine.

use bytes::Bytes;
use jangada_machine::{Effects, EncodedCommand, Machine, RestoreError, Retention};
use jangada_types::{CodecError, LogPosition};

use crate::command::Command;
use crate::image::Image;
use crate::reply::Reply;

/// The head of each command in the log: its version. The command itself is the body. 1 is that of the consumer groups, whose shards these
/// commands share.
const HEAD: [u8; 1] = [2];

impl Machine for Image {
    type Command = Command;
    type Reply = Reply;

    fn encode(command: Command) -> EncodedCommand {
        EncodedCommand::new(&HEAD, command.encode())
    }

    fn decode(command: EncodedCommand) -> Result<Command, CodecError> {
        Command::decode(command.body())
    }

    fn apply(&mut self, at: LogPosition, command: &Command, _effects: &mut Effects) -> Reply {
        // The log begins at index 0, versions at 1.
        Self::apply(self, at.index + 1, command)
    }

    fn snapshot(&self) -> Bytes {
        Self::snapshot(self)
    }

    fn restore(snapshot: &Bytes) -> Result<Self, RestoreError> {
        Self::restore(snapshot).map_err(|error| RestoreError(error.to_string()))
    }

    fn encode_into(&self, sink: &mut dyn FnMut(Bytes)) {
        Self::encode_into(self, sink);
    }

    fn retention(&self) -> Retention {
        Retention::Compacted
    }

    fn check_command(command: &EncodedCommand) -> Result<(), String> {
        Command::decode(command.body())
            .map(drop)
            .map_err(|error| error.to_string())
    }
}
