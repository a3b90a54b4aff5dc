//! Projections: what the query side keeps of the events, with how far it has come, so that a crash neither loses nor repeats an event.
//!
//! Each has generations. One is live: it is what is read. A rebuild fills another one beside it from the beginning of the log; when that
//! has come as far as the live one in every partition it takes its place, in one transaction, and the old one goes.

pub(super) mod sqlite;
pub(super) mod topic;

use std::collections::BTreeMap;

/// Whether a generation that is being built has come as far as the live one in every partition. Whoever waited for an offset of the live
/// one has it in the new one, too.
fn has_come_as_far(built: &BTreeMap<u32, i64>, live: &BTreeMap<u32, i64>) -> bool {
    let mut shown = live.iter();
    shown.all(|(partition, at)| built.get(partition).is_some_and(|reached| reached >= at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rebuilt_generation_is_not_shown_before_it_has_come_as_far_in_every_partition() {
        let live = BTreeMap::from([(0, 5), (1, 0), (2, 7)]);
        for (built, is_far) in [
            ([(0, 5), (1, 0), (2, 7)], true),
            ([(0, 9), (1, 3), (2, 7)], true),
            ([(0, 4), (1, 0), (2, 7)], false),
            ([(0, 9), (1, 9), (2, 6)], false),
        ] {
            assert_eq!(has_come_as_far(&BTreeMap::from(built), &live), is_far, "{built:?}");
        }
        assert!(
            !has_come_as_far(&BTreeMap::from([(0, 5), (2, 7)]), &live),
            "nothing is known of 1"
        );
    }
}
