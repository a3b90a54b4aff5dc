//! `jangada saga ...`: shows sagas and helps those that are stuck, by what is in their topic.

use jangada_patterns::PatternError;
use jangada_patterns::saga::{Event, Happened, Leg, Place, Saga, SagaSummary, Sagas};
use serde_json::{Value, json};

use crate::brokers::Brokers;
use crate::cli::{PhaseArg, SagaCommand, SagaListArgs};
use crate::connect::connect;
use crate::errors::{CliError, Result};
use crate::output::{Show, or_dash, plain_table};

pub async fn run(brokers: &Brokers, command: SagaCommand) -> Result<()> {
    let client = connect(brokers).await?;
    match command {
        SagaCommand::Ls(args) => {
            let sagas = Sagas::open(&client, &args.of.topic).await.map_err(failure)?;
            let mut list = sagas.list();
            list.retain(|saga| is_wanted(&args, saga));
            args.output.show(&List(list))
        }
        SagaCommand::Show { saga, output } => {
            let sagas = Sagas::open(&client, &saga.of.topic).await.map_err(failure)?;
            let found = sagas.get(&saga.id).ok_or_else(|| unknown(&saga.id, &saga.of.topic))?;
            let history = sagas.history(&saga.id).await.map_err(failure)?;
            output.show(&Whole {
                id: saga.id,
                saga: found,
                history,
            })
        }
        SagaCommand::Retry { saga, within, output } => {
            let sagas = Sagas::open(&client, &saga.of.topic).await.map_err(failure)?;
            let after = sagas.retry(&saga.id, within.within).await.map_err(failure)?;
            let sentence = format!("{} is tried again, and is {}", saga.id, after.phase.as_str());
            output.done(&sentence, json_of(&saga.id, &after))
        }
        SagaCommand::Abort {
            saga,
            reason,
            within,
            output,
        } => {
            let sagas = Sagas::open(&client, &saga.of.topic).await.map_err(failure)?;
            let after = sagas.abort(&saga.id, &reason, within.within).await.map_err(failure)?;
            let sentence = format!("{} turns back, and is {}", saga.id, after.phase.as_str());
            output.done(&sentence, json_of(&saga.id, &after))
        }
    }
}

fn unknown(id: &str, topic: &str) -> CliError {
    CliError::new(format!("topic {topic:?} has no saga {id:?}")).hint("`jangada saga ls --topic T` lists them")
}

/// The error of a command, with what to do next.
fn failure(error: PatternError) -> CliError {
    match error {
        PatternError::Client(error) => error.into(),
        error @ PatternError::Unreadable { .. } => {
            CliError::new(error.to_string()).hint("is it a topic of sagas? Their orchestrators were created with it")
        }
        error @ PatternError::Late { .. } => {
            CliError::new(error.to_string()).hint("it will be taken when an orchestrator runs again")
        }
        error => CliError::new(error.to_string()),
    }
}

fn is_wanted(args: &SagaListArgs, saga: &SagaSummary) -> bool {
    let name = |phase: &PhaseArg| match phase {
        PhaseArg::Forward => "forward",
        PhaseArg::Backward => "backward",
        PhaseArg::Completed => "completed",
        PhaseArg::Compensated => "compensated",
    };
    let is_there = args.phase.is_empty() || args.phase.iter().any(|phase| name(phase) == saga.phase.as_str());
    is_there && (!args.stuck || saga.stuck.is_some())
}

/// The view of `saga ls`.
struct List(Vec<SagaSummary>);

impl Show for List {
    fn table(&self) -> String {
        let rows = self.0.iter().map(|saga| {
            [
                saga.id.clone(),
                saga.kind.clone(),
                saga.phase.as_str().to_owned(),
                format!("{}/{}", saga.done, saga.steps),
                or_dash(saga.stuck.as_ref()),
                or_dash(saga.reason.as_ref()),
            ]
        });
        plain_table(["id", "kind", "phase", "steps_done", "stuck_at", "reason"], rows)
    }

