//! Files that are written as a whole or not at all.

use std::fs::{self, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use tempfile::Builder;

use crate::errors::{CliError, Result};

/// The permissions of a new file, before the umask.
const MODE: u32 = 0o666;

/// Writes a text into a file, or leaves the old contents.
///
/// # Errors
/// When it cannot be written; the message has the file's name.
pub fn write_whole(path: &Path, text: &str) -> Result<()> {
    write(path, text).map_err(|error| CliError::new(format!("cannot write {}: {error}", path.display())))
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let path = match path.metadata() {
        // A pipe or a terminal cannot be replaced.
        Ok(there) if !there.is_file() => return fs::write(path, text),
        // The target of a link is replaced, not the link.
        Ok(_) => path.canonicalize()?,
        Err(_) => path.to_owned(),
    };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut beside = Builder::new()
        .prefix(".new-")
        .permissions(Permissions::from_mode(MODE))
        .tempfile_in(folder.unwrap_or(Path::new(".")))?;
    beside.write_all(text.as_bytes())?;
    beside.as_file().sync_all()?;
    beside.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_where_it_is() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (file, link) = (folder.path().join("a"), folder.path().join("b"));
        std::os::unix::fs::symlink(&file, &link).expect("the folder is ours");
        let text = || fs::read_to_string(&link).expect("it is there");
        for path in [&file, &file, &link] {
            write_whole(path, &path.display().to_string()).expect("the folder is ours");
            assert_eq!(text(), path.display().to_string());
        }
        assert_eq!(fs::read_to_string(&file).expect("it is there"), text());
        assert_eq!(fs::read_dir(folder.path()).expect("it is there").count(), 2);
        let nowhere = folder.path().join("none/c");
        let error = write_whole(&nowhere, "x").expect_err("there is no such folder");
        assert!(error.to_string().contains("none/c"), "{error}");
    }
}
