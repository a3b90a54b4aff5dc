//! A team of senders and consumers of one queue, with whoever administers it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{LocalBoxFuture, join_all};
use jangada_check::Call;
use jangada_check::note::{Note, PartitionSettings, QueueSettings};
use jangada_client::{
    CatchUp, ClientError, NewQueue, NewSchedule, NewTopic, QueueMessage, QueueProducerConfig, Redrive, ScheduleTiming,
};
use jangada_env::Random;
use tokio::time::sleep;

use super::caller::Caller;
use super::consuming::{self, Consuming};
use super::draw::{millis, number, percent};
use super::ending::{self, Ending};
use super::plan::{Letters, Plan};
use crate::play::stage::Stage;
use crate::roles::team::{Finding, Team};

/// What has no effect yet is tried for so long before the work begins.
const PREPARED_MAX: Duration = Duration::from_secs(45);
const PAUSE: Duration = Duration::from_millis(200);
/// A message is tried for so long.
const SEND_MAX: Duration = Duration::from_secs(8);
const QUORUM_MAX: Duration = Duration::from_secs(3);

/// Calls until it is done.
///
/// # Errors
/// It is not done within the bound.
pub(crate) async fn until_done<T, F>(stage: &Stage, what: &str, call: impl Fn() -> F) -> Result<T, Finding>
where
    F: Future<Output = Result<T, ClientError>>,
{
    let until = stage.sim.now() + PREPARED_MAX;
    loop {
        let error = match call().await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        stage.note(&format!("{what}: {error}"));
        if stage.sim.now() > until {
            return Err(format!("{what}: {error}"));
        }
        sleep(PAUSE).await;
    }
}

/// How messages are sent in a scenario.
pub(crate) fn producer_config() -> QueueProducerConfig {
    QueueProducerConfig {
        send_timeout: SEND_MAX,
        quorum_timeout: QUORUM_MAX,
        ..QueueProducerConfig::default()
    }
}

/// Creates a queue with these settings.
///
/// # Errors
/// It is not created within the bound.
pub(crate) async fn create(
    stage: &Stage,
    caller: &Caller,
    name: &str,
    partitions: u32,
    config: &BTreeMap<String, String>,
) -> Result<(), Finding> {
    let admin = caller.client.admin();
    let mut queue = NewQueue::new(name, partitions, stage.replicas());
    queue.config.clone_from(config);
    queue.if_not_exists = true;
    let what = format!("create queue {name}");
    until_done(stage, &what, || admin.create_queue(queue.clone())).await?;
    Ok(())
}

/// Creates a topic.
///
/// # Errors
/// It is not created within the bound.
pub(crate) async fn create_topic(stage: &Stage, caller: &Caller, name: &str, partitions: u32) -> Result<(), Finding> {
    let admin = caller.client.admin();
    let mut topic = NewTopic::new(name, partitions, stage.replicas());
    topic.if_not_exists = true;
    let what = format!("create topic {name}");
    until_done(stage, &what, || admin.create_topic(topic.clone())).await?;
    Ok(())
}

/// A team that works on one queue.
pub(crate) struct QueueTeam {
    plan: Rc<Plan>,
    /// Messages that were sent, so that each has a value of its own.
    sent: Rc<Cell<u64>>,
}

const QUEUE: &str = "q";
const LETTERS: &str = "letters";
const LAST: &str = "last";

impl QueueTeam {
    /// A team with this plan.
    pub fn new(plan: Plan) -> Self {
        Self {
            plan: Rc::new(plan),
            sent: Rc::default(),
        }
    }

    /// Whether dead letters go to a queue, and whether some go to a topic.
    fn targets(&self) -> (bool, bool) {
        match self.plan.letters {
            Letters::Stay => (false, false),
            Letters::Queue => (true, false),
            Letters::Topic => (false, true),
            Letters::QueueAndTopic => (true, true),
        }
    }

