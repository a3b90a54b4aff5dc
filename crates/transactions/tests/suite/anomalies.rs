//! The anomalies that transactions exclude, looked for in what clients know: a history says what was written in transactions and how
//! their clients were told that they ended, what transactions read, and what readers of committed records got.
//!
//! | not to be found | name |
//! |---|---|
//! | a value of a transaction that was aborted, for any reader | aborted read (G1a) |
//! | transactions of which each read what the next one wrote, in a circle | circular information flow (G1c) |
//! | a value of a committed transaction that a reader of everything does not get | lost write |
//! | some values of a transaction without the others | torn transaction |
//! | a value twice | duplicate |
//! | an offset with another value than before, or none any more | going back |
//!
//! Transactions interleave in a partition (G0 is no anomaly here), and what they write depends on nothing that is checked: isolation of
//! writes is not promised. It knows no broker and no clock, so the model's histories and those of real processes are held against it
//! alike. Sources: Adya 1999; Jepsen's `tests/kafka.clj`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Debug};

/// What its client knows of how a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It never asked for a commit, or was told that it is aborted: nobody may see anything of it.
    Aborted,
    /// It asked for a commit, and does not know.
    Unknown,
    /// It was told that it is committed: everybody must see all of it.
    Committed,
}

/// One transaction, as its client knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction<V> {
    pub fate: Fate,
    /// The values that are there together or not at all: partition and value.
    pub values: Vec<(u32, V)>,
    /// What it read of committed records while it was open.
    pub reads: Vec<V>,
}

/// What a reader of committed records got of each partition: offsets and values in their order.
pub type Read<V> = BTreeMap<u32, Vec<(i64, V)>>;

/// All that clients know.
#[derive(Clone, Debug)]
pub struct History<T, V> {
    pub transactions: BTreeMap<T, Transaction<V>>,
    /// Which transaction each value was written in, also of those that nobody acknowledged.
    pub writers: BTreeMap<V, T>,
    /// What a reader gets who reads everything when all is over. Of a partition that is not here nothing is judged.
    pub log: Read<V>,
    /// What other readers got meanwhile, each from the beginning on, perhaps not to the end.
    pub readers: Vec<Read<V>>,
}

impl<T, V> Default for History<T, V> {
    fn default() -> Self {
        Self {
            transactions: BTreeMap::new(),
            writers: BTreeMap::new(),
            log: Read::new(),
            readers: Vec::new(),
        }
    }
}

/// What is wrong with a history, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Anomaly<T, V> {
    /// The value is there a second time.
    Duplicate { value: V, partition: u32, offset: i64 },
    /// Nobody wrote the value.
    Unwritten { value: V },
    /// The transaction was aborted, and its value was read.
    AbortedRead { transaction: T, value: V },
    /// The transaction was committed, and nobody gets these values.
    LostWrite { transaction: T, missing: Vec<V> },
    /// Some values of the transaction are there, and others are not.
    Torn {
        transaction: T,
        there: Vec<V>,
        missing: Vec<V>,
    },
    /// A reader got another value there than there is now; none: nothing is there.
    GoingBack {
        partition: u32,
        offset: i64,
        read: V,
        is: Option<V>,
    },
    /// A reader got this behind what lies at or beyond it.
    OutOfOrder { partition: u32, offset: i64, behind: i64 },
    /// Each of these transactions read what the one before it wrote, and the first what the last one wrote (G1c).
    Cycle { transactions: Vec<T> },
}

impl<T: Debug, V: Debug> fmt::Display for Anomaly<T, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Duplicate {
                value,
                partition,
                offset,
            } => write!(f, "duplicate: {value:?} is there again, at {partition}:{offset}"),
            Self::Unwritten { value } => write!(f, "unwritten: nobody wrote {value:?}"),
            Self::AbortedRead { transaction, value } => {
                write!(f, "aborted read: {value:?} of transaction {transaction:?}")
            }
            Self::LostWrite { transaction, missing } => {
                write!(f, "lost write: {missing:?} of transaction {transaction:?}")
            }
            Self::Torn {
                transaction,
                there,
                missing,
            } => write!(f, "torn: transaction {transaction:?} has {there:?} and not {missing:?}"),
            Self::GoingBack {
                partition,
                offset,
                read,
                is,
            } => write!(
                f,
                "going back: {read:?} was read at {partition}:{offset}, where {is:?} is"
            ),
            Self::OutOfOrder {
                partition,
                offset,
                behind,
            } => write!(f, "going back: {partition}:{offset} was read behind {behind}"),
            Self::Cycle { transactions } => {
                write!(f, "cycle: {transactions:?}, each read what the one before it wrote")
            }
        }
    }
}

impl<T: Copy + Ord + Debug, V: Copy + Ord + Debug> History<T, V> {
    /// Judges the history.
    ///
    /// # Errors
    /// The first anomaly, of the kind that explains others first.
    pub fn check(&self) -> Result<(), Anomaly<T, V>> {
        let there = self.judge_places()?;
        self.judge_aborted()?;
        self.cycle(&there)?;
        self.judge_whole(&there)?;
        self.readers.iter().try_for_each(|read| self.judge_reader(read))
    }

