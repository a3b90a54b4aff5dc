//! What a leader costs when much is parked: how soon a new one hands out its first message, how late timers are, and what a message
//! in flight takes. `JANGADA_LONG=1` for the sizes that queues are built for; figures are printed.

use std::collections::VecDeque;
use std::time::Duration;

use jangada_machine::Now;
use jangada_queue::engine::{
    ConsumerId, Delivered, Expired, Input, Output, Policy, RequestId, Rows, RowsWanted, SettleItem, Settlement,
};
use jangada_queue::tables::{MarkRow, RowKind, key_of};
use jangada_queue::{
    AttemptId, CallId, Context, DeadReason, DoneCause, Engine, KeepsOrder, Mark, Marks, QueueId, QueueOps, Runs,
    Section, SessionId, SlotId, SlotKind, Slots,
};
use jangada_types::replicated::Seeds;
use jangada_types::{LogPosition, Offset};

use crate::bounds::allocated;
use crate::cpu::{clock_costs, worked};

const SLOT: SlotId = SlotId(1);
const WALL_MS: u64 = 1_700_000_000_000;
/// A new leader hands out its first message within this time.
const FIRST: Duration = Duration::from_millis(100);

fn is_long() -> bool {
    std::env::var_os("JANGADA_LONG").is_some()
}

/// A partition whose commands are applied at once, and whose rows are in memory.
struct Host {
    slots: Slots,
    end: u64,
    index: u64,
    engine: Engine,
    /// When each delayed message is due, by its offset; the others are plain.
    due: Vec<u64>,
    /// The same, by time.
    timers: Vec<(u64, u64)>,
    /// The rows of their batches, as they are on the disk.
    batches: Vec<([u8; 17], Vec<u8>)>,
    now_us: u64,
    delivered: Vec<Delivered>,
    /// The longest step.
    longest: Duration,
    steps: usize,
    /// How often marks of batches were looked up.
    batch_reads: usize,
}

impl Host {
    fn new(end: u64) -> Self {
        let mut host = Self {
            slots: Slots::default(),
            end,
            index: 0,
            engine: Engine::begin(1, &Slots::default()),
            due: Vec::new(),
            timers: Vec::new(),
            batches: Vec::new(),
            now_us: 10_000_000,
            delivered: Vec::new(),
            longest: Duration::ZERO,
            steps: 0,
            batch_reads: 0,
        };
        host.apply(vec![Section::Open {
            queue: QueueId(1),
            slot_kind: SlotKind::Owned,
            order: KeepsOrder::No,
            start: 0,
        }]);
        host
    }

    /// The first so many messages are delayed. They were sent in batches of 100.
    fn delay(&mut self, due: Vec<u64>) {
        self.delay_in_batches(due, 100);
    }

    fn delay_in_batches(&mut self, due: Vec<u64>, batch: usize) {
        let row = |(at, part): (usize, &[u64])| {
            let base = (at * batch) as u64;
            let mark = |deliver_at_ms: &u64| Mark {
                deliver_at_ms: *deliver_at_ms,
                ..Mark::default()
            };
            let mut value = vec![1];
            value.extend_from_slice(&base.to_le_bytes());
            Marks(part.iter().map(mark).collect()).encode(false, &mut value);
            (key_of(RowKind::Batch, 0, base + part.len() as u64 - 1), value)
        };
        self.batches = due.chunks(batch).enumerate().map(row).collect();

        let mut timers: Vec<(u64, u64)> = due.iter().copied().zip(0..).collect();
        timers.sort_unstable();
        let count = due.len() as u64;
        (self.due, self.timers) = (due, timers);
        // The slots only need to know where marks end.
        let mark = Mark {
            deliver_at_ms: 1,
            ..Mark::default()
        };
        let mut effects = jangada_machine::Effects::default();
        self.slots.appended(count - 1, &Marks(vec![mark]), None, &mut effects);
    }

    fn commit(&mut self, ops: &QueueOps) -> jangada_queue::OpsReply {
        let context = Context {
            at: LogPosition {
                term: ops.term,
                index: self.index,
            },
            log_start: Offset(0),
            next_offset: Offset(self.end as i64),
        };
        self.index += 1;
        self.slots.apply(&context, ops, &())
    }

