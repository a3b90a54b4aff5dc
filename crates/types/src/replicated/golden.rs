//! Golden files: what earlier builds wrote, for the tests of whatever goes to disks and logs.

use std::path::Path;

use super::{Declared, Seeds};

/// Bytes as a line of a golden file has them.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Compares the lines `case value` with those of `tests/golden/FILE` of the crate whose manifest is in this directory. With
/// `JANGADA_BLESS=1` a line that is not there yet is added, and none is changed.
///
/// # Panics
/// A value is another one, or is not in the file.
pub fn compare_golden(manifest: &str, file: &str, lines: impl IntoIterator<Item = (String, String)>) {
    let path = Path::new(manifest).join("tests/golden").join(file);
    let mut golden = std::fs::read_to_string(&path).unwrap_or_default();
    let blesses = std::env::var_os("JANGADA_BLESS").is_some();
    for (case, value) in lines {
        let known = golden.lines().find_map(|line| line.strip_prefix(&format!("{case} ")));
        match known {
            Some(known) => assert_eq!(value, known, "{case} is not what {file} says"),
            None => {
                assert!(blesses, "{case} is not in {file}: record it with JANGADA_BLESS=1");
                golden += &format!("{case} {value}\n");
            }
        }
    }
    if blesses {
        std::fs::write(&path, golden).expect("the golden file can be written");
    }
}

/// Golden cases of each kind. Whatever is drawn for another kind leaves them as they are.
const CASES: u64 = 4;

/// [`compare_golden`] of sample values of each kind: a new kind needs no code in its tests, only its lines.
///
/// # Panics
/// Also when a value does not come back from its bytes.
pub fn compare_declared<T: Declared>(manifest: &str, file: &str) {
    let cases = T::KINDS
        .iter()
        .flat_map(|kind| (0..CASES).map(move |case| (*kind, case)));
    let lines = cases.map(|(kind, case)| {
        let (byte, name) = T::name(kind);
        let bytes = T::sample(kind, &mut Seeds::new((case << 8) | u64::from(byte))).encode();
        assert_eq!(T::decode(&bytes).map(|value| value.kind()), Ok(kind));
        (format!("{name} {case}"), hex(&bytes))
    });
    compare_golden(manifest, file, lines);
}
