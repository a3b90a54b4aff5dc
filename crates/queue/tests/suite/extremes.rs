//! What bad numbers and great ones do to a queue.

use jangada_queue::engine::{Answer, Input, Policy, RequestId};
use jangada_queue::{DoneCause, MessageState, Runs, Section, SectionReply};

use crate::scenarios::{plain, send, state, world};
use crate::world::{SLOT, World};

fn cancel(world: &mut World, messages: Runs) -> RequestId {
    let request = RequestId(world.next_id());
    let section = Section::Done {
        slot: SLOT,
        cause: DoneCause::Cancelled,
        messages,
    };
    world.step(Input::Administer { request, section });
    world.settle_down();
    request
}

/// An entry with such offsets would stop the partition for good: each replica would refuse it, or fail to apply it.
#[test]
fn offsets_that_no_replica_could_read_again_are_refused_and_not_proposed() {
    let mut world = world(Policy::default(), 0);
    send(&mut world, plain(3));
    let many = Runs::of(0, 2 << 20);
    for messages in [Runs::from_iter([1, 1 << 60]), Runs::of(u64::MAX >> 1, u64::MAX >> 1), many] {
        let proposed = world.proposed;
        let request = cancel(&mut world, messages.clone());
        let refused = Answer::Administered(SectionReply::Taken { refused: messages });
        assert_eq!(world.answers.get(&request), Some(&refused));
        assert_eq!(world.proposed, proposed, "nothing goes into the log");
    }
    cancel(&mut world, Runs::from_iter([1, (1 << 60) - 1]));
    assert_eq!(state(&world, 1), MessageState::Done, "one that is not there is left out");
}
