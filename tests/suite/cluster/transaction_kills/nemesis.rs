//! What goes wrong beside the processes of brokers and their connections: leaders move, and logs begin later.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jangada_client::{BrokerId, Client};
use tokio::task::JoinHandle;

use super::ledger::{Place, World, is_compacted, partition_of, places};

/// Offsets behind what all readers have read that a purge leaves.
const LEFT: i64 = 20;

/// Begins, and goes on until the world is over.
pub fn start(client: Client, world: Arc<World>) -> JoinHandle<()> {
    tokio::spawn(async move {
        while !world.is_over() {
            // The moment is chance, as that of a kill.
            tokio::time::sleep(Duration::from_millis(rand::random_range(100..800))).await;
            let (done, count) = match rand::random_bool(0.5) {
                true => (transfer(&client).await, &world.transfers),
                false => (purge(&client, &world).await, &world.purges),
            };
            count.fetch_add(u32::from(done), Ordering::Relaxed);
        }
    })
}

/// Whether the leadership of some partition was moved.
async fn transfer(client: &Client) -> bool {
    let (topic, partition) = partition_of(any(|_| true));
    let to = BrokerId::from(rand::random_range(1..=3_u32));
    client.admin().transfer_leader(topic, partition, to).await.is_ok()
}

/// Whether what lies behind all readers was taken from some partition.
async fn purge(client: &Client, world: &World) -> bool {
    let place = any(|place| !is_compacted(place));
    let before = world.read_by_all(place) - LEFT;
    let (topic, partition) = partition_of(place);
    before > 0 && client.admin().trim(topic, partition, Some(before)).await.is_ok()
}

fn any(is_meant: impl Fn(Place) -> bool) -> Place {
    let meant: Vec<Place> = places().filter(|place| is_meant(*place)).collect();
    meant[rand::random_range(0..meant.len())]
}
