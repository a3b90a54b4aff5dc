//! Who works in a scenario: teams of clients that call brokers, record what they call and are answered, and look at the end at what is
//! there.
//!
//! A team is one folder. It has topics, queues and groups of its own, whose names begin with the team's
//! ([`Stage::named`](crate::play::stage::Stage::named)), so that a scenario can do without it.

mod admin;
mod exchanges;
mod groups;
mod log;
mod queues;
pub mod team;
mod transactions;

pub use team::{Finding, Team, TeamKind};

const TEAMS: &[TeamKind] = &[
    TeamKind::new("producers", log::producers),
    TeamKind::new("plain-producers", log::plain_producers),
    TeamKind::new("unary", log::unary),
    TeamKind::new("conditional", log::conditional),
    TeamKind::new("trimming", log::trimming),
    TeamKind::new("compacted", log::compacted),
    TeamKind::new("groups", groups::members),
    TeamKind::new("transactions", transactions::writers),
    TeamKind::new("chain", transactions::chain),
    TeamKind::new("topics", admin::topics),
    TeamKind::new("leaders", admin::leaders),
    TeamKind::new("queue-work", queues::work),
    TeamKind::new("queue-keys", queues::keys),
    TeamKind::new("queue-lanes", queues::lanes),
    TeamKind::new("queue-times", queues::times),
    TeamKind::new("queue-dedup", queues::repetitions),
    TeamKind::new("queue-letters", queues::letters),
    TeamKind::new("queue-admin", queues::administered),
    TeamKind::new("queue-chain", queues::chain),
    TeamKind::new("queue-groups", queues::groups),
    TeamKind::new("exchange-copies", exchanges::copies),
    TeamKind::new("exchange-log", exchanges::logged),
];

/// All kinds of teams.
pub fn teams() -> &'static [TeamKind] {
    TEAMS
}
