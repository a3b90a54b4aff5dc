//! The declaration of settings, and the macro that declares a section of them.
//!
//! A section is a struct whose fields have a documentation, a default and a bound. From such a declaration the macro makes the
//! struct, serde's implementations (unknown fields are refused, missing ones get their default), `Default`, and [`Section`], which
//! lists the keys and checks the bounds.

use jangada_types::Quantity;
use jangada_types::units::annotated;

use super::error::Problem;

/// The TOML type of a key's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A whole number that is not negative.
    Integer,
    /// A TOML string.
    Text,
    /// An array of strings. In variables and flags they are separated by commas.
    List,
}

impl Kind {
    /// The name used in errors and in the reference.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Integer => "integer",
            Kind::Text => "string",
            Kind::List => "list of strings",
        }
    }
}

/// Which values a key may have.
#[derive(Clone, Debug)]
pub enum Bound {
    /// From the first to the second, both included.
    Range(u64, u64),
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A bound in words, which the section's own `check` enforces.
    Said(&'static str),
}

/// One setting, as it is declared.
#[derive(Clone, Debug)]
pub struct Key {
    /// The full key, `section.key`.
    pub name: String,
    /// The type of its value.
    pub kind: Kind,
    /// The default as TOML text; empty strings and lists that must be set show as `""` and `[]`.
    pub default: String,
    /// The values that are allowed.
    pub bound: Bound,
    /// What the setting does, with its unit.
    pub documentation: String,
}

impl Key {
    /// Whether the value is a time or a size, and so may be written with a unit.
    pub fn quantity(&self) -> Option<Quantity> {
        match self.kind {
            Kind::Integer => Quantity::of_key(&self.name),
            Kind::Text | Kind::List => None,
        }
    }

    /// The bound in words, with units.
    pub fn bound_text(&self) -> String {
        match (&self.bound, self.quantity()) {
            (Bound::Range(low, high), Some(quantity)) => {
                let text = |value| quantity.readable(value).unwrap_or_else(|| value.to_string());
                match (*low, quantity) {
                    (0, _) => format!("0 to {}", text(*high)),
                    (low, Quantity::Time) if low < 1000 => format!("{low}ms to {}", text(*high)),
                    (low, _) => format!("{} to {}", text(low), text(*high)),
                }
            }
            (bound, _) => bound.text(),
        }
    }

    /// A value as TOML text, with its unit in brackets.
    pub fn annotated(&self, value: &str) -> String {
        match value.parse() {
            Ok(number) => annotated(self.quantity(), number),
            Err(_) => value.to_owned(),
        }
    }

    /// Parses a whole number for this key, with or without a unit. The error is the rest of a sentence that begins with the key.
    pub(super) fn number(&self, text: &str) -> Result<u64, String> {
        let number = match self.quantity() {
            Some(quantity) => quantity.parse(text).map_err(|error| error.to_string())?,
            None => text
                .trim()
                .parse()
                .map_err(|_| format!("is {text:?}, must be a whole number, {}", self.bound.text()))?,
        };
        match self.bound {
            Bound::Range(low, high) if !(low..=high).contains(&number) => {
                Err(format!("is {text}, must be {}", self.bound_text()))
            }
            _ => Ok(number),
        }
    }
}

impl Bound {
    pub(super) const fn range(low: u64, high: u64) -> Bound {
        assert!(low <= high, "a bound's low end is above its high end");
        Bound::Range(low, high)
    }

    pub(super) const fn one_of(words: &'static [&'static str]) -> Bound {
        Bound::OneOf(words)
    }

    pub(super) const fn said(text: &'static str) -> Bound {
        Bound::Said(text)
    }

    /// The bound in words.
    pub fn text(&self) -> String {
        match self {
            Bound::Range(low, high) => format!("{low} to {high}"),
            Bound::OneOf(words) => words.join(" or "),
            Bound::Said(text) => (*text).to_owned(),
        }
    }

    pub(super) fn check(&self, key: &str, value: &dyn Setting, problems: &mut Vec<Problem>) {
        let Bound::Range(low, high) = self else { return };
        let number = value.number().expect("a range bounds an integer");
        if !(*low..=*high).contains(&number) {
            problems.push(Problem::new(key, format!("is {number}, must be {low} to {high}")));
        }
    }
}

/// A type that a setting can have.
pub trait Setting {
    /// The TOML type.
    fn kind(&self) -> Kind;

    /// The value as TOML text.
    fn show(&self) -> String;

    /// The value as a number, if a [`Bound::Range`] may be declared for it.
    fn number(&self) -> Option<u64> {
        None
    }
}

