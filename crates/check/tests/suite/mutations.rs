//! A correct history with one mistake put in: the mistake is found under its name. Each mutation is tried on several seeds.

use jangada_check::generate::Options;
use jangada_check::{Judgement, Verdict};
use serde_json::{Value as Json, json};

use crate::lines::{generated, judge};

/// A history that is changed.
struct Lines(Vec<Json>);

/// A send of no transaction to the first partition, which has neither transactions nor compaction.
struct Sent {
    invoke: usize,
    ok: usize,
    value: Json,
    offset: i64,
}

const PARTITION: &str = "orders/0";
const COMPACTED: &str = "orders/4";

impl Lines {
    fn is(&self, at: usize, kind: &str, op: &str) -> bool {
        self.0[at]["type"] == kind && self.0[at]["op"] == op
    }

    /// The places of events of this kind.
    fn all(&self, kind: &str, op: &str) -> Vec<usize> {
        (0..self.0.len()).filter(|at| self.is(*at, kind, op)).collect()
    }

    /// The calls of this kind that were answered, with the answers.
    fn answered(&self, op: &str) -> Vec<(usize, usize)> {
        let call = |ok: &usize| {
            let index = self.0[*ok]["invocation"].as_u64()?;
            let invoke = self.0.iter().position(|line| line["index"].as_u64() == Some(index))?;
            (self.0[invoke]["op"] == op).then_some((invoke, *ok))
        };
        let oks: Vec<usize> = (0..self.0.len()).filter(|at| self.0[*at]["type"] == "ok").collect();
        oks.iter().filter_map(call).collect()
    }

    fn sent_to(&self, partition: &str) -> Vec<Sent> {
        let of = |(invoke, ok): (usize, usize)| {
            let call = &self.0[invoke];
            let is_plain = call["partition"] == partition && call["transaction"].is_null();
            is_plain.then(|| Sent {
                invoke,
                ok,
                value: call["value"].clone(),
                offset: self.0[ok]["offset"]
                    .as_i64()
                    .expect("a send is answered with an offset"),
            })
        };
        self.answered("send").into_iter().filter_map(of).collect()
    }

    fn sent(&self) -> Vec<Sent> {
        self.sent_to(PARTITION)
    }

    /// The final reads of a partition.
    fn finals(&self, partition: &str) -> Vec<usize> {
        let all = self.all("note", "final");
        all.into_iter()
            .filter(|at| self.0[*at]["partition"] == partition)
            .collect()
    }

    fn end(&self, partition: &str) -> i64 {
        self.0[self.finals(partition)[0]]["end"]
            .as_i64()
            .expect("a final read has an end")
    }

    fn records(&mut self, at: usize) -> &mut Vec<Json> {
        self.0[at]["records"].as_array_mut().expect("a final read has records")
    }

    /// Takes an offset out of final reads.
    fn forget(&mut self, finals: &[usize], offset: i64) {
        for at in finals {
            self.records(*at).retain(|record| record[0] != offset);
        }
    }

    /// Adds a record behind the end of all final reads, some offsets further on.
    fn append(&mut self, value: &Json, further: i64) {
        let end = self.end(PARTITION) + further;
        for at in self.finals(PARTITION) {
            self.records(at).push(json!([end, value]));
            self.0[at]["end"] = (end + 1).into();
            self.0[at]["stable"] = (end + 1).into();
        }
    }

    /// Puts events in, without numbers: processes and times are given.
    fn insert(&mut self, at: usize, events: &[Json]) {
        let time = self.0[at.min(self.0.len() - 1)]["time"].clone();
        for event in events.iter().rev() {
            let mut event = event.clone();
            event["time"] = time.clone();
            self.0.insert(at, event);
        }
    }

    fn first_note(&self) -> usize {
        self.all("note", "final")[0]
    }

    /// The dumps of the queue that keeps no order.
    fn dumps(&self) -> Vec<usize> {
        let all = self.all("note", "dump");
        all.into_iter().filter(|at| self.0[*at]["queue"] == "plain").collect()
    }