    fn apply(&mut self, sections: Vec<Section>) {
        self.commit(&QueueOps {
            term: 1,
            now_ms: WALL_MS,
            ticket: 0,
            sections,
        });
    }

    fn now(&self) -> Now {
        Now {
            monotonic_ms: self.now_us / 1_000,
            wall_ms: WALL_MS + self.now_us / 1_000,
            steady_since_ms: 0,
        }
    }

    fn look_up(&self, wanted: &RowsWanted) -> Rows {
        let mut rows = Vec::new();
        let is_all = match *wanted {
            RowsWanted::Batches { from, limit } => {
                let key = key_of(RowKind::Batch, 0, from);
                let from = self.batches.partition_point(|(last, _)| *last < key);
                let part = self.batches[from..].iter().take(limit);
                rows.extend(part.map(|(key, value)| MarkRow::decode(key, value).expect("a row")));
                from + limit >= self.batches.len()
            }
            RowsWanted::Timers { after, limit } => {
                let from = self.timers.partition_point(|timer| *timer <= after);
                let part = self.timers[from..].iter().take(limit);
                rows.extend(part.map(|(deliver_at_ms, offset)| MarkRow::Timer {
                    deliver_at_ms: *deliver_at_ms,
                    offset: *offset,
                    lane: 0,
                    expires_at_ms: 0,
                    message_key: 0,
                }));
                from + limit >= self.timers.len()
            }
            ref other => panic!("{other:?}"),
        };
        Rows { rows, is_all }
    }

    /// One step, and all that follows from it at once. Its time passes on the clock.
    fn step(&mut self, input: Input) {
        self.steps_of([input], false);
    }

    /// The same of several inputs; until the first message is delivered, if that is asked for.
    fn steps_of(&mut self, inputs: impl Into<VecDeque<Input>>, until_first: bool) {
        let mut inputs = inputs.into();
        while let Some(input) = inputs.pop_front() {
            let begun = worked();
            let now = self.now();
            let outputs = self.engine.step(&self.slots, self.end, input, now);
            let took = worked() - begun;
            self.longest = self.longest.max(took);
            self.steps += 1;
            self.now_us += took.as_micros() as u64;
            for output in outputs {
                match output {
                    Output::Propose { ticket, ops } => {
                        let reply = self.commit(&ops);
                        inputs.push_back(Input::Applied { ticket, reply });
                    }
                    Output::Read { read, wanted } => {
                        self.batch_reads += usize::from(matches!(wanted, RowsWanted::Batches { .. }));
                        let rows = self.look_up(&wanted);
                        inputs.push_back(Input::Rows { read, rows });
                    }
                    Output::Attached { messages, .. } | Output::Deliver { messages, .. } => {
                        self.delivered.extend(messages)
                    }
                    Output::Answer { .. } => {}
                    other => panic!("{other:?}"),
                }
            }
            if until_first && !self.delivered.is_empty() {
                return;
            }
        }
    }

    /// Walks on, as long as the engine asks for it at once.
    fn goes_on(&mut self) -> bool {
        let is_due = self
            .engine
            .next_deadline()
            .is_some_and(|at| at <= self.now().monotonic_ms);
        if is_due {
            self.step(Input::Tick);
        }
        is_due
    }

    /// A new leader, with a consumer that waits. How long it takes until that has a message: the best of three.
    fn first_message(&mut self, policy: Policy) -> Duration {
        let before = self.slots.clone();
        let times = (0..3).map(|_| {
            self.slots = before.clone();
            (self.longest, self.steps) = (Duration::ZERO, 0);
            self.delivered.clear();
            let begun = worked();
            self.engine = Engine::begin(1, &self.slots);
            let attach = Self::attached(1, 1);
            let inputs = [Input::Configure { slot: SLOT, policy }].into_iter().chain(attach);
            self.steps_of(inputs.collect::<VecDeque<_>>(), true);
            while self.delivered.is_empty() && self.goes_on() {}
            worked() - begun
        });
        times.min().expect("three times")
    }

