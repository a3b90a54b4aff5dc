//! Damaged replicas: from the moment that damage is met until the replica is filled again from the others.
//!
//! ```text
//!   damage is met (opening, fetch, apply, replication, scrub) -> storage::Damage -> Repairs: found
//!      leads?        the leadership goes to another replica that is in sync; this one leads no more
//!      may it go?    the leader says that a majority of all replicas, without this one, has what is committed
//!                    no: `held`, with the reason; tried again
//!      it stops      so that nothing more is committed that counts on it; the leader is asked once more
//!      given up      RenewReplica through group 0: its place gets a new id
//!   reconciler:      deletes the data, reports it, opens the new id, whose leader fills it and gives it a vote
//! ```
//!
//! - [`Repairs`]: what is known of this broker's damaged replicas; anybody may ask.
//! - [`worker`]: the task that takes them through the steps.
//! - [`scrub`]: reads what is at rest, so that damage is met before it is needed.
//!
//! The replica of the metadata group is not repaired: it has the broker's own id, and the broker cannot run without it. It
//! hands its leadership over, is held with what to do, and an operator replaces the broker.

pub(crate) mod scrub;
pub(crate) mod worker;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use jangada_proto::v1;
use jangada_types::{GroupId, ReplicaId};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Where the repair of a replica is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Nothing was done yet.
    Found,
    /// It stays as it is for now, for this reason.
    Held(String),
    /// Its place was given to this replica, which is being filled.
    GivenUp(ReplicaId),
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Found => f.write_str("damaged"),
            Self::Held(why) => write!(f, "damaged, not repaired: {why}"),
            Self::GivenUp(replica) => write!(f, "given up, being filled again as {replica}"),
        }
    }
}

/// A damaged replica.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// The topic and partition, or what else the group is.
    pub name: String,
    pub topic: String,
    pub partition: u32,
    /// What is damaged.
    pub what: Arc<str>,
    pub stage: Stage,
    /// The replica was stopped for good and must not be opened again under its old id.
    pub is_closed: bool,
    /// After it was stopped, its leader said that the others have everything: its data may go.
    pub may_delete: bool,
    /// Rounds in which no leader answered.
    pub leaderless: u32,
    /// More damage was met after it was given up: in what was filled again, or where that was to be opened.
    pub again: Option<Arc<str>>,
    /// How often what came in its place was damaged as well.
    pub refills: u32,
    /// The data here is that of the replica which was given up, for certain: this process closed it.
    pub is_old: bool,
    /// It was given up, and its data cannot be deleted, for this reason.
    pub stuck: Option<String>,
}

/// Rounds without a leader after which a damaged replica stands for election again.
const LEADERLESS_ROUNDS: u32 = 10;

/// The damaged replicas of this broker.
#[derive(Default)]
pub(crate) struct Repairs {
    cases: Mutex<BTreeMap<GroupId, Case>>,
    /// Something was found.
    news: Notify,
}

impl Repairs {
    /// Damage was met. Short, as it is called by whoever met it.
    pub fn found(&self, group: GroupId, what: &str) {
        let what: Arc<str> = what.into();
        let mut cases = self.cases.lock();
        match cases.get_mut(&group) {
            Some(case) if matches!(case.stage, Stage::GivenUp(_)) => case.again = Some(what),
            Some(_) => {}
            None => {
                cases.insert(group, Case::new(what));
            }
        }
        drop(cases);
        self.news.notify_one();
    }

    /// Whether a replica must not be opened, because it is about to be given up.
    pub fn is_closed(&self, group: GroupId) -> bool {
        self.cases.lock().get(&group).is_some_and(|case| case.is_closed)
    }

    /// Whether the data of a replica that was given up may be deleted.
    pub fn may_delete(&self, group: GroupId) -> bool {
        self.cases.lock().get(&group).is_some_and(|case| case.may_delete)
    }

    /// Whether the data that is here is for certain that of the replica which `next` comes after, so that it need not be asked
    /// whose it is.
    pub fn is_surely_old(&self, group: GroupId, next: ReplicaId) -> bool {
        let cases = self.cases.lock();
        let case = cases.get(&group);
        case.is_some_and(|case| case.is_old && case.may_delete && case.stage == Stage::GivenUp(next))
    }

    /// The data of a replica that was given up cannot be deleted; `None`: it can, or it is gone. Told when it is news.
    pub fn stuck(&self, group: GroupId, why: Option<String>) {
        self.change(group, |case| {
            if case.stuck == why {
                return;
            }
            if let Some(why) = &why {
                tracing::error!(%group, partition = case.name, "the data of a replica that was given up stays: {why}");
            }
            case.stuck = why;
        });
    }

    /// The data of a replica that was given up is gone.
    pub fn deleted(&self, group: GroupId) {
        self.change(group, |case| case.is_old = false);
        self.stuck(group, None);
    }

    /// All of them, by group.
    pub fn all(&self) -> Vec<(GroupId, Case)> {
        self.cases
            .lock()
            .iter()
            .map(|(group, case)| (*group, case.clone()))
            .collect()
    }

    /// How many are damaged and as they were, and how many are being filled again.
    pub fn count(&self) -> (u64, u64) {
        let cases = self.cases.lock();
        let given_up = cases
            .values()
            .filter(|case| matches!(case.stage, Stage::GivenUp(_)) && case.stuck.is_none());
        let given_up = given_up.count() as u64;
        (cases.len() as u64 - given_up, given_up)
    }

    /// A renewal came to nothing, or nobody knows what came of it: what was closed for it is opened again, under its old id. If
    /// it went through after all the metadata says so, and what was opened meanwhile is closed before it is deleted.
    fn reopen(&self, group: GroupId) {
        self.change(group, |case| case.is_closed = false);
    }

