//! Publishing to an exchange, and changing its bindings meanwhile.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use jangada_check::call::{Done, QueueSend};
use jangada_check::{Call, Pending, Reply};
use jangada_client::{ClientError, ExchangeKind, Publication, PublishedPlace, Publisher, PublisherConfig};
use tokio::time::sleep;

use super::routes::{Bound, Routes, Seen, Ways, messages_of};
use crate::play::stage::Stage;
use crate::roles::queues::caller::{Caller, failed, placed};
use crate::roles::queues::draw::{millis, number, one_of, percent};
use crate::roles::queues::team::producer_config;

/// How the names of taps begin, behind the team's.
pub(super) const TAP: &str = "tap-";
/// Between two looks at the messages on their way.
const LOOK: Duration = Duration::from_millis(20);

/// What publishers of a team share.
pub(super) struct Publishing {
    pub kind: ExchangeKind,
    pub routes: Routes,
    /// The exchange that is published to, or one that leads to it.
    pub exchanges: Vec<String>,
    /// The queues are views over the log of an exchange.
    pub is_logged: bool,
    /// Some messages are mandatory.
    pub mandatory: u64,
    /// All queues recognize repetitions, so that messages are published again when it is not known what became of them.
    pub in_doubt: bool,
    pub sent: Cell<u64>,
    pub messages: u64,
    pub pause_ms: u64,
}

/// A message on its way.
struct OnItsWay {
    value: String,
    ways: Ways,
    number: u64,
    /// To all that are certain at once.
    certain: Option<Pending>,
    /// To each that is not.
    perhaps: Vec<(String, Pending)>,
}

fn send_to(queue: &str, value: &str) -> Call {
    Call::QueueSend(QueueSend {
        queue: queue.to_owned(),
        value: value.into(),
        ..QueueSend::default()
    })
}

/// Publishes until all is published or the stage is over.
pub(super) async fn publish(stage: Stage, shared: Rc<Publishing>, number_of: u64) {
    let random = stage.random.fork();
    let Some(caller) = stage
        .until_over(Caller::new(&stage, &format!("publisher-{number_of}")))
        .await
    else {
        return;
    };
    let config = PublisherConfig {
        sending: producer_config(),
        publish_in_doubt: shared.in_doubt,
    };
    let publisher = match caller.client.publisher(config) {
        Ok(publisher) => publisher,
        Err(error) => return stage.report(format!("the settings of a publisher are refused: {error}")),
    };
    let seen = messages_of(shared.kind);
    let mut left = shared.messages;
    while left > 0 && !stage.is_over() {
        let together = if percent(&random, 75) { 1 } else { number(&random, 2..5) }.min(left);
        left -= together;
        let publishing = (0..together).map(|_| {
            let seen = &seen[number(&random, 0..seen.len() as u64) as usize];
            let exchange = one_of(&random, &shared.exchanges);
            let is_mandatory = percent(&random, shared.mandatory);
            let order_key = percent(&random, 30).then_some("in order");
            one(
                &caller,
                &shared,
                &publisher,
                (exchange, seen),
                (is_mandatory, order_key),
            )
        });
        futures::future::join_all(publishing).await;
        stage.pause(millis(&random, 0..shared.pause_ms)).await;
    }
}

