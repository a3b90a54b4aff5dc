//! The brokers between clients and what they keep: requests come to the shard or wait until their transaction is joined, and answers go
//! back.

use std::sync::Arc;

use jangada_coordinator::TransactionRef;
use jangada_transactions::{
    Answer, Delivery, EndRequest, Image, InitRequest, JoinKind, JoinRequest, Leader, Producer, Rejection, Step,
};
use jangada_types::{GroupId, Offset, ProducerId, Reason};

use super::Bug;
use super::groups::Answered;
use super::partition::{Join, Proposal};
use super::process::{Call, Told};
use super::shard::{self, now};
use super::world::{Admission, Caller, Event, Joining, OfGroup, Request, World};

/// How long a broker waits for the shard before it refuses a batch, milliseconds.
const ADMISSION_MS: u64 = 1_000;
/// How long the answer to an end waits for the markers, milliseconds.
const END_WAITS_MS: u64 = 50;
const TIMEOUT_MS: u32 = 2_000;
/// How far before the end a transaction reads.
const READ_BEHIND: i64 = 8;

impl World {
    /// A client sends a call.
    pub fn send(&mut self, process: usize, op: u64, producer: Option<Producer>, call: Call) {
        let (id, bumps) = (self.processes[process].id.clone(), self.processes[process].bumps);
        let producer = producer.unwrap_or(Producer::first(ProducerId::NONE));
        let request = match &call {
            Call::Init { holder } => Request::Init(InitRequest {
                id,
                timeout_ms: TIMEOUT_MS,
                holder: *holder,
                fresh: None,
            }),
            Call::End { commit } => Request::End(EndRequest {
                id,
                producer,
                commit: *commit,
                bumps,
                fresh: None,
            }),
            Call::AddPartitions { partitions, groups } => Request::Join(JoinRequest {
                id,
                producer,
                partitions: partitions.iter().map(|at| GroupId(*at as u64)).collect(),
                groups: groups.iter().map(|name| Arc::from(*name)).collect(),
                kind: JoinKind::Explicit,
                metadata_version: self.metadata,
            }),
            Call::Produce { .. } | Call::Stage { .. } | Call::Fetch | Call::Read { .. } => {
                let until_ms = 0;
                let admission = Admission {
                    process,
                    op,
                    producer,
                    call,
                    until_ms,
                };
                return self.network(Event::Broker(admission, id));
            }
        };
        let caller = Caller::Client {
            process,
            op,
            call: request.clone(),
        };
        self.network(Event::Shard(request, caller));
    }

    pub fn ask_shard(&mut self, request: Request, caller: Caller) {
        let now_ms = self.now_ms;
        let decide = |leader: &mut Leader, image: &Image, now| match request.clone() {
            Request::Init(init) => leader.init(image, init, now),
            Request::Join(join) => leader.join(image, join, now),
            Request::End(end) => leader.end(image, end, now),
        };
        if self.stale.is_some() && self.chance(3) {
            let (image, leader) = self.stale.as_mut().expect("it is there");
            // What it proposes is never committed, and its refusals are not confirmed by a quorum: then nobody is answered.
            if let Step::Done(Ok(answer)) = decide(leader, image, now(now_ms)) {
                self.answer((caller, Ok(answer)));
            }
            return;
        }
        if let Request::Join(join) = &request
            && self
                .shard
                .leader
                .as_ref()
                .is_some_and(|leader| leader.is_joining(&self.shard.image, join))
            && !self.chance(4)
        {
            // It comes again when what is under way is applied, or for one in four too early: then it takes a command of its own.
            return self.network(Event::Shard(request, caller));
        }
        let before = self.shard.inflight();
        let answered = self.shard.ask(caller.clone(), now_ms, decide);
        if self.bug == Some(Bug::PrepareAnsweredBeforeCommit)
            && self.shard.inflight() > before
            && let Some(jangada_transactions::Command::End { next, seq, .. }) = self.shard.last_proposed()
            && matches!(request, Request::End(_))
        {
            let answer = Answer::Ended {
                next: *next,
                seq: *seq,
                is_complete: false,
            };
            self.answer((caller, Ok(answer)));
        }
        self.answer_all(answered);
        self.commit_shard_soon();
    }

    pub fn answer_all(&mut self, answered: Option<shard::Answered<Caller>>) {
        if let Some(answered) = answered {
            self.answer(answered);
        }
    }

