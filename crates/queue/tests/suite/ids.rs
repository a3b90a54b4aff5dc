//! Repetitions of messages with ids, with leaders that change: an oracle that knows the log alone watches what is appended.

use std::collections::{BTreeMap, VecDeque};

use jangada_machine::Effects;
use jangada_queue::dedup::{IdOutput, IdVerdict, SentIds};
use jangada_queue::engine::{ReadId, RequestId};
use jangada_queue::tables::{IDS, IdRow, put_ids};
use jangada_queue::{IdWindow, Mark, Marks};
use jangada_types::RowChange;
use jangada_types::replicated::Seeds;

const WINDOW_MS: u64 = 1_000;

/// Rows with their keys.
type Found = Vec<([u8; 24], IdRow)>;

/// An append on its way into the log.
struct Append {
    request: RequestId,
    ids: Vec<u128>,
    now_ms: u64,
}

struct Sender {
    seeds: Seeds,
    ids: SentIds,
    rows: BTreeMap<Vec<u8>, IdRow>,
    /// What was appended: id and time.
    log: Vec<(u128, u64)>,
    pending: VecDeque<Append>,
    reads: Vec<(ReadId, Vec<[u8; 24]>, Option<Found>)>,
    /// Requests without an answer, with their ids.
    asked: BTreeMap<RequestId, Vec<u128>>,
    now_ms: u64,
    last: u64,
    repeated: u64,
}

impl Sender {
    fn new(seed: u64) -> Self {
        Self {
            seeds: Seeds::new(seed),
            ids: SentIds::begin(WINDOW_MS),
            rows: BTreeMap::new(),
            log: Vec::new(),
            pending: VecDeque::new(),
            reads: Vec::new(),
            asked: BTreeMap::new(),
            now_ms: 50_000,
            last: 0,
            repeated: 0,
        }
    }

    fn ask(&mut self, ids: Vec<u128>) {
        self.last += 1;
        let request = RequestId(self.last);
        self.asked.insert(request, ids.clone());
        let outputs = self.ids.ask(request, &ids, self.now_ms);
        self.outputs(outputs);
    }

    fn outputs(&mut self, outputs: Vec<IdOutput>) {
        for output in outputs {
            match output {
                IdOutput::Read { read, keys } => {
                    let early = (self.seeds.below(2) == 0).then(|| self.look_up(&keys));
                    self.reads.push((read, keys, early));
                }
                IdOutput::Verdicts { request, verdicts } => self.verdicts(request, &verdicts),
            }
        }
    }

    fn verdicts(&mut self, request: RequestId, verdicts: &[IdVerdict]) {
        let ids = self.asked.remove(&request).expect("a request is answered once");
        assert_eq!(ids.len(), verdicts.len());
        let mut new = Vec::new();
        for (place, (id, verdict)) in ids.iter().zip(verdicts).enumerate() {
            match verdict {
                IdVerdict::New => new.push(*id),
                IdVerdict::Sent { offset } => {
                    assert_eq!(self.log[*offset as usize].0, *id, "it is the offset of the first");
                    self.repeated += 1;
                }
                IdVerdict::SameAs { place: first } => assert!(*first < place && ids[*first] == *id),
            }
        }
        if !new.is_empty() {
            let (ids, now_ms) = (new, self.now_ms);
            self.pending.push_back(Append { request, ids, now_ms });
        }
    }

    fn look_up(&self, keys: &[[u8; 24]]) -> Found {
        let found = keys.iter().filter_map(|key| Some((*key, *self.rows.get(&key[..])?)));
        found.collect()
    }

    fn read(&mut self) {
        if self.reads.is_empty() {
            return;
        }
        let (read, keys, early) = self.reads.remove(0);
        let rows = early.unwrap_or_else(|| self.look_up(&keys));
        let outputs = self.ids.rows(read, &rows);
        self.outputs(outputs);
    }

