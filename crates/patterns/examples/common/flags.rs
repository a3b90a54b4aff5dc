//! The flags that all examples have.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use jangada_client::{Client, ClientConfig, ClientError, Env};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// What an example is told on the command line.
#[derive(Args, Clone, Debug)]
pub struct Flags {
    /// Brokers to begin with: those of `make up`
    #[arg(
        long,
        env = "JANGADA_BROKERS",
        value_delimiter = ',',
        default_value = "127.0.0.1:9400"
    )]
    pub brokers: Vec<String>,

    /// Folder of its databases. Default: one of the system's for temporary files, named after the run
    #[arg(long)]
    pub dir: Option<PathBuf>,

    /// Name of the run, which its topics and queues carry. Default: a new one
    #[arg(long)]
    pub run: Option<String>,

    /// Kill its own processes at random for so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub nemesis: u64,

    /// What the nemesis does, again. Default: a new one, which is printed
    #[arg(long)]
    pub seed: Option<u64>,

    /// Only check what the run `--run` has left in `--dir`
    #[arg(long, requires = "run", requires = "dir")]
    pub check: bool,

    /// Which of its processes this one is
    #[arg(long, hide = true)]
    pub role: Option<String>,
}

impl Flags {
    /// Fills in what was left out, and logs what `RUST_LOG` asks for.
    pub fn complete(mut self, example: &str) -> std::io::Result<Self> {
        let filter = EnvFilter::builder()
            .with_default_directive(LevelFilter::OFF.into())
            .from_env_lossy();
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .init();
        let random = Env::system().random;
        let run = self
            .run
            .get_or_insert_with(|| format!("{:06x}", random.number() & 0xff_ffff));
        let dir = std::env::temp_dir().join(format!("jangada-{example}-{run}"));
        std::fs::create_dir_all(self.dir.get_or_insert(dir))?;
        self.seed.get_or_insert(random.number() % 1_000_000);
        Ok(self)
    }

    /// The name of the run.
    pub fn run(&self) -> &str {
        self.run.as_deref().expect("it is complete")
    }

    /// The folder of its databases.
    pub fn dir(&self) -> PathBuf {
        self.dir.clone().expect("it is complete")
    }

    /// A name that no other run has.
    pub fn name(&self, what: &str) -> String {
        format!("{what}-{}", self.run())
    }

    /// How long the nemesis kills.
    pub fn nemesis(&self) -> Duration {
        Duration::from_secs(self.nemesis)
    }

    /// A client of the cluster, which bears that brokers are away for a while.
    pub async fn client(&self) -> Result<Client, ClientError> {
        let mut config = ClientConfig::new(self.brokers.clone());
        config.retry_timeout = Duration::from_secs(60);
        Client::connect(config).await
    }

    /// Those that a process of this run gets.
    pub fn of_worker(&self, role: &str) -> Vec<String> {
        let dir = self.dir().display().to_string();
        let brokers = self.brokers.join(",");
        let flags = [
            "--role",
            role,
            "--run",
            self.run(),
            "--dir",
            &dir,
            "--brokers",
            &brokers,
        ];
        flags.into_iter().map(str::to_owned).collect()
    }
}
