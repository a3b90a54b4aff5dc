//! Joining, staying and leaving: scenarios on a clock.

use jangada_coordinator::{Answer, Command, GroupState, HeartbeatRequest, MemberState};
use jangada_types::Reason;

use crate::fixture::{Client, GROUP, World, counts, partition, settled};

#[test]
fn three_members_get_four_of_twelve_each() {
    let (world, clients) = settled(3, vec![(1, "t", 12)]);
    assert_eq!(counts(&clients), [4, 4, 4]);
    assert_eq!(world.image.state(GROUP), GroupState::Stable);
    assert!(world.epoch() <= 3, "epoch {}", world.epoch());
}

#[test]
fn members_at_rest_write_nothing_to_the_log() {
    let (mut world, mut clients) = settled(3, vec![(1, "t", 12)]);
    let before = world.log.len();
    world.run(100_000, &mut clients);
    assert_eq!(world.log.len(), before);
    assert_eq!(counts(&clients), [4, 4, 4]);
}

#[test]
fn the_others_take_over_from_a_dead_member_soon_after_its_session() {
    let (mut world, mut clients) = settled(3, vec![(1, "t", 12)]);
    let kept: Vec<_> = clients[1..].iter().map(|client| client.owned.clone()).collect();
    clients[0].is_alive = false;
    // The member's last heartbeat was before now, so its session ends within these ten seconds.
    let until = world.now_ms + 10_000 + 3_000;
    world.run(until, &mut clients);
    assert_eq!(counts(&clients[1..]), [6, 6]);
    for (client, kept) in clients[1..].iter().zip(kept) {
        assert!(kept.is_subset(&client.owned), "what they had did not move");
    }
    // The partitions that they had did not pause.
    for member in world.group().members.values() {
        let new = member
            .holdings
            .iter()
            .filter(|holding| holding.since == member.epoch)
            .count();
        assert_eq!(new, 2);
    }
}

/// The interval that a member of the group is told at a time, after all others were heard until then.
fn told_at(world: &mut World, clients: &mut [Client], at_ms: u64) -> u32 {
    world.run(at_ms, clients);
    match world.heartbeat(clients[1].request()) {
        Ok(Answer::Heartbeat(response)) => response.heartbeat_interval_ms,
        other => panic!("at {at_ms}: {other:?}"),
    }
}

#[test]
fn the_others_are_in_a_hurry_only_shortly_before_a_silent_member_ends() {
    for is_away in [false, true] {
        let mut world = World::new(vec![(1, "t", 20)]);
        let mut clients: Vec<_> = (0..10)
            .map(|at| Client {
                session_ms: 45_000,
                ..Client::with_instance(&format!("m{at}"), &format!("i{at}"), &["t"])
            })
            .collect();
        world.run(15_000, &mut clients);
        clients[0].beat(&mut world);
        let last_heard = world.now_ms;
        if is_away {
            clients[0].leave(&mut world, -2);
        }
        clients[0].is_alive = false;
        for silent_ms in (0..42_000).step_by(500) {
            let told = told_at(&mut world, &mut clients, last_heard + silent_ms);
            assert_eq!(told, 3_000, "{silent_ms} ms after the last heartbeat, away: {is_away}");
        }
        for silent_ms in (42_000..45_000).step_by(500) {
            let told = told_at(&mut world, &mut clients, last_heard + silent_ms);
            assert_eq!(told, 300, "{silent_ms} ms after the last heartbeat, away: {is_away}");
        }
        world.run(last_heard + 46_000, &mut clients);
        assert_eq!(counts(&clients[1..]).iter().sum::<usize>(), 20, "away: {is_away}");
    }
}

#[test]
fn a_session_that_became_shorter_ends_in_time() {
    let (mut world, mut clients) = settled(1, vec![(1, "t", 4)]);
    for session_ms in [600_000, 6_000] {
        let until = world.now_ms + 20_000;
        world.run(until, &mut clients);
        clients[0].session_ms = session_ms;
        clients[0].beat(&mut world);
    }
    clients[0].is_alive = false;
    let until = world.now_ms + 6_000;
    world.run(until, &mut clients);
    assert_eq!(world.image.state(GROUP), GroupState::Empty);
}

