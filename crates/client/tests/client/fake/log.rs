//! The log service: produce streams that follow the script, fetch streams with credit.

use bytes::Bytes;
use futures::stream::BoxStream;
use jangada_proto::v1;
use jangada_types::{BatchHeader, Reason};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::partition::last_offset;
use super::{Broker, Error, Fault};

type Answers<T> = BoxStream<'static, Result<T, Status>>;

/// The outcome of a request on a produce stream.
enum Fate {
    Answer(v1::ProduceStreamResponse),
    Silence,
    Cut,
}

impl Broker {
    fn produce_one(&self, request: v1::ProduceStreamRequest) -> Fate {
        let mut state = self.shared.lock();
        let target = request.partition.as_ref().expect("a partition");
        let correlation_id = request.correlation_id;
        let state_credit = state
            .led_by(self.id, target)
            .ok()
            .and_then(|partition| partition.credit_bytes);
        let answer = |result| {
            Fate::Answer(v1::ProduceStreamResponse {
                correlation_id,
                result: Some(result),
                credit_bytes: state_credit,
            })
        };
        let refuse = |error: Error| answer(v1::produce_stream_response::Result::Error(error.wire()));
        let partition = match state.led_by(self.id, target) {
            Ok(partition) => partition,
            Err(error) => return refuse(error),
        };
        partition
            .attempts
            .push(BatchHeader::parse(&request.batch).expect("a batch"));
        let fault = partition.faults.pop_front();
        match fault {
            Some(Fault::Refuse(error)) => return refuse(error),
            Some(Fault::Cut) => return Fate::Cut,
            _ => {}
        }
        if !request.transactional_id.is_empty() {
            let header = BatchHeader::parse(&request.batch).expect("a batch");
            assert!(header.attributes.is_transactional(), "the batch says so itself");
            let producer = (header.producer_id.get(), header.producer_epoch.get().into());
            let name = state.named(&target.topic_id, String::new()).expect("it is led");
            let place = (name, target.partition);
            match state.join(&request.transactional_id, producer) {
                Ok(partitions) => {
                    partitions.insert(place);
                }
                Err(error) => return refuse(error),
            }
        }
        let partition = state.led_by(self.id, target).expect("it is led");
        let appended = partition.append(&request.batch);
        let log_start_offset = partition.log_start;
        match fault {
            Some(Fault::AppendThen(error)) => return refuse(error),
            Some(Fault::AppendThenCut) => return Fate::Cut,
            Some(Fault::AppendThenSilence) => return Fate::Silence,
            _ => {}
        }
        match appended {
            Err(error) => refuse(error),
            Ok(appended) => {
                let none = request.acks == i32::from(v1::Acks::None);
                answer(v1::produce_stream_response::Result::Ok(v1::ProduceResponse {
                    base_offset: if none { -1 } else { appended.base_offset },
                    last_offset: if none { -1 } else { appended.last_offset },
                    append_time_ms: -1,
                    log_start_offset,
                    duplicate: appended.duplicate,
                }))
            }
        }
    }

    /// The next response of a fetch, if there is something to send.
    fn fetch_one(&self, start: &v1::FetchStreamStart, offset: i64) -> Result<Option<v1::FetchResponse>, Error> {
        let mut state = self.shared.lock();
        let partition = state.led_by(self.id, start.partition.as_ref().expect("a partition"))?;
        let high_watermark = partition.high_watermark();
        if offset < partition.log_start || offset > high_watermark {
            let error = Error::definite(Reason::OffsetOutOfRange).with("offset", offset);
            if !partition.tells_bounds {
                return Err(error);
            }
            return Err(error
                .with("log_start_offset", partition.log_start)
                .with("high_watermark", high_watermark));
        }
        if let Some(to) = partition.passes_to.take_if(|to| *to > offset) {
            return Ok(Some(v1::FetchResponse {
                next_offset: to,
                high_watermark,
                log_start_offset: partition.log_start,
                leader_epoch: partition.epoch,
                ..Default::default()
            }));
        }
        let is_committed = start.isolation != i32::from(v1::Isolation::Uncommitted);
        let end = if is_committed {
            partition.last_stable_offset()
        } else {
            high_watermark
        };
        let batches = partition.read(offset, end, start.max_bytes as usize);
        let Some(last) = batches.last() else { return Ok(None) };
        let response = v1::FetchResponse {
            next_offset: last_offset(last) + 1,
            last_stable_offset: partition.last_stable_offset(),
            aborted: match is_committed && start.aborted_list {
                true => partition.aborted(offset, last_offset(last) + 1),
                false => Vec::new(),
            },
            batches: Bytes::from(batches.concat()),
            records: Vec::new(),
            high_watermark,
            log_start_offset: partition.log_start,
            leader_epoch: partition.epoch,
            compacted: partition.is_compacted,
        };
        state.fetched_bytes += response.batches.len();
        Ok(Some(response))
    }

