//! Reassignment of replicas, and the deletion of their data.

use jangada_controller::{Command, Image, RENEWAL_FEATURE_LEVEL, Reply, admission};
use jangada_types::{BrokerId, GroupId, Incarnation, Reason, ReplicaId};

use crate::fixture::{Log, delete, deleted, firsts, register, replace, replica, set_replicas};

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
    let leaving = |log: &Log, of: u32| {
        let leaving = log.image.leaving_of(BrokerId(of));
        leaving.map(|(p, replica)| (p.group, replica)).collect::<Vec<_>>()
    };
    assert_eq!(leaving(&log, 2), [(group, replica(2, 1))]);

    let rejection = log.reject(&set_replicas(group, firsts(&[1, 2])));
    assert_eq!(rejection.reason, Reason::InvalidReplicas);
    assert!(rejection.message.contains("still deleting"), "{rejection}");

    assert_eq!(settled(&mut log, &deleted(replica(2, 1), &[group.get()])), 1);
    assert_eq!(leaving(&log, 2), []);
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

fn forms_with(log: &Log, group: GroupId, replica: ReplicaId) -> Option<Vec<ReplicaId>> {
    let partition = log.image.partition_of_group(group).expect("it is live");
    let voters = partition.forms_with(replica).map(<[ReplicaId]>::to_vec);
    let snapshot = Image::restore(&log.image.snapshot()).expect("what was written is read");
    let restored = snapshot.partition_of_group(group).expect("it is live");
    assert_eq!(restored.forms_with(replica), voters.as_deref(), "also after a snapshot");
    voters
}

#[test]
fn a_group_whose_broker_was_replaced_before_it_was_formed_is_formed_by_those_that_are_left() {
    let mut log = Log::formed(3);
    let created = firsts(&[2, 1, 3]);
    let group = log.create(1, "a", &created);
    for replica in &created {
        assert_eq!(forms_with(&log, group, *replica).as_ref(), Some(&created));
    }
    log.accept(&replace(2));
    log.accept(&register(2, 0, 22));
    assert_eq!(log.replicas(group), [replica(2, 2), replica(1, 1), replica(3, 1)]);
    // With the list of its creation, as who has not heard of the replacement forms it.
    for left in firsts(&[1, 3]) {
        assert_eq!(forms_with(&log, group, left).as_ref(), Some(&created));
    }
    assert_eq!(forms_with(&log, group, replica(2, 2)), None, "it waits for the leader");
    assert_eq!(forms_with(&log, group, replica(2, 1)), None, "it is gone");
    log.accept(&set_replicas(group, firsts(&[1, 3])));
    assert_eq!(forms_with(&log, group, replica(1, 1)), Some(created));
}