    /// The entry is committed: its rows are there, and no id is in the log twice within the window.
    fn commit(&mut self, append: &Append) -> u64 {
        let base = self.log.len() as u64;
        for id in append.ids.iter().filter(|id| **id != 0) {
            let first = self.log.iter().rev().find(|(known, _)| known == id);
            let since = first.map(|(_, at)| append.now_ms.saturating_sub(*at));
            assert!(
                since.is_none_or(|since| since >= WINDOW_MS),
                "{id} again after {since:?} ms"
            );
        }
        self.log.extend(append.ids.iter().map(|id| (*id, append.now_ms)));
        let mark = |id: &u128| Mark {
            id: *id,
            ..Mark::default()
        };
        let marks = Marks(append.ids.iter().map(mark).collect());
        let mut effects = Effects::default();
        let window = IdWindow {
            window_ms: WINDOW_MS,
            forgets: self.seeds.below(4) == 0,
        };
        put_ids(base, &marks, window, append.now_ms, &mut effects);
        for change in effects.take() {
            match change {
                RowChange::Put { table, key, value } => {
                    assert_eq!(*table, IDS);
                    self.rows.insert(key.to_vec(), IdRow::decode(&value).expect("a row"));
                }
                RowChange::DeleteRange { to: Some(to), .. } => self.rows.retain(|key, _| key[..] >= to[..]),
                other => panic!("{other:?}"),
            }
        }
        base
    }

    fn apply(&mut self) -> bool {
        let Some(append) = self.pending.pop_front() else {
            return false;
        };
        let base = self.commit(&append);
        let outputs = match append.ids.iter().all(|id| *id == 0) {
            true => Vec::new(),
            false => self.ids.applied(base, append.ids.iter().copied(), append.now_ms),
        };
        self.outputs(outputs);
        true
    }

    fn refuse(&mut self) {
        if let Some(append) = self.pending.pop_back() {
            let outputs = self.ids.not_appended(append.request);
            self.outputs(outputs);
        }
    }

    /// Whoever asked is gone.
    fn cancel(&mut self) {
        let at = self.seeds.below(4) as usize;
        if let Some(request) = self.asked.keys().nth(at).copied() {
            self.asked.remove(&request);
            let outputs = self.ids.not_appended(request);
            self.outputs(outputs);
        }
    }

    /// Another replica leads: a part of what was under way is committed, and the senders send again.
    fn fail_over(&mut self) {
        let committed = self.seeds.below(self.pending.len() as u64 + 1);
        for _ in 0..committed {
            let append = self.pending.pop_front().expect("it was counted");
            self.commit(&append);
        }
        let mut again: Vec<Vec<u128>> = std::mem::take(&mut self.asked).into_values().collect();
        again.extend(std::mem::take(&mut self.pending).into_iter().map(|append| append.ids));
        self.reads.clear();
        self.ids = SentIds::begin(WINDOW_MS);
        again.into_iter().for_each(|ids| self.ask(ids));
    }

    fn act(&mut self) {
        match self.seeds.below(20) {
            0..=7 => {
                let count = 1 + self.seeds.below(3);
                let ids = (0..count).map(|_| u128::from(self.seeds.below(12))).collect();
                self.ask(ids);
            }
            8..=11 => _ = self.apply(),
            12..=14 => self.read(),
            15 => self.refuse(),
            16 => self.cancel(),
            17 => self.fail_over(),
            _ => self.now_ms += self.seeds.below(300),
        }
    }
}

#[test]
fn an_id_is_in_the_log_once_within_the_window() {
    let asked = std::env::var("QUEUE_HISTORIES").ok();
    let histories: u64 = asked.map_or(300, |asked| asked.parse().expect("QUEUE_HISTORIES is a number"));
    let mut repeated = 0;
    for seed in 0..histories {
        let mut sender = Sender::new(seed);
        (0..600).for_each(|_| sender.act());
        while sender.apply() || !sender.reads.is_empty() {
            sender.read();
        }
        assert!(
            sender.asked.is_empty(),
            "history {seed}: {:?} wait for ever",
            sender.asked
        );
        repeated += sender.repeated;
    }
    assert!(repeated > 20 * histories, "{repeated} repetitions");
}

#[test]
fn what_is_remembered_is_bounded_and_needs_no_look_up_after_a_window() {
    let mut sender = Sender::new(1);
    sender.ask(vec![1]);
    assert_eq!(sender.reads.len(), 1, "it may have been sent in an earlier term");
    sender.read();
    sender.apply();
    sender.ask(vec![1]);
    assert_eq!((sender.reads.len(), sender.repeated), (0, 1), "it is remembered");
    sender.now_ms += WINDOW_MS;
    sender.ask(vec![1, 2]);
    assert_eq!(
        (sender.reads.len(), sender.pending.len()),
        (0, 1),
        "all of the window is known"
    );
    sender.apply();
    assert_eq!(sender.ids.known(), 2, "what is older than the window is forgotten");
}
