//! Schedules with leaders that change, occurrences whose entries are lost or late, and time without a leader: an oracle watches what is
//! fired.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use jangada_machine::Now;
use jangada_queue::engine::{Input, Output};
use jangada_queue::schedule::{CatchUp, Planner, Timing, check_schedule};
use jangada_queue::{
    Context, Engine, Fire, KeepsOrder, PutSchedule, QueueId, QueueOps, ScheduleCommand, ScheduleKey, ScheduleRefused,
    Section, SlotId, SlotKind, Slots,
};
use jangada_types::replicated::Seeds;
use jangada_types::{LogPosition, Offset};

const SLOT: SlotId = SlotId(1);
const WALL_MS: u64 = 1_700_000_000_000;
const MINUTE_MS: u64 = 60_000;

/// An occurrence that was fired: of which version, when it was to be, and when it was.
#[derive(Clone, Copy, Debug)]
struct Fired {
    version: u64,
    at_ms: u64,
    now_ms: u64,
    appends: bool,
}

struct Clockwork {
    seeds: Seeds,
    slots: Slots,
    engine: Engine,
    term: u64,
    index: u64,
    now_ms: u64,
    /// The wall clock is steady since then, on the monotonic clock.
    steady_since_ms: u64,
    pending: VecDeque<Fire>,
    fired: BTreeMap<ScheduleKey, Vec<Fired>>,
    timings: BTreeMap<u64, Timing>,
}

fn key(name: u64) -> ScheduleKey {
    (SLOT, format!("schedule-{name}"))
}

impl Clockwork {
    fn new(seed: u64) -> Self {
        let slots = Slots::default();
        let mut clockwork = Self {
            seeds: Seeds::new(seed),
            engine: Engine::begin(1, &slots),
            slots,
            term: 1,
            index: 0,
            now_ms: 100_000,
            steady_since_ms: 0,
            pending: VecDeque::new(),
            fired: BTreeMap::new(),
            timings: BTreeMap::new(),
        };
        let ops = QueueOps {
            term: 1,
            ticket: 0,
            now_ms: 0,
            sections: vec![Section::Open {
                queue: QueueId(1),
                slot_kind: SlotKind::Owned,
                order: KeepsOrder::No,
                start: 0,
            }],
        };
        let context = clockwork.context();
        clockwork.slots.apply(&context, &ops, &());
        clockwork
    }

    fn context(&mut self) -> Context {
        self.index += 1;
        Context {
            at: LogPosition {
                term: self.term,
                index: self.index - 1,
            },
            log_start: Offset(0),
            next_offset: Offset(0),
        }
    }

    fn wall(&self) -> u64 {
        WALL_MS + self.now_ms
    }