    pub fn answer(&mut self, (caller, answer): (Caller, Result<Answer, Rejection>)) {
        match (caller, answer) {
            (Caller::Client { process, op, call }, Ok(Answer::NeedsProducerId)) => {
                self.fresh += 1;
                let fresh = Some(ProducerId(self.fresh));
                let request = match call {
                    Request::Init(init) => Request::Init(InitRequest { fresh, ..init }),
                    Request::End(end) => Request::End(EndRequest { fresh, ..end }),
                    join => join,
                };
                let caller = Caller::Client {
                    process,
                    op,
                    call: request.clone(),
                };
                self.ask_shard(request, caller);
            }
            (
                Caller::Client {
                    process,
                    op,
                    call: Request::End(end),
                },
                Ok(answer),
            ) => {
                self.end_waits((process, op), end.id, answer, self.now_ms + END_WAITS_MS);
            }
            (
                Caller::Client {
                    process,
                    op,
                    call: Request::End(end),
                },
                Err(rejection),
            ) => {
                let told = match self.end_with_bug(&end, &rejection) {
                    Some(answer) => Ok(answer),
                    None => Err(rejection.reason),
                };
                self.network(Event::Told(process, op, Told::Shard(told)));
            }
            (Caller::Client { process, op, .. }, answer) => {
                let told = Told::Shard(answer.map_err(|rejection| rejection.reason));
                self.network(Event::Told(process, op, told));
            }
            (Caller::Admission(token), answer) => {
                let joined = match answer {
                    Ok(Answer::Joined { seq }) => Ok(seq),
                    Ok(other) => panic!("{other:?} is no answer to a join"),
                    Err(rejection) => Err(rejection.reason),
                };
                self.network(Event::Admitted(token, joined));
            }
            (Caller::Nobody | Caller::Marker(..), _) => {}
        }
    }

    pub fn end_with_bug(&self, end: &EndRequest, rejection: &Rejection) -> Option<Answer> {
        let is_other = matches!(
            rejection.reason,
            Reason::TransactionTimedOut | Reason::InvalidTransactionState
        );
        let row = self.shard.image.id(&end.id)?;
        (self.bug == Some(Bug::EndRetryOtherDirection) && is_other).then_some(Answer::Ended {
            next: row.producer,
            seq: row.seq,
            is_complete: true,
        })
    }

    pub fn end_waits(&mut self, (process, op): (usize, u64), id: Arc<str>, answer: Answer, until_ms: u64) {
        let Answer::Ended { next, seq, .. } = answer else {
            panic!("{answer:?} is no answer to an end");
        };
        let is_complete = self.shard.image.id(&id).is_none_or(|row| row.is_complete(seq));
        let answer = Answer::Ended { next, seq, is_complete };
        if is_complete || self.now_ms >= until_ms {
            return self.network(Event::Told(process, op, Told::Shard(Ok(answer))));
        }
        self.after(
            5,
            Event::EndWaits {
                process,
                op,
                id,
                answer,
                until_ms,
            },
        );
    }

    /// A batch, an offset or a question comes to its broker.
    pub fn admit(&mut self, admission: Admission, id: Arc<str>) {
        let Admission { process, op, .. } = admission;
        match &admission.call {
            Call::Produce { partition, .. } => {
                let partition = *partition;
                self.admit_batch(partition, admission, id);
            }
            Call::Stage { group, .. } => {
                let groups = vec![Arc::from(*group)];
                let until_ms = self.now_ms + ADMISSION_MS;
                let token = self.join(id, admission.producer, vec![], groups);
                self.admissions
                    .insert(token, Joining::Offset(Admission { until_ms, ..admission }));
            }
            Call::Read { partition } => {
                if let Some(values) = self.last_values(*partition) {
                    self.network(Event::Told(process, op, Told::Read(values)));
                }
            }
            _ if self.groups.is_led() => {
                let input = self.processes[process].input.expect("it reads one");
                let told = Told::Fetched(self.groups.fetch("inputs", input));
                self.network(Event::Told(process, op, told));
            }
            _ => {}
        }
    }

    /// The partition's leader asks once for each transaction; what comes meanwhile waits for the same answer.
    fn admit_batch(&mut self, at: usize, admission: Admission, id: Arc<str>) {
        let (producer, now_ms, never_again) = (
            admission.producer,
            self.now_ms,
            self.bug == Some(Bug::JoinNotAskedAgain),
        );
        let admission = Admission {
            until_ms: now_ms + ADMISSION_MS,
            ..admission
        };
        let led = &mut self.partitions[at];
        if led.deleted.is_some() {
            let told = Told::Shard(Err(Reason::UnknownPartition));
            return self.network(Event::Told(admission.process, admission.op, told));
        }
        if led.led_from_ms > now_ms {
            return;
        }
        let open = led.open_of(producer);
        match led.joins.get_mut(&(producer.id, producer.epoch)) {
            Some(Join::Known(seq)) => {
                let seq = *seq;
                return self.append(&admission, seq);
            }
            Some(Join::Asked(_, until_ms, waiting)) if *until_ms >= now_ms || never_again => {
                return waiting.push(admission);
            }
            _ => {}
        }
        if let Some(seq) = open {
            return self.append(&admission, seq);
        }
        let token = self.join(id, producer, vec![GroupId(at as u64)], vec![]);
        self.admissions.insert(token, Joining::Batch(at, producer));
        let asked = Join::Asked(token, now_ms + ADMISSION_MS, vec![admission]);
        self.partitions[at].joins.insert((producer.id, producer.epoch), asked);
    }

