//! The queue service, as far as the tests use it: brokers say who leads what, and a test plays their part on each consumer's stream.

use std::collections::VecDeque;
use std::pin::Pin;

use futures::Stream;
use jangada_proto::v1;
use jangada_types::Reason;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Broker, Error};

/// What brokers say of a queue.
#[derive(Default)]
pub struct Queue {
    /// The leaders of its partitions, by answer to FindQueue; the last answer stays.
    pub leaders: VecDeque<Vec<u32>>,
    /// Takes the streams of consumers.
    pub opened: Option<mpsc::UnboundedSender<Opened>>,
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

    async fn send(&self, _: Request<v1::SendRequest>) -> Result<Response<v1::SendResponse>, Status> {
        not_played()
    }

    async fn receive(&self, _: Request<v1::ReceiveRequest>) -> Result<Response<v1::ReceiveResponse>, Status> {
        not_played()
    }

    async fn settle(&self, _: Request<v1::SettleRequest>) -> Result<Response<v1::SettleResponse>, Status> {
        not_played()
    }

    async fn cancel(&self, _: Request<v1::CancelRequest>) -> Result<Response<v1::CancelResponse>, Status> {
        not_played()
    }

    async fn peek(&self, _: Request<v1::PeekRequest>) -> Result<Response<v1::PeekResponse>, Status> {
        not_played()
    }
}
