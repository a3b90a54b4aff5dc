//! What is said of a history.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

/// How many anomalies of one kind are kept, the ones with the fewest events first. All are counted.
pub const KEPT_MAX: usize = 10;

/// Defines the kinds of anomalies with their names and what each means.
macro_rules! kinds {
    ($($kind:ident $name:literal $meaning:literal)*) => {
        /// The kind of an anomaly.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        pub enum Kind {
            $(
                #[doc = $meaning]
                #[serde(rename = $name)]
                $kind,
            )*
        }

        impl Kind {
            /// Every kind that there is.
            pub const ALL: &[Kind] = &[$(Kind::$kind),*];

            /// The kind's name in reports and files.
            pub fn name(self) -> &'static str {
                match self {
                    $(Kind::$kind => $name,)*
                }
            }

            /// The meaning in a sentence.
            pub fn meaning(self) -> &'static str {
                match self {
                    $(Kind::$kind => $meaning,)*
                }
            }
        }
    };
}

kinds! {
    LostWrite "lost-write" "A write that was acknowledged or read is gone, though readers have passed its offset."
    Unseen "unseen" "An acknowledged write lies behind the end of all that can be read."
    Duplicate "duplicate" "A value that was to be written once is at two offsets."
    InconsistentOffset "inconsistent-offset" "An offset has two values."
    Misplaced "misplaced" "A value is at another offset than its writer was told."
    Gap "gap" "An offset that must have a record has none."
    Invented "invented" "A value was read that nobody sent, or whose send was refused for certain."
    EndNotReached "end-not-reached" "A reader cannot come to the end of the log."
    ConditionBroken "condition-broken" "A conditional write was taken though its condition did not hold."
    SendOrder "send-order" "Writes of one process to a partition are in another order than it sent them."
    RealTimeOrder "real-time-order" "A write lies before another one that was acknowledged before it was sent."
    PollOrderInternal "poll-order-internal" "Within one poll a record comes behind a later one."
    PollOrderExternal "poll-order-external" "A poll gives what lies before what its process has read."
    PollSkipInternal "poll-skip-internal" "Within one poll a record is left out."
    PollSkipExternal "poll-skip-external" "Between two polls of a process a record is left out."
    SkipWithinEpoch "skip-within-epoch" "Within one epoch a member of a group leaves a record out."
    EndOffsetStale "end-offset-stale" "The end that was told is below what was acknowledged or read before."
    EndOffsetBack "end-offset-went-back" "The end that was told is below an end that was told before."
    EndOffsetAhead "end-offset-ahead" "The end that was told is above what had been sent by then."
    CommitBack "commit-went-back" "Committed offsets of a group went back."
    InventedOffset "invented-offset" "A committed offset was told that nobody committed."
    SpuriousZero "spurious-zero-offset" "A group that had committed was told offset zero or none."
    TwoOwners "two-owners" "A partition was assigned to two members in one epoch."
    ReplicaDivergence "replica-divergence" "What one replica has is not what the others have."
    AbortedRead "aborted-read" "A value of an aborted transaction was read (G1a)."
    TornTransaction "torn-transaction" "Some values of a transaction are there, and others are not."
    OffsetsWithoutOutputs "offsets-without-outputs" "Offsets of an aborted transaction count, or those of a committed one do not."
    Hanging "hanging-transaction" "A transaction is still open when all is over."
    CircularFlow "circular-information-flow" "Transactions read from each other in a circle (G1c)."
    CycleProcess "cycle-process" "Reads and writes contradict the order of a process."
    CycleRealTime "cycle-real-time" "Reads and writes contradict real time."
    LastValueLost "last-value-lost" "Compaction took the last value of a key."
    DeletedValueBack "deleted-value-back" "A tombstone is gone before the value that it deletes."
    DeletionMissed "deletion-missed" "A reader that did not lag behind did not see a deletion."
    MessageLost "message-lost" "A message that was taken is neither done nor there (I8, I14)."
    MessageInvented "message-invented" "A message came that nobody sent."
    MessageTwice "message-twice" "A message that has one id is in the queue twice (I12)."
    TwoStates "two-states" "A message has two states at once (I1)."
    CountsWrong "counts-wrong" "A queue counts other messages than it has (I1)."
    AfterAck "delivered-after-ack" "A message came again after its acknowledgement was confirmed (I2, I4)."
    TwoHolders "two-holders" "Two consumers had a message at once (I3)."
    StaleSettle "stale-settle" "A settlement took effect under a lease that was lost (I3)."
    LeaseReused "lease-reused" "Two messages came under one lease token (I3)."
    FailedTooOften "failed-too-often" "A message went out or stayed alive after its last attempt had failed (I5)."
    KeyOrder "key-order" "Messages of a key came first in another order than they were sent (I6)."
    TwoOfAKey "two-of-a-key" "Two consumers had messages of one key at once (I6)."
    TooEarly "too-early" "A message came before its time (I7)."
    QueueDivergence "queue-divergence" "What one replica has of a queue is not what the others have (I9)."
    LogStartAboveFloor "log-start-above-floor" "A queue's log was cut above its floor (I10)."
    FloorAboveMessage "floor-above-message" "A queue's floor has passed a message that is not done (I10)."
    DeadLetterLost "dead-letter-lost" "A dead letter is neither in its queue nor where dead letters go (I11)."
    DeadLetterTwice "dead-letter-twice" "A dead letter arrived twice (I11)."
    LaneOrder "lane-order" "A message went out while one with a higher priority was ready (I13)."
    AttemptsBack "attempts-went-back" "Attempts or failures of a message went back (I14)."
    TornPublish "torn-publish" "A confirmed message is not in all of its queues (I15)."
    Misrouted "misrouted" "A published message is in a queue that it is not for (I15)."
    OccurrenceTwice "occurrence-twice" "An occurrence of a schedule was sent twice (I16)."
    OccurrenceMissed "occurrence-missed" "An occurrence of a schedule was left out (I16)."
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One event that shows an anomaly.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Witness {
    /// The index of the event.
    pub index: u64,
    /// What happened, as a sentence.
    pub text: String,
}

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Anomaly {
    /// The kind that it is of.
    pub kind: Kind,
    /// What is wrong, in a sentence.
    pub message: String,
    /// The fewest events that show it, in order; those of a cycle in the order of the cycle.
    pub witness: Vec<Witness>,
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.message)?;
        for witness in &self.witness {
            write!(f, "\n    {}", witness.text)?;
        }
        Ok(())
    }
}