/// Publishes one message.
async fn one(
    caller: &Caller,
    shared: &Publishing,
    publisher: &Publisher,
    (exchange, seen): (String, &Seen),
    (is_mandatory, order_key): (bool, Option<&'static str>),
) {
    shared.sent.set(shared.sent.get() + 1);
    let value = shared.sent.get().to_string();
    let (ways, number) = shared.routes.begin(seen);
    let certain = (!ways.certain.is_empty()).then(|| {
        caller.invoke(Call::Publish {
            exchange: exchange.clone(),
            value: value.as_str().into(),
            queues: ways.certain.iter().cloned().collect(),
        })
    });
    let perhaps = ways.perhaps.iter();
    let perhaps = perhaps.map(|queue| (queue.clone(), caller.invoke(send_to(queue, &value))));
    let on_its_way = OnItsWay {
        perhaps: perhaps.collect(),
        certain,
        number,
        ways,
        value,
    };
    let mut message = seen.message(&on_its_way.value);
    if shared.in_doubt {
        message = message.with_message_id(format!("id-{}", on_its_way.value));
    }
    let mut publication = Publication::new(exchange, seen.key, message);
    publication.is_mandatory = is_mandatory;
    if let Some(order_key) = order_key {
        publication = publication.with_order_key(order_key);
    }
    let outcome = publisher.publish(publication).await;
    ended(caller, shared, on_its_way, outcome);
}

fn ended(caller: &Caller, shared: &Publishing, message: OnItsWay, outcome: Result<Vec<PublishedPlace>, ClientError>) {
    let stage = &caller.stage;
    shared.routes.end(message.number);
    match outcome {
        Ok(places) => confirmed(caller, shared, message, &places),
        Err(error) => {
            if matches!(error, ClientError::Unroutable { .. }) && !message.ways.certain.is_empty() {
                let (value, certain) = (&message.value, &message.ways.certain);
                stage.report(format!(
                    "message {value:?} is unroutable, and {certain:?} are bound for it"
                ));
            }
            if !error.is_definite() || matches!(error, ClientError::Closed) {
                // It may be published still, by the bindings of then.
                for queue in shared.routes.queues() {
                    if !message.ways.certain.contains(&queue) && !message.ways.perhaps.contains(&queue) {
                        caller.may_have(send_to(&queue, &message.value));
                    }
                }
            }
            message.certain.into_iter().for_each(|pending| failed(pending, &error));
            for (_, pending) in message.perhaps {
                failed(pending, &error);
            }
            stage.note(&format!("publish: {error}"));
        }
    }
}

/// A message was confirmed with its places.
fn confirmed(caller: &Caller, shared: &Publishing, message: OnItsWay, places: &[PublishedPlace]) {
    let stage = &caller.stage;
    if let Some(pending) = message.certain {
        pending.ok(Reply::Done(Done {}));
    }
    if shared.is_logged {
        // One place stands for all queues, and does not say for which.
        message.perhaps.into_iter().for_each(|(_, pending)| pending.unknown());
        if places.is_empty() && !message.ways.certain.is_empty() {
            stage.report(format!(
                "message {:?} has no place, and is for {:?}",
                message.value, message.ways.certain
            ));
        }
        return;
    }
    let queues: BTreeSet<&str> = places.iter().map(|place| place.queue.as_str()).collect();
    let is_lacking = |queue: &&String| !queues.contains(queue.as_str());
    let lacking: Vec<&String> = message.ways.certain.iter().filter(is_lacking).collect();
    // What taps get is not judged: they come and go.
    let taps = stage.named(TAP);
    let is_wrong = |queue: &&&str| {
        let (queue, ways) = (**queue, &message.ways);
        !ways.certain.contains(queue) && !ways.perhaps.contains(queue) && !queue.starts_with(&taps)
    };
    let wrong: Vec<&&str> = queues.iter().filter(is_wrong).collect();
    if !lacking.is_empty() || !wrong.is_empty() {
        let (value, ways) = (&message.value, &message.ways);
        stage.report(format!("message {value:?} is in {queues:?}, and is for {ways:?}"));
    }
    for (queue, pending) in message.perhaps {
        match places.iter().find(|place| place.queue == queue) {
            Some(place) => pending.ok(placed(place.sent.place)),
            None => pending.fail(),
        }
    }
}

/// Binds and unbinds again and again, one binding at a time.
pub(super) async fn rebind(stage: Stage, shared: Rc<Publishing>, exchange: String, pause_ms: u64) {
    let random = stage.random.fork();
    let Some(caller) = stage.until_over(Caller::new(&stage, "binds")).await else {
        return;
    };
    let admin = caller.client.admin();
    while !stage.is_over() {
        stage.pause(millis(&random, pause_ms / 4..pause_ms)).await;
        let at = number(&random, 0..shared.routes.len() as u64) as usize;
        let route = shared.routes.get(at);
        let binds = match route.bound {
            Bound::Yes => false,
            Bound::No => true,
            Bound::Perhaps => percent(&random, 50),
        };
        shared.routes.set(at, Bound::Perhaps);
        let mark = shared.routes.next_number();
        while shared.routes.waits_for(mark) {
            sleep(LOOK).await;
        }
        if stage.is_over() {
            return;
        }
        let bindings = vec![route.asks.to(&route.queue)];
        let change = async {
            match binds {
                true => admin.bind(&exchange, bindings).await,
                false => admin.unbind(&exchange, bindings).await,
            }
        };
        match stage.until_over(change).await {
            None => return,
            Some(Ok(_)) => {
                let certain = if binds { Bound::Yes } else { Bound::No };
                match stage.until_over(stage.cluster.together()).await {
                    Some(()) => shared.routes.set(at, certain),
                    None => return,
                }
            }
            Some(Err(error)) => stage.note(&format!("bindings of {exchange} are not changed: {error}")),
        }
    }
}
