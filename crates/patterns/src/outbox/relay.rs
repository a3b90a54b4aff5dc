//! Sends the rows of an outbox, once, in order.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::FutureExt as _;
use jangada_client::{Client, ClientError, Env, TransactionOptions, TransactionOutcome, TransactionalProducer};
use tokio::time::sleep;

use super::course::{Course, Sends};
use super::positions::{self, POSITIONS_TOPIC, position_of};
use super::rows::{OutboxRow, OutboxRows, RowsMax};
use crate::backoff::Backoff;
use crate::error::PatternError;

/// How a relay sends.
#[derive(Clone, Debug)]
pub struct RelayConfig {
    /// Most rows of one transaction. Default: 500.
    pub rows_max: usize,
    /// Most bytes of their records; one row may have more. Default: 8 MiB.
    pub bytes_max: usize,
    /// How long it waits before it looks again when there was no row. Default: 100 ms.
    pub poll_interval: Duration,
    /// The topic of positions. Default: [`POSITIONS_TOPIC`].
    pub positions: String,
    /// Replicas of that topic, when it is created. 0, the default: the cluster's default.
    pub replicas: u32,
    /// The transactions' settings. Default: a timeout of 10 s, for so long may readers wait behind a relay that died.
    pub transactions: TransactionOptions,
    /// The delays after what may succeed later.
    pub backoff: Backoff,
}

impl Default for RelayConfig {
    fn default() -> Self {
        Self {
            rows_max: 500,
            bytes_max: 8 << 20,
            poll_interval: Duration::from_millis(100),
            positions: POSITIONS_TOPIC.to_owned(),
            replicas: 0,
            transactions: TransactionOptions {
                timeout: Duration::from_secs(10),
                ..TransactionOptions::default()
            },
            backoff: Backoff::default(),
        }
    }
}

/// What a relay has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Relayed {
    /// Rows that were sent.
    pub rows: u64,
    /// Transactions that were committed.
    pub transactions: u64,
    /// Transactions that were aborted, and whose rows were sent by the next one.
    pub aborted: u64,
}

/// Sends the rows of an outbox in transactions, each together with the position behind it.
///
/// ```no_run
/// # async fn example(client: jangada_client::Client, pool: sqlx::SqlitePool) -> Result<(), jangada_patterns::PatternError> {
/// use jangada_client::Env;
/// use jangada_patterns::outbox::{Relay, RelayConfig, SqliteOutbox};
///
/// let outbox = SqliteOutbox::create(pool, Env::system()).await?;
/// let mut relay = Relay::open(&client, "shop", outbox, RelayConfig::default(), Env::system()).await?;
/// relay.run(async { tokio::signal::ctrl_c().await.ok(); }).await?;
/// # Ok(())
/// # }
/// ```
pub struct Relay<R> {
    name: Arc<str>,
    course: Course<R, Cluster>,
    config: RelayConfig,
    env: Env,
}

/// The transactional producer of a relay, and where positions are.
struct Cluster {
    producer: TransactionalProducer,
    name: Arc<str>,
    positions: String,
}

impl<R: OutboxRows> Relay<R> {
    /// Begins to relay the outbox of this name: fences the relay that did before, and finds out how far that one came.
    ///
    /// # Errors
    /// [`PatternError::Client`], [`PatternError::Unreadable`].
    pub async fn open(
        client: &Client,
        name: &str,
        rows: R,
        config: RelayConfig,
        env: Env,
    ) -> Result<Self, PatternError> {
        positions::create(client, &config.positions, config.replicas).await?;
        // In this order: once the id is opened nobody else moves the position.
        let id = format!("outbox-{name}");
        let producer = TransactionalProducer::open(client, id, config.transactions.clone()).await?;
        let position = position_of(client, &config.positions, name).await?;
        let name: Arc<str> = name.into();
        let cluster = Cluster {
            producer,
            name: name.clone(),
            positions: config.positions.clone(),
        };
        let most = RowsMax {
            rows: config.rows_max,
            bytes: config.bytes_max,
        };
        Ok(Self {
            course: Course::new(name.clone(), (rows, most), cluster, position),
            name,
            config,
            env,
        })
    }

    /// The id of the last row that is sent.
    pub fn position(&self) -> i64 {
        self.course.position()
    }

    /// Relays rows as they come, until `stop` ends. What fails for a while is tried again.
    ///
    /// # Errors
    /// [`ClientError::ProducerFenced`]: another relay of this name has begun. What no retry mends, such as a row that is refused.
    pub async fn run(&mut self, stop: impl Future<Output = ()>) -> Result<Relayed, PatternError> {
        let mut stop = pin!(stop.fuse());
        let mut failures = 0;
        loop {
            let wait = match self.relay_some().await {
                Ok(rows) => {
                    failures = 0;
                    if rows == 0 {
                        self.config.poll_interval
                    } else {
                        Duration::ZERO
                    }
                }
                Err(error) if error.is_retryable() => {
                    tracing::warn!(%error, outbox = %self.name, "the relay tries again");
                    failures += 1;
                    self.config.backoff.delay(failures - 1, &self.env)
                }
                Err(error) => return Err(error),
            };
            // A transaction that has begun is brought to its end: it is only here that it stops.
            tokio::select! {
                biased;
                () = &mut stop => return Ok(self.course.relayed()),
                () = sleep(wait) => {}
            }
        }
    }

    /// Relays the rows that are there now, one transaction of them at most. Returns how many; 0: there is none, or the transaction was
    /// aborted.
    ///
    /// # Errors
    /// Those of [`run`](Self::run), and what may succeed later: call it again.
    pub async fn relay_some(&mut self) -> Result<usize, PatternError> {
        self.course.relay_some().await
    }
}

impl Sends for Cluster {
    async fn send(&mut self, rows: Vec<OutboxRow>, up_to: i64) -> Result<(), ClientError> {
        let position = positions::record(&self.positions, &self.name, up_to);
        let transaction = self.producer.begin().await?;
        let sending = async {
            for OutboxRow { id, record } in rows {
                let tell = |error: &ClientError| tracing::error!(%error, row = id, "a row of the outbox is not taken");
                // Its delivery is the commit's.
                drop(transaction.send(record).await.inspect_err(tell)?);
            }
            transaction.send(position).await.map(drop)
        };
        if let Err(error) = sending.await {
            transaction.abort().await?;
            return Err(error);
        }
        transaction.commit().await.map(drop)
    }

    async fn resolve(&mut self) -> Result<TransactionOutcome, ClientError> {
        self.producer.resolve().await
    }
}
