//! What is asked, and how it is refused.

use bytes::Bytes;
use jangada_proto::v1;
use jangada_proto::v1::put_schedule_request::Timing;
use jangada_proto::v1::queue_message::Due;
use jangada_proto::v1::settle_item::Settlement;
use xxhash_rust::xxh3::xxh3_64;

use super::Asks;
use crate::harness::raw;

pub fn message() -> v1::QueueMessage {
    v1::QueueMessage {
        body: Bytes::from_static(b"x"),
        ..v1::QueueMessage::default()
    }
}

fn send(messages: Vec<v1::QueueMessage>) -> Asks {
    send_to("jobs", messages)
}

fn send_to(queue: &str, messages: Vec<v1::QueueMessage>) -> Asks {
    Asks::Send(v1::SendRequest {
        queue: queue.to_owned(),
        messages,
        ..v1::SendRequest::default()
    })
}

/// One message with a change.
fn bad(change: impl FnOnce(&mut v1::QueueMessage)) -> Asks {
    bad_to("jobs", change)
}

fn bad_to(queue: &str, change: impl FnOnce(&mut v1::QueueMessage)) -> Asks {
    let mut message = message();
    change(&mut message);
    send_to(queue, vec![message])
}

fn receive(change: impl FnOnce(&mut v1::ReceiveRequest)) -> Asks {
    let mut request = v1::ReceiveRequest {
        queue: "jobs".to_owned(),
        ..v1::ReceiveRequest::default()
    };
    change(&mut request);
    Asks::Receive(request)
}

pub fn acks(tokens: Vec<Bytes>) -> Asks {
    let ack = |token| v1::SettleItem {
        token,
        settlement: Some(Settlement::Ack(v1::Ack {})),
    };
    Asks::Settle(v1::SettleRequest {
        queue: "jobs".to_owned(),
        items: tokens.into_iter().map(ack).collect(),
        ..v1::SettleRequest::default()
    })
}

fn settles(token: &Bytes, settlement: Option<Settlement>) -> Asks {
    let token = token.clone();
    Asks::Settle(v1::SettleRequest {
        queue: "jobs".to_owned(),
        items: vec![v1::SettleItem { token, settlement }],
        ..v1::SettleRequest::default()
    })
}

fn schedule(change: impl FnOnce(&mut v1::PutScheduleRequest)) -> Asks {
    let mut request = v1::PutScheduleRequest {
        name: "jobs".to_owned(),
        schedule: "nightly".to_owned(),
        timing: Some(Timing::Every(v1::EveryTiming {
            interval_ms: 60_000,
            ..v1::EveryTiming::default()
        })),
        message: Some(message()),
        ..v1::PutScheduleRequest::default()
    };
    change(&mut request);
    Asks::Schedule(request)
}

fn cron(expression: &str, zone: &str) -> Asks {
    schedule(|request| {
        request.timing = Some(Timing::Cron(v1::CronTiming {
            expression: expression.to_owned(),
            time_zone: zone.to_owned(),
        }));
    })
}

fn alter(name: &str, setting: &str, value: &str) -> Asks {
    Asks::Alter(v1::AlterQueueRequest {
        name: name.to_owned(),
        set: [(setting.to_owned(), value.to_owned())].into(),
        ..v1::AlterQueueRequest::default()
    })
}

fn join(topic: &str) -> Asks {
    Asks::Join(v1::HeartbeatRequest {
        group: "workers".to_owned(),
        member_id: "one".to_owned(),
        subscription: Some(v1::Subscription {
            topics: vec![topic.to_owned()],
            pattern: String::new(),
        }),
        ..v1::HeartbeatRequest::default()
    })
}

/// A token with a change, and with the checksum that it has then.
pub fn sealed(token: &Bytes, change: impl FnOnce(&mut [u8])) -> Bytes {
    let mut bytes = token.to_vec();
    let checked = bytes.len() - 4;
    change(&mut bytes);
    let checksum = xxh3_64(&bytes[..checked]) & u64::from(u32::MAX);
    bytes[checked..].copy_from_slice(&u32::try_from(checksum).expect("its low half").to_be_bytes());
    bytes.into()
}

/// What is asked, the reason of its refusal, and words that its message has.
pub type Row = (&'static str, Asks, &'static str, &'static [&'static str]);

