//! Fetching: long polls, and streams that push while the consumer's credit lasts.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use jangada_proto::v1::fetch_stream_request::Message;
use jangada_proto::v1::{
    self, FetchRequest, FetchResponse, FetchStreamRequest, FetchStreamResponse, FetchStreamStart, RecordForm,
};
use jangada_types::batch::{BatchIter, decode_records};
use jangada_types::limits::{
    DECOMPRESSED_BYTES_MAX, FETCH_BYTES_DEFAULT, FETCH_CREDIT_BYTES_DEFAULT, FETCH_WAIT_MS_MAX,
};
use jangada_types::{Offset, Reason};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::produce::too_many_streams;
use crate::error::RequestError;
use crate::node::Node;
use crate::partition::{Fetched, Partition};
use crate::partitions::find;

/// What a fetch stream pushes.
pub(crate) type Pushed = Pin<Box<dyn Stream<Item = Result<FetchStreamResponse, Status>> + Send>>;

/// How long a stream waits for records before it looks again whether it still may.
const STREAM_WAIT: Duration = Duration::from_secs(30);

pub(crate) async fn unary(node: &Arc<Node>, request: FetchRequest) -> Result<FetchResponse, RequestError> {
    let target = find(&node.metadata.image(), request.partition.as_ref())?;
    let form = form(request.form)?;
    let max_bytes = max_bytes(node, request.max_bytes)?;
    if request.max_wait_ms > FETCH_WAIT_MS_MAX {
        let message = format!("max_wait_ms is {}: at most {FETCH_WAIT_MS_MAX}", request.max_wait_ms);
        return Err(RequestError::new(Reason::InvalidRequest, message).with("limit", FETCH_WAIT_MS_MAX));
    }
    let partition = node.leader(&target).await?;
    partition.check_epoch(request.leader_epoch)?;
    let max_wait = Duration::from_millis(u64::from(request.max_wait_ms));
    let min_bytes = usize::try_from(request.min_bytes)
        .expect("usize has 64 bits")
        .min(max_bytes);
    let offset = Offset(request.offset);
    let mut stopping = node.stopping();
    tokio::select! {
        waited = partition.await_bytes(offset, min_bytes, max_wait) => waited?,
        _ = stopping.wait_for(|stopping| *stopping) => node.refuse_when_stopping()?,
    }
    let _room = node.room_to_fetch(max_bytes).await;
    let fetched = partition.read(offset, max_bytes).await?;
    response(fetched, offset, form)
}

fn form(value: i32) -> Result<RecordForm, RequestError> {
    RecordForm::try_from(value)
        .map_err(|_| RequestError::new(Reason::InvalidRequest, format!("record form {value} is not known")))
}

fn max_bytes(node: &Node, asked: u32) -> Result<usize, RequestError> {
    let limit = node.settings.limits.fetch_bytes_max;
    if u64::from(asked) > limit {
        return Err(
            RequestError::new(Reason::InvalidRequest, format!("max_bytes is {asked}: at most {limit}"))
                .with("limit", limit),
        );
    }
    Ok(if asked == 0 {
        FETCH_BYTES_DEFAULT.min(usize::try_from(limit).expect("usize has 64 bits"))
    } else {
        asked as usize
    })
}

fn response(fetched: Fetched, from: Offset, form: RecordForm) -> Result<FetchResponse, RequestError> {
    let mut response = FetchResponse {
        batches: Bytes::new(),
        records: Vec::new(),
        high_watermark: fetched.high_watermark.get(),
        log_start_offset: fetched.log_start.get(),
        next_offset: fetched.next_offset.get(),
        leader_epoch: fetched.epoch.get(),
    };
    if form != RecordForm::Plain {
        response.batches = fetched.batches;
        return Ok(response);
    }
    for batch in BatchIter::new(fetched.batches) {
        let (_, batch) = batch?;
        let records = decode_records(&batch, DECOMPRESSED_BYTES_MAX)?;
        response
            .records
            .extend(records.into_iter().filter(|record| record.offset >= from).map(plain));
    }
    Ok(response)
}

