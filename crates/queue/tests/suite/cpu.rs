//! The processor time of a thread, for tests that hold what something costs.

use std::time::Duration;

/// How long this thread has run on a processor: other programs are not to count.
pub fn worked() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux says how long a thread has run");
    let nanos = stat.split(' ').next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.expect("it is the first number"))
}

/// What [`worked`] itself costs.
pub fn clock_costs() -> Duration {
    let reads = 20_000;
    let begun = worked();
    for _ in 0..reads {
        std::hint::black_box(worked());
    }
    (worked() - begun) / reads
}
