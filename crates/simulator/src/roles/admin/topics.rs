//! Topics that are created, altered, given more partitions, deleted, and created again under the same name: what was written to one is
//! never seen in another.
//!
//! A topic of a name is one life of it. All of a life goes through the client that created it, which knows the topic's id.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use jangada_check::call;
use jangada_client::{Client, ClientError, Isolation, NewTopic, ProducerConfig, TopicId};
use jangada_env::Random;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Instant, sleep};

use crate::play::stage::Stage;
use crate::roles::log::chance::Chance;
use crate::roles::log::outbox::Outbox;
use crate::roles::log::reading::Named;
use crate::roles::log::records::{Values, record};
use crate::roles::log::{finals, readers};
use crate::roles::team::{Finding, Team};

const DELIVERY: Duration = Duration::from_secs(4);
const PAUSE: Duration = Duration::from_millis(200);
/// Within so long every broker shows what was acknowledged.
const SHOWN_WITHIN: Duration = Duration::from_secs(30);
/// A setting that is altered, and its values.
const ALTERED: &str = "retention.bytes";

/// A topic that there is now.
#[derive(Clone, Debug)]
struct Life {
    topic: Named,
    partitions: u32,
    /// Partitions whose last read is done.
    read: BTreeSet<u32>,
    /// The value of the altered setting, as far as it was acknowledged.
    altered: Option<u64>,
}

/// By name: the topic that there is now, if there is one for certain.
type Lives = Rc<RefCell<BTreeMap<String, Life>>>;

struct Topics {
    names: usize,
    lives: Lives,
}

/// A team of topics that come and go.
pub fn topics(random: &Random) -> Box<dyn Team> {
    let names = Chance::of(random).index(2) + 1;
    Box::new(Topics {
        names,
        lives: Lives::default(),
    })
}

impl Team for Topics {
    fn prepare<'a>(&'a self, _: &'a Stage) -> LocalBoxFuture<'a, Result<(), Finding>> {
        async { Ok(()) }.boxed_local()
    }

    fn tasks(&self, stage: &Stage) -> Vec<LocalBoxFuture<'static, ()>> {
        let mut tasks = Vec::new();
        for number in 0..self.names {
            let keeper = Keeper {
                stage: stage.clone(),
                chance: Chance::of(&stage.random),
                name: stage.named(&format!("topic-{number}")),
                lives: self.lives.clone(),
                last: Cell::default(),
            };
            tasks.push(keeper.keep(number).boxed_local());
        }
        tasks
    }

    fn finish<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<(), Finding>> {
        let finishing = async move {
            let client = stage.connect("last").await;
            let lives = self.lives.borrow().clone();
            for (name, life) in lives {
                shows(stage, &client, &life).await?;
                if life.read.is_empty() {
                    finals::read_topic(stage, &client, &life.topic, life.partitions).await?;
                } else {
                    for partition in (0..life.partitions).filter(|partition| !life.read.contains(partition)) {
                        finals::read_whole(stage, &client, &life.topic, partition).await?;
                    }
                }
                stage.step(format!("deletes {name}"));
                deleted(&client, &name).await?;
            }
            Ok(())
        };
        finishing.boxed_local()
    }
}

/// Waits until a topic is shown with the partitions and the setting that were acknowledged.
async fn shows(stage: &Stage, client: &Client, life: &Life) -> Result<(), Finding> {
    let deadline = Instant::now() + SHOWN_WITHIN;
    let name = &life.topic.topic;
    stage.step(format!("looks at {name}"));
    loop {
        let why = match client.admin().describe_topic(name).await {
            Ok(described) => {
                let set = described.config.iter().find(|entry| entry.key == ALTERED);
                let value = set
                    .filter(|entry| entry.is_set)
                    .and_then(|entry| entry.value.parse().ok());
                let partitions = described.partitions.len();
                // What was not acknowledged may have come about.
                let is_grown = partitions >= life.partitions as usize;
                if is_grown && (life.altered.is_none() || value == life.altered) {
                    return Ok(());
                }
                format!("it has {partitions} partitions and {ALTERED} {value:?}, and is to be {life:?}")
            }
            Err(error) => error.to_string(),
        };
        if Instant::now() >= deadline {
            return Err(format!("{name} is not shown as it is: {why}"));
        }
        sleep(PAUSE).await;
    }
}

/// Deletes a topic, and waits until nobody knows it any more.
async fn deleted(client: &Client, name: &str) -> Result<(), Finding> {
    let deadline = Instant::now() + SHOWN_WITHIN;
    let mut why = String::new();
    while Instant::now() < deadline {
        match client.admin().delete_topic(name).await {
            Err(ClientError::UnknownTopic { .. }) => return Ok(()),
            Err(error) => why = error.to_string(),
            Ok(version) => why = format!("it was deleted in version {version}, and is still there"),
        }
        sleep(PAUSE).await;
    }
    Err(format!("{name} cannot be deleted: {why}"))
}

/// Who keeps a name: nobody else creates or deletes topics of it.
struct Keeper {
    stage: Stage,
    chance: Chance,
    name: String,
    lives: Lives,
    /// The topic of the name that was there last.
    last: Cell<Option<TopicId>>,
}

impl Keeper {
    async fn keep(self, number: usize) {
        let stage = &self.stage;
        let Some(client) = stage.until_over(stage.connect(&format!("keeper-{number}"))).await else {
            return;
        };
        let mut readers = Vec::new();
        for number in 1.. {
            if self.live(&client, number, &mut readers).await.is_none() {
                break;
            }
        }
        for reader in readers {
            // It ends with the stage, or with its topic.
            if reader.await.is_err() {
                stage.report("a reader of a topic has panicked");
            }
        }
    }

