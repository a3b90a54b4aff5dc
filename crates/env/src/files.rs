//! Small files that are read and written as a whole: the identity of a data directory. The store's files are the store's own.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// What is done with such files. All of it blocks, for a moment.
pub trait Files: fmt::Debug + Send + Sync + 'static {
    /// Makes a directory with all above it. One that is there already is fine.
    ///
    /// # Errors
    /// The system's.
    fn make_directory(&self, path: &Path) -> io::Result<()>;

    /// Whether there is a file or a directory.
    fn exists(&self, path: &Path) -> bool;

    /// The whole file.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if it is not there; the system's.
    fn read(&self, path: &Path) -> io::Result<String>;

    /// Makes or replaces a file. After it returned, a crash leaves the new one; before, the old one or the new one.
    ///
    /// # Errors
    /// The system's; with what failed in words, since there are several steps.
    fn replace(&self, path: &Path, text: &str) -> Result<(), ReplaceError>;

    /// Removes a file.
    ///
    /// # Errors
    /// The system's.
    fn remove(&self, path: &Path) -> io::Result<()>;
}

/// Which step of [`Files::replace`] failed.
#[derive(Debug)]
pub struct ReplaceError {
    /// In words, after the name of the file: "cannot be synced".
    pub action: &'static str,
    /// The reason that the system gives.
    pub source: io::Error,
}

/// The files of the system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemFiles;

impl Files for SystemFiles {
    fn make_directory(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }

    fn read(&self, path: &Path) -> io::Result<String> {
        fs::read_to_string(path)
    }

    /// Writes a new file beside the old one, syncs it, puts it in its place, and syncs the directory.
    fn replace(&self, path: &Path, text: &str) -> Result<(), ReplaceError> {
        let failed = |action| move |source| ReplaceError { action, source };
        let mut new = path.as_os_str().to_owned();
        new.push(".new");
        let new = PathBuf::from(new);
        let mut file = File::create(&new).map_err(failed("cannot be written"))?;
        file.write_all(text.as_bytes()).map_err(failed("cannot be written"))?;
        file.sync_all().map_err(failed("cannot be synced"))?;
        fs::rename(&new, path).map_err(failed("cannot be renamed"))?;
        let directory = path.parent().unwrap_or(Path::new("."));
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(failed("cannot be synced"))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("made").join("identity");
        SystemFiles
            .make_directory(path.parent().expect("it has one"))
            .expect("it can be made");
        assert!(!SystemFiles.exists(&path));
        let missing = SystemFiles.read(&path).expect_err("it is not there");
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        for text in ["one", "another"] {
            SystemFiles.replace(&path, text).expect("it can be written");
            assert_eq!(SystemFiles.read(&path).expect("it is there"), text);
        }
        SystemFiles.remove(&path).expect("it is there");
        assert!(!SystemFiles.exists(&path));
        let nowhere = dir.path().join("nowhere").join("identity");
        let error = SystemFiles
            .replace(&nowhere, "one")
            .expect_err("there is no such directory");
        assert_eq!(error.action, "cannot be written");
    }
}
