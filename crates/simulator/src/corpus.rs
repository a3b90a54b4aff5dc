//! Scenarios that once failed, kept as text whatever a seed draws by now: `tests/simulator/corpus/*.scenario`. Comments in a file say
//! what went wrong, and which commit mended it.

use std::io;
use std::path::{Path, PathBuf};

use crate::scenario::Scenario;

/// The scenarios of a directory, by file name in order.
///
/// # Errors
/// The directory or a file cannot be read, or a file is no scenario.
pub fn read(directory: &Path) -> io::Result<Vec<(String, Scenario)>> {
    let entries = std::fs::read_dir(directory)?.collect::<io::Result<Vec<_>>>()?;
    let mut paths: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "scenario"));
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path)?;
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let scenario = text
                .parse()
                .map_err(|error| io::Error::other(format!("{name}: {error}")))?;
            Ok((name, scenario))
        })
        .collect()
}
