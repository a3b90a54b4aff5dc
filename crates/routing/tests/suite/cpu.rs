//! The processor time of a thread, for tests that hold what something costs.

use std::time::Duration;

/// How long this thread has run on a processor: other programs are not to count.
pub fn worked() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux says how long a thread has run");
    let nanos = stat.split(' ').next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.expect("it is the first number"))
}
