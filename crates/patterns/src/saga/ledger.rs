//! The side of a step's worker: at most one effect for each idempotence key, whatever comes twice, late or in the wrong order. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::message::Way;

/// What has become of one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// It was made, with this result.
    Made(Value),
    /// It was made, and undone.
    Undone,
    /// It was undone before it was ever made: it will never be.
    Barred,
}

/// What a command means for its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Make the effect now, and [note](Ledger::note) it together with it.
    Make,
    /// It was made before: answer with this result, and make nothing.
    Made(Value),
    /// Its undoing has come before: answer that it failed for good, and make nothing.
    Barred,
    /// Undo the effect now, and note it as [undone](Effect::Undone).
    Undo,
    /// There is nothing to undo, but the key is to be noted as barred: the command that makes the effect may come late.
    Bar,
    /// It was undone or barred before: answer that it is done.
    Undone,
}

/// The keys that a worker has seen, as part of the state that its effects are in: a field of an aggregate. A worker whose effects are rows
/// of a database keeps a table of keys there, writes it in the transaction of the effect, and judges by [`Judgement::of`].
///
/// It has an entry for each key; take out with [`forget`](Self::forget) those whose sagas ended so long ago that none of their messages can
/// be in a queue any more. No worker is told when that is: [`Sagas::get`](super::Sagas::get) says whether a saga is over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger(BTreeMap<String, Effect>);

impl Judgement {
    /// Judges a command by what became of its key, for a ledger that is a table: [`Effect`] is what a row of it keeps, as JSON.
    pub fn of(way: Way, known: Option<&Effect>) -> Self {
        match (way, known) {
            (Way::Do, None) => Self::Make,
            (Way::Do, Some(Effect::Made(result))) => Self::Made(result.clone()),
            (Way::Do, Some(Effect::Undone | Effect::Barred)) => Self::Barred,
            (Way::Undo, None) => Self::Bar,
            (Way::Undo, Some(Effect::Made(_))) => Self::Undo,
            (Way::Undo, Some(Effect::Undone | Effect::Barred)) => Self::Undone,
        }
    }
}

impl Ledger {
    /// Judges a command.
    pub fn judge(&self, key: &str, way: Way) -> Judgement {
        Judgement::of(way, self.0.get(key))
    }

    /// Notes what became of a key.
    pub fn note(&mut self, key: impl Into<String>, effect: Effect) {
        self.0.insert(key.into(), effect);
    }

    /// What became of a key, so also the result that the command was answered with. `None`: nothing yet.
    pub fn get(&self, key: &str) -> Option<&Effect> {
        self.0.get(key)
    }

    /// Forgets a key: a command with it that still comes would count as new.
    pub fn forget(&mut self, key: &str) {
        self.0.remove(key);
    }

    /// All keys, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Effect)> {
        self.0.iter().map(|(key, effect)| (&**key, effect))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_effect_is_made_once_and_undone_once() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.judge("a", Way::Do), Judgement::Make);
        ledger.note("a", Effect::Made(1.into()));
        assert_eq!(ledger.judge("a", Way::Do), Judgement::Made(1.into()));
        assert_eq!(ledger.judge("a", Way::Undo), Judgement::Undo);
        ledger.note("a", Effect::Undone);
        assert_eq!(ledger.judge("a", Way::Undo), Judgement::Undone);
        assert_eq!(ledger.judge("a", Way::Do), Judgement::Barred, "the command came late");
    }

    #[test]
    fn what_is_undone_before_it_is_made_never_is() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.judge("a", Way::Undo), Judgement::Bar);
        ledger.note("a", Effect::Barred);
        assert_eq!(ledger.judge("a", Way::Do), Judgement::Barred);
        let row = serde_json::to_string(ledger.get("a").expect("it was noted")).expect("it is JSON");
        let row: Effect = serde_json::from_str(&row).expect("it can be read");
        assert_eq!(
            Judgement::of(Way::Do, Some(&row)),
            Judgement::Barred,
            "a row says the same"
        );
        assert_eq!(Judgement::of(Way::Undo, None), Judgement::Bar);
        ledger.forget("a");
        assert_eq!(ledger.judge("a", Way::Do), Judgement::Make, "it is forgotten");
    }
}
