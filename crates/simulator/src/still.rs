//! The system's clocks stand still for the thread of a simulation.
//!
//! h2 remembers a stream that was reset for a second of the system's monotonic clock, and answers what comes later for it with another
//! frame than before. Nobody hands it another clock. So what it reads is answered here: while a simulation runs on a thread, each clock of
//! the system shows the same time there; elsewhere it shows what the kernel says. Without it one seed of ten gave another trace on a
//! machine that was busy.

use std::cell::Cell;
use std::ffi::{c_int, c_long};

/// What all clocks show: later than any uptime, so that who waits until then waits for longer, and never in vain.
const SECONDS: i64 = 1_767_225_600;

/// The number of the system call.
#[cfg(target_arch = "x86_64")]
const CLOCK_GETTIME: c_long = 228;
#[cfg(not(target_arch = "x86_64"))]
const CLOCK_GETTIME: c_long = 113;

thread_local! {
    static IS_STILL: Cell<bool> = const { Cell::new(false) };
}

/// `struct timespec` of a system with 64 bits.
#[repr(C)]
pub(crate) struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

#[allow(
    unsafe_code,
    reason = "there is no other way to the kernel's clock beside the function that is replaced"
)]
unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
}

/// Replaces the C library's function in programs that have a simulator.
///
/// # Safety
/// `time` is null or points to a `struct timespec`, as the C library's function wants it.
#[allow(unsafe_code, reason = "the linker goes by the name")]
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: c_int, time: *mut Timespec) -> c_int {
    if IS_STILL.get() {
        let still = Timespec {
            seconds: SECONDS,
            nanoseconds: 0,
        };
        if !time.is_null() {
            // SAFETY: the caller's promise.
            unsafe { time.write(still) };
        }
        return 0;
    }
    // SAFETY: the kernel checks the pointer, and both arguments have the types that it wants.
    unsafe { syscall(CLOCK_GETTIME, c_long::from(clock), time) as c_int }
}

/// While it is there, clocks stand still on its thread.
pub(crate) struct Still(());

impl Still {
    /// From now on.
    pub fn begin() -> Self {
        IS_STILL.set(true);
        Self(())
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        IS_STILL.set(false);
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "the system's clock is what is tested")]
mod tests {
    use std::thread::sleep;
    use std::time::{Duration, Instant, SystemTime};

    use super::*;

    #[test]
    fn clocks_stand_still_on_the_thread_of_a_simulation_and_go_on_afterwards() {
        let still = Still::begin();
        let (one, wall) = (Instant::now(), SystemTime::now());
        sleep(Duration::from_millis(5));
        assert_eq!((one, wall), (Instant::now(), SystemTime::now()));
        let elsewhere = std::thread::scope(|scope| scope.spawn(Instant::now).join());
        assert_ne!(elsewhere.expect("it does not panic"), one);
        drop(still);
        let other = Instant::now();
        sleep(Duration::from_millis(5));
        assert!(other.elapsed() >= Duration::from_millis(5));
    }
}
