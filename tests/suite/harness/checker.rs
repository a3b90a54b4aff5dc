//! Checks that the outcomes of writes and the records of readers fit together. Pure.
//!
//! Every value is written once by its writer, and each writer numbers its values of a partition from 0 on in the order in which it sends
//! them. So for each partition, given the final read of everything:
//!
//! | fault | what it is |
//! |---|---|
//! | lost | a value that was acknowledged, or that any reader saw, is not there |
//! | duplicate | a value is there at two offsets |
//! | inversion | a writer's value comes before one that it sent earlier |
//! | misplaced | a value is not at the offset that its writer was told, or that a reader saw it at |
//! | invented | a value is there that no writer sent, or that was certainly refused |
//! | gap | an offset between the first and the last has no record |
//! | disorder | the reader that went along saw an offset that does not follow the one before |

use std::collections::{BTreeMap, HashMap};

/// A value, unique in its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value {
    pub writer: u32,
    /// The writer's values of one partition are numbered from 0 on.
    pub number: u64,
}

impl Value {
    /// The value as a record's value.
    pub fn text(self) -> String {
        format!("{}:{}", self.writer, self.number)
    }

    /// Like [`Self::text`], padded to this many bytes.
    pub fn padded(self, bytes: usize) -> String {
        let text = self.text() + " ";
        let filling = ".".repeat(bytes.saturating_sub(text.len()));
        text + &filling
    }

    /// Parses the text of a value, padded or not.
    pub fn parse(bytes: &[u8]) -> Option<Value> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (writer, number) = text.split(' ').next()?.split_once(':')?;
        Some(Value {
            writer: writer.parse().ok()?,
            number: number.parse().ok()?,
        })
    }
}

/// The outcome of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The value is there, at this offset.
    Acknowledged(i64),
    /// The value may be there.
    Unknown,
    /// The value is not there.
    Refused,
}

/// The history of one partition.
#[derive(Clone, Debug, Default)]
pub struct History {
    sent: HashMap<Value, Outcome>,
    /// The values that one reader saw while it went on, in its order.
    seen: Vec<(i64, Value)>,
    /// The values that a fresh reader found from the first offset to the end, after everything.
    found: Vec<(i64, Value)>,
}

impl History {
    /// Records a writer's outcome.
    pub fn sent(&mut self, value: Value, outcome: Outcome) {
        let before = self.sent.insert(value, outcome);
        assert_eq!(before, None, "{value:?} was sent twice: the test is wrong");
    }

    /// Records that the reader that goes along saw a value.
    pub fn seen(&mut self, offset: i64, value: Value) {
        self.seen.push((offset, value));
    }

    /// Records that the final read met a value.
    pub fn found(&mut self, offset: i64, value: Value) {
        self.found.push((offset, value));
    }

    /// Number of values that were sent.
    pub fn attempted(&self) -> usize {
        self.sent.len()
    }

    /// Number of values that were acknowledged.
    pub fn acknowledged(&self) -> usize {
        let acknowledged = self.sent.values().filter(|o| matches!(o, Outcome::Acknowledged(_)));
        acknowledged.count()
    }

