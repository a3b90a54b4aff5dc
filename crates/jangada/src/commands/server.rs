//! `jangada server ...`: one broker in this process.

use std::future::Future;
use std::path::Path;
use std::process;
use std::sync::Arc;

use jangada_broker::settings::{BrokerSettings, Layers, Loaded, Row, markdown_reference};
use jangada_broker::{Broker, DoubtfulTail};
use jangada_env::Env;
use jangada_storage::RocksStores;
use serde_json::{Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::{ServerArgs, ServerCommand};
use crate::errors::{CliError, Result};
use crate::logging;
use crate::output::{OutputArgs, Show, plain_table, print_text};

pub async fn run(args: &ServerArgs) -> Result<()> {
    match &args.command {
        Some(ServerCommand::CheckConfig { file, set, output }) => {
            let loaded = load(file, set)?;
            output.show(&Effective(loaded.rows()))
        }
        Some(ServerCommand::ConfirmTail {
            config,
            set,
            yes,
            output,
        }) => confirm_tail(&load(config, set)?.settings, *yes, *output),
        Some(ServerCommand::Reference) => print_text(&markdown_reference()),
        None => {
            let file = args
                .config
                .as_deref()
                .ok_or_else(|| CliError::usage("--config FILE is missing"))?;
            serve(load(file, &args.set)?).await
        }
    }
}

fn load(file: &Path, set: &[String]) -> Result<Loaded> {
    let loaded = Layers::of_process(Some(file), set).load();
    loaded.map_err(|error| CliError::from(error).doing(format!("settings of {}", file.display())))
}

/// The operator's decision to go on with a store that lost its end. Blocks; there is nothing else to do.
fn confirm_tail(settings: &BrokerSettings, yes: bool, output: OutputArgs) -> Result<()> {
    let broker = settings.broker_id;
    let doubt = DoubtfulTail::open(settings).map_err(|error| {
        CliError::new(format!("the store of broker {broker} cannot be looked at: {error}"))
            .hint("the broker must be stopped, and the file of settings must be its own")
    })?;
    let Some(doubt) = doubt else {
        let sentence = format!("broker {broker}: nothing is missing, there is nothing to confirm");
        return output.done(&sentence, json!({ "in_doubt": false }));
    };
    let what = doubt.to_string();
    if !yes {
        let message = format!("broker {broker}: {what}; acknowledged records would be given up: say so with --yes");
        let hint = format!(
            "while the other brokers have a majority of the replicas use `jangada cluster replace-broker {broker}` \
             instead; \
             nothing was decided (the store was opened as by a start, and its log replayed)"
        );
        return Err(CliError::usage(message).hint(hint));
    }
    let json = json!({
        "in_doubt": true,
        "marked_commit": doubt.marked_commit(),
        "last_commit": doubt.last_commit(),
    });
    doubt
        .accept()
        .map_err(|error| CliError::new(format!("the store of broker {broker}: {error}")))?;
    output.done(&format!("broker {broker}: {what}, which is accepted; start it"), json)
}

/// Runs the broker until SIGTERM or SIGINT, and stops it in order. It also ends, with an error, when its store is
/// fenced: a disk that failed a write or a sync cannot be trusted, and the process's supervisor should know.
async fn serve(loaded: Loaded) -> Result<()> {
    logging::start(&loaded.settings.log)?;
    let stop = stop_signal()?;
    let broker_id = loaded.settings.broker_id;
    let failed =
        |what: &str, error: &dyn std::fmt::Display| CliError::new(format!("broker {broker_id} {what}: {error}"));
    let broker = Broker::start(loaded.settings, Env::system(), Arc::new(RocksStores))
        .await
        .map_err(|error| failed("cannot start", &error))?;
    broker.run_until(stop).await.map_err(|error| failed("ended", &error))
}

/// Completes on the first SIGTERM or SIGINT. A second one ends the process at once.
fn stop_signal() -> Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        let name = either(&mut terminate, &mut interrupt).await;
        tracing::info!(
            signal = name,
            "stopping: handing over leaderships and answering what is in flight"
        );
        tokio::spawn(async move {
            let name = either(&mut terminate, &mut interrupt).await;
            tracing::warn!(signal = name, "asked to stop again: ending at once");
            process::exit(1);
        });
    })
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

/// The view of `check-config`.
struct Effective(Vec<Row>);

impl Show for Effective {
    fn table(&self) -> String {
        let rows = self.0.iter().map(|row| {
            [
                row.key.clone(),
                row.readable.clone(),
                row.source.clone(),
                row.default.clone(),
                row.bound.clone(),
            ]
        });
        plain_table(["key", "value", "source", "default", "bound"], rows)
    }

    fn json(&self) -> Value {
        json!(self.0)
    }
}