    async fn make(&self, stage: &Stage) -> Result<(), Finding> {
        let plan = &*self.plan;
        let caller = Caller::new(stage, "prepares").await;
        let (to_queue, to_topic) = self.targets();
        let (name, letters, last) = (stage.named(QUEUE), stage.named(LETTERS), stage.named(LAST));
        if to_topic {
            create_topic(stage, &caller, &last, 1).await?;
            let foreign = PartitionSettings {
                partition: format!("{last}/0"),
                foreign: true,
                ..PartitionSettings::default()
            };
            stage.recorder.note(None, Note::Partition(foreign));
        }
        if to_queue {
            let mut config = BTreeMap::from([
                ("queue.attempts.max".to_owned(), "2".to_owned()),
                ("queue.retry.min.ms".to_owned(), "100".to_owned()),
                ("queue.retry.max.ms".to_owned(), "500".to_owned()),
            ]);
            if to_topic {
                config.insert("queue.dead.letter.topic".to_owned(), last.clone());
            }
            create(stage, &caller, &letters, 1, &config).await?;
            let noted = QueueSettings {
                queue: letters.clone(),
                attempts_max: Some(2),
                dead_letters: to_topic.then(|| last.clone()),
                ..QueueSettings::default()
            };
            stage.recorder.note(None, Note::Queue(noted));
        }
        let target = match (to_queue, to_topic) {
            (true, _) => Some(letters),
            (false, true) => Some(last),
            (false, false) => None,
        };
        let mut config = plan.config.clone();
        if let Some(target) = &target {
            config.insert("queue.dead.letter.topic".to_owned(), target.clone());
        }
        create(stage, &caller, &name, plan.partitions, &config).await?;
        let noted = QueueSettings {
            queue: name.clone(),
            dead_letters: target,
            ..plan.noted.clone()
        };
        stage.recorder.note(None, Note::Queue(noted));
        let admin = caller.client.admin();
        for interval in &plan.schedules {
            let timing = ScheduleTiming::Every(Duration::from_millis(*interval));
            let schedule = format!("tick-{interval}");
            let mut schedule = NewSchedule::new(schedule, timing, QueueMessage::new("tick"));
            schedule.catch_up = CatchUp::All;
            until_done(stage, "put a schedule", || admin.put_schedule(&name, &schedule)).await?;
        }
        Ok(())
    }

    fn consuming(&self, stage: &Stage, queue: &str) -> Consuming {
        Consuming {
            queue: stage.named(queue),
            lease: self.plan.lease,
            habits: self.plan.habits.clone(),
            partition: self.plan.of_one_partition.then_some(0),
        }
    }

    async fn end(&self, stage: &Stage) -> Result<(), Finding> {
        let plan = &*self.plan;
        let caller = Caller::new(stage, "ends").await;
        let admin = caller.client.admin();
        let name = stage.named(QUEUE);
        stage.step("deletes schedules");
        for interval in &plan.schedules {
            let schedule = format!("tick-{interval}");
            let delete = async || match admin.delete_schedule(&name, &schedule).await {
                Err(error) if error.reason() == Some(jangada_client::Reason::UnknownSchedule) => Ok(()),
                deleted => deleted,
            };
            until_done(stage, "delete a schedule", delete).await?;
        }
        if plan.administers {
            until_done(stage, "resume the queue", || admin.pause_queue(&name, false)).await?;
        }
        let (to_queue, to_topic) = self.targets();
        let mut queues = vec![Ending {
            forwards: to_queue || to_topic,
            ..Ending::new(&name, plan.partitions)
        }];
        if to_queue {
            queues.push(Ending {
                forwards: to_topic,
                ..Ending::new(&stage.named(LETTERS), 1)
            });
        }
        ending::drain(stage, &caller, &queues, |_, _| ()).await?;
        for of in &queues {
            ending::dump(stage, &caller.client, of).await?;
        }
        if to_topic {
            ending::read(stage, &caller.client, &stage.named(LAST), 1).await?;
        }
        Ok(())
    }
}

impl Team for QueueTeam {
    fn prepare<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<(), Finding>> {
        self.make(stage).boxed_local()
    }

    fn tasks(&self, stage: &Stage) -> Vec<LocalBoxFuture<'static, ()>> {
        let plan = &self.plan;
        let mut tasks: Vec<LocalBoxFuture<'static, ()>> = Vec::new();
        for number in 0..plan.senders {
            tasks.push(send(stage.clone(), plan.clone(), self.sent.clone(), number).boxed_local());
        }
        for number in 0..plan.receivers {
            let how = self.consuming(stage, QUEUE);
            tasks.push(consuming::receive(stage.clone(), format!("receiver-{number}"), how).boxed_local());
        }
        for number in 0..plan.streams {
            let how = self.consuming(stage, QUEUE);
            tasks.push(consuming::stream(stage.clone(), format!("stream-{number}"), how).boxed_local());
        }
        if self.targets().0 {
            let how = Consuming {
                partition: None,
                ..self.consuming(stage, LETTERS)
            };
            tasks.push(consuming::receive(stage.clone(), "of-letters".to_owned(), how).boxed_local());
        }
        if plan.redrives {
            tasks.push(redrive(stage.clone()).boxed_local());
        }
        if plan.administers {
            let (stage, plan) = (stage.clone(), plan.clone());
            let administering = async move {
                stage
                    .until_over(administer(stage.clone(), plan))
                    .await
                    .unwrap_or_default()
            };
            tasks.push(administering.boxed_local());
        }
        tasks
    }

    fn finish<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<(), Finding>> {
        self.end(stage).boxed_local()
    }
}

