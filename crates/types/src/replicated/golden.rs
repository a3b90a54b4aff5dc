//! Golden files: what earlier builds wrote, for the tests of whatever goes to disks and logs.

use std::path::Path;

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