pub fn of_messages() -> Vec<Row> {
    const TEN_YEARS_MS: u64 = 315_360_000_000;
    let ahead = u64::try_from(raw::now_ms()).expect("it is after 1970") + 2 * TEN_YEARS_MS;
    vec![
        (
            "unknown queue",
            send_to("nobody", vec![message()]),
            "UNKNOWN_QUEUE",
            &["nobody"],
        ),
        ("no message", send(Vec::new()), "INVALID_REQUEST", &["at least one"]),
        (
            "more messages than a request has",
            send(vec![message(); 131_073]),
            "INVALID_REQUEST",
            &["send less"],
        ),
        (
            "a delay of more than ten years",
            bad(|m| m.due = Some(Due::DelayMs(TEN_YEARS_MS + 1))),
            "INVALID_REQUEST",
            &["at most", "ten years"],
        ),
        // The contract has no sign: what is below zero to a client is very large here.
        (
            "a delay below zero",
            bad(|m| m.due = Some(Due::DelayMs(-1_i64 as u64))),
            "INVALID_REQUEST",
            &["ten years"],
        ),
        (
            "a time more than ten years ahead",
            bad(|m| m.due = Some(Due::DeliverAtMs(ahead))),
            "INVALID_REQUEST",
            &["ten years"],
        ),
        (
            "a priority that the queue has not",
            bad(|m| m.priority = 1),
            "INVALID_REQUEST",
            &["queue.priorities"],
        ),
        (
            "a priority beyond those of a queue with some",
            bad_to("urgent", |m| m.priority = 3),
            "INVALID_REQUEST",
            &["queue.priorities", "3"],
        ),
        (
            "a time to live of zero",
            bad(|m| m.ttl_ms = Some(0)),
            "INVALID_REQUEST",
            &["ttl_ms", "or absent"],
        ),
        (
            "a time to live of more than ten years",
            bad(|m| m.ttl_ms = Some(TEN_YEARS_MS + 1)),
            "INVALID_REQUEST",
            &["ttl_ms"],
        ),
        (
            "a key without an order",
            bad(|m| m.key = Some(Bytes::from_static(b"k"))),
            "INVALID_REQUEST",
            &["queue.order", "leave the key out"],
        ),
        (
            "a delay where there is an order",
            bad_to("ordered", |m| m.due = Some(Due::DelayMs(5))),
            "INVALID_REQUEST",
            &["queue.delay.ms"],
        ),
        (
            "a message id that is too long",
            bad(|m| m.message_id = Some("i".repeat(257))),
            "INVALID_REQUEST",
            &["message_id", "256"],
        ),
        (
            "an empty message id",
            bad(|m| m.message_id = Some(String::new())),
            "INVALID_REQUEST",
            &["message_id", "or absent"],
        ),
        (
            "a header of the broker's",
            bad(|m| m.headers = vec![header("jangada-dead-id")]),
            "INVALID_REQUEST",
            &["jangada-dead-id"],
        ),
        (
            "a message that is too large",
            bad(|m| m.body = vec![7; 2 << 20].into()),
            "RECORD_TOO_LARGE",
            &["at most"],
        ),
        (
            "more messages than one call receives",
            receive(|r| r.max_messages = 1_001),
            "INVALID_REQUEST",
            &["max_messages", "1000"],
        ),
        (
            "a wait of more than a minute",
            receive(|r| r.wait_ms = 60_001),
            "INVALID_REQUEST",
            &["wait_ms", "60000"],
        ),
        (
            "a lease of more than twelve hours",
            receive(|r| r.lease_ms = 43_200_001),
            "INVALID_REQUEST",
            &["lease_ms", "43200000"],
        ),
        (
            "more bytes than a response has",
            receive(|r| r.max_bytes = (16 << 20) + 1),
            "INVALID_REQUEST",
            &["max_bytes"],
        ),
        (
            "an attempt without a session",
            receive(|r| r.attempt_id = 5),
            "INVALID_REQUEST",
            &["session"],
        ),
        (
            "a partition that the queue has not",
            receive(|r| r.partition = Some(7)),
            "UNKNOWN_PARTITION",
            &["7"],
        ),
        (
            "to receive from an unknown queue",
            receive(|r| r.queue = "nobody".to_owned()),
            "UNKNOWN_QUEUE",
            &["nobody"],
        ),
        (
            "to cancel nothing",
            Asks::Cancel(v1::CancelRequest {
                queue: "jobs".to_owned(),
                ..v1::CancelRequest::default()
            }),
            "INVALID_REQUEST",
            &["at least one"],
        ),
        (
            "to cancel more than a call may",
            Asks::Cancel(v1::CancelRequest {
                queue: "jobs".to_owned(),
                messages: vec![v1::MessagePlace::default(); 10_001],
                ..v1::CancelRequest::default()
            }),
            "INVALID_REQUEST",
            &["10000"],
        ),
        (
            "to be shown more than a call shows",
            Asks::Peek(v1::PeekRequest {
                queue: "jobs".to_owned(),
                limit: 1_001,
                ..v1::PeekRequest::default()
            }),
            "INVALID_REQUEST",
            &["limit", "1000"],
        ),
    ]
}

fn header(key: &str) -> v1::RecordHeader {
    v1::RecordHeader {
        key: key.to_owned(),
        value: None,
    }
}