/// Sends messages, some of them several times, and cancels some.
async fn send(stage: Stage, plan: Rc<Plan>, sent: Rc<Cell<u64>>, number: u64) {
    let random = stage.random.fork();
    let name = stage.named(QUEUE);
    let opened = async {
        let caller = Caller::new(&stage, &format!("sender-{number}")).await;
        loop {
            match caller.client.queue_producer(name.as_str(), producer_config()).await {
                Ok(producer) => return (caller, producer),
                Err(error) => stage.note(&format!("no producer: {error}")),
            }
            stage.pause(PAUSE).await;
        }
    };
    let Some((caller, producer)) = stage.until_over(opened).await else {
        return;
    };
    let queue = caller.client.queue(name.as_str());
    let by_content = plan.noted.dedup.is_some() && !plan.ids;
    let send = async |message: QueueMessage| {
        let value = super::caller::text(Some(&message.body));
        let mut recorded = caller.sending(&name, &message, plan.expires);
        if by_content {
            recorded.message_id = Some(value.clone());
        }
        let place = caller.send(&producer, message, recorded).await;
        (value, place)
    };
    let mut before: Vec<QueueMessage> = Vec::new();
    let mut left = plan.messages;
    while left > 0 && !stage.is_over() {
        let together = draw_together(&random).min(left);
        left -= together;
        let messages: Vec<QueueMessage> = (0..together)
            .map(|_| {
                sent.set(sent.get() + 1);
                plan.message(&sent.get().to_string(), &random)
            })
            .collect();
        if plan.again > 0 {
            before.extend(messages.iter().cloned());
        }
        let placed = join_all(messages.into_iter().map(&send)).await;
        for (value, place) in placed {
            if let Some(place) = place
                && percent(&random, plan.cancelled)
                && !stage.is_over()
            {
                caller.cancel(&queue, &value, place).await;
            }
        }
        if !before.is_empty() && percent(&random, plan.again) && !stage.is_over() {
            let at = before.len() - 1 - super::draw::number(&random, 0..before.len().min(10) as u64) as usize;
            send(before[at].clone()).await;
        }
        stage.pause(millis(&random, 0..plan.pause_ms)).await;
    }
}

/// How many messages are sent at the same time: mostly one.
fn draw_together(random: &Random) -> u64 {
    match percent(random, 75) {
        true => 1,
        false => number(random, 2..6),
    }
}

/// Redrives all dead letters, once.
async fn redrive(stage: Stage) {
    let random = stage.random.fork();
    stage.pause(millis(&random, 6_000..20_000)).await;
    if stage.is_over() {
        return;
    }
    let Some(caller) = stage.until_over(Caller::new(&stage, "redrives")).await else {
        return;
    };
    let name = stage.named(QUEUE);
    let admin = caller.client.admin();
    let all = async {
        let mut redriving = admin.redrive_dead(&name, Redrive::default()).await?;
        while let Some(step) = redriving.next().await {
            step?;
        }
        Ok(())
    };
    let call = Call::Redrive { queue: name.clone() };
    let done = stage.until_over(caller.does(call, all)).await;
    stage.note(&format!("redriven: {done:?}"));
}

/// Pauses the queue and lets it go on, changes a setting, and purges it, again and again.
async fn administer(stage: Stage, plan: Rc<Plan>) {
    let random = stage.random.fork();
    let Some(caller) = stage.until_over(Caller::new(&stage, "administers")).await else {
        return;
    };
    let name = stage.named(QUEUE);
    let admin = caller.client.admin();
    let mut purges = u32::from(plan.purges);
    loop {
        stage.pause(millis(&random, 500..4_000)).await;
        if stage.is_over() {
            return;
        }
        let done = match number(&random, 0..10) {
            0..3 => {
                let paused = admin.pause_queue(&name, true).await;
                stage.pause(millis(&random, 100..1_500)).await;
                let resumed = admin.pause_queue(&name, false).await;
                paused.and(resumed).map(drop)
            }
            3 if purges > 0 => {
                purges -= 1;
                let partition = number(&random, 0..u64::from(plan.partitions)) as u32;
                let call = Call::Purge { queue: name.clone() };
                caller.does(call, admin.purge_queue(&name, partition, None)).await;
                Ok(())
            }
            _ => {
                let most = number(&random, 600..3_000).to_string();
                let set = BTreeMap::from([("queue.retry.max.ms".to_owned(), most)]);
                admin.alter_queue(&name, set, Vec::new()).await.map(drop)
            }
        };
        if let Err(error) = done {
            stage.note(&format!("administers: {error}"));
        }
    }
}
