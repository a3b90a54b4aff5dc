//! Which replicas are in sync, judged at a scrape without waiting.
//!
//! A follower is always one message behind while records come. So it counts as in sync when it has all that was committed at an
//! earlier scrape, at least a second ago, and has answered its leader within two and a half heartbeats. `cluster health` finds the
//! same by waiting.

use std::collections::HashMap;
use std::time::Duration;

use jangada_controller::Image;
use jangada_replication::Group;
use jangada_types::{GroupId, ReplicaId};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::node::Node;

/// Two scrapes that follow each other more closely than this give one sample, so that several scrapers do no harm.
const SAMPLES_APART: Duration = Duration::from_secs(1);

/// The commit indexes at the last scrapes.
#[derive(Default)]
pub(crate) struct CommitSamples(Mutex<Samples>);

#[derive(Default)]
struct Samples {
    newest: Option<Sample>,
    before: Option<Sample>,
}

struct Sample {
    at: Instant,
    /// For each group that was led here: the term, and the next index to be committed.
    committed: HashMap<GroupId, (u64, u64)>,
}

impl Samples {
    /// The next index to be committed as of at least `SAMPLES_APART` ago; 0 if it is unknown for this term.
    fn committed(&self, now: Instant, group: GroupId, term: u64) -> u64 {
        let newest = self.newest.as_ref().filter(|sample| now - sample.at >= SAMPLES_APART);
        let sample = newest.or(self.before.as_ref());
        let known = sample.and_then(|sample| sample.committed.get(&group));
        known.filter(|known| known.0 == term).map_or(0, |known| known.1)
    }

    fn add(&mut self, sample: Sample) {
        if self
            .newest
            .as_ref()
            .is_some_and(|newest| sample.at - newest.at < SAMPLES_APART)
        {
            return;
        }
        self.before = self.newest.replace(sample);
    }
}

/// Numbers of replicas on this broker.
#[derive(Debug, Default)]
pub(super) struct Replicas {
    pub hosted: u64,
    pub led: u64,
    /// Replicas that know no leader that is alive.
    pub leaderless: u64,
    /// Groups led here of which some replica is not in sync.
    pub under_replicated: u64,
}

impl Replicas {
    pub fn sample(node: &Node, image: &Image, commits: &CommitSamples) -> Self {
        let now = Instant::now();
        let groups = node.registry().groups();
        let mut found = Self {
            hosted: groups.len() as u64,
            ..Self::default()
        };
        let mut committed = HashMap::new();
        let mut samples = commits.0.lock();
        for group in &groups {
            let status = group.status();
            if !node.replicas.knows_leader(group) {
                found.leaderless += 1;
            }
            if !status.ready {
                continue;
            }
            found.led += 1;
            committed.insert(group.id(), (status.term, group.committed_next()));
            let asked = samples.committed(now, group.id(), status.term);
            if !is_replicated(node, image, group, asked) {
                found.under_replicated += 1;
            }
        }
        samples.add(Sample { at: now, committed });
        found
    }
}

/// Whether every replica that a group is assigned is a voter that has the log up to `asked` and answers its leader.
fn is_replicated(node: &Node, image: &Image, group: &Group, asked: u64) -> bool {
    let heard_within = Duration::from_millis(node.settings.raft.heartbeat_ms * 5 / 2);
    let members = group.members();
    let progress = group.progress().unwrap_or_default();
    // Compared by its whole id: a replica of an earlier incarnation may still answer for a moment after it was replaced.
    let is_in_sync = |wanted: &ReplicaId| {
        progress.iter().any(|replica| {
            replica.replica == *wanted
                && members.voters.contains(&replica.replica)
                && replica.matched_next >= asked
                && replica.silent_for.is_some_and(|silent| silent <= heard_within)
        })
    };
    if members.changing {
        return false;
    }
    match image.partition_of_group(group.id()) {
        Some(partition) => partition.replicas.iter().all(is_in_sync),
        // The metadata group, which has no assignment but its own voters.
        None => members.voters.iter().all(is_in_sync),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_committed_is_asked_for_only_a_second_later_and_in_the_same_term() {
        let (group, start) = (GroupId(7), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        let sample = |ms, committed| Sample {
            at: at(ms),
            committed: HashMap::from([(group, (3, committed))]),
        };
        let mut samples = Samples::default();
        assert_eq!(samples.committed(at(0), group, 3), 0);
        samples.add(sample(0, 10));
        assert_eq!(samples.committed(at(999), group, 3), 0);
        // A second scraper right behind the first.
        samples.add(sample(500, 15));
        assert_eq!(samples.committed(at(1_000), group, 3), 10);
        assert_eq!(samples.committed(at(1_000), group, 4), 0);
        samples.add(sample(1_000, 20));
        assert_eq!(samples.committed(at(1_500), group, 3), 10);
        assert_eq!(samples.committed(at(2_000), group, 3), 20);
    }
}