#[test]
fn a_replica_that_left_and_came_back_does_not_form_its_group_a_second_time() {
    let mut log = Log::formed(4);
    let group = log.create(1, "a", &firsts(&[1, 2, 3]));
    log.accept(&set_replicas(group, firsts(&[2, 3, 4])));
    assert_eq!(forms_with(&log, group, replica(1, 1)), None);
    assert_eq!(settled(&mut log, &deleted(replica(1, 1), &[group.get()])), 1);
    log.accept(&set_replicas(group, firsts(&[1, 2, 3])));
    for replica in firsts(&[1, 2, 3, 4]) {
        assert_eq!(forms_with(&log, group, replica), None, "others may have its log");
    }
    log.accept(&set_replicas(group, firsts(&[2, 3])));
    assert_eq!(forms_with(&log, group, replica(2, 1)), None, "nor later");
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

fn renew(group: GroupId, replica: ReplicaId) -> Command {
    Command::RenewReplica {
        group,
        replica,
        checked: Vec::new(),
    }
}

fn renewed(log: &mut Log, command: &Command) -> ReplicaId {
    match log.accept(command) {
        Reply::ReplicaRenewed { replica, .. } => replica,
        reply => panic!("not the reply to RenewReplica: {reply:?}"),
    }
}

#[test]
fn a_damaged_replica_gives_its_place_to_a_new_one_on_the_same_broker() {
    let mut log = Log::formed_at(3, RENEWAL_FEATURE_LEVEL);
    let group = log.create(1, "a", &firsts(&[1, 2, 3]));
    let other = log.create(2, "b", &firsts(&[1, 2, 3]));
    assert_eq!(renewed(&mut log, &renew(group, replica(2, 1))), replica(2, 2));
    assert_eq!(log.replicas(group), [replica(1, 1), replica(2, 2), replica(3, 1)]);
    assert_eq!(log.leaving(group), firsts(&[2]));
    assert_eq!(log.image.feature_level(), RENEWAL_FEATURE_LEVEL);
    assert!(log.image.partition_of_group(group).expect("it is live").is_reassigned);
    // No number is given twice, whichever group asks.
    assert_eq!(renewed(&mut log, &renew(other, replica(2, 1))), replica(2, 3));
    assert_eq!(
        log.image.replica_of(BrokerId(2)),
        Some(replica(2, 1)),
        "of the broker itself"
    );
    // The answer to the renewal was lost.
    assert_eq!(renewed(&mut log, &renew(group, replica(2, 1))), replica(2, 2));

    let rejection = log.reject(&renew(group, replica(2, 2)));
    assert!(rejection.message.contains("still deleting"), "{rejection}");
    assert_eq!(settled(&mut log, &deleted(replica(2, 1), &[group.get()])), 1);
    assert_eq!(log.reject(&renew(group, replica(2, 1))).reason, Reason::InvalidReplicas);
    assert_eq!(renewed(&mut log, &renew(group, replica(2, 2))), replica(2, 4));
}

#[test]
fn no_two_replicas_of_a_partition_are_renewed_at_once() {
    let mut log = Log::formed_at(4, RENEWAL_FEATURE_LEVEL);
    let group = log.create(1, "a", &firsts(&[1, 2, 3]));
    let second = renewed(&mut log, &renew(group, replica(2, 1)));
    let rejection = log.reject(&renew(group, replica(3, 1)));
    assert_eq!(rejection.reason, Reason::InvalidReplicas);
    assert!(rejection.message.contains("one is given up at a time"), "{rejection}");
    assert_eq!(settled(&mut log, &deleted(replica(2, 1), &[group.get()])), 1);
    let third = renewed(&mut log, &renew(group, replica(3, 1)));
    assert_eq!(settled(&mut log, &deleted(replica(3, 1), &[group.get()])), 1);

    // A renewal is refused while an assignment moves a replica away, too.
    log.accept(&set_replicas(group, vec![replica(4, 1), second, third]));
    let rejection = log.reject(&renew(group, second));
    assert!(rejection.message.contains("on its way out"), "{rejection}");
    assert_eq!(settled(&mut log, &deleted(replica(1, 1), &[group.get()])), 1);
    renewed(&mut log, &renew(group, second));
}

/// The second renewal was judged while the first replica had its place, and arrives when that one's data is gone
/// already.
#[test]
fn a_renewal_that_was_judged_by_another_list_is_refused() {
    let mut log = Log::formed_at(3, RENEWAL_FEATURE_LEVEL);
    let group = log.create(1, "a", &firsts(&[1, 2, 3]));
    let first = admission::validate_renew_replica(&log.image, group, replica(1, 1)).expect("it may go");
    let second = admission::validate_renew_replica(&log.image, group, replica(2, 1)).expect("it may go");
    let new = renewed(&mut log, &first);
    assert_eq!(settled(&mut log, &deleted(replica(1, 1), &[group.get()])), 1);
    let rejection = log.reject(&second);
    assert_eq!(rejection.reason, Reason::InvalidReplicas);
    assert!(rejection.message.contains("look again"), "{rejection}");
    assert_eq!(log.replicas(group), [new, replica(2, 1), replica(3, 1)]);
    let again = admission::validate_renew_replica(&log.image, group, replica(2, 1)).expect("it may go");
    renewed(&mut log, &again);
    // The answer was lost, and the list has changed since.
    renewed(&mut log, &again);
}

#[test]
fn fewer_than_three_replicas_are_never_renewed() {
    let mut log = Log::formed_at(3, RENEWAL_FEATURE_LEVEL);
    for (number, brokers) in [(1, &[1][..]), (2, &[1, 2])] {
        let group = log.create(number, &format!("t{number}"), &firsts(brokers));
        let rejection = log.reject(&renew(group, replica(1, 1)));
        assert_eq!(rejection.reason, Reason::InvalidReplicas);
        assert!(rejection.message.contains("no majority"), "{rejection}");
    }
}

#[test]
fn nothing_is_renewed_while_a_broker_does_not_know_it() {
    let mut log = Log::formed_at(3, RENEWAL_FEATURE_LEVEL - 1);
    let group = log.create(1, "a", &firsts(&[1, 2, 3]));
    let rejection = log.reject(&renew(group, replica(2, 1)));
    assert_eq!(rejection.reason, Reason::NotReady);
    assert!(rejection.message.contains("upgrade"), "{rejection}");
}

#[test]
fn a_broker_that_is_replaced_gets_an_incarnation_that_none_of_its_replicas_had() {
    let mut log = Log::formed_at(3, RENEWAL_FEATURE_LEVEL);
    let group = log.create(1, "a", &firsts(&[1, 2, 3]));
    let other = log.create(2, "b", &firsts(&[1, 2, 3]));
    renewed(&mut log, &renew(group, replica(2, 1)));
    let again = register(2, 1, 2);
    let Command::RegisterBroker(mut again) = again else {
        unreachable!()
    };
    again.feature_level = RENEWAL_FEATURE_LEVEL;
    // A restart keeps the incarnations that were given.
    log.accept(&Command::RegisterBroker(again.clone()));
    assert_eq!(log.replicas(group)[1], replica(2, 2));
    assert_eq!(
        log.image.broker(BrokerId(2)).expect("known").last_incarnation,
        Incarnation(2)
    );

    log.accept(&replace(2));
    let rejection = log.reject(&renew(other, replica(2, 1)));
    assert!(rejection.message.contains("given up"), "{rejection}");
    again.incarnation = Incarnation(0);
    log.accept(&Command::RegisterBroker(again));
    for group in [group, other] {
        assert_eq!(log.replicas(group), [replica(1, 1), replica(2, 3), replica(3, 1)]);
        assert_eq!(log.leaving(group), []);
    }
}

#[test]
fn a_deleted_topic_owes_the_data_of_a_renewed_replica_and_of_the_one_before() {
    let mut log = Log::formed_at(3, RENEWAL_FEATURE_LEVEL);
    let group = log.create(1, "a", &firsts(&[1, 2, 3]));
    renewed(&mut log, &renew(group, replica(2, 1)));
    log.accept(&delete(1));
    let owing = vec![replica(1, 1), replica(2, 1), replica(2, 2), replica(3, 1)];
    assert_eq!(log.owing(), [(1, owing)]);
}
