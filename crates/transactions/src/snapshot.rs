//! The state as bytes, and the checks that make bytes a state.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::error::RestoreError;
use crate::image::{Image, TransactionState, TransactionalId};
use crate::size;
use crate::wire;

impl Image {
    /// Encodes the whole state. The same state gives the same bytes on every replica. May be called on a clone, on another thread.
    pub fn snapshot(&self) -> Bytes {
        let mut all = BytesMut::new();
        self.encode_into(&mut |piece| match all.is_empty() {
            true => all = piece.into(),
            false => all.extend_from_slice(&piece),
        });
        all.freeze()
    }

    /// Hands out the bytes of [`Image::snapshot`] in pieces.
    pub fn encode_into(&self, sink: &mut dyn FnMut(Bytes)) {
        wire::encode_into(self, sink);
    }

    /// The state that [`Image::snapshot`] was taken of.
    ///
    /// # Errors
    /// A later build wrote it, or it is damaged, or breaks an invariant.
    pub fn restore(bytes: &[u8]) -> Result<Self, RestoreError> {
        let parts = wire::decode(bytes)?;
        let version = parts.version;
        let inconsistent = |detail| RestoreError::Inconsistent { version, detail };
        let mut ids = BTreeMap::new();
        for (id, row) in parts.ids {
            let twice = format!("transactional id {id:?} is there twice");
            if ids.insert(id, Arc::new(row)).is_some() {
                return Err(inconsistent(twice));
            }
        }
        let mut image = Self { version, ids, bytes: 0 };
        image.bytes = image.counted_anew();
        image.check().map_err(inconsistent)?;
        Ok(image)
    }

    /// Checks the invariants. Limits are not checked: a build with other limits may have written the state.
    ///
    /// # Errors
    /// Says which invariant is broken, and where; the first one that is.
    pub fn check(&self) -> Result<(), String> {
        for (id, row) in self.ids() {
            check_row(row).map_err(|what| format!("transactional id {id:?}: {what}"))?;
        }
        let bytes = self.counted_anew();
        if bytes != self.bytes {
            return Err(format!("its ids take {bytes} bytes, and {} are counted", self.bytes));
        }
        Ok(())
    }

    fn counted_anew(&self) -> u64 {
        self.ids().map(|(id, row)| size::row(id, row)).sum()
    }
}

fn check_row(row: &TransactionalId) -> Result<(), String> {
    let ensure = |holds: bool, what: &dyn Fn() -> String| if holds { Ok(()) } else { Err(what()) };
    ensure(row.producer.id.is_some() && row.producer.epoch.get() >= 0, &|| {
        format!("producer {}", row.producer)
    })?;
    ensure(
        !row.state.is_idle() || (row.partitions.is_empty() && row.groups.is_empty()),
        &|| format!("participants in state {}", row.state.as_str()),
    )?;
    ensure(row.state.is_idle() || row.seq > 0, &|| {
        "a transaction without a number".to_owned()
    })?;
    ensure(
        row.state != TransactionState::Ongoing || row.producer.is_usable(),
        &|| format!("an open transaction of producer {}", row.producer),
    )?;
    let decided = match row.state {
        TransactionState::Empty | TransactionState::Ongoing => None,
        TransactionState::PrepareCommit | TransactionState::CompleteCommit => Some(true),
        TransactionState::PrepareAbort | TransactionState::CompleteAbort => Some(false),
    };
    let last = row.last.map(|last| last.outcome.is_commit());
    ensure(decided.is_none() || decided == last, &|| {
        format!("state {} after {:?}", row.state.as_str(), row.last)
    })?;
    ensure(row.last.is_none_or(|last| last.seq <= row.seq), &|| {
        format!("transaction {} after {:?}", row.seq, row.last)
    })
}
