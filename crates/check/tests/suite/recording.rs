//! Tasks record one history together.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::thread;

use jangada_check::call::{Send, Sent};
use jangada_check::note::{Final, Note};
use jangada_check::{Call, Judgement, Kind, Recorder, Reply, Value, check, format};

use crate::lines::Shared;

fn recorder(output: Shared) -> Recorder {
    let time = AtomicU64::new(0);
    Recorder::with_output(Arc::new(move || time.fetch_add(1, Ordering::Relaxed)), output)
}

#[test]
fn threads_record_at_once() {
    const THREADS: u64 = 4;
    const EACH: u64 = 500;
    let output = Shared::default();
    let recorder = recorder(output.clone());
    let log = std::sync::Mutex::new(Vec::new());
    thread::scope(|scope| {
        for number in 0..THREADS {
            let (recorder, log) = (recorder.clone(), &log);
            scope.spawn(move || {
                let process = recorder.process();
                for at in 0..EACH {
                    let value = Value::from(number * EACH + at);
                    let sending = recorder.invoke(process, Call::Send(Send::new("p", value.clone())));
                    let offset = {
                        let mut log = log.lock().expect("nothing panicked");
                        log.push(value);
                        log.len() as i64 - 1
                    };
                    sending.ok(Reply::Sent(Sent { offset, attempts: 1 }));
                }
            });
        }
    });
    let log = log.into_inner().expect("nothing panicked");
    recorder.note(
        None,
        Note::Final(Final {
            partition: "p".to_owned(),
            end: log.len() as i64,
            complete: true,
            records: (0..).zip(log.into_iter().map(Some)).collect(),
            ..Final::default()
        }),
    );
    let verdict = check(&recorder.finish().expect("memory can be written"));
    assert_eq!(verdict.judgement, Judgement::Valid, "{verdict}");
    assert_eq!(verdict.operations, THREADS * EACH);
    let lines = output.0.lock().expect("nothing panicked");
    let read = format::read(&lines[..]).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(check(&read), verdict, "the lines say the same");
}

#[test]
fn a_call_that_is_dropped_has_an_unknown_outcome() {
    let recorder = recorder(Shared::default());
    let process = recorder.process();
    drop(recorder.invoke(process, Call::Send(Send::new("p", "a"))));
    recorder
        .invoke(recorder.process(), Call::Send(Send::new("p", "b")))
        .ok(Reply::Sent(Sent { offset: 1, attempts: 1 }));
    let there = |value: &str| Some(Value::from(value));
    let read = Final {
        partition: "p".to_owned(),
        end: 2,
        complete: true,
        records: vec![(0, there("a")), (1, there("b"))],
        ..Final::default()
    };
    recorder.note(None, Note::Final(read));
    let verdict = check(&recorder.finish().expect("memory can be written"));
    assert_eq!(verdict.judgement, Judgement::Valid, "{verdict}");
}

#[test]
fn a_call_that_was_refused_must_not_be_seen() {
    let offsets = AtomicI64::new(0);
    let recorder = recorder(Shared::default());
    recorder
        .invoke(recorder.process(), Call::Send(Send::new("p", "a")))
        .fail();
    let read = Final {
        partition: "p".to_owned(),
        end: 1,
        complete: true,
        records: vec![(offsets.load(Ordering::Relaxed), Some(Value::from("a")))],
        ..Final::default()
    };
    recorder.note(None, Note::Final(read));
    let verdict = check(&recorder.finish().expect("memory can be written"));
    assert_eq!(verdict.kinds(), [Kind::Invented]);
}

#[test]
fn an_answer_that_comes_after_its_history_was_taken_out_is_no_answer_to_another_call() {
    let output = Shared::default();
    let recorder = recorder(output.clone());
    let send = |value: &str| recorder.invoke(recorder.process(), Call::Send(Send::new("p", value)));
    let sent = |offset| Reply::Sent(Sent { offset, attempts: 1 });
    let (answered, failed, dropped) = (send("a"), send("b"), send("c"));
    let first = recorder.finish().expect("memory can be written");
    assert_eq!(first.operations().len(), 3);
    let later = send("d");
    answered.ok(sent(7));
    failed.fail();
    drop(dropped);
    later.ok(sent(0));
    let second = recorder.finish().expect("memory can be written");
    assert_eq!(second.operations().len(), 1);
    assert_eq!(check(&second).kinds(), [], "what is there is what was answered in it");
    let lines = output.0.lock().expect("nothing panicked");
    let read = format::read(&lines[..]).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(read.operations().len(), 4, "the lines have all");
}
