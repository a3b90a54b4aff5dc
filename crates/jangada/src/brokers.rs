//! Chooses the brokers that a command begins with, and remembers where they were named.
//!
//! The sources in order; the first one that names brokers counts:
//!
//! 1. `--brokers`
//! 2. `JANGADA_BROKERS`
//! 3. `jangada-data/brokers` in the working directory, which `jangada up` wrote there
//! 4. the cluster that `jangada up` runs for this user at the default address, from wherever it was started: a link in
//!    `$XDG_STATE_HOME/jangada/clusters` (`~/.local/state`), which `jangada down` takes away
//! 5. the default address
//!
//! 3 and 4 name all brokers of the cluster, so that commands work when the first of them is down. 4 never leads to another cluster than
//! 5 would. A file also has the cluster's id: brokers of another cluster that has got the same addresses meanwhile are not taken for it.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use crate::cli::BrokersArgs;
use crate::errors::{CliError, Result};
use crate::note::note;

/// The first broker of a cluster of `up` by default.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:9400";

/// The directory of a cluster of `up` by default.
pub const DEFAULT_DIR: &str = "jangada-data";

/// The file in a cluster's directory that names its brokers.
pub const FILE_NAME: &str = "brokers";

/// The environment variable with the list of brokers.
const VARIABLE: &str = "JANGADA_BROKERS";

/// The brokers that a command begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Brokers {
    /// Their addresses, host:port each.
    pub addresses: Vec<String>,
    /// The cluster that they must belong to, when that is known.
    pub cluster_id: Option<String>,
    source: Source,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    Flag,
    Variable,
    File(PathBuf),
    Default,
    /// The command itself knows the brokers.
    Given,
}

/// The places where files with brokers are looked for.
struct Places {
    variable: Option<String>,
    working_directory: PathBuf,
    links: Option<PathBuf>,
}

impl Brokers {
    /// The brokers of a command.
    ///
    /// # Errors
    /// When a file that is to name them cannot be read.
    pub fn find(args: &BrokersArgs) -> Result<Brokers> {
        let places = Places {
            variable: env::var(VARIABLE).ok(),
            working_directory: PathBuf::from("."),
            links: links_folder(),
        };
        Brokers::find_in(&args.brokers, &places)
    }

    fn find_in(flag: &[String], places: &Places) -> Result<Brokers> {
        let of = |addresses, source| Brokers {
            addresses,
            cluster_id: None,
            source,
        };
        if !flag.is_empty() {
            return Ok(of(flag.to_vec(), Source::Flag));
        }
        let variable = places.variable.as_deref().map(split).unwrap_or_default();
        if !variable.is_empty() {
            return Ok(of(variable, Source::Variable));
        }
        let here = places.working_directory.join(DEFAULT_DIR).join(FILE_NAME);
        let linked = places.links.as_ref().map(|links| links.join(DEFAULT_ADDRESS));
        for path in [Some(here), linked].into_iter().flatten() {
            if let Some(brokers) = read(&path)? {
                return Ok(brokers);
            }
        }
        Ok(of(vec![DEFAULT_ADDRESS.to_owned()], Source::Default))
    }

    /// Brokers that the command itself knows.
    pub fn given(addresses: Vec<String>) -> Brokers {
        Brokers {
            addresses,
            cluster_id: None,
            source: Source::Given,
        }
    }

    /// The addresses, and the place where they were named.
    pub fn described(&self) -> String {
        let addresses = self.addresses.join(", ");
        match &self.source {
            Source::Flag => format!("{addresses} (--brokers)"),
            Source::Variable => format!("{addresses} ({VARIABLE})"),
            Source::File(path) => format!("{addresses} ({})", path.display()),
            Source::Default => format!("{addresses} (the default)"),
            Source::Given => addresses,
        }
    }

    /// The advice for a user when none of them answers.
    pub fn hint(&self) -> String {
        let asked = format!("asked: {}", self.described());
        match &self.source {
            Source::File(path) => {
                let folder = path.parent().unwrap_or(Path::new("."));
                format!(
                    "{asked}; `jangada up --dir {}` starts that cluster, --brokers or {VARIABLE} names another",
                    folder.display()
                )
            }
            Source::Default => match running() {
                clusters if clusters.is_empty() => {
                    format!("{asked}; --brokers or {VARIABLE} names others, `jangada up` starts a cluster here")
                }
                clusters => format!(
                    "{asked}; `jangada up` has clusters elsewhere: --brokers {}",
                    clusters.join(" or --brokers ")
                ),
            },
            _ => format!("{asked}; is the cluster running there? `jangada up` starts one on this machine"),
        }
    }

