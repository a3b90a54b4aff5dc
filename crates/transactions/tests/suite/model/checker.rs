//! What clients know of their transactions, and what must follow from it: of values by [`anomalies`](crate::anomalies), of offsets here.

use std::collections::{BTreeMap, BTreeSet};

use crate::anomalies::{self, Fate, History, Read};

#[derive(Debug)]
pub struct Transaction {
    pub fate: Fate,
    /// The values that partitions acknowledged: partition and value.
    pub values: Vec<(usize, u64)>,
    /// What it read of committed records.
    pub reads: Vec<u64>,
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
    pub read: Read<u64>,
    pub operations: u64,
}

impl Checker {
    pub fn begin(&mut self) -> usize {
        self.transactions.push(Transaction {
            fate: Fate::Aborted,
            values: Vec::new(),
            reads: Vec::new(),
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

    /// Judges what readers saw, and what a reader sees who reads everything now. `log`: without the partitions that were deleted, of which
    /// there are some if `has_deleted`.
    pub fn judge(
        &self,
        log: Read<u64>,
        committed: impl Fn(&str, u32) -> Option<u64>,
        inputs: u32,
        has_deleted: bool,
    ) -> Result<(), String> {
        let history = self.history(log);
        history.check().map_err(|anomaly| anomaly.to_string())?;
        let seen: BTreeSet<u64> = history.log.values().flatten().map(|(_, value)| *value).collect();
        if !has_deleted {
            self.judge_inputs(&seen, &committed, inputs)?;
        }
        self.judge_registers(&seen, &committed, has_deleted)
    }

    pub fn history(&self, log: Read<u64>) -> History<usize, u64> {
        let values = |it: &Transaction| it.values.iter().map(|(at, value)| (*at as u32, *value)).collect();
        let transactions = self.transactions.iter().map(|it| anomalies::Transaction {
            fate: it.fate,
            values: values(it),
            reads: it.reads.clone(),
        });
        History {
            transactions: transactions.enumerate().collect(),
            writers: (0..)
                .zip(self.written.iter().map(|written| written.transaction))
                .collect(),
            log,
            readers: vec![self.read.clone()],
        }
    }

    /// Each input has exactly one visible output if it is below the committed offset, and none otherwise.
    fn judge_inputs(
        &self,
        seen: &BTreeSet<u64>,
        committed: &impl Fn(&str, u32) -> Option<u64>,
        inputs: u32,
    ) -> Result<(), String> {
        for input in 0..inputs {
            let mut outputs: Vec<u64> = seen
                .iter()
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
        seen: &BTreeSet<u64>,
        committed: &impl Fn(&str, u32) -> Option<u64>,
        has_deleted: bool,
    ) -> Result<(), String> {
        let mut writers: BTreeMap<u32, Vec<(u64, &Transaction)>> = BTreeMap::new();
        for transaction in &self.transactions {
            let is_visible = transaction.values.iter().any(|(_, value)| seen.contains(value));
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
