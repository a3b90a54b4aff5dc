//! Tests that follow from the declarations of commands and replies: golden cases and properties of every kind.
//!
//! A new kind needs no code here. Its golden cases are recorded with `JANGADA_BLESS=1`, which adds lines to the files in
//! `tests/golden` and changes none.

use jangada_controller::{Command, CommandKind, FEATURE_LEVEL, Image, Reply, ReplyKind};
use jangada_types::replicated::{Seeds, compare_golden, hex};
use proptest::prelude::*;

/// Number of golden cases of each kind. Cases drawn for another kind leave them as they are.
const CASES: u64 = 4;

fn seeds(case: u64, kind: u8) -> Seeds {
    Seeds::new((case << 8) | u64::from(kind))
}

fn compare(file: &str, lines: impl IntoIterator<Item = (String, String)>) {
    compare_golden(env!("CARGO_MANIFEST_DIR"), file, lines);
}

#[test]
fn every_kind_of_command_keeps_its_bytes() {
    let cases = CommandKind::ALL
        .iter()
        .flat_map(|kind| (0..CASES).map(move |case| (*kind, case)));
    let lines = cases.map(|(kind, case)| {
        let bytes = Command::sample(kind, &mut seeds(case, kind.byte())).encode();
        assert_eq!(Command::decode(&bytes).map(|command| command.kind()), Ok(kind));
        (format!("{} {case}", kind.as_str()), hex(&bytes))
    });
    compare("commands.txt", lines);
}

#[test]
fn every_kind_of_reply_keeps_its_bytes() {
    let cases = ReplyKind::ALL
        .iter()
        .flat_map(|kind| (0..CASES).map(move |case| (*kind, case)));
    let lines = cases.map(|(kind, case)| {
        let bytes = Reply::sample(kind, &mut seeds(case, kind.byte())).encode();
        assert_eq!(Reply::decode(&bytes).map(|reply| reply.kind()), Ok(kind));
        (format!("{} {case}", kind.as_str()), hex(&bytes))
    });
    compare("replies.txt", lines);
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
    assert!(
        CommandKind::ALL
            .iter()
            .all(|kind| (1..=FEATURE_LEVEL).contains(&kind.since()))
    );
}

proptest! {
    #[test]
    fn every_command_comes_back(seed: u64) {
        for kind in CommandKind::ALL {
            let command = Command::sample(*kind, &mut Seeds::new(seed));
            let bytes = command.encode();
            prop_assert_eq!(&bytes[..2], &[1, kind.byte()]);
            prop_assert_eq!(Command::decode(&bytes), Ok(command));
        }
    }

    #[test]
    fn every_reply_comes_back(seed: u64) {
        for kind in ReplyKind::ALL {
            let reply = Reply::sample(*kind, &mut Seeds::new(seed));
            prop_assert_eq!(Reply::decode(&reply.encode()), Ok(reply));
        }
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
