//! Where the dead letters of each slot go, as far as this leader has sent some: so that a batch which is sent again goes to the same
//! partition, and that what is wrong is said once.

use std::collections::BTreeMap;

use jangada_queue::SlotId;
use jangada_types::Reason;
use parking_lot::Mutex;

use super::beyond::DeadLetterTarget;

/// Tries of a batch that fail before the log says so, where another try may do.
const TRIES_UNTOLD: u32 = 2;

/// The batch of a slot, by producer id and first sequence.
pub(super) type BatchId = (i64, u32);

/// What became of a try, for people.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// Nothing that the log does not say already.
    Nothing,
    /// Letters do not arrive, and why is new.
    Stuck,
    /// They arrive again.
    Again,
}

#[derive(Default)]
struct Way {
    batch: BatchId,
    target: Option<DeadLetterTarget>,
    failures: u32,
    /// Why nothing arrives, and whether the log has said so.
    stuck: Option<(Reason, String)>,
    is_told: bool,
}

/// The ways of all slots of a desk.
#[derive(Default)]
pub(super) struct Ways(Mutex<BTreeMap<SlotId, Way>>);

impl Ways {
    /// The target of the slot's last batch, and whether that was this very batch; none if it was of another producer.
    pub fn last(&self, slot: SlotId, batch: BatchId) -> Option<(DeadLetterTarget, bool)> {
        let ways = self.0.lock();
        let way = ways.get(&slot).filter(|way| way.batch.0 == batch.0)?;
        Some((way.target.clone()?, way.batch == batch))
    }

    /// A batch is about to be sent there.
    pub fn goes(&self, slot: SlotId, batch: BatchId, target: DeadLetterTarget) {
        let mut ways = self.0.lock();
        let way = ways.entry(slot).or_default();
        (way.batch, way.target) = (batch, Some(target));
    }

    /// The letters of a slot arrived.
    pub fn arrived(&self, slot: SlotId) -> Told {
        let mut ways = self.0.lock();
        let Some(way) = ways.get_mut(&slot) else {
            return Told::Nothing;
        };
        (way.failures, way.stuck) = (0, None);
        match std::mem::take(&mut way.is_told) {
            true => Told::Again,
            false => Told::Nothing,
        }
    }

    /// They did not. `may_pass`: another try may do without anything being changed.
    pub fn failed(&self, slot: SlotId, (reason, message): (Reason, &str), may_pass: bool) -> Told {
        let mut ways = self.0.lock();
        let way = ways.entry(slot).or_default();
        way.failures += 1;
        let is_new = way.stuck.as_ref().is_none_or(|(known, _)| *known != reason);
        way.stuck = Some((reason, message.to_owned()));
        if (is_new || !way.is_told) && (!may_pass || way.failures > TRIES_UNTOLD) {
            way.is_told = true;
            return Told::Stuck;
        }
        Told::Nothing
    }

    /// Why the letters of a slot do not arrive, for the log; none: they do, or there were none.
    pub fn stuck(&self, slot: SlotId) -> Option<String> {
        let ways = self.0.lock();
        let (_, message) = ways.get(&slot)?.stuck.as_ref()?;
        Some(message.clone())
    }
}

#[cfg(test)]
mod tests {
    use jangada_types::{PartitionIndex, TopicId};

    use super::*;

    const SLOT: SlotId = SlotId(4);

    #[test]
    fn a_batch_that_is_sent_again_goes_where_it_went() {
        let ways = Ways::default();
        let target = DeadLetterTarget {
            topic: TopicId::from_u128(7),
            name: "dead".into(),
            index: PartitionIndex(1),
            batch_bytes_max: 1_000,
        };
        assert_eq!(ways.last(SLOT, (9, 0)), None);
        ways.goes(SLOT, (9, 0), target.clone());
        assert_eq!(ways.last(SLOT, (9, 0)), Some((target.clone(), true)));
        assert_eq!(ways.last(SLOT, (9, 500)), Some((target, false)));
        assert_eq!(ways.last(SLOT, (10, 0)), None, "another producer may go elsewhere");
        assert_eq!(ways.last(SlotId(5), (9, 0)), None);
    }

    #[test]
    fn what_is_wrong_is_said_once() {
        let ways = Ways::default();
        let (missing, full) = ((Reason::UnknownTopic, "missing"), (Reason::QueueFull, "full"));
        assert_eq!(ways.arrived(SLOT), Told::Nothing);
        assert_eq!(ways.failed(SLOT, missing, false), Told::Stuck);
        assert_eq!(ways.failed(SLOT, missing, false), Told::Nothing);
        assert_eq!(ways.failed(SLOT, full, false), Told::Stuck, "for another reason");
        assert_eq!(ways.stuck(SLOT).as_deref(), Some("full"));
        assert_eq!(ways.arrived(SLOT), Told::Again);
        assert_eq!((ways.arrived(SLOT), ways.stuck(SLOT)), (Told::Nothing, None));
    }

    #[test]
    fn what_may_pass_is_not_said_at_once() {
        let ways = Ways::default();
        let elected = (Reason::LeaderNotAvailable, "an election");
        for _ in 0..TRIES_UNTOLD {
            assert_eq!(ways.failed(SLOT, elected, true), Told::Nothing);
        }
        assert_eq!(ways.failed(SLOT, elected, true), Told::Stuck);
        assert_eq!(ways.failed(SLOT, elected, true), Told::Nothing);
    }
}