    /// The first message that came, and the place of the answer.
    fn delivered(&self) -> Option<(usize, Json)> {
        let mut receives = self.answered("receive").into_iter();
        receives.find_map(|(invoke, ok)| {
            let message = self.0[ok]["messages"].get(0)?;
            (self.0[invoke]["queue"] == "plain").then(|| (ok, message.clone()))
        })
    }

    /// A transaction that ended so, and one of its sends that was answered.
    fn transaction(&self, end: &str) -> Option<(Json, Sent)> {
        for (invoke, _) in self.answered(end) {
            let name = &self.0[invoke]["transaction"];
            let mut sends = self.answered("send").into_iter();
            let send = sends.find(|(invoke, _)| self.0[*invoke]["transaction"] == *name);
            if let Some((invoke, ok)) = send {
                let sent = Sent {
                    invoke,
                    ok,
                    value: self.0[invoke]["value"].clone(),
                    offset: self.0[ok]["offset"].as_i64()?,
                };
                return Some((self.0[invoke]["partition"].clone(), sent));
            }
        }
        None
    }
}

/// Receives a message under this lease, by a process that has done nothing else.
fn receive(message: &Json, lease: &str, attempt: u64) -> [Json; 2] {
    let message = json!({"value": message["value"], "lease": lease, "attempt": attempt});
    [
        json!({"process": 9_999, "type": "invoke", "op": "receive", "queue": "plain", "lease": 1_000_000}),
        json!({"process": 9_999, "type": "ok", "messages": [message]}),
    ]
}

/// Puts the mistake in; none: this history has no place for it.
type Mutation = fn(&mut Lines) -> Option<()>;

