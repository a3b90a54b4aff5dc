//! One saga at a time, with a clock of its own: what each input brings about.

use jangada_patterns::eventsource::Aggregate as _;
use jangada_patterns::saga::{
    At, Definition, Event, Exhausted, Input, Outcome, Output, Phase, Place, Reply, Retry, Saga, Step, Way,
};
use serde_json::{Value, json};

/// A saga that is told the time.
#[derive(Clone, Default)]
struct Told {
    saga: Saga,
    now_ms: u64,
}

impl Told {
    fn started(definition: Definition) -> Self {
        let mut told = Self::default();
        let input = Value::Null;
        told.takes(Input::Start { definition, input });
        told
    }

    fn takes(&mut self, input: Input) -> Vec<Event> {
        let now_ms = self.now_ms;
        let events = self.saga.handle(&At { now_ms, input }).expect("it is not refused");
        for event in &events {
            self.saga.apply(event);
        }
        events
    }

    fn refuses(&self, input: Input) -> String {
        let now_ms = self.now_ms;
        let refused = self.saga.handle(&At { now_ms, input });
        refused.expect_err("it is refused").to_string()
    }

    fn hears(&mut self, step: &str, (way, attempt): (Way, u32), outcome: Outcome) -> Vec<Event> {
        self.takes(reply(step, (way, attempt), outcome))
    }

    /// The time at which something is due next comes.
    fn waits(&mut self) -> Vec<Event> {
        self.now_ms = self.saga.next_due_ms().expect("something is due");
        self.takes(Input::Tick)
    }

    /// The commands that are out, as if a process had died.
    fn out(&self) -> Vec<(usize, Way, u32)> {
        commands(&self.saga.outstanding())
    }
}

fn reply(step: &str, (way, attempt): (Way, u32), outcome: Outcome) -> Input {
    let (saga, step) = ("saga-1".to_owned(), step.to_owned());
    Input::Reply(Reply {
        saga,
        step,
        way,
        attempt,
        outcome,
    })
}

fn commands(outputs: &[Output]) -> Vec<(usize, Way, u32)> {
    let commands = outputs.iter().filter_map(|output| match output {
        Output::Command { step, way, attempt } => Some((*step, *way, *attempt)),
        Output::Timer(_) => None,
    });
    commands.collect()
}

fn done() -> Outcome {
    Outcome::Done(json!("done"))
}

fn step(name: &str, timeout_ms: u64, attempts: u32) -> Step {
    let retry = Retry {
        attempts,
        first_ms: 20,
        most_ms: 60,
    };
    let mut step = Step::new(name, "work").with_retry(retry);
    (step.timeout_ms, step.undo_retry) = (timeout_ms, retry);
    step
}

/// Two steps at the same time, which stick, before a third one.
fn forked() -> Definition {
    Definition::new("forked")
        .then_all([step("a", 100, 2).sticks(), step("b", 100, 2).sticks()])
        .then(step("c", 100, 2))
}

#[test]
fn a_time_out_that_fires_after_the_answer_changes_nothing() {
    let mut told = Told::started(Definition::new("one").then(step("a", 100, 1)).then(step("b", 100, 1)));
    told.now_ms = 99;
    told.hears("a", (Way::Do, 1), done());
    told.now_ms = 150;
    assert_eq!(told.takes(Input::Tick), []);
    assert_eq!(told.out(), [(1, Way::Do, 1)]);
}

#[test]
fn an_attempt_has_all_its_time_and_its_timer_comes_then() {
    let mut told = Told::started(Definition::new("one").then(step("a", 100, 2)));
    let timers = |outputs: Vec<Output>| outputs.into_iter().find(|output| matches!(output, Output::Timer(_)));
    assert_eq!(timers(told.saga.outstanding()), Some(Output::Timer(100)));
    told.now_ms = 99;
    assert_eq!(told.takes(Input::Tick), []);
    told.now_ms = 100;
    let postponed = told.takes(Input::Tick);
    assert_eq!(
        told.saga.outputs(&postponed),
        [Output::Timer(120)],
        "after the wait of the first attempt"
    );
    assert_eq!(told.saga.outstanding(), [Output::Timer(120)]);
}

#[test]
fn an_earlier_attempt_that_fails_changes_nothing_and_one_that_is_done_counts() {
    let mut told = Told::started(Definition::new("one").then(step("a", 100, 3)));
    told.waits();
    assert_eq!(
        told.hears("a", (Way::Do, 1), Outcome::refused("full")),
        [],
        "it waits for the next attempt"
    );
    told.waits();
    assert_eq!(told.out(), [(0, Way::Do, 2)]);
    assert_eq!(
        told.hears("a", (Way::Do, 1), Outcome::refused("full")),
        [],
        "the second one is out"
    );
    told.hears("a", (Way::Do, 1), done());
    assert_eq!(told.saga.phase, Phase::Completed);
    assert_eq!(told.saga.results()["a"], json!("done"));
}

