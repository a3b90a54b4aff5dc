//! Teams that work with queues: senders, consumers by `receive` and by streams with all habits, dead letters, transactions, topics that are
//! read by queues.
//!
//! | module | what is in it |
//! |---|---|
//! | `plan` | what a team does, drawn from chance |
//! | `caller` | a process, and the recording of what it calls and is answered |
//! | `consuming` | consumers |
//! | `team` | senders, consumers and administrators of one queue |
//! | `chain` | from a queue to a queue and a topic, in transactions |
//! | `groups` | queues that read a topic |
//! | `ending` | what is drained, shown and read when all is over |
//! | `draw` | draws from chance |

pub(crate) mod caller;
mod chain;
pub(crate) mod consuming;
pub(crate) mod draw;
pub(crate) mod ending;
mod groups;
pub(crate) mod plan;
pub(crate) mod team;

use jangada_env::Random;

use self::chain::ChainTeam;
use self::groups::GroupsTeam;
use self::plan::Plan;
use self::team::QueueTeam;
use crate::roles::team::Team;

fn with(plan: Plan) -> Box<dyn Team> {
    Box::new(QueueTeam::new(plan))
}

/// A queue with leases, attempts and dead letters, and consumers of all habits.
pub(super) fn work(random: &Random) -> Box<dyn Team> {
    with(Plan::work(random))
}

/// A queue that keeps the order of messages with the same key.
pub(super) fn keys(random: &Random) -> Box<dyn Team> {
    with(Plan::keys(random))
}

/// A queue with priorities.
pub(super) fn lanes(random: &Random) -> Box<dyn Team> {
    with(Plan::lanes(random))
}

/// A queue with delays, times to live, and schedules.
pub(super) fn times(random: &Random) -> Box<dyn Team> {
    with(Plan::times(random))
}

/// A queue that recognizes repetitions.
pub(super) fn repetitions(random: &Random) -> Box<dyn Team> {
    with(Plan::repetitions(random))
}

/// A queue whose dead letters go to a queue, a topic, or one after the other.
pub(super) fn letters(random: &Random) -> Box<dyn Team> {
    with(Plan::letters(random))
}

/// A queue that is paused, altered and purged.
pub(super) fn administered(random: &Random) -> Box<dyn Team> {
    with(Plan::administered(random))
}

/// A chain from a queue to a queue and a topic, in transactions.
pub(super) fn chain(random: &Random) -> Box<dyn Team> {
    Box::new(ChainTeam::draw(random))
}

/// Queues that read a topic.
pub(super) fn groups(random: &Random) -> Box<dyn Team> {
    Box::new(GroupsTeam::draw(random))
}
