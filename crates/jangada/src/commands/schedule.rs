//! `jangada schedule ...`: puts, lists and deletes schedules of queues.

use jangada_client::{
    Admin, CatchUp, Header, NewSchedule, QueueMessage, QueueSchedule, QueueSchedules, ScheduleTiming,
};
use serde_json::{Map, Value, json};

use crate::brokers::Brokers;
use crate::cli::{CatchUpArg, ScheduleCommand, SchedulePutArgs};
use crate::connect::connect;
use crate::errors::{CliError, Result};
use crate::note::note;
use crate::output::{Show, join, or_dash, plain_table};
use crate::text::queue_jsonl;

pub async fn run(brokers: &Brokers, command: ScheduleCommand) -> Result<()> {
    let client = connect(brokers).await?;
    let admin = client.admin();
    match command {
        ScheduleCommand::Put(args) => put(&admin, *args).await,
        ScheduleCommand::Ls { queue, output } => output.show(&list(&admin, queue).await?),
        ScheduleCommand::Rm { queue, name, output } => {
            admin.delete_schedule(&queue, &name).await?;
            output.done(&format!("deleted schedule {name} of queue {queue}"), json!({}))
        }
    }
}

async fn put(admin: &Admin, args: SchedulePutArgs) -> Result<()> {
    let timing = match (args.cron, args.every) {
        (Some(expression), _) => ScheduleTiming::Cron {
            expression,
            time_zone: args.time_zone,
        },
        (None, Some(every)) => ScheduleTiming::Every(every),
        (None, None) => unreachable!("clap asks for one of them"),
    };
    let mut message = QueueMessage::new(args.body).with_priority(args.priority);
    message.key = args.key.map(Into::into);
    let header = |(key, value): (String, String)| Header {
        key,
        value: Some(value.into()),
    };
    message.headers = args.header.into_iter().map(header).collect();
    if let Some(delay) = args.delay {
        message = message.with_delay(delay);
    }
    message.ttl = args.ttl;
    let moment = |flag: &str, ms: i64| {
        u64::try_from(ms).map_err(|_| CliError::usage(format!("--{flag} is before 1970: give a later time")))
    };
    let schedule = NewSchedule {
        start_ms: args.start.map(|start| moment("start", start.0)).transpose()?,
        end_ms: args.end.map(|end| moment("end", end.0)).transpose()?,
        catch_up: match args.catch_up {
            CatchUpArg::Skip => CatchUp::Skip,
            CatchUpArg::One => CatchUp::One,
            CatchUpArg::All => CatchUp::All,
        },
        ..NewSchedule::new(args.name, timing, message)
    };
    let put = admin.put_schedule(&args.queue, &schedule).await?;
    let did = if put.created { "created" } else { "put" };
    let sentence = format!(
        "{did} schedule {} of queue {}: due next at {}",
        schedule.name,
        args.queue,
        time(put.next_ms)
    );
    let json = json!({ "created": put.created, "next_ms": put.next_ms, "partition": put.partition });
    args.output.done(&sentence, json)
}

/// The schedules of a queue, or of all that may have some.
async fn list(admin: &Admin, queue: Option<String>) -> Result<Listed> {
    let queues = match queue {
        Some(queue) => vec![queue],
        None => {
            let queues = admin.list_queues().await?.into_iter();
            queues.filter(|queue| queue.is_owned).map(|queue| queue.name).collect()
        }
    };
    let mut listed = Listed(Vec::new());
    for queue in queues {
        let QueueSchedules {
            schedules,
            unanswered_partitions,
        } = admin.list_schedules(&queue).await?;
        if !unanswered_partitions.is_empty() {
            let partitions = join(unanswered_partitions);
            note(&format!(
                "queue {queue}: the leaders of partitions {partitions} did not answer; their schedules are missing"
            ));
        }
        let schedules = schedules.into_iter().map(|schedule| (queue.clone(), schedule));
        listed.0.extend(schedules);
    }
    Ok(listed)
}

/// A moment as people read it, in UTC.
fn time(ms: u64) -> String {
    let moment = i64::try_from(ms)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    moment.map_or_else(|| ms.to_string(), |moment| moment.to_string())
}

fn rule(timing: &ScheduleTiming) -> String {
    match timing {
        ScheduleTiming::Cron { expression, time_zone } => format!("{expression} {time_zone}"),
        ScheduleTiming::Every(interval) => format!("every {interval:?}"),
    }
}

fn catch_up(catch_up: CatchUp) -> &'static str {
    match catch_up {
        CatchUp::Skip => "skip",
        CatchUp::One => "one",
        CatchUp::All => "all",
    }
}

/// The view of `schedule ls`: queues with their schedules.
struct Listed(Vec<(String, QueueSchedule)>);

impl Show for Listed {
    fn table(&self) -> String {
        let rows = self.0.iter().map(|(queue, listed)| {
            [
                queue.clone(),
                listed.schedule.name.clone(),
                rule(&listed.schedule.timing),
                time(listed.next_ms),
                or_dash(listed.last_ms.map(time)),
                listed.sent.to_string(),
                or_dash(listed.schedule.end_ms.map(time)),
                catch_up(listed.schedule.catch_up).to_owned(),
                or_dash(listed.refusal.as_ref()),
            ]
        });
        let header = [
            "queue", "schedule", "rule", "next", "last", "sent", "end", "catch-up", "refusal",
        ];
        plain_table(header, rows)
    }

    fn json(&self) -> Value {
        let row = |(queue, listed): &(String, QueueSchedule)| {
            let schedule = &listed.schedule;
            let mut object = Map::new();
            object.insert("queue".to_owned(), queue.as_str().into());
            object.insert("schedule".to_owned(), schedule.name.as_str().into());
            object.insert("partition".to_owned(), listed.partition.into());
            match &schedule.timing {
                ScheduleTiming::Cron { expression, time_zone } => {
                    object.insert(
                        "cron".to_owned(),
                        json!({ "expression": expression, "time_zone": time_zone }),
                    );
                }
                ScheduleTiming::Every(interval) => {
                    let interval_ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
                    let every = json!({ "interval_ms": interval_ms, "anchor_ms": schedule.start_ms });
                    object.insert("every".to_owned(), every);
                }
            }
            object.insert("end_ms".to_owned(), json!(schedule.end_ms));
            object.insert("catch_up".to_owned(), catch_up(schedule.catch_up).into());
            object.insert("message".to_owned(), queue_jsonl::message(&schedule.message));
            object.insert("next_ms".to_owned(), listed.next_ms.into());
            object.insert("last_ms".to_owned(), json!(listed.last_ms));
            object.insert("sent".to_owned(), listed.sent.into());
            object.insert("refusal".to_owned(), json!(listed.refusal));
            Value::Object(object)
        };
        self.0.iter().map(row).collect()
    }
}