#[test]
fn fifty_members_that_begin_at_once_settle_in_few_epochs() {
    for spread_ms in [0, 20, 60, 100] {
        let mut world = World::new(vec![(1, "t", 120)]);
        let mut clients: Vec<_> = (0..50u64)
            .map(|at| Client {
                next_ms: at * spread_ms,
                ..Client::new(&format!("m{at:02}"), &["t"])
            })
            .collect();
        world.run(10_000, &mut clients);
        let counts = counts(&clients);
        assert!(counts.iter().all(|count| (2..=3).contains(count)), "{counts:?}");
        assert_eq!(world.image.state(GROUP), GroupState::Stable);
        assert!(
            world.epoch() <= 10,
            "epoch {} at {spread_ms} ms between members",
            world.epoch()
        );
        println!(
            "50 members, one each {spread_ms} ms: epoch {}, {} commands",
            world.epoch(),
            world.log.len()
        );
    }
}

#[test]
fn a_partition_moves_only_when_its_owner_has_given_it_up() {
    let (mut world, mut clients) = settled(1, vec![(1, "t", 2)]);
    let mut second = Client::new("second", &["t"]);
    second.beat(&mut world);
    world.now_ms += 200;
    world.tick();
    second.beat(&mut world);
    assert!(second.owned.is_empty());
    // The owner is told to give one partition up and goes on reading both for a while.
    let mut slow = clients.remove(0);
    let before = slow.owned.clone();
    slow.beat(&mut world);
    assert_eq!(slow.owned.len(), 1);
    let asked = std::mem::replace(&mut slow.owned, before);
    second.beat(&mut world);
    assert!(second.owned.is_empty());
    assert_eq!(
        world.group().member_state(&world.group().members["m0"]),
        MemberState::Revoking
    );
    assert_eq!(
        world.group().member_state(&world.group().members["second"]),
        MemberState::Waiting
    );
    // The member may commit for partitions that it still reads.
    let given_up = slow.owned.difference(&asked).iter().next().expect("one is to go");
    world
        .commit(Some((&slow.id, slow.epoch)), given_up, 7)
        .expect("it still owns it");
    // A heartbeat that does not name the owned partitions acknowledges nothing.
    let silent = HeartbeatRequest {
        owned: None,
        ..slow.request()
    };
    world.heartbeat(silent).expect("it is alive");
    second.beat(&mut world);
    assert!(second.owned.is_empty());
    slow.owned = asked;
    slow.beat(&mut world);
    second.beat(&mut world);
    assert_eq!(second.owned.iter().collect::<Vec<_>>(), [given_up]);
    assert_eq!(world.image.state(GROUP), GroupState::Stable);
}

#[test]
fn what_a_member_was_given_is_its_own_until_it_gives_it_up() {
    let (mut world, mut clients) = settled(1, vec![(1, "t", 2)]);
    let mut second = Client::new("second", &["t"]);
    second.beat(&mut world);
    world.now_ms += 200;
    world.tick();
    let first = &mut clients[0];
    let kept = world.group().members[&first.id].target.clone();
    let moves = first.owned.difference(&kept);
    assert_eq!((kept.len(), moves.len()), (1, 1));
    // The member knows its assignment and has begun with a part of it. It may begin with the rest at any moment.
    let request = HeartbeatRequest {
        owned: Some(kept),
        ..first.request()
    };
    let answer = world.heartbeat(request);
    second.beat(&mut world);
    assert!(second.owned.is_empty(), "{:?}", second.owned);
    let member = &world.group().members[&first.id];
    assert_eq!(world.group().member_state(member), MemberState::Revoking);
    first.take(answer, world.now_ms);
    first.beat(&mut world);
    second.beat(&mut world);
    assert_eq!(second.owned, moves);
}

#[test]
fn who_does_not_give_up_in_time_is_removed() {
    let (mut world, mut clients) = settled(1, vec![(1, "t", 2)]);
    let mut second = Client::new("second", &["t"]);
    second.next_ms = world.now_ms;
    let mut all = vec![second];
    let mut slow = clients.remove(0);
    // The member sends heartbeats and never says what it owns.
    for _ in 0..20 {
        let request = HeartbeatRequest {
            owned: None,
            ..slow.request()
        };
        if let Ok(jangada_coordinator::Answer::Heartbeat(response)) = world.heartbeat(request) {
            slow.epoch = response.epoch.get().into();
            slow.version = response.assignment_version;
        }
        let until = world.now_ms + 500;
        world.run(until, &mut all);
    }
    assert!(!world.group().members.contains_key("m0"));
    assert_eq!(counts(&all), [2]);
    slow.beat(&mut world);
    assert_eq!(slow.last_error.map(|error| error.reason), Some(Reason::UnknownMember));
}

