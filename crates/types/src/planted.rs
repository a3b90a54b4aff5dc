//! Bugs that are planted in the product, one at a time, to see whether its tests find them: the simulator runs seeds against each
//! (`jangada-sim --planted all`, docs/reliability.md).
//!
//! ```text
//!   if planted::is(Bug::AckBeforeSync) { .. }      the site of a bug, beside the code that is right
//!   planted::plant(Some(bug))                      in the simulator, for the whole process
//! ```
//!
//! Without the feature `planted`, which only the simulator switches on, [`is`] is a constant: no site is left in what is compiled.

macro_rules! bugs {
    ($($(#[doc = $what:literal])+ $bug:ident = $name:literal,)*) => {
        /// A bug that can be planted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Bug {
            $($(#[doc = $what])+ $bug,)*
        }

        impl Bug {
            /// All bugs, in the order of the layers that they are in.
            pub const ALL: &[Self] = &[$(Self::$bug),*];

            /// The names of all bugs, in the same order.
            pub const NAMES: &[&str] = &[$($name),*];

            /// The name that the command line takes, in small letters with hyphens.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$bug => $name,)*
                }
            }

            /// What the product does wrong with it, in a sentence.
            pub fn what(self) -> &'static str {
                match self {
                    $(Self::$bug => concat!($($what),+).trim_ascii(),)*
                }
            }
        }
    };
}

