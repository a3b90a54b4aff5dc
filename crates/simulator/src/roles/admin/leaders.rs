//! An administrator who moves the leaders of everybody's partitions, and asks all the time what there is.

use std::time::Duration;

use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use jangada_client::BrokerId;
use jangada_env::Random;
use tokio::time::{Instant, sleep};

use crate::play::stage::Stage;
use crate::roles::log::chance::Chance;
use crate::roles::team::{Finding, Team};

/// Within so long each partition has a leader, and all of its replicas are in sync.
const HEALTHY_WITHIN: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(300);

struct Leaders {
    /// Between two moves at most, milliseconds.
    pause_ms: u64,
}

/// A team that moves leaders.
pub fn leaders(random: &Random) -> Box<dyn Team> {
    let pause_ms = Chance::of(random).one_of(&[500, 1_500, 5_000]);
    Box::new(Leaders { pause_ms })
}

impl Team for Leaders {
    fn prepare<'a>(&'a self, _: &'a Stage) -> LocalBoxFuture<'a, Result<(), Finding>> {
        async { Ok(()) }.boxed_local()
    }

    fn tasks(&self, stage: &Stage) -> Vec<LocalBoxFuture<'static, ()>> {
        let chance = Chance::of(&stage.random);
        vec![transfer(stage.clone(), chance, self.pause_ms).boxed_local()]
    }

    fn finish<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<(), Finding>> {
        healthy(stage).boxed_local()
    }
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
async fn healthy(stage: &Stage) -> Result<(), Finding> {
    let admin = stage.connect("last").await.admin();
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
