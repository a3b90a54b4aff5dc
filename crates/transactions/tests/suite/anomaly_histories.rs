//! Golden histories: one for each anomaly, in which the checker finds that one, and some that look bad and are not.
//!
//! ```text
//! T1 committed: writes 0:1 1:2; reads 3       transaction, its fate, values with their partitions, what it read
//! T2 aborted: wrote 4                         a value that nobody acknowledged
//! log 0: 0=1 1=2                              partition, offsets and values
//! reader 0: 0=1                               the same of one more reader
//! ```

use crate::anomalies::{Anomaly, Fate, History, Read, Transaction};

type Found = Result<(), Anomaly<u32, u32>>;

fn number(text: &str) -> u32 {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is a number"))
}

fn pair(text: &str, between: char) -> (u32, u32) {
    let (one, other) = text.split_once(between).unwrap_or_else(|| panic!("{text:?} is a pair"));
    (number(one), number(other))
}

fn read(line: &str, into: &mut Read<u32>) {
    let (partition, records) = line.split_once(':').expect("a partition and its records");
    let records = records.split_whitespace().map(|record| pair(record, '='));
    let records = records.map(|(offset, value)| (i64::from(offset), value));
    into.entry(number(partition.trim())).or_default().extend(records);
}

fn transaction(line: &str, history: &mut History<u32, u32>) {
    let (head, body) = line.split_once(':').expect("a transaction and what it did");
    let (name, fate) = head.split_once(' ').expect("a name and a fate");
    let name = number(name);
    let fate = match fate {
        "committed" => Fate::Committed,
        "aborted" => Fate::Aborted,
        "unknown" => Fate::Unknown,
        other => panic!("{other:?} is no fate"),
    };
    let (mut values, mut reads) = (Vec::new(), Vec::new());
    for part in body.split(';') {
        let mut words = part.split_whitespace();
        let verb = words.next().expect("a verb");
        for word in words {
            match verb {
                "writes" => {
                    let (partition, value) = pair(word, ':');
                    values.push((partition, value));
                    history.writers.insert(value, name);
                }
                "wrote" => drop(history.writers.insert(number(word), name)),
                "reads" => reads.push(number(word)),
                other => panic!("{other:?} is no verb"),
            }
        }
    }
    history.transactions.insert(name, Transaction { fate, values, reads });
}

fn check(text: &str) -> Found {
    let mut history = History::default();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (kind, rest) = line.split_at(
            line.find(|c: char| c == ' ' || c.is_ascii_digit())
                .expect("a line has words"),
        );
        match kind {
            "T" => transaction(rest, &mut history),
            "log" => read(rest, &mut history.log),
            "reader" => {
                let mut one = Read::new();
                read(rest, &mut one);
                history.readers.push(one);
            }
            other => panic!("{other:?} is no kind of line"),
        }
    }
    history.check()
}

#[test]
fn what_is_as_it_should_be_is_no_anomaly() {
    let interleaved = "T1 committed: writes 0:1 0:2 1:3
                       T2 committed: writes 0:4 1:5
                       T3 aborted: writes 0:6; wrote 7; reads 1
                       T4 unknown: writes 0:8
                       T5 unknown: writes 0:9 1:10
                       log 0: 0=1 1=4 2=2 7=9
                       log 1: 0=5 1=3 9=10
                       reader 0: 0=1 1=4
                       reader 1: 0=5 1=3 9=10";
    assert_eq!(check(interleaved), Ok(()));
}

#[test]
fn a_value_that_is_there_twice_is_a_duplicate() {
    let twice = "T1 committed: writes 0:1 0:2
                 log 0: 0=1 1=2 5=1";
    let found = Anomaly::Duplicate {
        value: 1,
        partition: 0,
        offset: 5,
    };
    assert_eq!(check(twice), Err(found));
    let elsewhere = "T1 committed: writes 0:1
                     log 0: 0=1
                     log 1: 0=1";
    assert!(matches!(check(elsewhere), Err(Anomaly::Duplicate { partition: 1, .. })));
}

#[test]
fn a_value_that_nobody_wrote_is_found() {
    let invented = "T1 committed: writes 0:1
                    log 0: 0=1 1=2";
    assert_eq!(check(invented), Err(Anomaly::Unwritten { value: 2 }));
}

