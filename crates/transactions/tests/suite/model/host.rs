//! The broker of the shard's leader: it sends markers, and takes what became of them.

use jangada_coordinator::TransactionRef;
use jangada_transactions::{Acknowledgment, Delivery, Outgoing, Target};

use super::Bug;
use super::partition::{Applied, Proposal};
use super::world::{Caller, Event, OfGroup, World};

/// How often the host looks for what is due, milliseconds.
const LOOK_MS: u64 = 20;

impl World {
    pub fn host(&mut self) {
        self.host_queued = false;
        let now_ms = self.now_ms;
        self.shard.tick(now_ms);
        self.commit_shard_soon();
        let outgoing = match &mut self.shard.leader {
            Some(leader) => leader.take_outgoing(super::shard::now(now_ms), 100),
            None => Vec::new(),
        };
        self.send_markers(outgoing, false);
        if let Some((_, leader)) = &mut self.stale {
            let outgoing = leader.take_outgoing(super::shard::now(now_ms), 100);
            self.send_markers(outgoing, true);
        }
        self.look_soon();
    }

    /// Looks at the host's work when some is due.
    pub fn look_soon(&mut self) {
        if !self.host_queued {
            self.host_queued = true;
            self.after(LOOK_MS, Event::Host);
        }
    }

    fn send_markers(&mut self, outgoing: Vec<Outgoing>, is_stale: bool) {
        for marker in outgoing {
            if self.bug == Some(Bug::CompleteWithoutMarkers) && self.chance(3) {
                self.acknowledged_marker(&marker, Delivery::Done, is_stale);
                continue;
            }
            match self.found(&marker.target) {
                Some(delivery) => self.acknowledged_marker(&marker, delivery, is_stale),
                None => self.network(Event::Marker(marker, is_stale)),
            }
        }
    }

    /// What the host says of a partition that it does not know; none: it knows it.
    fn found(&self, target: &Target) -> Option<Delivery> {
        let Target::Partition(group) = target else { return None };
        let version = self.host_metadata;
        let known = self.partitions.get(group.get() as usize);
        let is_there = known.is_some_and(|partition| {
            partition.created <= version && partition.deleted.is_none_or(|deleted| deleted > version)
        });
        let metadata_version = match self.bug {
            Some(Bug::UnknownPartitionDone) => u64::MAX,
            _ => version,
        };
        (!is_there).then_some(Delivery::NotFound { metadata_version })
    }

    /// A marker comes to the broker of its partition or group.
    pub fn marker(&mut self, marker: Outgoing, is_stale: bool) {
        match &marker.target {
            Target::Partition(group) => {
                let at = group.get() as usize;
                let partition = &self.partitions[at];
                if partition.led_from_ms > self.now_ms || partition.deleted.is_some() {
                    return self.network(Event::Acknowledge(marker, Delivery::Failed, is_stale));
                }
                if partition.has_ended(marker.producer, marker.seq) {
                    return self.network(Event::Acknowledge(marker, Delivery::Done, is_stale));
                }
                let proposal = Proposal::Marker {
                    producer: marker.producer,
                    seq: marker.seq,
                    commit: marker.commit,
                };
                self.propose(at, proposal, Caller::Marker(marker, is_stale));
            }
            Target::Group(name) => {
                let transaction = TransactionRef {
                    producer_id: marker.producer.id,
                    epoch: marker.producer.epoch,
                    seq: marker.seq,
                };
                let (name, commit) = (name.clone(), marker.commit);
                let caller = OfGroup::End(marker, is_stale);
                let answered = self.groups.end(&name, transaction, commit, caller, self.now_ms);
                self.answer_of_groups(answered);
                self.commit_groups_soon();
            }
        }
    }

    /// A partition has applied a marker. One that was refused is not written, whatever the reason.
    pub fn marked(&mut self, marker: Outgoing, is_stale: bool, applied: Applied) {
        let delivery = match applied {
            Applied::Ok => Delivery::Done,
            _ => Delivery::Failed,
        };
        self.network(Event::Acknowledge(marker, delivery, is_stale));
    }

    pub fn acknowledged_marker(&mut self, marker: &Outgoing, delivery: Delivery, is_stale: bool) {
        let acknowledgment = Acknowledgment {
            id: marker.id.clone(),
            seq: marker.seq,
            target: marker.target.clone(),
            delivery,
        };
        let now = super::shard::now(self.now_ms);
        if is_stale {
            if let Some((image, leader)) = &mut self.stale {
                // What it proposes is never committed.
                leader.acknowledge(image, &[acknowledgment], now);
            }
            return;
        }
        let acknowledge = |leader: &mut jangada_transactions::Leader, image: &_, now| {
            leader.acknowledge(image, &[acknowledgment], now)
        };
        self.shard.ask(Caller::Nobody, self.now_ms, acknowledge);
        self.commit_shard_soon();
    }
}
