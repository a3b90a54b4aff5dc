//! Orchestrators, workers and queues of one saga, driven by a seed. Everything that may go wrong does, until the world becomes friendly.

use std::collections::BTreeMap;

use jangada_patterns::eventsource::{Commit, Decision, Stream};
use jangada_patterns::saga::{
    At, Definition, Effect, Event, Input, Judgement, Ledger, Outcome, Output, Phase, Place, Reply, Saga, StepCommand,
    Way,
};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;

use crate::laws::Judge;

const SAGA: &str = "saga-1";
/// Turns of the world until it becomes friendly.
pub const TURNS: usize = 160;
/// More than any saga needs then.
const FRIENDLY_TURNS: usize = 4_000;

/// A message of a queue, which stays until it is acknowledged.
#[derive(Clone, Debug)]
pub struct Message<T> {
    pub body: T,
    not_before_ms: u64,
    is_repeated: bool,
}

/// What goes to the orchestrators.
#[derive(Clone, Debug)]
pub enum ToOrchestrator {
    Input(Input),
    Due(u64),
}

/// What was done to the world, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Made {
    Effect(String),
    Undone(String),
}

pub struct World {
    random: StdRng,
    pub now_ms: u64,
    pub log: Vec<Commit<Event>>,
    pub inbox: Vec<Message<ToOrchestrator>>,
    commands: Vec<Message<StepCommand>>,
    pub ledger: Ledger,
    made: Vec<Made>,
    judge: Judge,
    is_friendly: bool,
}

impl World {
    pub fn new(seed: u64, definition: Definition) -> Self {
        let start = Input::Start {
            definition,
            input: json!({ "seed": seed }),
        };
        let mut world = Self {
            random: StdRng::seed_from_u64(seed),
            now_ms: 1_000,
            log: Vec::new(),
            inbox: Vec::new(),
            commands: Vec::new(),
            ledger: Ledger::default(),
            made: Vec::new(),
            judge: Judge::default(),
            is_friendly: false,
        };
        world.tell(ToOrchestrator::Input(start), 0);
        world
    }

    fn chance(&mut self, of_100: u32) -> bool {
        !self.is_friendly && self.random.random_range(0..100) < of_100
    }

    pub fn tell(&mut self, body: ToOrchestrator, not_before_ms: u64) {
        self.inbox.push(Message {
            body,
            not_before_ms,
            is_repeated: false,
        });
    }

    /// The stream as somebody has read it who is so many commits behind.
    pub fn stream(&self, behind: usize) -> Stream<Saga> {
        let mut stream = Stream::default();
        for (offset, commit) in self.log[..self.log.len() - behind].iter().enumerate() {
            stream.apply(offset as i64, commit, 0);
        }
        stream
    }

    pub fn saga(&self) -> Saga {
        self.stream(0).state
    }

    /// Takes a message whose time has come; most of the time it goes away when it was worked on, else it comes again.
    fn due<T>(messages: &[Message<T>], now_ms: u64, random: &mut StdRng) -> Option<usize> {
        let due: Vec<usize> = (0..messages.len())
            .filter(|at| messages[*at].not_before_ms <= now_ms)
            .collect();
        (!due.is_empty()).then(|| due[random.random_range(0..due.len())])
    }

