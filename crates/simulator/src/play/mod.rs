//! Plays a scenario: the cluster is booted, teams make what they need and work under faults, then all is mended and comes to rest, teams
//! look at what is there, and the history is judged.

mod acts;
pub mod cluster;
mod faults;
mod rest;
pub mod stage;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use jangada_check::{History, Judgement, Recorder};
use jangada_env::Random;
use parking_lot::Mutex;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{sleep, timeout};

use crate::invariants::Invariants;
use crate::play::cluster::Cluster;
pub use crate::play::faults::Counted;
use crate::play::faults::Nemesis;
use crate::play::stage::Stage;
use crate::rocks::RocksDisks;
use crate::roles;
use crate::roles::team::{Finding, Team};
use crate::scenario::{FaultKind, Scenario};
use crate::simulation::{self, Simulation};
use crate::trace::{Trace, TraceMode};

/// A new cluster is formed within so long.
const FORMED_MAX: Duration = Duration::from_secs(60);
/// A team has made what it needs within so long.
const PREPARED_MAX: Duration = Duration::from_secs(60);
/// A fault is over so long after the last one was to end, by its plan.
const FAULTS_MAX: Duration = Duration::from_secs(90);
/// The cluster is at rest within so long after everything was mended.
const REST_MAX: Duration = Duration::from_secs(120);
/// Clients have ended within so long after they were told to.
const ENDED_MAX: Duration = Duration::from_secs(20);
/// A team has looked at everything within so long.
const FINISHED_MAX: Duration = Duration::from_secs(180);
/// A run takes at most so long, of the system's time.
const REAL_MAX: Duration = Duration::from_secs(300);
/// Between two looks at the invariants.
const LOOK: Duration = Duration::from_millis(500);

/// How a scenario is played.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Keep the trace's lines, and not just their hash.
    pub keeps_trace: bool,
    /// Keep the history as lines for `jangada-check`.
    pub keeps_history: bool,
    /// The brokers' stores are RocksDB, in a directory in memory.
    pub on_rocksdb: bool,
}

/// What came of a scenario.
pub struct Outcome {
    /// The scenario's seed.
    pub seed: u64,
    /// The same for the same scenario, on any machine.
    pub trace_hash: u64,
    /// Whether everything is as it must be, and what was to be tested was.
    pub judgement: Judgement,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// Why the judgement is unknown, or would be if nothing were wrong.
    pub unknown: Vec<String>,
    /// Calls of clients that were judged.
    pub calls: u64,
    /// How often each kind of fault was ordered, and how often it took effect.
    pub faults: BTreeMap<FaultKind, Counted>,
    /// How long it took, in simulated time.
    pub took: Duration,
    /// What happened, if it was kept.
    pub trace: Trace,
    /// The history's lines, if they were kept.
    pub history: Vec<u8>,
}

impl Outcome {
    /// Whether something is wrong.
    pub fn is_failure(&self) -> bool {
        self.judgement == Judgement::Invalid
    }
}

/// In one line, for lists; the findings shortened.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {} {} calls {}", self.seed, self.judgement, self.calls)?;
        write!(
            f,
            " simulated {:.0} s trace {:016x}",
            self.took.as_secs_f64(),
            self.trace_hash
        )?;
        for why in self.findings.iter().chain(&self.unknown).take(3) {
            let line = why.lines().next().unwrap_or_default();
            write!(f, " | {line:.300}")?;
        }
        Ok(())
    }
}

/// What the play itself leaves behind, also when it panics half way.
#[derive(Default)]
struct Left {
    findings: Vec<Finding>,
    history: Option<History>,
    faults: BTreeMap<FaultKind, Counted>,
    took: Duration,
}

