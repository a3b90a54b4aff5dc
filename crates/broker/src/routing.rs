//! The router of the exchanges in this broker's metadata. It is compiled when it is needed first after exchanges or bindings have changed,
//! once for all who need it, and shared.

use std::sync::Arc;

use jangada_controller::{Exchanges, Image};
use jangada_routing::Router;
use parking_lot::RwLock;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::cluster::metadata::Metadata;
use crate::error::RequestError;
use crate::metrics::Metrics;
use crate::pool::Pool;

/// The metadata, and the router of the exchanges in them.
pub(crate) struct Routed {
    pub image: Arc<Image>,
    pub router: Arc<Router>,
}

/// Compiles routers, and has the newest.
pub(crate) struct Routers {
    metadata: Metadata,
    compute: Pool,
    metrics: Arc<Metrics>,
    newest: RwLock<Compiled>,
    /// Whoever holds it compiles.
    turn: Mutex<()>,
}

/// A router, and the exchanges that it was compiled from. They are kept so that no others can come to lie in their place.
#[derive(Default)]
struct Compiled {
    exchanges: Exchanges,
    router: Arc<Router>,
}

impl Routers {
    pub fn new(metadata: Metadata, compute: Pool, metrics: Arc<Metrics>) -> Self {
        Self {
            metadata,
            compute,
            metrics,
            newest: RwLock::default(),
            turn: Mutex::default(),
        }
    }

    /// The metadata as of now with their router. Waits while that is compiled, which takes some milliseconds for 10,000 bindings.
    ///
    /// # Errors
    /// INTERNAL: compiling has panicked.
    pub async fn routed(&self) -> Result<Routed, RequestError> {
        if let Some(routed) = self.compiled() {
            return Ok(routed);
        }
        let _turn = self.turn.lock().await;
        // Whoever had the turn before may have compiled it.
        if let Some(routed) = self.compiled() {
            return Ok(routed);
        }
        let image = self.metadata.image();
        let exchanges = image.exchange_table().clone();
        let before = self.newest.read().router.clone();
        let metrics = self.metrics.clone();
        let compile = move || {
            let began = Instant::now();
            let router = Arc::new(before.updated(exchanges.iter()));
            metrics.exchanges.compiled(began.elapsed());
            Compiled { exchanges, router }
        };
        let compiled = self.compute.run(compile).await?;
        let router = compiled.router.clone();
        *self.newest.write() = compiled;
        Ok(Routed { image, router })
    }

    /// The metadata as of now with their router, if it is compiled.
    fn compiled(&self) -> Option<Routed> {
        let image = self.metadata.image();
        let newest = self.newest.read();
        let is_compiled = newest.exchanges.is_same(image.exchange_table());
        is_compiled.then(|| Routed {
            router: newest.router.clone(),
            image,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use futures::future::join_all;
    use jangada_controller::{BrokerRegistration, Command, DirectoryId};
    use jangada_env::Env;
    use jangada_routing::ExchangeKind;
    use jangada_types::{BrokerId, ExchangeId, FEATURE_LEVEL, Incarnation};

    use super::*;
    use crate::listener::ConnectionMetrics;
    use crate::replica::Replicas;
    use crate::settings::MetricsSettings;
    use crate::testing::Alone;

    const TIMEOUT: Duration = Duration::from_secs(5);

    fn exchange(number: u128) -> Command {
        Command::CreateExchange {
            exchange_id: ExchangeId(number),
            name: format!("exchange-{number}"),
            exchange_kind: ExchangeKind::Fanout,
            alternate: None,
            is_internal: false,
            auto_delete: false,
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_router_is_compiled_once_for_all_who_need_it_and_again_when_exchanges_change() {
        let Alone { registry, .. } = Alone::start();
        let replicas = Replicas::new(registry.clone(), TIMEOUT);
        let metadata = Metadata::open(&replicas, &registry).await.expect("it is new");
        let alone = BTreeSet::from([registry.local_replica()]);
        metadata.hosted.group.initialize(&alone).await.expect("it is new");
        let mut status = metadata.hosted.group.watch();
        let ready = tokio::time::timeout(TIMEOUT, status.wait_for(|status| status.ready)).await;
        drop(ready.expect("it elects itself").expect("the group is open"));
        let seed = BrokerRegistration {
            id: BrokerId(1),
            incarnation: Incarnation(0),
            directory: DirectoryId::new([1; 16]),
            address: "127.0.0.1:1".to_owned(),
            internal_address: "127.0.0.1:2".to_owned(),
            rack: String::new(),
            feature_level: FEATURE_LEVEL,
        };
        let form = Command::FormCluster {
            cluster_id: "one".to_owned(),
            brokers: vec![seed.into()],
        };
        metadata.propose(&form).await.expect("it is formed");
        metadata.propose(&exchange(1)).await.expect("it is created");

        let metrics = Metrics::new(&ConnectionMetrics::default(), &MetricsSettings::default());
        let pool = Pool::new(1, Env::system().blocking);
        let routers = Routers::new((*metadata).clone(), pool, metrics);
        let all = join_all((0..8).map(|_| routers.routed())).await;
        let first = routers.routed().await.expect("it is compiled");
        for routed in all {
            assert!(Arc::ptr_eq(&routed.expect("it is compiled").router, &first.router));
        }
        assert!(first.router.exchange("exchange-1").is_some() && first.router.len() == 1);

        metadata.propose(&exchange(2)).await.expect("it is created");
        let next = routers.routed().await.expect("it is compiled");
        assert!(next.image.exchange_table().named("exchange-2").is_some());
        assert!(
            next.router.exchange("exchange-2").is_some(),
            "what the metadata have is routed by"
        );
        // What is no exchange has nothing to do with it.
        let version = next.image.version();
        let ids = Command::AllocateProducerIds { count: 10 };
        metadata.propose(&ids).await.expect("it is applied");
        let later = routers.routed().await.expect("it is there");
        assert!(later.image.version() > version && Arc::ptr_eq(&later.router, &next.router));
        registry.shutdown().await;
    }
}
