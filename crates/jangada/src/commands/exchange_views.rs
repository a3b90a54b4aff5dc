//! Tables and JSON of exchanges, bindings and traces. Field names are those of `exchange.proto`.

use jangada_client::{
    Binding, BindingDestination, CameBy, ExchangeDescription, ExchangeSummary, MessageTrace, TraceHop,
};
use serde_json::{Value, json};

use crate::output::{Show, or_dash, plain_table};

/// The view of `exchange ls`.
pub struct Exchanges(pub Vec<ExchangeSummary>);

impl Show for Exchanges {
    fn table(&self) -> String {
        exchanges_table(&self.0)
    }

    fn json(&self) -> Value {
        self.0.iter().map(exchange_json).collect()
    }
}

fn yes_or_no(is_so: bool) -> String {
    if is_so { "yes" } else { "no" }.to_owned()
}

fn exchanges_table(exchanges: &[ExchangeSummary]) -> String {
    let rows = exchanges.iter().map(|exchange| {
        [
            exchange.name.clone(),
            exchange.kind.as_str().to_owned(),
            exchange.bindings.to_string(),
            or_dash(exchange.alternate.as_ref()),
            yes_or_no(exchange.is_internal),
            yes_or_no(exchange.auto_delete),
            exchange.exchange_id.to_string(),
        ]
    });
    let header = [
        "name",
        "type",
        "bindings",
        "alternate",
        "internal",
        "auto_delete",
        "exchange_id",
    ];
    plain_table(header, rows)
}

fn exchange_json(exchange: &ExchangeSummary) -> Value {
    json!({
        "name": exchange.name,
        "exchange_id": exchange.exchange_id.to_string(),
        "type": exchange.kind.as_str(),
        "alternate": exchange.alternate,
        "internal": exchange.is_internal,
        "auto_delete": exchange.auto_delete,
        "bindings": exchange.bindings,
    })
}

/// The view of `exchange describe`.
pub struct Exchange(pub ExchangeDescription);

impl Show for Exchange {
    fn table(&self) -> String {
        let head = exchanges_table(std::slice::from_ref(&self.0.exchange));
        let rows = self.0.bindings.iter().map(|binding| {
            let (kind, name) = destination(binding);
            [
                kind.to_owned(),
                name.to_owned(),
                binding.routing_key.clone(),
                asked(binding),
            ]
        });
        let bindings = plain_table(["to", "name", "routing_key", "headers"], rows);
        match self.0.bound_from.is_empty() {
            true => format!("{head}\n{bindings}"),
            false => {
                let rows = self.0.bound_from.iter().map(|name| [name.clone()]);
                format!("{head}\n{bindings}\n{}", plain_table(["bound_from"], rows))
            }
        }
    }

    fn json(&self) -> Value {
        json!({
            "exchange": exchange_json(&self.0.exchange),
            "bindings": self.0.bindings.iter().map(binding_json).collect::<Value>(),
            "bound_from": self.0.bound_from,
        })
    }
}

fn destination(binding: &Binding) -> (&'static str, &str) {
    match &binding.destination {
        BindingDestination::Queue(name) => ("queue", name),
        BindingDestination::Exchange(name) => ("exchange", name),
    }
}

/// What a binding asks of headers, for people: `all: region=north, customer`.
fn asked(binding: &Binding) -> String {
    let Some(asked) = &binding.headers else {
        return "-".to_owned();
    };
    let header = |header: &jangada_client::Header| match &header.value {
        Some(value) => format!("{}={}", header.key, String::from_utf8_lossy(value)),
        None => header.key.clone(),
    };
    let headers: Vec<String> = asked.headers.iter().map(header).collect();
    format!("{}: {}", asked.mode.as_str(), headers.join(", "))
        .trim_end()
        .to_owned()
}

fn binding_json(binding: &Binding) -> Value {
    let (kind, name) = destination(binding);
    let headers = binding.headers.as_ref().map(|asked| {
        let header = |header: &jangada_client::Header| {
            let value = header.value.as_deref().map(String::from_utf8_lossy);
            json!({ "key": header.key, "value": value })
        };
        json!({
            "mode": asked.mode.as_str(),
            "headers": asked.headers.iter().map(header).collect::<Value>(),
        })
    });
    json!({ kind: name, "routing_key": binding.routing_key, "headers": headers })
}

/// The view of `exchange trace`.
pub struct Traced(pub MessageTrace);

impl Show for Traced {
    fn table(&self) -> String {
        let rows = (0..).zip(&self.0.hops).flat_map(|(number, hop)| rows_of(number, hop));
        let hops = plain_table(["hop", "exchange", "type", "came_by", "matched"], rows);
        let queues = plain_table(["queue"], self.0.queues.iter().map(|queue| [queue.clone()]));
        format!("{hops}\n{queues}")
    }

