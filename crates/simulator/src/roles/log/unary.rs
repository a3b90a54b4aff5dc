//! Clients without a library: they send records in the plain form, one call for each few, and fetch with long polls. Any broker takes their
//! calls and passes them on.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use jangada_check::Pending;
use jangada_check::call::{self, Call, Done, Polled, Reply, Sent, Value};
use jangada_client::Isolation;
use jangada_env::Random;
use jangada_proto::v1::log_service_client::LogServiceClient;
use jangada_proto::v1::produce_request::Payload;
use jangada_proto::v1::{
    self, Compression, FetchRequest, FetchResponse, InitProducerRequest, PlainRecords, ProduceRequest, ProduceResponse,
    ProducerSequence, RecordForm,
};
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};
use tonic_types::StatusExt as _;

use super::chance::Chance;
use super::reading::Named;
use super::records::{Values, create_topic, isolation};
use super::{finals, readers};
use crate::play::stage::Stage;
use crate::roles::team::{Finding, Team};

/// How long a call may take.
const CALL: Duration = Duration::from_secs(3);
/// How long a fetch waits for records, milliseconds.
const WAIT_MS: u32 = 1_000;
const PAUSE: Duration = Duration::from_millis(100);
/// Reasons after which the same records are not sent again.
const REFUSALS: [&str; 4] = [
    "UNKNOWN_PRODUCER",
    "PRODUCER_FENCED",
    "OUT_OF_ORDER_SEQUENCE",
    "DUPLICATE_SEQUENCE",
];

struct Unary {
    partitions: u32,
}

/// A team of clients without a library.
pub fn unary(random: &Random) -> Box<dyn Team> {
    let partitions = Chance::of(random).count(1..3);
    Box::new(Unary { partitions })
}

fn topic(stage: &Stage) -> Named {
    Named::once(stage.named("log"))
}

impl Team for Unary {
    fn prepare<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<(), Finding>> {
        async move { create_topic(stage, &topic(stage).topic, self.partitions, &[]).await }.boxed_local()
    }

    fn tasks(&self, stage: &Stage) -> Vec<LocalBoxFuture<'static, ()>> {
        let (topic, partitions) = (topic(stage), self.partitions);
        let mut tasks = Vec::new();
        for number in 0..2 {
            let caller = Caller::new(stage, &format!("writer-{number}"), &topic);
            tasks.push(write(caller, number, partitions).boxed_local());
        }
        for partition in 0..partitions {
            let isolation = match partition {
                0 => Isolation::Committed,
                _ => Isolation::Uncommitted,
            };
            let caller = Caller::new(stage, &format!("reader-{partition}"), &topic);
            tasks.push(read(caller, partition, isolation).boxed_local());
        }
        tasks.push(readers::ask_ends(stage, "asker", topic, partitions));
        tasks
    }

    fn finish<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<(), Finding>> {
        let finishing = async move {
            let client = stage.connect("last").await;
            let read = finals::read_topic(stage, &client, &topic(stage), self.partitions).await;
            read.map(drop)
        };
        finishing.boxed_local()
    }
}

/// Why a call has no answer.
struct Failed {
    /// It certainly had no effect.
    definite: bool,
    reason: String,
    text: String,
}

/// One process that calls some broker, and another one when that fails.
struct Caller {
    stage: Stage,
    chance: Chance,
    process: u32,
    name: String,
    topic: Named,
    service: Option<LogServiceClient<Channel>>,
}

impl Caller {
    fn new(stage: &Stage, name: &str, topic: &Named) -> Self {
        Self {
            chance: Chance::of(&stage.random),
            process: stage.process(),
            name: name.to_owned(),
            topic: topic.clone(),
            stage: stage.clone(),
            service: None,
        }
    }

    fn service(&mut self) -> LogServiceClient<Channel> {
        if let Some(service) = &self.service {
            return service.clone();
        }
        let host = self.stage.cluster.client_host(&self.stage.named(&self.name));
        let addresses = self.stage.cluster.addresses();
        let address = &addresses[self.chance.index(addresses.len())];
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address of a simulated host");
        let service = LogServiceClient::new(host.env().network.connect_lazy(&endpoint));
        self.service.insert(service).clone()
    }