/// `token`: of a message of "jobs" that is leased. `other`: of one of another queue.
pub fn of_tokens(token: &Bytes, other: &Bytes) -> Vec<Row> {
    let mut damaged = token.to_vec();
    damaged[9] ^= 1;
    let version = sealed(token, |bytes| bytes[0] = 2);
    let partition = sealed(token, |bytes| bytes[5..9].copy_from_slice(&9_u32.to_be_bytes()));
    let good = token.clone();
    let nack = v1::Nack {
        delay_ms: Some(43_200_001),
        not_failed: false,
    };
    let reject = v1::Reject {
        reason: "x".repeat(257),
    };
    let extend = v1::Extend { lease_ms: 43_200_001 };
    vec![
        // One bad token among good ones: none of them is settled.
        (
            "a token of another queue",
            acks(vec![good.clone(), other.clone()]),
            "INVALID_TOKEN",
            &["token 1", "another queue", "send tokens as they came"],
        ),
        (
            "a damaged token",
            acks(vec![good.clone(), damaged.into()]),
            "INVALID_TOKEN",
            &["damaged"],
        ),
        (
            "a token of a later version",
            acks(vec![good.clone(), version]),
            "INVALID_TOKEN",
            &["version 2"],
        ),
        (
            "a token of a partition that the queue has not",
            acks(vec![good.clone(), partition]),
            "INVALID_TOKEN",
            &["partition"],
        ),
        ("no token", acks(vec![Bytes::new()]), "INVALID_TOKEN", &["empty"]),
        (
            "to settle nothing",
            acks(Vec::new()),
            "INVALID_REQUEST",
            &["at least one"],
        ),
        (
            "to settle more than a call may",
            acks(vec![good; 10_001]),
            "INVALID_REQUEST",
            &["10000"],
        ),
        (
            "to say nothing of a message",
            settles(token, None),
            "INVALID_REQUEST",
            &["set `ack`"],
        ),
        (
            "a retry after more than twelve hours",
            settles(token, Some(Settlement::Nack(nack))),
            "INVALID_REQUEST",
            &["delay_ms", "43200000"],
        ),
        (
            "a reason that is too long",
            settles(token, Some(Settlement::Reject(reject))),
            "INVALID_REQUEST",
            &["reason", "256"],
        ),
        (
            "to extend by more than twelve hours",
            settles(token, Some(Settlement::Extend(extend))),
            "INVALID_REQUEST",
            &["lease_ms", "43200000"],
        ),
    ]
}

pub fn of_settings() -> Vec<Row> {
    vec![
        (
            "a cron expression with four fields",
            cron("* * * *", "UTC"),
            "INVALID_SCHEDULE",
            &["4 fields"],
        ),
        (
            "an hour that no day has",
            cron("0 25 * * *", "UTC"),
            "INVALID_SCHEDULE",
            &["25"],
        ),
        (
            "a time zone that there is not",
            cron("* * * * *", "Mars/Olympus"),
            "INVALID_SCHEDULE",
            &["Mars/Olympus"],
        ),
        (
            "a schedule without a timing",
            schedule(|r| r.timing = None),
            "INVALID_SCHEDULE",
            &["cron", "every"],
        ),
        (
            "more often than each second",
            schedule(|r| {
                r.timing = Some(Timing::Every(v1::EveryTiming {
                    interval_ms: 999,
                    ..v1::EveryTiming::default()
                }))
            }),
            "INVALID_SCHEDULE",
            &["999"],
        ),
        (
            "a schedule of an unknown queue",
            schedule(|r| r.name = "nobody".to_owned()),
            "UNKNOWN_QUEUE",
            &["nobody"],
        ),
        (
            "dead letters to the queue itself",
            alter("jobs", "queue.dead.letter.topic", "jobs"),
            "INVALID_CONFIG",
            &["come back"],
        ),
        (
            "dead letters that come back",
            alter("others", "queue.dead.letter.topic", "jobs"),
            "INVALID_CONFIG",
            &["come back", "jobs", "end one"],
        ),
        (
            "dead letters to nowhere",
            alter("jobs", "queue.dead.letter.topic", "nobody"),
            "INVALID_CONFIG",
            &["nobody", "create it first"],
        ),
        (
            "a setting that there is not",
            alter("jobs", "queue.colour", "red"),
            "INVALID_CONFIG",
            &["queue.colour"],
        ),
        (
            "a value that the setting has not",
            alter("jobs", "queue.attempts.max", "0"),
            "INVALID_CONFIG",
            &["queue.attempts.max"],
        ),
        (
            "to alter an unknown queue",
            alter("nobody", "queue.attempts.max", "3"),
            "UNKNOWN_QUEUE",
            &["nobody"],
        ),
        (
            "a name that no queue may have",
            Asks::Create(v1::CreateQueueRequest {
                name: "a b".to_owned(),
                ..v1::CreateQueueRequest::default()
            }),
            "INVALID_QUEUE_NAME",
            &["a b"],
        ),
        (
            "a group of an owned queue",
            join("jobs"),
            "WRONG_QUEUE_KIND",
            &["jobs", "queue service"],
        ),
    ]
}