const MUTATIONS: &[(&[&str], Mutation)] = &[
    (&["lost-write"], |lines| {
        let sent = lines.sent();
        let one = sent.get(sent.len() / 2)?;
        let finals = lines.finals(PARTITION);
        lines.forget(&finals, one.offset);
        Some(())
    }),
    (&["unseen"], |lines| {
        let (at, end) = (lines.first_note(), lines.end(PARTITION));
        let call = json!({"process": 9_999, "type": "invoke", "op": "send", "partition": PARTITION, "value": "new"});
        lines.insert(at, &[call, json!({"process": 9_999, "type": "ok", "offset": end})]);
        Some(())
    }),
    (&["duplicate"], |lines| {
        let value = lines.sent().first()?.value.clone();
        lines.append(&value, 0);
        Some(())
    }),
    (&["inconsistent-offset"], |lines| {
        let (_, ok) = lines
            .answered("poll")
            .into_iter()
            .find(|(_, ok)| !lines.0[*ok]["reads"][PARTITION].is_null())?;
        lines.0[ok]["reads"][PARTITION][0][1] = "another".into();
        Some(())
    }),
    (&["misplaced"], |lines| {
        let (ok, end) = (lines.sent().first()?.ok, lines.end(PARTITION));
        lines.0[ok]["offset"] = (end + 5).into();
        Some(())
    }),
    (&["invented"], |lines| {
        lines.append(&"nobody's".into(), 0);
        Some(())
    }),
    (&["gap"], |lines| {
        lines.append(&"nobody's".into(), 1);
        Some(())
    }),
    (&["replica-divergence"], |lines| {
        let at = lines.finals(PARTITION)[2];
        lines.records(at).get_mut(0)?[1] = "another".into();
        Some(())
    }),
    (&["replica-divergence"], |lines| {
        let (at, offset) = (lines.finals(PARTITION)[3], lines.sent().first()?.offset);
        lines.forget(&[at], offset);
        Some(())
    }),
    (&["real-time-order", "send-order"], |lines| {
        let sent = lines.sent();
        let first = sent.first()?;
        let later = sent.iter().find(|it| it.invoke > first.ok)?;
        lines.0[first.ok]["offset"] = later.offset.into();
        lines.0[later.ok]["offset"] = first.offset.into();
        Some(())
    }),
    (&["poll-order-internal"], |lines| {
        let reads = |ok: usize, lines: &Lines| lines.0[ok]["reads"][PARTITION].as_array().map_or(0, Vec::len);
        let (_, ok) = lines
            .answered("poll")
            .into_iter()
            .find(|(_, ok)| reads(*ok, lines) > 1)?;
        lines.0[ok]["reads"][PARTITION].as_array_mut()?.swap(0, 1);
        Some(())
    }),
    (&["poll-skip-internal", "skip-within-epoch"], |lines| {
        let reads = |ok: usize, lines: &Lines| lines.0[ok]["reads"][PARTITION].as_array().map_or(0, Vec::len);
        let (_, ok) = lines
            .answered("poll")
            .into_iter()
            .find(|(_, ok)| reads(*ok, lines) > 2)?;
        lines.0[ok]["reads"][PARTITION].as_array_mut()?.remove(1);
        Some(())
    }),
    (&["end-offset-stale", "end-offset-went-back"], |lines| {
        let first = lines.sent().first()?.ok;
        let is_plain = |invoke: usize| lines.0[invoke]["partition"] == PARTITION;
        let mut asked = lines.answered("end_offset").into_iter();
        let (_, ok) = asked.find(|(invoke, _)| *invoke > first && is_plain(*invoke))?;
        lines.0[ok]["offset"] = 0.into();
        Some(())
    }),
    (&["end-offset-ahead"], |lines| {
        let last = lines.sent().last()?.invoke;
        let end = lines.end(PARTITION);
        let is_plain = |invoke: usize| lines.0[invoke]["partition"] == PARTITION;
        let mut asked = lines.answered("end_offset").into_iter();
        let (_, ok) = asked.find(|(invoke, ok)| *ok < last && is_plain(*invoke))?;
        lines.0[ok]["offset"] = end.into();
        Some(())
    }),
    (&["invented-offset"], |lines| {
        let (_, ok) = *lines.answered("fetch_offsets").first()?;
        lines.0[ok]["offsets"][PARTITION] = 999_999.into();
        Some(())
    }),
    (&["two-owners"], |lines| {
        let at = *lines.all("note", "rebalance").first()?;
        let mut other = lines.0[at].clone();
        other["process"] = 9_999.into();
        lines.insert(at + 1, &[other]);
        Some(())
    }),
    (&["aborted-read"], |lines| {
        let (partition, sent) = lines.transaction("abort")?;
        let at = lines.finals(partition.as_str()?)[0];
        let record = json!([sent.offset, sent.value]);
        let records = lines.records(at);
        let place = records.partition_point(|it| it[0].as_i64() < Some(sent.offset));
        records.insert(place, record);
        Some(())
    }),
    (&["torn-transaction", "lost-write"], |lines| {
        let (partition, sent) = lines.transaction("commit")?;
        let finals = lines.finals(partition.as_str()?);
        lines.forget(&finals, sent.offset);
        Some(())
    }),
    (&["hanging-transaction"], |lines| {
        let at = lines.finals("orders/1")[0];
        let end = lines.end("orders/1");
        lines.0[at]["stable"] = (end - 1).into();
        (end > 0).then_some(())
    }),
    (&["condition-broken"], |lines| {
        let sends = lines.answered("send");
        let is_conditional = |invoke: usize| !lines.0[invoke]["expected_end_offset"].is_null();
        let (invoke, _) = sends.into_iter().find(|(invoke, _)| is_conditional(*invoke))?;
        let expected = lines.0[invoke]["expected_end_offset"].as_i64()?;
        lines.0[invoke]["expected_end_offset"] = (expected + 1).into();
        Some(())
    }),
    (&["last-value-lost"], |lines| {
        let finals = lines.finals(COMPACTED);
        let sent = lines.sent_to(COMPACTED);
        let there = lines.records(finals[0]).clone();
        let is_there = |it: &&Sent| there.iter().any(|record| record[0] == it.offset);
        let value = |it: &&Sent| lines.0[it.invoke]["tombstone"].is_null();
        let offset = sent.iter().filter(is_there).find(value)?.offset;
        lines.forget(&finals, offset);
        Some(())
    }),
    (&["message-lost"], |lines| {
        let sent = lines.answered("queue_send");
        let values: Vec<Json> = sent
            .iter()
            .map(|(invoke, _)| lines.0[*invoke]["value"].clone())
            .collect();
        let dumps = lines.dumps();
        let messages = lines.0[dumps[0]]["messages"].as_array()?;
        let lost = messages
            .iter()
            .find(|it| values.contains(&it["value"]) && it["state"] == "ready")?["value"]
            .clone();
        for at in dumps {
            lines.0[at]["messages"].as_array_mut()?.retain(|it| it["value"] != lost);
            lines.0[at]["counts"] = Json::Null;
        }
        Some(())
    }),
    (&["delivered-after-ack"], |lines| {
        let is_ack = |invoke: usize| lines.0[invoke]["settlement"] == "ack" && lines.0[invoke]["queue"] == "plain";
        let mut settles = lines.answered("settle").into_iter();
        let (invoke, ok) = settles.find(|(invoke, _)| is_ack(*invoke))?;
        let again = receive(&lines.0[invoke].clone(), "another", 9);
        lines.insert(ok + 1, &again);
        Some(())
    }),
    (&["message-invented"], |lines| {
        let at = lines.first_note();
        lines.insert(at, &receive(&json!({"value": "nobody's"}), "another", 1));
        Some(())
    }),
    (&["two-holders"], |lines| {
        let (ok, message) = lines.delivered()?;
        let attempt = message["attempt"].as_u64()?;
        lines.insert(ok + 1, &receive(&message, "another", attempt + 1));
        Some(())
    }),
    (&["lease-reused"], |lines| {
        let (ok, message) = lines.delivered()?;
        let other = json!({"value": "another"});
        lines.insert(ok + 1, &receive(&other, message["lease"].as_str()?, 1));
        Some(())
    }),
    (&["failed-too-often"], |lines| {
        let (ok, _) = lines.delivered()?;
        lines.0[ok]["messages"][0]["failures"] = 3.into();
        Some(())
    }),
    (&["too-early"], |lines| {
        let (_, message) = lines.delivered()?;
        let mut sends = lines.all("invoke", "queue_send").into_iter();
        let send = sends.find(|at| lines.0[*at]["value"] == message["value"])?;
        lines.0[send]["not_before"] = 1_000_000_000_000_000_u64.into();
        Some(())
    }),
    (&["counts-wrong"], |lines| {
        let at = lines.dumps()[0];
        lines.0[at]["counts"]["dead"] = 1_000_000.into();
        Some(())
    }),
    (&["two-states"], |lines| {
        let at = lines.dumps()[0];
        let messages = lines.0[at]["messages"].as_array_mut()?;
        let mut other = messages.first()?.clone();
        other["state"] = "leased".into();
        messages.push(other);
        Some(())
    }),
    (&["queue-divergence"], |lines| {
        let at = lines.dumps()[2];
        lines.0[at]["messages"].as_array_mut()?.first_mut()?["failures"] = 77.into();
        Some(())
    }),
];

