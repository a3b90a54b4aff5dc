//! Exchanges that copy messages to queues with logs of their own.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use jangada_check::note::{Note, QueueSettings};
use jangada_client::{
    Binding, ClientError, ExchangeKind, HeaderMatch, MatchMode, NewExchange, NewQueue, QueueConsumerConfig,
};
use jangada_env::Random;
use tokio::time::timeout;

use super::publishing::{Publishing, TAP, publish, rebind};
use super::routes::{Bound, Route, Routes, asks_of};
use crate::play::stage::Stage;
use crate::roles::queues::caller::{Caller, nanos};
use crate::roles::queues::consuming::{self, Consuming};
use crate::roles::queues::draw::{millis, number, one_of, percent};
use crate::roles::queues::ending::{self, Ending};
use crate::roles::queues::plan::Habit;
use crate::roles::queues::team::{create, until_done};
use crate::roles::team::{Finding, Team};

const MAIN: &str = "main";
/// Leads to the main exchange, and nowhere else.
const HUB: &str = "hub";
/// Gets what matches nothing.
const OTHER: &str = "other";
const REST: &str = "rest";
/// An id is remembered for so long: longer than any run, and than clocks are set off.
const DEDUP_DAY: Duration = Duration::from_secs(86_400);
/// How long a tap lives, at most.
const TAP_MS: std::ops::Range<u64> = 1_000..6_000;

/// See the module's text.
pub(super) struct CopiesTeam {
    kind: ExchangeKind,
    queues: Vec<(&'static str, u32)>,
    has_hub: bool,
    has_alternate: bool,
    has_taps: bool,
    in_doubt: bool,
    mandatory: u64,
    publishers: u64,
    messages: u64,
    pause_ms: u64,
    /// How the bindings are at first.
    bound: Vec<bool>,
    shared: RefCell<Option<Rc<Publishing>>>,
}

impl CopiesTeam {
    /// A team whose exchange and sizes are drawn.
    pub fn draw(random: &Random) -> Self {
        let kinds = [
            ExchangeKind::Direct,
            ExchangeKind::Fanout,
            ExchangeKind::Topic,
            ExchangeKind::Headers,
        ];
        let mut queues = vec![("a", 1), ("b", 2), ("c", 1)];
        queues.truncate(number(random, 2..4) as usize);
        let has_taps = percent(random, 30);
        Self {
            kind: one_of(random, &kinds),
            queues,
            has_hub: percent(random, 40),
            // What a tap gets matches something.
            has_alternate: !has_taps && percent(random, 50),
            has_taps,
            in_doubt: percent(random, 30),
            mandatory: one_of(random, &[0, 50]),
            publishers: number(random, 1..3),
            messages: number(random, 15..40),
            pause_ms: one_of(random, &[300, 900]),
            bound: (0..4).map(|_| percent(random, 60)).collect(),
            shared: RefCell::default(),
        }
    }

    fn endings(&self, stage: &Stage) -> Vec<Ending> {
        let queues = self.queues.iter();
        let queues = queues.map(|(queue, partitions)| Ending::new(&stage.named(queue), *partitions));
        let rest = self.has_alternate.then(|| Ending::new(&stage.named(REST), 1));
        queues.chain(rest).collect()
    }

    async fn make(&self, stage: &Stage) -> Result<(), Finding> {
        let caller = Caller::new(stage, "prepares").await;
        let admin = caller.client.admin();
        let mut config = BTreeMap::from([("queue.attempts.max".to_owned(), "none".to_owned())]);
        let window = DEDUP_DAY.as_millis().to_string();
        if self.in_doubt {
            config.insert("queue.dedup".to_owned(), "id".to_owned());
            config.insert("queue.dedup.window.ms".to_owned(), window);
        }
        for of in self.endings(stage) {
            create(stage, &caller, &of.queue, of.partitions, &config).await?;
            let noted = QueueSettings {
                queue: of.queue,
                dedup: self.in_doubt.then(|| nanos(DEDUP_DAY)),
                ..QueueSettings::default()
            };
            stage.recorder.note(None, Note::Queue(noted));
        }
        let exchange = async |name: &str, kind, alternate: Option<&str>| {
            let mut exchange = NewExchange::new(stage.named(name), kind);
            exchange.alternate = alternate.map(|name| stage.named(name));
            exchange.if_not_exists = true;
            until_done(stage, "create an exchange", || admin.create_exchange(exchange.clone())).await
        };
        if self.has_alternate {
            exchange(OTHER, ExchangeKind::Fanout, None).await?;
            bind(stage, &caller, OTHER, Binding::to_queue(stage.named(REST))).await?;
        }
        exchange(MAIN, self.kind, self.has_alternate.then_some(OTHER)).await?;
        let mut exchanges = vec![stage.named(MAIN)];
        if self.has_hub {
            exchange(HUB, ExchangeKind::Fanout, None).await?;
            bind(stage, &caller, HUB, Binding::to_exchange(stage.named(MAIN))).await?;
            exchanges.push(stage.named(HUB));
        }
        let mut routes = Vec::new();
        for (at, asks) in asks_of(self.kind).into_iter().enumerate() {
            let queue = stage.named(self.queues[at % self.queues.len()].0);
            // A fanout exchange has one binding to each queue.
            if routes
                .iter()
                .any(|route: &Route| route.queue == queue && route.asks == asks)
            {
                continue;
            }
            let bound = if self.bound[at] { Bound::Yes } else { Bound::No };
            if bound == Bound::Yes {
                bind(stage, &caller, MAIN, asks.to(&queue)).await?;
            }
            routes.push(Route { queue, asks, bound });
        }
        let alternate = self.has_alternate.then(|| stage.named(REST));
        let shared = Publishing {
            kind: self.kind,
            routes: Routes::new(routes, alternate),
            exchanges,
            is_logged: false,
            mandatory: self.mandatory,
            in_doubt: self.in_doubt,
            sent: Cell::default(),
            messages: self.messages,
            pause_ms: self.pause_ms,
        };
        self.shared.replace(Some(Rc::new(shared)));
        Ok(())
    }