/// A writer of history lines into memory.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Plays a scenario and judges it. The same scenario gives the same outcome.
pub fn play(scenario: &Scenario, options: Options) -> Outcome {
    let left = Rc::new(RefCell::new(Left::default()));
    let lines = Lines::default();
    let world = simulation::Options {
        trace: match options.keeps_trace {
            true => TraceMode::Kept,
            false => TraceMode::Hashed,
        },
        real_max: REAL_MAX,
        ..simulation::Options::new(scenario.seed)
    };
    let (ended, trace) = {
        let (left, lines) = (left.clone(), lines.clone());
        Simulation::run_with(world, |sim| async move {
            Play::run(sim, scenario, options, &lines, &left).await;
        })
    };
    let mut left = left.take();
    let mut unknown = Vec::new();
    let mut calls = 0;
    if let Some(history) = &left.history {
        let verdict = jangada_check::check(history);
        calls = verdict.operations;
        left.findings.extend(verdict.anomalies.iter().map(ToString::to_string));
        unknown = verdict.unknown;
    }
    left.findings.extend(ended.err());
    let history = std::mem::take(&mut *lines.0.lock());
    Outcome {
        seed: scenario.seed,
        trace_hash: trace.hash(),
        judgement: match (left.findings.is_empty(), unknown.is_empty()) {
            (false, _) => Judgement::Invalid,
            (true, false) => Judgement::Unknown,
            (true, true) => Judgement::Valid,
        },
        findings: left.findings,
        unknown,
        calls,
        faults: left.faults,
        took: left.took,
        trace,
        history,
    }
}

/// A team with its stage.
struct Working {
    team: Box<dyn Team>,
    stage: Stage,
}

/// A scenario while it is played.
struct Play {
    scenario: Scenario,
    stage: Stage,
    nemesis: Nemesis,
    invariants: Rc<RefCell<Invariants>>,
    teams: Vec<Working>,
}

impl Play {
    async fn run(sim: Arc<Simulation>, scenario: &Scenario, options: Options, lines: &Lines, left: &RefCell<Left>) {
        let clock = {
            let sim = sim.clone();
            Arc::new(move || u64::try_from(sim.now().as_nanos()).expect("no simulation is that long"))
        };
        let recorder = match options.keeps_history {
            true => Recorder::with_output(clock, lines.clone()),
            false => Recorder::new(clock),
        };
        let rocks = options.on_rocksdb.then(|| RocksDisks::new(scenario.seed));
        let rocks = match rocks.transpose() {
            Ok(rocks) => rocks,
            Err(why) => {
                return left
                    .borrow_mut()
                    .findings
                    .push(format!("there is no place for RocksDB: {why}"));
            }
        };
        let cluster = Rc::new(Cluster::new(&sim, scenario.brokers, &scenario.settings, rocks));
        let stage = Stage::new(sim, cluster.clone(), recorder);
        let invariants = Rc::new(RefCell::new(Invariants::new(cluster.hosts())));
        let mut play = Self {
            scenario: match options.on_rocksdb {
                true => scenario.for_rocksdb(),
                false => scenario.clone(),
            },
            nemesis: Nemesis::new(stage.clone(), invariants.clone()),
            teams: Vec::new(),
            invariants,
            stage,
        };
        let done = play.all().await;
        let mut left = left.borrow_mut();
        left.findings = play.stage.findings();
        left.findings.extend(done.err());
        left.faults = play.nemesis.counts();
        left.took = play.stage.sim.now();
        match play.stage.recorder.finish() {
            Ok(history) => left.history = Some(history),
            Err(error) => left.findings.push(format!("the history cannot be kept: {error}")),
        }
    }

    /// From the first boot to the last look. What is wrong and ends the play is the error; the rest is reported.
    async fn all(&mut self) -> Result<(), Finding> {
        self.boot().await?;
        self.prepare().await?;
        let looking = spawn_local(look(self.stage.clone(), self.invariants.clone()));
        self.work().await?;
        self.finish().await;
        let looked = self.invariants.borrow_mut().look();
        looking.abort();
        looked?;
        // Clients go, and with them what brokers hold for them.
        self.teams.clear();
        rest::releases_all(&self.stage.cluster).await
    }

    async fn boot(&mut self) -> Result<(), Finding> {
        let cluster = &self.stage.cluster;
        let booted = join_all(cluster.ids().map(|broker| cluster.start(broker))).await;
        if let Some(why) = booted.into_iter().find_map(Result::err) {
            return Err(format!("a broker does not start: {why}"));
        }
        rest::comes_to_rest(&self.nemesis, FORMED_MAX).await
    }

