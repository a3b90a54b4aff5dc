//! Bugs that are put into the product on purpose, to see that seeds find them. The list and the sites are the product's
//! ([`jangada_types::planted`]); they are compiled in only with the feature `planted`.

use jangada_types::planted::Bug;

/// The names of all bugs that can be planted.
pub const NAMES: &[&str] = Bug::NAMES;

/// What the product does wrong with the bug of this name, in a sentence; none: there is no such bug.
pub fn what(name: &str) -> Option<&'static str> {
    Bug::of_name(name).map(Bug::what)
}

/// Plants the bug of this name for the whole process.
///
/// # Errors
/// There is no such bug, or this build has none.
pub fn plant(name: &str) -> Result<(), String> {
    let bug = Bug::of_name(name).ok_or_else(|| format!("there is no bug {name:?}: one of {}", NAMES.join(", ")))?;
    plant_bug(bug)
}

#[cfg(feature = "planted")]
fn plant_bug(bug: Bug) -> Result<(), String> {
    jangada_types::planted::plant(Some(bug));
    Ok(())
}

#[cfg(not(feature = "planted"))]
fn plant_bug(bug: Bug) -> Result<(), String> {
    Err(format!(
        "{} cannot be planted: build with the feature `planted`",
        bug.name()
    ))
}

/// How often this process has come to a site of the bug that is planted; always 0 without the feature.
pub fn reached() -> u64 {
    #[cfg(feature = "planted")]
    let reached = jangada_types::planted::reached();
    #[cfg(not(feature = "planted"))]
    let reached = 0;
    reached
}