impl Setting for u64 {
    fn kind(&self) -> Kind {
        Kind::Integer
    }
    fn show(&self) -> String {
        self.to_string()
    }
    fn number(&self) -> Option<u64> {
        Some(*self)
    }
}

impl Setting for u32 {
    fn kind(&self) -> Kind {
        Kind::Integer
    }
    fn show(&self) -> String {
        self.to_string()
    }
    fn number(&self) -> Option<u64> {
        Some(u64::from(*self))
    }
}

impl Setting for String {
    fn kind(&self) -> Kind {
        Kind::Text
    }
    fn show(&self) -> String {
        toml::Value::String(self.clone()).to_string()
    }
}

impl Setting for std::path::PathBuf {
    fn kind(&self) -> Kind {
        Kind::Text
    }
    fn show(&self) -> String {
        toml::Value::String(self.display().to_string()).to_string()
    }
}

impl Setting for Vec<String> {
    fn kind(&self) -> Kind {
        Kind::List
    }
    fn show(&self) -> String {
        toml::Value::from(self.clone()).to_string()
    }
}

/// A section of settings.
pub trait Section: Default {
    /// The documentation of the section as a whole.
    fn documentation() -> String;

    /// The declarations, with `prefix` (empty, or ending in a dot) before each name: the section's own keys, then those of each
    /// inner section.
    fn keys(prefix: &str) -> Vec<Key>;

    /// Each setting with its value as TOML text, in the order of `keys`. A key that is declared once for all listeners is listed
    /// for each of them.
    fn shown(&self, prefix: &str) -> Vec<(Key, String)>;

    /// Adds a problem for each value that is out of bounds.
    fn check_bounds(&self, prefix: &str, problems: &mut Vec<Problem>);
}

/// Joins doc comment lines to one text.
pub(super) fn join_documentation(lines: &[&str]) -> String {
    lines
        .iter()
        .map(|line| line.trim())
        .collect::<Vec<_>>()
        .join(" ")
        .trim()
        .to_owned()
}

/// Declares a section.
macro_rules! settings {
    (
        $(#[doc = $section_doc:literal])+
        $name:ident {
            keys {
                $( $(#[doc = $doc:literal])+ $field:ident: $ty:ty = $default:expr, $bound:ident($($arg:expr),*); )*
            }
            sections {
                $( $(#[doc = $inner_doc:literal])+ $inner:ident: $inner_ty:ty; )*
            }
        }
    ) => {
        $(#[doc = $section_doc])+
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $( $(#[doc = $doc])+ pub $field: $ty, )*
            $( $(#[doc = $inner_doc])+ pub $inner: $inner_ty, )*
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    $( $field: $default, )*
                    $( $inner: <$inner_ty>::default(), )*
                }
            }
        }

        impl $crate::settings::Section for $name {
            fn documentation() -> String {
                $crate::settings::schema::join_documentation(&[$($section_doc),+])
            }

            #[allow(unused_variables)]
            fn keys(prefix: &str) -> Vec<$crate::settings::Key> {
                use $crate::settings::Setting as _;
                let defaults = Self::default();
                #[allow(unused_mut)]
                let mut keys = vec![
                    $( $crate::settings::Key {
                        name: format!("{prefix}{}", stringify!($field)),
                        kind: defaults.$field.kind(),
                        default: defaults.$field.show(),
                        bound: $crate::settings::Bound::$bound($($arg),*),
                        documentation: $crate::settings::schema::join_documentation(&[$($doc),+]),
                    }, )*
                ];
                $( keys.extend(<$inner_ty as $crate::settings::Section>::keys(concat!(stringify!($inner), "."))); )*
                keys
            }

            fn shown(&self, prefix: &str) -> Vec<($crate::settings::Key, String)> {
                use $crate::settings::Setting as _;
                // The own keys come first.
                let values: Vec<String> = vec![$( self.$field.show(), )*];
                #[allow(unused_mut)]
                let mut shown: Vec<_> = Self::keys(prefix).into_iter().zip(values).collect();
                $( shown.extend(<$inner_ty as $crate::settings::Section>::shown(
                    &self.$inner,
                    concat!(stringify!($inner), "."),
                )); )*
                shown
            }

            fn check_bounds(&self, prefix: &str, problems: &mut Vec<$crate::settings::Problem>) {
                $( $crate::settings::Bound::$bound($($arg),*)
                    .check(&format!("{prefix}{}", stringify!($field)), &self.$field, problems); )*
                $( self.$inner.check_bounds(concat!(stringify!($inner), "."), problems); )*
            }
        }
    };
}