    /// Asks the shard to make partitions and groups parts of the producer's transaction.
    fn join(&mut self, id: Arc<str>, producer: Producer, partitions: Vec<GroupId>, groups: Vec<Arc<str>>) -> u64 {
        let kind = match self.plan.is_old {
            false => JoinKind::Implicit,
            true => JoinKind::Check,
        };
        let join = JoinRequest {
            id,
            producer,
            partitions,
            groups,
            kind,
            metadata_version: self.metadata,
        };
        let token = self.next_op();
        self.network(Event::Shard(Request::Join(join), Caller::Admission(token)));
        token
    }

    pub fn admitted(&mut self, token: u64, joined: Result<u64, Reason>) {
        match self.admissions.remove(&token) {
            Some(Joining::Offset(admission)) => self.admit_or_refuse(admission, joined),
            Some(Joining::Batch(at, producer)) => {
                let (joins, of) = (&mut self.partitions[at].joins, (producer.id, producer.epoch));
                if !matches!(joins.get(&of), Some(Join::Asked(asked, ..)) if *asked == token) {
                    return;
                }
                let asked = match joined {
                    Ok(seq) => joins.insert(of, Join::Known(seq)),
                    Err(_) => joins.remove(&of),
                };
                let Some(Join::Asked(_, _, waiting)) = asked else {
                    unreachable!("it was looked at");
                };
                for admission in waiting {
                    self.admit_or_refuse(admission, joined);
                }
            }
            None => {}
        }
    }

    fn admit_or_refuse(&mut self, admission: Admission, joined: Result<u64, Reason>) {
        if admission.until_ms < self.now_ms {
            return;
        }
        match (joined, &admission.call) {
            (Err(reason), _) => self.network(Event::Told(admission.process, admission.op, Told::Shard(Err(reason)))),
            (Ok(seq), Call::Stage { .. }) => self.network(Event::Staged(admission, seq)),
            (Ok(seq), _) => self.append(&admission, seq),
        }
    }

    pub fn append(&mut self, admission: &Admission, seq: u64) {
        let Call::Produce {
            partition,
            sequence,
            value,
        } = admission.call
        else {
            return;
        };
        let proposal = Proposal::Append {
            producer: admission.producer,
            seq,
            sequence,
            value,
        };
        let caller = Caller::Client {
            process: admission.process,
            op: admission.op,
            call: Request::Init(InitRequest::default()),
        };
        self.propose(partition, proposal, caller);
    }

    pub fn stage(&mut self, admission: &Admission, seq: u64) {
        let Call::Stage { group, key, offset } = admission.call else {
            return;
        };
        let transaction = TransactionRef {
            producer_id: admission.producer.id,
            epoch: admission.producer.epoch,
            seq,
        };
        let caller = OfGroup::Staging(admission.process, admission.op);
        let answered = self
            .groups
            .stage(group, transaction, (key, offset), caller, self.now_ms);
        self.answer_of_groups(answered);
        self.commit_groups_soon();
    }

    pub fn answer_of_groups(&mut self, answered: Option<Answered<OfGroup>>) {
        match answered {
            Some((OfGroup::Staging(process, op), answer)) => {
                let told = match answer.map_err(|rejection| rejection.reason) {
                    Ok(_) => Told::Staged(true),
                    Err(Reason::ConcurrentTransactions) => Told::Shard(Err(Reason::ConcurrentTransactions)),
                    Err(_) => Told::Staged(false),
                };
                self.network(Event::Told(process, op, told));
            }
            Some((OfGroup::End(marker, is_stale), answer)) => {
                let delivery = if answer.is_ok() {
                    Delivery::Done
                } else {
                    Delivery::Failed
                };
                self.network(Event::Acknowledge(marker, delivery, is_stale));
            }
            None => {}
        }
    }

    /// The last committed values of a partition, as its leader has them.
    fn last_values(&self, at: usize) -> Option<Vec<u64>> {
        let partition = &self.partitions[at];
        if partition.deleted.is_some() {
            return Some(Vec::new());
        }
        if partition.led_from_ms > self.now_ms {
            return None;
        }
        let from = Offset(partition.stable_offset().get() - READ_BEHIND);
        let (read, _) = partition.read(from.max(partition.state().log_start()), usize::MAX);
        Some(read.into_iter().map(|(_, value)| value).collect())
    }
}
