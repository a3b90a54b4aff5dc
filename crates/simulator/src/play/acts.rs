//! What each kind of fault does, from its begin to its end.

use std::time::Duration;

use jangada_env::Random;
use jangada_types::BrokerId;
use rand::RngExt as _;
use tokio::time::{sleep, timeout};

use crate::host::Host;
use crate::play::faults::{Nemesis, RESTART_AFTER};
use crate::play::stage::Stage;
use crate::scenario::{Fault, FaultKind};

/// A stop in order takes at most so long: handing over, draining, and what comes after.
const STOP_MAX: Duration = Duration::from_secs(30);

/// A fault that is being carried out.
pub(crate) struct Act<'a> {
    pub nemesis: &'a Nemesis,
    pub fault: &'a Fault,
    pub random: Random,
    /// To be called when it is seen to act, as often as it is.
    pub took_effect: &'a dyn Fn(),
}

impl Act<'_> {
    /// From begin to end.
    pub async fn run(mut self) {
        match self.fault.kind {
            FaultKind::Kill => self.kill(&self.fault.brokers, false).await,
            FaultKind::PowerLoss => self.kill(&self.fault.brokers, true).await,
            FaultKind::KillController => self.kill_controller().await,
            FaultKind::KillAtWrite => self.kill_at_write().await,
            FaultKind::Pause => self.pause().await,
            FaultKind::Restart => self.restart(&self.fault.brokers, self.lasts()).await,
            FaultKind::RollingRestart => self.rolling_restart().await,
            FaultKind::CutOneWay | FaultKind::Partition | FaultKind::Isolate | FaultKind::Deaf => self.cut().await,
            FaultKind::SlowLink => self.slow().await,
            FaultKind::Delay | FaultKind::Lossy => self.links().await,
            FaultKind::Stall => self.stall().await,
            FaultKind::Reset => self.reset().await,
            FaultKind::DiskError => self.disk(true).await,
            FaultKind::DiskFull => self.disk(false).await,
            FaultKind::DiskSlow => self.disk_slow().await,
            FaultKind::Rot => self.rot(),
            FaultKind::PutBack => self.put_back().await,
            FaultKind::Replace => self.replace().await,
            FaultKind::ClockJump | FaultKind::ClockDrift => self.clock().await,
            FaultKind::Transfer => self.transfer().await,
        }
    }

    fn stage(&self) -> &Stage {
        &self.nemesis.stage
    }

    fn lasts(&self) -> Duration {
        Duration::from_millis(self.fault.lasts_ms)
    }

    /// The fault's value as a length of time.
    fn value_ms(&self) -> Duration {
        Duration::from_millis(self.fault.value.unsigned_abs().max(1))
    }

    async fn wait(&self) {
        sleep(self.lasts()).await;
    }

    /// Runs something again and again while the fault lasts.
    async fn again_and_again(&mut self, pause: Duration, mut act: impl AsyncFnMut(&mut Self)) {
        let ends = self.stage().sim.now() + self.lasts();
        loop {
            act(self).await;
            let left = ends.saturating_sub(self.stage().sim.now());
            if left.is_zero() {
                return;
            }
            sleep(pause.min(left)).await;
        }
    }

    fn host(&self, broker: u32) -> &Host {
        self.stage().cluster.host(broker)
    }

    fn targets(&self) -> Vec<Host> {
        self.fault
            .brokers
            .iter()
            .map(|broker| self.host(*broker).clone())
            .collect()
    }

    /// The brokers that are no targets, and the clients' machines.
    fn others(&self) -> (Vec<Host>, Vec<Host>) {
        let cluster = &self.stage().cluster;
        let brokers = cluster.ids().filter(|broker| !self.fault.brokers.contains(broker));
        (
            brokers.map(|broker| cluster.host(broker).clone()).collect(),
            cluster.client_hosts(),
        )
    }

    async fn kill(&self, brokers: &[u32], loses_power: bool) {
        self.nemesis.hold(brokers);
        let mut killed = false;
        for broker in brokers {
            let cluster = &self.stage().cluster;
            killed |= match loses_power {
                true => cluster.power_off(*broker),
                false => cluster.kill(*broker),
            };
        }
        if killed {
            (self.took_effect)();
        }
        self.wait().await;
        self.nemesis.start(brokers).await;
    }

    async fn kill_controller(&self) {
        let described = self.nemesis.admin(async |admin| admin.describe_cluster().await).await;
        let leads = described.ok().and_then(|cluster| cluster.controller_id);
        let Some(leads) = leads else {
            return self.wait().await;
        };
        self.kill(&[leads.get()], false).await;
    }

    async fn kill_at_write(&self) {
        let cluster = &self.stage().cluster;
        let brokers = &self.fault.brokers;
        self.nemesis.hold(brokers);
        for broker in brokers {
            self.host(*broker)
                .disk()
                .kill_at_write(self.fault.value.unsigned_abs().max(1));
        }
        let ran: Vec<u32> = brokers
            .iter()
            .copied()
            .filter(|broker| cluster.is_running(*broker))
            .collect();
        self.wait().await;
        let has_ended = ran.iter().any(|broker| !cluster.is_running(*broker));
        if has_ended {
            (self.took_effect)();
        }
        for broker in brokers {
            // It did not write that often, or did not run.
            self.host(*broker).disk().clear_kill_at_write();
        }
        self.nemesis.start(brokers).await;
    }

    async fn pause(&self) {
        let cluster = &self.stage().cluster;
        let mut paused = false;
        for broker in &self.fault.brokers {
            paused |= cluster.with(*broker, |process| process.pause());
        }
        if paused {
            (self.took_effect)();
        }
        self.wait().await;
        for broker in &self.fault.brokers {
            cluster.with(*broker, |process| process.resume());
        }
    }

    async fn restart(&self, brokers: &[u32], pause: Duration) {
        self.nemesis.hold(brokers);
        for broker in brokers {
            let stopped = timeout(STOP_MAX, self.stage().cluster.stop(*broker)).await;
            match stopped.unwrap_or_else(|_| Err(format!("it has not ended after {STOP_MAX:?}"))) {
                Ok(true) => (self.took_effect)(),
                Ok(false) => {}
                Err(why) => self.nemesis.has_ended(*broker, &why),
            }
            // As an init system does in the end.
            self.stage().cluster.kill(*broker);
        }
        sleep(pause).await;
        self.nemesis.start(brokers).await;
    }

    async fn rolling_restart(&self) {
        for broker in self.stage().cluster.ids() {
            self.restart(&[broker], Duration::from_millis(200)).await;
            sleep(self.value_ms()).await;
        }
    }

    async fn cut(&self) {
        let (brokers, clients) = self.others();
        let mut ways: Vec<(Host, Host)> = Vec::new();
        let targets = self.targets();
        match self.fault.kind {
            FaultKind::CutOneWay => ways.push((targets[0].clone(), targets[1].clone())),
            kind => {
                let all = match kind {
                    FaultKind::Partition => brokers,
                    _ => [brokers, clients].concat(),
                };
                for target in &targets {
                    for other in &all {
                        ways.push((other.clone(), target.clone()));
                        if kind != FaultKind::Deaf {
                            ways.push((target.clone(), other.clone()));
                        }
                    }
                }
            }
        }
        for (from, to) in &ways {
            self.stage().sim.network().cut(from, to);
        }
        if !ways.is_empty() {
            (self.took_effect)();
        }
        self.wait().await;
        for (from, to) in &ways {
            self.stage().sim.network().mend(from, to);
        }
    }

    async fn slow(&self) {
        let targets = self.targets();
        let network = self.stage().sim.network();
        let [one, other, ..] = &targets[..] else { return };
        let bytes = self.fault.value.unsigned_abs().max(1);
        for (from, to) in [(one, other), (other, one)] {
            network.slow(from, to, bytes);
        }
        (self.took_effect)();
        self.wait().await;
        for (from, to) in [(one, other), (other, one)] {
            network.mend(from, to);
        }
    }

    /// Makes all links of the targets worse.
    async fn links(&self) {
        let (brokers, clients) = self.others();
        let network = self.stage().sim.network();
        let targets = self.targets();
        let ways = targets.iter().flat_map(|target| {
            let others = brokers.iter().chain(&clients);
            others.flat_map(move |other| [(target, other), (other, target)])
        });
        let ways: Vec<(&Host, &Host)> = ways.collect();
        for (from, to) in &ways {
            match self.fault.kind {
                FaultKind::Lossy => network.lossy(from, to, self.fault.value.unsigned_abs()),
                _ => network.delay(from, to, Duration::ZERO..self.value_ms()),
            }
        }
        (self.took_effect)();
        self.wait().await;
        for (from, to) in &ways {
            network.mend(from, to);
        }
    }

    async fn stall(&mut self) {
        (self.took_effect)();
        let pause = self.value_ms() / 2;
        self.again_and_again(pause, async |act: &mut Self| {
            let targets = act.targets();
            let target = &targets[act.random.random_range(0..targets.len())];
            let (brokers, clients) = act.others();
            let others: Vec<&Host> = targets.iter().chain(&brokers).chain(&clients).collect();
            let other = others[act.random.random_range(0..others.len())];
            let how_long = act.value_ms().mul_f64(act.random.random_range(0.1..1.0));
            let (from, to) = if act.random.random_bool(0.5) {
                (target, other)
            } else {
                (other, target)
            };
            act.stage().sim.network().stall(from, to, how_long);
        })
        .await;
    }

    async fn reset(&mut self) {
        (self.took_effect)();
        self.again_and_again(self.value_ms(), async |act: &mut Self| {
            let (brokers, clients) = act.others();
            let targets = act.targets();
            for target in &targets {
                for other in targets.iter().chain(&brokers).chain(&clients) {
                    act.stage().sim.network().reset(target, other);
                }
            }
        })
        .await;
    }

    async fn disk(&self, is_error: bool) {
        self.nemesis.may_fail(&self.fault.brokers);
        for broker in &self.fault.brokers {
            let disk = self.host(*broker).disk();
            if is_error {
                disk.fail(true);
            } else {
                disk.full(true);
            }
        }
        (self.took_effect)();
        self.wait().await;
        for broker in &self.fault.brokers {
            let disk = self.host(*broker).disk();
            if is_error {
                disk.fail(false);
            } else {
                disk.full(false);
            }
        }
    }

    async fn disk_slow(&self) {
        for broker in &self.fault.brokers {
            self.host(*broker).disk().slow(Some(self.value_ms()));
        }
        (self.took_effect)();
        self.wait().await;
        for broker in &self.fault.brokers {
            self.host(*broker).disk().slow(None);
        }
    }

    fn rot(&self) {
        for broker in &self.fault.brokers {
            let host = self.host(*broker);
            if let Some(what) = host.disk().rot(&self.random) {
                self.stage()
                    .sim
                    .note(format_args!("broker {broker}: damaged is {what}"));
                self.nemesis.has_rot(*broker);
                (self.took_effect)();
            }
        }
    }

    async fn put_back(&self) {
        let broker = self.fault.brokers[0];
        let host = self.host(broker);
        let copy = host.copy();
        self.wait().await;
        self.nemesis.hold(&[broker]);
        self.stage().cluster.kill(broker);
        host.put_back(&copy);
        self.nemesis.was_put_back(broker);
        (self.took_effect)();
        sleep(RESTART_AFTER).await;
        self.nemesis.start(&[broker]).await;
        // It asks its peers before it opens anything, and refuses then.
        sleep(Duration::from_secs(3)).await;
        if self.nemesis.has_refused(broker) {
            self.replaced(broker).await;
        }
    }

    async fn replace(&self) {
        let broker = self.fault.brokers[0];
        self.nemesis.hold(&[broker]);
        self.stage().cluster.kill(broker);
        (self.took_effect)();
        self.wait().await;
        self.replaced(broker).await;
        self.nemesis.let_go(&[broker]);
    }

    async fn replaced(&self, broker: u32) {
        if let Err(why) = self.nemesis.replace(broker).await {
            self.stage().report(why);
        }
    }

    async fn clock(&self) {
        for broker in &self.fault.brokers {
            let clock = self.host(*broker).clock();
            match self.fault.kind {
                FaultKind::ClockJump => clock.set_off(self.fault.value),
                _ => clock.drift(self.fault.value),
            }
        }
        (self.took_effect)();
        self.wait().await;
        for broker in &self.fault.brokers {
            let clock = self.host(*broker).clock();
            clock.drift(0);
            clock.set_off(0);
        }
    }

    async fn transfer(&mut self) {
        let target = BrokerId(self.fault.brokers[0]);
        self.again_and_again(self.value_ms(), async |act: &mut Self| {
            let chance = act.random.random_range(0..usize::MAX);
            let called = act.nemesis.admin(async |admin| {
                let partitions = admin.describe_partitions(None).await?;
                let others = partitions
                    .iter()
                    .filter(|state| state.leader_id != Some(target) && state.replicas.contains(&target));
                let others: Vec<_> = others.collect();
                if others.is_empty() {
                    return Ok(false);
                }
                let state = others[chance % others.len()];
                admin.transfer_leader(&state.topic, state.partition, target).await?;
                Ok(true)
            });
            if called.await == Ok(true) {
                (act.took_effect)();
            }
        })
        .await;
    }
}
