//! Draws a scenario from a seed.
//!
//! What the promise covers bounds what is drawn: any faults of processes, links, power and clocks, since what a majority has synced
//! survives them; data that is lost or damaged beyond that on one broker only, while nothing else goes wrong
//! (`docs/architecture/damage.md`).

use jangada_env::Random;
use rand::RngExt as _;

use super::{Fault, FaultKind, Scenario, TeamPlan};
use crate::roles::{self, TeamKind};

/// The least and the most seconds that teams work.
const SECONDS: std::ops::Range<u64> = 15..45;
/// Before and after a fault that loses data nothing else goes wrong for so long, milliseconds.
const QUIET_MS: u64 = 8_000;
/// The copy that a disk is put back to is at least that old: by then its peers have been told what it had, and have saved it, twice.
const COPY_AGE_MS: u64 = 9_000;
/// Work before the first fault, milliseconds.
const FIRST_MS: u64 = 1_500;

/// How often a kind is drawn, next to the others.
const fn weight(kind: FaultKind) -> u32 {
    match kind {
        FaultKind::Kill | FaultKind::PowerLoss => 10,
        FaultKind::KillAtWrite | FaultKind::Partition | FaultKind::Stall => 8,
        FaultKind::KillController | FaultKind::Isolate | FaultKind::Transfer | FaultKind::Pause => 6,
        FaultKind::CutOneWay | FaultKind::Reset | FaultKind::Restart | FaultKind::Deaf | FaultKind::Lossy => 5,
        FaultKind::DiskError | FaultKind::DiskSlow | FaultKind::ClockJump | FaultKind::Rot | FaultKind::Delay => 4,
        FaultKind::SlowLink | FaultKind::DiskFull | FaultKind::ClockDrift | FaultKind::Replace => 3,
        FaultKind::RollingRestart | FaultKind::PutBack => 2,
    }
}

/// How many brokers a kind needs to mean anything, or to be within the promise.
const fn brokers_min(kind: FaultKind) -> u32 {
    match kind {
        FaultKind::Rot | FaultKind::PutBack | FaultKind::Replace => 3,
        FaultKind::CutOneWay | FaultKind::Partition | FaultKind::SlowLink | FaultKind::Transfer => 2,
        _ => 1,
    }
}

impl Scenario {
    /// The scenario of a seed.
    pub fn draw(seed: u64) -> Self {
        let kinds: Vec<&str> = roles::teams().iter().map(TeamKind::name).collect();
        Self::of_kinds(seed, kinds)
    }

    /// The scenario of a seed with teams of these kinds alone; of all if none are named.
    ///
    /// # Errors
    /// There is no such kind.
    pub fn draw_with(seed: u64, kinds: &[&str]) -> Result<Self, String> {
        if kinds.is_empty() {
            return Ok(Self::draw(seed));
        }
        let all: Vec<&str> = roles::teams().iter().map(TeamKind::name).collect();
        match kinds.iter().find(|kind| !all.contains(kind)) {
            Some(kind) => Err(format!("there is no team {kind:?}; there are {}", all.join(", "))),
            None => Ok(Self::of_kinds(seed, kinds.to_vec())),
        }
    }

    fn of_kinds(seed: u64, kinds: Vec<&str>) -> Self {
        let random = &mut Random::seeded(seed ^ 0x5ce_9a12_0000);
        let brokers = match random.random_range(0..20) {
            0..2 => 1,
            2..17 => 3,
            _ => 5,
        };
        let seconds = random.random_range(SECONDS);
        let mut scenario = Self {
            seed,
            brokers,
            seconds,
            settings: settings(random),
            teams: teams(random, kinds),
            faults: Vec::new(),
        };
        scenario.faults = faults(random, brokers, seconds * 1000);
        scenario
    }
}

/// One of these.
fn one_of<T: Copy>(random: &mut Random, of: &[T]) -> T {
    of[random.random_range(0..of.len())]
}

