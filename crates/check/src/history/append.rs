//! Events become operations: the only way into a history.

use crate::call::{Call, Delivered, Record, Reply};
use crate::error::EventError;
use crate::names::{NameId, OperationId, PartitionId};
use crate::note::{Dump, Final, Note};

use super::log::{Conflict, Log, Source};
use super::operation::{
    Body, CommitBody, DeliveredBody, NEVER, Operation, Outcome, QueueSendBody, Read, SendBody, SettleBody,
};
use super::{FinalRead, History, QueueDump, Rebalance};

/// Offsets are below this, so that sums of them fit.
pub const OFFSET_MAX: i64 = 1 << 62;

fn check_offset(offset: i64) -> Result<(), EventError> {
    match (0..=OFFSET_MAX).contains(&offset) {
        true => Ok(()),
        false => Err(EventError::Offset {
            offset,
            most: OFFSET_MAX,
        }),
    }
}

fn check_records(records: &[Record]) -> Result<(), EventError> {
    records.iter().try_for_each(|(offset, _)| check_offset(*offset))
}

fn check_reply(reply: &Reply) -> Result<(), EventError> {
    match reply {
        Reply::Sent(sent) => check_offset(sent.offset),
        Reply::Offset(answer) => check_offset(answer.offset),
        Reply::Polled(polled) => polled.reads.values().try_for_each(|records| check_records(records)),
        _ => Ok(()),
    }
}

fn check_final(part: &Final) -> Result<(), EventError> {
    let marks = [Some(part.log_start), Some(part.end), part.stable, part.next];
    marks.into_iter().flatten().try_for_each(check_offset)?;
    check_records(&part.records)
}

/// Where and when an event was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The event's number: higher than that of the event before.
    pub index: u64,
    /// The time by one monotonic clock.
    pub time_ns: u64,
}

impl History {
    /// Adds a call. Its number is what its answer is added with.
    ///
    /// # Errors
    /// The event is out of order.
    pub fn invoke(&mut self, at: Moment, process: u32, call: Call) -> Result<OperationId, EventError> {
        if let Call::Trim { offset, .. } = call {
            check_offset(offset)?;
        }
        self.advance(at)?;
        let id = OperationId(u32::try_from(self.operations.len()).map_err(|_| EventError::TooMany)?);
        let body = self.body(call);
        self.operations.push(Operation {
            invoked: at.index,
            ended: NEVER,
            invoked_ns: at.time_ns,
            ended_ns: NEVER,
            process,
            outcome: Outcome::Open,
            body,
        });
        self.open.entry(process).or_default().push(id);
        Ok(id)
    }

    /// Adds the answer to a call that has taken effect.
    ///
    /// # Errors
    /// The event is out of order, the call was answered before, or the answer is of another kind of call or has no offset.
    pub fn ok(&mut self, at: Moment, id: OperationId, reply: Reply) -> Result<(), EventError> {
        check_reply(&reply)?;
        self.end(at, id, Outcome::Ok)?;
        self.answer(id, reply)
    }

    /// Adds that a call has no effect.
    ///
    /// # Errors
    /// The event is out of order, or the call was answered before.
    pub fn fail(&mut self, at: Moment, id: OperationId) -> Result<(), EventError> {
        self.end(at, id, Outcome::Failed)
    }

    /// Adds that nobody knows what became of a call. Its process is to call nothing more.
    ///
    /// # Errors
    /// The event is out of order, or the call was answered before.
    pub fn unknown(&mut self, at: Moment, id: OperationId) -> Result<(), EventError> {
        self.end(at, id, Outcome::Unknown)?;
        let operation = &mut self.operations[id.at()];
        // Its effect may come at any time.
        (operation.ended, operation.ended_ns) = (NEVER, NEVER);
        Ok(())
    }

