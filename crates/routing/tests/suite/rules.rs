//! What may not be, and in which words.

use std::sync::Arc;

use bytes::Bytes;
use jangada_routing::binding::judge_routing_key;
use jangada_routing::exchange::PREDECLARED;
use jangada_routing::{Binding, ExchangeKind, HeaderMatch, MatchMode, judge_binding, judge_exchange_name};
use jangada_types::Reason;
use jangada_types::limits::{BINDING_HEADERS_BYTES_MAX, BINDING_HEADERS_MAX, ROUTING_KEY_BYTES_MAX};

use crate::samples::{asking, to_queue};

#[test]
fn names_of_exchanges_have_the_rule_of_topics_and_leave_those_of_amqp_to_it() {
    let topic = ExchangeKind::Topic;
    for name in ["orders", "Orders.eu-1_v2", "amqp", "AMQ.mine"] {
        assert_eq!(judge_exchange_name(name, topic), Ok(()), "{name}");
    }
    for (name, word) in [
        ("", "always there"),
        ("a b", "letters, digits"),
        ("__x", "internal"),
        ("amq.mine", "belong to AMQP"),
        ("amq.", "belong to AMQP"),
        ("amq.direct", "that of a direct exchange"),
    ] {
        let rejection = judge_exchange_name(name, topic).unwrap_err();
        assert_eq!(rejection.reason, Reason::InvalidExchangeName);
        assert!(rejection.message.contains(word), "{name}: {rejection}");
    }
    for (name, kind) in PREDECLARED {
        assert_eq!(judge_exchange_name(name, kind), Ok(()), "{name}");
    }
    for kind in ExchangeKind::ALL {
        assert_eq!(ExchangeKind::parse(kind.as_str()), Some(kind));
    }
    assert_eq!(ExchangeKind::parse("x-delayed-message"), None);
}

fn refusal(kind: ExchangeKind, binding: &Binding) -> String {
    let rejection = judge_binding("orders", kind, binding).unwrap_err();
    assert_eq!(rejection.reason, Reason::InvalidBinding);
    rejection.message
}

#[test]
fn a_pattern_has_its_signs_as_whole_words() {
    let topic = ExchangeKind::Topic;
    for good in ["", "#", "*", "a.*.b.#", "..", "a-b_c", "ü.#"] {
        assert_eq!(judge_binding("orders", topic, &to_queue(1, good)), Ok(()), "{good}");
    }
    for (bad, word) in [
        ("a*", "\"a*\""),
        ("x.##", "\"##\""),
        ("a.b#c.*", "\"b#c\""),
        ("*#", "\"*#\""),
    ] {
        let text = refusal(topic, &to_queue(1, bad));
        assert!(text.contains(word) && text.contains("orders.*.paid"), "{text}");
    }
    // They are letters like others in the key of a direct exchange.
    assert_eq!(
        judge_binding("orders", ExchangeKind::Direct, &to_queue(1, "a*")),
        Ok(())
    );
}

#[test]
fn a_routing_key_has_the_length_of_amqps() {
    let longest = "é".repeat(ROUTING_KEY_BYTES_MAX / 2) + "x";
    assert_eq!(longest.len(), ROUTING_KEY_BYTES_MAX);
    assert_eq!(judge_routing_key(&longest), Ok(()));
    let text = refusal(ExchangeKind::Direct, &to_queue(1, &(longest + "y")));
    assert!(text.contains("256 bytes") && text.contains("255"), "{text}");
}

#[test]
fn headers_are_asked_for_at_headers_exchanges_only_and_within_bounds() {
    let headers = ExchangeKind::Headers;
    let (all, any) = (MatchMode::All, MatchMode::Any);
    let good = [
        asking(1, all, &[]),
        asking(1, any, &[("a", None)]),
        asking(1, MatchMode::AnyWithX, &[("x-a", Some("1"))]),
    ];
    for binding in good {
        assert_eq!(judge_binding("orders", headers, &binding), Ok(()));
        for kind in [ExchangeKind::Direct, ExchangeKind::Fanout, ExchangeKind::Topic] {
            let text = refusal(kind, &binding);
            assert!(text.contains("only bindings of headers exchanges"), "{text}");
        }
    }
    let many: Vec<String> = (0..=BINDING_HEADERS_MAX).map(|number| number.to_string()).collect();
    let many: Vec<_> = many.iter().map(|name| (name.as_str(), None)).collect();
    for (binding, word) in [
        (to_queue(1, ""), "say which headers"),
        (asking(1, all, &[("x-match", Some("all"))]), "give it as the mode"),
        (asking(1, any, &[]), "any of no headers"),
        (asking(1, any, &[("x-a", Some("1"))]), "any-with-x"),
        (asking(1, all, &many), "asks for 33 headers"),
    ] {
        let text = refusal(headers, &binding);
        assert!(text.contains(word), "{text}");
    }
    let sized = |bytes: usize| Binding {
        headers: Some(Arc::new(HeaderMatch {
            mode: all,
            headers: [(Arc::from("ab"), Some(Bytes::from(vec![7; bytes - 2])))].into(),
        })),
        ..to_queue(1, "key")
    };
    assert_eq!(
        judge_binding("orders", headers, &sized(BINDING_HEADERS_BYTES_MAX)),
        Ok(())
    );
    assert_eq!(sized(100).bytes(), 64 + 3 + 100);
    assert!(refusal(headers, &sized(BINDING_HEADERS_BYTES_MAX + 1)).contains("1025 bytes"));
    for mode in MatchMode::ALL {
        assert_eq!(MatchMode::parse(mode.as_str()), Some(mode));
    }
}
