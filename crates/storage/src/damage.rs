//! The one place where damage to a replica's data is told: by whoever met it, to whoever repairs.
//!
//! Damage is met at the start of a group, by a fetch, by replication, by apply, or by a scrub; on any thread. Reads of the
//! [`Store`](crate::Store) tell it themselves when they fail with [`StoreError::Damaged`]; what only a layer above can see (an
//! index row that does not fit its entry) that layer tells. Each group is told once, until it is forgotten: the replica was
//! deleted, and what comes in its place is sound.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use jangada_types::GroupId;
use parking_lot::Mutex;

use crate::error::StoreError;

/// Hears of damage: the group, and what is damaged. Called on the thread that met it: it must be short and never block.
pub type OnDamage = Box<dyn Fn(GroupId, &str) + Send + Sync>;

/// The damage that was found to groups, and who is to hear of it.
#[derive(Default)]
pub struct Damage {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    found: BTreeMap<GroupId, Arc<str>>,
    listener: Option<OnDamage>,
}

impl Damage {
    /// Tells that a group's data is damaged, and gives the error to return. Only the first damage of a group is logged and
    /// passed on.
    pub fn report(&self, group: GroupId, what: impl Into<Arc<str>>) -> StoreError {
        let what = what.into();
        let State { found, listener } = &mut *self.state.lock();
        if let Entry::Vacant(unknown) = found.entry(group) {
            tracing::error!(%group, %what, "a replica's data is damaged");
            unknown.insert(what.clone());
            if let Some(listener) = listener {
                listener(group, &what);
            }
        }
        StoreError::Damaged { group, what }
    }

    /// Passes an error on, and tells it if it is damage.
    pub(crate) fn note<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        match result {
            Err(StoreError::Damaged { group, what }) => Err(self.report(group, what)),
            other => other,
        }
    }

    /// What is damaged in a group, if anything is known to be.
    pub fn of(&self, group: GroupId) -> Option<Arc<str>> {
        self.state.lock().found.get(&group).cloned()
    }

    /// All groups that are damaged, ascending.
    pub fn all(&self) -> Vec<(GroupId, Arc<str>)> {
        let state = self.state.lock();
        state.found.iter().map(|(group, what)| (*group, what.clone())).collect()
    }

    /// The group's data is gone, and the damage with it.
    pub fn forget(&self, group: GroupId) {
        self.state.lock().found.remove(&group);
    }

    /// From now on this hears of damage; what was met before is told at once.
    pub fn listen(&self, listener: OnDamage) {
        let mut state = self.state.lock();
        for (group, what) in &state.found {
            listener(*group, what);
        }
        state.listener = Some(listener);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn each_group_is_told_once_until_it_is_forgotten() {
        let damage = Damage::default();
        damage.report(GroupId(1), "before anybody listens");
        let (told, heard) = mpsc::channel();
        damage.listen(Box::new(move |group, what| {
            told.send((group, what.to_owned())).unwrap();
        }));
        damage.report(GroupId(1), "again");
        let error = damage.note::<()>(Err(StoreError::Corrupt("x".into()).of_group(GroupId(2))));
        assert!(matches!(error, Err(StoreError::Damaged { group: GroupId(2), .. })));
        assert!(damage.note(Ok(())).is_ok());
        assert_eq!(damage.of(GroupId(1)).as_deref(), Some("before anybody listens"));
        damage.forget(GroupId(1));
        damage.report(GroupId(1), "anew");
        let heard: Vec<_> = heard.try_iter().collect();
        let told = [(1, "before anybody listens"), (2, "x"), (1, "anew")];
        assert_eq!(heard, told.map(|(group, what)| (GroupId(group), what.to_owned())));
        assert_eq!(damage.all().len(), 2);
    }
}