    fn partition(&self, partition: u32) -> Option<v1::TopicPartition> {
        Some(v1::TopicPartition {
            topic: self.topic.topic.clone(),
            partition,
            ..v1::TopicPartition::default()
        })
    }

    /// One attempt of a call. None: the stage is over, and the outcome is unknown.
    async fn call<Q, A>(
        &mut self,
        message: Q,
        call: impl AsyncFnOnce(LogServiceClient<Channel>, Request<Q>) -> Result<Response<A>, Status>,
    ) -> Option<Result<A, Failed>> {
        let service = self.service();
        let mut request = Request::new(message);
        let route = "pass-on".parse().expect("a value of a header");
        request.metadata_mut().insert("jangada-route", route);
        let answered = self.stage.until_over(timeout(CALL, call(service, request))).await?;
        let failed = match answered {
            Ok(Ok(answer)) => return Some(Ok(answer.into_inner())),
            Ok(Err(status)) => {
                let info = status.get_details_error_info();
                let definite = info.as_ref().and_then(|info| info.metadata.get("definite"));
                Failed {
                    definite: definite.is_some_and(|definite| definite == "true"),
                    reason: info.as_ref().map(|info| info.reason.clone()).unwrap_or_default(),
                    text: status.message().to_owned(),
                }
            }
            Err(_) => Failed {
                definite: false,
                reason: String::new(),
                text: "no answer".to_owned(),
            },
        };
        self.service = None;
        self.stage.pause(PAUSE).await;
        Some(Err(failed))
    }

    async fn new_id(&mut self) -> Option<(i64, i32)> {
        loop {
            let request = InitProducerRequest::default();
            let answer = self.call(request, async |mut service, request| {
                service.init_producer(request).await
            });
            if let Ok(answer) = answer.await? {
                return Some((answer.producer_id, answer.producer_epoch));
            }
        }
    }
}

/// Sends records under an id until the stage is over: a request is sent again as it was until it is answered.
async fn write(mut caller: Caller, number: usize, partitions: u32) {
    let values = Values::new(format!("u{number}"));
    let mut identity: Option<(i64, i32)> = None;
    let mut sequences: BTreeMap<u32, i32> = BTreeMap::new();
    while !caller.stage.is_over() {
        let Some((producer_id, producer_epoch)) = (match identity {
            Some(identity) => Some(identity),
            None => caller.new_id().await,
        }) else {
            return;
        };
        identity = Some((producer_id, producer_epoch));
        let partition = caller.chance.count(0..partitions);
        let sequence = sequences.entry(partition).or_default();
        let named: Vec<String> = (0..caller.chance.between(1..4)).map(|_| values.next()).collect();
        let record = |value: &String| v1::Record {
            value: Some(Bytes::from(value.clone())),
            ..v1::Record::default()
        };
        let compressions = [Compression::None, Compression::Lz4, Compression::Zstd];
        let records = PlainRecords {
            records: named.iter().map(record).collect(),
            compression: caller.chance.one_of(&compressions).into(),
            producer: Some(ProducerSequence {
                producer_id,
                producer_epoch,
                base_sequence: *sequence,
            }),
        };
        let request = ProduceRequest {
            partition: caller.partition(partition),
            timeout_ms: 2_000,
            payload: Some(Payload::Records(records)),
            ..ProduceRequest::default()
        };
        let place = caller.topic.place(partition);
        let invoke = |value: &String| {
            let call = Call::Send(call::Send::new(&place, &**value));
            caller.stage.recorder.invoke(caller.process, call)
        };
        let sending: Vec<Pending> = named.iter().map(invoke).collect();
        match send(&mut caller, &request).await {
            Some(Ok(answer)) => {
                *sequence += i32::try_from(sending.len()).expect("a few records");
                for (pending, offset) in sending.into_iter().zip(answer.base_offset..) {
                    pending.ok(Reply::Sent(Sent { offset, attempts: 1 }));
                }
            }
            Some(Err(failed)) => {
                for pending in sending {
                    match failed.definite {
                        true => pending.fail(),
                        false => pending.unknown(),
                    }
                }
                (identity, sequences) = (None, BTreeMap::new());
            }
            None => return,
        }
        caller.stage.pause(caller.chance.ms(20..200)).await;
    }
}

