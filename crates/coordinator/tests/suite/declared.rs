//! Tests that follow from the declarations of commands: golden cases and properties of every kind.
//!
//! A new kind needs no code here. Its golden cases are recorded with `JANGADA_BLESS=1`, which adds lines to the files in
//! `tests/golden` and changes none.

use jangada_coordinator::{Command, CommandKind, Image};
use jangada_types::replicated::{Declared as _, Seeds, compare_declared};
use proptest::prelude::*;

#[test]
fn every_kind_of_command_keeps_its_bytes() {
    compare_declared::<Command>(env!("CARGO_MANIFEST_DIR"), "commands.txt");
}

/// The commands that each level added. A command's level is part of what older brokers rely on.
#[test]
fn commands_keep_their_levels() {
    let late: Vec<_> = CommandKind::ALL.iter().filter(|kind| kind.since() != 2).collect();
    let of_transactions = [CommandKind::StageOffsets, CommandKind::EndStaged];
    assert_eq!(
        late,
        [
            &CommandKind::SetTargetRemembering,
            &of_transactions[0],
            &of_transactions[1]
        ]
    );
    assert_eq!(CommandKind::SetTargetRemembering.since(), 5);
    assert_eq!(of_transactions.map(CommandKind::since), [8, 8]);
}

proptest! {
    #[test]
    fn every_command_comes_back(seed: u64) {
        Command::assert_all_come_back(seed);
    }

    /// For any history: no command that can be decoded makes the fold panic, and a snapshot gives back the folded state.
    #[test]
    fn every_command_is_folded(seeds in prop::collection::vec(any::<u64>(), 1..40)) {
        let mut image = Image::new();
        for (index, seed) in (1..).zip(seeds) {
            let mut seeds = Seeds::new(seed);
            let kind = CommandKind::ALL[seeds.below(CommandKind::ALL.len() as u64) as usize];
            image.apply(index, &Command::sample(kind, &mut seeds));
        }
        image.check().expect("the state is sound");
        let restored = Image::restore(&image.snapshot());
        prop_assert_eq!(restored.as_ref(), Ok(&image));
    }
}
