//! Histories without mistakes are valid, whatever their seed; and they are the same as lines and as recorded.

use jangada_check::generate::{self, Options};
use jangada_check::{Judgement, Recorder, check};
use proptest::prelude::*;

use crate::lines;

fn options() -> impl Strategy<Value = Options> {
    (any::<u64>(), 20_u64..800, 2_usize..6, 1_usize..5).prop_map(|(seed, operations, partitions, processes)| Options {
        operations,
        seed,
        partitions,
        processes,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn a_correct_history_is_valid(options in options()) {
        let (clock, time) = generate::clock();
        let recorder = Recorder::new(clock);
        generate::generate(&options, &time, &recorder);
        let verdict = check(&recorder.finish().expect("nothing is written"));
        prop_assert_eq!(verdict.judgement, Judgement::Valid, "{}", verdict);
    }

    #[test]
    fn lines_and_recording_are_judged_alike(options in options()) {
        let (clock, time) = generate::clock();
        let recorder = Recorder::new(clock);
        generate::generate(&options, &time, &recorder);
        let recorded = check(&recorder.finish().expect("nothing is written"));
        prop_assert_eq!(lines::judge(lines::generated(&options)), recorded);
    }
}

#[test]
fn a_seed_gives_the_same_history() {
    let options = Options::default();
    assert_eq!(lines::generated(&options), lines::generated(&options));
    let other = Options { seed: 2, ..options };
    assert_ne!(lines::generated(&options), lines::generated(&other));
}