#[test]
fn attempts_count_over_a_snapshot_and_anew_after_a_retry() {
    let mut told = Told::started(Definition::new("one").then(step("a", 100, 2).sticks()));
    for round in 0..3 {
        for attempt in 1..=2 {
            assert_eq!(told.out(), [(0, Way::Do, 2 * round + attempt)]);
            let text = serde_json::to_vec(&told.saga).expect("it is JSON");
            told.saga = serde_json::from_slice(&text).expect("it is read");
            told.waits();
            if attempt == 1 {
                told.waits();
            }
        }
        assert_eq!(told.saga.stuck, Some(0), "two attempts are all");
        told.takes(Input::Retry);
    }
}

#[test]
fn of_two_steps_that_fail_both_are_tried_again_and_nothing_else() {
    let mut told = Told::started(forked());
    for step in ["a", "b"] {
        told.hears(step, (Way::Do, 1), Outcome::failed("busy"));
    }
    told.waits();
    told.hears("b", (Way::Do, 2), Outcome::failed("busy"));
    assert_eq!(told.saga.stuck, Some(1));
    told.hears("a", (Way::Do, 2), Outcome::failed("busy"));
    let both = told.saga.steps.iter().filter(|step| step.doing.place == Place::Failed);
    assert_eq!(both.count(), 2);
    told.takes(Input::Retry);
    assert_eq!(
        (told.saga.stuck, told.out()),
        (None, vec![(0, Way::Do, 3), (1, Way::Do, 3)])
    );
}

#[test]
fn a_saga_that_is_stuck_goes_on_where_it_was() {
    let mut told = Told::started(forked());
    told.hears("a", (Way::Do, 1), done());
    told.hears("b", (Way::Do, 1), Outcome::failed("busy"));
    told.waits();
    told.hears("b", (Way::Do, 2), Outcome::failed("busy"));
    assert_eq!((told.saga.stuck, told.out()), (Some(1), vec![]));
    told.takes(Input::Retry);
    assert_eq!(told.out(), [(1, Way::Do, 3)], "what is done stays done");
    told.hears("b", (Way::Do, 2), done());
    assert_eq!(told.out(), [(2, Way::Do, 1)], "an attempt from before counts");
}

#[test]
fn one_of_two_that_are_stuck_is_done_late_and_the_other_one_is_named() {
    let mut told = Told::started(forked());
    for attempt in 1..=2 {
        for step in ["a", "b"] {
            told.hears(step, (Way::Do, attempt), Outcome::failed("busy"));
        }
        if attempt == 1 {
            told.waits();
        }
    }
    assert_eq!(told.saga.stuck, Some(1));
    told.hears("b", (Way::Do, 1), done());
    assert_eq!((told.saga.stuck, told.out()), (Some(0), vec![]));
}

#[test]
fn an_abort_undoes_what_was_ever_sent_the_last_first_one_at_a_time() {
    let mut told = Told::started(
        Definition::new("all")
            .then(step("first", 100, 2))
            .then_all([
                step("done", 100, 2),
                step("stays", 100, 2).without_undo(),
                step("out", 100, 2),
            ])
            .then(step("never", 100, 2)),
    );
    told.hears("first", (Way::Do, 1), done());
    told.hears("done", (Way::Do, 1), done());
    told.hears("stays", (Way::Do, 1), done());
    told.takes(Input::Abort("enough".to_owned()));
    assert_eq!(told.saga.turned_back.as_deref(), Some("aborted: enough"));
    assert_eq!(told.out(), [(3, Way::Undo, 1)], "it may come to its worker late");
    assert_eq!(told.hears("out", (Way::Do, 1), done()), [], "it is too late");
    told.hears("out", (Way::Undo, 1), Outcome::failed("busy"));
    assert_eq!(told.out(), [], "nothing is undone before it");
    told.waits();
    told.hears("out", (Way::Undo, 2), Outcome::Done(json!("undone")));
    assert_eq!(told.out(), [(1, Way::Undo, 1)]);
    told.hears("done", (Way::Undo, 1), Outcome::Done(json!("undone")));
    assert_eq!(told.out(), [(0, Way::Undo, 1)]);
    let events = told.hears("first", (Way::Undo, 1), Outcome::Done(json!("undone")));
    assert_eq!(events.last(), Some(&Event::Compensated));
    assert_eq!(
        told.saga.results()["done"],
        json!("done"),
        "what an undoing gives is no result"
    );
}

