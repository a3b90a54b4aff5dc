//! Settings of topics and queues as they are typed.

use std::collections::BTreeMap;

use jangada_types::Quantity;

use crate::errors::{CliError, Result};

/// Settings by key, in the form that brokers take.
pub fn by_key(pairs: Vec<(String, String)>) -> Result<BTreeMap<String, String>> {
    let mut config = BTreeMap::new();
    for (key, value) in pairs {
        let value = number_of(&key, value)?;
        if config.insert(key.clone(), value).is_some() {
            return Err(CliError::usage(format!("setting {key} is given twice")));
        }
    }
    Ok(config)
}

/// Refuses a setting that is both set and unset.
pub fn check_unset(set: &BTreeMap<String, String>, unset: &[String]) -> Result<()> {
    match unset.iter().find(|key| set.contains_key(*key)) {
        Some(key) => Err(CliError::usage(format!("setting {key} is both set and unset"))),
        None => Ok(()),
    }
}

/// A setting's value in the form that brokers take: a time or a size with a unit becomes a number. Brokers judge all
/// others.
fn number_of(key: &str, value: String) -> Result<String> {
    let has_unit =
        |text: &str| text.starts_with(|c: char| c.is_ascii_digit()) && text.contains(|c: char| c.is_alphabetic());
    match Quantity::of_key(key).filter(|_| has_unit(value.trim())) {
        None => Ok(value),
        Some(quantity) => match quantity.parse(&value) {
            Ok(number) => Ok(number.to_string()),
            Err(error) => Err(CliError::usage(format!("setting {key} {error}"))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_may_have_a_unit() {
        for (key, value, expected) in [
            ("retention.ms", "7d", "604800000"),
            ("retention.ms", "-1", "-1"),
            ("retention.ms", "3600000", "3600000"),
            ("max.message.bytes", "2MiB", "2097152"),
            ("message.timestamp.type", "7d", "7d"),
            ("retention.ms", "soon", "soon"),
            ("queue.lease.ms", "30s", "30000"),
            ("queue.max.bytes", "1GiB", "1073741824"),
            ("queue.max.messages", "5", "5"),
            ("retention.bytes", "", ""),
        ] {
            assert_eq!(
                number_of(key, value.to_owned()).expect(value),
                expected,
                "{key}={value}"
            );
        }
        let error = number_of("retention.ms", "5m".to_owned()).expect_err("minutes or months");
        assert!(
            error.is_usage() && error.to_string().contains("retention.ms"),
            "{error}"
        );
    }
}
