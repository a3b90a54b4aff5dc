//! What routing costs: processor time of this thread, and allocations, counted by the allocator of these tests.
#![allow(
    unsafe_code,
    reason = "an allocator that counts is unsafe by its trait; it only adds to a counter"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use jangada_routing::{Binding, Exchange, ExchangeKind, Headers, MatchMode, Message, NoHeaders, Router, Scratch};
use jangada_types::replicated::Seeds;

use crate::cpu::worked;
use crate::samples::{asking, exchange, to_queue};

/// The bar for a message at an exchange with 10,000 topic bindings.
const MESSAGE_MAX: Duration = Duration::from_micros(5);

const BINDINGS: usize = 10_000;
const QUEUES: u64 = 1_000;

struct Counting;

thread_local! {
    /// How often this thread has allocated.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What one message costs, and how many queues it has, on average over all of them.
struct Cost {
    each: Duration,
    queues: f64,
}

/// Sends all messages in turn, until each has been sent several times; the first round is not counted.
fn cost<H: Headers>(router: &Router, name: &str, messages: &[(String, H)]) -> Cost {
    let mut scratch = Scratch::default();
    let mut queues = 0;
    let mut round = || {
        for (key, headers) in messages {
            let message = Message {
                exchange: name,
                routing_key: key,
                headers,
            };
            queues += black_box(router.resolve(black_box(&message), &mut scratch).unwrap()).len();
        }
    };
    round();
    let rounds = 200;
    let (allocated, begun) = (ALLOCATIONS.with(Cell::get), worked());
    for _ in 0..rounds {
        round();
    }
    let (took, allocated) = (worked() - begun, ALLOCATIONS.with(Cell::get) - allocated);
    // Reading the clock itself allocates a little.
    assert!(
        allocated < 32,
        "{allocated} allocations for {} messages",
        rounds * messages.len()
    );
    let sent = u32::try_from(rounds * messages.len()).unwrap();
    Cost {
        each: took / sent,
        queues: queues as f64 / f64::from(sent + sent / 200),
    }
}

fn words(seeds: &mut Seeds, count: u64, of: u64) -> Vec<String> {
    (0..count).map(|_| format!("word{}", seeds.below(of))).collect()
}

fn keys(seeds: &mut Seeds, of: u64) -> Vec<(String, NoHeaders)> {
    (0..1_000).map(|_| (words(seeds, 4, of).join("."), NoHeaders)).collect()
}

/// Patterns of four words out of `of`, some of which are signs.
fn topic(seeds: &mut Seeds, of: u64, signs: &[&str]) -> Exchange {
    let binding = |seeds: &mut Seeds| {
        let mut words = words(seeds, 4, of);
        for sign in signs {
            let at = seeds.below(4) as usize;
            words[at] = (*sign).to_owned();
        }
        to_queue(seeds.below(QUEUES).into(), &words.join("."))
    };
    let mut bindings = std::collections::BTreeSet::new();
    while bindings.len() < BINDINGS {
        bindings.insert(binding(seeds));
    }
    exchange(1, "e", ExchangeKind::Topic, bindings.into_iter().collect())
}

fn compiled(exchange: Exchange) -> (Router, Duration) {
    let exchange = [Arc::new(exchange)];
    let begun = worked();
    let router = Router::default().updated(&exchange);
    (router, worked() - begun)
}

#[allow(clippy::print_stdout, reason = "the figures are for whoever reads the test's output")]
fn report(what: &str, cost: &Cost, compiled: Duration) {
    println!(
        "{what}: {:.2?} a message, {:.1} queues, compiled in {:.1?}",
        cost.each, cost.queues, compiled
    );
}

#[test]
fn ten_thousand_topic_bindings_cost_less_than_five_microseconds_a_message() {
    let mut seeds = Seeds::new(7);
    for (what, of, signs) in [
        ("words only", 20, &[][..]),
        ("one *", 20, &["*"][..]),
        ("one #", 20, &["#"][..]),
        ("a * and a #", 20, &["*", "#"][..]),
        ("two #", 20, &["#", "#"][..]),
        ("a * and a #, many words", 2_000, &["*", "#"][..]),
    ] {
        let exchange = topic(&mut seeds, of, signs);
        let (router, compiling) = compiled(exchange);
        let cost = cost(&router, "e", &keys(&mut seeds, of));
        report(&format!("10,000 topic bindings, {what} of {of}"), &cost, compiling);
        assert!(cost.each < MESSAGE_MAX, "{what}: {:?}", cost.each);
    }
}

/// What a hostile set of patterns costs: all of them stay possible to the end of a key of many words.
#[test]
fn the_worst_patterns_cost_as_many_nodes_as_they_have() {
    let pattern = |number: u32| {
        let words: Vec<&str> = (0..13)
            .map(|bit| if number & (1 << bit) == 0 { "a" } else { "*" })
            .collect();
        words.join(".#.") + ".#.z"
    };
    let bindings = (0..1 << 13).map(|number| to_queue(number.into(), &pattern(number)));
    let (router, compiling) = compiled(exchange(1, "e", ExchangeKind::Topic, bindings.collect()));
    let messages = [(["a"; 64].join("."), NoHeaders)];
    let cost = cost(&router, "e", &messages);
    report("8,192 patterns with 13 #, a key of 64 words", &cost, compiling);
    // 16,384 nodes for each word.
    assert!(cost.each < Duration::from_millis(50), "{:?}", cost.each);
}

#[test]
fn direct_fanout_and_headers_tables_cost_what_they_match() {
    let mut seeds = Seeds::new(8);
    let queue = |seeds: &mut Seeds| u128::from(seeds.below(QUEUES));

    let of_key = |number: usize| to_queue(number as u128 % 1_000, &format!("key-{number}"));
    let (router, compiling) = compiled(exchange(
        1,
        "e",
        ExchangeKind::Direct,
        (0..BINDINGS).map(of_key).collect(),
    ));
    let messages: Vec<_> = (0..1_000)
        .map(|_| (format!("key-{}", seeds.below(10_000)), NoHeaders))
        .collect();
    let direct = cost(&router, "e", &messages);
    report("10,000 direct bindings", &direct, compiling);
    assert!(direct.each < Duration::from_micros(1), "{:?}", direct.each);

    let all: Vec<Binding> = (0..1_000).map(|number| to_queue(number, "")).collect();
    let (router, compiling) = compiled(exchange(1, "e", ExchangeKind::Fanout, all));
    let fanout = cost(&router, "e", &messages);
    report("fanout to 1,000 queues", &fanout, compiling);
    assert!(fanout.each < Duration::from_micros(10), "{:?}", fanout.each);

    // Each asks for a header that all ask for, and for one that few do.
    let asks = |seeds: &mut Seeds, number: usize| {
        let mode = if number.is_multiple_of(2) {
            MatchMode::All
        } else {
            MatchMode::AllWithX
        };
        let customer = format!("{}", number / 4);
        asking(
            queue(seeds),
            mode,
            &[("type", Some("order")), ("customer", Some(&customer))],
        )
    };
    let bindings: Vec<_> = (0..BINDINGS).map(|number| asks(&mut seeds, number)).collect();
    let (router, compiling) = compiled(exchange(1, "e", ExchangeKind::Headers, bindings));
    let messages: Vec<_> = (0..1_000)
        .map(|_| (String::new(), Order(seeds.below(2_500).to_string())))
        .collect();
    let headers = cost(&router, "e", &messages);
    report("10,000 headers bindings of all", &headers, compiling);
    assert!(headers.each < MESSAGE_MAX, "{:?}", headers.each);
}

/// The headers of a message about an order of a customer.
struct Order(String);

impl Headers for Order {
    fn each(&self, see: &mut dyn FnMut(&str, Option<&[u8]>)) {
        see("type", Some(b"order"));
        see("region", Some(b"north"));
        see("customer", Some(self.0.as_bytes()));
    }
}
