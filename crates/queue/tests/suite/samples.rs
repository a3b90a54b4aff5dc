//! Commands that follow from a seed, for golden files and random histories alike.

use jangada_queue::{QueueOps, Section, SectionKind};
use jangada_types::replicated::{Sample, Seeds};

/// The kinds of sections that the first build had: golden files have commands with all of them.
const FIRST_KINDS: usize = 14;

/// A section of this kind whose lists belong together, as an engine makes them.
pub fn section(kind: SectionKind, seeds: &mut Seeds) -> Section {
    if kind == SectionKind::Dead {
        // Without keys and lanes, as of messages that somebody has.
        return Section::Dead {
            slot: Sample::sample(seeds),
            reason: Sample::sample(seeds),
            messages: Sample::sample(seeds),
            failed: Sample::sample(seeds),
            keys: Vec::new(),
            lanes: Vec::new(),
        };
    }
    let mut section = Section::sample(kind, seeds);
    match &mut section {
        Section::Grant {
            messages, keys, lanes, ..
        } => {
            let count = messages.len() as usize;
            *keys = (0..count).map(|_| seeds.draw()).collect();
            *lanes = (0..count).map(|_| seeds.below(32) as u32).collect();
            if seeds.below(2) == 0 {
                keys.clear();
            }
            if seeds.below(2) == 0 {
                lanes.clear();
            }
        }
        Section::Retry {
            messages, delays_ms, ..
        } => *delays_ms = (0..messages.len()).map(|_| seeds.below(10_000)).collect(),
        _ => {}
    }
    section
}

/// A command with one section of each kind that the first build had.
pub fn ops(seed: u64) -> QueueOps {
    let mut seeds = Seeds::new(seed);
    let kinds = SectionKind::ALL.iter().take(FIRST_KINDS);
    QueueOps {
        term: seeds.below(9),
        now_ms: 1_700_000_000_000 + seeds.below(1_000),
        ticket: 0,
        sections: kinds.map(|kind| section(*kind, &mut seeds)).collect(),
    }
}
