//! What a team is given: the simulation, the cluster, the recorder, and chance of its own.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use jangada_check::Recorder;
use jangada_client::{Client, ClientConfig};
use jangada_env::Random;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::play::cluster::Cluster;
use crate::roles::team::Finding;
use crate::simulation::Simulation;

/// Between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(50);

/// What all teams of a scenario share.
#[derive(Default)]
struct Shared {
    is_over: watch::Sender<bool>,
    findings: RefCell<Vec<Finding>>,
    /// By team: what it does just now.
    steps: RefCell<BTreeMap<String, String>>,
}

/// What a team is given. A clone is the same stage with the same chance.
#[derive(Clone)]
pub struct Stage {
    /// The simulation that all of it is in.
    pub sim: Arc<Simulation>,
    /// The brokers, and who they are.
    pub cluster: Rc<Cluster>,
    /// Where calls and answers are recorded.
    pub recorder: Recorder,
    /// The team's own chance. Give each task a fork of it.
    pub random: Random,
    team: Rc<str>,
    shared: Rc<Shared>,
}

impl Stage {
    pub(crate) fn new(sim: Arc<Simulation>, cluster: Rc<Cluster>, recorder: Recorder) -> Self {
        Self {
            random: sim.random(),
            sim,
            cluster,
            recorder,
            team: "play".into(),
            shared: Rc::default(),
        }
    }

    /// The same stage for a team of this name, with chance of its own.
    pub(crate) fn for_team(&self, team: &str, random: Random) -> Self {
        Self {
            team: team.into(),
            random,
            ..self.clone()
        }
    }

    /// The team's name, which no other of the scenario has: `log-0`.
    pub fn team(&self) -> &str {
        &self.team
    }

    /// A name for something of the team's own: `log-0-orders`.
    pub fn named(&self, what: &str) -> String {
        format!("{}-{what}", self.team)
    }

    /// How many replicas a topic is to have: as many as there are brokers, at most three.
    pub fn replicas(&self) -> u32 {
        self.cluster.brokers().min(3)
    }

    /// A client at a host of its own (the same host for the same name of the same team), with calls short enough for a scenario. Tries
    /// until it is connected; who calls is bounded by the stage's end ([`Self::until_over`]), or by the runner.
    pub async fn connect(&self, name: &str) -> Client {
        self.connect_with(name, |_| ()).await
    }

    /// Like [`Self::connect`], with other settings of the client.
    pub async fn connect_with(&self, name: &str, set: impl Fn(&mut ClientConfig)) -> Client {
        let host = self.cluster.client_host(&self.named(name));
        loop {
            let mut config = ClientConfig::new(self.cluster.addresses());
            config.client_id = self.named(name);
            config.request_timeout = Duration::from_secs(3);
            config.retry_timeout = Duration::from_secs(10);
            set(&mut config);
            match host.connect(config).await {
                Ok(client) => return client,
                Err(error) => self
                    .sim
                    .note(format_args!("{}: not connected: {error}", self.named(name))),
            }
            sleep(PAUSE).await;
        }
    }

    /// Whether clients are to end. Faults are over by then.
    pub fn is_over(&self) -> bool {
        *self.shared.is_over.borrow()
    }

    pub(crate) fn end(&self) {
        self.shared.is_over.send_replace(true);
    }

    /// Waits so long, or until the stage is over.
    pub async fn pause(&self, how_long: Duration) {
        drop(timeout(how_long, self.over()).await);
    }

    /// Waits until the stage is over.
    pub async fn over(&self) {
        let mut is_over = self.shared.is_over.subscribe();
        let waited = is_over.wait_for(|is_over| *is_over).await;
        waited.expect("the sender is here");
    }

    /// What `work` gives, or none if the stage is over before: `work` is dropped then, and calls that were open have an unknown outcome.
    pub async fn until_over<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = work => Some(done),
            () = self.over() => None,
        }
    }

    /// A number of a process for the recorder.
    pub fn process(&self) -> u32 {
        self.recorder.process()
    }

    /// Writes a line into the trace, behind the team's name.
    pub fn note(&self, text: &str) {
        self.sim.note(format_args!("{}: {text}", self.team));
    }

    /// Says what the team does just now, for the finding if it never ends. Also a line of the trace.
    pub fn step(&self, what: impl Into<String>) {
        let what = what.into();
        self.note(&what);
        self.shared.steps.borrow_mut().insert(self.team.to_string(), what);
    }

    /// What the team did last, by its own words.
    pub(crate) fn last_step(&self) -> String {
        self.shared.steps.borrow().get(&*self.team).cloned().unwrap_or_default()
    }

    /// Tells what must never be.
    pub fn report(&self, finding: impl Into<Finding>) {
        let finding = format!("{}: {}", self.team, finding.into());
        self.sim.note(format_args!("finding: {finding}"));
        self.shared.findings.borrow_mut().push(finding);
    }

    /// All that was reported, in order.
    pub(crate) fn findings(&self) -> Vec<Finding> {
        self.shared.findings.borrow().clone()
    }
}
