//! Carries out the faults of a scenario, notes for the checker which of them took effect, and starts brokers again as an init system
//! would.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use futures::future::join_all;
use jangada_check::Note;
use jangada_check::note::{self, FaultPhase};
use jangada_client::{Admin, Client, ClientConfig};
use jangada_env::Random;
use jangada_types::BrokerId;
use tokio::time::{sleep, timeout};

use crate::invariants::Invariants;
use crate::play::acts::Act;
use crate::play::stage::Stage;
use crate::scenario::{Fault, FaultKind};

/// A broker that ended by itself is started again after so long.
pub(crate) const RESTART_AFTER: Duration = Duration::from_millis(700);
/// Between two looks at whether brokers run, and between two attempts of an admin call.
const LOOK: Duration = Duration::from_millis(100);
/// An admin call takes at most so long.
const CALL_MAX: Duration = Duration::from_secs(4);
/// A broker is replaced within so long once a majority runs.
const REPLACE_MAX: Duration = Duration::from_secs(60);

/// How often a kind of fault was ordered, and how often it was seen to act.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// So many were begun.
    pub ordered: u32,
    /// Seen to act.
    pub took_effect: u32,
}

/// What is known of the brokers' processes.
#[derive(Default)]
struct Known {
    /// By broker: how many faults keep it down.
    held: BTreeMap<u32, u32>,
    /// Brokers whose disk has failed or was full at some time: they may end because of it.
    failing: BTreeSet<u32>,
    /// Brokers whose data was lost or damaged: they may refuse to start because of it.
    damaged: BTreeSet<u32>,
    /// Brokers that have refused to start because of their data, until they are replaced.
    refused: BTreeMap<u32, String>,
    counts: BTreeMap<FaultKind, Counted>,
}

/// Who lets things go wrong. A clone is the same one.
#[derive(Clone)]
pub(crate) struct Nemesis {
    pub stage: Stage,
    invariants: Rc<RefCell<Invariants>>,
    known: Rc<RefCell<Known>>,
}

impl Nemesis {
    pub fn new(stage: Stage, invariants: Rc<RefCell<Invariants>>) -> Self {
        Self {
            stage,
            invariants,
            known: Rc::default(),
        }
    }

    /// How often each kind was ordered and took effect.
    pub fn counts(&self) -> BTreeMap<FaultKind, Counted> {
        self.known.borrow().counts.clone()
    }

    /// Carries out a fault from its begin to its end. Called when the work begins.
    pub async fn carry_out(self, number: usize, fault: Fault) {
        sleep(Duration::from_millis(fault.at_ms)).await;
        let step = |phase| {
            let note = note::Fault {
                fault: format!("{}-{number}", fault.kind.name()),
                kind: fault.kind.name().to_owned(),
                phase,
                target: Some(fault.targets()),
            };
            self.stage.recorder.note(None, Note::Fault(note));
            let mut known = self.known.borrow_mut();
            let counted = known.counts.entry(fault.kind).or_default();
            match phase {
                FaultPhase::Begin => counted.ordered += 1,
                FaultPhase::TookEffect => counted.took_effect += 1,
                FaultPhase::End => {}
            }
        };
        self.stage.sim.note(format_args!("fault {number} begins: {fault}"));
        step(FaultPhase::Begin);
        let took_effect = Cell::new(false);
        let act = Act {
            nemesis: &self,
            fault: &fault,
            // It is the same without the other faults.
            random: Random::seeded(fault.at_ms ^ (fault.lasts_ms << 20)),
            took_effect: &|| {
                if !took_effect.replace(true) {
                    step(FaultPhase::TookEffect);
                }
            },
        };
        let cluster = &self.stage.cluster;
        let keeps_apart = fault.kind.keeps_apart();
        if keeps_apart {
            cluster.part();
        }
        act.run().await;
        if keeps_apart {
            cluster.join();
        }
        step(FaultPhase::End);
        self.stage
            .sim
            .note(format_args!("fault {number} has ended: {}", fault.kind.name()));
    }

    /// From now on the brokers are not started, until they are let go.
    pub fn hold(&self, brokers: &[u32]) {
        let mut known = self.known.borrow_mut();
        for broker in brokers {
            *known.held.entry(*broker).or_default() += 1;
        }
    }

    /// Ends one hold of each of the brokers.
    pub fn let_go(&self, brokers: &[u32]) {
        let mut known = self.known.borrow_mut();
        for broker in brokers {
            let held = known.held.entry(*broker).or_default();
            *held = held.saturating_sub(1);
        }
    }

    /// The brokers' disks fail or are full: they may end because of it.
    pub fn may_fail(&self, brokers: &[u32]) {
        self.known.borrow_mut().failing.extend(brokers);
    }

    /// The broker's disk was put back: it may refuse to start because of it.
    pub fn was_put_back(&self, broker: u32) {
        self.known.borrow_mut().damaged.insert(broker);
        self.invariants
            .borrow_mut()
            .replaced(broker, self.stage.cluster.host(broker));
    }

    /// Something on the broker's disk is damaged: it may refuse to start because of it.
    pub fn has_rot(&self, broker: u32) {
        self.known.borrow_mut().damaged.insert(broker);
        self.invariants.borrow_mut().rotten(broker);
    }

    /// Whether the broker's data was lost or damaged, and the broker was not replaced since.
    pub fn was_damaged(&self, broker: u32) -> bool {
        self.known.borrow().damaged.contains(&broker)
    }