#[test]
fn an_undoing_that_fails_as_often_as_it_may_is_stuck_and_no_abort_passes_over_it() {
    let mut told = Told::started(Definition::new("one").then(step("a", 100, 1)));
    told.hears("a", (Way::Do, 1), Outcome::refused("full"));
    assert_eq!(
        told.out(),
        [(0, Way::Undo, 1)],
        "a worker that has refused may get the command again"
    );
    told.hears("a", (Way::Undo, 1), Outcome::failed("busy"));
    assert_eq!(told.saga.stuck, Some(0));
    assert!(
        told.refuses(Input::Abort("enough".to_owned()))
            .contains("turned back already")
    );
    told.takes(Input::Retry);
    told.hears("a", (Way::Undo, 2), done());
    assert_eq!(told.saga.phase, Phase::Compensated);
}

#[test]
fn a_stuck_saga_that_is_aborted_goes_back_and_is_stuck_no_more() {
    let mut told = Told::started(Definition::new("one").then(step("a", 100, 1).sticks()));
    told.waits();
    assert_eq!(told.saga.stuck, Some(0));
    told.takes(Input::Abort("enough".to_owned()));
    assert_eq!((told.saga.stuck, told.out()), (None, vec![(0, Way::Undo, 1)]));
    let mut refused = Told::started(Definition::new("one").then(step("a", 100, 1).sticks()));
    refused.hears("a", (Way::Do, 1), Outcome::refused("full"));
    assert_eq!(
        refused.saga.phase,
        Phase::Backward,
        "for what is refused for good no attempt is of use"
    );
}

#[test]
fn a_saga_that_has_ended_stays_so() {
    let one = || Definition::new("one").then(step("a", 100, 1));
    let mut completed = Told::started(one());
    completed.hears("a", (Way::Do, 1), done());
    let mut compensated = Told::started(one());
    compensated.hears("a", (Way::Do, 1), Outcome::refused("full"));
    compensated.hears("a", (Way::Undo, 1), done());
    for mut told in [completed, compensated] {
        let ended = told.saga.clone();
        assert!(ended.phase.is_over());
        told.now_ms = 1_000_000;
        let start = Input::Start {
            definition: forked(),
            input: json!("another"),
        };
        let (late, failed) = (Outcome::Done(json!("late")), Outcome::failed("busy"));
        for input in [
            start,
            Input::Tick,
            reply("a", (Way::Do, 1), late.clone()),
            reply("a", (Way::Do, 1), failed.clone()),
            reply("a", (Way::Undo, 1), late),
            reply("a", (Way::Undo, 1), failed),
        ] {
            assert_eq!(told.takes(input), []);
        }
        assert!(told.refuses(Input::Retry).contains("it is over"));
        assert!(told.refuses(Input::Abort("why".to_owned())).contains("it is over"));
        assert_eq!((&told.saga, told.saga.outstanding()), (&ended, vec![]));
    }
}

#[test]
fn what_a_process_left_undone_is_put_out_whatever_its_message_brings_about_when_it_comes_again() {
    let two = Definition::new("two").then_all([step("brief", 50, 5), step("long", 1_000, 1)]);
    let mut told = Told::started(Definition::new("three").then(step("before", 50, 5)).then_all(two.steps));
    let events = told.hears("before", (Way::Do, 1), done());
    let both = [(1, Way::Do, 1), (2, Way::Do, 1)];
    assert_eq!(commands(&told.saga.to_put_out(&events, false)), both);
    // The process has died before it has put out anything. When a message comes again, the time of one step is over.
    told.now_ms = 60;
    let events = told.takes(Input::Tick);
    assert!(matches!(&*events, [Event::Postponed { step: 1, .. }]), "{events:?}");
    assert_eq!(commands(&told.saga.to_put_out(&events, false)), []);
    let outputs = told.saga.to_put_out(&events, true);
    assert_eq!(commands(&outputs), [(2, Way::Do, 1)], "its only attempt never went out");
    assert!(outputs.contains(&Output::Timer(1_000)) && outputs.contains(&Output::Timer(80)));
}

#[test]
fn a_wish_that_was_granted_is_refused_when_it_comes_again_and_its_command_is_outstanding() {
    let mut told = Told::started(Definition::new("one").then(step("a", 100, 1)));
    let wish = Input::Abort("enough".to_owned());
    told.takes(wish.clone());
    assert!(told.refuses(wish).contains("turned back already"));
    assert_eq!(commands(&told.saga.to_put_out(&[], true)), [(0, Way::Undo, 1)]);
}

