//! What is no history is refused with the line, what is wrong with it, and what to do.

use jangada_check::format;

#[track_caller]
fn refused(lines: &str, said: &[&str]) {
    let error = format::read(lines.as_bytes())
        .expect_err("it is no history")
        .to_string();
    for said in said {
        assert!(error.contains(said), "{said:?} is not in: {error}");
    }
}

const CALL: &str = r#"{"index":0,"time":5,"process":1,"type":"invoke","op":"send","partition":"p","value":1}"#;

#[test]
fn what_is_no_json_is_refused() {
    refused("what\n", &["line 1", "no event", "checker.md"]);
    refused(&format!("{CALL}\n\n{{\"index\":1"), &["line 3", "EOF"]);
}

#[test]
fn fields_that_are_missing_or_unknown_are_named() {
    refused(
        r#"{"index":0,"time":0,"process":1,"type":"invoke","op":"send","value":1}"#,
        &["line 1", "`send`", "partition"],
    );
    refused(
        r#"{"index":0,"time":0,"process":1,"type":"invoke","op":"send","partition":"p","value":1,"vlaue":2}"#,
        &["unknown field", "vlaue"],
    );
    refused(
        r#"{"index":0,"time":0,"process":1,"type":"invoke","op":"sned"}"#,
        &["sned", "unknown variant"],
    );
    refused(r#"{"index":0,"time":0,"type":"invoke","op":"poll"}"#, &["process"]);
    refused(
        &format!(
            "{CALL}\n{}",
            r#"{"index":1,"time":6,"process":1,"type":"ok","op":"send"}"#
        ),
        &["line 2", "offset"],
    );
    refused(r#"{"index":0,"time":0,"type":"note","op":"leave"}"#, &["process"]);
}

#[test]
fn answers_need_a_call() {
    refused(
        r#"{"index":0,"time":0,"process":1,"type":"fail"}"#,
        &["line 1", "not open", "invoke"],
    );
    let twice = format!(
        "{CALL}\n{}",
        r#"{"index":1,"time":6,"process":1,"type":"ok","op":"poll","reads":{}}"#
    );
    refused(&twice, &["line 2", "`send`", "poll"]);
    let two = format!(
        "{CALL}\n{}\n{}",
        CALL.replace("\"index\":0", "\"index\":1"),
        r#"{"index":2,"time":6,"process":1,"type":"info"}"#
    );
    refused(&two, &["line 3", "several", "invocation"]);
}

#[test]
fn the_order_of_events_is_checked() {
    refused(&format!("{CALL}\n{CALL}"), &["line 2", "index is 0", "sort"]);
    let back = CALL
        .replace("\"index\":0", "\"index\":1")
        .replace("\"time\":5", "\"time\":4");
    refused(&format!("{CALL}\n{back}"), &["line 2", "4 ns", "monotonic"]);
}

/// A final read without its records.
const FINAL: &str =
    r#"{"index":2,"time":7,"type":"note","op":"final","partition":"p","end":1,"complete":true,"records":"#;

#[test]
fn numbers_and_texts_are_the_same_value() {
    let numbers = format!(
        "{CALL}\n{}",
        r#"{"index":1,"time":6,"process":1,"type":"ok","offset":0}"#
    );
    let read = |value: &str| {
        let note = format!("{FINAL}[[0,{value}]]}}");
        let history = format::read(format!("{numbers}\n{note}").as_bytes()).unwrap_or_else(|error| panic!("{error}"));
        jangada_check::check(&history).judgement
    };
    assert_eq!(read("1"), jangada_check::Judgement::Valid);
    assert_eq!(read("\"1\""), jangada_check::Judgement::Valid);
    assert_eq!(read("2"), jangada_check::Judgement::Invalid);
}

#[test]
fn offsets_that_no_log_has_are_refused() {
    for offset in [i64::MIN, -1, i64::MAX] {
        let answer = format!("{CALL}\n{{\"index\":1,\"time\":6,\"process\":1,\"type\":\"ok\",\"offset\":{offset}}}");
        refused(&answer, &["line 2", "is no offset"]);
        let read = format!("{FINAL}[[{offset},1]]}}");
        refused(&read, &["line 1", "is no offset"]);
    }
}

#[test]
fn extreme_numbers_are_judged() {
    let most = 1_i64 << 62;
    let time = u64::MAX;
    let answer = format!("{{\"index\":1,\"time\":7,\"process\":1,\"type\":\"ok\",\"offset\":{most}}}");
    let read = FINAL.replace(":7,", &format!(":{time},"));
    let lines = format!("{CALL}\n{answer}\n{read}[[{most},1]]}}");
    let history = format::read(lines.as_bytes()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(jangada_check::check(&history).kinds(), [jangada_check::Kind::Gap]);
}