    /// Fails if the brokers belong to another cluster than their file says.
    pub fn check_cluster(&self, cluster_id: &str) -> Result<()> {
        match (&self.source, &self.cluster_id) {
            (Source::File(path), Some(expected)) if expected != cluster_id => {
                let message = format!(
                    "the brokers at {} are of cluster {cluster_id}, not of cluster {expected} that `jangada up` started: \
                     another cluster has its addresses now",
                    self.described()
                );
                Err(CliError::new(message).hint(format!(
                    "name the brokers with --brokers or {VARIABLE}, or start the cluster of {} again",
                    path.parent().unwrap_or(Path::new(".")).display()
                )))
            }
            _ => Ok(()),
        }
    }
}

/// The text of a file that names a cluster's brokers.
pub fn file_text(addresses: &[String], cluster_id: &str) -> String {
    format!(
        "# The brokers of this cluster, for --brokers; written by `jangada up`.\n# cluster {cluster_id}\n{}\n",
        addresses.join(",")
    )
}

/// Lets commands from any directory find the cluster whose first broker has this address. Without a home directory the
/// link has no place; then commands need the flag.
pub fn publish(first_address: &str, file: &Path) {
    let Some(links) = links_folder() else { return };
    let link = links.join(first_address);
    let linked = fs::create_dir_all(&links).and_then(|()| {
        // The link is made beside and moved, so that there is always either the old or the new one.
        let beside = links.join(format!(".new-{}", std::process::id()));
        let _ = fs::remove_file(&beside);
        symlink(file, &beside)?;
        fs::rename(&beside, &link)
    });
    if let Err(error) = linked {
        note(&format!(
            "warning: cannot note the cluster in {}: {error}; commands from other directories need --brokers",
            link.display()
        ));
    }
}

/// Removes the link that [`publish`] made for the cluster with this file.
pub fn withdraw(file: &Path) {
    let Some(links) = links_folder() else { return };
    let links = fs::read_dir(links).into_iter().flatten().flatten();
    for link in links.filter(|link| fs::read_link(link.path()).is_ok_and(|target| target == file)) {
        if let Err(error) = fs::remove_file(link.path()) {
            note(&format!("warning: cannot remove {}: {error}", link.path().display()));
        }
    }
}

/// The lists of brokers of the clusters that `up` runs for this user.
fn running() -> Vec<String> {
    let links = links_folder().map(fs::read_dir).and_then(io::Result::ok);
    let links = links.into_iter().flatten().flatten();
    let mut clusters: Vec<String> = links
        .filter_map(|link| Some(read(&link.path()).ok()??.addresses.join(",")))
        .collect();
    clusters.sort();
    clusters
}

fn links_folder() -> Option<PathBuf> {
    let absolute = |name: &str| -> Option<PathBuf> {
        let path: OsString = env::var_os(name)?;
        Some(PathBuf::from(path)).filter(|path| path.is_absolute())
    };
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    Some(state.join("jangada/clusters"))
}

/// The brokers that a file names. `None`: there is no such file, or it is another user's, who must not choose where
/// commands go.
fn read(path: &Path) -> Result<Option<Brokers>> {
    let failed = |error: io::Error| {
        CliError::new(format!(
            "cannot read {}, which is to name the brokers: {error}",
            path.display()
        ))
        .hint(format!("name them with --brokers or {VARIABLE}"))
    };
    // The target of a link, so that messages name the cluster's own directory.
    let real = match path.canonicalize() {
        Ok(real) => real,
        Err(_) => return Ok(None),
    };
    let shown = if path.is_symlink() { &real } else { path };
    let owner = fs::metadata(&real).map_err(failed)?.uid();
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        note(&format!(
            "warning: {} belongs to another user and is not used",
            shown.display()
        ));
        return Ok(None);
    }
    let text = fs::read_to_string(&real).map_err(failed)?;
    let cluster_id = text.lines().find_map(|line| line.strip_prefix("# cluster "));
    let addresses = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(split)
        .collect::<Vec<_>>();
    if addresses.is_empty() {
        return Err(failed(io::Error::new(io::ErrorKind::InvalidData, "it names none")));
    }
    Ok(Some(Brokers {
        addresses,
        cluster_id: cluster_id.map(|id| id.trim().to_owned()),
        source: Source::File(shown.to_owned()),
    }))
}

