//! Where leased messages are that were appended again: their holders know them by the offsets that they were handed out with. A message
//! has aliases only as long as its lease, so there are never many.

use std::collections::{BTreeMap, BTreeSet};

/// The offsets by which holders know messages that are elsewhere now. Nothing is allocated where there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Aliases(Option<Box<Places>>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Places {
    /// Where the message is that was handed out with an offset.
    places: BTreeMap<u64, u64>,
    /// The same by the place: place, and offset.
    by_place: BTreeSet<(u64, u64)>,
}

impl Places {
    fn of(&self, place: u64) -> Vec<u64> {
        let offsets = self.by_place.range((place, 0)..=(place, u64::MAX));
        offsets.map(|(_, offset)| *offset).collect()
    }

    fn insert(&mut self, offset: u64, place: u64) {
        if let Some(before) = self.places.insert(offset, place) {
            self.by_place.remove(&(before, offset));
        }
        self.by_place.insert((place, offset));
    }
}

impl Aliases {
    /// How many offsets lead elsewhere.
    pub(crate) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |known| known.places.len())
    }

    /// Where the message is now.
    pub(crate) fn place(&self, offset: u64) -> Option<u64> {
        self.0.as_ref()?.places.get(&offset).copied()
    }

    /// The offsets with the places of their messages, in ascending order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        let places = self.0.iter().flat_map(|known| &known.places);
        places.map(|(offset, place)| (*offset, *place))
    }

    /// An offset leads to a place.
    pub(crate) fn insert(&mut self, offset: u64, place: u64) {
        self.0.get_or_insert_default().insert(offset, place);
    }

    /// A leased message goes on elsewhere.
    pub(crate) fn carry(&mut self, old: u64, new: u64) {
        let known = self.0.get_or_insert_default();
        for offset in known.of(old) {
            known.insert(offset, new);
        }
        known.insert(old, new);
    }

    /// The lease of the message at a place is over.
    pub(crate) fn end(&mut self, place: u64) {
        let Some(known) = &mut self.0 else { return };
        for offset in known.of(place) {
            known.places.remove(&offset);
            known.by_place.remove(&(place, offset));
        }
        if known.places.is_empty() {
            self.0 = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_offsets_of_a_message_lead_to_where_it_is() {
        let mut aliases = Aliases::default();
        aliases.carry(3, 10);
        aliases.carry(4, 11);
        aliases.carry(10, 20);
        assert_eq!(
            [3, 10, 4, 20].map(|at| aliases.place(at)),
            [Some(20), Some(20), Some(11), None]
        );
        aliases.end(10);
        assert_eq!(aliases.len(), 3, "it is not there any more");
        aliases.end(20);
        assert_eq!(aliases.iter().collect::<Vec<_>>(), [(4, 11)]);
        aliases.end(11);
        assert_eq!(aliases, Aliases::default());
    }
}