bugs! {
    // Storage, Raft and its snapshots.

    /// Entries count as durable when they are written, before they are synced.
    AckBeforeSync = "ack-before-sync",
    /// A vote is kept in memory only, so a replica that starts again may vote twice in a term.
    VoteNotDurable = "vote-not-durable",
    /// An append whose connection broke counts as answered, so a leader commits what a minority has.
    CommitByMinority = "commit-by-minority",
    /// A candidate says that its log is longer than it is, and followers cut off what is committed.
    TruncationBelowCommit = "truncation-below-commit",
    /// A follower that cuts its log off keeps one entry too many, and the next leader's entry is not written there.
    OffByOneAfterTruncation = "off-by-one-after-truncation",
    /// A new leader answers as soon as it is elected, before it has applied what was committed before.
    StaleReadAfterTransfer = "stale-read-after-transfer",
    /// A linearizable read is answered without asking a quorum whether this leader still leads.
    ReadWithoutQuorum = "read-without-quorum",
    /// A leader that no quorum answers goes on answering.
    CutOffLeaderAnswers = "cut-off-leader-answers",
    /// A replica that is opened takes its snapshot for its newer saved state, and applies nothing of what lies between.
    SnapshotOverNewerLog = "snapshot-over-newer-log",
    /// A replica that installs a snapshot keeps the state that it had.
    StateKeptAtInstallation = "state-kept-at-installation",
    /// A snapshot is sent without the rows of the tables that go with it.
    SnapshotWithoutRows = "snapshot-without-rows",
    /// The log is cut off at the newest checkpoint, whether or not its records are to be kept.
    PurgeAboveCheckpoint = "purge-above-checkpoint",
    /// The last entry of the saved state is applied again when a replica is opened.
    AppliedTwiceAfterRestart = "applied-twice-after-restart",
    /// The saved state is written before the rows that it covers, and a power failure comes between.
    StateBeforeItsRows = "state-before-its-rows",
    /// A broker whose directory was put back is let in by those who remember what it lacks.
    DirectoryPutBack = "directory-put-back",
    /// A replica that cannot read its vote takes it for none, and votes again.
    RotVotedOn = "rot-voted-on",
    /// A damaged replica is given up without asking whether others have what it has.
    LastReplicaGivenUp = "last-replica-given-up",
    /// A broker that was replaced, and comes back empty, counts as the replica that it was.
    EmptyBrokerIsTheOldOne = "empty-broker-is-the-old-one",
    /// Blocks of producer ids are given out again after the metadata was read from a saved state.
    ProducerIdsTwice = "producer-ids-twice",
    /// A new topic gets the groups of one that was deleted, and with them its data.
    GroupIdReused = "group-id-reused",

    // Partitions.

    /// The producer table is not in the saved state of a partition.
    ProducersLostInSnapshot = "producers-lost-in-snapshot",
    /// A batch that is there already is appended again.
    RetryAppendedAgain = "retry-appended-again",
    /// A batch behind one that is missing is appended.
    SequenceGapTaken = "sequence-gap-taken",
    /// A batch of an epoch that a newer one has fenced is appended.
    ZombieProducer = "zombie-producer",
    /// What another leader found of a key counts in a later term.
    ConditionOfOldTerm = "condition-of-old-term",
    /// A new leader looks keys up before it has indexed what its predecessor wrote.
    KeysBeforeBarrier = "keys-before-barrier",
    /// Where a replica cannot read a batch, it goes on behind it.
    HoleServed = "hole-served",
    /// A replica that does not lead any more judges offsets out of range, and consumers begin anew.
    OffsetResetAtFailover = "offset-reset-at-failover",

    // Transactions.

    /// The last stable offset does not stop at open transactions.
    StableBeyondOpen = "stable-beyond-open",
    /// No row tells readers of a transaction that was aborted.
    AbortedRowLost = "aborted-row-lost",
    /// A marker ends whatever transaction of its producer is open, whichever it was meant for.
    MarkerWithoutSequence = "marker-without-sequence",
    /// A producer with an open transaction is forgotten when others come.
    OpenProducerEvicted = "open-producer-evicted",
    /// The saved state does not say which transactions have ended, so late batches open them again.
    EndedSequenceLost = "ended-sequence-lost",
    /// A partition that could not be told how a transaction ended counts as told.
    MarkerGivenUp = "marker-given-up",
    /// A consumer group whose offsets are part of a transaction is not among those that are told of its end.
    GroupNotAdded = "group-not-added",
    /// The commit of a transaction that was aborted meanwhile is answered as done.
    AbortTakenForCommit = "abort-taken-for-commit",
    /// The next transaction of an id begins before the markers of the one before are written.
    BeginBeforeWritten = "begin-before-written",
    /// Offsets of a transaction that is aborted are committed.
    AbortedOffsetsCommitted = "aborted-offsets-committed",

    // Consumer groups.

    /// A member commits offsets though its epoch is over and its partitions are another's.
    ZombieCommit = "zombie-commit",
    /// A partition is given to a member before the one that had it has let go.
    TwoOwners = "two-owners",
    /// Committed offsets of groups without members are not in the saved state.
    OffsetsLostInSnapshot = "offsets-lost-in-snapshot",

    // Queues and exchanges.

    /// A message is handed out when its lease is proposed, before it is applied.
    LeaseBeforeApplied = "lease-before-applied",
    /// A settlement is answered when it is proposed, before it is applied.
    SettleBeforeApplied = "settle-before-applied",
    /// Whoever names a message that is out settles it, whatever lease it has.
    SettleWithoutLease = "settle-without-lease",
    /// The floor of a slot passes messages that are dead.
    FloorPassesDead = "floor-passes-dead",
    /// The log of a queue is cut off up to the first message that nobody had, also above those that are out.
    LogStartPassesLeased = "log-start-passes-leased",
    /// A message whose lease ran out comes back as if it had never been tried.
    AttemptsForgotten = "attempts-forgotten",
    /// A new leader does not know that the keys of messages that are out are busy.
    KeyFreeAtFailover = "key-free-at-failover",
    /// Delayed messages go out a second early.
    DelayedGoesEarly = "delayed-goes-early",
    /// An occurrence of a schedule is sent again when its first try is answered late.
    ScheduleFiresTwice = "schedule-fires-twice",
    /// A message that is carried forward in its log loses its lease.
    CarryFreesLeased = "carry-frees-leased",
    /// What another leader found of message ids counts in a later term.
    IdsOfOldTerm = "ids-of-old-term",
    /// A new leader sends the dead letters that are on their way under another producer id.
    LettersSentAnew = "letters-sent-anew",
    /// Dead letters of which it is not known whether they arrived count as arrived.
    LettersTakenForArrived = "letters-taken-for-arrived",
    /// An acknowledgement in a transaction counts though that is aborted.
    AbortedAckCounts = "aborted-ack-counts",
    /// Messages that were sent in an aborted transaction stay in the queue.
    AbortedMessagesStay = "aborted-messages-stay",
    /// Messages of a transaction that is open are handed out.
    UndecidedHandedOut = "undecided-handed-out",
    /// A message in the log of an exchange is for all of its queues, also those that it was not routed to.
    MarksForAll = "marks-for-all",
    /// A message that only some of its queues took is answered as published.
    HalfPublished = "half-published",

    // Compaction.

    /// A tombstone goes in the first pass, before readers had the time to see it.
    TombstoneLost = "tombstone-lost",
    /// A tombstone goes from a replica while others still have the value before it.
    TombstoneBeforeItsValue = "tombstone-before-its-value",
    /// A tombstone does not supersede the value before it, and goes.
    TombstoneSupersedesNothing = "tombstone-supersedes-nothing",
    /// Compaction goes on beyond the last stable offset.
    CompactionPastStable = "compaction-past-stable",
    /// A record of an aborted transaction supersedes the value before it.
    AbortedSupersedes = "aborted-supersedes",
    /// A marker goes while records of its transaction are left.
    MarkerBeforeItsRecords = "marker-before-its-records",

    // The client.

    /// A batch whose answer was lost counts as never sent.
    UnknownTakenForFailure = "unknown-taken-for-failure",
}