/// Whether a history is as it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Judgement {
    /// Nothing is wrong, and what was to be tested was tested.
    Valid,
    /// Something is wrong.
    Invalid,
    /// Nothing wrong was found, but the history does not show what it was to show.
    Unknown,
}

impl Judgement {
    /// The exit code of the program.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Valid => 0,
            Self::Invalid => 1,
            Self::Unknown => 2,
        }
    }
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Valid => "valid",
            Self::Invalid => "invalid",
            Self::Unknown => "unknown",
        })
    }
}

/// What is said of a history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Whether it is as it must be.
    pub judgement: Judgement,
    /// How many anomalies of each kind there are.
    pub counts: BTreeMap<Kind, u64>,
    /// Those with the smallest witnesses, at most [`KEPT_MAX`] of a kind.
    pub anomalies: Vec<Anomaly>,
    /// Why the verdict is unknown, or would be if nothing were wrong.
    pub unknown: Vec<String>,
    /// What else should be known: faults that did not land, checks that could not be made.
    pub remarks: Vec<String>,
    /// Operations that were judged.
    pub operations: u64,
}

impl Verdict {
    /// The kinds of the anomalies, in order.
    pub fn kinds(&self) -> Vec<Kind> {
        self.counts.keys().copied().collect()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {} operations", self.judgement, self.operations)?;
        for (kind, count) in &self.counts {
            writeln!(f, "  {count} x {kind}: {}", kind.meaning())?;
        }
        for anomaly in &self.anomalies {
            writeln!(f, "\n{anomaly}")?;
        }
        for why in &self.unknown {
            writeln!(f, "unknown: {why}")?;
        }
        for remark in &self.remarks {
            writeln!(f, "note: {remark}")?;
        }
        Ok(())
    }
}

/// Anomalies as checks find them.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    counts: BTreeMap<Kind, u64>,
    kept: BTreeMap<Kind, Vec<Anomaly>>,
    pub unknown: Vec<String>,
    pub remarks: Vec<String>,
}

impl Findings {
    /// Adds an anomaly. The witness is only made if it may be kept.
    pub fn add(&mut self, kind: Kind, message: impl FnOnce() -> String, witness: impl FnOnce() -> Vec<(u64, String)>) {
        self.add_ordered(kind, message, || {
            let mut witness = witness();
            witness.sort();
            witness.dedup();
            witness
        });
    }

    /// Like [`Self::add`], with a witness whose order says something.
    pub fn add_ordered(
        &mut self,
        kind: Kind,
        message: impl FnOnce() -> String,
        witness: impl FnOnce() -> Vec<(u64, String)>,
    ) {
        *self.counts.entry(kind).or_default() += 1;
        let kept = self.kept.entry(kind).or_default();
        // Of the first some hundred the smallest are kept; a history with more needs no smaller one.
        if kept.len() >= 5 * KEPT_MAX {
            return;
        }
        let witness = witness().into_iter().map(|(index, text)| Witness { index, text });
        kept.push(Anomaly {
            kind,
            message: message(),
            witness: witness.collect(),
        });
    }

    pub fn verdict(self, operations: u64) -> Verdict {
        let judgement = match (self.counts.is_empty(), self.unknown.is_empty()) {
            (false, _) => Judgement::Invalid,
            (true, false) => Judgement::Unknown,
            (true, true) => Judgement::Valid,
        };
        let mut anomalies = Vec::new();
        for mut kept in self.kept.into_values() {
            kept.sort_by_key(|anomaly| (anomaly.witness.len(), anomaly.witness.first().map(|it| it.index)));
            kept.truncate(KEPT_MAX);
            anomalies.extend(kept);
        }
        Verdict {
            judgement,
            counts: self.counts,
            anomalies,
            unknown: self.unknown,
            remarks: self.remarks,
            operations,
        }
    }
}