#[test]
fn a_zombie_cannot_commit() {
    let (mut world, mut clients) = settled(2, vec![(1, "t", 2)]);
    let zombie = clients.remove(0);
    let owned = zombie.owned.iter().next().expect("it owns one");
    world
        .commit(Some((&zombie.id, zombie.epoch)), owned, 5)
        .expect("it lives");
    let until = world.now_ms + 15_000;
    world.run(until, &mut clients);
    let error = world.commit(Some((&zombie.id, zombie.epoch)), owned, 6).unwrap_err();
    assert_eq!(error.reason, Reason::UnknownMember);
    assert_eq!(world.group().offsets[&owned].offset.get(), 5);
    let error = world.heartbeat(zombie.request()).unwrap_err();
    assert_eq!(error.reason, Reason::UnknownMember);
}

#[test]
fn a_failover_throws_nobody_out_and_moves_nothing() {
    let (mut world, mut clients) = settled(3, vec![(1, "t", 12)]);
    let owned: Vec<_> = clients.iter().map(|client| client.owned.clone()).collect();
    let (epoch, commands) = (world.epoch(), world.log.len());
    // No member could be heard for nearly a session.
    world.now_ms += 9_900;
    world.fail_over();
    let until = world.now_ms + 30_000;
    world.run(until, &mut clients);
    assert_eq!(
        owned,
        clients.iter().map(|client| client.owned.clone()).collect::<Vec<_>>()
    );
    assert_eq!((world.epoch(), world.log.len()), (epoch, commands));
}

#[test]
fn an_answer_that_was_lost_is_given_again() {
    let mut world = World::new(vec![(1, "t", 2)]);
    let mut client = Client::new("m", &["t"]);
    world.heartbeat(client.request()).expect("joined");
    // The member never heard of that.
    client.beat(&mut world);
    let epoch = client.epoch;
    world.now_ms += 200;
    world.tick();
    world.heartbeat(client.request()).expect("this gives it the partitions");
    client.beat(&mut world);
    assert_eq!(client.owned.len(), 2);
    assert!(client.epoch > epoch);
    assert_eq!(world.group().members.len(), 1);
}

#[test]
fn a_static_member_comes_back_without_a_rebalance() {
    let (mut world, mut clients) = two_static_members();
    let (epoch, owned) = (world.epoch(), clients[0].owned.clone());

    // The member restarts, and says that it leaves for a while.
    clients[0].leave(&mut world, -2);
    let mut again = Client::with_instance("a2", "a", &["t"]);
    again.beat(&mut world);
    assert_eq!((again.owned.clone(), world.epoch()), (owned.clone(), epoch));

    // The member vanishes: as long as it might live, its place is not taken.
    let third = Client::with_instance("a3", "a", &["t"]);
    clients[0] = Client {
        next_ms: world.now_ms,
        ..third
    };
    let until = world.now_ms + 9_900;
    world.run(until, &mut clients);
    let reason = clients[0].last_error.as_ref().map(|error| error.reason);
    assert_eq!((clients[0].epoch, reason), (0, Some(Reason::UnreleasedInstanceId)));
    world.run(until + 1_500, &mut clients);
    let third = &clients[0];
    assert_eq!((third.owned.clone(), world.epoch()), (owned.clone(), epoch));
    let error = world.heartbeat(again.request()).unwrap_err();
    assert_eq!(error.reason, Reason::FencedInstanceId);
    let first = owned.iter().next().expect("it owned some");
    let error = world.commit(Some((&again.id, again.epoch)), first, 1).unwrap_err();
    assert_eq!(error.reason, Reason::UnknownMember);
    world
        .commit(Some((&third.id, third.epoch)), first, 1)
        .expect("the new one may");
}

