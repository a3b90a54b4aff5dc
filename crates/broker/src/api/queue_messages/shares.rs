//! How a consumer's credit is spread over the partitions that serve its stream. Pure.
//!
//! Each partition's leader hands out messages by itself, and none knows of the others. So each has a share of the credit. A share that a
//! partition without messages does not use must not keep others from theirs: a partition that has used its share up gets another one while
//! the consumer has credit, and of the last credits each partition gets one. What then comes beyond the credit is given back, as
//! nobody saw it.
//!
//! Every message that a consumer is sent takes one of its credit, also those that its session had before, which come without any having
//! been lent. So what it may still get is always what it granted less what it was sent, and below zero when its session had more.

use std::collections::BTreeMap;

use jangada_types::PartitionIndex;

/// The credit of one stream.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    /// Messages that the consumer may still get; below 0: it got so many more.
    credit: i64,
    /// What the desk of each partition may still hand out: exactly what it was told and has not used.
    lent: BTreeMap<PartitionIndex, u32>,
}

impl Shares {
    /// The consumer may get so many messages more.
    pub fn add(&mut self, credit: u32) {
        self.credit = self.credit.saturating_add(credit.into());
    }

    /// A partition serves the stream from now on. It sends so many messages that the session had before, and that the consumer did not say
    /// it holds: with or without credit they go to it.
    pub fn join(&mut self, partition: PartitionIndex, again: usize) {
        self.lent.insert(partition, 0);
        self.credit = self.credit.saturating_sub_unsigned(again as u64);
    }

    /// A partition does not serve the stream any more, nor does it hand out what it was lent.
    pub fn leave(&mut self, partition: PartitionIndex) {
        self.lent.remove(&partition);
    }

    /// A partition has handed out messages for what it was lent. Returns how many of them the consumer may have; the others are to be given
    /// back.
    pub fn deliver(&mut self, partition: PartitionIndex, messages: usize) -> usize {
        if let Some(lent) = self.lent.get_mut(&partition) {
            *lent = lent.saturating_sub(u32::try_from(messages).unwrap_or(u32::MAX));
        }
        let taken = messages.min(usize::try_from(self.credit).unwrap_or(0));
        self.credit -= taken as i64;
        taken
    }

    /// Messages that took credit do not get to the consumer: it is there again.
    pub fn lost(&mut self, messages: usize) {
        self.credit = self.credit.saturating_add_unsigned(messages as u64);
    }

    /// What partitions are to be lent now, with how much each.
    pub fn lend(&mut self) -> Vec<(PartitionIndex, u32)> {
        if self.credit <= 0 || self.lent.is_empty() {
            return Vec::new();
        }
        let partitions = u32::try_from(self.lent.len()).unwrap_or(u32::MAX);
        let share = u32::try_from(self.credit).unwrap_or(u32::MAX).div_ceil(partitions);
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
        (0..partitions).for_each(|index| shares.join(PartitionIndex(index), 0));
        shares
    }

    const FIRST: PartitionIndex = PartitionIndex(0);
    const SECOND: PartitionIndex = PartitionIndex(1);

    #[test]
    fn what_is_lost_on_its_way_takes_no_credit() {
        let mut shares = shares(1);
        shares.add(10);
        assert_eq!(shares.lend(), [(FIRST, 10)]);
        assert_eq!(shares.deliver(FIRST, 6), 6);
        shares.leave(FIRST);
        // Two of the six were sent before the partition went.
        shares.lost(4);
        shares.join(FIRST, 0);
        assert_eq!(shares.lend(), [(FIRST, 8)]);
    }

    #[test]
    fn what_the_session_had_before_takes_credit_and_no_share() {
        let mut shares = Shares::default();
        shares.add(16);
        shares.join(FIRST, 5);
        assert_eq!(shares.lend(), [(FIRST, 11)], "the consumer has five of the sixteen");
        assert_eq!(shares.deliver(FIRST, 11), 11);
        assert_eq!(shares.lend(), []);
        // Each that is settled makes room for one, whatever it took.
        shares.add(16);
        assert_eq!(shares.lend(), [(FIRST, 16)]);
    }

    #[test]
    fn a_desk_never_has_more_than_the_consumer_may_get_after_a_reconnect() {
        for again in 0..20 {
            let mut shares = Shares::default();
            shares.add(8);
            shares.join(FIRST, again);
            let (mut desk, mut sent) = (0, again);
            for _ in 0..100 {
                desk += shares.lend().iter().map(|(_, lent)| lent).sum::<u32>();
                assert!(desk as usize + sent <= 8.max(again), "{desk} at the desk, {sent} sent");
                if desk == 0 {
                    break;
                }
                desk -= 1;
                sent += shares.deliver(FIRST, 1);
            }
            assert_eq!(sent, 8.max(again));
        }
    }

    #[test]
    fn more_than_the_credit_holds_up_what_is_new_until_it_is_settled() {
        let mut shares = shares(1);
        shares.add(2);
        assert_eq!(shares.lend(), [(FIRST, 2)]);
        // A partition comes from elsewhere with five messages that the consumer has.
        shares.join(SECOND, 5);
        assert_eq!(shares.lend(), []);
        assert_eq!(shares.deliver(FIRST, 2), 0, "they are given back");
        shares.add(3);
        assert_eq!(shares.lend(), []);
        shares.add(1);
        assert_eq!(shares.lend(), [(FIRST, 1), (SECOND, 1)]);
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
}
