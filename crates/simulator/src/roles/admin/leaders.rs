//! An administrator who moves the leaders of everybody's partitions, those of a topic of its own among them.

use std::rc::Rc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use jangada_check::call;
use jangada_client::{BrokerId, Client, Isolation};
use jangada_env::Random;
use tokio::time::{Instant, sleep};

use crate::play::stage::Stage;
use crate::roles::log::chance::Chance;
use crate::roles::log::outbox::Outbox;
use crate::roles::log::reading::Named;
use crate::roles::log::records::{Values, create_topic, record};
use crate::roles::log::{finals, readers};
use crate::roles::team::{Finding, Team};

/// Within so long each partition has a leader, and all of its replicas are in sync.
const HEALTHY_WITHIN: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(300);

const DELIVERY: Duration = Duration::from_secs(5);
/// Of the topic of its own.
const PARTITIONS: u32 = 2;

struct Leaders {
    /// Between two moves at most, milliseconds.
    pause_ms: u64,
}

/// A team that moves leaders.
pub fn leaders(random: &Random) -> Box<dyn Team> {
    let pause_ms = Chance::of(random).one_of(&[500, 1_500, 5_000]);
    Box::new(Leaders { pause_ms })
}

fn topic(stage: &Stage) -> Named {
    Named::once(stage.named("log"))
}

impl Team for Leaders {
    fn prepare<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<(), Finding>> {
        async move { create_topic(stage, &topic(stage).topic, PARTITIONS, &[]).await }.boxed_local()
    }

    fn tasks(&self, stage: &Stage) -> Vec<LocalBoxFuture<'static, ()>> {
        let chance = || Chance::of(&stage.random);
        vec![
            transfer(stage.clone(), chance(), self.pause_ms).boxed_local(),
            write(stage.clone(), chance()).boxed_local(),
            readers::follow(stage, "follower", topic(stage), PARTITIONS, Isolation::Committed),
            readers::ask_ends(stage, "asker", topic(stage), PARTITIONS),
        ]
    }

    fn finish<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<(), Finding>> {
        let finishing = async move {
            let client = stage.connect("last").await;
            healthy(stage, &client).await?;
            let read = finals::read_topic(stage, &client, &topic(stage), PARTITIONS).await;
            read.map(drop)
        };
        finishing.boxed_local()
    }
}

async fn write(stage: Stage, chance: Chance) {
    let Some(mut outbox) = Outbox::connect(&stage, "writer", DELIVERY).await else {
        return;
    };
    let (values, topic) = (Values::new("m"), topic(&stage));
    let name: Rc<str> = topic.topic.as_str().into();
    while !stage.is_over() {
        let (partition, value) = (chance.count(0..PARTITIONS), values.next());
        let call = call::Send::new(&topic.place(partition), &*value);
        outbox.send(call, record(&name, partition, &value)).await;
        outbox.settle_to(8).await;
        outbox.pause(chance.ms(10..200)).await;
    }
    outbox.close().await;
}

async fn transfer(stage: Stage, chance: Chance, pause_ms: u64) {
    let Some(client) = stage.until_over(stage.connect("mover")).await else {
        return;
    };
    let admin = client.admin();
    while !stage.is_over() {
        stage.pause(chance.ms(100..pause_ms)).await;
        let Some(Ok(partitions)) = stage.until_over(admin.describe_partitions(None)).await else {
            continue;
        };
        if partitions.is_empty() {
            continue;
        }
        let state = &partitions[chance.index(partitions.len())];
        let to = chance.one_of(&state.replicas);
        // It may be dead, behind, or cut off: then the old one leads on, or another is elected.
        let moving = admin.transfer_leader(&state.topic, state.partition, to);
        if let Some(Ok(leader)) = stage.until_over(moving).await
            && leader.id != to
        {
            let (topic, partition) = (&state.topic, state.partition);
            stage.note(&format!(
                "{topic}/{partition} was to be led by {to}, and {} leads",
                leader.id
            ));
        }
    }
}

/// Waits until each partition of the cluster has a leader and all of its replicas.
async fn healthy(stage: &Stage, client: &Client) -> Result<(), Finding> {
    let admin = client.admin();
    stage.step("waits until all replicas are in sync");
    let deadline = Instant::now() + HEALTHY_WITHIN;
    loop {
        let why = match admin.describe_partitions(None).await {
            Ok(partitions) => {
                let is_ill = |ids: &[BrokerId], all: &[BrokerId]| ids.len() < all.len();
                let ill = partitions
                    .iter()
                    .find(|state| state.leader_id.is_none() || is_ill(&state.in_sync, &state.replicas));
                match ill {
                    None => return Ok(()),
                    Some(state) => format!("{state:?}"),
                }
            }
            Err(error) => error.to_string(),
        };
        if Instant::now() >= deadline {
            return Err(format!("after {HEALTHY_WITHIN:?} not all replicas are in sync: {why}"));
        }
        sleep(PAUSE).await;
    }
}