#[test]
fn a_static_member_that_is_only_late_keeps_its_place() {
    let (mut world, mut clients) = two_static_members();
    let owned = clients[0].owned.clone();
    let mut late = clients.remove(0);
    clients.push(Client {
        next_ms: world.now_ms,
        ..Client::with_instance("a2", "a", &["t"])
    });
    // The last heartbeat was at most 3 s ago, and the session is 10 s.
    let until = world.now_ms + 6_900;
    world.run(until, &mut clients);
    late.beat(&mut world);
    assert_eq!((late.last_error.as_ref(), &late.owned), (None, &owned));
    let until = world.now_ms + 6_900;
    world.run(until, &mut clients);
    assert_eq!(counts(&clients), [2, 0]);
    late.beat(&mut world);
    assert_eq!((late.last_error, late.owned), (None, owned));
}

#[test]
fn a_static_place_that_nobody_waits_for_any_more_goes_to_the_others() {
    let (mut world, mut clients) = two_static_members();
    clients[0] = Client {
        next_ms: world.now_ms,
        ..Client::with_instance("a2", "a", &["t"])
    };
    // The new process asks until shortly before the session ends, and is killed as well.
    let until = world.now_ms + 6_900;
    world.run(until, &mut clients);
    clients[0].is_alive = false;
    world.run(until + 3_100 + 3_000 + 3_500, &mut clients);
    assert_eq!(counts(&clients), [0, 4]);
}

#[test]
fn of_a_late_static_member_and_who_takes_its_place_one_goes_on() {
    for late_first in [false, true] {
        let (mut world, mut clients) = two_static_members();
        let mut late = clients.remove(0);
        let owned = late.owned.clone();
        world.now_ms += 10_000;
        let newcomer = Client::with_instance("a2", "a", &["t"]);
        let at = world.now();
        let takes = world.leader.heartbeat(&world.image, newcomer.request(), at);
        let stays = world.leader.heartbeat(&world.image, late.request(), at);
        assert!(matches!(takes, jangada_coordinator::Step::Propose { .. }), "{takes:?}");
        let (takes, stays) = if late_first {
            let stays = world.finish(stays);
            (world.finish(takes), stays)
        } else {
            let takes = world.finish(takes);
            (takes, world.finish(stays))
        };
        let holders: Vec<_> = world.group().members.keys().map(|id| id.to_string()).collect();
        if late_first {
            assert_eq!(takes.unwrap_err().reason, Reason::UnreleasedInstanceId);
            late.take(stays, world.now_ms);
            assert_eq!((late.last_error, late.owned), (None, owned));
            assert_eq!(holders, ["a1", "b1"]);
        } else {
            assert!(takes.is_ok(), "{takes:?}");
            assert_eq!(stays.unwrap_err().reason, Reason::FencedInstanceId);
            assert_eq!(holders, ["a2", "b1"]);
        }
    }
}

fn two_static_members() -> (World, Vec<Client>) {
    let mut world = World::new(vec![(1, "t", 4)]);
    let mut clients = vec![
        Client::with_instance("a1", "a", &["t"]),
        Client::with_instance("b1", "b", &["t"]),
    ];
    world.run(10_000, &mut clients);
    assert_eq!(counts(&clients), [2, 2]);
    (world, clients)
}

#[test]
fn a_static_member_that_stays_away_loses_its_place() {
    let mut world = World::new(vec![(1, "t", 4)]);
    let mut clients = vec![
        Client::with_instance("a1", "a", &["t"]),
        Client::with_instance("b1", "b", &["t"]),
    ];
    world.run(10_000, &mut clients);
    clients[0].leave(&mut world, -2);
    let until = world.now_ms + 20_000;
    world.run(until, &mut clients);
    assert_eq!(counts(&clients), [0, 4]);
}