    fn change(&self, group: GroupId, change: impl FnOnce(&mut Case)) {
        if let Some(case) = self.cases.lock().get_mut(&group) {
            change(case);
        }
    }

    fn remove(&self, group: GroupId) {
        self.cases.lock().remove(&group);
    }
}

impl Case {
    /// Counts a round, and says whether the replica should stand for election again, as nobody led for a while.
    fn should_lead(&mut self, is_led: bool) -> bool {
        self.leaderless = if is_led { 0 } else { self.leaderless.saturating_add(1) };
        self.leaderless >= LEADERLESS_ROUNDS
    }

    fn new(what: Arc<str>) -> Self {
        Self {
            name: String::new(),
            topic: String::new(),
            partition: 0,
            what,
            stage: Stage::Found,
            is_closed: false,
            may_delete: false,
            leaderless: 0,
            again: None,
            refills: 0,
            is_old: false,
            stuck: None,
        }
    }

    /// As `cluster health` shows it.
    pub fn to_wire(&self, broker: u32) -> v1::DamagedReplica {
        v1::DamagedReplica {
            topic: self.topic.clone(),
            partition: self.partition,
            broker_id: broker,
            damage: self.what.to_string(),
            state: match (&self.stage, &self.stuck) {
                (Stage::Found, _) => "damaged",
                (Stage::Held(_), _) | (Stage::GivenUp(_), Some(_)) => "held",
                (Stage::GivenUp(_), None) => "refilling",
            }
            .to_owned(),
            detail: match &self.stuck {
                None => self.stage.to_string(),
                Some(why) => format!("{}: {why}", self.stage),
            },
        }
    }
}

/// What [`kind_of`] gives.
pub(crate) const DAMAGE_KINDS: [&str; 3] = ["checksum", "missing", "unreadable"];

/// For the metric: what kind of damage the words tell of.
pub(crate) fn kind_of(what: &str) -> &'static str {
    let has = |words: &[&str]| words.iter().any(|word| what.contains(word));
    let [checksum, missing, unreadable] = DAMAGE_KINDS;
    if has(&["checksum", "CRC", "crc"]) {
        checksum
    } else if has(&["missing", "belongs", "gap", "goes on with"]) {
        missing
    } else {
        unreadable
    }
}

#[cfg(test)]
mod tests {
    use jangada_types::{BrokerId, Incarnation};

    use super::*;

    const GROUP: GroupId = GroupId(3);

    #[test]
    fn damage_is_one_case_until_what_was_filled_again_is_damaged_too() {
        let repairs = Repairs::default();
        repairs.found(GROUP, "first");
        repairs.found(GROUP, "second");
        assert_eq!(repairs.count(), (1, 0));
        assert_eq!(&*repairs.all()[0].1.what, "first");
        let new = ReplicaId::new(BrokerId(1), Incarnation(2));
        repairs.change(GROUP, |case| case.stage = Stage::GivenUp(new));
        assert_eq!(repairs.count(), (0, 1));
        repairs.found(GROUP, "third");
        assert_eq!(repairs.all()[0].1.again.as_deref(), Some("third"));
        repairs.remove(GROUP);
        assert_eq!(repairs.count(), (0, 0));
    }

    #[test]
    fn a_replica_that_nobody_leads_stands_for_election_again_after_a_while_and_not_before() {
        let mut case = Case::new("x".into());
        let mut rounds = |is_led: &[bool]| {
            is_led
                .iter()
                .map(|is_led| case.should_lead(*is_led))
                .collect::<Vec<_>>()
        };
        assert_eq!(rounds(&[false; 9]), [false; 9]);
        assert_eq!(rounds(&[false, false]), [true; 2]);
        assert_eq!(rounds(&[true, false]), [false; 2]);
    }

    #[test]
    fn what_was_closed_for_a_renewal_is_opened_again_when_it_fails() {
        let repairs = Repairs::default();
        repairs.found(GROUP, "x");
        repairs.change(GROUP, |case| case.is_closed = true);
        assert!(repairs.is_closed(GROUP));
        repairs.reopen(GROUP);
        assert!(!repairs.is_closed(GROUP) && !repairs.may_delete(GROUP));
    }

    #[test]
    fn a_replica_whose_data_cannot_be_deleted_takes_no_room_of_those_that_are_filled_again() {
        let repairs = Repairs::default();
        repairs.found(GROUP, "x");
        let new = ReplicaId::new(BrokerId(1), Incarnation(2));
        repairs.change(GROUP, |case| {
            case.stage = Stage::GivenUp(new);
            (case.may_delete, case.is_old) = (true, true);
        });
        assert!(repairs.is_surely_old(GROUP, new));
        assert!(!repairs.is_surely_old(GROUP, ReplicaId::new(BrokerId(1), Incarnation(3))));
        repairs.stuck(GROUP, Some("a block is damaged".to_owned()));
        assert_eq!(repairs.count(), (1, 0));
        let shown = repairs.all()[0].1.to_wire(1);
        assert_eq!(shown.state, "held");
        assert!(shown.detail.contains("a block is damaged"), "{}", shown.detail);
        repairs.deleted(GROUP);
        assert_eq!(repairs.count(), (0, 1));
        assert!(!repairs.is_surely_old(GROUP, new));
    }

    #[test]
    fn damage_is_counted_by_kind() {
        assert_eq!(kind_of("Corruption: block checksum mismatch in 000012.sst"), "checksum");
        assert_eq!(kind_of("log entry 7 is missing on disk"), "missing");
        assert_eq!(kind_of("a state record is damaged"), "unreadable");
    }
}