    /// Every fault, as a line. None: the history is as it must be.
    pub fn check(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut at: BTreeMap<Value, i64> = BTreeMap::new();
        let mut last_of: HashMap<u32, u64> = HashMap::new();
        for (index, &(offset, value)) in self.found.iter().enumerate() {
            if let Some(first) = at.get(&value) {
                faults.push(format!("duplicate: {value:?} at {first} and {offset}"));
                continue;
            }
            at.insert(value, offset);
            if index > 0 && offset != self.found[index - 1].0 + 1 {
                faults.push(format!("gap: {offset} comes after {}", self.found[index - 1].0));
            }
            if let Some(last) = last_of
                .insert(value.writer, value.number)
                .filter(|last| *last > value.number)
            {
                faults.push(format!("inversion: {value:?} at {offset} comes after number {last}"));
            }
            if matches!(self.sent.get(&value), None | Some(Outcome::Refused)) {
                faults.push(format!("invented: {value:?} at {offset}: {:?}", self.sent.get(&value)));
            }
        }
        for pair in self.seen.windows(2) {
            let [(before, _), (offset, value)] = [pair[0], pair[1]];
            if offset != before + 1 {
                faults.push(format!("disorder: {value:?} was seen at {offset} after {before}"));
            }
        }
        let acknowledged = self.sent.iter().filter_map(|(value, outcome)| match outcome {
            Outcome::Acknowledged(offset) => Some((*offset, *value, "acknowledged")),
            Outcome::Unknown | Outcome::Refused => None,
        });
        let seen = self.seen.iter().map(|(offset, value)| (*offset, *value, "seen"));
        for (offset, value, how) in acknowledged.chain(seen) {
            match at.get(&value) {
                None => faults.push(format!("lost: {value:?}, {how} at {offset}")),
                Some(there) if *there != offset => {
                    faults.push(format!("misplaced: {value:?}, {how} at {offset}, is at {there}"));
                }
                Some(_) => {}
            }
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(number: u64) -> Value {
        Value { writer: 1, number }
    }

    /// Four values, acknowledged at offsets 10 to 13; a reader saw the first.
    fn sent() -> History {
        let mut history = History::default();
        for number in 0..4 {
            history.sent(value(number), Outcome::Acknowledged(10 + number as i64));
        }
        history.seen(10, value(0));
        history
    }

    fn check(mut history: History, found: &[(i64, u64)]) -> Vec<String> {
        for (offset, number) in found {
            history.found(*offset, value(*number));
        }
        history.check()
    }

    #[track_caller]
    fn assert_told(faults: &[String], kind: &str) {
        assert!(faults.iter().any(|fault| fault.starts_with(kind)), "{kind}: {faults:?}");
    }

    #[test]
    fn what_is_as_it_must_be_has_no_fault() {
        assert_eq!(
            check(sent(), &[(10, 0), (11, 1), (12, 2), (13, 3)]),
            Vec::<String>::new()
        );
    }

    #[test]
    fn each_fault_is_told() {
        assert_told(
            &check(sent(), &[(10, 0), (11, 1), (12, 2)]),
            "lost: Value { writer: 1, number: 3 }",
        );
        assert_told(
            &check(sent(), &[(11, 1), (12, 2), (13, 3)]),
            "lost: Value { writer: 1, number: 0 }, seen",
        );
        assert_told(
            &check(sent(), &[(10, 0), (11, 1), (12, 2), (13, 3), (14, 1)]),
            "duplicate",
        );
        assert_told(&check(sent(), &[(10, 0), (11, 2), (12, 1), (13, 3)]), "inversion");
        assert_told(&check(sent(), &[(10, 0), (12, 1), (13, 2), (14, 3)]), "misplaced");
        assert_told(&check(sent(), &[(10, 0), (12, 1), (13, 2), (14, 3)]), "gap");
        assert_told(
            &check(sent(), &[(10, 0), (11, 1), (12, 2), (13, 3), (14, 9)]),
            "invented",
        );
    }

    #[test]
    fn a_reader_sees_each_offset_once_in_order() {
        let four = [(10, 0), (11, 1), (12, 2), (13, 3)];
        for (seen, is_right) in [
            (&[1, 2, 3][..], true),
            (&[0], false),
            (&[2], false),
            (&[1, 1], false),
            (&[1, 2, 1], false),
        ] {
            let mut history = sent();
            for number in seen {
                history.seen(10 + *number as i64, value(*number));
            }
            let faults = check(history, &four);
            assert_eq!(faults.is_empty(), is_right, "{seen:?}: {faults:?}");
            assert!(faults.iter().all(|fault| fault.starts_with("disorder")), "{faults:?}");
        }
    }

    #[test]
    fn an_unknown_value_may_be_there_or_not_and_a_refused_one_not() {
        let mut unknown = sent();
        unknown.sent(value(4), Outcome::Unknown);
        let four = [(10, 0), (11, 1), (12, 2), (13, 3)];
        let five = [(10, 0), (11, 1), (12, 2), (13, 3), (14, 4)];
        assert_eq!(check(unknown.clone(), &four), Vec::<String>::new());
        assert_eq!(check(unknown, &five), Vec::<String>::new());
        let mut refused = sent();
        refused.sent(value(4), Outcome::Refused);
        assert_eq!(check(refused.clone(), &four), Vec::<String>::new());
        assert_told(&check(refused, &five), "invented");
    }
}