fn settings(random: &mut Random) -> Vec<String> {
    let mut settings = Vec::new();
    let mut set = |key: &str, value: u64| settings.push(format!("{key}={value}"));
    let heartbeat = one_of(random, &[100, 200, 200, 300]);
    set("raft.heartbeat_ms", heartbeat);
    set(
        "raft.election_timeout_min_ms",
        heartbeat * 2 + random.random_range(0..300),
    );
    set(
        "raft.election_timeout_max_ms",
        heartbeat * 4 + random.random_range(300..900),
    );
    set("groups.shards", one_of(random, &[1, 2, 3]));
    let busy = one_of(random, &[50, 100, 300]);
    set("groups.busy_heartbeat_interval_ms", busy);
    set(
        "groups.heartbeat_interval_ms",
        busy.max(one_of(random, &[300, 500, 1000, 3000])),
    );
    set("groups.batch_window_ms", one_of(random, &[0, 10, 100]));
    set("retention.check_interval_ms", one_of(random, &[200, 1000, 5000]));
    set(
        "retention.steady_clock_ms",
        one_of(random, &[0, 1000, 10_000, 3_600_000]),
    );
    set("storage.reclaim_interval_ms", one_of(random, &[100, 1000, 5000]));
    set(
        "cluster.preferred_leader_after_ms",
        one_of(random, &[0, 2000, 5000, 30_000]),
    );
    set("produce.timeout_ms", one_of(random, &[1000, 3000, 10_000]));
    set("repair.scrub_interval_ms", one_of(random, &[1000, 5000, 604_800_000]));
    set("storage.tail_bytes", one_of(random, &[1 << 20, 128 << 20]));
    settings
}

/// One to three teams, of different kinds as far as there are.
fn teams(random: &mut Random, mut kinds: Vec<&str>) -> Vec<TeamPlan> {
    let wanted = one_of(random, &[1, 2, 2, 2, 3]).min(kinds.len());
    let mut teams: Vec<TeamPlan> = Vec::new();
    // One that only moves leaders shows nothing by itself.
    while teams.len() < wanted || (teams.iter().all(|team| team.kind == "leaders") && !kinds.is_empty()) {
        teams.push(TeamPlan {
            kind: kinds.swap_remove(random.random_range(0..kinds.len())).to_owned(),
            seed: random.random_range(0..1_000_000),
        });
    }
    teams
}

fn kind(random: &mut Random, brokers: u32) -> FaultKind {
    let possible = || FaultKind::ALL.iter().filter(|kind| brokers_min(**kind) <= brokers);
    let mut at = random.random_range(0..possible().map(|kind| weight(*kind)).sum());
    for kind in possible() {
        match at.checked_sub(weight(*kind)) {
            Some(rest) => at = rest,
            None => return *kind,
        }
    }
    unreachable!("it is below the sum")
}

/// So many of the brokers.
fn some(random: &mut Random, brokers: u32, count: u32) -> Vec<u32> {
    let mut all: Vec<u32> = (1..=brokers).collect();
    let mut targets: Vec<u32> = (0..count.min(brokers))
        .map(|_| all.swap_remove(random.random_range(0..all.len())))
        .collect();
    targets.sort_unstable();
    targets
}

fn targets(random: &mut Random, kind: FaultKind, brokers: u32) -> Vec<u32> {
    let minority = (brokers - 1) / 2;
    let count = match kind {
        FaultKind::CutOneWay | FaultKind::SlowLink => 2,
        FaultKind::RollingRestart => brokers,
        FaultKind::Partition => random.random_range(1..=minority.max(1)),
        // Mostly as many as the others can do without, now and then all.
        FaultKind::Kill | FaultKind::PowerLoss | FaultKind::Pause | FaultKind::KillAtWrite => {
            match random.random_range(0..10) {
                0..6 => 1,
                6..8 => minority.max(1),
                8 => minority + 1,
                _ => brokers,
            }
        }
        FaultKind::Stall | FaultKind::Reset | FaultKind::DiskSlow | FaultKind::ClockJump => {
            random.random_range(1..=brokers)
        }
        _ => 1,
    };
    let mut targets = some(random, brokers, count);
    if kind == FaultKind::CutOneWay && random.random_bool(0.5) {
        targets.reverse();
    }
    targets
}

