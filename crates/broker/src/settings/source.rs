//! Checks the keys and values of one layer against the declarations before the layers are merged, so that an error can name the
//! place.

use std::collections::BTreeMap;

use toml::de::{DeTable, DeValue};

use super::listeners::{self, ANY_NAME};
use super::{Bound, Key, Kind, Problem};

/// All declared keys, by name.
pub(super) struct Declared {
    keys: BTreeMap<String, Key>,
}

impl Declared {
    pub(super) fn new(keys: Vec<Key>) -> Declared {
        Declared {
            keys: keys.into_iter().map(|key| (key.name.clone(), key)).collect(),
        }
    }

    /// The declaration of a key, which may name a listener and may be in the older form.
    fn key(&self, name: &str) -> Option<&Key> {
        let name = listeners::older_form(name).unwrap_or(name);
        self.keys.get(&of_any_name(name))
    }

    fn has_section(&self, name: &str) -> bool {
        let name = of_any_name(&format!("{name}."));
        self.keys.keys().any(|key| key.starts_with(&name))
    }

    fn unknown(&self, key: &str, place: &str) -> Problem {
        let message = match self.nearest(key) {
            Some(nearest) => {
                let nearest = match listeners::listener_of(key) {
                    Some(name) => nearest.replace(ANY_NAME, name),
                    None => nearest.to_owned(),
                };
                format!("does not exist; did you mean `{nearest}`?")
            }
            None => "does not exist; `jangada server reference` lists all settings".to_owned(),
        };
        Problem::new(key, message).at(place)
    }

    /// The declared key or section that was probably meant: one with the same last part in another section, or the one with the
    /// smallest edit distance.
    fn nearest(&self, key: &str) -> Option<&str> {
        let last = |name: &str| name.rsplit('.').next().map(str::to_owned);
        if let Some(elsewhere) = self.keys.keys().find(|name| last(name) == last(key)) {
            return Some(elsewhere);
        }
        let sections = self
            .keys
            .keys()
            .filter_map(|name| name.split_once('.'))
            .map(|(section, _)| section);
        let names = self.keys.keys().map(String::as_str).chain(sections);
        let key = &of_any_name(key);
        let (distance, nearest) = names.map(|name| (edit_distance(key, name), name)).min()?;
        (distance <= key.len().div_ceil(3)).then_some(nearest)
    }

    /// Parses the value of a variable or a flag for a key.
    pub(super) fn parse(&self, key: &str, text: &str, place: &str) -> Result<config::Value, Problem> {
        let declared = self.key(key).ok_or_else(|| self.unknown(key, place))?;
        check_name(key).map_err(|message| Problem::new(key, message).at(place))?;
        let origin = place.to_owned();
        Ok(match declared.kind {
            Kind::Integer => {
                let number = declared.number(text);
                let number = number.map_err(|message| Problem::new(key, message).at(place))?;
                config::Value::new(Some(&origin), number)
            }
            Kind::Text => {
                if let Some(message) = not_a_word(declared, text) {
                    return Err(Problem::new(key, message).at(place));
                }
                config::Value::new(Some(&origin), text)
            }
            Kind::List => {
                let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
                config::Value::new(Some(&origin), parts.map(str::to_owned).collect::<Vec<_>>())
            }
        })
    }

    /// Checks a TOML document.
    pub(super) fn check_file(&self, text: &str, file: &str) -> Result<Checked, toml::de::Error> {
        let document = DeTable::parse(text)?;
        let mut checked = Checked::default();
        let walk = Walk {
            declared: self,
            text,
            file,
        };
        walk.table("", document.get_ref(), &mut checked);
        Ok(checked)
    }
}

/// The keys of a document, and its problems.
#[derive(Default)]
pub(super) struct Checked {
    /// The place of each key, `FILE:LINE`.
    pub(super) places: BTreeMap<String, String>,
    /// The keys whose value is a string with a unit, as numbers.
    pub(super) with_units: BTreeMap<String, u64>,
    pub(super) problems: Vec<Problem>,
}