    async fn end(&self, stage: &Stage) -> Result<(), Finding> {
        let caller = Caller::new(stage, "ends").await;
        let queues = self.endings(stage);
        ending::drain(stage, &caller, &queues, |_, _| ()).await?;
        for of in &queues {
            ending::dump(stage, &caller.client, of).await?;
        }
        Ok(())
    }
}

impl Team for CopiesTeam {
    fn prepare<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<(), Finding>> {
        self.make(stage).boxed_local()
    }

    fn tasks(&self, stage: &Stage) -> Vec<LocalBoxFuture<'static, ()>> {
        let shared = self.shared.borrow().clone().expect("it was prepared");
        let mut tasks: Vec<LocalBoxFuture<'static, ()>> = Vec::new();
        for number in 0..self.publishers {
            tasks.push(publish(stage.clone(), shared.clone(), number).boxed_local());
        }
        tasks.push(rebind(stage.clone(), shared.clone(), stage.named(MAIN), 4_000).boxed_local());
        if self.has_taps {
            tasks.push(tap(stage.clone(), self.kind).boxed_local());
        }
        for of in self.endings(stage) {
            let how = Consuming {
                queue: of.queue.clone(),
                lease: Duration::from_secs(1),
                habits: vec![(Habit::Ack, 12), (Habit::Nack, 2), (Habit::Release, 1), (Habit::Die, 1)],
                partition: None,
            };
            tasks.push(consuming::receive(stage.clone(), format!("of-{}", of.queue), how).boxed_local());
        }
        tasks
    }

    fn finish<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<(), Finding>> {
        self.end(stage).boxed_local()
    }
}

/// Binds at one of the team's exchanges.
pub(super) async fn bind(stage: &Stage, caller: &Caller, exchange: &str, binding: Binding) -> Result<(), Finding> {
    let (admin, exchange) = (caller.client.admin(), stage.named(exchange));
    let what = format!("bind at {exchange}");
    until_done(stage, &what, || admin.bind(&exchange, vec![binding.clone()])).await?;
    Ok(())
}

/// Taps the exchange: queues that are bound for all, and deleted again. What they get is not recorded.
async fn tap(stage: Stage, kind: ExchangeKind) {
    let random = stage.random.fork();
    let Some(caller) = stage.until_over(Caller::new(&stage, "taps")).await else {
        return;
    };
    for number in 0.. {
        stage.pause(millis(&random, 500..4_000)).await;
        let name = stage.named(&format!("{TAP}{number}"));
        match stage.until_over(tap_once(&caller, &name, kind, &random)).await {
            None => return,
            Some(Ok(())) => {}
            Some(Err(error)) => stage.note(&format!("tap {name}: {error}")),
        }
    }
}

async fn tap_once(caller: &Caller, name: &str, kind: ExchangeKind, random: &Random) -> Result<(), ClientError> {
    let (stage, admin) = (&caller.stage, caller.client.admin());
    let mut queue = NewQueue::new(name, 1, stage.replicas());
    let config = [
        ("queue.max.messages", "10"),
        ("queue.overflow", "drop_oldest"),
        ("queue.attempts.max", "none"),
        ("queue.expires.ms", "60000"),
    ];
    queue.config = config.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    queue.if_not_exists = true;
    admin.create_queue(queue).await?;
    let binding = Binding::to_queue(name);
    let binding = match kind {
        ExchangeKind::Topic => binding.with_key("#"),
        ExchangeKind::Direct => binding.with_key("red"),
        ExchangeKind::Fanout => binding,
        ExchangeKind::Headers => binding.with_headers(HeaderMatch::new(MatchMode::All)),
    };
    admin.bind(&stage.named(MAIN), vec![binding]).await?;
    let mut consumer = caller
        .client
        .queue_consumer(name, QueueConsumerConfig::default())
        .await?;
    let until = stage.sim.now() + millis(random, TAP_MS);
    while stage.sim.now() < until {
        match timeout(Duration::from_millis(300), consumer.next()).await {
            Ok(Ok(delivery)) => drop(delivery.ack().await),
            Ok(Err(error)) if !error.is_retryable() => return Err(error),
            Ok(Err(_)) | Err(_) => {}
        }
    }
    drop(consumer);
    // Its bindings go with it.
    admin.delete_queue(name).await.map(drop)
}