fn plain(record: jangada_types::Record) -> v1::Record {
    let headers = record.headers.into_iter().map(|header| v1::RecordHeader {
        key: header.key.to_string(),
        value: header.value,
    });
    v1::Record {
        key: record.key,
        value: record.value,
        headers: headers.collect(),
        timestamp_ms: Some(record.timestamp_ms),
        offset: record.offset.get(),
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Opens a fetch stream: its first message says what to read.
pub(crate) async fn stream(node: Arc<Node>, mut requests: Streaming<FetchStreamRequest>) -> Result<Pushed, Status> {
    let slot = node
        .streams
        .clone()
        .try_acquire_owned()
        .map_err(|_| too_many_streams(&node))?;
    let Some(FetchStreamRequest {
        message: Some(Message::Start(start)),
    }) = requests.message().await?
    else {
        return Err(RequestError::new(Reason::InvalidRequest, "a fetch stream begins with `start`").into());
    };
    let pusher = Pusher::open(&node, start).await?;
    // One response is being sent, one waits.
    let (responses, outgoing) = mpsc::channel(1);
    tokio::spawn(pusher.run(requests, responses, slot));
    // The bytes are given back when the response is taken to be sent.
    Ok(Box::pin(
        ReceiverStream::new(outgoing).map(|(response, _bytes)| response),
    ))
}

/// A response on its way, with its part of the budget for bytes that were read and not sent.
type Push = (Result<FetchStreamResponse, Status>, Option<OwnedSemaphorePermit>);

/// One fetch stream.
struct Pusher {
    node: Arc<Node>,
    partition: Arc<Partition>,
    offset: Offset,
    max_bytes: usize,
    form: RecordForm,
    /// Bytes; below zero after a response that went over it, as the consumer counts too.
    credit: i64,
}

impl Pusher {
    async fn open(node: &Arc<Node>, start: FetchStreamStart) -> Result<Self, RequestError> {
        let target = find(&node.metadata.image(), start.partition.as_ref())?;
        let partition = node.leader(&target).await?;
        partition.check_epoch(start.leader_epoch)?;
        Ok(Self {
            node: node.clone(),
            partition,
            offset: Offset(start.offset),
            max_bytes: max_bytes(node, start.max_bytes)?,
            form: form(start.form)?,
            credit: signed(if start.credit_bytes == 0 {
                FETCH_CREDIT_BYTES_DEFAULT
            } else {
                start.credit_bytes
            }),
        })
    }

    async fn run(
        mut self,
        mut requests: Streaming<FetchStreamRequest>,
        responses: mpsc::Sender<Push>,
        _slot: OwnedSemaphorePermit,
    ) {
        let node = self.node.clone();
        let mut stopping = node.stopping();
        loop {
            let pushed = tokio::select! {
                biased;
                request = requests.message() => match request {
                    Ok(Some(request)) => self.take(request).map(|()| true),
                    Ok(None) | Err(_) => return,
                },
                _ = stopping.wait_for(|stopping| *stopping) => node.refuse_when_stopping().map(|()| true),
                pushed = self.push(&responses), if self.credit > 0 => pushed,
            };
            match pushed {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    node.metrics.failed(error.reason);
                    // The consumer may be gone.
                    let _ = responses.send((Err(error.into()), None)).await;
                    return;
                }
            }
        }
    }

    fn take(&mut self, request: FetchStreamRequest) -> Result<(), RequestError> {
        match request.message {
            Some(Message::CreditBytes(bytes)) => {
                self.credit = self.credit.saturating_add(signed(bytes));
                Ok(())
            }
            _ => Err(RequestError::new(
                Reason::InvalidRequest,
                "after `start` a fetch stream takes only `credit_bytes`",
            )),
        }
    }

    /// Sends what comes next. False: nobody reads. Being dropped while it waits loses nothing.
    async fn push(&mut self, responses: &mpsc::Sender<Push>) -> Result<bool, RequestError> {
        // Reads only when there is room to send, so that a consumer that stalls holds one response, not many.
        let Ok(room) = responses.reserve().await else {
            return Ok(false);
        };
        self.partition.await_bytes(self.offset, 1, STREAM_WAIT).await?;
        let mut room_taken = self.node.room_to_fetch(self.max_bytes).await;
        let fetched = self.partition.read(self.offset, self.max_bytes).await?;
        // What was not needed goes back at once: many streams may wait with a small response each.
        drop(room_taken.split(self.max_bytes.saturating_sub(fetched.batches.len())));
        if fetched.batches.is_empty() {
            return Ok(true);
        }
        self.credit = self.credit.saturating_sub(signed(fetched.batches.len() as u64));
        let next_offset = fetched.next_offset;
        let fetch = response(fetched, self.offset, self.form)?;
        self.offset = next_offset;
        room.send((Ok(FetchStreamResponse { fetch: Some(fetch) }), Some(room_taken)));
        Ok(true)
    }
}