    /// One topic of the name, from its creation to its end. None: the stage is over.
    async fn live(&self, client: &Client, number: u64, readers: &mut Vec<JoinHandle<()>>) -> Option<()> {
        let stage = &self.stage;
        let life = self.create(client, number).await?;
        let mut reading = readers::reading(stage, &self.chance, client, life.topic.clone(), Isolation::Committed)?;
        if !readers::assign(&mut reading, life.partitions).await {
            return None;
        }
        readers.push(spawn_local(async move { readers::go_on(&mut reading).await }));
        self.write(client, &life.topic).await;
        if stage.is_over() {
            return None;
        }
        let life = self.known(|life| life.clone());
        for partition in 0..life.partitions {
            let read = stage.until_over(finals::read_whole(stage, client, &life.topic, partition));
            if read.await?.is_err() {
                // It is tried again when all faults are over.
                stage.over().await;
                return None;
            }
            self.known(|life| life.read.insert(partition));
        }
        self.delete(client).await
    }

    /// Reads or changes what is known of the topic that there is now.
    fn known<T>(&self, with: impl FnOnce(&mut Life) -> T) -> T {
        let mut lives = self.lives.borrow_mut();
        with(lives.get_mut(&self.name).expect("it lives"))
    }

    /// Creates the topic, and tries until it is there.
    async fn create(&self, client: &Client, number: u64) -> Option<Life> {
        let mut wanted = NewTopic::new(&self.name, self.chance.count(1..4), self.stage.replicas());
        // An attempt that nobody heard of may have created it.
        wanted.if_not_exists = true;
        let admin = client.admin();
        // As many as the attempt asked for that created it.
        let partitions = loop {
            match self.stage.until_over(admin.create_topic(wanted.clone())).await? {
                // A broker whose metadata is behind may still have the one before, whose deletion was acknowledged.
                Ok(created) if self.last.get() == Some(created.topic_id) => {
                    self.stage
                        .note(&format!("{}: the one that was deleted is said to be there", self.name));
                    self.stage.pause(PAUSE).await;
                }
                Ok(created) => {
                    self.last.set(Some(created.topic_id));
                    let partitions = created.partitions;
                    break partitions.expect("brokers of this version say how many there are");
                }
                Err(error) => {
                    self.stage.note(&format!("{} is not created yet: {error}", self.name));
                    self.stage.pause(PAUSE).await;
                }
            }
        };
        let life = Life {
            topic: Named {
                topic: self.name.clone(),
                life: format!("#{number}"),
            },
            partitions,
            read: BTreeSet::new(),
            altered: None,
        };
        self.lives.borrow_mut().insert(self.name.clone(), life.clone());
        Some(life)
    }

    /// Writes to the topic, alters it and gives it partitions, for a while.
    async fn write(&self, client: &Client, topic: &Named) {
        let (stage, chance) = (&self.stage, &self.chance);
        let config = ProducerConfig {
            delivery_timeout: DELIVERY,
            ..ProducerConfig::default()
        };
        let Some(mut outbox) = Outbox::of(stage, client, config) else {
            return;
        };
        let values = Values::new(format!("life{}", topic.life));
        let name: Rc<str> = topic.topic.as_str().into();
        for _ in 0..chance.between(5..40) {
            if stage.is_over() {
                break;
            }
            match chance.between(0..20) {
                0 => self.alter(client).await,
                1 => self.grow(client).await,
                _ => {}
            }
            let partitions = self.known(|life| life.partitions);
            let (partition, value) = (chance.count(0..partitions), values.next());
            let call = call::Send::new(&topic.place(partition), &*value);
            outbox.send(call, record(&name, partition, &value)).await;
            outbox.settle_to(4).await;
            outbox.pause(chance.ms(10..120)).await;
        }
        outbox.close().await;
    }

    /// Alters a setting, and tries until that is acknowledged.
    async fn alter(&self, client: &Client) {
        // Far more than there will be.
        let value = self.chance.between(100_000_000..200_000_000);
        self.known(|life| life.altered = None);
        let set = BTreeMap::from([(ALTERED.to_owned(), value.to_string())]);
        let admin = client.admin();
        while let Some(altered) = self
            .stage
            .until_over(admin.alter_topic(&self.name, set.clone(), Vec::new()))
            .await
        {
            match altered {
                Ok(_) => return self.known(|life| life.altered = Some(value)),
                Err(error) => self.expect_there(&error),
            }
            self.stage.pause(PAUSE).await;
        }
    }

    /// Gives the topic one more partition, and tries until that is acknowledged.
    async fn grow(&self, client: &Client) {
        let total = self.known(|life| life.partitions) + 1;
        let admin = client.admin();
        while let Some(grown) = self.stage.until_over(admin.create_partitions(&self.name, total)).await {
            match grown {
                Ok(_) => return self.known(|life| life.partitions = total),
                Err(error) => self.expect_there(&error),
            }
            self.stage.pause(PAUSE).await;
        }
    }

    /// A topic that was created and not deleted is there.
    fn expect_there(&self, error: &ClientError) {
        if matches!(error, ClientError::UnknownTopic { .. }) {
            self.stage.report(format!("{} was created, and {error}", self.name));
        }
    }

    /// Deletes the topic, and tries until it is gone.
    async fn delete(&self, client: &Client) -> Option<()> {
        self.lives.borrow_mut().remove(&self.name);
        let admin = client.admin();
        loop {
            match self.stage.until_over(admin.delete_topic(&self.name)).await? {
                Ok(_) | Err(ClientError::UnknownTopic { .. }) => return Some(()),
                Err(_) => self.stage.pause(PAUSE).await,
            }
        }
    }
}
