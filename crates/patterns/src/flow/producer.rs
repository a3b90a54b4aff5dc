//! A producer that sends no more than the brokers take, and tells its caller.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jangada_client::{ClientError, Producer, ProducerRecord, RecordMetadata};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::window::Window;
use crate::error::PatternError;

/// How much a [`FlowProducer`] may have under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowProducerConfig {
    /// Records that may be under way however slow the answers are, at least 1. Default: 16.
    pub window_least: usize,
    /// Records that may be under way however fast they are. Default: 10,000.
    pub window_most: usize,
    /// The time within which answers are to come; longer ones make the window smaller. Default: 250 ms.
    pub aim: Duration,
}

impl Default for FlowProducerConfig {
    fn default() -> Self {
        Self {
            window_least: 16,
            window_most: 10_000,
            aim: Duration::from_millis(250),
        }
    }
}

/// How hard it is to send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Records that are under way.
    pub in_flight: usize,
    /// Records that may be under way now.
    pub window: usize,
    /// How long an answer takes, smoothed. Zero before the first.
    pub delay: Duration,
    /// How long callers have waited in all.
    pub waited: Duration,
}

impl Pressure {
    /// Whether a caller would wait now.
    pub fn is_full(&self) -> bool {
        self.in_flight >= self.window
    }
}

/// A record that was taken.
pub struct Accepted {
    /// How long the caller waited for room.
    pub waited: Duration,
    /// The pressure after that.
    pub pressure: Pressure,
    outcome: oneshot::Receiver<Result<RecordMetadata, ClientError>>,
}

impl Accepted {
    /// Waits until the record is on the disks of a quorum. It need not be called.
    ///
    /// # Errors
    /// The errors of the record's [`Delivery`](jangada_client::Delivery).
    pub async fn delivered(self) -> Result<RecordMetadata, PatternError> {
        // Only a runtime that ends drops the answer.
        let outcome = self.outcome.await.unwrap_or(Err(ClientError::Closed));
        Ok(outcome?)
    }
}

/// Sends records through a [`Producer`], with a window of those that are under way.
///
/// The brokers say how much they take by when they acknowledge: a producer stream's credit, a slow disk, a topic whose readers may lag no
/// further (`max.group.lag.records`), all hold answers back, and the window becomes smaller. A `Producer` alone takes 64 MiB before its
/// `send` waits, which at 1 KiB a record is a minute of what a consumer does with a thousand a second; and it does not tell.
///
/// ```no_run
/// # async fn example(client: jangada_client::Client, readings: Vec<String>) -> Result<(), jangada_patterns::PatternError> {
/// use jangada_client::{ProducerConfig, ProducerRecord};
/// use jangada_patterns::flow::{FlowProducer, FlowProducerConfig};
///
/// let producer = FlowProducer::new(client.producer(ProducerConfig::default())?, FlowProducerConfig::default());
/// for reading in readings {
///     let accepted = producer.send(ProducerRecord::new("readings").with_value(reading)).await?;
///     if !accepted.waited.is_zero() {
///         println!("slow down: waited {:?}, {:?}", accepted.waited, accepted.pressure);
///     }
/// }
/// producer.flush().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct FlowProducer {
    producer: Producer,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Notified once for each place that becomes free.
    room: Notify,
    /// Callers come in one after the other, in their order.
    door: tokio::sync::Mutex<()>,
}

struct State {
    window: Window,
    waited: Duration,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self) -> Option<Place<'_>> {
        let mut state = self.state();
        state
            .window
            .has_room()
            .then(|| state.window.begin())
            .map(|()| Place(self))
    }

    fn end(&self, took: Duration, is_success: bool) {
        self.state().window.end(Instant::now(), took, is_success);
        self.room.notify_one();
    }
}

/// A place in the window that nothing is sent in as yet; dropping it gives it back.
struct Place<'s>(&'s Shared);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        // What was not sent says nothing of how long an answer takes.
        self.0.state().window.give_back();
        self.0.room.notify_one();
    }
}

impl FlowProducer {
    /// A window before a producer. Clones share it.
    pub fn new(producer: Producer, config: FlowProducerConfig) -> Self {
        let state = State {
            window: Window::new((config.window_least, config.window_most), config.aim),
            waited: Duration::ZERO,
        };
        let shared = Shared {
            state: Mutex::new(state),
            room: Notify::new(),
            door: tokio::sync::Mutex::default(),
        };
        Self {
            producer,
            shared: Arc::new(shared),
        }
    }

    /// Sends a record when there is room for it. Calls one after the other keep their order, in each partition.
    ///
    /// # Errors
    /// The errors of [`Producer::send`]. The record was not taken then.
    pub async fn send(&self, record: ProducerRecord) -> Result<Accepted, PatternError> {
        let asked = Instant::now();
        let door = self.shared.door.lock().await;
        let mut waited = Duration::ZERO;
        let place = loop {
            if let Some(place) = self.shared.begin() {
                break place;
            }
            // A place that has become free since has left a permit.
            self.shared.room.notified().await;
            waited = asked.elapsed();
        };
        drop(door);
        self.shared.state().waited += waited;
        self.send_in(place, record, waited).await
    }

    /// Sends a record if there is room for it now.
    ///
    /// # Errors
    /// [`PatternError::Busy`], and those of [`send`](Self::send). The record was not taken then.
    pub async fn try_send(&self, record: ProducerRecord) -> Result<Accepted, PatternError> {
        let Some(place) = self.shared.begin() else {
            let Pressure { in_flight, window, .. } = self.pressure();
            return Err(PatternError::Busy { in_flight, window });
        };
        self.send_in(place, record, Duration::ZERO).await
    }

    async fn send_in(
        &self,
        place: Place<'_>,
        record: ProducerRecord,
        waited: Duration,
    ) -> Result<Accepted, PatternError> {
        let sent = Instant::now();
        let delivery = self.producer.send(record).await?;
        // From here on its answer gives the place back.
        std::mem::forget(place);
        let (told, outcome) = oneshot::channel();
        let shared = self.shared.clone();
        tokio::spawn(async move {
            let delivered = delivery.await;
            shared.end(sent.elapsed(), delivered.is_ok());
            // Nobody need wait for it.
            let _ = told.send(delivered);
        });
        Ok(Accepted {
            waited,
            pressure: self.pressure(),
            outcome,
        })
    }

    /// How hard it is to send now.
    pub fn pressure(&self) -> Pressure {
        let state = self.shared.state();
        Pressure {
            in_flight: state.window.in_flight(),
            window: state.window.size(),
            delay: state.window.delay().unwrap_or_default(),
            waited: state.waited,
        }
    }

    /// Waits until the outcome of everything that was sent before is known.
    pub async fn flush(&self) {
        self.producer.flush().await;
    }
}
