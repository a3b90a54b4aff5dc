//! What goes wrong: leaders that die or are deposed, partitions without a quorum, processes that sleep or are replaced; and partitions that
//! come and go.

use super::Bug;
use super::partition::{Partition, Proposal};
use super::process::Process;
use super::shard::now;
use super::world::{Caller, Event, IDS, World};

impl World {
    pub fn shard_elects(&mut self) {
        if self.shard.leader.is_none() {
            self.shard.elect(self.now_ms);
            if self.bug == Some(Bug::MarkersNotSentAgain)
                && let Some(leader) = &mut self.shard.leader
            {
                while !leader.take_outgoing(now(u64::MAX / 2), 100).is_empty() {}
            }
        }
    }

    /// Something goes wrong, or the cluster changes.
    pub fn trouble(&mut self) {
        if self.stopped {
            self.stale = None;
            return;
        }
        match self.seeds.below(14) {
            0 | 1 => {
                let kept = self.seeds.below(self.shard.inflight() as u64 + 1) as usize;
                let stale = self.shard.lose_leader(kept, self.now_ms);
                if self.stale.is_none() && self.chance(2) {
                    self.stale = stale;
                }
                let delay = 50 + self.seeds.below(500);
                self.after(delay, Event::Elect);
            }
            2 | 3 => {
                let at = self.seeds.below(self.partitions.len() as u64) as usize;
                let kept = self.seeds.below(self.partitions[at].inflight.len() as u64 + 1) as usize;
                self.partitions[at].fail_over(kept, self.now_ms, &mut self.seeds);
                let without = match self.chance(6) {
                    // Its quorum is gone for a while.
                    true => 3_000,
                    false => 20 + self.seeds.below(300),
                };
                self.partitions[at].led_from_ms = self.now_ms + without;
            }
            4 => self.stale = None,
            5 if !self.processes.is_empty() => {
                let at = self.seeds.below(self.processes.len() as u64) as usize;
                let until_ms = self.now_ms + 500 + self.seeds.below(5_000);
                self.processes[at].pause(until_ms);
            }
            6 if self.partitions.len() < 4 => {
                self.metadata += 1;
                self.partitions
                    .push(Partition::new(self.metadata, self.plan.compacts, self.bug));
                self.host_hears();
            }
            7 if self.plan.deletes && self.partitions[2].deleted.is_none() => {
                self.metadata += 1;
                self.partitions[2].deleted = Some(self.metadata);
                self.host_hears();
            }
            8 | 9 if self.groups.is_led() => {
                let kept = self.seeds.below(self.groups.inflight() as u64 + 1) as usize;
                self.groups.lose_leader(kept, self.now_ms);
                let delay = 20 + self.seeds.below(300);
                self.after(delay, Event::ElectGroups);
            }
            10 => {
                let at = self.seeds.below(self.partitions.len() as u64) as usize;
                self.partitions[at].save(&mut self.seeds);
            }
            _ => {}
        }
        let pause = 20 + self.seeds.below(600);
        self.after(pause, Event::Trouble);
    }

    /// A partition is compacted, and what all readers have read is trimmed, in histories with such.
    pub fn clean(&mut self, at: usize) {
        if let Some(partition) = self.partitions.get_mut(at).filter(|it| it.deleted.is_none()) {
            let is_led = partition.led_from_ms <= self.now_ms;
            let horizon = partition.clean(self.now_ms, &mut self.seeds).filter(|_| is_led);
            if let Some(upto) = horizon {
                self.propose(at, Proposal::Horizon(upto), Caller::Nobody);
            }
            if self.plan.trims && is_led && self.chance(4) {
                self.propose(at, Proposal::Trim(self.positions[at]), Caller::Nobody);
            }
        }
        let pause = 100 + self.seeds.below(800);
        self.after(pause, Event::Clean(at));
    }

    pub fn host_hears(&mut self) {
        let delay = self.seeds.below(3_000);
        self.after(delay, Event::HostSees(self.metadata));
    }

    /// Another process takes an id. The one before may be alive, and not know.
    pub fn spawn(&mut self, at: usize) {
        if self.stopped {
            return;
        }
        let (id, input) = IDS[at];
        let bumps = !self.plan.is_old;
        let is_alone = self
            .processes
            .iter()
            .all(|process| *process.id != *id || process.is_dead());
        if is_alone || self.chance(12) {
            self.processes.push(Process::new(id.into(), input, bumps));
            self.drive(self.processes.len() - 1);
        }
        let pause = 300 + self.seeds.below(600);
        self.after(pause, Event::Spawn(at));
    }
}
