//! A simulation: its time, its hosts, and the play in it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use jangada_env::Random;
use parking_lot::Mutex;
use tokio::task::LocalSet;
use tracing::subscriber::{DefaultGuard, NoSubscriber, set_default};
use tracing_subscriber::EnvFilter;

use crate::clock::Time;
use crate::current::watch_panics;
use crate::driver::Driver;
use crate::host::Host;
use crate::network::{Net, Network};
use crate::still::Still;
use crate::trace::{Since, Trace, TraceMode};
use crate::watched::Watched;

/// Of the simulation's own time. Whoever waits for ever is found by it.
const PLAY_MAX: Duration = Duration::from_secs(3600);
/// Of the system's time.
const REAL_MAX: Duration = Duration::from_secs(120);

/// How a simulation is run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// What all chance follows from.
    pub seed: u64,
    /// What of it is kept.
    pub trace: TraceMode,
    /// How long the play may last, of its own time.
    pub play_max: Duration,
    /// How long it may last, of the system's time. After that the program is aborted, since the play may never give up its turn.
    pub real_max: Duration,
}

impl Options {
    /// A seed, with a trace, within an hour of its own time and two minutes of the system's.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            trace: TraceMode::Kept,
            play_max: PLAY_MAX,
            real_max: REAL_MAX,
        }
    }
}

/// See the crate's text. Everything in it ends with it.
pub struct Simulation {
    random: Random,
    trace: Trace,
    time: Arc<Time>,
    network: Network,
    driver: Arc<Driver>,
    hosts: Mutex<BTreeMap<String, Host>>,
}

/// From now on what is logged on this thread goes to the trace, or nowhere.
fn log_to(trace: &Trace, mode: TraceMode, time: &Arc<Time>) -> DefaultGuard {
    match mode {
        TraceMode::Hashed => set_default(NoSubscriber::default()),
        TraceMode::Kept => set_default(
            tracing_subscriber::fmt()
                .with_env_filter(EnvFilter::new("jangada=debug"))
                .with_ansi(false)
                .with_timer(Since(time.clone()))
                .with_writer(trace.clone())
                .finish(),
        ),
    }
}

impl Simulation {
    /// Runs `play` on this seed and gives what it returns, with the trace. It may spawn local tasks.
    ///
    /// # Panics
    /// `play` panics, or a task of a broker; or it lasts for too long.
    pub fn run<T, F: Future<Output = T>>(seed: u64, play: impl FnOnce(Arc<Self>) -> F) -> (T, Trace) {
        let (played, trace) = Self::run_with(Options::new(seed), play);
        match played {
            Ok(played) => (played, trace),
            Err(finding) => {
                trace.show_end();
                panic!("seed {seed}: {finding}")
            }
        }
    }

    /// Runs `play`, and gives what it returns or what the simulation has found by itself: that a task of a broker or the play has
    /// panicked, or that the play lasts for too long.
    pub fn run_with<T, F: Future<Output = T>>(
        options: Options,
        play: impl FnOnce(Arc<Self>) -> F,
    ) -> (Result<T, String>, Trace) {
        watch_panics();
        let time = Arc::new(Time::default());
        let trace = Trace::new(time.clone(), options.trace);
        let random = Random::seeded(options.seed);
        let net = Net::new(random.fork(), trace.clone(), time.clone());
        let driver = Arc::new(Driver::new(time.clone(), net.clone(), random.number()));
        let simulation = Arc::new(Self {
            network: Network::new(net),
            random,
            trace: trace.clone(),
            time: time.clone(),
            driver: driver.clone(),
            hosts: Mutex::default(),
        });
        // All runtimes are on one thread, so all tasks log there.
        let logging = log_to(&trace, options.trace, &time);
        let watched = Watched::begin(&trace, options.seed, options.real_max);
        let still = Still::begin();
        let play = play(simulation);
        let mut play = Box::pin(async move { LocalSet::new().run_until(play).await });
        let played = driver.run(play.as_mut(), options.play_max);
        trace.end();
        driver.end(|| drop(play));
        drop(still);
        drop(watched);
        drop(logging);
        (played, trace)
    }

    /// The machine of this name, a new one if there is none. The address is 10.0.0.1 for the first one, and so on.
    pub fn host(&self, name: &str) -> Host {
        let mut hosts = self.hosts.lock();
        if let Some(host) = hosts.get(name) {
            return host.clone();
        }
        let number = u16::try_from(hosts.len() + 1).expect("there are not that many hosts");
        let [high, low] = number.to_be_bytes();
        let address = Ipv4Addr::new(10, 0, high, low);
        let host = Host::new(name, address, &self.driver, self.trace.clone(), self.random.fork());
        hosts.insert(name.to_owned(), host.clone());
        host
    }

    /// All machines, by name.
    pub fn hosts(&self) -> Vec<Host> {
        self.hosts.lock().values().cloned().collect()
    }

    /// What can go wrong between hosts.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The time since the begin.
    pub fn now(&self) -> Duration {
        self.time.now()
    }

    /// A source of chance of one's own, which follows from the seed.
    pub fn random(&self) -> Random {
        self.random.fork()
    }

    /// Writes a line into the trace.
    pub fn note(&self, text: fmt::Arguments<'_>) {
        self.trace.note(text);
    }

    /// What is shown if the simulation does not end: what the play is about.
    pub fn set_hint(&self, hint: impl Into<String>) {
        self.trace.set_hint(hint.into());
    }
}