    async fn push(
        self,
        start: v1::FetchStreamStart,
        mut grants: Streaming<v1::FetchStreamRequest>,
        answers: mpsc::Sender<Result<v1::FetchStreamResponse, Status>>,
    ) {
        let mut offset = start.offset;
        let mut credit = start.credit_bytes as i64;
        let mut changes = self.shared.changes.subscribe();
        loop {
            self.thaw().await;
            changes.mark_unchanged();
            let fetched = if credit > 0 {
                self.fetch_one(&start, offset)
            } else {
                Ok(None)
            };
            match fetched {
                Err(error) => {
                    let _ = answers.send(Err(error.status())).await;
                    return;
                }
                Ok(Some(response)) => {
                    offset = response.next_offset;
                    credit -= response.batches.len() as i64;
                    if answers
                        .send(Ok(v1::FetchStreamResponse { fetch: Some(response) }))
                        .await
                        .is_err()
                    {
                        return;
                    }
                }
                Ok(None) => {
                    tokio::select! {
                        changed = changes.changed() => changed.expect("the cluster lives"),
                        grant = grants.next() => match grant {
                            Some(Ok(v1::FetchStreamRequest { message: Some(v1::fetch_stream_request::Message::CreditBytes(more)) })) => {
                                credit += more as i64;
                            }
                            _ => return,
                        },
                    }
                }
            }
        }
    }
}

#[tonic::async_trait]
impl v1::log_service_server::LogService for Broker {
    type ProduceStreamStream = Answers<v1::ProduceStreamResponse>;
    type FetchStreamStream = Answers<v1::FetchStreamResponse>;

    async fn produce(&self, _: Request<v1::ProduceRequest>) -> Result<Response<v1::ProduceResponse>, Status> {
        Err(Status::unimplemented("the client uses streams"))
    }

    async fn produce_stream(
        &self,
        requests: Request<Streaming<v1::ProduceStreamRequest>>,
    ) -> Result<Response<Self::ProduceStreamStream>, Status> {
        self.thaw().await;
        let mut requests = requests.into_inner();
        let (answers, receiver) = mpsc::channel(16);
        let broker = self.clone();
        tokio::spawn(async move {
            while let Some(Ok(request)) = requests.next().await {
                broker.thaw().await;
                let fate = broker.produce_one(request);
                broker.shared.changed();
                let sent = match fate {
                    Fate::Silence => continue,
                    Fate::Cut => return drop(answers.send(Err(Status::unavailable("cut"))).await),
                    Fate::Answer(answer) => answers.send(Ok(answer)).await,
                };
                if sent.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn fetch(&self, _: Request<v1::FetchRequest>) -> Result<Response<v1::FetchResponse>, Status> {
        Err(Status::unimplemented("the client uses streams"))
    }

    async fn fetch_stream(
        &self,
        requests: Request<Streaming<v1::FetchStreamRequest>>,
    ) -> Result<Response<Self::FetchStreamStream>, Status> {
        let mut requests = requests.into_inner();
        let (answers, receiver) = mpsc::channel(4);
        let broker = self.clone();
        tokio::spawn(async move {
            let first = requests.next().await;
            if let Some(Ok(v1::FetchStreamRequest {
                message: Some(v1::fetch_stream_request::Message::Start(start)),
            })) = first
            {
                broker.push(start, requests, answers).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn list_offsets(
        &self,
        request: Request<v1::ListOffsetsRequest>,
    ) -> Result<Response<v1::ListOffsetsResponse>, Status> {
        use v1::list_offsets_request::Position;
        self.thaw().await;
        let request = request.into_inner();
        let mut state = self.shared.lock();
        if let Some(error) = state.list_faults.pop_front() {
            return Err(error.status());
        }
        let target = request.partition.expect("a partition");
        let after_list = state.after_list;
        let partition = state.led_by(self.id, &target).map_err(|error| error.status())?;
        let offset = match request.position.expect("a position") {
            Position::Earliest(_) => partition.log_start,
            Position::Latest(_) if request.isolation == i32::from(v1::Isolation::Uncommitted) => {
                partition.high_watermark()
            }
            Position::Latest(_) => partition.last_stable_offset(),
            Position::TimestampMs(_) => -1,
        };
        let leader_epoch = partition.epoch;
        if let Some(happens) = after_list {
            happens(partition);
        }
        Ok(Response::new(v1::ListOffsetsResponse {
            offset,
            timestamp_ms: -1,
            leader_epoch,
        }))
    }

    async fn init_producer(
        &self,
        request: Request<v1::InitProducerRequest>,
    ) -> Result<Response<v1::InitProducerResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.shared.lock();
        let (producer_id, producer_epoch) = match request.producer_id {
            None => {
                state.next_producer += 1;
                (state.next_producer, 0)
            }
            Some(id) => {
                let epoch = request
                    .producer_epoch
                    .ok_or_else(|| Status::invalid_argument("an id without its epoch"))?;
                if state.epochs.get(&id) != Some(&epoch) {
                    return Err(Error::definite(Reason::ProducerFenced).status());
                }
                (id, epoch + 1)
            }
        };
        state.epochs.insert(producer_id, producer_epoch);
        Ok(Response::new(v1::InitProducerResponse {
            producer_id,
            producer_epoch,
        }))
    }
}