    /// Adds what is no call.
    ///
    /// # Errors
    /// The event is out of order, or has no process though it is about one.
    pub fn note(&mut self, at: Moment, process: Option<u32>, note: Note) -> Result<(), EventError> {
        self.advance(at)?;
        match note {
            Note::Partition(settings) => {
                let partition = self.partition(&settings.partition);
                self.partition_settings.insert(partition, settings);
            }
            Note::Queue(settings) => {
                let queue = self.names.number(&settings.queue);
                self.queue_settings.insert(queue, settings);
            }
            Note::Rebalance {
                group,
                epoch,
                partitions,
            } => {
                let member = Some((self.names.number(&group), epoch));
                let partitions = partitions.iter().map(|name| self.partition(name)).collect();
                self.rebalanced(at, process, member, partitions)?;
            }
            Note::Leave {} => self.rebalanced(at, process, None, Vec::new())?,
            Note::Fault(fault) => self.faults.push((at.index, fault)),
            Note::Final(part) => {
                check_final(&part)?;
                self.final_read(at, part);
            }
            Note::Dump(part) => self.dump(at, part),
        }
        Ok(())
    }

    /// The call of a process that waits for its answer, if it is just one.
    pub(crate) fn open_of(&self, process: u32) -> Option<OperationId> {
        match self.open.get(&process).map(Vec::as_slice) {
            Some([id]) => Some(*id),
            _ => None,
        }
    }

    /// Whether calls of a process wait for answers.
    pub(crate) fn has_open(&self, process: u32) -> bool {
        self.open.get(&process).is_some_and(|open| !open.is_empty())
    }

    /// The open call that is this event.
    pub(crate) fn open_at(&self, process: u32, index: u64) -> Option<OperationId> {
        let open = self.open.get(&process)?;
        open.iter().copied().find(|id| self.operation(*id).invoked == index)
    }

    fn advance(&mut self, at: Moment) -> Result<(), EventError> {
        if at.index < self.next_index {
            return Err(EventError::Index {
                index: at.index,
                least: self.next_index,
            });
        }
        if at.time_ns < self.last_ns {
            return Err(EventError::Time {
                time: at.time_ns,
                before: self.last_ns,
            });
        }
        self.next_index = at.index.checked_add(1).ok_or(EventError::TooMany)?;
        self.last_ns = at.time_ns;
        Ok(())
    }

    fn end(&mut self, at: Moment, id: OperationId, outcome: Outcome) -> Result<(), EventError> {
        self.advance(at)?;
        let operation = self.operations.get_mut(id.at()).ok_or(EventError::NotOpen)?;
        if operation.outcome != Outcome::Open {
            return Err(EventError::NotOpen);
        }
        (operation.ended, operation.ended_ns) = (at.index, at.time_ns);
        operation.outcome = outcome;
        if let Some(open) = self.open.get_mut(&operation.process) {
            open.retain(|other| *other != id);
        }
        Ok(())
    }

    fn partition(&mut self, name: &str) -> PartitionId {
        let id = self.partitions.number(name);
        if self.logs.len() < self.partitions.len() {
            self.logs.push(Log::default());
        }
        id
    }

    fn optional(&mut self, name: Option<&String>) -> Option<NameId> {
        name.map(|name| self.names.number(name))
    }

    fn body(&mut self, call: Call) -> Body {
        match call {
            Call::Send(send) => Body::Send(Box::new(SendBody {
                partition: self.partition(&send.partition),
                value: self.values.number(&send.value.0),
                key: self.optional(send.key.as_ref()),
                transaction: self.optional(send.transaction.as_ref()),
                expected_end_offset: send.expected_end_offset,
                expected_key_offset: send.expected_key_offset,
                offset: None,
                attempts: 1,
                tombstone: send.tombstone,
                idempotent: send.idempotent,
            })),
            Call::Poll { isolation, transaction } => Body::Poll {
                isolation,
                transaction: self.optional(transaction.as_ref()),
                reads: Vec::new(),
            },
            Call::EndOffset { partition, isolation } => Body::EndOffset {
                partition: self.partition(&partition),
                isolation,
                offset: None,
            },
            Call::Assign { partitions } => Body::Assign(partitions.iter().map(|name| self.partition(name)).collect()),
            Call::Seek { partition } => Body::Seek(self.partition(&partition)),
            Call::Subscribe { group } => Body::Subscribe(self.names.number(&group)),
            Call::CommitOffsets {
                group,
                offsets,
                epoch,
                transaction,
                rewind,
            } => Body::CommitOffsets(Box::new(CommitBody {
                group: self.names.number(&group),
                offsets: offsets
                    .iter()
                    .map(|(name, offset)| (self.partition(name), *offset))
                    .collect(),
                epoch,
                transaction: self.optional(transaction.as_ref()),
                rewind,
            })),
            Call::FetchOffsets { group } => Body::FetchOffsets {
                group: self.names.number(&group),
                offsets: Default::default(),
            },
            Call::Trim { partition, offset } => Body::Trim {
                partition: self.partition(&partition),
                offset,
            },
            Call::Begin { transaction } => Body::Begin(self.names.number(&transaction)),
            Call::Commit { transaction } => Body::Commit(self.names.number(&transaction)),
            Call::Abort { transaction } => Body::Abort(self.names.number(&transaction)),
            other => self.queue_body(other),
        }
    }

