//! What a team does: its queue's settings, what it sends, and the habits of its consumers.

use std::collections::BTreeMap;
use std::time::Duration;

use jangada_check::note::QueueSettings;
use jangada_client::{QueueMessage, Settlement};
use jangada_env::Random;

use super::caller::nanos;
use super::draw::{millis, number, one_of, percent};

/// A lease that is asked for. Short enough that it holds as it was asked for over a change of leader, whatever clocks say.
const LEASES_MS: &[u64] = &[1_000, 2_000, 4_000];
/// An id is remembered for so long where that is judged: longer than any run, and than clocks are set off.
const DEDUP_DAY: Duration = Duration::from_secs(86_400);

/// What becomes of a message that has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Habit {
    /// It is acknowledged.
    Ack,
    /// It is acknowledged at last before its lease is over.
    Slow,
    /// Its consumer says that it failed.
    Nack,
    /// It is put off.
    PutOff,
    /// It is given back.
    Release,
    /// It is a dead letter.
    Reject,
    /// Its lease is extended, and it is acknowledged then.
    Extend,
    /// It is acknowledged when its lease may be over.
    Late,
    /// The consumer dies with all that it has.
    Die,
}

/// Habits, each with how often it is had next to the others.
pub(crate) type Habits = Vec<(Habit, u64)>;

/// One of the habits.
pub(crate) fn habit(habits: &Habits, random: &Random) -> Habit {
    let mut at = number(random, 0..habits.iter().map(|(_, weight)| weight).sum());
    for (habit, weight) in habits {
        match at.checked_sub(*weight) {
            Some(rest) => at = rest,
            None => return *habit,
        }
    }
    Habit::Ack
}

impl Habit {
    /// What is said of the message at once, if that is all.
    pub fn settlement(self, random: &Random) -> Option<Settlement> {
        let delay = percent(random, 70).then(|| millis(random, 50..900));
        match self {
            Self::Ack => Some(Settlement::Ack),
            Self::Nack => Some(Settlement::Nack { delay, failed: true }),
            Self::PutOff => Some(Settlement::Nack { delay, failed: false }),
            Self::Release => Some(Settlement::Release),
            Self::Reject => Some(Settlement::Reject {
                reason: "the team rejects it".to_owned(),
            }),
            Self::Slow | Self::Extend | Self::Late | Self::Die => None,
        }
    }
}

/// All habits that there are.
fn all_habits(random: &Random) -> Habits {
    vec![
        (Habit::Ack, 50),
        (Habit::Slow, number(random, 0..10)),
        (Habit::Nack, number(random, 0..20)),
        (Habit::PutOff, number(random, 0..8)),
        (Habit::Release, number(random, 0..10)),
        (Habit::Extend, number(random, 0..8)),
        (Habit::Late, number(random, 0..6)),
        (Habit::Die, number(random, 0..6)),
    ]
}

/// Where dead letters go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Letters {
    /// They stay in the queue.
    Stay,
    /// To a queue, whose own dead letters stay.
    Queue,
    /// To a topic.
    Topic,
    /// To a queue, whose own dead letters go to a topic.
    QueueAndTopic,
}

/// What a team does.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub partitions: u32,
    /// Settings by key.
    pub config: BTreeMap<String, String>,
    /// What the checker is told of the queue, its name left out.
    pub noted: QueueSettings,
    pub letters: Letters,
    /// Messages have one of so many keys; 0: none.
    pub keys: u64,
    /// Messages have one of so many priorities.
    pub priorities: u64,
    /// So many of a hundred messages have a delay, and a time to live.
    pub delayed: u64,
    pub expiring: u64,
    /// All of them may expire by a setting.
    pub expires: bool,
    /// Messages have ids.
    pub ids: bool,
    /// So many of a hundred messages are sent again.
    pub again: u64,
    /// So many of a hundred are cancelled.
    pub cancelled: u64,
    pub senders: u64,
    /// Messages of one sender at most, and the longest pause between two.
    pub messages: u64,
    pub pause_ms: u64,
    pub receivers: u64,
    /// They receive of the first partition alone: then what they are not given was given to nobody.
    pub of_one_partition: bool,
    pub streams: u64,
    pub lease: Duration,
    pub habits: Habits,
    /// Dead letters are redriven once.
    pub redrives: bool,
    /// The queue is paused, altered, and purged.
    pub administers: bool,
    pub purges: bool,
    /// The intervals of schedules, milliseconds.
    pub schedules: Vec<u64>,
}

impl Plan {
    /// A queue with nothing special, and consumers of all habits.
    fn plain(random: &Random) -> Self {
        let mut plan = Self {
            partitions: one_of(random, &[1, 1, 2, 3]),
            config: BTreeMap::new(),
            noted: QueueSettings::default(),
            letters: Letters::Stay,
            keys: 0,
            priorities: 1,
            delayed: 0,
            expiring: 0,
            expires: false,
            ids: false,
            again: 0,
            cancelled: 0,
            senders: number(random, 1..3),
            messages: number(random, 20..60),
            pause_ms: one_of(random, &[200, 600, 1_000]),
            receivers: number(random, 1..3),
            of_one_partition: false,
            streams: number(random, 0..3),
            lease: Duration::from_millis(one_of(random, LEASES_MS)),
            habits: all_habits(random),
            redrives: false,
            administers: false,
            purges: false,
            schedules: Vec::new(),
        };
        plan.set("queue.retry.min.ms", &one_of(random, &[50, 200, 500]).to_string());
        plan.set("queue.retry.max.ms", &one_of(random, &[500, 1_500]).to_string());
        plan.set("queue.lease.ms", &plan.lease.as_millis().to_string());
        plan.attempts(None);
        plan
    }

