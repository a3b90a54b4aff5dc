//! What is bound at an exchange, as far as it is certain: which queues a message must come to, and to which it may come.
//!
//! While a binding changes nobody knows whether it counts. Whoever changes one marks it first, waits until all messages are published that
//! were on their way before, and only then calls a broker: so a message that is published meanwhile knows that it may go both ways.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

use jangada_client::{Binding, ExchangeKind, HeaderMatch, MatchMode, QueueMessage};

/// Whether a binding counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    Yes,
    No,
    /// It is changing, or it is not known how a change ended.
    Perhaps,
}

/// What a binding asks of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asks {
    /// Nothing: any message fits.
    Nothing,
    /// This routing key.
    Key(&'static str),
    /// A routing key like this.
    Pattern(&'static str),
    /// All of these headers, or one of them.
    Headers(MatchMode, &'static [(&'static str, &'static str)]),
}

/// A binding that is there at times.
#[derive(Clone, Debug)]
pub(super) struct Route {
    pub queue: String,
    pub asks: Asks,
    pub bound: Bound,
}

/// What of a message bindings see.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub key: &'static str,
    pub headers: &'static [(&'static str, &'static str)],
}

impl Seen {
    /// The message with this value.
    pub fn message(&self, value: &str) -> QueueMessage {
        let message = QueueMessage::new(value.to_owned());
        let with = |message: QueueMessage, (name, value): &(&'static str, &'static str)| {
            message.with_header(*name, value.as_bytes().to_vec())
        };
        self.headers.iter().fold(message, with)
    }
}

/// Routing keys and headers of messages of each kind of exchange.
pub(super) fn messages_of(kind: ExchangeKind) -> &'static [Seen] {
    const fn keyed(key: &'static str) -> Seen {
        Seen { key, headers: &[] }
    }
    const fn with(headers: &'static [(&'static str, &'static str)]) -> Seen {
        Seen { key: "", headers }
    }
    match kind {
        ExchangeKind::Direct => &const { [keyed("red"), keyed("green"), keyed("blue")] },
        ExchangeKind::Fanout => &const { [keyed(""), keyed("any")] },
        ExchangeKind::Topic => {
            &const {
                [
                    keyed("eu.paid"),
                    keyed("eu.open"),
                    keyed("us.paid"),
                    keyed("us.north.open"),
                ]
            }
        }
        ExchangeKind::Headers => {
            &const {
                [
                    with(&[("region", "north"), ("kind", "paid")]),
                    with(&[("region", "south")]),
                    with(&[("kind", "paid")]),
                    with(&[("x", "y")]),
                ]
            }
        }
    }
}

/// What bindings of each kind of exchange ask for, one after another.
pub(super) fn asks_of(kind: ExchangeKind) -> Vec<Asks> {
    match kind {
        ExchangeKind::Direct => ["red", "green", "red", "blue"].map(Asks::Key).to_vec(),
        ExchangeKind::Fanout => vec![Asks::Nothing; 4],
        ExchangeKind::Topic => ["eu.*", "#.paid", "us.#", "*.*.open"].map(Asks::Pattern).to_vec(),
        ExchangeKind::Headers => vec![
            Asks::Headers(MatchMode::All, &[("region", "north"), ("kind", "paid")]),
            Asks::Headers(MatchMode::Any, &[("region", "south"), ("kind", "paid")]),
            Asks::Headers(MatchMode::All, &[("kind", "paid")]),
            Asks::Headers(MatchMode::Any, &[("region", "north")]),
        ],
    }
}

fn fits(pattern: &[&str], key: &[&str]) -> bool {
    match (pattern, key) {
        ([], []) => true,
        (["#", rest @ ..], _) => (0..=key.len()).any(|from| fits(rest, &key[from..])),
        ([word, pattern @ ..], [first, key @ ..]) => (*word == "*" || word == first) && fits(pattern, key),
        _ => false,
    }
}

impl Asks {
    fn matches(&self, message: &Seen) -> bool {
        match self {
            Self::Nothing => true,
            Self::Key(key) => *key == message.key,
            Self::Pattern(pattern) => {
                let words = |text: &'static str| text.split('.').collect::<Vec<_>>();
                fits(&words(pattern), &words(message.key))
            }
            Self::Headers(MatchMode::All, asked) => asked.iter().all(|header| message.headers.contains(header)),
            Self::Headers(_, asked) => asked.iter().any(|header| message.headers.contains(header)),
        }
    }

    /// The binding to a queue.
    pub fn to(&self, queue: &str) -> Binding {
        let binding = Binding::to_queue(queue);
        match self {
            Self::Nothing => binding,
            Self::Key(key) | Self::Pattern(key) => binding.with_key(*key),
            Self::Headers(mode, asked) => {
                let asks = |asks: HeaderMatch, (name, value): &(&'static str, &'static str)| {
                    asks.with_header(*name, value.as_bytes().to_vec())
                };
                binding.with_headers(asked.iter().fold(HeaderMatch::new(*mode), asks))
            }
        }
    }
}

