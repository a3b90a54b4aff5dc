//! The runtime of a simulation, and the hosts in it.

use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use jangada_env::Random;
use tokio::runtime::{Builder, RngSeed};
use tokio::time::{Instant, timeout};
use tracing_subscriber::EnvFilter;

use crate::host::Host;
use crate::network::Net;
use crate::trace::{Since, Trace};
use crate::watched::Watched;

/// Of the simulation's own time. Whoever waits for ever is found by it.
const PLAY_MAX: Duration = Duration::from_secs(3600);

/// See the crate's text. Everything in it ends with it.
pub struct Simulation {
    random: Random,
    trace: Trace,
    began: Instant,
    net: Arc<Net>,
    hosts: AtomicU8,
}

impl Simulation {
    /// Runs `play` on this seed and gives what it returns, with the trace.
    ///
    /// # Panics
    /// `play` panics; the system has no more file descriptors.
    pub fn run<T, F: Future<Output = T>>(seed: u64, play: impl FnOnce(Arc<Self>) -> F) -> (T, Trace) {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .rng_seed(RngSeed::from_bytes(&seed.to_be_bytes()))
            .build()
            .expect("a runtime needs a few file descriptors");
        let trace = Trace::default();
        let played = runtime.block_on(async {
            let began = Instant::now();
            let log = tracing_subscriber::fmt()
                .with_env_filter(EnvFilter::new("jangada=debug"))
                .with_ansi(false)
                .with_timer(Since(began))
                .with_writer(trace.clone())
                .finish();
            let random = Random::seeded(seed);
            let simulation = Arc::new(Self {
                net: Arc::new(Net::new(random.fork(), trace.clone(), began)),
                random,
                trace: trace.clone(),
                began,
                hosts: AtomicU8::new(0),
            });
            // The runtime has one thread, so all tasks log there.
            let logging = tracing::subscriber::set_default(log);
            let watched = Watched::begin(&trace);
            let played = timeout(PLAY_MAX, play(simulation)).await;
            let played = played.unwrap_or_else(|_| panic!("the play has not ended after {PLAY_MAX:?} of its time"));
            drop(watched);
            trace.end();
            drop(logging);
            played
        });
        (played, trace)
    }

    /// One more machine, of this name. Its address is 10.0.0.1 for the first one, and so on.
    pub fn host(&self, name: &str) -> Host {
        let number = self.hosts.fetch_add(1, Ordering::Relaxed) + 1;
        let address = Ipv4Addr::new(10, 0, 0, number);
        Host::new(name, address, &self.net, self.random.fork(), self.began)
    }

    /// Writes a line into the trace.
    pub fn note(&self, text: fmt::Arguments<'_>) {
        self.trace.note(self.began, text);
    }
}