#[test]
fn a_value_of_an_aborted_transaction_is_an_aborted_read_for_whoever_gets_it() {
    let found = Err(Anomaly::AbortedRead {
        transaction: 1,
        value: 2,
    });
    let at_the_end = "T1 aborted: writes 0:1 0:2
                      log 0: 1=2";
    assert_eq!(check(at_the_end), found);
    let meanwhile = "T1 aborted: wrote 2
                     log 0:
                     reader 0: 1=2";
    assert_eq!(check(meanwhile), found);
    let within_another = "T1 aborted: writes 0:2
                          T2 aborted: reads 2
                          log 0:";
    assert_eq!(check(within_another), found);
}

#[test]
fn a_committed_value_that_nobody_gets_is_a_lost_write() {
    let lost = "T1 committed: writes 0:1 1:2
                log 0:
                log 1:";
    let found = Anomaly::LostWrite {
        transaction: 1,
        missing: vec![1, 2],
    };
    assert_eq!(check(lost), Err(found));
    let deleted = "T1 committed: writes 0:1 1:2
                   log 0: 0=1";
    assert_eq!(check(deleted), Ok(()), "of a partition that is gone nothing is judged");
    let passed_over = "T1 committed: writes 0:1 0:2
                       log 0: 0=1 1=2
                       reader 0: 1=2";
    let found = Anomaly::LostWrite {
        transaction: 1,
        missing: vec![1],
    };
    assert_eq!(check(passed_over), Err(found), "for one reader it is lost");
}

#[test]
fn some_values_without_the_others_are_torn() {
    for fate in ["committed", "unknown"] {
        let torn = format!(
            "T1 {fate}: writes 0:1 1:2 1:3
             log 0: 0=1
             log 1: 4=3"
        );
        let found = Anomaly::Torn {
            transaction: 1,
            there: vec![1, 3],
            missing: vec![2],
        };
        assert_eq!(check(&torn), Err(found));
    }
}

#[test]
fn what_was_read_and_is_gone_or_another_is_going_back() {
    let gone = "T1 unknown: writes 0:1
                log 0:
                reader 0: 3=1";
    let found = Anomaly::GoingBack {
        partition: 0,
        offset: 3,
        read: 1,
        is: None,
    };
    assert_eq!(check(gone), Err(found));
    let replaced = "T1 unknown: writes 0:1
                    T2 committed: writes 0:2
                    log 0: 3=2
                    reader 0: 3=1";
    let found = Anomaly::GoingBack {
        partition: 0,
        offset: 3,
        read: 1,
        is: Some(2),
    };
    assert_eq!(check(replaced), Err(found));
    let backwards = "T1 committed: writes 0:1 0:2
                     log 0: 0=1 1=2
                     reader 0: 1=2 0=1";
    let found = Anomaly::OutOfOrder {
        partition: 0,
        offset: 0,
        behind: 1,
    };
    assert_eq!(check(backwards), Err(found));
}

#[test]
fn transactions_that_read_from_each_other_in_a_circle_are_a_cycle() {
    let two = "T1 committed: writes 0:1; reads 2
               T2 committed: writes 1:2; reads 1
               log 0: 0=1
               log 1: 0=2";
    assert_eq!(
        check(two),
        Err(Anomaly::Cycle {
            transactions: vec![2, 1]
        })
    );
    // One that is known to be committed by its value alone, readers of the circle, and what the circle read.
    let three = "T1 committed: writes 0:1; reads 3 5
                 T2 unknown: writes 0:2; reads 1
                 T3 committed: writes 0:3; reads 2
                 T4 committed: writes 0:4; reads 3
                 T5 committed: writes 0:5
                 log 0: 0=1 1=2 2=3 3=4 4=5";
    assert_eq!(
        check(three),
        Err(Anomaly::Cycle {
            transactions: vec![2, 3, 1]
        })
    );
}

#[test]
fn a_chain_of_reads_and_what_an_aborted_or_unknown_transaction_read_are_no_cycle() {
    let chain = "T1 committed: writes 0:1; reads 1
                 T2 committed: writes 0:2; reads 1
                 T3 committed: writes 0:3; reads 1 2
                 log 0: 0=1 1=2 2=3";
    assert_eq!(check(chain), Ok(()), "its own values are nobody else's");
    let aborted = "T1 committed: writes 0:1
                   T2 aborted: writes 0:2; reads 1
                   T3 unknown: writes 0:3; reads 1
                   log 0: 0=1";
    assert_eq!(check(aborted), Ok(()));
}
