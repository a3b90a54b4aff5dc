//! Operations as text that somebody can act upon.

use crate::call::Isolation;
use crate::names::OperationId;

use super::History;
use super::log::{Run, Source};
use super::operation::{Body, NEVER, Operation, Outcome, SendBody};

/// How many records of a read are shown.
const RECORDS_SHOWN: usize = 6;

impl History {
    /// One line that says what an operation was and what became of it.
    pub fn describe(&self, id: OperationId) -> String {
        let operation = self.operation(id);
        format!(
            "#{} process {} {} {}",
            operation.invoked,
            operation.process,
            self.what(operation),
            self.when(operation)
        )
    }

    /// What was read where, of a final read.
    pub fn describe_final(&self, at: usize) -> String {
        let read = &self.finals[at];
        let who = match read.replica {
            Some(replica) => format!("replica {}", self.name(replica)),
            None => "a client".to_owned(),
        };
        format!(
            "#{} final read of {} by {who} from {} to {}",
            read.index,
            self.partition_name(read.partition),
            read.log_start,
            read.end
        )
    }

    pub(crate) fn describe_source(&self, source: Source) -> (u64, String) {
        match source {
            Source::Operation(id) => (self.operation(id).invoked, self.describe(id)),
            Source::Final(at) => (self.finals[at as usize].index, self.describe_final(at as usize)),
        }
    }

    fn when(&self, operation: &Operation) -> String {
        let ms = |ns: u64| ns as f64 / 1e6;
        let began = ms(operation.invoked_ns);
        match operation.outcome {
            Outcome::Open => format!("[{began:.3} ms, never answered]"),
            Outcome::Unknown => format!("[{began:.3} ms, outcome unknown]"),
            Outcome::Ok | Outcome::Failed if operation.ended == NEVER => format!("[{began:.3} ms]"),
            Outcome::Ok => format!(
                "[{began:.3} to {:.3} ms, answered by #{}]",
                ms(operation.ended_ns),
                operation.ended
            ),
            Outcome::Failed => format!(
                "[{began:.3} to {:.3} ms, refused by #{}]",
                ms(operation.ended_ns),
                operation.ended
            ),
        }
    }

    fn sent(&self, send: &SendBody) -> String {
        let mut text = format!(
            "sent {:?} to {}",
            self.value(send.value),
            self.partition_name(send.partition)
        );
        if let Some(key) = send.key {
            text += &format!(" with key {:?}", self.name(key));
        }
        if send.tombstone {
            text += " as a tombstone";
        }
        if let Some(transaction) = send.transaction {
            text += &format!(" in transaction {}", self.name(transaction));
        }
        if let Some(offset) = send.offset {
            text += &format!(" and was told offset {offset}");
        }
        text
    }

    fn what(&self, operation: &Operation) -> String {
        match &operation.body {
            Body::Send(send) => self.sent(send),
            Body::Poll { isolation, reads, .. } => {
                let of = |read| {
                    let (name, runs) = (self.partition_name(read_partition(read)), self.runs(read));
                    format!("{name} {}", show_runs(runs))
                };
                let reads: Vec<String> = reads.iter().map(of).collect();
                let isolation = match isolation {
                    Isolation::Committed => "",
                    Isolation::Uncommitted => " uncommitted",
                };
                format!("polled{isolation} {}", reads.join(", "))
            }
            Body::EndOffset { partition, offset, .. } => {
                let answer = offset.map_or("nothing".to_owned(), |offset| offset.to_string());
                format!(
                    "asked for the end of {} and was told {answer}",
                    self.partition_name(*partition)
                )
            }
            Body::CommitOffsets(commit) => {
                let of = |(partition, offset): &(_, i64)| format!("{} {offset}", self.partition_name(*partition));
                let offsets: Vec<String> = commit.offsets.iter().map(of).collect();
                let epoch = commit.epoch.map_or(String::new(), |epoch| format!(" at epoch {epoch}"));
                format!(
                    "committed for group {}{epoch}: {}",
                    self.name(commit.group),
                    offsets.join(", ")
                )
            }
            Body::FetchOffsets { group, offsets } => {
                let of = |(partition, offset): (&_, &Option<i64>)| {
                    let offset = offset.map_or("none".to_owned(), |offset| offset.to_string());
                    format!("{} {offset}", self.partition_name(*partition))
                };
                let offsets: Vec<String> = offsets.iter().map(of).collect();
                format!("was told of group {}: {}", self.name(*group), offsets.join(", "))
            }
            Body::Begin(name) | Body::Commit(name) | Body::Abort(name) => {
                format!("{} of transaction {}", operation.body.name(), self.name(*name))
            }
            Body::QueueSend(send) => {
                let place = send.place.map_or(String::new(), |(partition, offset)| {
                    format!(" and was told {partition}:{offset}")
                });
                format!(
                    "sent {:?} to queue {}{place}",
                    self.value(send.value),
                    self.name(send.queue)
                )
            }
            Body::Publish { value, queues, .. } => {
                let queues: Vec<&str> = queues.iter().map(|queue| self.name(*queue)).collect();
                format!("published {:?} for {}", self.value(*value), queues.join(", "))
            }
            Body::Receive { queue, messages, .. } => {
                let of = |message: &super::operation::DeliveredBody| {
                    format!(
                        "{:?} under lease {} (attempt {}, {} failures)",
                        self.value(message.value),
                        self.name(message.lease),
                        message.attempt,
                        message.failures
                    )
                };
                let mut shown: Vec<String> = messages.iter().take(RECORDS_SHOWN).map(of).collect();
                if messages.len() > RECORDS_SHOWN {
                    shown.push(format!("{} more", messages.len() - RECORDS_SHOWN));
                }
                format!("received from queue {}: {}", self.name(*queue), shown.join(", "))
            }
            Body::Settle(settle) => {
                let lease = settle
                    .lease
                    .map_or(String::new(), |lease| format!(" under lease {}", self.name(lease)));
                let already = if settle.already { ", which was done already" } else { "" };
                format!(
                    "{:?} of {:?} of queue {}{lease}{already}",
                    settle.settlement,
                    self.value(settle.value),
                    self.name(settle.queue)
                )
            }
            other => other.name().to_owned(),
        }
    }
}

fn read_partition(read: &super::operation::Read) -> crate::names::PartitionId {
    read.partition
}

fn show_runs(runs: &[Run]) -> String {
    let of = |run: &Run| match run.count {
        1 => run.first.to_string(),
        _ => format!("{}-{}", run.first, run.last()),
    };
    let mut shown: Vec<String> = runs.iter().take(RECORDS_SHOWN).map(of).collect();
    if runs.len() > RECORDS_SHOWN {
        shown.push(format!("{} more runs", runs.len() - RECORDS_SHOWN));
    }
    format!("[{}]", shown.join(" "))
}
