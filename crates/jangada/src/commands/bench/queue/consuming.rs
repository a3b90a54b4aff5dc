//! The messages that come.

use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt as _};
use jangada_client::{ClientError, QueueConsumer, QueueDelivery};

use super::run::Run;
use crate::errors::{CliError, Result};

/// A message may come so much before it is due by the clock of this process: both have whole milliseconds.
const CLOCK_TOLERANCE: Duration = Duration::from_millis(2);

/// Takes messages and acknowledges or holds them, until it is aborted.
pub(super) async fn consume(run: Arc<Run>, mut consumer: QueueConsumer) -> Result<()> {
    let mut settling = FuturesUnordered::new();
    loop {
        let has_room = settling.len() < 2 * run.prefetch as usize;
        tokio::select! {
            biased;
            message = consumer.next(), if has_room => {
                let message = message?;
                let counts = is_counted(&run, &message, consumer.queue())?;
                if let (true, Some(held)) = (counts, &run.held) {
                    held.lock().unwrap_or_else(PoisonError::into_inner).push(message);
                    run.is_done();
                    continue;
                }
                settling.push(async move {
                    match counts {
                        true => (true, message.ack().await),
                        false => (false, message.nack(None).await),
                    }
                });
            }
            Some((counts, settled)) = settling.next(), if !settling.is_empty() => match settled {
                Ok(()) if counts => run.is_done(),
                Ok(()) => drop(run.failures.fetch_add(1, Ordering::Relaxed)),
                Err(ClientError::LeaseLost) => drop(run.lease_lost.fetch_add(1, Ordering::Relaxed)),
                Err(error) => return Err(error.into()),
            },
        }
    }
}

/// Notes that a message has come. False: it is one that always fails.
fn is_counted(run: &Run, message: &QueueDelivery, queue: &str) -> Result<bool> {
    if !run.is_alone {
        return Ok(true);
    }
    let Some(number) = run.number_of(message.body.as_deref()) else {
        return Err(CliError::new(format!(
            "queue {queue} has messages of others: measure with a queue that nobody else uses"
        )));
    };
    let Some(came) = run.came.get(number as usize) else {
        return Ok(false);
    };
    match came.fetch_add(1, Ordering::Relaxed) {
        0 => {
            let due = Duration::from_nanos(run.due[number as usize].load(Ordering::Relaxed));
            let at = run.start.elapsed();
            if at + CLOCK_TOLERANCE < due {
                run.early.fetch_add(1, Ordering::Relaxed);
            }
            let mut latencies = run.latencies.lock().unwrap_or_else(PoisonError::into_inner);
            latencies.record(at.saturating_sub(due));
        }
        _ => drop(run.duplicates.fetch_add(1, Ordering::Relaxed)),
    }
    Ok(true)
}