/// Sends a request until it is answered, or refused in a way that sending again does not mend. None: the stage is over.
async fn send(caller: &mut Caller, request: &ProduceRequest) -> Option<Result<ProduceResponse, Failed>> {
    let mut in_doubt = false;
    loop {
        let request = request.clone();
        let answer = caller.call(request, async |mut service, request| service.produce(request).await);
        match answer.await? {
            Ok(answer) => return Some(Ok(answer)),
            Err(failed) => {
                if failed.reason == "OUT_OF_ORDER_SEQUENCE" {
                    caller
                        .stage
                        .report(format!("a partition lost records of a producer: {}", failed.text));
                }
                if REFUSALS.contains(&&*failed.reason) {
                    // A refusal says nothing of the attempts before it; one as a repetition says that the records are there.
                    let definite = failed.definite && !in_doubt && failed.reason != "DUPLICATE_SEQUENCE";
                    return Some(Err(Failed { definite, ..failed }));
                }
                in_doubt |= !failed.definite;
            }
        }
    }
}

/// Fetches one partition from its beginning on, with long polls, until the stage is over.
async fn read(mut caller: Caller, partition: u32, of: Isolation) {
    let place = caller.topic.place(partition);
    let assign = Call::Assign {
        partitions: vec![place.clone()],
    };
    let assigning = caller.stage.recorder.invoke(caller.process, assign);
    assigning.ok(Reply::Done(Done {}));
    let mut offset = 0;
    while !caller.stage.is_over() {
        let poll = Call::Poll {
            isolation: isolation(of),
            transaction: None,
        };
        let pending = caller.stage.recorder.invoke(caller.process, poll);
        let request = FetchRequest {
            partition: caller.partition(partition),
            offset,
            min_bytes: caller.chance.one_of(&[0, 1, 2_000]),
            max_bytes: caller.chance.one_of(&[1, 2_000, 0]),
            max_wait_ms: WAIT_MS,
            form: RecordForm::Plain.into(),
            isolation: match of {
                Isolation::Committed => v1::Isolation::Committed.into(),
                Isolation::Uncommitted => v1::Isolation::Uncommitted.into(),
            },
            ..FetchRequest::default()
        };
        let answer = caller.call(request, async |mut service, request| service.fetch(request).await);
        match answer.await {
            Some(Ok(answer)) => {
                if answer.next_offset < offset || answer.next_offset > answer.high_watermark {
                    let (next, end) = (answer.next_offset, answer.high_watermark);
                    let text = format!("a fetch of {place} from {offset} goes on at {next}, and the end is {end}");
                    caller.stage.report(text);
                }
                offset = answer.next_offset;
                match answer.records.is_empty() {
                    true => pending.fail(),
                    false => pending.ok(polled(&place, answer)),
                }
            }
            Some(Err(failed)) => {
                if failed.reason == "OFFSET_OUT_OF_RANGE" {
                    let text = format!(
                        "{place} was read up to {offset}, which is out of range: {}",
                        failed.text
                    );
                    caller.stage.report(text);
                }
                pending.fail();
            }
            None => pending.fail(),
        }
    }
}

fn polled(place: &str, answer: FetchResponse) -> Reply {
    let records = answer.records.into_iter().map(|record| {
        let value = record.value.unwrap_or_default();
        (record.offset, Some(Value(String::from_utf8_lossy(&value).into_owned())))
    });
    let reads = BTreeMap::from([(place.to_owned(), records.collect())]);
    Reply::Polled(Polled { reads })
}
