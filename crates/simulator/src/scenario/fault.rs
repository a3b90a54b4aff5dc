//! What can go wrong in a scenario.

use std::fmt;
use std::str::FromStr;

/// Defines the kinds of faults with their names.
macro_rules! kinds {
    ($($(#[$meta:meta])* $kind:ident $name:literal)*) => {
        /// A kind of fault. Its targets are brokers by id; what its value means stands at each.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum FaultKind {
            $($(#[$meta])* $kind,)*
        }

        impl FaultKind {
            /// All kinds of them.
            pub const ALL: &[Self] = &[$(Self::$kind),*];

            /// The name in the text of a scenario.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }
        }
    };
}

kinds! {
    /// The targets' processes are killed, all in the same moment, and started again at the end.
    Kill "kill"
    /// The process of the broker that leads the metadata is killed, and started again at the end. Targets are ignored.
    KillController "kill-controller"
    /// Each target is killed at the n-th write to its disk from now on, and started again at the end. Value: n, from 1.
    KillAtWrite "kill-at-write"
    /// The targets lose power in the same moment: what is not synced may be lost. Started again at the end.
    PowerLoss "power-loss"
    /// The targets' processes stand still, and go on at the end.
    Pause "pause"
    /// The targets are stopped in order, and started again at the end.
    Restart "restart"
    /// All brokers are stopped in order and started again one after the other, as in an upgrade. Value: milliseconds between two.
    RollingRestart "rolling-restart"
    /// Nothing comes from the first target to the second.
    CutOneWay "cut-one-way"
    /// Nothing passes between the targets and the other brokers; clients reach all.
    Partition "partition"
    /// Nothing passes between the targets and all others, clients too.
    Isolate "isolate"
    /// Nothing comes to the target from anybody; what it sends arrives.
    Deaf "deaf"
    /// The link between two targets is slow. Value: bytes per second.
    SlowLink "slow-link"
    /// What the target sends and gets takes up to so much longer. Value: milliseconds.
    Delay "delay"
    /// Again and again a link of the targets stands still, as when segments are lost, doubled or come in another order. Value:
    /// milliseconds each time, at most.
    Stall "stall"
    /// A share of what the targets send to others and get is lost and sent again, which takes its time. Value: percent.
    Lossy "lossy"
    /// All connections between the targets and all others break, again and again. Value: milliseconds between two.
    Reset "reset"
    /// Writes to the target's disk fail. Its process ends and is started again when the disk is sound again.
    DiskError "disk-error"
    /// The target's disk is full. Its process may end, and is started again when there is room.
    DiskFull "disk-full"
    /// Each sync of the target's disk takes so long. Value: milliseconds.
    DiskSlow "disk-slow"
    /// A value on the target's disk is damaged, which is seen when it is read.
    Rot "rot"
    /// The target's disk is copied at the begin. At the end its process is killed and the disk put back to the copy: it must not vote with
    /// what it forgot. It is replaced if it refuses to start.
    PutBack "put-back"
    /// The target loses its disk and is replaced by a new one of the same id.
    Replace "replace"
    /// The target's wall clock is off. Value: milliseconds, may be negative.
    ClockJump "clock-jump"
    /// The target's wall clock runs at another speed. Value: parts per million, may be negative.
    ClockDrift "clock-drift"
    /// Leaders of some partitions are moved to the target again and again. Value: milliseconds between two.
    Transfer "transfer"
}

impl FaultKind {
    /// Whether data of the target is lost or damaged beyond what is not synced. The promise covers one such broker of a cluster.
    pub const fn loses_data(self) -> bool {
        matches!(self, Self::Rot | Self::PutBack | Self::Replace)
    }

    /// Whether the target may live on without hearing of what the others know.
    pub const fn keeps_apart(self) -> bool {
        matches!(
            self,
            Self::Pause
                | Self::CutOneWay
                | Self::Partition
                | Self::Isolate
                | Self::Deaf
                | Self::SlowLink
                | Self::Delay
                | Self::Stall
                | Self::Lossy
                | Self::Reset
        )
    }

    /// Whether it happens to a disk in memory, and cannot to RocksDB.
    pub const fn is_in_memory(self) -> bool {
        matches!(
            self,
            Self::KillAtWrite | Self::DiskError | Self::DiskFull | Self::DiskSlow | Self::Rot | Self::PutBack
        )
    }
}

impl FromStr for FaultKind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|kind| kind.name() == name);
        found.copied().ok_or_else(|| format!("{name:?} is no kind of fault"))
    }
}

/// A fault of a scenario. Times are milliseconds since the work begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// When it begins.
    pub at_ms: u64,
    /// For how long it lasts.
    pub lasts_ms: u64,
    /// What it is.
    pub kind: FaultKind,
    /// The brokers that it acts on, by id.
    pub brokers: Vec<u32>,
    /// What the kind says that it is.
    pub value: i64,
}

impl Fault {
    /// When it is over, milliseconds.
    pub const fn end_ms(&self) -> u64 {
        self.at_ms + self.lasts_ms
    }

    /// The targets as `1,3`.
    pub fn targets(&self) -> String {
        let brokers: Vec<String> = self.brokers.iter().map(u32::to_string).collect();
        brokers.join(",")
    }
}

/// `at 12034 for 3000 slow-link 1,2 50000`
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, lasts, kind) = (self.at_ms, self.lasts_ms, self.kind.name());
        write!(f, "at {at} for {lasts} {kind} {} {}", self.targets(), self.value)
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let ["at", at, "for", lasts, kind, brokers, value] = words[..] else {
            return Err(format!("{text:?} is not: at MS for MS KIND BROKERS VALUE"));
        };
        let number = |text: &str| text.parse::<i64>().map_err(|error| format!("{text:?}: {error}"));
        let count = |text: &str| text.parse::<u64>().map_err(|error| format!("{text:?}: {error}"));
        let id = |text: &str| text.parse::<u32>().map_err(|error| format!("{text:?}: {error}"));
        Ok(Self {
            at_ms: count(at)?,
            lasts_ms: count(lasts)?,
            kind: kind.parse()?,
            brokers: brokers.split(',').map(id).collect::<Result<_, _>>()?,
            value: number(value)?,
        })
    }
}