impl Bug {
    /// The bug of a name; none: there is no such bug.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|bug| bug.name() == name)
    }
}

/// Whether a bug is planted in this process: never without the feature `planted`.
#[cfg(not(feature = "planted"))]
#[inline]
pub const fn is(_: Bug) -> bool {
    false
}

#[cfg(feature = "planted")]
pub use on::{is, plant, reached};

/// What is planted in this process, and whether the product has come by.
#[cfg(feature = "planted")]
mod on {
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

    use super::Bug;

    const NONE: usize = usize::MAX;

    static PLANTED: AtomicUsize = AtomicUsize::new(NONE);
    static REACHED: AtomicU64 = AtomicU64::new(0);

    /// Whether a bug is planted in this process.
    #[inline]
    pub fn is(bug: Bug) -> bool {
        let is_planted = PLANTED.load(Relaxed) == bug as usize;
        if is_planted {
            REACHED.fetch_add(1, Relaxed);
        }
        is_planted
    }

    /// Plants a bug in this process, in the place of one that was planted before; `None`: there is none any more.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.store(bug.map_or(NONE, |bug| bug as usize), Relaxed);
        REACHED.store(0, Relaxed);
    }

    /// How often this process came to a site of the bug that was planted last: 0 says that a run did not even try it.
    pub fn reached() -> u64 {
        REACHED.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_bug_has_a_name_of_its_own_and_a_sentence() {
        let names: BTreeSet<&str> = Bug::ALL.iter().map(|bug| bug.name()).collect();
        assert_eq!(names.len(), Bug::ALL.len());
        let is_kebab = |name: &str| name.chars().all(|c| c.is_ascii_lowercase() || c == '-');
        for bug in Bug::ALL {
            assert!(is_kebab(bug.name()), "{}", bug.name());
            assert!(
                bug.what().ends_with('.') && !bug.what().starts_with(' '),
                "{}",
                bug.what()
            );
            assert_eq!(Bug::of_name(bug.name()), Some(*bug));
        }
        assert_eq!(Bug::of_name("none"), None);
    }

    #[cfg(not(feature = "planted"))]
    #[test]
    fn without_the_feature_no_bug_is_planted() {
        const IS_PLANTED: bool = is(Bug::AckBeforeSync);
        const { assert!(!IS_PLANTED) };
    }

    #[cfg(feature = "planted")]
    #[test]
    fn a_bug_is_planted_until_another_one_is() {
        plant(Some(Bug::TwoOwners));
        assert!(is(Bug::TwoOwners) && !is(Bug::AckBeforeSync));
        assert_eq!(reached(), 1);
        plant(None);
        assert!(!is(Bug::TwoOwners));
        assert_eq!(reached(), 0);
    }
}
