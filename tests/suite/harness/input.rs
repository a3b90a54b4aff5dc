//! Generated input for tests.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// Lines of all kinds, as one file: short and long, empty, with carriage returns, with bytes that are not UTF-8. No line has a newline
/// within, each ends with one. The same count gives the same file.
pub fn awkward_lines(count: usize) -> Vec<u8> {
    let mut random = StdRng::seed_from_u64(count as u64);
    let mut file = Vec::new();
    for number in 0..count {
        match number % 10 {
            0 => {}
            1 => file.extend_from_slice(format!("line {number}\r").as_bytes()),
            2 => file.extend((0..40).map(|_| random.random_range(11..=255u8))),
            3 => file.extend_from_slice(b"\r"),
            4 => file.extend_from_slice(format!("\u{e9}\u{4e2d}\u{1f600} {number}\t\0").as_bytes()),
            5 if number % 250 == 5 => file.extend((0..100_000).map(|_| random.random_range(32..127u8))),
            _ => {
                let length = random.random_range(1..400);
                file.extend_from_slice(format!("{number}: ").as_bytes());
                file.extend((0..length).map(|_| random.random_range(32..127u8)));
            }
        }
        file.push(b'\n');
    }
    file
}

/// The lines of a file, without their newlines.
pub fn lines_of(file: &[u8]) -> Vec<&[u8]> {
    let mut lines: Vec<&[u8]> = file.split(|byte| *byte == b'\n').collect();
    if lines.last().is_some_and(|last| last.is_empty()) {
        lines.pop();
    }
    lines
}