    /// Each value is there once, and somebody wrote it. Gives those that are there.
    fn judge_places(&self) -> Result<BTreeSet<V>, Anomaly<T, V>> {
        let mut there = BTreeSet::new();
        for (partition, records) in &self.log {
            in_order(*partition, records)?;
            for (offset, value) in records {
                if !there.insert(*value) {
                    return Err(Anomaly::Duplicate {
                        value: *value,
                        partition: *partition,
                        offset: *offset,
                    });
                }
            }
        }
        match there.iter().find(|value| !self.writers.contains_key(value)) {
            Some(value) => Err(Anomaly::Unwritten { value: *value }),
            None => Ok(there),
        }
    }

    fn judge_aborted(&self) -> Result<(), Anomaly<T, V>> {
        let read_at = |read: &'_ Read<V>| -> Vec<V> { read.values().flatten().map(|(_, value)| *value).collect() };
        let seen = self.readers.iter().chain([&self.log]).flat_map(read_at);
        let within = self.transactions.values().flat_map(|it| it.reads.iter().copied());
        for value in seen.chain(within) {
            let Some(transaction) = self.writers.get(&value) else {
                return Err(Anomaly::Unwritten { value });
            };
            if self.transactions[transaction].fate == Fate::Aborted {
                return Err(Anomaly::AbortedRead {
                    transaction: *transaction,
                    value,
                });
            }
        }
        Ok(())
    }

    /// Looks for a circle among the transactions that are committed: told so, or seen to be so. One that nobody but themselves has read
    /// from, and then the ones that read from that, cannot be of a circle; what is left has one.
    ///
    /// # Errors
    /// The cycle.
    pub fn cycle(&self, there: &BTreeSet<V>) -> Result<(), Anomaly<T, V>> {
        let is_committed = |it: &Transaction<V>| match it.fate {
            Fate::Committed => true,
            Fate::Unknown => it.values.iter().any(|(_, value)| there.contains(value)),
            Fate::Aborted => false,
        };
        let mut read_from: BTreeMap<T, BTreeSet<T>> = BTreeMap::new();
        let mut read_by: BTreeMap<T, BTreeSet<T>> = BTreeMap::new();
        for (reader, transaction) in self.transactions.iter().filter(|(_, it)| is_committed(it)) {
            for writer in transaction.reads.iter().map(|value| self.writers[value]) {
                if writer != *reader && is_committed(&self.transactions[&writer]) {
                    read_from.entry(*reader).or_default().insert(writer);
                    read_by.entry(writer).or_default().insert(*reader);
                }
            }
        }
        let mut free: Vec<T> = read_by
            .keys()
            .filter(|it| !read_from.contains_key(it))
            .copied()
            .collect();
        while let Some(writer) = free.pop() {
            for reader in read_by.remove(&writer).unwrap_or_default() {
                let before = read_from.get_mut(&reader).expect("it read from the writer");
                before.remove(&writer);
                if before.is_empty() {
                    read_from.remove(&reader);
                    free.push(reader);
                }
            }
        }
        // Whoever is left read from somebody who is left.
        let Some(mut at) = read_from.keys().next().copied() else {
            return Ok(());
        };
        let mut path = Vec::new();
        while !path.contains(&at) {
            path.push(at);
            at = *read_from[&at].first().expect("it is left");
        }
        let begins = path.iter().position(|it| *it == at).expect("it was there");
        let mut transactions = path.split_off(begins);
        transactions.reverse();
        Err(Anomaly::Cycle { transactions })
    }

    fn judge_whole(&self, seen: &BTreeSet<V>) -> Result<(), Anomaly<T, V>> {
        for (name, transaction) in &self.transactions {
            let judged = transaction.values.iter();
            let judged = judged.filter(|(partition, _)| self.log.contains_key(partition));
            let (there, missing): (Vec<V>, Vec<V>) = judged.map(|(_, value)| *value).partition(|it| seen.contains(it));
            if missing.is_empty() {
                continue;
            }
            if !there.is_empty() {
                return Err(Anomaly::Torn {
                    transaction: *name,
                    there,
                    missing,
                });
            }
            if transaction.fate == Fate::Committed {
                return Err(Anomaly::LostWrite {
                    transaction: *name,
                    missing,
                });
            }
        }
        Ok(())
    }

    /// A reader got what there is, where it is, and nothing between is missing.
    fn judge_reader(&self, read: &Read<V>) -> Result<(), Anomaly<T, V>> {
        for (partition, records) in read {
            in_order(*partition, records)?;
            let Some(log) = self.log.get(partition) else { continue };
            for (nth, (offset, value)) in records.iter().enumerate() {
                if log.get(nth) == Some(&(*offset, *value)) {
                    continue;
                }
                let is = log.iter().find(|(at, _)| at == offset).map(|(_, value)| *value);
                if is == Some(*value) {
                    // What comes before it in the log the reader did not get.
                    let (_, missed) = log[nth];
                    return Err(Anomaly::LostWrite {
                        transaction: self.writers[&missed],
                        missing: vec![missed],
                    });
                }
                return Err(Anomaly::GoingBack {
                    partition: *partition,
                    offset: *offset,
                    read: *value,
                    is,
                });
            }
        }
        Ok(())
    }
}

/// Offsets rise, for whoever reads on.
fn in_order<T, V>(partition: u32, records: &[(i64, V)]) -> Result<(), Anomaly<T, V>> {
    match records.windows(2).find(|pair| pair[0].0 >= pair[1].0) {
        Some(pair) => Err(Anomaly::OutOfOrder {
            partition,
            offset: pair[1].0,
            behind: pair[0].0,
        }),
        None => Ok(()),
    }
}
