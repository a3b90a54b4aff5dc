//! What may happen to a saga, and what must, said a second time and without its machine: a judge who sees every input and what came of it.

use std::collections::BTreeMap;

use jangada_patterns::eventsource::Aggregate as _;
use jangada_patterns::saga::{At, Event, Exhausted, Input, Outcome, Phase, Place, Reply, Retry, Saga, Way};

/// A command as the judge has seen it.
#[derive(Clone, Debug, Default)]
struct Seen {
    place: Place,
    /// Attempts in all.
    sent: u32,
    /// Attempts since somebody wanted it to be tried anew.
    counted: u32,
}

/// Sees all inputs of one saga in the order of its log.
#[derive(Default)]
pub struct Judge {
    saga: Saga,
    seen: BTreeMap<(usize, Way), Seen>,
}

/// What an input says of one command, if it says anything: done, or failed with whether it may be tried again.
fn answer_of<'i>(input: &'i Input, saga: &Saga, (step, way): (usize, Way)) -> Option<(&'i Reply, Option<bool>)> {
    let Input::Reply(reply) = input else { return None };
    if saga.definition.index_of(&reply.step) != Some(step) || reply.way != way {
        return None;
    }
    let failed = match &reply.outcome {
        Outcome::Done(_) => None,
        Outcome::Failed { again, .. } => Some(*again),
    };
    Some((reply, failed))
}

/// A timer as a tick: at the time that it names, if something of the saga ends then.
fn as_a_tick(saga: &Saga, at: &At) -> At {
    let Input::Due(at_ms) = at.input else {
        return at.clone();
    };
    let ends_at = |place: &Place| match *place {
        Place::Out { deadline_ms: ends } | Place::Waiting { again_ms: ends } => ends == at_ms,
        Place::Idle | Place::Done | Place::Failed => false,
    };
    let mut legs = saga.steps.iter().flat_map(|step| [&step.doing, &step.undoing]);
    let now_ms = match legs.any(|leg| ends_at(&leg.place)) {
        true => at.now_ms.max(at_ms),
        false => at.now_ms,
    };
    At {
        now_ms,
        input: Input::Tick,
    }
}

impl Judge {
    /// Judges what an input has brought about, on the state that it came to.
    pub fn sees(&mut self, at: &At, events: &[Event]) {
        let before = self.saga.clone();
        let at = &as_a_tick(&before, at);
        for event in events {
            self.may(at, event);
            self.saga.apply(event);
            self.note(event);
        }
        self.must(&before, at, events);
        self.holds();
    }

    fn of(&self, step: usize, way: Way) -> Seen {
        self.seen.get(&(step, way)).cloned().unwrap_or_default()
    }

    fn retry(&self, step: usize, way: Way) -> Retry {
        let known = &self.saga.definition.steps[step];
        match way {
            Way::Do => known.retry,
            Way::Undo => known.undo_retry,
        }
    }

