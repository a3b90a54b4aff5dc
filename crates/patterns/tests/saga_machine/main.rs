//! The saga's machine in a world in which everything that may go wrong does: messages come twice, late and in any order, processes die
//! between any two of their effects, two orchestrators decide at the same time on the same state, clocks differ. A judge says of
//! each input what may come of it, and what must. At the end the world becomes friendly, and then every saga has ended, completed whole or
//! compensated whole, with each effect made at most once.

mod laws;
mod scenarios;
mod world;

use std::collections::BTreeMap;

use jangada_patterns::eventsource::{Aggregate as _, Stream};
use jangada_patterns::saga::{At, Definition, Effect, Event, Exhausted, Input, Retry, Saga, Step};
use proptest::prelude::*;

use world::{TURNS, ToOrchestrator, World};

fn step(name: String, (kind, attempts, timeout_ms): (u8, u32, u64)) -> Step {
    let retry = Retry {
        attempts,
        first_ms: 20,
        most_ms: 60,
    };
    let mut step = Step::new(name, "work").with_retry(retry);
    step.timeout_ms = timeout_ms;
    step.undo_retry = Retry { attempts: 2, ..retry };
    match kind {
        0 => step.exhausted = Exhausted::Stick,
        1 => step.undoable = false,
        _ => {}
    }
    step
}

/// Up to four stages of up to three steps, some with little time, so that timers come in another order than commands.
fn definitions() -> impl Strategy<Value = Definition> {
    let stage = prop::collection::vec((0_u8..6, 1_u32..4, 40_u64..400), 1..4);
    prop::collection::vec(stage, 1..5).prop_map(|stages| {
        let mut definition = Definition::new("test");
        for (stage, steps) in stages.into_iter().enumerate() {
            let steps = steps.into_iter().enumerate();
            definition = definition.then_all(steps.map(|(at, kind)| step(format!("{stage}-{at}"), kind)));
        }
        definition
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, ..ProptestConfig::default() })]

    #[test]
    fn every_saga_ends_whole_whatever_happens(seed in any::<u64>(), definition in definitions()) {
        let mut world = World::new(seed, definition);
        for _ in 0..TURNS {
            world.turn();
        }
        world.end();
        world.check_end();
    }

    #[test]
    fn what_comes_again_after_it_was_taken_in_changes_nothing(seed in any::<u64>(), definition in definitions()) {
        let mut world = World::new(seed, definition);
        let mut taken: Vec<Input> = Vec::new();
        for _ in 0..TURNS {
            let replies = world.inbox.iter().filter_map(|message| match &message.body {
                ToOrchestrator::Input(input @ (Input::Reply(_) | Input::Start { .. })) => Some(input.clone()),
                _ => None,
            });
            taken.extend(replies);
            world.turn();
        }
        world.end();
        let ended = world.saga();
        for input in taken {
            let events = ended.handle(&At { now_ms: world.now_ms, input }).expect("it is only late");
            prop_assert_eq!(events, Vec::new());
        }
    }

    #[test]
    fn a_snapshot_is_the_state(seed in any::<u64>(), definition in definitions()) {
        let mut world = World::new(seed, definition);
        for _ in 0..TURNS {
            world.turn();
        }
        let stream = world.stream(0);
        let text = serde_json::to_vec(&stream).expect("it is JSON");
        prop_assert_eq!(serde_json::from_slice::<Stream<Saga>>(&text).expect("it is read"), stream);
    }
}

/// Both ends come up, or the property would say little.
#[test]
fn the_world_leads_to_both_ends_and_through_every_trouble() {
    let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
    for seed in 0..400 {
        let definition = Definition::new("trip")
            .then(step("flight".to_owned(), (3, 3, 120)))
            .then_all(["hotel", "car"].map(|name| step(name.to_owned(), (3, 3, 120))))
            .then(step("mail".to_owned(), (0, 2, 120)));
        let mut world = World::new(seed, definition);
        for _ in 0..TURNS {
            world.turn();
        }
        world.end();
        world.check_end();
        for commit in &world.log {
            for event in &commit.events {
                let name = match event {
                    Event::Postponed { .. } => "postponed",
                    Event::Stuck { .. } => "stuck",
                    Event::Retried => "retried",
                    Event::TurnedBack { .. } => "turned back",
                    Event::Completed => "completed",
                    Event::Compensated => "compensated",
                    _ => "others",
                };
                *seen.entry(name).or_default() += 1;
            }
        }
        let barred = world.ledger.iter().any(|(_, effect)| *effect == Effect::Barred);
        *seen.entry("barred").or_default() += u32::from(barred);
    }
    for name in [
        "postponed",
        "stuck",
        "retried",
        "turned back",
        "completed",
        "compensated",
        "barred",
    ] {
        assert!(
            seen.get(name).is_some_and(|times| *times >= 3),
            "{name} hardly comes up: {seen:?}"
        );
    }
}
