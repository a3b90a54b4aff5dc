//! Histories in which appends and markers of transactions come late, again and in any order, held against a scan of the log.

use std::collections::{BTreeMap, BTreeSet};

use jangada_log::tables::aborted::pick;
use jangada_log::{Conditions, PartitionCommand, PartitionReply, Refusal};
use jangada_machine::Machine;
use jangada_types::replicated::Seeds;
use jangada_types::{BatchBuilder, BatchHeader, Codec, Offset};

use super::{FOREVER_MS, Log, START_MS, marker, txn_append};
use crate::golden::append;

/// A transaction of a history: what the coordinator decided, once it has.
#[derive(Clone, Copy, Debug)]
struct Txn {
    epoch: i16,
    decided: Option<bool>,
    /// Its marker was applied.
    is_complete: bool,
}

/// A producer with a transactional id, as its coordinator and its client see it.
struct Client {
    id: i64,
    epoch: i16,
    /// Each End gives the next epoch (KIP-890).
    bumps: bool,
    sequence: i32,
    /// By number, from 1 on.
    txns: Vec<Txn>,
}

/// What became of a log, read from its first entry on.
#[derive(Debug)]
enum Entry {
    Plain,
    /// Of this transaction.
    Batch(i64, u64, Offset),
    Control(i64, bool, Offset),
}

pub struct History {
    seeds: Seeds,
    clients: Vec<Client>,
    /// Messages on their way; each may come late, again, or never.
    messages: Vec<PartitionCommand>,
    log: Log,
    entries: Vec<Entry>,
    pub commands: Vec<PartitionCommand>,
    expires: bool,
    now_ms: i64,
}

impl History {
    fn below(&mut self, end: usize) -> usize {
        self.seeds.below(end as u64) as usize
    }

    fn times(&self) -> (i64, i64) {
        (self.now_ms, if self.expires { 2_000 } else { FOREVER_MS })
    }

    fn marker_of(&self, client: usize, seq: u64) -> PartitionCommand {
        let Client { id, txns, bumps, .. } = &self.clients[client];
        let txn = txns[seq as usize - 1];
        let epoch = txn.epoch + i16::from(*bumps);
        marker(
            (*id, epoch),
            seq,
            txn.decided.expect("only what is decided has a marker"),
        )
    }

    /// Something happens to one of the clients.
    fn act(&mut self) {
        let index = self.below(self.clients.len());
        let choice = self.below(10);
        let records = 1 + self.below(3);
        let client = &mut self.clients[index];
        let is_open = client.txns.last().is_some_and(|txn| txn.decided.is_none());
        let may_begin = client.txns.last().is_none_or(|txn| txn.is_complete);
        match choice {
            // It begins, once its last transaction is complete, sometimes with a new epoch.
            0 | 1 if may_begin => {
                if choice == 1 {
                    (client.epoch, client.sequence) = (client.epoch + 1, 0);
                }
                client.txns.push(Txn {
                    epoch: client.epoch,
                    decided: None,
                    is_complete: false,
                });
            }
            2..=6 if is_open => {
                let seq = client.txns.len() as u64;
                let command = txn_append((client.id, client.epoch), seq, client.sequence, records);
                client.sequence += records as i32;
                self.messages.push(command);
            }
            // It ends, or runs into its timeout with batches on their way.
            7 if is_open => {
                let seq = client.txns.len() as u64;
                client.txns.last_mut().expect("it is open").decided = Some(records > 1);
                if client.bumps {
                    (client.epoch, client.sequence) = (client.epoch + 1, 0);
                }
                let command = self.marker_of(index, seq);
                self.messages.push(command);
            }
            // The coordinator sends a marker again, mostly of an old transaction.
            8 if !client.txns.is_empty() => {
                let seq = 1 + self.below(self.clients[index].txns.len()) as u64;
                if self.clients[index].txns[seq as usize - 1].decided.is_some() {
                    let command = self.marker_of(index, seq);
                    self.messages.push(command);
                }
            }
            9 => {
                let command = append(0, 0, Conditions::default(), {
                    let mut builder = BatchBuilder::new(Codec::None);
                    builder.append(START_MS, None, Some(b"plain"), []).expect("it is small");
                    builder.build()
                });
                self.messages.push(command);
            }
            _ => {}
        }
    }

