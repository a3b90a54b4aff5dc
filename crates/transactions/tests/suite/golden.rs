//! The bytes of every command and of the state. They are in logs and snapshots on disks: whatever else changes, a later build must read
//! these and give the same values.

use jangada_machine::Machine;
use jangada_transactions::{
    CodecError, Command, CommandKind, Image, Outcome, Producer, RestoreError, TransactionState,
};
use jangada_types::replicated::{Declared as _, Seeds, compare_declared, compare_golden, hex};
use jangada_types::{GroupId, ProducerId};
use proptest::prelude::*;

fn compare(file: &str, lines: impl IntoIterator<Item = (String, String)>) {
    compare_golden(env!("CARGO_MANIFEST_DIR"), file, lines);
}

#[test]
fn every_kind_of_command_keeps_its_bytes() {
    compare_declared::<Command>(env!("CARGO_MANIFEST_DIR"), "commands.txt");
}

#[test]
fn commands_keep_their_levels_and_their_head() {
    for kind in CommandKind::ALL {
        let since = if *kind == CommandKind::Begin { 10 } else { 8 };
        assert_eq!(kind.since(), since, "{}", kind.as_str());
    }
    let command = Command::Expire {
        id: "t".into(),
        touched_ms: 3,
    };
    let encoded = <Image as Machine>::encode(command.clone());
    assert_eq!((encoded.head(), &encoded.body()[..2]), (&[2][..], &[1, 5][..]));
    assert_eq!(<Image as Machine>::decode(encoded), Ok(command));
}

/// One id in each state.
fn image() -> Image {
    let mut image = Image::new();
    let mut apply = |command: Command| image.apply(image.version() + 1, &command);
    for (number, state) in (1..).zip(TransactionState::ALL) {
        let id = || state.as_str().into();
        let producer = Producer::first(ProducerId(300 + number));
        let init = |from, next| Command::Init {
            id: id(),
            from,
            next,
            is_by_holder: true,
            timeout_ms: 60_000,
            at_ms: 1_700_000_000_000,
        };
        apply(init(None, producer));
        if state == TransactionState::Empty {
            apply(init(Some(producer), producer.bumped()));
            continue;
        }
        apply(Command::Add {
            id: id(),
            producer,
            seq: 1,
            partitions: vec![GroupId(5), GroupId(1 << 40)],
            groups: vec!["g".into(), "h".into()],
            metadata_version: 77,
            at_ms: 1_700_000_000_001,
        });
        if state == TransactionState::Ongoing {
            continue;
        }
        let is_commit = matches!(
            state,
            TransactionState::PrepareCommit | TransactionState::CompleteCommit
        );
        let outcome = if is_commit {
            Outcome::Committed
        } else {
            Outcome::TimedOut
        };
        apply(Command::End {
            id: id(),
            producer,
            seq: 1,
            outcome,
            next: producer.bumped(),
            at_ms: 1_700_000_000_002,
        });
        if state.is_idle() {
            let ended = vec![(id(), 1)];
            let at_ms = 1_700_000_000_003;
            apply(Command::Complete { ended, at_ms });
        }
    }
    image
}

#[test]
fn the_state_keeps_its_bytes() {
    let image = image();
    for (id, row) in image.ids() {
        assert_eq!(&**id, row.state.as_str(), "each state is there");
    }
    compare("states.txt", [("each state".to_owned(), hex(&image.snapshot()))]);
    compare("states.txt", [("empty".to_owned(), hex(&Image::new().snapshot()))]);
    assert_eq!(Image::restore(&image.snapshot()), Ok(image.clone()));
    let mut pieces = Vec::new();
    image.encode_into(&mut |piece| pieces.extend_from_slice(&piece));
    assert_eq!(pieces, image.snapshot());
}

#[test]
fn bytes_that_are_no_state_are_refused() {
    let good = image().snapshot();
    for cut in 0..good.len() {
        if let Ok(cut) = Image::restore(&good[..cut]) {
            // A prefix that ends between two ids is a state.
            cut.check().expect("the state is sound");
        }
    }
    assert!(matches!(
        Image::restore(&[9]),
        Err(RestoreError::Codec(CodecError::UnknownVersion { version: 9, .. }))
    ));
    // Behind the version byte and the version of the state.
    let twice = [&good[..], &good[3..]].concat();
    assert!(matches!(Image::restore(&twice), Err(RestoreError::Inconsistent { .. })));
    let unknown = [&good[..], &[0x78, 1]].concat();
    assert!(matches!(
        Image::restore(&unknown),
        Err(RestoreError::Codec(CodecError::UnknownFields { .. }))
    ));
}

proptest! {
    #[test]
    fn every_command_comes_back(seed: u64) {
        Command::assert_all_come_back(seed);
    }

    /// For any history: no command that can be decoded makes the fold panic, and a snapshot gives back the folded state.
    #[test]
    fn every_command_is_folded(seeds in prop::collection::vec(any::<u64>(), 1..60)) {
        let mut image = image();
        let first = image.version() + 1;
        for (index, seed) in (first..).zip(seeds) {
            let mut seeds = Seeds::new(seed);
            let kind = CommandKind::ALL[seeds.below(CommandKind::ALL.len() as u64) as usize];
            let mut command = Command::sample(kind, &mut seeds);
            aim(&mut command, &image, &mut seeds);
            image.apply(index, &command);
            image.check().expect("the state is sound");
        }
        let restored = Image::restore(&image.snapshot());
        prop_assert_eq!(restored.as_ref(), Ok(&image));
    }

    #[test]
    fn damaged_bytes_are_survived(at in 0_usize..400, byte: u8) {
        let mut bytes = image().snapshot().to_vec();
        let at = at % bytes.len();
        bytes[at] = byte;
        if let Ok(image) = Image::restore(&bytes) {
            prop_assert!(image.check().is_ok());
        }
    }
}

/// Makes a command be about an id that is there, so that it may have an effect.
fn aim(command: &mut Command, image: &Image, seeds: &mut Seeds) {
    let nth = seeds.below(image.ids().len() as u64) as usize;
    let (there, row) = image.ids().nth(nth).expect("some are there");
    match command {
        Command::Init { id, from, next, .. } => {
            (*id, *from) = (there.clone(), Some(row.producer));
            *next = row.producer.bumped();
        }
        Command::Add { id, producer, seq, .. } => {
            (*id, *producer) = (there.clone(), row.producer);
            *seq = row.seq + u64::from(row.state.is_idle());
        }
        Command::Begin { id, producer, seq, .. } => {
            (*id, *producer) = (there.clone(), row.producer);
            *seq = row.seq + 1;
        }
        Command::End {
            id,
            producer,
            seq,
            next,
            ..
        } => {
            (*id, *producer, *seq) = (there.clone(), row.producer, row.seq);
            *next = if seeds.below(2) == 0 {
                row.producer
            } else {
                row.producer.bumped()
            };
        }
        Command::Complete { ended, .. } => ended.push((there.clone(), row.seq)),
        Command::Expire { id, touched_ms } if seeds.below(4) == 0 => {
            (*id, *touched_ms) = (there.clone(), row.touched_ms);
        }
        Command::Expire { .. } => {}
    }
}
