//! Exchanges with a log: a message is written once, and its queues are views over the log. It is in all of them or in none.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use jangada_check::note::{Note, QueueSettings};
use jangada_client::{ExchangeKind, ExchangeLog, NewExchange, NewQueue};
use jangada_env::Random;
use tokio::time::sleep;

use super::copies::bind;
use super::publishing::{Publishing, publish, rebind};
use super::routes::{Asks, Bound, Route, Routes, asks_of};
use crate::play::stage::Stage;
use crate::roles::queues::caller::Caller;
use crate::roles::queues::consuming::{self, Consuming};
use crate::roles::queues::draw::{millis, number, one_of, percent};
use crate::roles::queues::ending::{self, Ending};
use crate::roles::queues::plan::Habit;
use crate::roles::queues::team::until_done;
use crate::roles::team::{Finding, Team};

const EXCHANGE: &str = "logged";
/// Between two looks at the messages on their way.
const LOOK: Duration = Duration::from_millis(20);

/// See the module's text.
pub(super) struct LoggedTeam {
    kind: ExchangeKind,
    partitions: u32,
    views: u64,
    /// One more view is created during the work.
    adds_view: bool,
    publishers: u64,
    messages: u64,
    pause_ms: u64,
    shared: RefCell<Option<Rc<Publishing>>>,
    /// The view that is created during the work is there.
    is_added: Rc<Cell<bool>>,
}

fn view(name: &str, exchange: &str) -> NewQueue {
    let mut queue = NewQueue::over(name, exchange);
    let config = [
        ("queue.attempts.max", "none"),
        ("queue.retry.min.ms", "100"),
        ("queue.retry.max.ms", "1000"),
    ];
    queue.config = config.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    queue.if_not_exists = true;
    queue
}

impl LoggedTeam {
    /// A team whose exchange and sizes are drawn.
    pub fn draw(random: &Random) -> Self {
        let kind = one_of(
            random,
            &[ExchangeKind::Fanout, ExchangeKind::Fanout, ExchangeKind::Topic],
        );
        Self {
            kind,
            partitions: one_of(random, &[1, 1, 2]),
            views: number(random, 2..5),
            adds_view: kind == ExchangeKind::Fanout && percent(random, 40),
            publishers: number(random, 1..3),
            messages: number(random, 15..40),
            pause_ms: one_of(random, &[300, 900]),
            shared: RefCell::default(),
            is_added: Rc::default(),
        }
    }

    fn names(&self, stage: &Stage) -> Vec<String> {
        (0..self.views)
            .map(|number| stage.named(&format!("view-{number}")))
            .collect()
    }

    async fn make(&self, stage: &Stage) -> Result<(), Finding> {
        let caller = Caller::new(stage, "prepares").await;
        let admin = caller.client.admin();
        let mut exchange = NewExchange::new(stage.named(EXCHANGE), self.kind);
        exchange.log = Some(ExchangeLog {
            partitions: self.partitions,
            replicas: stage.replicas(),
            ..ExchangeLog::default()
        });
        exchange.if_not_exists = true;
        until_done(stage, "create an exchange", || admin.create_exchange(exchange.clone())).await?;
        let mut routes = Vec::new();
        for (at, name) in self.names(stage).into_iter().enumerate() {
            let view = view(&name, &stage.named(EXCHANGE));
            until_done(stage, "create a view", || admin.create_queue(view.clone())).await?;
            stage.recorder.note(None, Note::Queue(settings(&name)));
            let asks = match self.kind {
                ExchangeKind::Fanout => Asks::Nothing,
                _ => asks_of(self.kind)[at % 4].clone(),
            };
            if self.kind != ExchangeKind::Fanout {
                bind(stage, &caller, EXCHANGE, asks.to(&name)).await?;
            }
            routes.push(Route {
                queue: name,
                asks,
                bound: Bound::Yes,
            });
        }
        if self.adds_view {
            let name = stage.named("view-added");
            stage.recorder.note(None, Note::Queue(settings(&name)));
            routes.push(Route {
                queue: name,
                asks: Asks::Nothing,
                bound: Bound::No,
            });
        }
        let shared = Publishing {
            kind: self.kind,
            routes: Routes::new(routes, None),
            exchanges: vec![stage.named(EXCHANGE)],
            is_logged: true,
            mandatory: 0,
            in_doubt: false,
            sent: Cell::default(),
            messages: self.messages,
            pause_ms: self.pause_ms,
        };
        self.shared.replace(Some(Rc::new(shared)));
        Ok(())
    }

