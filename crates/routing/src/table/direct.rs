//! The bindings of a direct exchange: destinations by key.

use std::collections::HashMap;
use std::sync::Arc;

use crate::binding::Binding;

#[derive(Debug)]
pub(crate) struct DirectTable(HashMap<Arc<str>, Box<[u32]>>);

impl DirectTable {
    pub(super) fn new<'a>(bindings: impl Iterator<Item = (&'a Binding, u32)>) -> Self {
        let mut by_key: HashMap<Arc<str>, Vec<u32>> = HashMap::new();
        for (binding, number) in bindings {
            by_key.entry(Arc::clone(&binding.routing_key)).or_default().push(number);
        }
        Self(by_key.into_iter().map(|(key, numbers)| (key, numbers.into())).collect())
    }

    pub(super) fn get(&self, key: &str) -> &[u32] {
        self.0.get(key).map_or(&[], |numbers| numbers)
    }
}