fn value(random: &mut Random, kind: FaultKind) -> i64 {
    match kind {
        FaultKind::KillAtWrite => random.random_range(1..40),
        FaultKind::RollingRestart => random.random_range(500..2500),
        FaultKind::SlowLink => one_of(random, &[5_000, 20_000, 100_000]),
        FaultKind::Delay => one_of(random, &[20, 80, 300]),
        FaultKind::Stall => one_of(random, &[50, 300, 1500]),
        FaultKind::Lossy => one_of(random, &[1, 5, 20]),
        FaultKind::Reset => one_of(random, &[100, 500, 2000]),
        FaultKind::DiskSlow => one_of(random, &[5, 50, 400]),
        FaultKind::ClockJump => {
            let size = one_of(random, &[200, 5_000, 120_000, 7_200_000]);
            if random.random_bool(0.5) { size } else { -size }
        }
        FaultKind::ClockDrift => one_of(random, &[-100_000, -1_000, 1_000, 100_000]),
        FaultKind::Transfer => one_of(random, &[100, 400, 1500]),
        _ => 0,
    }
}

fn lasts(random: &mut Random, kind: FaultKind) -> u64 {
    match kind {
        FaultKind::PutBack => random.random_range(COPY_AGE_MS..COPY_AGE_MS + 4_000),
        FaultKind::Rot => 0,
        FaultKind::KillAtWrite => random.random_range(1_000..5_000),
        _ => match random.random_range(0..10) {
            0..3 => random.random_range(1..300),
            3..8 => random.random_range(300..4_000),
            _ => random.random_range(4_000..12_000),
        },
    }
}

fn faults(random: &mut Random, brokers: u32, ends_ms: u64) -> Vec<Fault> {
    let wanted = random.random_range(1..=(ends_ms / 5_000).max(2));
    let mut faults: Vec<Fault> = Vec::new();
    for _ in 0..wanted {
        let kind = kind(random, brokers);
        let fault = Fault {
            at_ms: random.random_range(FIRST_MS..ends_ms),
            lasts_ms: lasts(random, kind),
            kind,
            brokers: targets(random, kind, brokers),
            value: value(random, kind),
        };
        if fits(&faults, &fault) {
            faults.push(fault);
        }
    }
    faults.sort_by_key(|fault| (fault.at_ms, fault.end_ms()));
    faults
}

/// Whether the promise covers the fault beside these.
fn fits(faults: &[Fault], fault: &Fault) -> bool {
    faults.iter().all(|other| {
        let apart_ms = if fault.at_ms <= other.at_ms {
            other.at_ms.saturating_sub(fault.end_ms())
        } else {
            fault.at_ms.saturating_sub(other.end_ms())
        };
        let (loses, other_loses) = (fault.kind.loses_data(), other.kind.loses_data());
        // What is lost is filled again from the others, which takes its time. Two losses are one broker's, or one too many.
        let is_covered = match (loses, other_loses) {
            (true, true) => false,
            (false, false) => true,
            _ => apart_ms >= QUIET_MS,
        };
        // Two faults of one kind would end each other: a broker is started again once.
        let is_apart = apart_ms > 0 || fault.kind != other.kind;
        is_covered && is_apart
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn all_kinds_of_faults_are_drawn_and_none_beyond_the_promise() {
        let mut kinds = BTreeSet::new();
        for seed in 0..2_000 {
            let scenario = Scenario::draw(seed);
            let losses = scenario.faults.iter().filter(|fault| fault.kind.loses_data()).count();
            assert!(losses <= 1, "seed {seed}");
            assert!(losses == 0 || scenario.brokers >= 3, "seed {seed}");
            assert!(!scenario.faults.is_empty(), "seed {seed}");
            for fault in &scenario.faults {
                kinds.insert(fault.kind);
                assert!(
                    fault
                        .brokers
                        .iter()
                        .all(|broker| (1..=scenario.brokers).contains(broker)),
                    "seed {seed}"
                );
            }
        }
        let missing: Vec<_> = FaultKind::ALL.iter().filter(|kind| !kinds.contains(kind)).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}
