//! Each matcher against the naive one, and what AMQP says of cases that are easily got wrong.

use std::sync::Arc;

use jangada_routing::pattern::{self, words};
use jangada_routing::{ExchangeKind, MatchMode};
use proptest::prelude::*;

use crate::naive::{self, Published};
use crate::samples::{asking, exchange, header_match, headers, key, pattern, resolved, router, to_queue};

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_096, ..ProptestConfig::default() })]

    /// The one pattern by itself, as traces use it.
    #[test]
    fn a_pattern_matches_as_the_naive_one(pattern in pattern(), key in key()) {
        prop_assert_eq!(pattern::matches(&pattern, &key), naive::topic_matches(&pattern, &key));
    }

    #[test]
    fn a_topic_table_matches_as_the_naive_one(
        patterns in prop::collection::vec(pattern(), 0..24), keys in prop::collection::vec(key(), 1..8),
    ) {
        let bindings = (1..).zip(&patterns).map(|(queue, pattern)| to_queue(queue, pattern)).collect();
        let router = router(&[exchange(1, "e", ExchangeKind::Topic, bindings)]);
        for key in keys {
            let expected: Vec<u128> = (1..)
                .zip(&patterns)
                .filter(|(_, pattern)| naive::topic_matches(pattern, &key))
                .map(|(queue, _)| queue)
                .collect();
            prop_assert_eq!(resolved(&router, "e", &key, &[]), expected, "{} of {:?}", key, patterns);
        }
    }

    #[test]
    fn a_headers_table_matches_as_the_naive_one(
        asked in prop::collection::vec(header_match(), 0..24), messages in prop::collection::vec(headers(), 1..8),
    ) {
        let binding = |(queue, asked): (u128, &jangada_routing::HeaderMatch)| jangada_routing::Binding {
            headers: Some(Arc::new(asked.clone())),
            ..to_queue(queue, "")
        };
        let bindings = (1..).zip(&asked).map(binding).collect();
        let router = router(&[exchange(1, "e", ExchangeKind::Headers, bindings)]);
        for headers in messages {
            let expected: Vec<u128> = (1..)
                .zip(&asked)
                .filter(|(_, asked)| naive::headers_match(asked, &headers))
                .map(|(queue, _)| queue)
                .collect();
            prop_assert_eq!(resolved(&router, "e", "", &headers), expected, "{:?} of {:?}", headers, asked);
        }
    }

    #[test]
    fn a_direct_and_a_fanout_table_match_as_the_naive_one(keys in prop::collection::vec(key(), 0..12), sent in key()) {
        let message = Published { key: &sent, headers: &[] };
        for kind in [ExchangeKind::Direct, ExchangeKind::Fanout] {
            let bindings: Vec<_> = (1..).zip(&keys).map(|(queue, key)| to_queue(queue, key)).collect();
            let expected: Vec<u128> = (1..)
                .zip(&bindings)
                .filter(|(_, binding)| naive::matches(kind, binding, &message))
                .map(|(queue, _)| queue)
                .collect();
            let router = router(&[exchange(1, "e", kind, bindings)]);
            prop_assert_eq!(resolved(&router, "e", &sent, &[]), expected);
        }
    }
}

/// The cases in which implementations of AMQP's topics differ, with what RabbitMQ does.
#[test]
fn empty_words_are_words_and_an_empty_key_has_none() {
    assert_eq!(words("").count(), 0);
    assert_eq!(words(".").collect::<Vec<_>>(), ["", ""]);
    for (pattern, matching, others) in [
        ("", vec![""], vec!["a", "."]),
        ("#", vec!["", "a", ".", "a.b.c"], vec![]),
        ("#.#", vec!["", "a", "a.b"], vec![]),
        ("*", vec!["a"], vec!["", "a.b", "."]),
        ("*.#", vec!["a", "a.b", "."], vec![""]),
        ("#.*.#", vec!["a", ".."], vec![""]),
        ("*.*.*", vec!["a.b.c", ".."], vec!["a.b", "."]),
        ("a.#", vec!["a", "a.", "a.b.c"], vec!["", "ab", "b.a"]),
        ("a.#.b", vec!["a.b", "a.x.y.b", "a.b.b"], vec!["a", "b", "a.b.c"]),
        ("#.b.#", vec!["b", "a.b", "b.c", "a.b.c"], vec!["", "a.c"]),
        ("a.*", vec!["a.b", "a."], vec!["a", "a.b.c"]),
        ("a", vec!["a"], vec!["A", "a.", "aa"]),
    ] {
        let router = router(&[exchange(1, "e", ExchangeKind::Topic, vec![to_queue(1, pattern)])]);
        let judge = |key: &str| {
            let matches = resolved(&router, "e", key, &[]) == [1];
            assert_eq!(matches, pattern::matches(pattern, key), "{pattern:?} and {key:?}");
            matches
        };
        assert!(
            matching.iter().all(|key| judge(key)),
            "{pattern:?} is to match {matching:?}"
        );
        assert!(
            !others.iter().any(|key| judge(key)),
            "{pattern:?} is not to match {others:?}"
        );
    }
}

#[test]
fn headers_that_begin_with_x_count_only_where_they_are_meant() {
    let (all, any) = (MatchMode::All, MatchMode::Any);
    let (all_x, any_x) = (MatchMode::AllWithX, MatchMode::AnyWithX);
    let bindings = vec![
        asking(1, all, &[]),
        asking(2, all, &[("a", Some("1")), ("x-b", Some("2"))]),
        asking(3, all_x, &[("a", Some("1")), ("x-b", Some("2"))]),
        asking(4, any_x, &[("x-b", Some("2"))]),
        asking(5, any, &[("x-b", Some("2")), ("c", None)]),
        asking(6, all, &[("a", None)]),
        asking(7, all, &[("a", Some("2"))]),
    ];
    let router = router(&[exchange(1, "e", ExchangeKind::Headers, bindings)]);
    let sent = |headers: &[(&str, Option<&str>)]| {
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.map(|value| value.as_bytes().to_vec())))
            .collect();
        resolved(&router, "e", "any key", &headers)
    };
    assert_eq!(sent(&[]), [1]);
    assert_eq!(sent(&[("a", Some("1"))]), [1, 2, 6]);
    assert_eq!(sent(&[("a", None)]), [1, 6], "a name alone is asked for, and is there");
    assert_eq!(sent(&[("a", Some("1")), ("x-b", Some("2"))]), [1, 2, 3, 4, 6]);
    assert_eq!(sent(&[("c", Some("any"))]), [1, 5]);
    assert_eq!(
        sent(&[("a", Some("1")), ("a", Some("2"))]),
        [1, 2, 6, 7],
        "each value of a name counts"
    );
}