fn try_on(seed: u64, mutation: Mutation) -> Option<Verdict> {
    let mut lines = Lines(generated(&Options {
        operations: 600,
        seed,
        ..Options::default()
    }));
    mutation(&mut lines).map(|()| judge(lines.0))
}

#[test]
fn each_mistake_is_found_under_its_name() {
    let mut wrong = Vec::new();
    for (kinds, mutation) in MUTATIONS {
        let mut tried = 0;
        for seed in 0..5 {
            let Some(verdict) = try_on(seed, *mutation) else {
                continue;
            };
            tried += 1;
            let found = verdict.kinds();
            if !found.iter().any(|kind| kinds.contains(&kind.name())) {
                wrong.push(format!("seed {seed}: {kinds:?} is not found: {verdict}"));
            }
        }
        if tried < 3 {
            wrong.push(format!("{kinds:?}: only {tried} histories have a place for it"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn without_its_evidence_a_history_is_unknown() {
    let history = || Lines(generated(&Options::default())).0;
    let mut no_fault = history();
    no_fault.retain(|line| line["phase"] != "took_effect");
    assert_eq!(judge(no_fault).judgement, Judgement::Unknown);
    let mut no_read = history();
    no_read.retain(|line| line["partition"] != PARTITION || line["op"] != "final");
    assert_eq!(judge(no_read).judgement, Judgement::Unknown);
    let mut cut_short = history();
    for line in cut_short.iter_mut().filter(|line| line["op"] == "dump") {
        line["complete"] = false.into();
    }
    assert_eq!(judge(cut_short).judgement, Judgement::Unknown);
}
