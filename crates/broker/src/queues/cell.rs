//! Where a partition's desk is, if it has one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jangada_log::{PartitionCommand, PartitionReply, PartitionState};
use jangada_types::LogPosition;
use parking_lot::RwLock;

use super::desk::Desk;
use super::succession::{Succession, Successor};

/// The desk of a partition. Most partitions have none, and pay one load for each command that is applied.
#[derive(Default)]
pub(crate) struct DeskCell {
    /// There is a desk. Changed under the lock of the partition's state.
    is_there: AtomicBool,
    desk: RwLock<Option<Arc<Desk>>>,
    /// The partition has slots, as of the last publication.
    has_slots: AtomicBool,
    succession: Arc<Succession>,
}

impl DeskCell {
    pub fn get(&self) -> Option<Arc<Desk>> {
        match self.is_there.load(Ordering::Acquire) {
            true => self.desk.read().clone(),
            false => None,
        }
    }

    /// What the desks of the partition share.
    pub fn succession(&self) -> Arc<Succession> {
        self.succession.clone()
    }

    pub fn is_there(&self) -> bool {
        self.is_there.load(Ordering::Acquire)
    }

    pub fn has_slots(&self) -> bool {
        self.has_slots.load(Ordering::Relaxed)
    }

    /// Puts a desk there, or takes it away. To be called under the lock of the partition's state.
    pub fn set(&self, desk: Option<Arc<Desk>>) {
        let is_there = desk.is_some();
        match &desk {
            Some(desk) => {
                let as_successor: Arc<dyn Successor> = desk.clone();
                let (is_first, mut left) = self.succession.take_over(Arc::downgrade(&as_successor), desk.term);
                desk.inputs.lock().append(&mut left);
                desk.begun.send_replace(is_first);
            }
            None => self.succession.forget(),
        }
        *self.desk.write() = desk;
        self.is_there.store(is_there, Ordering::Release);
    }

    /// A command was applied: called under the lock of the state, in the log's order.
    pub fn applied(&self, at: LogPosition, state: &PartitionState, command: &PartitionCommand, reply: &PartitionReply) {
        if self.is_there.load(Ordering::Relaxed)
            && let Some(desk) = &*self.desk.read()
        {
            desk.applied(at, state, command, reply);
            desk.ids_applied(command, reply);
            desk.cut_off(state, command, reply);
        }
    }

    /// What was applied can be read.
    pub fn published(&self, has_slots: bool) {
        self.has_slots.store(has_slots, Ordering::Relaxed);
        if self.is_there.load(Ordering::Relaxed)
            && let Some(desk) = &*self.desk.read()
        {
            desk.wake();
        }
    }
}
