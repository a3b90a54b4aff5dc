//! Worker processes, and who kills them.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::io::AsyncReadExt as _;
use tokio::time::{Instant, sleep};

use super::{Error, Flags, say};

/// How often the crew looks after its workers.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// How often workers may end by themselves in all: more than that is a mistake in the example, not bad luck.
const ENDS_MAX: u32 = 100;

/// The worker processes of an example. Dropping it kills them all.
pub struct Crew {
    flags: Flags,
    /// Flags that the example hands on to its workers.
    more: Vec<String>,
    workers: Vec<Worker>,
    chance: StdRng,
    /// The nemesis kills until this time.
    kills_until: Instant,
    next_kill: Instant,
    kills: u32,
    ends: u32,
}

struct Worker {
    role: String,
    child: Child,
}

impl Crew {
    /// A crew without workers as yet; the nemesis has its time from now on.
    pub fn new(flags: &Flags, more: &[String]) -> Self {
        let seed = flags.seed.expect("it is complete");
        let now = Instant::now();
        if flags.nemesis > 0 {
            say(
                "nemesis",
                format!("kills a process now and then for {} s; --seed {seed}", flags.nemesis),
            );
        }
        Self {
            flags: flags.clone(),
            more: more.to_vec(),
            workers: Vec::new(),
            chance: StdRng::seed_from_u64(seed),
            kills_until: now + flags.nemesis(),
            next_kill: now + Duration::from_secs(1),
            kills: 0,
            ends: 0,
        }
    }

    /// Starts a worker.
    pub fn start(&mut self, role: &str) -> Result<(), Error> {
        let child = self.spawn(role)?;
        let role = role.to_owned();
        self.workers.push(Worker { role, child });
        Ok(())
    }

    fn spawn(&self, role: &str) -> Result<Child, Error> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(self.flags.of_worker(role)).args(&self.more);
        // When this process is gone the pipe is closed, and they end.
        Ok(command.stdin(Stdio::piped()).spawn()?)
    }

    /// Looks after the workers until the condition holds: starts those again that have ended, and lets the nemesis kill. The condition is
    /// asked every tenth of a second.
    ///
    /// # Errors
    /// The condition does not hold within this time; a worker that cannot be started, or workers that end too often by themselves.
    pub async fn until(
        &mut self,
        what: &str,
        within: Duration,
        mut holds: impl AsyncFnMut() -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let deadline = Instant::now() + within;
        loop {
            self.look()?;
            if holds().await? {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("not within {within:?}: {what}").into());
            }
            sleep(LOOK_INTERVAL).await;
        }
    }

    fn look(&mut self) -> Result<(), Error> {
        for index in 0..self.workers.len() {
            let Worker { role, child } = &mut self.workers[index];
            let Some(status) = child.try_wait()? else { continue };
            let role = role.clone();
            self.ends += 1;
            say(
                "crew",
                format!("{role} has ended by itself ({status}) and is started again"),
            );
            if self.ends > ENDS_MAX {
                return Err(format!("workers have ended by themselves {ENDS_MAX} times").into());
            }
            self.workers[index].child = self.spawn(&role)?;
        }
        let now = Instant::now();
        if now < self.kills_until && now >= self.next_kill {
            self.kill_one()?;
            self.next_kill = now + Duration::from_millis(self.chance.random_range(300..2_500));
        }
        Ok(())
    }

    /// Sends SIGKILL to one worker, and starts it again.
    fn kill_one(&mut self) -> Result<(), Error> {
        let index = self.chance.random_range(0..self.workers.len());
        let Worker { role, child } = &mut self.workers[index];
        let role = role.clone();
        child.kill()?;
        child.wait()?;
        self.kills += 1;
        say("nemesis", format!("kill {}: {role}", self.kills));
        self.workers[index].child = self.spawn(&role)?;
        Ok(())
    }

    /// Whether the nemesis still kills.
    pub fn is_hunted(&self) -> bool {
        Instant::now() < self.kills_until
    }

    /// How many processes the nemesis has killed.
    pub fn kills(&self) -> u32 {
        self.kills
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        // Nobody is asked to end: what they have done must hold all the same.
        for worker in &mut self.workers {
            let _ = worker.child.kill();
            let _ = worker.child.wait();
        }
    }
}

/// Runs a worker's work until it fails, or the process that started it is gone.
pub async fn worker(role: &str, work: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
    let orphaned = async {
        let mut byte = [0];
        // Nothing is ever written to it.
        let _ = tokio::io::stdin().read(&mut byte).await;
    };
    tokio::select! {
        done = work => done.inspect_err(|error| say(role, format!("ends: {error}"))),
        () = orphaned => std::process::exit(0),
    }
}