/// Where a message goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ways {
    /// To these queues for certain.
    pub certain: BTreeSet<String>,
    /// Perhaps to these.
    pub perhaps: BTreeSet<String>,
}

/// The bindings of one exchange, with the messages on their way.
#[derive(Debug, Default)]
pub(super) struct Routes {
    routes: RefCell<Vec<Route>>,
    /// The queue that gets what matches nothing, if there is one.
    alternate: Option<String>,
    on_their_way: RefCell<BTreeSet<u64>>,
    next: Cell<u64>,
}

impl Routes {
    /// Bindings, and the queue that gets what matches none of them.
    pub fn new(routes: Vec<Route>, alternate: Option<String>) -> Self {
        Self {
            routes: RefCell::new(routes),
            alternate,
            ..Self::default()
        }
    }

    /// Where a message goes that is published now, and the number by which its end is told.
    pub fn begin(&self, message: &Seen) -> (Ways, u64) {
        let number = self.next.get();
        self.next.set(number + 1);
        self.on_their_way.borrow_mut().insert(number);
        (self.ways(message), number)
    }

    fn ways(&self, message: &Seen) -> Ways {
        let mut ways = Ways::default();
        let routes = self.routes.borrow();
        for route in routes.iter().filter(|route| route.asks.matches(message)) {
            match route.bound {
                Bound::Yes => drop(ways.certain.insert(route.queue.clone())),
                Bound::Perhaps => drop(ways.perhaps.insert(route.queue.clone())),
                Bound::No => {}
            }
        }
        ways.perhaps.retain(|queue| !ways.certain.contains(queue));
        if let (true, Some(alternate)) = (ways.certain.is_empty(), &self.alternate) {
            match ways.perhaps.is_empty() {
                true => ways.certain.insert(alternate.clone()),
                false => ways.perhaps.insert(alternate.clone()),
            };
        }
        ways
    }

    /// It is known what became of a message, or nobody waits for that any more.
    pub fn end(&self, number: u64) {
        self.on_their_way.borrow_mut().remove(&number);
    }

    /// Whether any message is on its way that was published before this number.
    pub fn waits_for(&self, number: u64) -> bool {
        let on_their_way = self.on_their_way.borrow();
        on_their_way.first().is_some_and(|first| *first < number)
    }

    /// The number of the next message.
    pub fn next_number(&self) -> u64 {
        self.next.get()
    }

    /// All queues that messages may ever come to.
    pub fn queues(&self) -> BTreeSet<String> {
        let routes = self.routes.borrow();
        let queues = routes.iter().map(|route| route.queue.clone());
        queues.chain(self.alternate.clone()).collect()
    }

    /// How many bindings there are.
    pub fn len(&self) -> usize {
        self.routes.borrow().len()
    }

    /// One of the bindings.
    pub fn get(&self, at: usize) -> Route {
        self.routes.borrow()[at].clone()
    }

    /// Says whether a binding counts.
    pub fn set(&self, at: usize, bound: Bound) {
        self.routes.borrow_mut()[at].bound = bound;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_as_they_do_at_a_topic_exchange() {
        let words = |text: &'static str| text.split('.').collect::<Vec<_>>();
        for (pattern, key, expected) in [
            ("eu.*", "eu.paid", true),
            ("eu.*", "eu", false),
            ("#.paid", "paid", true),
            ("#.paid", "us.north.paid", true),
            ("us.#", "us", true),
            ("*.*.open", "us.open", false),
        ] {
            assert_eq!(fits(&words(pattern), &words(key)), expected, "{pattern} {key}");
        }
    }

    #[test]
    fn a_message_goes_both_ways_while_a_binding_changes() {
        let route = |queue: &str, bound| Route {
            queue: queue.to_owned(),
            asks: Asks::Nothing,
            bound,
        };
        let routes = vec![
            route("a", Bound::Yes),
            route("b", Bound::Perhaps),
            route("c", Bound::No),
        ];
        let routes = Routes::new(routes, Some("rest".to_owned()));
        let message = &messages_of(ExchangeKind::Fanout)[0];
        let (ways, number) = routes.begin(message);
        assert_eq!((ways.certain.len(), ways.perhaps.len()), (1, 1), "{ways:?}");
        assert!(routes.waits_for(routes.next_number()));
        routes.end(number);
        assert!(!routes.waits_for(routes.next_number()));
        routes.set(0, Bound::No);
        let (ways, _) = routes.begin(message);
        assert_eq!((ways.certain.len(), ways.perhaps.len()), (0, 2), "{ways:?}");
        routes.set(1, Bound::No);
        let (ways, _) = routes.begin(message);
        assert_eq!(ways.certain.into_iter().collect::<Vec<_>>(), ["rest"]);
    }
}
