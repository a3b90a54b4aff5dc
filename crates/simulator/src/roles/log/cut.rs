//! A client that dies: its machine is cut off, so that nothing of what it left behind is told to anybody.

use crate::host::Host;
use crate::play::stage::Stage;

/// A client's machine that reaches no broker, until this is dropped.
pub struct CutOff {
    stage: Stage,
    machine: Host,
}

impl CutOff {
    /// Cuts off the machine of the client that was connected under this name.
    pub fn begin(stage: &Stage, name: &str) -> Self {
        let machine = stage.cluster.client_host(&stage.named(name));
        for broker in stage.cluster.hosts() {
            stage.sim.network().cut(&machine, broker);
            stage.sim.network().cut(broker, &machine);
        }
        stage.note(&format!("{name} is cut off"));
        Self {
            stage: stage.clone(),
            machine,
        }
    }
}

impl Drop for CutOff {
    fn drop(&mut self) {
        for broker in self.stage.cluster.hosts() {
            self.stage.sim.network().mend(&self.machine, broker);
            self.stage.sim.network().mend(broker, &self.machine);
        }
    }
}
