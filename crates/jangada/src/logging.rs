//! Sends `tracing` events to stderr.

use std::io;

use jangada_broker::settings::{LogFormat, LogSettings};
use jangada_client::NOTICE_TARGET;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::layer;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::errors::{CliError, Result};

/// Starts the log of a broker, as its settings say.
pub fn start(settings: &LogSettings) -> Result<()> {
    let filter = EnvFilter::builder().parse(&settings.filter);
    let filter =
        filter.map_err(|error| CliError::new(format!("setting `log.filter` is {:?}: {error}", settings.filter)))?;
    let registry = tracing_subscriber::registry().with(filter);
    let started = match settings.format {
        LogFormat::Text => registry
            .with(layer().with_writer(io::stderr).with_ansi(false))
            .try_init(),
        LogFormat::Json => registry
            .with(layer().json().flatten_event(true).with_writer(io::stderr))
            .try_init(),
    };
    started.map_err(|error| CliError::new(format!("cannot start logging: {error}")))
}

/// Starts the log of the other commands: only the events that `--log` or JANGADA_LOG asks for. The client's notices are
/// left out, as commands write them to stderr by themselves.
pub fn start_for_command(filter: &str) -> Result<()> {
    let parsed = EnvFilter::builder().parse(filter);
    let parsed = parsed.map_err(|error| CliError::usage(format!("--log (or JANGADA_LOG) is {filter:?}: {error}")))?;
    let started = tracing_subscriber::registry()
        .with(parsed)
        .with(
            layer()
                .with_writer(io::stderr)
                .with_filter(filter_fn(|metadata| metadata.target() != NOTICE_TARGET)),
        )
        .try_init();
    started.map_err(|error| CliError::new(format!("cannot start logging: {error}")))
}