    /// The event is one that may happen now.
    fn may(&self, at: &At, event: &Event) {
        let (saga, input) = (&self.saga, &at.input);
        match event {
            Event::Started { .. } => {
                assert!(matches!(input, Input::Start { .. }) && saga.phase == Phase::Unknown);
                return;
            }
            _ => assert!(saga.way().is_some(), "{event:?} of a saga that goes nowhere"),
        }
        match *event {
            Event::Started { .. } => {}
            Event::Sent {
                step,
                way,
                attempt,
                deadline_ms,
            } => {
                self.may_be_sent(at, (step, way));
                assert_eq!(attempt, self.of(step, way).sent + 1, "the number of the attempt");
                assert_eq!(deadline_ms, at.now_ms + saga.definition.steps[step].timeout_ms);
            }
            Event::Done { step, way, .. } => {
                let seen = self.of(step, way);
                assert!(seen.sent > 0 && seen.place != Place::Done && saga.way() == Some(way));
                let answer = answer_of(input, saga, (step, way));
                assert!(matches!(answer, Some((_, None))), "nobody said that it is done");
            }
            Event::Postponed {
                step, way, again_ms, ..
            } => {
                assert!(self.failed_for_good(at, (step, way)).is_none(), "no attempt is left");
                let wait_ms = self.retry(step, way).wait_ms(self.of(step, way).counted);
                assert_eq!(again_ms, at.now_ms + wait_ms);
            }
            Event::Failed { step, way, .. } => {
                assert!(self.failed_for_good(at, (step, way)).is_some(), "attempts are left");
            }
            Event::TurnedBack { .. } => {
                assert_eq!(saga.phase, Phase::Forward);
                let failed = (0..saga.steps.len()).filter(|step| self.of(*step, Way::Do).place == Place::Failed);
                let mut failed = failed.filter(|step| !self.sticks(at, *step));
                assert!(
                    matches!(input, Input::Abort(_)) || failed.next().is_some(),
                    "without a reason"
                );
            }
            Event::Stuck { step } => {
                let way = saga.way().expect("it goes somewhere");
                assert_eq!(self.of(step, way).place, Place::Failed);
                assert!(way == Way::Undo || self.sticks(at, step), "it would have turned back");
            }
            Event::Retried => assert!(*input == Input::Retry && saga.stuck.is_some()),
            Event::Completed => {
                let is_done = |step| self.of(step, Way::Do).place == Place::Done;
                assert!(saga.phase == Phase::Forward && (0..saga.steps.len()).all(is_done));
            }
            Event::Compensated => assert!(saga.phase == Phase::Backward && self.left_to_undo().next().is_none()),
        }
    }

    fn may_be_sent(&self, at: &At, (step, way): (usize, Way)) {
        let (saga, seen) = (&self.saga, self.of(step, way));
        assert_eq!(saga.way(), Some(way));
        assert!(
            seen.counted < self.retry(step, way).attempts,
            "more attempts than allowed"
        );
        match seen.place {
            Place::Idle => {}
            Place::Waiting { again_ms } => assert!(again_ms <= at.now_ms || at.input == Input::Retry, "too early"),
            place => panic!("step {step} is sent while it is {place:?}"),
        }
        if way == Way::Do {
            let stages = saga.definition.stages();
            let mut before = stages.take_while(|stage| stage.end <= step).flatten();
            assert!(before.all(|step| self.of(step, Way::Do).place == Place::Done));
        } else {
            assert_eq!(
                self.left_to_undo().last(),
                Some(step),
                "the last one that is left comes first"
            );
        }
    }

