//! The state machine of the tests of snapshots.

use std::sync::Arc;

use bytes::Bytes;
use jangada_machine::{Effects, EncodedCommand, RestoreError, Retention};
use jangada_types::{CodecError, LogPosition};
use parking_lot::Mutex;

use super::NOTES;
use crate::state_machine::{Check, MachineType, Reply, Restored, StateImage, StateMachine};

/// A machine of any size: its state is a number, and bytes that follow from it. Each command adds one to the number and puts a row.
pub(super) struct Large {
    number: u64,
    bytes: u64,
    pub published: Arc<Mutex<u64>>,
}

impl Large {
    pub fn new(number: u64, bytes: u64) -> Self {
        Self {
            number,
            bytes,
            published: Arc::default(),
        }
    }
}

/// The byte at a place of the state.
fn filler(number: u64, at: u64) -> u8 {
    (number.wrapping_mul(31) ^ (at >> 3).wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_be_bytes()[(at & 7) as usize]
}

/// The bytes `from..to` of the state with this number.
pub(super) fn piece_of(number: u64, from: u64, to: u64) -> Bytes {
    let head = number.to_be_bytes();
    let byte = |at: u64| head.get(at as usize).copied().unwrap_or_else(|| filler(number, at));
    (from..to).map(byte).collect::<Vec<u8>>().into()
}

impl StateMachine for Large {
    fn apply(
        &mut self,
        at: LogPosition,
        _command: EncodedCommand,
        _awaits: bool,
        effects: &mut Effects,
    ) -> Result<Reply, CodecError> {
        self.number += 1;
        effects.put(&NOTES, &at.index.to_be_bytes(), &vec![7; 300_000]);
        Ok(Reply::none())
    }

    fn publish(&mut self) {
        *self.published.lock() = self.number;
    }

    fn image(&self) -> StateImage {
        let (number, bytes) = (self.number, self.bytes);
        StateImage::Shared(Box::new(move |sink| {
            let mut from = 0;
            while from < bytes {
                let to = bytes.min(from + 300_007);
                sink(piece_of(number, from, to));
                from = to;
            }
        }))
    }

    fn replace(&mut self, restored: Restored) {
        (self.number, self.bytes) = restored.into_inner();
    }

    fn check(&self) -> Arc<dyn Check> {
        Arc::new(LargeCheck)
    }

    fn retention(&self) -> Retention {
        Retention::Compacted
    }

    fn checkpoint_bytes(&self) -> u64 {
        u64::MAX
    }
}

/// Reads a state piece by piece.
struct LargeCheck;

impl Check for LargeCheck {
    fn machine(&self) -> MachineType {
        MachineType::of::<Large>()
    }

    fn command(&self, _command: &EncodedCommand) -> Result<(), String> {
        Ok(())
    }

    fn restore(&self, pieces: &mut dyn Iterator<Item = Bytes>) -> Result<Restored, RestoreError> {
        let mut number = None;
        let mut at = 0;
        for piece in pieces {
            let head = || piece.first_chunk().copied().map(u64::from_be_bytes);
            number = number.or_else(head);
            let number = number.ok_or_else(|| RestoreError("too short".into()))?;
            let to = at + piece.len() as u64;
            if piece != piece_of(number, at, to) {
                return Err(RestoreError(format!("bytes {at} to {to} are others")));
            }
            at = to;
        }
        Ok(Restored::new((number.ok_or_else(|| RestoreError("empty".into()))?, at)))
    }
}