    fn json(&self) -> Value {
        let saga = |saga: &SagaSummary| {
            json!({
                "id": saga.id,
                "kind": saga.kind,
                "phase": saga.phase.as_str(),
                "steps_done": saga.done,
                "steps": saga.steps,
                "stuck_at": saga.stuck,
                "reason": saga.reason,
            })
        };
        self.0.iter().map(saga).collect()
    }
}

/// The view of `saga show`.
struct Whole {
    id: String,
    saga: Saga,
    history: Vec<Happened>,
}

fn place(leg: &Leg) -> &'static str {
    match leg.place {
        Place::Idle => "-",
        Place::Out { .. } => "out",
        Place::Waiting { .. } => "waiting",
        Place::Done => "done",
        Place::Failed => "failed",
    }
}

fn json_of(id: &str, saga: &Saga) -> Value {
    let known = saga.definition.steps.iter().zip(&saga.steps);
    let steps = known.map(|(known, step)| {
        let leg = |leg: &Leg| json!({ "state": place(leg), "attempts": leg.attempt, "reason": leg.reason });
        json!({
            "name": known.name,
            "queue": known.queue,
            "do": leg(&step.doing),
            "undo": leg(&step.undoing),
            "result": step.result,
        })
    });
    json!({
        "id": id,
        "kind": saga.definition.name,
        "phase": saga.phase.as_str(),
        "stuck_at": saga.stuck.map(|step| &saga.definition.steps[step].name),
        "reason": saga.turned_back,
        "input": saga.input,
        "steps": steps.collect::<Vec<_>>(),
    })
}

/// An event in a line.
fn line(saga: &Saga, event: &Event) -> String {
    let name = |step: &usize| saga.definition.steps[*step].name.as_str();
    match event {
        Event::Started { .. } => "started".to_owned(),
        Event::Sent { step, way, attempt, .. } => format!("{} {}: attempt {attempt} sent", way.as_str(), name(step)),
        Event::Done { step, way, .. } => format!("{} {}: done", way.as_str(), name(step)),
        Event::Postponed { step, way, reason, .. } => format!("{} {}: again later, {reason}", way.as_str(), name(step)),
        Event::Failed { step, way, reason } => format!("{} {}: failed, {reason}", way.as_str(), name(step)),
        Event::TurnedBack { reason } => format!("turned back: {reason}"),
        Event::Stuck { step } => format!("stuck at {}", name(step)),
        Event::Retried => "retried by hand".to_owned(),
        Event::Completed => "completed".to_owned(),
        Event::Compensated => "compensated".to_owned(),
    }
}

impl Show for Whole {
    fn table(&self) -> String {
        let Self { id, saga, history } = self;
        let head = plain_table(
            ["id", "kind", "phase", "stuck_at", "reason"],
            [[
                id.clone(),
                saga.definition.name.clone(),
                saga.phase.as_str().to_owned(),
                or_dash(saga.stuck.map(|step| saga.definition.steps[step].name.clone())),
                or_dash(saga.turned_back.as_ref()),
            ]],
        );
        let known = saga.definition.steps.iter().zip(&saga.steps);
        let steps = known.map(|(known, step)| {
            let reasons = [&step.undoing.reason, &step.doing.reason];
            [
                known.name.clone(),
                place(&step.doing).to_owned(),
                step.doing.attempt.to_string(),
                place(&step.undoing).to_owned(),
                step.undoing.attempt.to_string(),
                or_dash(reasons.into_iter().find(|reason| !reason.is_empty())),
            ]
        });
        let steps = plain_table(["step", "do", "attempts", "undo", "attempts", "last_failure"], steps);
        let history = history.iter().map(|happened| {
            let time = jiff::Timestamp::from_millisecond(happened.timestamp_ms);
            let time = time.map_or_else(|_| happened.timestamp_ms.to_string(), |time| time.to_string());
            [time, happened.offset.to_string(), line(saga, &happened.event)]
        });
        format!("{head}\n{steps}\n{}", plain_table(["time", "offset", "event"], history))
    }

    fn json(&self) -> Value {
        let mut json = json_of(&self.id, &self.saga);
        let history = self.history.iter().map(|happened| {
            json!({ "timestamp_ms": happened.timestamp_ms, "offset": happened.offset, "event": happened.event })
        });
        json["history"] = history.collect();
        json
    }
}
