//! What happens in a run: how many brokers with which settings, which teams of clients, and which faults when. All of it is drawn from a
//! seed, can be written down as text, and can be made smaller.

mod draw;
mod fault;
mod text;

pub use fault::{Fault, FaultKind};

/// A team of a scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TeamPlan {
    /// The name of its kind: see [`roles::teams`](crate::roles::teams).
    pub kind: String,
    /// Its own seed, so that it is the same without the other teams.
    pub seed: u64,
}

/// What happens in a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// Everything that is not written here follows from it.
    pub seed: u64,
    /// Brokers of the cluster: 1, 3 or 5.
    pub brokers: u32,
    /// For how long the teams work, seconds of simulated time.
    pub seconds: u64,
    /// Settings of all brokers, `section.key=value`.
    pub settings: Vec<String>,
    /// The teams that work.
    pub teams: Vec<TeamPlan>,
    /// What goes wrong, in order of time.
    pub faults: Vec<Fault>,
}

impl Scenario {
    /// The same scenario with these of its faults alone, by their numbers from 0.
    #[must_use]
    pub fn with_faults(&self, kept: &[usize]) -> Self {
        let mut less = self.clone();
        less.faults = kept.iter().filter_map(|at| self.faults.get(*at).cloned()).collect();
        less
    }

    /// The same scenario with these of its teams alone, by their numbers from 0.
    #[must_use]
    pub fn with_teams(&self, kept: &[usize]) -> Self {
        let mut less = self.clone();
        less.teams = kept.iter().filter_map(|at| self.teams.get(*at).cloned()).collect();
        less
    }

    /// The same scenario without the faults that the disk in memory alone can have.
    #[must_use]
    pub fn for_rocksdb(&self) -> Self {
        let mut less = self.clone();
        less.faults.retain(|fault| !fault.kind.is_in_memory());
        less
    }
}
