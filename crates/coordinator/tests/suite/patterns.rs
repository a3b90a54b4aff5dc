//! Patterns: whole names, bounded size.

use jangada_coordinator::pattern::Pattern;
use jangada_types::Reason;

#[test]
fn a_pattern_matches_whole_names() {
    let pattern = Pattern::compile("orders|orders-v2").expect("it is a pattern");
    assert!(pattern.is_match("orders") && pattern.is_match("orders-v2"));
    assert!(!pattern.is_match("orders-v3") && !pattern.is_match("my-orders"));
    assert!(
        Pattern::compile("(?i)ORDERS.*")
            .expect("it is a pattern")
            .is_match("orders")
    );
    assert!(Pattern::compile(r"t\d{1,3}").expect("it is a pattern").is_match("t12"));
}

#[test]
fn what_is_no_pattern_is_refused() {
    let large = "x".repeat(2_000);
    for bad in [
        "",
        "(",
        "a)(b",
        "a)|(?:b",
        "(?x)a # b",
        r"(a)\1",
        "(?=a)",
        "x{1000}{1000}",
        &large,
    ] {
        let error = Pattern::compile(bad).expect_err(bad);
        assert_eq!(error.reason, Reason::InvalidPattern, "{bad:?}");
    }
    let nested = format!("{}a{}", "(".repeat(400), ")".repeat(400));
    assert_eq!(
        Pattern::compile(&nested).expect_err("nested").reason,
        Reason::InvalidPattern
    );
}

/// A backtracking engine would need longer than the age of the universe for this pattern.
#[test]
fn matching_takes_linear_time() {
    let pattern = Pattern::compile("(a*)*(a*)*(a*)*b").expect("it is a pattern");
    assert!(!pattern.is_match(&"a".repeat(249)));
}