    /// A consumer's stream begins, with so much credit.
    fn attached(number: u64, messages: u32) -> [Input; 2] {
        let consumer = ConsumerId(number);
        let attach = Input::Attach {
            consumer,
            slot: SLOT,
            session: SessionId(number),
            lease_ms: 30_000,
            holds: Vec::new(),
        };
        [attach, Input::Credit { consumer, messages }]
    }

    fn attach(&mut self, number: u64, messages: u32) {
        Self::attached(number, messages)
            .into_iter()
            .for_each(|input| self.step(input));
    }
}

/// The first message came in time. Says when it did.
fn is_soon(what: &str, host: &Host, took: Duration) -> String {
    assert_eq!(host.delivered.len(), 1, "{what}");
    assert!(took <= FIRST, "{what}: {took:?}");
    let Host { steps, longest, .. } = host;
    format!("{what}: the first message after {took:?}, {steps} steps, the longest {longest:?}")
}

/// Messages from `from` on that are dead, and others that wait for a retry, in turns of 1,000.
fn hold(host: &mut Host, from: u64, count: u64) {
    let mut seeds = Seeds::new(5);
    for part in 0..count / 1_000 {
        let first = from + part * 1_000;
        let messages = Runs::of(first, first + 999);
        if part % 2 == 0 {
            host.apply(vec![Section::Dead {
                slot: SLOT,
                reason: DeadReason::Rejected,
                messages,
                failed: 0,
                keys: Vec::new(),
                lanes: Vec::new(),
            }]);
            continue;
        }
        let grant = Section::Grant {
            slot: SLOT,
            session: SessionId(9),
            attempt: AttemptId(0),
            duration_ms: 30_000,
            messages: messages.clone(),
            keys: vec![],
            lanes: vec![],
        };
        let retry = Section::Retry {
            slot: SLOT,
            messages,
            delays_ms: (0..1_000).map(|_| 3_600_000 + seeds.below(3_600_000)).collect(),
            failed: 1,
        };
        host.apply(vec![grant, retry]);
    }
}

#[test]
fn a_new_leader_hands_out_its_first_message_whatever_is_parked() {
    let count = if is_long() { 10_000_000 } else { 200_000 };
    let done = |host: &mut Host, from: u64, until: u64| {
        for first in (from..until).step_by(100_000) {
            host.apply(vec![Section::Done {
                slot: SLOT,
                cause: DoneCause::Expired,
                messages: Runs::of(first, (first + 99_999).min(until - 1)),
            }]);
        }
    };
    let policy = Policy {
        dead_max: None,
        ..Policy::default()
    };
    // As many as a partition's state may hold.
    let held = if is_long() { 1_800_000 } else { 100_000 };
    for (what, first) in [("before", 0), ("behind", count)] {
        let mut host = Host::new(count + 1);
        // The message that everything waits for is dead.
        if first == count {
            hold(&mut host, 0, 1_000);
            done(&mut host, 1_000, count);
        } else {
            done(&mut host, 1, count + 1);
        }
        let took = host.first_message(policy);
        println!("{}", is_soon(&format!("{what} {count} that are done"), &host, took));

        let mut host = Host::new(held + 1);
        hold(&mut host, u64::from(first == 0), held);
        let took = host.first_message(policy);
        println!(
            "{}",
            is_soon(&format!("{what} {held} that are dead or wait"), &host, took)
        );
    }
    for (batch, sent) in [(100, "in batches"), (1, "one by one")] {
        let mut host = Host::new(count + 1);
        let due = (0..count).map(|at| if at == 0 { 0 } else { WALL_MS + 3_600_000 + at % 1_000 });
        host.delay_in_batches(due.collect(), batch);
        let took = host.first_message(policy);
        let what = format!("before {count} that are not due, and were sent {sent}");
        println!("{}", is_soon(&what, &host, took));
    }
}

