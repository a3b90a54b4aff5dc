//! How a consumer's credit is spread over the partitions that serve its stream. Pure.
//!
//! Each partition's leader hands out messages by itself, and none knows of the others. So each has a share of the credit. A share that a
//! partition without messages does not use must not keep others from theirs: a partition that has used its share up gets another one while
//! the consumer has credit, and of the last credits each partition gets one. What then comes beyond the credit is given back, as
//! nobody saw it.

use std::collections::BTreeMap;

use jangada_types::PartitionIndex;

/// The credit of one stream.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    /// Messages that the consumer may still get.
    credit: u32,
    /// What each partition may still hand out.
    lent: BTreeMap<PartitionIndex, u32>,
    /// What each has handed out for credit, and the consumer was not sent yet.
    on_the_way: BTreeMap<PartitionIndex, u32>,
}

impl Shares {
    /// The consumer may get so many messages more.
    pub fn add(&mut self, credit: u32) {
        self.credit = self.credit.saturating_add(credit);
    }

    /// A partition serves the stream from now on.
    pub fn join(&mut self, partition: PartitionIndex) {
        self.lent.insert(partition, 0);
    }

    /// A partition does not serve the stream any more, nor does it hand out what it was lent.
    pub fn leave(&mut self, partition: PartitionIndex) {
        self.lent.remove(&partition);
    }

    /// A partition has handed out messages. Returns how many of them the consumer may have; beyond what it was lent they are such that the
    /// consumer's session had before, which take no credit.
    pub fn deliver(&mut self, partition: PartitionIndex, messages: usize) -> usize {
        let count = u32::try_from(messages).unwrap_or(u32::MAX);
        let lent = self.lent.entry(partition).or_default();
        let by_credit = count.min(*lent);
        *lent -= by_credit;
        let taken = by_credit.min(self.credit);
        self.credit -= taken;
        *self.on_the_way.entry(partition).or_default() += taken;
        messages - (by_credit - taken) as usize
    }

    /// The consumer was sent messages of a partition.
    pub fn sent(&mut self, partition: PartitionIndex, messages: usize) {
        self.arrived(partition, messages);
    }

    /// Messages that a partition has handed out do not get to the consumer: what they took of its credit is there again.
    pub fn lost(&mut self, partition: PartitionIndex, messages: usize) {
        let back = self.arrived(partition, messages);
        self.credit = self.credit.saturating_add(back);
    }

    fn arrived(&mut self, partition: PartitionIndex, messages: usize) -> u32 {
        let Some(on_the_way) = self.on_the_way.get_mut(&partition) else {
            return 0;
        };
        let some = u32::try_from(messages).unwrap_or(u32::MAX).min(*on_the_way);
        *on_the_way -= some;
        some
    }

    /// What partitions are to be lent now, with how much each.
    pub fn lend(&mut self) -> Vec<(PartitionIndex, u32)> {
        if self.credit == 0 || self.lent.is_empty() {
            return Vec::new();
        }
        let partitions = u32::try_from(self.lent.len()).unwrap_or(u32::MAX);
        let share = self.credit.div_ceil(partitions);
        let mut lends = Vec::new();
        for (partition, lent) in &mut self.lent {
            // A little at a time would be a message to the leader for each.
            if *lent <= share / 2 {
                lends.push((*partition, share - *lent));
                *lent = share;
            }
        }
        lends
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(partitions: u32) -> Shares {
        let mut shares = Shares::default();
        (0..partitions).for_each(|index| shares.join(PartitionIndex(index)));
        shares
    }

    const FIRST: PartitionIndex = PartitionIndex(0);

    #[test]
    fn what_is_lost_on_its_way_takes_no_credit() {
        let mut shares = shares(1);
        shares.add(10);
        assert_eq!(shares.lend(), [(FIRST, 10)]);
        assert_eq!(shares.deliver(FIRST, 6), 6);
        shares.sent(FIRST, 2);
        shares.leave(FIRST);
        shares.lost(FIRST, 4);
        shares.lost(FIRST, 4);
        shares.join(FIRST);
        assert_eq!(shares.lend(), [(FIRST, 8)], "two of ten were sent");
        // What the session had before took no credit, and gives none back.
        assert_eq!(shares.deliver(FIRST, 8) + shares.deliver(FIRST, 3), 11);
        shares.sent(FIRST, 8);
        shares.lost(FIRST, 3);
        shares.add(1);
        assert_eq!(shares.lend(), [(FIRST, 1)]);
    }

    #[test]
    fn one_partition_has_all_the_credit() {
        let mut shares = shares(1);
        shares.add(100);
        assert_eq!(shares.lend(), [(FIRST, 100)]);
        assert_eq!(shares.deliver(FIRST, 60), 60);
        assert_eq!(shares.lend(), [], "it has 40, and the consumer no more");
        shares.add(60);
        assert_eq!(shares.lend(), [(FIRST, 60)]);
    }

    #[test]
    fn a_busy_partition_gets_what_idle_ones_do_not_use() {
        let mut shares = shares(4);
        shares.add(16);
        let mut got = 0;
        while let Some((_, lent)) = shares.lend().into_iter().find(|(partition, _)| *partition == FIRST) {
            got += shares.deliver(FIRST, lent as usize);
        }
        assert_eq!(got, 16);
    }

    #[test]
    fn with_one_credit_every_partition_may_send_and_one_message_is_taken() {
        let mut shares = shares(3);
        shares.add(1);
        let lent = shares.lend();
        assert_eq!(lent.iter().map(|(_, lent)| lent).sum::<u32>(), 3);
        assert_eq!(shares.deliver(PartitionIndex(2), 1), 1);
        assert_eq!(shares.deliver(FIRST, 1), 0, "it is given back");
        assert_eq!(shares.lend(), [], "the consumer has no credit");
        shares.add(1);
        assert_eq!(shares.lend().len(), 2, "the third has its share still");
    }

    #[test]
    fn what_the_session_had_before_takes_no_credit() {
        let mut shares = shares(1);
        assert_eq!(shares.deliver(FIRST, 5), 5);
        shares.add(2);
        shares.lend();
        assert_eq!(shares.deliver(FIRST, 2), 2);
        assert_eq!(shares.lend(), []);
    }
}
