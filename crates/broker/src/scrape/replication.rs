//! Which replicas are where they should be, judged at a scrape without waiting for anybody.
//!
//! A follower is always a message behind while records come. So it counts as in sync when it has what was committed at an
//! earlier scrape, a second ago at least, and answered its leader within two and a half heartbeats: what `cluster health` finds
//! by waiting.

use std::collections::HashMap;
use std::time::Duration;

use jangada_controller::Image;
use jangada_replication::Group;
use jangada_types::{GroupId, ReplicaId};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::node::Node;

/// Two scrapes that follow each other more closely are one look.
const LOOKS_APART: Duration = Duration::from_secs(1);

/// What was committed at the last scrapes.
#[derive(Default)]
pub(crate) struct CommitLooks(Mutex<Looks>);

#[derive(Default)]
struct Looks {
    newest: Option<Look>,
    before: Option<Look>,
}

struct Look {
    at: Instant,
    /// By group that was led then: the term, and the next index to be committed.
    committed: HashMap<GroupId, (u64, u64)>,
}

impl Looks {
    /// What was committed in this term a while ago; 0: that is not known, and asks for nothing.
    fn committed(&self, now: Instant, group: GroupId, term: u64) -> u64 {
        let newest = self.newest.as_ref().filter(|look| now - look.at >= LOOKS_APART);
        let look = newest.or(self.before.as_ref());
        let known = look.and_then(|look| look.committed.get(&group));
        known.filter(|known| known.0 == term).map_or(0, |known| known.1)
    }

    fn add(&mut self, look: Look) {
        if self
            .newest
            .as_ref()
            .is_some_and(|newest| look.at - newest.at < LOOKS_APART)
        {
            return;
        }
        self.before = self.newest.replace(look);
    }
}

/// The replicas of this broker.
#[derive(Debug, Default)]
pub(super) struct Replicas {
    pub hosted: u64,
    pub led: u64,
    /// They know no leader that is there.
    pub leaderless: u64,
    /// Of those that are led here, some replica is not in sync.
    pub under_replicated: u64,
}

impl Replicas {
    pub fn sample(node: &Node, image: &Image, looks: &CommitLooks) -> Self {
        let now = Instant::now();
        let groups = node.registry().groups();
        let mut found = Self {
            hosted: groups.len() as u64,
            ..Self::default()
        };
        let mut committed = HashMap::new();
        let mut looks = looks.0.lock();
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
            let asked = looks.committed(now, group.id(), status.term);
            if !is_replicated(node, image, group, asked) {
                found.under_replicated += 1;
            }
        }
        looks.add(Look { at: now, committed });
        found
    }
}

/// Whether every replica that a group should have is a voter that has the log up to `asked` and answers.
fn is_replicated(node: &Node, image: &Image, group: &Group, asked: u64) -> bool {
    let heard_within = Duration::from_millis(node.settings.raft.heartbeat_ms * 5 / 2);
    let members = group.members();
    let progress = group.progress().unwrap_or_default();
    // By its id: what was given up is heard for a moment after it was closed.
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
        // The metadata, which has the voters that it gave itself.
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
        let look = |ms, committed| Look {
            at: at(ms),
            committed: HashMap::from([(group, (3, committed))]),
        };
        let mut looks = Looks::default();
        assert_eq!(looks.committed(at(0), group, 3), 0);
        looks.add(look(0, 10));
        assert_eq!(looks.committed(at(999), group, 3), 0);
        // A second scraper right behind the first.
        looks.add(look(500, 15));
        assert_eq!(looks.committed(at(1_000), group, 3), 10);
        assert_eq!(looks.committed(at(1_000), group, 4), 0);
        looks.add(look(1_000, 20));
        assert_eq!(looks.committed(at(1_500), group, 3), 10);
        assert_eq!(looks.committed(at(2_000), group, 3), 20);
    }
}