#[test]
fn a_timer_that_nobody_has_set_ends_nothing_before_its_time() {
    let mut told = Told::started(Definition::new("two").then_all([step("a", 100, 1), step("b", 200, 1)]));
    for foreign in [0, 99, 101, 150, u64::MAX] {
        assert_eq!(told.takes(Input::Due(foreign)), [], "{foreign}");
    }
    assert_eq!(told.saga.next_due_ms(), Some(100));
    // The clock here is behind that of the queue's leader.
    let events = told.takes(Input::Due(100));
    assert!(matches!(&*events, [Event::Failed { step: 0, .. }, ..]), "{events:?}");
}

#[test]
fn events_of_steps_that_a_saga_has_not_change_nothing() {
    let told = Told::started(Definition::new("one").then(step("a", 100, 1)));
    let (way, reason) = (Way::Do, "foreign".to_owned());
    for step in [1, usize::MAX] {
        let (attempt, deadline_ms, again_ms, result) = (u32::MAX, 7, 8, Value::Null);
        let events = [
            Event::Sent {
                step,
                way,
                attempt,
                deadline_ms,
            },
            Event::Done { step, way, result },
            Event::Postponed {
                step,
                way,
                reason: reason.clone(),
                again_ms,
            },
            Event::Failed {
                step,
                way,
                reason: reason.clone(),
            },
            Event::Stuck { step },
        ];
        for event in events {
            for mut saga in [told.saga.clone(), Saga::default()] {
                let before = saga.clone();
                saga.apply(&event);
                assert_eq!(saga, before, "{event:?}");
            }
        }
    }
}

#[test]
fn a_foreign_number_of_an_attempt_overflows_nothing() {
    let mut told = Told::started(Definition::new("one").then(step("a", 100, 1).sticks()));
    let sent = |attempt| Event::Sent {
        step: 0,
        way: Way::Do,
        attempt,
        deadline_ms: 5,
    };
    told.saga.apply(&sent(u32::MAX));
    told.now_ms = 10;
    told.takes(Input::Tick);
    told.takes(Input::Retry);
    told.saga.apply(&sent(1));
    assert_eq!(told.saga.steps[0].doing.attempts(), 0, "fewer than were forgiven");
}

#[test]
fn a_time_without_end_in_an_old_log_overflows_nothing() {
    let mut told = Told::default();
    let mut definition = Definition::new("one").then(step("a", u64::MAX, 2).sticks());
    definition.steps[0].retry.most_ms = u64::MAX;
    definition.steps[0].retry.first_ms = u64::MAX;
    told.saga.apply(&Event::Started {
        definition,
        input: Value::Null,
    });
    let sent = Event::Sent {
        step: 0,
        way: Way::Do,
        attempt: 1,
        deadline_ms: 5,
    };
    told.saga.apply(&sent);
    told.now_ms = 10;
    told.takes(Input::Tick);
    told.takes(Input::Retry);
    assert_eq!(told.saga.next_due_ms(), Some(u64::MAX));
}

#[test]
fn only_a_step_that_is_to_stick_does() {
    assert_eq!(Step::new("a", "work").exhausted, Exhausted::TurnBack);
    let mut told = Told::started(Definition::new("one").then(step("a", 100, 1)));
    told.waits();
    assert_eq!((told.saga.phase, told.saga.stuck), (Phase::Backward, None));
}

#[test]
fn an_operator_is_told_why_not() {
    let saga = Saga::default();
    let refused = |saga: &Saga, input| saga.handle(&At { now_ms: 0, input }).expect_err("refused").to_string();
    assert_eq!(refused(&saga, Input::Retry), "there is no such saga");
    assert_eq!(refused(&saga, Input::Abort("why".to_owned())), "there is no such saga");
    let start = |definition| Input::Start {
        definition,
        input: json!(null),
    };
    assert!(refused(&saga, start(Definition::new("empty"))).contains("no steps"));
    let twice = Definition::new("twice")
        .then(Step::new("a", "q"))
        .then(Step::new("a", "q"));
    assert!(refused(&saga, start(twice)).contains("two steps named \"a\""));
    let mut running = Saga::default();
    let one = Definition::new("one").then(Step::new("a", "q"));
    for event in saga
        .handle(&At {
            now_ms: 0,
            input: start(one),
        })
        .expect("it begins")
    {
        running.apply(&event);
    }
    assert!(refused(&running, Input::Retry).contains("none of its commands has failed"));
}
