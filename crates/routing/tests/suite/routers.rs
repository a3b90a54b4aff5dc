//! Ways through several exchanges.

use std::sync::Arc;

use jangada_routing::{
    CameBy, Destination, Exchange, ExchangeKind, Hop, Message, NoHeaders, RouteError, Router, Scratch,
};
use jangada_types::QueueId;
use proptest::prelude::*;

use crate::naive::{self, Published};
use crate::samples::{exchange, exchanges, headers, key, resolved, router, to_exchange, to_queue};

const DIRECT: ExchangeKind = ExchangeKind::Direct;
const FANOUT: ExchangeKind = ExchangeKind::Fanout;

fn with_alternate(exchange: Exchange, alternate: &str) -> Exchange {
    Exchange {
        alternate: Some(Arc::from(alternate)),
        ..exchange
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_096, ..ProptestConfig::default() })]

    /// Exchanges of all kinds that lead to each other in any way, with one scratch for all messages: the compiled tables, the trace and
    /// the naive one agree.
    #[test]
    fn tables_traces_and_the_naive_one_agree(
        exchanges in exchanges(), messages in prop::collection::vec((key(), headers()), 1..6),
    ) {
        let router = router(&exchanges);
        let mut scratch = Scratch::default();
        for (key, headers) in &messages {
            for begin in &exchanges {
                let expected = naive::queues(&exchanges, begin, &Published { key, headers });
                let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
                let message = Message { exchange: &begin.name, routing_key: key, headers: &headers[..] };
                prop_assert_eq!(router.resolve(&message, &mut scratch).unwrap(), &expected[..]);
                let trace = router.trace(&message).unwrap();
                prop_assert_eq!(&trace.queues, &expected);
                let passed: std::collections::BTreeSet<_> = trace.hops.iter().map(|hop| hop.exchange.id).collect();
                prop_assert_eq!(passed.len(), trace.hops.len(), "each exchange is passed once");
                for (number, hop) in trace.hops.iter().enumerate() {
                    prop_assert!(led_to(&trace.hops[..number], hop), "{:?} of {:?}", hop, trace);
                }
            }
        }
    }

    /// A router that was updated step by step is the one that is made at once.
    #[test]
    fn an_updated_router_is_a_new_one(before in exchanges(), after in exchanges(), keep in any::<u8>(), sent in key()) {
        // Some exchanges are the very ones of before, the others have the same ids and names.
        let are_enough = after.len() >= before.len();
        let is_kept = |at: usize| are_enough && at < before.len() && keep & (1 << at) != 0;
        let before: Vec<_> = before.iter().cloned().map(Arc::new).collect();
        let after: Vec<_> = after
            .into_iter()
            .enumerate()
            .map(|(at, exchange)| if is_kept(at) { Arc::clone(&before[at]) } else { Arc::new(exchange) })
            .collect();
        let updated = Router::default().updated(&before).updated(&after);
        let new = Router::default().updated(&after);
        for exchange in &after {
            prop_assert_eq!(resolved(&updated, &exchange.name, &sent, &[]), resolved(&new, &exchange.name, &sent, &[]));
        }
    }
}

/// Whether what a trace says of the way to an exchange is so, after the hops before.
fn led_to(before: &[Hop], hop: &Hop) -> bool {
    let to = Destination::Exchange(hop.exchange.id);
    match hop.came_by {
        CameBy::Published => before.is_empty(),
        CameBy::Binding(number) => before[number].matched.iter().any(|binding| binding.destination == to),
        CameBy::Alternate(number) => {
            let from = &before[number];
            from.matched.is_empty() && from.exchange.alternate.as_ref() == Some(&hop.exchange.name)
        }
    }
}

#[test]
fn a_binding_to_an_exchange_that_is_gone_is_none() {
    let router = router(&[
        with_alternate(exchange(1, "a", FANOUT, vec![to_exchange(9, "")]), "b"),
        exchange(2, "b", FANOUT, vec![to_queue(2, "")]),
    ]);
    assert_eq!(resolved(&router, "a", "", &[]), [2]);
    let message = Message {
        exchange: "a",
        routing_key: "",
        headers: &NoHeaders,
    };
    let hops = router.trace(&message).unwrap().hops;
    assert_eq!((hops[0].matched.len(), hops[1].came_by), (0, CameBy::Alternate(0)));
}

#[test]
fn a_table_is_kept_for_as_long_as_kind_and_bindings_are_the_same() {
    let direct = Arc::new(exchange(1, "e", DIRECT, vec![to_queue(1, "k"), to_queue(2, "l")]));
    // The very same bindings, which only another kind reads in another way.
    let fanout = Arc::new(Exchange {
        kind: FANOUT,
        ..Exchange::clone(&direct)
    });
    let bound_anew = Arc::new(Exchange {
        bindings: Arc::new([to_queue(3, "k")].into()),
        ..Exchange::clone(&direct)
    });
    let router = Router::default().updated([&direct]);
    for (then, expected) in [(&direct, &[1][..]), (&fanout, &[1, 2]), (&bound_anew, &[3])] {
        assert_eq!(resolved(&router.updated([then]), "e", "k", &[]), expected);
    }
}

