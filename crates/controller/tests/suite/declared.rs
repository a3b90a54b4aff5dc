//! Tests that follow from the declarations of commands and replies: golden cases and properties of every kind.
//!
//! A new kind needs no code here. Its golden cases are recorded with `JANGADA_BLESS=1`, which adds lines to the files in
//! `tests/golden` and changes none.

use jangada_controller::{Command, CommandKind, FEATURE_LEVEL, Image, Reply};
use jangada_types::replicated::{Declared as _, Seeds, compare_declared};
use proptest::prelude::*;

#[test]
fn every_kind_of_command_keeps_its_bytes() {
    compare_declared::<Command>(env!("CARGO_MANIFEST_DIR"), "commands.txt");
}

#[test]
fn every_kind_of_reply_keeps_its_bytes() {
    compare_declared::<Reply>(env!("CARGO_MANIFEST_DIR"), "replies.txt");
}

/// The commands that each level added. A command's level is part of what older brokers rely on.
#[test]
fn commands_keep_their_levels() {
    let since = |level| -> Vec<_> {
        let kinds = CommandKind::ALL.iter().filter(|kind| kind.since() == level);
        kinds.map(|kind| kind.as_str()).collect()
    };
    assert_eq!(since(2), ["CreateCoordinator"]);
    assert_eq!(since(3), ["RaiseFeatureLevel"]);
    assert_eq!(since(4), ["AddPartitions"]);
    assert_eq!(since(5), ["RemoveBroker", "RenewReplica"]);
    assert_eq!(since(6), ["RegisterEndpoints"]);
    let of_queues = [
        "CreateOwnedQueue",
        "CreateGroupQueue",
        "AlterQueue",
        "DeleteQueue",
        "ExpireQueue",
    ];
    assert_eq!(since(7), of_queues);
    let of_exchanges = [
        "CreateExchange",
        "DeleteExchange",
        "Bind",
        "Unbind",
        "CreateLoggedExchange",
        "CreateBoundQueue",
    ];
    assert_eq!(since(9), of_exchanges);
    assert!(
        CommandKind::ALL
            .iter()
            .all(|kind| (1..=FEATURE_LEVEL).contains(&kind.since()))
    );
}

proptest! {
    #[test]
    fn every_command_comes_back(seed: u64) {
        Command::assert_all_come_back(seed);
    }

    #[test]
    fn every_reply_comes_back(seed: u64) {
        Reply::assert_all_come_back(seed);
    }

    /// For any history: no command that can be decoded makes the fold panic, and a snapshot gives back the folded
    /// image.
    #[test]
    fn every_command_is_folded(seeds in prop::collection::vec(any::<u64>(), 1..40)) {
        let mut image = Image::new();
        for (index, seed) in (1..).zip(seeds) {
            let mut seeds = Seeds::new(seed);
            let kind = CommandKind::ALL[seeds.below(CommandKind::ALL.len() as u64) as usize];
            image.apply(index, &Command::sample(kind, &mut seeds));
        }
        let restored = Image::restore(&image.snapshot());
        prop_assert_eq!(restored.as_ref(), Ok(&image));
    }
}
