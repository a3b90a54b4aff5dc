//! Handles events by type, as a member of a consumer group.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use jangada_client::{Client, ConsumedRecord, Env};

use super::attributes::Attributes;
use super::event::{Envelope, Event};
use super::seen::SeenEvents;
use super::upcasters::Upcasters;
use crate::error::PatternError;
use crate::flow::{Failure, Flow, FlowConfig, FlowTally};

/// What becomes of an event whose type has no handler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unknown {
    /// It is passed over: others' events share the topic.
    #[default]
    Skip,
    /// It is a dead letter.
    DeadLetter,
}

/// How a subscriber reads and what it does with what fails.
#[derive(Clone)]
pub struct SubscriberConfig {
    /// The group, the concurrency, the attempts, the dead letters.
    pub flow: FlowConfig,
    /// What becomes of an event whose type has no handler. Default: it is passed over.
    pub unknown: Unknown,
    /// Which events are handled already. Default: none is remembered.
    pub seen: Option<Arc<dyn SeenEvents>>,
}

impl SubscriberConfig {
    /// Default settings, for a member of the group that reads these topics.
    pub fn new<I, S>(group: impl Into<String>, topics: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        Self {
            flow: FlowConfig::new(group, topics),
            unknown: Unknown::default(),
            seen: None,
        }
    }
}

/// A handler of one type, with the type away.
type Handler =
    Box<dyn Fn(Arc<ConsumedRecord>, Arc<Upcasters>) -> BoxFuture<'static, Result<(), Failure>> + Send + Sync>;

/// Handles events by type.
///
/// ```no_run
/// # use jangada_patterns::events::{Event, Subscriber, SubscriberConfig};
/// # use jangada_patterns::flow::Failure;
/// # #[derive(serde::Serialize, serde::Deserialize)]
/// # struct OrderPaid { order: String, cents: u64 }
/// # impl Event for OrderPaid {
/// #     const TYPE: &'static str = "shop.order.paid";
/// #     fn key(&self) -> String { self.order.clone() }
/// # }
/// # async fn ship(order: &str) -> Result<(), std::io::Error> { Ok(()) }
/// # async fn example(client: jangada_client::Client) -> Result<(), jangada_patterns::PatternError> {
/// let mut shipping = Subscriber::new(&client, SubscriberConfig::new("shipping", ["orders"]));
/// shipping.on(|paid: jangada_patterns::events::Envelope<OrderPaid>| async move {
///     ship(&paid.event.order).await.map_err(Failure::again)
/// });
/// shipping.run(async { tokio::signal::ctrl_c().await.ok(); }).await?;
/// # Ok(())
/// # }
/// ```
pub struct Subscriber {
    client: Client,
    config: SubscriberConfig,
    env: Env,
    handlers: BTreeMap<&'static str, Handler>,
    upcasters: Upcasters,
}

impl Subscriber {
    /// A subscriber without handlers as yet.
    pub fn new(client: &Client, config: SubscriberConfig) -> Self {
        Self {
            client: client.clone(),
            config,
            env: Env::system(),
            handlers: BTreeMap::new(),
            upcasters: Upcasters::default(),
        }
    }

    /// Sets where the chance of delays between attempts comes from.
    #[must_use]
    pub fn with_env(mut self, env: Env) -> Self {
        self.env = env;
        self
    }

    /// The upcasters of what is read, to add steps to.
    pub fn upcasters(&mut self) -> &mut Upcasters {
        &mut self.upcasters
    }

    /// Sets the handler of a type of events. One that was set before for the type is replaced.
    pub fn on<E, H, F>(&mut self, handler: H)
    where
        E: Event,
        H: Fn(Envelope<E>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let handler = Arc::new(handler);
        let of_type: Handler = Box::new(move |record, upcasters| {
            let handler = handler.clone();
            Box::pin(async move {
                let envelope = Envelope::of_record(&record, &upcasters).map_err(Failure::give_up)?;
                handler(envelope).await
            })
        });
        self.handlers.insert(E::TYPE, of_type);
    }

    /// Handles events until `stop` ends; what has begun is ended first.
    ///
    /// # Errors
    /// The errors of [`Flow::run`].
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<FlowTally, PatternError> {
        let Self {
            client,
            config,
            env,
            handlers,
            upcasters,
        } = self;
        let flow = Flow::start(&client, config.flow, env)?;
        let upcasters = Arc::new(upcasters);
        let (handlers, seen, unknown) = (&handlers, config.seen, config.unknown);
        let handle = |record: Arc<ConsumedRecord>| {
            let (seen, upcasters) = (seen.clone(), upcasters.clone());
            async move {
                let attributes = Attributes::of_headers(&record.headers).map_err(Failure::give_up)?;
                let Some(handler) = handlers.get(attributes.event_type.as_str()) else {
                    return match unknown {
                        Unknown::Skip => Ok(()),
                        Unknown::DeadLetter => Err(Failure::give_up(format!(
                            "nothing here handles {}",
                            attributes.event_type
                        ))),
                    };
                };
                let Some(seen) = seen else {
                    return handler(record, upcasters).await;
                };
                let name = name_of(&attributes.source, &attributes.id);
                if seen.is_seen(&name).await.map_err(Failure::again)? {
                    return Ok(());
                }
                handler(record, upcasters).await?;
                seen.note(&name).await.map_err(Failure::again)
            }
        };
        flow.run(stop, handle).await
    }
}

/// The name of an event among all, which no other source and id have: the first space that is not escaped parts them. A URI reference has
/// neither spaces nor backslashes.
fn name_of(source: &str, id: &str) -> String {
    let source = source.replace('\\', "\\\\").replace(' ', "\\ ");
    format!("{source} {id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_two_sources_never_have_one_name() {
        assert_eq!(name_of("/shop/tills/3", "7 8"), "/shop/tills/3 7 8");
        let parts = ["a", "a ", " a", "a b", "a\\", "a\\ b", "a\\\\", "b", " b", "\\ b", "\\"];
        let mut names = BTreeMap::new();
        for source in parts {
            for id in parts {
                let other = names.insert(name_of(source, id), (source, id));
                assert_eq!(other, None, "as {source:?} and {id:?}");
            }
        }
    }
}