/// What is behind messages that are not due is found when the rows of their batches were read: the time has that, from the bytes of the
/// rows on.
#[test]
fn a_new_leader_hands_out_what_is_behind_those_that_are_not_due() {
    let count = if is_long() { 10_000_000 } else { 200_000 };
    let policy = Policy::default();
    let mut seeds = Seeds::new(7);
    for (what, span_ms) in [("are due in the same second", 1_000), ("are due some time", 86_400_000)] {
        let mut host = Host::new(count + 1);
        let due = (0..count).map(|_| WALL_MS + 3_600_000 + seeds.below(span_ms));
        host.delay(due.collect());
        let took = host.first_message(policy);
        println!("{}", is_soon(&format!("behind {count} that {what}"), &host, took));
        assert_eq!(host.delivered[0].offset, count);
        // They are counted, and the next ones are known when they were looked up.
        while host.goes_on() {}
        let counts = host.engine.counts(&host.slots, host.end, SLOT).expect("it is led");
        assert_eq!((counts.delayed, counts.ready), (count, 0));
    }
    // Each second one is done.
    let mut host = Host::new(count + 1);
    host.delay(
        (0..count)
            .map(|_| WALL_MS + 3_600_000 + seeds.below(86_400_000))
            .collect(),
    );
    for first in (0..count).step_by(1_000) {
        host.apply(vec![Section::Done {
            slot: SLOT,
            cause: DoneCause::Cancelled,
            messages: (first..first + 1_000).step_by(2).collect(),
        }]);
    }
    let took = host.first_message(policy);
    println!(
        "{}",
        is_soon(
            &format!("behind {} that are not due, as many done between", count / 2),
            &host,
            took
        )
    );
    // A row for each message: there is more to read. A bound, and a figure.
    let count = count / 10;
    let mut host = Host::new(count + 1);
    let due = (0..count).map(|_| WALL_MS + 3_600_000 + seeds.below(86_400_000));
    host.delay_in_batches(due.collect(), 1);
    let took = host.first_message(policy);
    println!(
        "behind {count} that were sent one by one: {took:?}, {} steps",
        host.steps
    );
    assert!(took < 3 * FIRST, "{took:?}");
}

#[test]
fn timers_that_fall_due_together_are_not_late() {
    let (count, span_ms) = if is_long() {
        (1_000_000_u64, 60_000)
    } else {
        (20_000, 1_200)
    };
    let p99 = drains_timers(count, span_ms, 1_000);
    assert!(p99 <= 50, "{p99} ms");
    // All at once; the consumers take more and more at a time.
    for credit in [10, 100, 1_000] {
        drains_timers(count, 1, credit);
    }
}

/// So many messages fall due within a time, and 8 consumers with so much credit each acknowledge them. Gives how late the 99th of 100 was.
#[allow(clippy::print_stdout, reason = "the figures of a test")]
fn drains_timers(count: u64, span_ms: u64, credit: u32) -> u64 {
    let mut host = Host::new(count);
    let mut seeds = Seeds::new(3);
    let begin = host.now().wall_ms + 5_000;
    host.delay((0..count).map(|_| begin + seeds.below(span_ms)).collect());
    host.step(Input::Configure {
        slot: SLOT,
        // As a queue with a log of its own has it, whose senders may give a time to live.
        policy: Policy {
            expired: Some(Expired::Drop),
            ..Policy::default()
        },
    });
    for consumer in 1..=8 {
        host.attach(consumer, credit);
    }
    while host.goes_on() {}
    let walked_ms = host.now().wall_ms;
    assert!(walked_ms < begin, "it has passed them all in time");
    (host.longest, host.steps, host.batch_reads) = (Duration::ZERO, 0, 0);
    let mut late: Vec<u64> = Vec::new();
    let begun = worked();
    let mut request = 0;
    while late.len() < count as usize {
        if host.delivered.is_empty() && !host.goes_on() {
            let next = host.engine.next_deadline().expect("timers are left");
            host.now_us = host.now_us.max(next * 1_000);
            host.step(Input::Tick);
        }
        let delivered = std::mem::take(&mut host.delivered);
        let wall_ms = host.now().wall_ms;
        late.extend(delivered.iter().map(|message| {
            let due = host.due[message.offset as usize];
            assert!(due <= wall_ms, "not before its time");
            wall_ms - due
        }));
        for messages in delivered.chunks(100) {
            request += 1;
            let items = messages.iter().map(|message| SettleItem {
                offset: message.offset,
                lease: message.lease,
                settlement: Settlement::Ack,
            });
            host.step(Input::Settle {
                request: RequestId(request),
                slot: SLOT,
                items: items.collect(),
            });
        }
        if !delivered.is_empty() {
            for consumer in 1..=8 {
                let messages = delivered.len() as u32 / 8 + 1;
                host.step(Input::Credit {
                    consumer: ConsumerId(consumer),
                    messages,
                });
            }
        }
    }
    // The clock that says so is read before and after each step.
    let each = (worked() - begun).saturating_sub(clock_costs() * 2 * host.steps as u32) / count as u32;
    late.sort_unstable();
    let p99 = late[late.len() * 99 / 100];
    println!(
        "{count} timers over {span_ms} ms, credit of {credit}: p50 {} ms late, p99 {p99} ms, the last {} ms; {} steps, the longest {:?}; \
         {each:?} of CPU for each",
        late[late.len() / 2],
        late.last().expect("there are some"),
        host.steps,
        host.longest
    );
    assert_eq!(host.batch_reads, 0, "a timer says what is to be known of its message");
    assert!(each < Duration::from_micros(10), "{each:?}");
    p99
}