    fn orchestrate(&mut self) {
        let Some(at) = Self::due(&self.inbox, self.now_ms, &mut self.random) else {
            return;
        };
        let message = self.inbox[at].clone();
        // What another orchestrator has appended since is not known here yet.
        let mut behind = if self.chance(20) { self.log.len().min(2) } else { 0 };
        // No two clocks are the same.
        let ahead_ms = if self.chance(10) {
            self.random.random_range(0..80)
        } else {
            0
        };
        let clock_ms = self.now_ms + ahead_ms;
        let (input, now_ms) = match message.body.clone() {
            ToOrchestrator::Input(input) => (input, clock_ms),
            ToOrchestrator::Due(at_ms) => (Input::Due(at_ms), clock_ms),
        };
        let (mut attempts, mut is_refused) = (0, false);
        let events = loop {
            attempts += 1;
            let stream = self.stream(behind);
            let at = At {
                now_ms,
                input: input.clone(),
            };
            match stream.decide("", &at) {
                // An old state may say so, and nothing else would notice: the repository reads up to the end first.
                Err(_) | Ok(Decision::Nothing) if behind > 0 => behind = 0,
                // A person's wish may be refused: he is told.
                refused @ (Err(_) | Ok(Decision::Known | Decision::Nothing)) => {
                    self.judge.sees(&at, &[]);
                    is_refused = refused.is_err();
                    break Vec::new();
                }
                Ok(Decision::Append(expected, commit)) => {
                    let end = self.log.len() as i64 - 1;
                    if expected.unwrap_or(-1) != end {
                        behind = 0;
                        continue;
                    }
                    self.log.push(commit.clone());
                    self.judge.sees(&at, &commit.events);
                    // The answer is lost: it is decided anew, on the state with the events.
                    if self.chance(5) {
                        behind = 0;
                        continue;
                    }
                    break commit.events;
                }
            }
        };
        let saga = self.saga();
        for output in saga.to_put_out(&events, message.is_repeated || attempts > 1 || is_refused) {
            // It dies before this output.
            if self.chance(8) {
                self.inbox[at].is_repeated = true;
                return;
            }
            match output {
                Output::Timer(at_ms) => self.tell(ToOrchestrator::Due(at_ms), at_ms),
                Output::Command { step, way, attempt } => {
                    let body = saga.command(SAGA, (step, way, attempt), "sagas");
                    self.check_command(&saga, &body);
                    self.commands.push(Message {
                        body,
                        not_before_ms: 0,
                        is_repeated: false,
                    });
                }
            }
        }
        if self.chance(8) {
            self.inbox[at].is_repeated = true;
        } else {
            self.inbox.swap_remove(at);
        }
    }

    /// A command has the key of its step, and what was made before it.
    fn check_command(&self, saga: &Saga, command: &StepCommand) {
        assert_eq!(command.key, format!("{SAGA}/{}", command.step));
        assert_eq!(command.input, saga.input);
        let made = |step: &str| match self.ledger.get(&format!("{SAGA}/{step}")) {
            Some(Effect::Made(result)) => Some(result.clone()),
            _ => None,
        };
        let stages = saga.definition.stages();
        let index = saga.definition.index_of(&command.step).expect("it is one of the steps");
        let before = stages.take_while(|stage| stage.end <= index).flatten();
        for step in before.filter(|_| command.way == Way::Do) {
            let name = &saga.definition.steps[step].name;
            assert_eq!(command.results.get(name).cloned(), made(name), "the result of {name}");
        }
    }

    fn work(&mut self) {
        let Some(at) = Self::due(&self.commands, self.now_ms, &mut self.random) else {
            return;
        };
        let command = self.commands[at].body.clone();
        let key = command.key.clone();
        let outcome = match self.ledger.judge(&key, command.way) {
            Judgement::Make if self.chance(15) => Outcome::failed("busy"),
            Judgement::Make if self.chance(10) => Outcome::refused("sold out"),
            Judgement::Make => {
                let result = json!({ "number": self.made.len() });
                self.ledger.note(&key, Effect::Made(result.clone()));
                self.made.push(Made::Effect(key));
                Outcome::Done(result)
            }
            Judgement::Made(result) => Outcome::Done(result),
            Judgement::Barred => Outcome::refused("it was undone"),
            Judgement::Undo | Judgement::Bar if self.chance(25) => Outcome::failed("busy"),
            Judgement::Undo => {
                self.ledger.note(&key, Effect::Undone);
                self.made.push(Made::Undone(key));
                Outcome::Done(json!(null))
            }
            Judgement::Bar => {
                self.ledger.note(&key, Effect::Barred);
                Outcome::Done(json!(null))
            }
            Judgement::Undone => Outcome::Done(json!(null)),
        };
        // It dies before it answers, or before it acknowledges: the command comes again.
        if self.chance(10) {
            return;
        }
        let reply = Reply {
            saga: command.saga,
            step: command.step,
            way: command.way,
            attempt: command.attempt,
            outcome,
        };
        let late_ms = if self.chance(20) {
            self.random.random_range(0..500)
        } else {
            0
        };
        self.tell(ToOrchestrator::Input(Input::Reply(reply)), self.now_ms + late_ms);
        if !self.chance(15) {
            self.commands.swap_remove(at);
        }
    }