    fn json(&self) -> Value {
        let hop = |hop: &TraceHop| {
            let (binding_of, alternate_of) = match hop.came_by {
                CameBy::Published => (None, None),
                CameBy::BindingOf(number) => (Some(number), None),
                CameBy::AlternateOf(number) => (None, Some(number)),
            };
            json!({
                "exchange": hop.exchange,
                "type": hop.kind.as_str(),
                "binding_of": binding_of,
                "alternate_of": alternate_of,
                "matched": hop.matched.iter().map(binding_json).collect::<Value>(),
                "matched_count": hop.matched_count,
                "missing_alternate": hop.missing_alternate,
            })
        };
        json!({
            "hops": self.0.hops.iter().map(hop).collect::<Value>(),
            "queues": self.0.queues,
        })
    }
}

/// The rows of a hop: one for each binding that matches, of which the first has the rest, too.
fn rows_of(number: u32, hop: &TraceHop) -> Vec<[String; 5]> {
    let came_by = match hop.came_by {
        CameBy::Published => "published".to_owned(),
        CameBy::BindingOf(number) => format!("binding of {number}"),
        CameBy::AlternateOf(number) => format!("alternate of {number}"),
    };
    let name = match hop.exchange.is_empty() {
        true => "(default)".to_owned(),
        false => hop.exchange.clone(),
    };
    let mut matched: Vec<String> = hop.matched.iter().map(matched).collect();
    let left_out = (hop.matched_count as usize).saturating_sub(matched.len());
    if left_out > 0 {
        matched.push(format!("and {left_out} more"));
    }
    if let Some(missing) = &hop.missing_alternate {
        matched.push(format!("none, and alternate exchange {missing} is not there"));
    }
    if matched.is_empty() {
        matched.push("none".to_owned());
    }
    let mut head = Some([number.to_string(), name, hop.kind.as_str().to_owned(), came_by]);
    let row = |matched| {
        let [number, name, kind, came_by] = head.take().unwrap_or_default();
        [number, name, kind, came_by, matched]
    };
    matched.into_iter().map(row).collect()
}

/// A binding in a few words: `queue billing by orders.*.paid`.
fn matched(binding: &Binding) -> String {
    let (kind, name) = destination(binding);
    match (&binding.headers, binding.routing_key.is_empty()) {
        (Some(_), _) => format!("{kind} {name} by {}", asked(binding)),
        (None, true) => format!("{kind} {name}"),
        (None, false) => format!("{kind} {name} by {}", binding.routing_key),
    }
}

#[cfg(test)]
mod tests {
    use jangada_client::{ExchangeKind, HeaderMatch, MatchMode};

    use super::*;

    #[test]
    fn a_trace_has_a_row_for_each_binding_and_says_what_is_missing() {
        let hop = TraceHop {
            exchange: "orders".to_owned(),
            kind: ExchangeKind::Topic,
            came_by: CameBy::Published,
            matched: vec![
                Binding::to_queue("billing").with_key("orders.*.paid"),
                Binding::to_exchange("audit").with_key("#"),
            ],
            matched_count: 5,
            missing_alternate: None,
        };
        let audit = TraceHop {
            exchange: "audit".to_owned(),
            kind: ExchangeKind::Headers,
            came_by: CameBy::BindingOf(0),
            matched: Vec::new(),
            matched_count: 0,
            missing_alternate: Some("rest".to_owned()),
        };
        let traced = Traced(MessageTrace {
            hops: vec![hop, audit],
            queues: vec!["billing".to_owned()],
        });
        let table = traced.table();
        let lines: Vec<&str> = table.lines().collect();
        let has = |line: usize, words: &[&str]| {
            assert!(
                words.iter().all(|word| lines[line].contains(word)),
                "{words:?}:\n{table}"
            );
        };
        has(
            1,
            &["0", "orders", "topic", "published", "queue billing by orders.*.paid"],
        );
        has(2, &["exchange audit by #"]);
        has(3, &["and 3 more"]);
        has(
            4,
            &[
                "1",
                "audit",
                "headers",
                "binding of 0",
                "alternate exchange rest is not there",
            ],
        );
        assert_eq!(lines.last(), Some(&"billing"));
        let json = traced.json();
        assert_eq!(json["hops"][1]["binding_of"], json!(0));
        assert_eq!(json["hops"][0]["matched"][1]["exchange"], json!("audit"));
    }

    #[test]
    fn a_binding_says_what_it_asks_of_headers() {
        let asked_for = HeaderMatch::new(MatchMode::Any)
            .with_header("region", "north")
            .with_name("customer");
        let binding = Binding::to_queue("north").with_headers(asked_for);
        assert_eq!(asked(&binding), "any: region=north, customer");
        let always = Binding::to_queue("q").with_headers(HeaderMatch::new(MatchMode::All));
        assert_eq!(asked(&always), "all:");
        assert_eq!(asked(&Binding::to_queue("q")), "-");
        assert_eq!(
            binding_json(&binding)["headers"]["headers"][1],
            json!({ "key": "customer", "value": null })
        );
    }
}