/// What is ready or delayed is not in memory, but for the next ones.
#[test]
fn a_million_messages_that_are_ready_or_delayed_cost_next_to_nothing() {
    let count = 1_000_000;
    let mut seeds = Seeds::new(11);
    for (what, span_ms) in [
        ("are ready", 0),
        ("are due within an hour", 3_600_000),
        ("are due together", 1),
    ] {
        let mut host = Host::new(count);
        let begin = WALL_MS + 20_000;
        host.delay(
            (0..count)
                .map(|_| if span_ms > 0 { begin + seeds.below(span_ms) } else { 1 })
                .collect(),
        );
        let before = allocated();
        let policy = Policy {
            expired: Some(Expired::Drop),
            ..Policy::default()
        };
        host.engine = Engine::begin(1, &host.slots);
        host.step(Input::Configure { slot: SLOT, policy });
        let mut highest = 0;
        // All that is ready waits for a consumer that takes them one at a time.
        for round in 0..3 {
            while host.goes_on() {
                highest = highest.max(allocated() - before);
            }
            host.now_us = host.now_us.max(10_000_000 * (round + 1));
            host.attach(round + 1, 1);
            host.delivered = Vec::new();
            highest = highest.max(allocated() - before);
        }
        let counts = host.engine.counts(&host.slots, host.end, SLOT).expect("it is led");
        println!(
            "{count} messages that {what}: {highest} bytes at most, {}; {counts:?}",
            allocated() - before
        );
        assert!(highest <= 20_000_000, "{what}: {highest} bytes");
    }
}

#[test]
fn a_message_in_flight_costs_the_leader_what_the_design_says() {
    let count = 100_000_u64;
    let before = allocated();
    let mut host = Host::new(2 * count);
    host.step(Input::Configure {
        slot: SLOT,
        policy: Policy::default(),
    });
    for consumer in 1..=20 {
        host.attach(consumer, 0);
    }
    for round in 0..count / 10 {
        host.step(Input::Credit {
            consumer: ConsumerId(round % 20 + 1),
            messages: 10,
        });
        host.delivered.clear();
    }
    host.delivered = Vec::new();
    let bytes = (allocated() - before) as u64;
    let leased = host.slots.slot(SLOT).expect("it is open").counts().leased;
    assert_eq!(leased, count);
    println!("{} bytes for a message in flight, by grants of 10", bytes / count);
    assert!(bytes <= 72 * count, "{} bytes each", bytes / count);
}

#[test]
fn a_message_that_was_received_alone_costs_little_more() {
    let count = 100_000_u64;
    let before = allocated();
    let mut host = Host::new(2 * count);
    host.step(Input::Configure {
        slot: SLOT,
        policy: Policy::default(),
    });
    for request in 1..=count {
        host.step(Input::Receive {
            request: RequestId(request),
            slot: SLOT,
            session: SessionId(request % 20),
            attempt: AttemptId(0),
            call: CallId(0),
            messages: 1,
            lease_ms: 30_000,
            wait_ms: 1_000,
        });
    }
    let bytes = (allocated() - before) as u64;
    let leased = host.slots.slot(SLOT).expect("it is open").counts().leased;
    assert_eq!(leased, count);
    println!("{} bytes for a message in flight, by grants of one", bytes / count);
    assert!(bytes <= 128 * count, "{} bytes each", bytes / count);
}