    /// One of the messages arrives, mostly one of the oldest, and perhaps not for the last time.
    fn deliver(&mut self) {
        if self.messages.is_empty() {
            return;
        }
        let within = if self.below(4) == 0 { self.messages.len() } else { 2 };
        let at = self.below(self.messages.len().min(within));
        let command = if self.below(4) == 0 {
            self.messages[at].clone()
        } else {
            self.messages.remove(at)
        };
        self.apply(command);
    }

    fn apply(&mut self, command: PartitionCommand) -> PartitionReply {
        let (now, expiration) = self.times();
        let mut command = command;
        match &mut command {
            PartitionCommand::Append {
                now_ms, expiration_ms, ..
            }
            | PartitionCommand::TxnAppend {
                now_ms, expiration_ms, ..
            } => {
                (*now_ms, *expiration_ms) = (now, expiration);
            }
            PartitionCommand::Marker { marker, .. } => (marker.now_ms, marker.expiration_ms) = (now, expiration),
            other => panic!("not of these histories: {other:?}"),
        }
        let reply = self.log.apply(&command);
        self.note(&command, &reply);
        self.commands.push(command.clone());
        // As a partition's leader does: what was forgotten is aborted first.
        if let (
            PartitionCommand::Marker { marker: told, .. },
            PartitionReply::Refused(Refusal::TransactionOpen { seq }),
        ) = (&command, &reply)
        {
            assert!(
                self.expires,
                "nothing is forgotten, and a later transaction ended: {command:?}"
            );
            let end = (told.end.producer_id.get(), told.end.producer_epoch.get());
            let ended = self.apply(marker(end, *seq, false));
            assert!(
                matches!(ended, PartitionReply::Ended { marker: Some(_), .. }),
                "{ended:?}"
            );
            return self.apply(command);
        }
        reply
    }

    fn note(&mut self, command: &PartitionCommand, reply: &PartitionReply) {
        match (command, reply) {
            (PartitionCommand::Append { .. }, PartitionReply::Appended { .. }) => self.entries.push(Entry::Plain),
            (
                PartitionCommand::TxnAppend { batch, seq, .. },
                PartitionReply::Appended {
                    base_offset,
                    duplicate: false,
                    ..
                },
            ) => {
                let header = BatchHeader::parse(batch).expect("it is a batch");
                self.entries
                    .push(Entry::Batch(header.producer_id.get(), *seq, *base_offset));
            }
            (PartitionCommand::Marker { marker, .. }, PartitionReply::Ended { marker: at, .. }) => {
                let id = marker.end.producer_id.get();
                if let Some(at) = at {
                    self.entries.push(Entry::Control(id, marker.end.commit, *at));
                }
                let client = self
                    .clients
                    .iter_mut()
                    .find(|client| client.id == id)
                    .expect("it is one of them");
                client.txns[marker.seq as usize - 1].is_complete = true;
            }
            _ => {}
        }
    }

    /// What a reader of the whole log finds: each batch of a transaction belongs to the next control batch of its producer.
    fn scan(&self) -> BTreeMap<Offset, (i64, Offset)> {
        let mut aborted = BTreeMap::new();
        let mut open: BTreeMap<i64, (u64, Offset)> = BTreeMap::new();
        for entry in &self.entries {
            match *entry {
                Entry::Plain => {}
                Entry::Batch(id, seq, at) => {
                    let (known, _) = *open.entry(id).or_insert((seq, at));
                    assert_eq!(known, seq, "two transactions of {id} lie between two markers");
                }
                Entry::Control(id, commit, at) => {
                    let (seq, first) = open.remove(&id).expect("a control batch ends something");
                    let client = self
                        .clients
                        .iter()
                        .find(|client| client.id == id)
                        .expect("it is one of them");
                    let decided = client.txns[seq as usize - 1].decided.expect("its marker came");
                    assert!(decided == commit || (!commit && self.expires), "{id} {seq}: torn");
                    if !commit {
                        aborted.insert(at, (id, first));
                    }
                }
            }
        }
        let first = open.values().map(|(_, first)| *first).min();
        let stable = first.unwrap_or(self.log.state.next_offset());
        assert_eq!(self.log.state.last_stable_offset(), stable);
        aborted
    }