#[test]
fn a_static_member_that_came_back_while_the_target_was_computed_gets_its_share() {
    let mut world = World::new(vec![(1, "t", 4)]);
    let mut clients = vec![Client::with_instance("m0", "static", &["t"]), Client::new("m1", &["t"])];
    clients.iter_mut().for_each(|client| client.beat(&mut world));

    world.now_ms = world.leader.next_deadline().expect("changes are gathered");
    let now = world.now();
    let computed = world.leader.tick(&world.image, now);
    assert!(matches!(&computed[..], [Command::SetTarget { .. }]), "{computed:?}");

    // It comes back under another member id before the target, which names the old one, is applied.
    clients[0].leave(&mut world, -2);
    clients[0] = Client::with_instance("m0-again", "static", &["t"]);
    clients[0].beat(&mut world);
    computed.iter().for_each(|command| drop(world.apply(command)));

    world.run(15_000, &mut clients);
    assert_eq!(counts(&clients), [2, 2]);
    assert_eq!(world.image.state(GROUP), GroupState::Stable);
}

#[test]
fn a_member_that_leaves_gives_its_partitions_at_once() {
    let (mut world, mut clients) = settled(2, vec![(1, "t", 4)]);
    clients[0].leave(&mut world, -1);
    let until = world.now_ms + 4_000;
    world.run(until, &mut clients);
    assert_eq!(counts(&clients), [0, 4]);
    clients[1].leave(&mut world, -1);
    assert_eq!(world.image.state(GROUP), GroupState::Empty);
}

#[test]
fn a_member_that_misses_answers_in_a_row_stays() {
    let (mut world, mut clients) = settled(1, vec![(1, "t", 2)]);
    let owned = clients[0].owned.clone();
    for partitions in [3, 4, 5] {
        world.set_topics(vec![(1, "t", partitions)]);
        world.now_ms += 3_000;
        world.tick();
        world.heartbeat(clients[0].request()).expect("it is alive");
    }
    clients[0].beat(&mut world);
    assert_eq!(clients[0].last_error, None);
    assert!(owned.is_subset(&clients[0].owned));
    let until = world.now_ms + 3_000;
    world.run(until, &mut clients);
    assert_eq!(counts(&clients), [5]);
}

#[test]
fn nobody_is_removed_after_a_heartbeat_was_answered() {
    for is_lost in [false, true] {
        let (mut world, mut clients) = settled(1, vec![(1, "t", 2)]);
        world.now_ms += 10_000;
        let at = world.now();
        let removal = world.leader.tick(&world.image, at);
        assert!(matches!(&removal[..], [Command::RemoveMembers { .. }]), "{removal:?}");
        let step = world.leader.heartbeat(&world.image, clients[0].request(), at);
        if is_lost {
            let answer = world.finish(step);
            clients[0].take(answer, world.now_ms);
            assert_eq!(clients[0].last_error, None);
            // The late removal arrives after all.
            removal.iter().for_each(|command| drop(world.apply(command)));
            world.heartbeat(clients[0].request()).expect("it is a member");
            let until = world.now_ms + 30_000;
            world.run(until, &mut clients);
            assert_eq!((counts(&clients), &clients[0].last_error), (vec![2], &None));
        } else {
            removal.iter().for_each(|command| drop(world.apply(command)));
            assert_eq!(world.finish(step).unwrap_err().reason, Reason::UnknownMember);
        }
    }
}

#[test]
fn a_held_up_heartbeat_acknowledges_nothing() {
    let (mut world, mut clients) = settled(1, vec![(1, "t", 2)]);
    // A heartbeat from before the member owned anything, with the epoch that it still has.
    let old = HeartbeatRequest {
        owned: Some(jangada_coordinator::PartitionSet::new()),
        assignment_version: clients[0].version - 1,
        ..clients[0].request()
    };
    let mut second = Client::new("second", &["t"]);
    second.beat(&mut world);
    world.now_ms += 200;
    world.tick();
    clients[0].beat(&mut world);
    world.heartbeat(old).expect("it is of a live member");
    second.beat(&mut world);
    assert!(second.owned.is_empty());
    let held = &world.group().members["m0"];
    assert!(held.holds(partition(1, 0)) && held.holds(partition(1, 1)));
}

#[test]
fn a_group_is_found_by_its_views() {
    let (world, clients) = settled(2, vec![(1, "t", 4)]);
    let group = world.group();
    assert_eq!(group.topics.len(), 1);
    assert_eq!(world.image.state("other"), GroupState::Dead);
    for client in &clients {
        let member = &group.members[&client.id];
        assert_eq!(group.member_state(member).as_str(), "Stable");
        assert_eq!(member.assigned(), client.owned);
    }
}
