//! What clients know of their transactions, and what must follow from it.

use std::collections::{BTreeMap, BTreeSet};

/// What the client knows of how a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It never asked for a commit, or was told that it is aborted: nobody may see anything of it.
    Aborted,
    /// It asked for a commit, and does not know.
    Unknown,
    /// It was told that it is committed: everybody must see all of it.
    Committed,
}

#[derive(Debug)]
pub struct Transaction {
    pub fate: Fate,
    /// The values that partitions acknowledged: partition and value.
    pub values: Vec<(usize, u64)>,
    /// The offsets whose staging was acknowledged: group, key, offset.
    pub offsets: Vec<(&'static str, u32, u64)>,
    pub end_sent_ms: Option<u64>,
    pub complete_ms: Option<u64>,
}

/// The meaning of a value.
#[derive(Clone, Copy, Debug)]
pub struct Written {
    pub transaction: usize,
    /// The input that it was made of: input partition and offset.
    pub input: Option<(u32, u64)>,
}

#[derive(Debug, Default)]
pub struct Checker {
    pub transactions: Vec<Transaction>,
    pub written: Vec<Written>,
    /// What readers saw while the history ran.
    pub read: BTreeSet<u64>,
    pub operations: u64,
}

impl Checker {
    pub fn begin(&mut self) -> usize {
        self.transactions.push(Transaction {
            fate: Fate::Aborted,
            values: Vec::new(),
            offsets: Vec::new(),
            end_sent_ms: None,
            complete_ms: None,
        });
        self.transactions.len() - 1
    }

    pub fn value(&mut self, transaction: usize, input: Option<(u32, u64)>) -> u64 {
        self.written.push(Written { transaction, input });
        self.written.len() as u64 - 1
    }

    /// Judges what readers saw, and what a reader sees who reads everything now. `logs`: by partition, none where it was deleted.
    pub fn judge(
        &self,
        logs: &[Option<Vec<u64>>],
        committed: impl Fn(&str, u32) -> Option<u64>,
        inputs: u32,
    ) -> Result<(), String> {
        let mut seen: BTreeMap<u64, usize> = BTreeMap::new();
        for value in logs.iter().flatten().flatten() {
            *seen.entry(*value).or_default() += 1;
        }
        if let Some((value, count)) = seen.iter().find(|(_, count)| **count > 1) {
            return Err(format!("duplicate: value {value} is there {count} times"));
        }
        let of = |value: u64| self.written[value as usize].transaction;
        for value in seen.keys().chain(&self.read) {
            if self.transactions[of(*value)].fate == Fate::Aborted {
                return Err(format!("aborted read: value {value} of transaction {}", of(*value)));
            }
        }
        for (number, transaction) in self.transactions.iter().enumerate() {
            let kept = transaction
                .values
                .iter()
                .filter(|(partition, _)| logs[*partition].is_some());
            let (there, missing): (Vec<u64>, Vec<u64>) = kept
                .map(|(_, value)| *value)
                .partition(|value| seen.contains_key(value));
            if transaction.fate == Fate::Committed && !missing.is_empty() {
                return Err(format!("lost write: {missing:?} of transaction {number}"));
            }
            if !there.is_empty() && !missing.is_empty() {
                return Err(format!("torn: transaction {number} has {there:?} and not {missing:?}"));
            }
            if let Some(value) = missing.iter().find(|value| self.read.contains(value)) {
                return Err(format!("read and gone: value {value} of transaction {number}"));
            }
        }
        self.judge_inputs(logs, &seen, &committed, inputs)?;
        self.judge_registers(&seen, &committed, logs.iter().any(Option::is_none))
    }

    /// Each input has exactly one visible output if it is below the committed offset, and none otherwise.
    fn judge_inputs(
        &self,
        logs: &[Option<Vec<u64>>],
        seen: &BTreeMap<u64, usize>,
        committed: &impl Fn(&str, u32) -> Option<u64>,
        inputs: u32,
    ) -> Result<(), String> {
        if logs.iter().any(Option::is_none) {
            return Ok(());
        }
        for input in 0..inputs {
            let mut outputs: Vec<u64> = seen
                .keys()
                .filter_map(|value| self.written[*value as usize].input)
                .filter(|(of, _)| *of == input)
                .map(|(_, offset)| offset)
                .collect();
            outputs.sort_unstable();
            let offset = committed("inputs", input).ok_or("hanging: staged offsets are still pending")?;
            if outputs != (0..offset).collect::<Vec<_>>() {
                return Err(format!(
                    "offsets do not match outputs: input {input} is committed up to {offset}, and there are {outputs:?}"
                ));
            }
        }
        Ok(())
    }

    /// The committed offset is that of a transaction that no other one came after.
    fn judge_registers(
        &self,
        seen: &BTreeMap<u64, usize>,
        committed: &impl Fn(&str, u32) -> Option<u64>,
        has_deleted: bool,
    ) -> Result<(), String> {
        let mut writers: BTreeMap<u32, Vec<(u64, &Transaction)>> = BTreeMap::new();
        for transaction in &self.transactions {
            let is_visible = transaction.values.iter().any(|(_, value)| seen.contains_key(value));
            for (group, key, offset) in transaction.offsets.iter().filter(|_| is_visible) {
                if *group == "registers" {
                    writers.entry(*key).or_default().push((*offset, transaction));
                }
            }
        }
        for (key, writers) in writers {
            let found = committed("registers", key).ok_or("hanging: staged offsets are still pending")?;
            let Some((_, writer)) = writers.iter().find(|(offset, _)| *offset == found) else {
                // All that its writer wrote may have been in a partition that is gone.
                if has_deleted {
                    continue;
                }
                return Err(format!(
                    "offset {found} of key {key} is that of no committed transaction"
                ));
            };
            let comes_after = |(_, other): &&(u64, &Transaction)| {
                let (Some(complete), Some(sent)) = (writer.complete_ms, other.end_sent_ms) else {
                    return false;
                };
                complete < sent && other.fate == Fate::Committed
            };
            if let Some((offset, _)) = writers.iter().find(comes_after) {
                return Err(format!(
                    "going back: offset {found} of key {key}, and {offset} was committed after it"
                ));
            }
        }
        Ok(())
    }
}
