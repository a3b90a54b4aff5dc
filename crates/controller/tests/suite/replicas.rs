//! Reassignment, and who may delete what.

use jangada_controller::{Command, Reply};
use jangada_types::{GroupId, Reason, ReplicaId};

use crate::fixture::{Log, delete, deleted, firsts, replica, set_replicas};

fn settled(log: &mut Log, command: &Command) -> u32 {
    match log.accept(command) {
        Reply::ReplicaDeleted { settled } => settled,
        reply => panic!("not the reply to ReplicaDeleted: {reply:?}"),
    }
}

#[test]
fn a_tombstone_goes_when_the_last_replica_has_deleted() {
    let mut log = Log::formed(3);
    log.create(1, "a", &firsts(&[1, 2]));
    log.create(2, "b", &firsts(&[2, 3]));
    log.accept(&delete(1));
    log.accept(&delete(2));
    assert_eq!(settled(&mut log, &deleted(replica(2, 1), &[1, 2])), 2);
    assert_eq!(log.owing(), [(1, firsts(&[1])), (2, firsts(&[3]))]);
    assert_eq!(settled(&mut log, &deleted(replica(1, 1), &[1])), 1);
    assert_eq!(settled(&mut log, &deleted(replica(3, 1), &[2])), 1);
    assert_eq!(log.owing(), []);
}

#[test]
fn a_report_that_is_not_owed_is_ignored() {
    let mut log = Log::formed(3);
    log.create(1, "a", &firsts(&[1]));
    log.create(2, "live", &firsts(&[1]));
    log.accept(&delete(1));
    assert_eq!(settled(&mut log, &deleted(replica(2, 1), &[1, 2, 3])), 0);
    assert_eq!(settled(&mut log, &deleted(replica(1, 2), &[1])), 0);
    assert_eq!(
        settled(&mut log, &deleted(replica(1, 1), &[1, 1, 2])),
        1,
        "once, and not of the live group"
    );
    assert_eq!(log.replicas(GroupId(2)), firsts(&[1]));
}

#[test]
fn a_replica_that_is_taken_off_stays_named_until_it_has_deleted() {
    let mut log = Log::formed(3);
    let group = log.create(1, "a", &firsts(&[1, 2]));
    log.accept(&set_replicas(group, firsts(&[3, 1])));
    assert_eq!(
        (log.replicas(group), log.leaving(group)),
        (firsts(&[3, 1]), firsts(&[2]))
    );
    let leaving = |log: &Log, of: ReplicaId| log.image.leaving_of(of).map(|p| p.group).collect::<Vec<_>>();
    assert_eq!(leaving(&log, replica(2, 1)), [group]);

    let rejection = log.reject(&set_replicas(group, firsts(&[1, 2])));
    assert_eq!(rejection.reason, Reason::InvalidReplicas);
    assert!(rejection.message.contains("still deleting"), "{rejection}");

    assert_eq!(settled(&mut log, &deleted(replica(2, 1), &[group.get()])), 1);
    assert_eq!(leaving(&log, replica(2, 1)), []);
    log.accept(&set_replicas(group, firsts(&[1, 2])));
    assert_eq!(
        (log.replicas(group), log.leaving(group)),
        (firsts(&[1, 2]), firsts(&[3]))
    );
}

#[test]
fn a_replica_that_was_leaving_owes_the_deleted_group_too() {
    let mut log = Log::formed(3);
    let group = log.create(1, "a", &firsts(&[3, 2]));
    log.accept(&set_replicas(group, firsts(&[2, 1])));
    log.accept(&delete(1));
    assert_eq!(log.owing(), [(1, firsts(&[1, 2, 3]))]);
}

#[test]
fn a_change_of_the_preferred_leader_moves_nobody() {
    let mut log = Log::formed(2);
    let group = log.create(1, "a", &firsts(&[1, 2]));
    log.accept(&set_replicas(group, firsts(&[2, 1])));
    assert_eq!((log.replicas(group), log.leaving(group)), (firsts(&[2, 1]), vec![]));
}

#[test]
fn a_list_that_can_not_be_is_rejected() {
    let mut log = Log::formed(2);
    let group = log.create(1, "a", &firsts(&[1, 2]));
    let mut judge = |group, replicas| log.reject(&set_replicas(group, replicas)).reason;
    assert_eq!(judge(group, vec![]), Reason::InvalidReplicas);
    assert_eq!(judge(group, firsts(&[1, 1])), Reason::InvalidReplicas);
    assert_eq!(judge(group, vec![replica(1, 2)]), Reason::InvalidReplicas);
    assert_eq!(judge(group, firsts(&[3])), Reason::UnknownBroker);
    for unknown in [GroupId::METADATA, GroupId(2), GroupId::NODE] {
        assert_eq!(judge(unknown, firsts(&[1])), Reason::UnknownPartition);
    }
}