    fn set(&mut self, key: &str, value: &str) {
        self.config.insert(key.to_owned(), value.to_owned());
    }

    fn attempts(&mut self, most: Option<u32>) {
        let text = most.map_or_else(|| "none".to_owned(), |most| most.to_string());
        self.set("queue.attempts.max", &text);
        self.noted.attempts_max = most;
    }

    fn without(mut self, habits: &[Habit]) -> Self {
        self.habits.retain(|(habit, _)| !habits.contains(habit));
        self
    }

    /// Leases, settlements of all kinds, deaths, attempts up to a limit, dead letters that stay, and are redriven.
    pub fn work(random: &Random) -> Self {
        let mut plan = Self::plain(random);
        plan.attempts(one_of(random, &[None, Some(2), Some(3), Some(5)]));
        plan.habits.push((Habit::Reject, number(random, 0..6)));
        plan.cancelled = one_of(random, &[0, 0, 10]);
        plan.redrives = percent(random, 30);
        plan
    }

    /// Messages of a key go out in order, one at a time.
    pub fn keys(random: &Random) -> Self {
        let mut plan = Self::plain(random);
        plan.set("queue.order", "key");
        plan.noted.ordered = true;
        plan.keys = one_of(random, &[1, 2, 4]);
        plan.receivers = number(random, 2..4);
        plan.attempts(one_of(random, &[None, None, Some(3)]));
        if percent(random, 20) {
            plan.set("queue.delay.ms", "300");
        }
        plan.cancelled = one_of(random, &[0, 10]);
        plan
    }

    /// The highest priority goes first. Where all go by `receive` from one partition that is judged strictly.
    pub fn lanes(random: &Random) -> Self {
        let mut plan = Self::plain(random);
        plan.priorities = one_of(random, &[2, 3, 8]);
        let priorities = plan.priorities.to_string();
        plan.set("queue.priorities", &priorities);
        plan.senders = 2;
        match percent(random, 60) {
            true => {
                plan.noted.strict = true;
                (plan.partitions, plan.of_one_partition, plan.streams) = (1, true, 0);
            }
            false => plan.set("queue.priority.min.share", &one_of(random, &[10, 50]).to_string()),
        }
        // A message that goes out for the last time goes out of its turn, so attempts have no limit here.
        plan
    }

    /// Delays, times to live, and schedules.
    pub fn times(random: &Random) -> Self {
        let mut plan = Self::plain(random);
        plan.delayed = one_of(random, &[30, 60, 100]);
        plan.expiring = one_of(random, &[0, 0, 40]);
        if percent(random, 15) {
            plan.set("queue.ttl.ms", "6000");
            plan.expires = true;
        }
        if percent(random, 40) {
            plan.set("queue.expired", "dead");
        }
        if !plan.expires {
            plan.schedules = one_of(random, &[vec![], vec![5_000], vec![5_000, 7_000], vec![1_000]]);
        }
        // Of what is more than a minute late the last hundred are sent: at 5 s that covers steps of clocks of minutes.
        plan.noted.every_occurrence = plan.schedules.iter().all(|interval| *interval >= 5_000);
        plan
    }

    /// Messages are sent again, and are there once.
    pub fn repetitions(random: &Random) -> Self {
        let mut plan = Self::plain(random).without(&[Habit::Reject]);
        let by_content = percent(random, 30);
        plan.set("queue.dedup", if by_content { "content" } else { "id" });
        plan.ids = !by_content;
        plan.set("queue.dedup.window.ms", &DEDUP_DAY.as_millis().to_string());
        plan.noted.dedup = Some(nanos(DEDUP_DAY));
        plan.again = one_of(random, &[30, 60]);
        plan
    }

    /// Dead letters go elsewhere.
    pub fn letters(random: &Random) -> Self {
        let mut plan = Self::plain(random);
        plan.letters = one_of(random, &[Letters::Queue, Letters::Topic, Letters::QueueAndTopic]);
        plan.attempts(one_of(random, &[Some(1), Some(2), Some(3)]));
        plan.habits.push((Habit::Reject, 15));
        plan.habits.push((Habit::Nack, 20));
        if percent(random, 20) {
            plan.expiring = 30;
            plan.set("queue.expired", "dead");
        }
        plan
    }

    /// The queue is paused, its settings change, and it is purged meanwhile.
    pub fn administered(random: &Random) -> Self {
        let mut plan = Self::plain(random);
        plan.attempts(one_of(random, &[None, Some(3)]));
        plan.administers = true;
        plan.purges = percent(random, 50);
        plan.keys = one_of(random, &[0, 0, 2]);
        if plan.keys > 0 {
            plan.set("queue.order", "key");
        }
        plan
    }

    /// The message with this value.
    pub fn message(&self, value: &str, random: &Random) -> QueueMessage {
        let mut message = QueueMessage::new(value.to_owned());
        if self.keys > 0 {
            message = message.with_key(format!("key-{}", number(random, 0..self.keys)));
        }
        if self.priorities > 1 {
            message = message.with_priority(number(random, 0..self.priorities) as u32);
        }
        if percent(random, self.delayed) {
            message = message.with_delay(millis(random, 100..5_000));
        }
        if percent(random, self.expiring) {
            message = message.with_ttl(millis(random, 5_000..9_000));
        }
        if self.ids {
            message = message.with_message_id(format!("id-{value}"));
        }
        message
    }
}