/// A pass over one document.
struct Walk<'a> {
    declared: &'a Declared,
    text: &'a str,
    file: &'a str,
}

impl Walk<'_> {
    fn table(&self, prefix: &str, table: &DeTable<'_>, checked: &mut Checked) {
        for (name, value) in table.iter() {
            let key = format!("{prefix}{}", name.get_ref());
            let place = format!("{}:{}", self.file, line_of(self.text, name.span().start));
            // In the older form `listeners.public` is a key, but a table of that name is the newer form.
            let declared = self.declared.key(&key);
            let declared =
                declared.filter(|_| !matches!(value.get_ref(), DeValue::Table(_)) || !self.declared.has_section(&key));
            if declared.is_some()
                && let Err(message) = check_name(&key)
            {
                checked.problems.push(Problem::new(&key, message).at(&place));
                continue;
            }
            match (value.get_ref(), declared) {
                (DeValue::Table(inner), None) if self.declared.has_section(&key) => {
                    self.table(&format!("{key}."), inner, checked);
                }
                (_, None) if self.declared.has_section(&key) => {
                    let problem = Problem::new(&key, "is a section, not a key".to_owned());
                    checked.problems.push(problem.at(&place));
                }
                (_, None) => checked.problems.push(self.declared.unknown(&key, &place)),
                (DeValue::String(word), Some(declared)) if declared.quantity().is_some() => {
                    match declared.number(word) {
                        Ok(number) => drop(checked.with_units.insert(key.clone(), number)),
                        Err(message) => checked.problems.push(Problem::new(&key, message).at(&place)),
                    }
                    checked.places.insert(key, place);
                }
                (value, Some(declared)) => {
                    if let Some(message) = mismatch(declared, value) {
                        checked.problems.push(Problem::new(&key, message).at(&place));
                    }
                    checked.places.insert(key, place);
                }
            }
        }
    }
}

/// The key with [`ANY_NAME`] in place of a listener's name, as it is declared.
fn of_any_name(key: &str) -> String {
    match listeners::listener_of(key) {
        Some(name) => key.replacen(&format!("listeners.{name}."), &format!("listeners.{ANY_NAME}."), 1),
        None => key.to_owned(),
    }
}

fn check_name(key: &str) -> Result<(), String> {
    listeners::listener_of(key).map_or(Ok(()), listeners::check_name)
}

fn mismatch(declared: &Key, value: &DeValue<'_>) -> Option<String> {
    let fits = match (declared.kind, value) {
        (Kind::Integer, DeValue::Integer(number)) => {
            let digits = number.as_str().replace('_', "");
            if u64::from_str_radix(digits.trim_start_matches('+'), number.radix()).is_err() {
                return Some(format!("is {}, must be {}", number.as_str(), declared.bound.text()));
            }
            true
        }
        (Kind::Text, DeValue::String(word)) => return not_a_word(declared, word),
        (Kind::List, DeValue::Array(items)) => items.iter().all(|item| item.get_ref().is_str()),
        _ => false,
    };
    (!fits).then(|| format!("has a value of the wrong type, must be a TOML {}", declared.kind.name()))
}

/// The problem of a text that is not one of the words that the key allows, if it is not.
fn not_a_word(declared: &Key, text: &str) -> Option<String> {
    match &declared.bound {
        Bound::OneOf(words) if !words.contains(&text) => {
            Some(format!("is {text:?}, must be {}", declared.bound.text()))
        }
        _ => None,
    }
}

fn line_of(text: &str, position: usize) -> usize {
    1 + text.as_bytes()[..position.min(text.len())]
        .iter()
        .filter(|byte| **byte == b'\n')
        .count()
}

/// The Levenshtein distance, over bytes, since keys are ASCII.
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(left != right);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