fn split(text: &str) -> Vec<String> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(folder: &Path) -> Places {
        Places {
            variable: None,
            working_directory: folder.join("work"),
            links: Some(folder.join("links")),
        }
    }

    fn found(flag: &[&str], places: &Places) -> Brokers {
        let flag: Vec<_> = flag.iter().map(|address| (*address).to_owned()).collect();
        Brokers::find_in(&flag, places).expect("the files are readable")
    }

    #[test]
    fn the_flag_wins_then_the_variable_then_files_then_the_default() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let mut places = places(folder.path());
        assert_eq!(found(&[], &places).described(), "127.0.0.1:9400 (the default)");

        let elsewhere = folder.path().join("elsewhere");
        let links = places.links.clone().expect("it is set");
        fs::create_dir_all(&elsewhere).expect("the directory is ours");
        fs::create_dir_all(&links).expect("the directory is ours");
        let file = elsewhere.join(FILE_NAME);
        let two = ["127.0.0.1:9400".to_owned(), "127.0.0.1:9401".to_owned()];
        fs::write(&file, file_text(&two, "abc")).expect("the directory is ours");
        symlink(&file, links.join(DEFAULT_ADDRESS)).expect("the directory is ours");
        let linked = found(&[], &places);
        assert_eq!(
            (&linked.addresses[..], linked.cluster_id.as_deref()),
            (&two[..], Some("abc"))
        );
        assert!(
            linked.hint().contains("elsewhere` starts that cluster"),
            "{}",
            linked.hint()
        );

        let here = places.working_directory.join(DEFAULT_DIR);
        fs::create_dir_all(&here).expect("the directory is ours");
        fs::write(here.join(FILE_NAME), "127.0.0.1:9500\n").expect("the directory is ours");
        assert_eq!(found(&[], &places).addresses, ["127.0.0.1:9500"]);

        places.variable = Some(" a:1, b:2 ".to_owned());
        assert_eq!(found(&[], &places).described(), "a:1, b:2 (JANGADA_BROKERS)");
        assert_eq!(found(&["c:3"], &places).described(), "c:3 (--brokers)");
        places.variable = Some(String::new());
        assert_eq!(
            found(&[], &places).addresses,
            ["127.0.0.1:9500"],
            "an empty one names none"
        );
    }

    #[test]
    fn a_link_without_its_file_leads_nowhere() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let places = places(folder.path());
        let links = places.links.clone().expect("it is set");
        fs::create_dir_all(&links).expect("the directory is ours");
        symlink(folder.path().join("gone"), links.join(DEFAULT_ADDRESS)).expect("the directory is ours");
        assert_eq!(found(&[], &places).addresses, [DEFAULT_ADDRESS]);
    }

    #[test]
    fn a_file_that_names_none_is_an_error() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let here = folder.path().join("work").join(DEFAULT_DIR);
        fs::create_dir_all(&here).expect("the directory is ours");
        fs::write(here.join(FILE_NAME), "# nothing\n").expect("the directory is ours");
        let error = Brokers::find_in(&[], &places(folder.path())).expect_err("it names none");
        assert!(error.to_string().contains("jangada-data/brokers"), "{error}");
    }

    #[test]
    fn brokers_of_another_cluster_are_not_taken() {
        let mut brokers = Brokers::given(vec!["a:1".to_owned()]);
        brokers.check_cluster("any").expect("nothing is known");
        brokers.source = Source::File(PathBuf::from("d/brokers"));
        brokers.cluster_id = Some("ours".to_owned());
        brokers.check_cluster("ours").expect("it is the one");
        let error = brokers.check_cluster("theirs").expect_err("another one").to_string();
        assert!(error.contains("theirs") && error.contains("ours"), "{error}");
    }
}