    async fn end(&self, stage: &Stage) -> Result<(), Finding> {
        let caller = Caller::new(stage, "ends").await;
        let admin = caller.client.admin();
        let mut names = self.names(stage);
        if self.is_added.get() {
            let name = stage.named("view-added");
            // What became of its creation may not be known.
            let view = view(&name, &stage.named(EXCHANGE));
            until_done(stage, "create a view", || admin.create_queue(view.clone())).await?;
            names.push(name);
        }
        let queues: Vec<Ending> = names.iter().map(|name| Ending::new(name, self.partitions)).collect();
        ending::drain(stage, &caller, &queues, |_, _| ()).await?;
        for of in &queues {
            ending::dump(stage, &caller.client, of).await?;
        }
        Ok(())
    }
}

fn settings(name: &str) -> QueueSettings {
    QueueSettings {
        queue: name.to_owned(),
        ..QueueSettings::default()
    }
}

impl Team for LoggedTeam {
    fn prepare<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<(), Finding>> {
        self.make(stage).boxed_local()
    }

    fn tasks(&self, stage: &Stage) -> Vec<LocalBoxFuture<'static, ()>> {
        let shared = self.shared.borrow().clone().expect("it was prepared");
        let mut tasks: Vec<LocalBoxFuture<'static, ()>> = Vec::new();
        for number in 0..self.publishers {
            tasks.push(publish(stage.clone(), shared.clone(), number).boxed_local());
        }
        if self.kind != ExchangeKind::Fanout {
            tasks.push(rebind(stage.clone(), shared.clone(), stage.named(EXCHANGE), 4_000).boxed_local());
        }
        if self.adds_view {
            tasks.push(add(stage.clone(), shared, self.is_added.clone()).boxed_local());
        }
        for (number, name) in self.names(stage).into_iter().enumerate() {
            let how = Consuming {
                queue: name,
                lease: Duration::from_secs(1),
                habits: vec![(Habit::Ack, 12), (Habit::Nack, 2), (Habit::Release, 1), (Habit::Die, 1)],
                partition: None,
            };
            let task = match number % 2 {
                0 => consuming::receive(stage.clone(), format!("of-{number}"), how).boxed_local(),
                _ => consuming::stream(stage.clone(), format!("of-{number}"), how).boxed_local(),
            };
            tasks.push(task);
        }
        tasks
    }

    fn finish<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<(), Finding>> {
        self.end(stage).boxed_local()
    }
}

/// Creates one more view, which gets what is published from then on.
async fn add(stage: Stage, shared: Rc<Publishing>, is_added: Rc<Cell<bool>>) {
    let random = stage.random.fork();
    let Some(caller) = stage.until_over(Caller::new(&stage, "adds")).await else {
        return;
    };
    stage.pause(millis(&random, 2_000..15_000)).await;
    if stage.is_over() {
        return;
    }
    let at = shared.routes.len() - 1;
    let name = shared.routes.get(at).queue;
    shared.routes.set(at, Bound::Perhaps);
    let mark = shared.routes.next_number();
    while shared.routes.waits_for(mark) {
        sleep(LOOK).await;
    }
    is_added.set(true);
    let view = view(&name, &stage.named(EXCHANGE));
    while !stage.is_over() {
        match stage.until_over(caller.client.admin().create_queue(view.clone())).await {
            None => return,
            Some(Ok(_)) => {
                if stage.until_over(stage.cluster.together()).await.is_some() {
                    shared.routes.set(at, Bound::Yes);
                }
                return;
            }
            Some(Err(error)) => stage.note(&format!("view {name} is not created: {error}")),
        }
        stage.pause(millis(&random, 100..500)).await;
    }
}