    async fn prepare(&mut self) -> Result<(), Finding> {
        for (number, plan) in self.scenario.teams.iter().enumerate() {
            let kind = roles::teams().iter().find(|kind| kind.name() == plan.kind);
            let kind = kind.ok_or_else(|| format!("there is no team {:?}", plan.kind))?;
            let random = Random::seeded(plan.seed);
            let team = kind.build(&random);
            let stage = self.stage.for_team(&format!("{}-{number}", plan.kind), random.fork());
            let prepared = timeout(PREPARED_MAX, team.prepare(&stage)).await;
            let prepared = prepared.unwrap_or_else(|_| {
                let step = stage.last_step();
                Err(format!("it is not ready after {PREPARED_MAX:?}; last: {step}"))
            });
            prepared.map_err(|why| format!("{}: {why}", stage.team()))?;
            self.teams.push(Working { team, stage });
        }
        Ok(())
    }

    /// Teams work under faults; then all is mended, and clients end.
    async fn work(&mut self) -> Result<(), Finding> {
        self.stage.sim.note(format_args!("the work begins"));
        let supervising = spawn_local(self.nemesis.clone().supervise());
        let faults = self.scenario.faults.iter().cloned().enumerate();
        let faults: Vec<(String, JoinHandle<()>)> = faults
            .map(|(number, fault)| {
                (
                    fault.to_string(),
                    spawn_local(self.nemesis.clone().carry_out(number, fault)),
                )
            })
            .collect();
        let clients: Vec<(Stage, JoinHandle<()>)> = self
            .teams
            .iter()
            .flat_map(|working| {
                working
                    .team
                    .tasks(&working.stage)
                    .into_iter()
                    .map(|task| (working.stage.clone(), task))
            })
            .map(|(stage, task)| (stage, spawn_local(task)))
            .collect();
        sleep(Duration::from_secs(self.scenario.seconds)).await;
        let hanging = join_within(faults, FAULTS_MAX).await;
        if let Some(fault) = hanging.first() {
            return Err(format!("a fault does not end: {fault}"));
        }
        self.stage.sim.note(format_args!("all is mended"));
        self.nemesis.mend().await?;
        rest::comes_to_rest(&self.nemesis, REST_MAX).await?;
        self.stage.sim.note(format_args!("clients are to end"));
        self.stage.end();
        for stage in join_within(clients, ENDED_MAX).await {
            let step = stage.last_step();
            self.stage.report(format!(
                "a task of {} has not ended after {ENDED_MAX:?}; last: {step}",
                stage.team()
            ));
        }
        drop(supervising.await);
        Ok(())
    }

    /// Teams look at what is there.
    async fn finish(&self) {
        let finishing = self.teams.iter().map(|working| async move {
            let stage = &working.stage;
            stage.step("finishing");
            let finished = timeout(FINISHED_MAX, working.team.finish(stage)).await;
            let finished = finished.unwrap_or_else(|_| {
                let step = stage.last_step();
                Err(format!("it has not finished after {FINISHED_MAX:?}; last: {step}"))
            });
            if let Err(why) = finished {
                stage.report(why);
            }
        });
        join_all(finishing).await;
        for broker in self.stage.cluster.ids() {
            if !self.stage.cluster.is_running(broker) {
                let why = self.stage.cluster.end(broker).unwrap_or_default();
                self.stage
                    .report(format!("broker {broker} does not run at the end: {why}"));
            }
        }
    }
}

/// Waits for tasks, all together for so long at most. Those that have not ended by then are ended, and given by their names.
async fn join_within<N>(tasks: Vec<(N, JoinHandle<()>)>, within: Duration) -> Vec<N> {
    let deadline = tokio::time::Instant::now() + within;
    let mut hanging = Vec::new();
    for (name, mut task) in tasks {
        // A panic is heard of elsewhere.
        if tokio::time::timeout_at(deadline, &mut task).await.is_err() {
            task.abort();
            hanging.push(name);
        }
    }
    hanging
}

/// Looks at the invariants again and again; the first that does not hold is reported.
async fn look(stage: Stage, invariants: Rc<RefCell<Invariants>>) {
    loop {
        sleep(LOOK).await;
        let looked = invariants.borrow_mut().look();
        if let Err(finding) = looked {
            stage.report(finding);
            return;
        }
    }
}