    fn queue_body(&mut self, call: Call) -> Body {
        match call {
            Call::QueueSend(send) => Body::QueueSend(Box::new(QueueSendBody {
                queue: self.names.number(&send.queue),
                value: self.values.number(&send.value.0),
                key: self.optional(send.key.as_ref()),
                message_id: self.optional(send.message_id.as_ref()),
                priority: send.priority,
                not_before: send.not_before,
                expires: send.expires,
                transaction: self.optional(send.transaction.as_ref()),
                place: None,
            })),
            Call::Publish {
                exchange,
                value,
                queues,
            } => Body::Publish {
                exchange: self.names.number(&exchange),
                value: self.values.number(&value.0),
                queues: queues.iter().map(|queue| self.names.number(queue)).collect(),
            },
            Call::Receive { queue, lease, stream } => Body::Receive {
                queue: self.names.number(&queue),
                lease,
                stream,
                messages: Vec::new(),
            },
            Call::Settle(settle) => Body::Settle(Box::new(SettleBody {
                queue: self.names.number(&settle.queue),
                value: self.values.number(&settle.value.0),
                lease: self.optional(settle.lease.as_ref()),
                settlement: settle.settlement,
                extend: settle.extend,
                transaction: self.optional(settle.transaction.as_ref()),
                already: false,
            })),
            Call::Purge { queue } => Body::Purge(self.names.number(&queue)),
            Call::Redrive { queue } => Body::Redrive(self.names.number(&queue)),
            other => unreachable!("`body` takes {}", other.name()),
        }
    }

    fn answer(&mut self, id: OperationId, reply: Reply) -> Result<(), EventError> {
        let mut body = std::mem::replace(&mut self.operations[id.at()].body, Body::Seek(PartitionId(0)));
        let name = body.name();
        let fits = match (&mut body, reply) {
            (Body::Send(send), Reply::Sent(sent)) => {
                (send.offset, send.attempts) = (Some(sent.offset), sent.attempts);
                let source = Source::Operation(id);
                self.put(send.partition, sent.offset, Some(send.value), source);
                true
            }
            (Body::Poll { reads, .. }, Reply::Polled(polled)) => {
                for (name, records) in &polled.reads {
                    let read = self.read(name, records, Source::Operation(id));
                    reads.push(read);
                }
                true
            }
            (Body::EndOffset { offset, .. }, Reply::Offset(answer)) => {
                *offset = Some(answer.offset);
                true
            }
            (Body::FetchOffsets { offsets, .. }, Reply::Offsets(answer)) => {
                for (name, offset) in &answer.offsets {
                    offsets.insert(self.partition(name), *offset);
                }
                true
            }
            (Body::QueueSend(send), Reply::Placed(placed)) => {
                send.place = Some((placed.partition, placed.offset));
                true
            }
            (Body::Receive { messages, .. }, Reply::Received(received)) => {
                messages.extend(received.messages.iter().map(|message| self.delivered(message)));
                true
            }
            (Body::Settle(settle), Reply::Settled(settled)) => {
                settle.already = settled.already;
                true
            }
            (
                Body::Send(_)
                | Body::Poll { .. }
                | Body::EndOffset { .. }
                | Body::FetchOffsets { .. }
                | Body::QueueSend(_)
                | Body::Receive { .. }
                | Body::Settle(_),
                _,
            ) => false,
            (_, reply) => matches!(reply, Reply::Done(_)),
        };
        self.operations[id.at()].body = body;
        if fits {
            Ok(())
        } else {
            Err(EventError::Reply { call: name })
        }
    }

