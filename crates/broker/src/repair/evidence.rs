//! Whether a damaged replica may go: what the leader of its group says of the others, and what follows from it.
//!
//! The answer speaks of replicas by their ids. A broker whose replica was given up holds another one, which has nothing yet; and
//! the one that was given up is still a voter until its successor has caught up, though it is gone. Neither counts. What follows is
//! bound to the list of replicas that it was judged by: `RenewReplica` names that list, and is refused when it is another one.

use std::sync::Arc;
use std::time::Duration;

use jangada_controller::PartitionRef;
use jangada_types::planted::{self, Bug};
use jangada_types::{BrokerId, ReplicaId};

use crate::api::call::cluster::Voter;
use crate::api::partition_states::voters_of;
use crate::node::Node;

/// How long a leader may take for its answer, beyond the two heartbeats for which it watches the others.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Whether the group can do without a replica, as its leader sees it now. The error says why not.
pub(super) async fn check_others(
    node: &Arc<Node>,
    partition: &PartitionRef<'_>,
    replica: ReplicaId,
) -> Result<(), String> {
    if planted::is(Bug::LastReplicaGivenUp) {
        return Ok(());
    }
    let within = ANSWER_TIMEOUT + 2 * node.registry().heartbeat_interval();
    let answer = tokio::time::timeout(within, voters_of(node, partition)).await;
    let Ok(Some((leader, voters))) = answer else {
        return Err("no leader of the partition answers".to_owned());
    };
    if node.registry().is_unfit(partition.group, leader) && leader != replica.broker {
        return Err(damaged_leader(leader));
    }
    judge(&partition.replicas, replica, leader, &voters)
}

/// Whether a majority of all replicas, without this one, has everything that is committed, and is no less a majority of the voters.
fn judge(replicas: &[ReplicaId], replica: ReplicaId, leader: BrokerId, voters: &[Voter]) -> Result<(), String> {
    if leader == replica.broker {
        return Err("no other replica is in sync and could lead; it goes on leading".to_owned());
    }
    if voters.is_empty() {
        return Err("the replicas that vote are changing; it waits until that is over".to_owned());
    }
    // It cannot fill others with what it cannot read, and this one may be the only one that can.
    let is_leader = |voter: &&Voter| voter.replica.broker == leader;
    if voters.iter().find(is_leader).is_some_and(|voter| voter.is_damaged) {
        return Err(damaged_leader(leader));
    }
    // Whatever its id was: nothing that is committed counts on it.
    if voters.iter().all(|voter| voter.replica.broker != replica.broker) {
        return Ok(());
    }
    let majority = replicas.len().max(voters.len()) / 2 + 1;
    let counts =
        |voter: &&Voter| voter.in_sync && voter.replica.broker != replica.broker && replicas.contains(&voter.replica);
    let others = voters.iter().filter(counts).count();
    if others >= majority {
        return Ok(());
    }
    Err(format!(
        "{others} of the other replicas are in sync, and {majority} must be: it may be the only one that has all records"
    ))
}

fn damaged_leader(leader: BrokerId) -> String {
    format!(
        "the replica on broker {leader}, which leads, is damaged as well: it may be the only one that has what is damaged there"
    )
}

#[cfg(test)]
mod tests {
    use jangada_types::Incarnation;

    use super::*;

    fn id(broker: u32, incarnation: u32) -> ReplicaId {
        ReplicaId::new(BrokerId(broker), Incarnation(incarnation))
    }

    fn voter(broker: u32, incarnation: u32, in_sync: bool) -> Voter {
        Voter {
            replica: id(broker, incarnation),
            in_sync,
            is_damaged: false,
        }
    }

    fn judged(replicas: &[ReplicaId], leader: u32, voters: &[Voter]) -> Result<(), String> {
        judge(replicas, id(2, 1), BrokerId(leader), voters)
    }

    #[test]
    fn a_replica_goes_when_a_majority_of_all_has_everything_without_it() {
        let all = [id(1, 1), id(2, 1), id(3, 1)];
        let voters = [voter(1, 1, true), voter(2, 1, true), voter(3, 1, true)];
        assert_eq!(judged(&all, 3, &voters), Ok(()));
        let behind = [voter(1, 1, false), voter(2, 1, true), voter(3, 1, true)];
        assert!(judged(&all, 3, &behind).unwrap_err().contains("1 of the other"));
        assert!(judged(&all, 2, &voters).unwrap_err().contains("goes on leading"));
        assert!(judged(&all, 3, &[]).unwrap_err().contains("are changing"));
        // A voter more, which is on no list: they need it, or one more.
        let four = [
            voter(1, 1, true),
            voter(2, 1, true),
            voter(3, 1, true),
            voter(4, 1, true),
        ];
        assert!(judged(&all, 3, &four).unwrap_err().contains("3 must be"));
    }

    /// Both damaged replicas closed at once; the first was renewed and its data deleted before the second is judged.
    #[test]
    fn one_that_gave_its_place_away_does_not_count_until_its_successor_votes() {
        let list = [id(1, 2), id(2, 1), id(3, 1)];
        let old = [voter(1, 1, true), voter(2, 1, true), voter(3, 1, true)];
        assert!(judged(&list, 3, &old).unwrap_err().contains("1 of the other"));
        let new = [voter(1, 2, true), voter(2, 1, true), voter(3, 1, true)];
        assert_eq!(judged(&list, 3, &new), Ok(()));
        // A leader that does not know of the renewal yet sees the same voters.
        let before = [id(1, 1), id(2, 1), id(3, 1)];
        assert!(judged(&before, 3, &new).is_err());
    }

    #[test]
    fn the_word_of_a_damaged_leader_does_not_count() {
        let all = [id(1, 1), id(2, 1), id(3, 1)];
        let mut voters = [voter(1, 1, true), voter(2, 1, true), voter(3, 1, true)];
        voters[0].is_damaged = true;
        assert_eq!(judged(&all, 3, &voters), Ok(()), "a sound leader has everything");
        voters[2].is_damaged = true;
        assert!(judged(&all, 3, &voters).unwrap_err().contains("broker 3, which leads"));
        // Nor of one that only follows so far.
        assert!(judged(&all, 3, &[voters[2]]).is_err());
    }

    #[test]
    fn a_replica_without_a_vote_goes_whatever_the_others_have() {
        let all = [id(1, 1), id(2, 1), id(3, 1)];
        assert_eq!(judged(&all, 1, &[voter(1, 1, true)]), Ok(()));
        // Its former self still votes: that is what is to be deleted.
        let list = [id(1, 1), id(2, 2), id(3, 1)];
        let voters = [voter(1, 1, true), voter(2, 1, false), voter(3, 1, false)];
        assert!(judge(&list, id(2, 2), BrokerId(1), &voters).is_err());
    }
}
