//! The queue service, as far as the tests use it: brokers say who leads what, and a test plays their part on each consumer's stream. What
//! is sent and acknowledged in transactions they take by themselves.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;

use futures::Stream;
use jangada_proto::v1;
use jangada_types::Reason;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Broker, Error, State};

/// What brokers say of a queue.
#[derive(Default)]
pub struct Queue {
    /// The leaders of its partitions, by answer to FindQueue; the last answer stays.
    pub leaders: VecDeque<Vec<u32>>,
    /// Takes the streams of consumers.
    pub opened: Option<mpsc::UnboundedSender<Opened>>,
    /// The batches that were sent in transactions, as they came; also those that were sent again.
    pub sent: Vec<v1::SendRequest>,
    /// The batches that were taken: partition, producer, epoch, sequence, and where they are.
    taken: BTreeMap<(u32, i64, i32, i32), i64>,
    next_offset: i64,
    /// The acknowledgements in transactions, as they came.
    pub acknowledged: Vec<v1::SettleRequest>,
    /// The faults of the next calls in transactions.
    pub faults: VecDeque<QueueFault>,
}

/// What happens to a call in a transaction.
#[derive(Clone, Debug)]
pub enum QueueFault {
    /// It is refused without effect.
    Refuse(Error),
    /// It takes effect, and its answer is lost.
    Lose,
    /// The messages that it acknowledges are in this state.
    Settled(v1::Settled),
    /// There is no answer.
    Silence,
}

impl State {
    /// The beginning of a call in a transaction: what happens to it.
    fn begin_in(&mut self, named: Option<&v1::QueueTransaction>) -> Result<Option<QueueFault>, Status> {
        let named = named.expect("no test plays others");
        let producer = (named.producer_id, named.producer_epoch);
        self.join(&named.transactional_id, producer)
            .map_err(|error| error.status())?;
        match self.queue.faults.pop_front() {
            Some(QueueFault::Refuse(error)) => Err(error.status()),
            fault => Ok(fault),
        }
    }
}

/// The end of a call in a transaction that took effect.
async fn answer<T>(answer: T, fault: Option<QueueFault>) -> Result<Response<T>, Status> {
    match fault {
        Some(QueueFault::Lose) => Err(Error::unknown(Reason::LeaderNotAvailable).status()),
        Some(QueueFault::Silence) => std::future::pending().await,
        _ => Ok(Response::new(answer)),
    }
}

/// A consumer's stream, from the broker's side.
pub struct Opened {
    pub broker: u32,
    pub start: v1::ConsumeStart,
    pub says: Streaming<v1::ConsumeRequest>,
    pub hears: mpsc::UnboundedSender<Result<v1::ConsumeResponse, Status>>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn not_played<T>() -> Result<T, Status> {
    Err(Status::unimplemented("no test plays this"))
}

#[tonic::async_trait]
impl v1::queue_service_server::QueueService for Broker {
    async fn find_queue(
        &self,
        request: Request<v1::FindQueueRequest>,
    ) -> Result<Response<v1::FindQueueResponse>, Status> {
        let mut state = self.shared.lock();
        let leaders = match state.queue.leaders.len() {
            0 => return Err(Error::definite(Reason::UnknownQueue).status()),
            1 => state.queue.leaders[0].clone(),
            _ => state.queue.leaders.pop_front().expect("there are several"),
        };
        let partitions = (0..).zip(leaders).map(|(partition, leader)| v1::QueuePartition {
            partition,
            leader_id: leader,
            leader_address: state.addresses[&leader].to_string(),
            leader_epoch: 1,
        });
        Ok(Response::new(v1::FindQueueResponse {
            partitions: partitions.collect(),
            queue: request.into_inner().queue,
            queue_id: vec![8; 16].into(),
            ..v1::FindQueueResponse::default()
        }))
    }

    type ConsumeStream = Answers<v1::ConsumeResponse>;

    async fn consume(
        &self,
        request: Request<Streaming<v1::ConsumeRequest>>,
    ) -> Result<Response<Self::ConsumeStream>, Status> {
        use v1::consume_request::Message;
        let mut says = request.into_inner();
        let Some(Message::Start(start)) = says.message().await?.and_then(|first| first.message) else {
            return Err(Error::definite(Reason::InvalidRequest).status());
        };
        #[allow(clippy::disallowed_methods, reason = "a test sends a few messages")]
        let (hears, answers) = mpsc::unbounded_channel();
        let opened = Opened {
            broker: self.id,
            start,
            says,
            hears,
        };
        let taker = self
            .shared
            .lock()
            .queue
            .opened
            .clone()
            .expect("a test plays the brokers");
        assert!(taker.send(opened).is_ok(), "the test goes on");
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(answers))))
    }

    type SendStreamStream = Answers<v1::SendStreamResponse>;

    async fn send_stream(
        &self,
        _: Request<Streaming<v1::SendStreamRequest>>,
    ) -> Result<Response<Self::SendStreamStream>, Status> {
        not_played()
    }

    async fn send(&self, request: Request<v1::SendRequest>) -> Result<Response<v1::SendResponse>, Status> {
        let request = request.into_inner();
        let (fault, partition, base) = {
            let mut state = self.shared.lock();
            state.queue.sent.push(request.clone());
            let fault = state.begin_in(request.transaction.as_ref())?;
            let named = request.transaction.as_ref().expect("it was asked before");
            let partition = request.partition.expect("it names the partition");
            let batch = (
                partition,
                named.producer_id,
                named.producer_epoch,
                request.base_sequence,
            );
            let queue = &mut state.queue;
            let base = *queue.taken.entry(batch).or_insert(queue.next_offset);
            if base == queue.next_offset {
                queue.next_offset += request.messages.len() as i64;
            }
            (fault, partition, base)
        };
        let sent = (base..).take(request.messages.len()).map(|offset| v1::SendResult {
            result: Some(v1::send_result::Result::Sent(v1::SentMessage {
                partition,
                offset,
                duplicate: false,
            })),
        });
        let results = sent.collect();
        answer(v1::SendResponse { results }, fault).await
    }

    async fn receive(&self, _: Request<v1::ReceiveRequest>) -> Result<Response<v1::ReceiveResponse>, Status> {
        not_played()
    }

    async fn settle(&self, request: Request<v1::SettleRequest>) -> Result<Response<v1::SettleResponse>, Status> {
        let request = request.into_inner();
        let fault = {
            let mut state = self.shared.lock();
            state.queue.acknowledged.push(request.clone());
            state.begin_in(request.transaction.as_ref())?
        };
        let settled = match fault {
            Some(QueueFault::Settled(settled)) => settled,
            _ => v1::Settled::Done,
        };
        let result = v1::SettleResult {
            result: Some(v1::settle_result::Result::Settled(settled.into())),
        };
        let results = vec![result; request.items.len()];
        answer(v1::SettleResponse { results }, fault).await
    }

    async fn cancel(&self, _: Request<v1::CancelRequest>) -> Result<Response<v1::CancelResponse>, Status> {
        not_played()
    }

    async fn peek(&self, _: Request<v1::PeekRequest>) -> Result<Response<v1::PeekResponse>, Status> {
        not_played()
    }
}