    /// The steps that were ever sent, can be undone, and are not, in their order.
    fn left_to_undo(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.saga.steps.len()).filter(|step| {
            let undoable = self.saga.definition.steps[*step].undoable;
            undoable && self.of(*step, Way::Do).sent > 0 && self.of(*step, Way::Undo).place != Place::Done
        })
    }

    /// The last attempt of a command has failed by this input. Some: it was its last one, or refused for good.
    fn failed_for_good(&self, at: &At, (step, way): (usize, Way)) -> Option<()> {
        let seen = self.of(step, way);
        let Place::Out { deadline_ms } = seen.place else {
            panic!("step {step} fails while it is {:?}", seen.place);
        };
        let again = match answer_of(&at.input, &self.saga, (step, way)) {
            Some((reply, failed)) => {
                assert_eq!(reply.attempt, seen.sent, "an earlier attempt failed");
                failed.expect("it was done")
            }
            None => {
                assert_eq!(at.input, Input::Tick, "nobody said that it failed");
                assert!(deadline_ms <= at.now_ms, "its time is not over");
                true
            }
        };
        (!again || seen.counted >= self.retry(step, way).attempts).then_some(())
    }

    /// Whether a step that has failed by this input leaves the saga stuck.
    fn sticks(&self, at: &At, step: usize) -> bool {
        let is_refused = matches!(
            answer_of(&at.input, &self.saga, (step, Way::Do)),
            Some((_, Some(false)))
        );
        self.saga.definition.steps[step].exhausted == Exhausted::Stick && !is_refused
    }

    fn note(&mut self, event: &Event) {
        let way_now = self.saga.way();
        let mut put = |(step, way): (usize, Way), place| self.seen.entry((step, way)).or_default().place = place;
        match *event {
            Event::Sent {
                step, way, deadline_ms, ..
            } => {
                put((step, way), Place::Out { deadline_ms });
                let seen = self.seen.entry((step, way)).or_default();
                (seen.sent, seen.counted) = (seen.sent + 1, seen.counted + 1);
            }
            Event::Done { step, way, .. } => put((step, way), Place::Done),
            Event::Postponed {
                step, way, again_ms, ..
            } => put((step, way), Place::Waiting { again_ms }),
            Event::Failed { step, way, .. } => put((step, way), Place::Failed),
            Event::Retried => {
                for ((_, way), seen) in &mut self.seen {
                    if Some(*way) == way_now && seen.place == Place::Failed {
                        (seen.place, seen.counted) = (Place::Waiting { again_ms: 0 }, 0);
                    }
                }
            }
            Event::Started { .. }
            | Event::TurnedBack { .. }
            | Event::Stuck { .. }
            | Event::Completed
            | Event::Compensated => {}
        }
    }

    /// The input has brought about what it must.
    fn must(&self, before: &Saga, at: &At, events: &[Event]) {
        let has = |is_it: fn(&Event) -> bool| events.iter().any(is_it);
        match &at.input {
            Input::Start { .. } => assert_eq!(
                has(|event| matches!(event, Event::Started { .. })),
                before.phase == Phase::Unknown
            ),
            Input::Abort(_) => assert_eq!(
                has(|event| matches!(event, Event::TurnedBack { .. })),
                before.phase == Phase::Forward,
                "an abort turns back what goes forward"
            ),
            Input::Retry => assert_eq!(has(|event| *event == Event::Retried), before.stuck.is_some()),
            Input::Tick | Input::Due(_) => {
                let due_ms = self.saga.next_due_ms();
                assert!(due_ms.is_none_or(|due| due > at.now_ms), "something is due still");
            }
            Input::Reply(reply) => {
                let Some(step) = before.definition.index_of(&reply.step) else {
                    return;
                };
                let leg = before.steps[step].leg(reply.way);
                let is_wanted = before.way() == Some(reply.way) && leg.attempt > 0 && leg.place != Place::Done;
                let is_last = matches!(leg.place, Place::Out { .. }) && leg.attempt == reply.attempt;
                let counts = match reply.outcome {
                    Outcome::Done(_) => is_wanted,
                    Outcome::Failed { .. } => is_wanted && is_last,
                };
                assert_eq!(!events.is_empty(), counts, "{reply:?} on {leg:?}");
            }
        }
    }

    /// The state is that of the events, and somebody is at it, or knows where it is stuck.
    fn holds(&self) {
        let saga = &self.saga;
        for ((step, way), seen) in &self.seen {
            let leg = saga.steps[*step].leg(*way);
            assert_eq!(
                (&leg.place, leg.attempt, leg.attempts()),
                (&seen.place, seen.sent, seen.counted),
                "step {step}"
            );
        }
        let Some(way) = saga.way() else { return };
        let has_failed = |step: &usize| self.of(*step, way).place == Place::Failed;
        let mut failed = (0..saga.steps.len()).filter(has_failed);
        match saga.stuck {
            Some(step) => assert!(has_failed(&step), "it is stuck at step {step}, which goes its way"),
            None => {
                assert_eq!(failed.next(), None, "a step has failed, and the saga does not say so");
                assert!(saga.next_due_ms().is_some(), "nobody is at it: {saga:?}");
            }
        }
    }
}