#[test]
fn a_queue_that_several_ways_lead_to_gets_a_message_once() {
    let router = router(&[
        exchange(
            1,
            "a",
            DIRECT,
            vec![
                to_queue(9, "k"),
                to_queue(9, "other"),
                to_exchange(2, "k"),
                to_exchange(3, "k"),
            ],
        ),
        exchange(2, "b", FANOUT, vec![to_queue(9, ""), to_queue(8, "")]),
        exchange(3, "c", FANOUT, vec![to_queue(8, ""), to_queue(7, "")]),
    ]);
    assert_eq!(resolved(&router, "a", "k", &[]), [7, 8, 9]);
    assert_eq!(resolved(&router, "a", "other", &[]), [9]);
    assert_eq!(resolved(&router, "a", "none", &[]), []);
}

#[test]
fn exchanges_may_lead_to_each_other_in_a_circle() {
    let router = router(&[
        exchange(1, "a", FANOUT, vec![to_exchange(2, ""), to_exchange(1, "")]),
        exchange(2, "b", FANOUT, vec![to_exchange(1, ""), to_queue(5, "")]),
    ]);
    assert_eq!(resolved(&router, "a", "", &[]), [5]);
    assert_eq!(resolved(&router, "b", "", &[]), [5]);
}

#[test]
fn it_is_said_whether_a_message_came_to_an_alternate_exchange() {
    let router = router(&[
        with_alternate(exchange(1, "a", DIRECT, vec![to_queue(1, "k")]), "b"),
        exchange(2, "b", DIRECT, vec![to_queue(2, "l")]),
    ]);
    let mut scratch = Scratch::default();
    for (routing_key, by_alternate) in [("k", false), ("l", true), ("k", false), ("none", true)] {
        let message = Message {
            exchange: "a",
            routing_key,
            headers: &NoHeaders,
        };
        router.resolve(&message, &mut scratch).expect("it is there");
        assert_eq!(scratch.by_alternate(), by_alternate, "{routing_key}");
    }
}

#[test]
fn the_alternate_exchange_gets_what_matches_nothing_and_nothing_else() {
    let router = router(&[
        with_alternate(
            exchange(1, "a", DIRECT, vec![to_queue(1, "k"), to_exchange(4, "onward")]),
            "b",
        ),
        // What it has for the keys of the first one's bindings nobody is to get by way of it.
        with_alternate(
            exchange(2, "b", DIRECT, ["l", "k", "onward"].map(|key| to_queue(2, key)).into()),
            "c",
        ),
        // Alternate exchanges that lead back are not created; what is there all the same ends.
        with_alternate(exchange(3, "c", DIRECT, vec![to_queue(3, "m")]), "a"),
        with_alternate(exchange(4, "dead end", DIRECT, vec![]), "gone"),
    ]);
    assert_eq!(resolved(&router, "a", "k", &[]), [1]);
    assert_eq!(resolved(&router, "a", "l", &[]), [2]);
    assert_eq!(resolved(&router, "a", "m", &[]), [3]);
    assert_eq!(resolved(&router, "a", "n", &[]), []);
    assert_eq!(
        resolved(&router, "a", "onward", &[]),
        [],
        "a binding to an exchange that leads nowhere is a match"
    );

    let trace = |key| {
        let message = Message {
            exchange: "a",
            routing_key: key,
            headers: &NoHeaders,
        };
        router.trace(&message).unwrap()
    };
    let hops = trace("l").hops;
    let ways: Vec<_> = hops
        .iter()
        .map(|hop| (&*hop.exchange.name, hop.came_by, hop.matched.len()))
        .collect();
    assert_eq!(ways, [("a", CameBy::Published, 0), ("b", CameBy::Alternate(0), 1)]);
    assert_eq!(hops[1].matched, [to_queue(2, "l")]);
    let hops = trace("onward").hops;
    assert_eq!(
        (hops[1].came_by, hops[1].missing_alternate.as_deref()),
        (CameBy::Binding(0), Some("gone"))
    );
}

#[test]
fn what_takes_no_messages_says_so() {
    let internal = Exchange {
        is_internal: true,
        ..exchange(2, "inside", FANOUT, vec![to_queue(1, "")])
    };
    let router = router(&[exchange(1, "a", FANOUT, vec![to_exchange(2, "")]), internal]);
    let mut scratch = Scratch::default();
    let mut sent = |exchange| {
        let message = Message {
            exchange,
            routing_key: "",
            headers: &NoHeaders,
        };
        router.resolve(&message, &mut scratch).map(<[QueueId]>::to_vec)
    };
    assert_eq!(sent("a"), Ok(vec![QueueId(1)]));
    assert_eq!(sent("inside"), Err(RouteError::Internal));
    assert_eq!(sent("nowhere"), Err(RouteError::UnknownExchange));
    assert_eq!(
        sent(""),
        Err(RouteError::UnknownExchange),
        "the default exchange is for the caller"
    );
    let text = RouteError::UnknownExchange.rejection("nowhere").to_string();
    assert!(text.contains("there is no exchange \"nowhere\""), "{text}");
    assert_eq!((router.len(), router.is_empty()), (2, false));
    assert_eq!(
        router.exchange("inside").map(|exchange| exchange.is_internal),
        Some(true)
    );
}