    pub fn turn(&mut self) {
        match self.random.random_range(0..10) {
            0..4 => self.orchestrate(),
            4..8 => self.work(),
            8 if self.chance(6) => {
                let wish = if self.chance(50) {
                    Input::Retry
                } else {
                    Input::Abort("enough".to_owned())
                };
                self.tell(ToOrchestrator::Input(wish), 0);
            }
            _ => self.now_ms += self.random.random_range(1..60),
        }
        self.check();
    }

    /// What holds at every moment.
    fn check(&self) {
        let saga = self.saga();
        let stage_of = |step: usize| saga.definition.stages().position(|stage| stage.contains(&step));
        for (step, state) in saga.steps.iter().enumerate() {
            let earlier = (0..step).filter(|earlier| stage_of(*earlier) != stage_of(step));
            if state.doing.attempt > 0 {
                for earlier in earlier {
                    assert_eq!(
                        saga.steps[earlier].doing.place,
                        Place::Done,
                        "step {step} began before step {earlier} was done"
                    );
                }
            }
            if state.undoing.attempt > 0 {
                for later in &saga.steps[step + 1..] {
                    let is_undone = later.undoing.place == Place::Done || later.doing.attempt == 0;
                    let undoable = saga.definition.steps[step + 1..].iter().all(|known| known.undoable);
                    assert!(
                        is_undone || !undoable,
                        "step {step} is undone before a later one: {saga:?}"
                    );
                }
            }
            assert!(
                saga.phase != Phase::Forward || state.undoing.attempt == 0,
                "something is undone on the way forward"
            );
        }
    }

    /// Lets nothing go wrong any more, and goes on until nothing is left to do.
    pub fn end(&mut self) {
        self.is_friendly = true;
        for _ in 0..FRIENDLY_TURNS {
            if self.saga().stuck.is_some() {
                self.tell(ToOrchestrator::Input(Input::Retry), 0);
            }
            if self.inbox.is_empty() && self.commands.is_empty() && self.saga().phase.is_over() {
                return;
            }
            self.turn();
        }
        panic!(
            "no end: {:?}, {} messages, {} commands",
            self.saga(),
            self.inbox.len(),
            self.commands.len()
        );
    }

    /// What holds when all has ended.
    pub fn check_end(&self) {
        let saga = self.saga();
        let mut made: BTreeMap<&str, i32> = BTreeMap::new();
        for what in &self.made {
            let (key, change) = match what {
                Made::Effect(key) => (key, 1),
                Made::Undone(key) => (key, -1),
            };
            let count = made.entry(key).or_default();
            *count += change;
            assert!(
                (0..=1).contains(count),
                "{key} was made or undone twice: {:?}",
                self.made
            );
        }
        for (known, state) in saga.definition.steps.iter().zip(&saga.steps) {
            let key = format!("{SAGA}/{}", known.name);
            let effects = made.get(&*key).copied().unwrap_or(0);
            match saga.phase {
                Phase::Completed => {
                    assert_eq!(effects, 1, "{key} of a completed saga");
                    let result = self.ledger.get(&key);
                    assert_eq!(
                        result,
                        Some(&Effect::Made(state.result.clone())),
                        "{key} has the result of its effect"
                    );
                }
                Phase::Compensated if known.undoable => assert_eq!(effects, 0, "{key} of a compensated saga"),
                Phase::Compensated => {}
                phase => panic!("it ended {phase:?}"),
            }
        }
        let undone = self.made.iter().filter_map(|what| match what {
            Made::Undone(key) => saga.definition.index_of(key.strip_prefix("saga-1/")?),
            Made::Effect(_) => None,
        });
        let undone: Vec<usize> = undone.collect();
        assert!(
            undone.windows(2).all(|pair| pair[0] > pair[1]),
            "undone in the order {undone:?}"
        );
        let effects = self.made.iter().filter(|what| matches!(what, Made::Effect(_))).count();
        assert!(effects <= saga.steps.len());
    }
}