    /// Whether the broker has refused to start because of its data, and was not replaced since.
    pub fn has_refused(&self, broker: u32) -> bool {
        self.known.borrow().refused.contains_key(&broker)
    }

    fn is_held(&self, broker: u32) -> bool {
        self.known.borrow().held.get(&broker).is_some_and(|held| *held > 0)
    }

    /// Lets go of the brokers and starts those that nothing else keeps down.
    pub async fn start(&self, brokers: &[u32]) {
        self.let_go(brokers);
        let free = brokers.iter().filter(|broker| !self.is_held(**broker));
        join_all(free.map(|broker| self.start_one(*broker))).await;
    }

    async fn start_one(&self, broker: u32) {
        if self.known.borrow().refused.contains_key(&broker) {
            return;
        }
        if let Err(why) = self.stage.cluster.start(broker).await {
            self.has_ended(broker, &why);
        }
    }

    /// A broker has ended by itself, or does not start.
    pub fn has_ended(&self, broker: u32, why: &str) {
        self.stage.sim.note(format_args!("broker {broker} has ended: {why}"));
        let mut known = self.known.borrow_mut();
        let is_data = ["must not vote", "is damaged", "replace-broker", "DATA_CORRUPTED"];
        if known.damaged.contains(&broker) && is_data.iter().any(|words| why.contains(words)) {
            known.refused.insert(broker, why.to_owned());
            return;
        }
        // Another fault did that meanwhile.
        let was_killed = why.contains("it was killed");
        let is_disk = known.failing.contains(&broker) && !why.contains("panicked");
        drop(known);
        if !is_disk && !was_killed {
            self.stage.report(format!("broker {broker} has ended by itself: {why}"));
        }
    }

    /// Starts brokers again that have ended by themselves, until the stage is over.
    pub async fn supervise(self) {
        let mut told = BTreeSet::new();
        while !self.stage.is_over() {
            self.stage.pause(LOOK).await;
            for broker in self.stage.cluster.ids() {
                let Some(why) = self.stage.cluster.end(broker) else {
                    told.remove(&broker);
                    continue;
                };
                if told.insert(broker) {
                    self.has_ended(broker, &why);
                    let again = self.clone();
                    tokio::task::spawn_local(async move {
                        sleep(RESTART_AFTER).await;
                        if !again.is_held(broker) && !again.stage.cluster.is_running(broker) {
                            again.start_one(broker).await;
                        }
                    });
                }
            }
        }
    }

    /// Ends everything that is wrong: links, disks, clocks, processes that stand still or are gone. A broker that refuses to start
    /// because of its data is replaced.
    ///
    /// # Errors
    /// A broker cannot be started or replaced.
    pub async fn mend(&self) -> Result<(), String> {
        let cluster = &self.stage.cluster;
        self.stage.sim.network().mend_all();
        for broker in cluster.ids() {
            let host = cluster.host(broker);
            host.disk().fail(false);
            host.disk().full(false);
            host.disk().slow(None);
            host.clock().drift(0);
            host.clock().set_off(0);
            cluster.with(broker, |process| process.resume());
        }
        self.known.borrow_mut().held.clear();
        join_all(cluster.ids().map(|broker| self.start_one(broker))).await;
        // Who refuses says so after it has asked its peers.
        sleep(Duration::from_secs(3)).await;
        for broker in cluster.ids() {
            if self.known.borrow().refused.contains_key(&broker) {
                self.replace(broker).await?;
            }
        }
        Ok(())
    }

    /// Replaces a broker by a new machine of its name.
    ///
    /// # Errors
    /// The others do not let it, or it does not start.
    pub async fn replace(&self, broker: u32) -> Result<(), String> {
        let cluster = &self.stage.cluster;
        cluster.kill(broker);
        cluster.wipe(broker)?;
        self.invariants.borrow_mut().replaced(broker, cluster.host(broker));
        let mut last = String::new();
        let replaced = timeout(REPLACE_MAX, async {
            loop {
                match self
                    .admin(async |admin| admin.replace_broker(BrokerId(broker)).await)
                    .await
                {
                    Ok(_) => return,
                    Err(why) => last = why,
                }
                sleep(5 * LOOK).await;
            }
        });
        if replaced.await.is_err() {
            return Err(format!("broker {broker} cannot be replaced: {last}"));
        }
        self.known.borrow_mut().refused.remove(&broker);
        self.known.borrow_mut().damaged.remove(&broker);
        self.stage.sim.note(format_args!("broker {broker} is replaced"));
        cluster.start(broker).await
    }

    /// An admin call of a new client.
    ///
    /// # Errors
    /// In the client's words.
    pub async fn admin<T>(
        &self,
        call: impl AsyncFnOnce(&Admin) -> Result<T, jangada_client::ClientError>,
    ) -> Result<T, String> {
        let called = timeout(CALL_MAX, async {
            let client = self.connect().await?;
            let called = call(&client.admin()).await;
            called.map_err(|error| error.to_string())
        });
        called
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {CALL_MAX:?}")))
    }

    async fn connect(&self) -> Result<Client, String> {
        let mut config = ClientConfig::new(self.stage.cluster.addresses());
        config.client_id = "nemesis".to_owned();
        config.connect_timeout = Duration::from_millis(300);
        config.request_timeout = Duration::from_secs(1);
        config.retry_timeout = Duration::from_secs(3);
        let host = self.stage.cluster.client_host("nemesis");
        host.connect(config).await.map_err(|error| error.to_string())
    }
}