    fn step(&mut self, input: Input) {
        let now = Now {
            monotonic_ms: self.now_ms,
            wall_ms: self.wall(),
            steady_since_ms: self.steady_since_ms,
        };
        for output in self.engine.step(&self.slots, 0, input, now) {
            match output {
                Output::Fire { fire, template } => {
                    assert_eq!(template, Bytes::from_static(b"template"));
                    self.pending.push_back(fire);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn put(&mut self, name: u64, timing: Timing, until_ms: u64, catch_up: CatchUp) {
        let next_ms = check_schedule("name", &timing, until_ms, b"template", self.wall());
        let Ok(next_ms) = next_ms else { return };
        let put = PutSchedule {
            key: key(name),
            timing: timing.clone(),
            until_ms,
            catch_up,
            template: Bytes::from_static(b"template"),
            next_ms,
        };
        let context = self.context();
        self.timings.insert(context.at.index + 1, timing);
        self.slots.put_schedule(&context, &put).expect("there is room");
        let is_applied = true;
        self.step(Input::Scheduled {
            key: key(name),
            is_applied,
        });
    }

    /// The entry is committed, in this term or a later one.
    fn commit(&mut self, fire: &Fire, term: u64) -> Result<(), ScheduleRefused> {
        let mut bytes = Vec::new();
        let command = ScheduleCommand::Fire(fire.clone());
        command.encode(&mut bytes);
        assert_eq!(ScheduleCommand::decode(&mut &bytes[..]), Some(command));
        let mut context = self.context();
        context.at.term = term;
        self.slots.judge_fire(&context, fire)?;
        self.slots.fired(fire);
        assert!(
            self.slots.judge_fire(&context, fire).is_err(),
            "the same entry again has no effect"
        );
        let fired = Fired {
            version: fire.version,
            at_ms: fire.at_ms,
            now_ms: self.wall(),
            appends: fire.appends,
        };
        self.fired.entry(fire.key.clone()).or_default().push(fired);
        let snapshot = self.slots.snapshot();
        let restored = Slots::restore(&snapshot, 0, 0).expect("what was written is read");
        assert!(restored == self.slots, "a snapshot has the schedules");
        Ok(())
    }

    fn apply(&mut self) -> bool {
        let Some(fire) = self.pending.pop_front() else {
            return false;
        };
        let is_applied = self.commit(&fire, self.term).is_ok();
        self.step(Input::Scheduled {
            key: fire.key,
            is_applied,
        });
        true
    }

    fn fail_over(&mut self) {
        let committed = self.seeds.below(self.pending.len() as u64 + 1);
        for _ in 0..committed {
            let fire = self.pending.pop_front().expect("it was counted");
            _ = self.commit(&fire, self.term);
        }
        self.term += 1;
        for fire in std::mem::take(&mut self.pending) {
            // It comes late, and has no effect.
            assert!(self.commit(&fire, self.term).is_err());
        }
        self.engine = Engine::begin(self.term, &self.slots);
        self.step(Input::Tick);
    }

    /// Time passes under a leader.
    fn pass(&mut self, ms: u64) {
        let until = self.now_ms + ms;
        while let Some(next) = self.engine.next_deadline().filter(|next| *next <= until) {
            self.now_ms = self.now_ms.max(next);
            self.step(Input::Tick);
            if self.seeds.below(4) > 0 {
                while self.apply() {}
            }
        }
        self.now_ms = until;
    }

    fn timing(&mut self) -> Timing {
        let cron = |expression: &str, zone: &str| Timing::Cron {
            expression: expression.to_owned(),
            zone: zone.to_owned(),
        };
        match self.seeds.below(4) {
            0 => cron("* * * * *", "UTC"),
            1 => cron("*/7 3-20 * * *", "Europe/Berlin"),
            2 => cron("30 2 * * *", "America/New_York"),
            _ => Timing::Every {
                every_ms: 5_000 + self.seeds.below(100_000),
                anchor_ms: WALL_MS + self.seeds.below(1_000_000),
            },
        }
    }

    fn act(&mut self) {
        let name = self.seeds.below(3);
        match self.seeds.below(40) {
            0 => {
                let timing = self.timing();
                let until_ms = match self.seeds.below(2) {
                    0 => 0,
                    _ => self.wall() + self.seeds.below(86_400_000),
                };
                let catch_up = [CatchUp::Skip, CatchUp::One, CatchUp::All][self.seeds.below(3) as usize];
                self.put(name, timing, until_ms, catch_up);
            }
            1 if self.seeds.below(4) == 0 => {
                if self.slots.delete_schedule(&key(name)).is_ok() {
                    let is_applied = true;
                    self.step(Input::Scheduled {
                        key: key(name),
                        is_applied,
                    });
                }
            }
            2 => self.fail_over(),
            3 => {
                // For so long there is no leader.
                let ms = self.seeds.below(40_000_000);
                self.now_ms += ms;
                self.fail_over();
            }
            4 => {
                if let Some(fire) = self.pending.pop_back() {
                    let is_applied = false;
                    self.step(Input::Scheduled {
                        key: fire.key,
                        is_applied,
                    });
                }
            }
            5..=14 => _ = self.apply(),
            _ => {
                let ms = self.seeds.below(100_000);
                self.pass(ms);
            }
        }
    }

    /// Each occurrence at most once, in its order, at its time, and none is left out that the rule does not leave out.
    fn check(&self) {
        for (key, fired) in &self.fired {
            let mut seen = BTreeSet::new();
            for one in fired.iter().filter(|one| one.appends) {
                let planner = Planner::new(&self.timings[&one.version], 0).expect("it was put");
                assert!(seen.insert((one.version, one.at_ms)), "{key:?}: {one:?} is fired twice");
                assert_eq!(
                    planner.next_after(one.at_ms - 1),
                    Some(one.at_ms),
                    "{key:?}: {one:?} is none of its times"
                );
                assert!(one.at_ms <= one.now_ms, "{key:?}: {one:?} is before its time");
            }
            for pair in fired.windows(2).filter(|pair| pair[0].version == pair[1].version) {
                let planner = Planner::new(&self.timings[&pair[0].version], 0).expect("it was put");
                assert!(pair[0].at_ms < pair[1].at_ms, "{key:?}: {pair:?} are out of order");
                let next = planner.next_after(pair[0].at_ms).expect("it goes on");
                // One that is left out was late by more than a minute.
                let is_late = next + MINUTE_MS < pair[0].now_ms.max(pair[1].now_ms);
                assert!(
                    next == pair[1].at_ms || is_late,
                    "{key:?}: {next} between {pair:?} is left out"
                );
            }
        }
    }
}

#[test]
fn each_occurrence_is_fired_once_at_most_and_none_is_left_out() {
    let asked = std::env::var("QUEUE_HISTORIES").ok();
    let histories: u64 = asked.map_or(60, |asked| asked.parse().expect("QUEUE_HISTORIES is a number"));
    let mut fired = 0;
    for seed in 0..histories {
        let outcome = std::panic::catch_unwind(|| {
            let mut clockwork = Clockwork::new(seed);
            (0..300).for_each(|_| clockwork.act());
            clockwork.check();
            clockwork.fired.values().map(Vec::len).sum::<usize>() as u64
        });
        fired += outcome.unwrap_or_else(|_| panic!("history {seed}"));
    }
    assert!(fired > 50 * histories, "{fired} occurrences");
}

#[test]
fn a_schedule_that_catches_up_with_all_leaves_none_out_up_to_a_hundred() {
    let mut clockwork = Clockwork::new(1);
    let every = Timing::Every {
        every_ms: MINUTE_MS,
        anchor_ms: WALL_MS,
    };
    clockwork.put(1, every.clone(), 0, CatchUp::All);
    clockwork.put(2, every.clone(), 0, CatchUp::Skip);
    clockwork.put(3, every, 0, CatchUp::One);
    for _ in 0..10 {
        clockwork.pass(MINUTE_MS);
        while clockwork.apply() {}
    }
    clockwork.now_ms += 90 * MINUTE_MS;
    clockwork.fail_over();
    while clockwork.apply() {}
    clockwork.check();
    let count = |name: u64| clockwork.fired[&key(name)].iter().filter(|one| one.appends).count();
    assert_eq!(count(1), 100, "all of them");
    assert_eq!(
        (count(2), count(3)),
        (11, 12),
        "those of the last minute; and the last one that was missed"
    );
}

#[test]
fn what_is_due_before_the_clock_is_steady_is_fired_as_soon_as_it_is() {
    let mut clockwork = Clockwork::new(1);
    let every = Timing::Every {
        every_ms: 1_000,
        anchor_ms: clockwork.wall(),
    };
    // A broker has just begun: its clock is steady since now.
    clockwork.steady_since_ms = clockwork.now_ms;
    clockwork.put(1, every, 0, CatchUp::All);
    for _ in 0..40 {
        clockwork.pass(100);
        while clockwork.apply() {}
    }
    clockwork.check();
    let fired = &clockwork.fired[&key(1)];
    assert_eq!(fired.len(), 4, "nothing but time has woken the leader: {fired:?}");
}

#[test]
fn a_schedule_ends_and_is_gone_and_a_closed_queue_has_none() {
    let mut clockwork = Clockwork::new(1);
    let timing = |clockwork: &Clockwork| Timing::Every {
        every_ms: 1_000,
        anchor_ms: clockwork.wall(),
    };
    let end = clockwork.wall() + 3_500;
    clockwork.put(1, timing(&clockwork), end, CatchUp::All);
    clockwork.put(2, timing(&clockwork), 0, CatchUp::All);
    for _ in 0..10 {
        clockwork.pass(1_000);
        while clockwork.apply() {}
    }
    assert_eq!(
        (clockwork.fired[&key(1)].len(), clockwork.fired[&key(2)].len()),
        (3, 10)
    );
    assert_eq!(
        (clockwork.slots.schedules().len(), clockwork.slots.schedule(&key(1))),
        (1, None)
    );
    let context = clockwork.context();
    let ops = QueueOps {
        term: 1,
        ticket: 0,
        now_ms: 0,
        sections: vec![Section::Close { slot: SLOT }],
    };
    clockwork.slots.apply(&context, &ops, &());
    assert_eq!(clockwork.slots.schedules().len(), 0);
    let put = PutSchedule {
        key: key(1),
        timing: timing(&clockwork),
        until_ms: 0,
        catch_up: CatchUp::One,
        template: Bytes::new(),
        next_ms: 1,
    };
    let context = clockwork.context();
    assert_eq!(
        clockwork.slots.put_schedule(&context, &put),
        Err(ScheduleRefused::UnknownSlot)
    );
}