    fn check(&mut self) {
        let scanned = self.scan();
        let rows = self.log.aborted.iter();
        let indexed: BTreeMap<_, _> = rows
            .map(|(at, row)| (*at, (row.producer_id.get(), row.first)))
            .collect();
        assert_eq!(
            indexed, scanned,
            "the index of aborted transactions is what the log says"
        );
        // What a fetch looks up in it.
        let end = self.log.state.last_stable_offset().get() as usize;
        for _ in 0..4 {
            let to = self.below(end + 1) as i64;
            let from = Offset(self.below(to as usize + 1) as i64);
            let mut picked = Vec::new();
            for row in self.log.aborted.range(from..).map(|(_, row)| row) {
                if !pick(row, Offset(to), &mut picked) {
                    break;
                }
            }
            let picked: BTreeSet<_> = picked.iter().map(|row| row.marker).collect();
            let wanted = scanned
                .iter()
                .filter(|(at, (_, first))| **at >= from && *first < Offset(to));
            assert_eq!(picked, wanted.map(|(at, _)| *at).collect(), "of {from}..{to}");
        }
    }
}

pub fn run(seed: u64, expires: bool) -> History {
    let client = |id| Client {
        id,
        epoch: 0,
        bumps: id % 2 == 0,
        sequence: 0,
        txns: Vec::new(),
    };
    let mut history = History {
        seeds: Seeds::new(seed),
        clients: (1..=4).map(client).collect(),
        messages: Vec::new(),
        log: Log::default(),
        entries: Vec::new(),
        commands: Vec::new(),
        expires,
        now_ms: START_MS,
    };
    let mut checkpoints = vec![(0, Log::default())];
    for _ in 0..400 {
        history.act();
        history.deliver();
        history.now_ms += history.below(100) as i64 * i64::from(history.below(20) == 0);
        if history.expires && history.below(60) == 0 {
            history.now_ms += 3_000;
        }
        history.check();
        if history.below(40) == 0 {
            checkpoints.push((history.commands.len(), history.log.restarted()));
        }
    }
    // All that is decided comes to its end, whatever comes late behind it.
    let mut late = std::mem::take(&mut history.messages);
    for index in 0..history.clients.len() {
        if let Some(txn) = history.clients[index].txns.last_mut() {
            txn.decided = txn.decided.or(Some(false));
            let seq = history.clients[index].txns.len() as u64;
            let command = history.marker_of(index, seq);
            history.apply(command);
        }
    }
    late.reverse();
    for command in late {
        history.apply(command);
        history.check();
    }
    if !history.expires {
        let (stable, next) = history.log.ends();
        assert_eq!(stable, next, "nothing hangs");
    }
    // A replica that began anywhere comes to the same.
    for (from, mut log) in checkpoints {
        for command in &history.commands[from..] {
            log.apply(command);
        }
        assert_eq!(log.state, history.log.state);
        assert_eq!(log.state.snapshot(), history.log.state.snapshot());
        assert_eq!(log.aborted, history.log.aborted);
    }
    history
}

/// More by `TRANSACTION_HISTORIES`.
fn histories() -> u64 {
    let asked = std::env::var("TRANSACTION_HISTORIES").ok();
    asked.and_then(|asked| asked.parse().ok()).unwrap_or(150)
}

#[test]
fn whatever_comes_late_again_or_in_another_order_no_transaction_is_torn_and_none_hangs() {
    let (mut aborted, mut refused) = (0, 0);
    for seed in 0..histories() {
        let history = run(seed, false);
        aborted += history.log.aborted.len();
        refused += history.commands.len() - history.entries.len();
    }
    assert!(
        aborted > 500 && refused > 500,
        "{aborted} aborted, {refused} without effect"
    );
}

#[test]
fn what_is_forgotten_of_silent_producers_tears_no_transaction() {
    for seed in 0..histories() {
        run(1_000_000 + seed, true);
    }
}