    fn delivered(&mut self, message: &Delivered) -> DeliveredBody {
        let occurrence = message.occurrence.as_ref();
        DeliveredBody {
            value: self.values.number(&message.value.0),
            lease: self.names.number(&message.lease),
            attempt: message.attempt,
            failures: message.failures,
            occurrence: occurrence.map(|(schedule, number)| (self.names.number(schedule), *number)),
        }
    }

    fn put(&mut self, partition: PartitionId, offset: i64, value: Option<crate::names::ValueId>, source: Source) {
        if !self.logs[partition.at()].put(offset, value) {
            self.conflicts.push(Conflict {
                partition,
                offset,
                value,
                source,
            });
        }
    }

    fn read(&mut self, name: &str, records: &[Record], source: Source) -> Read {
        let partition = self.partition(name);
        let from = self.runs.len();
        let mut runs = std::mem::take(&mut self.runs);
        for (offset, value) in records {
            let value = value.as_ref().map(|value| self.values.number(&value.0));
            if !self.logs[partition.at()].read(&mut runs, from, *offset, value) {
                self.conflicts.push(Conflict {
                    partition,
                    offset: *offset,
                    value,
                    source,
                });
            }
        }
        self.runs = runs;
        let number = |it: usize| u32::try_from(it).expect("fewer than 4 G runs of reads");
        Read {
            partition,
            first_run: number(from),
            runs: number(self.runs.len() - from),
        }
    }

    fn final_read(&mut self, at: Moment, part: Final) {
        let partition = self.partition(&part.partition);
        let replica = self.optional(part.replica.as_ref());
        let place = *self
            .final_of
            .entry((partition, replica, part.isolation))
            .or_insert(self.finals.len());
        if place == self.finals.len() {
            self.finals.push(FinalRead {
                index: at.index,
                time_ns: at.time_ns,
                partition,
                replica,
                isolation: part.isolation,
                log_start: part.log_start,
                end: part.end,
                stable: part.end,
                next: part.end,
                complete: false,
                runs: Vec::new(),
            });
        }
        let mut runs = std::mem::take(&mut self.finals[place].runs);
        let source = Source::Final(u32::try_from(place).expect("fewer than 4 G final reads"));
        for (offset, value) in &part.records {
            let value = value.as_ref().map(|value| self.values.number(&value.0));
            if !self.logs[partition.at()].read(&mut runs, 0, *offset, value) {
                self.conflicts.push(Conflict {
                    partition,
                    offset: *offset,
                    value,
                    source,
                });
            }
        }
        let read = &mut self.finals[place];
        read.runs = runs;
        (read.index, read.time_ns) = (at.index, at.time_ns);
        (read.log_start, read.end) = (part.log_start, part.end);
        read.stable = part.stable.unwrap_or(part.end);
        read.next = part.next.unwrap_or(part.end);
        read.complete |= part.complete;
    }

    fn dump(&mut self, at: Moment, part: Dump) {
        self.names.number(&part.queue);
        for message in &part.messages {
            self.values.number(&message.value.0);
        }
        let same = |it: &&mut QueueDump| it.dump.queue == part.queue && it.dump.replica == part.replica;
        match self.dumps.iter_mut().find(same) {
            None => self.dumps.push(QueueDump {
                index: at.index,
                dump: part,
            }),
            Some(before) => {
                before.index = at.index;
                before.dump.messages.extend(part.messages);
                before.dump.floors.extend(part.floors);
                before.dump.counts = part.counts.or(before.dump.counts);
                before.dump.complete |= part.complete;
            }
        }
    }

    fn rebalanced(
        &mut self,
        at: Moment,
        process: Option<u32>,
        member: Option<(NameId, i64)>,
        partitions: Vec<PartitionId>,
    ) -> Result<(), EventError> {
        self.rebalances.push(Rebalance {
            index: at.index,
            time_ns: at.time_ns,
            process: process.ok_or(EventError::NoProcess)?,
            member,
            partitions,
        });
        Ok(())
    }
}
