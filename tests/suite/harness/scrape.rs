//! The answer of `/metrics`, as a monitoring system reads it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Cluster, node};

/// One scrape of a node's metrics.
#[derive(Debug)]
pub struct Scrape {
    /// The answer's head, and all of its text.
    pub head: String,
    pub text: String,
    /// The type of each family, by its name.
    pub families: BTreeMap<String, String>,
    samples: Vec<Sample>,
}

#[derive(Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Scrape {
    /// Scrapes a node that runs.
    pub async fn of(cluster: &Cluster, id: u32) -> Scrape {
        let answer = node::get(&cluster.node(id).addresses.http, "/metrics").await;
        Scrape::parse(&answer.expect("the node answers"))
    }

    /// Reads an answer, in the older of the two forms.
    pub fn parse(answer: &str) -> Scrape {
        let (head, text) = answer.split_once("\r\n\r\n").expect("the answer has a head");
        let mut families = BTreeMap::new();
        let mut samples = Vec::new();
        for line in text.lines() {
            if let Some(family) = line.strip_prefix("# TYPE ") {
                let (name, kind) = family.split_once(' ').expect("a family has a type");
                let twice = families.insert(name.to_owned(), kind.to_owned());
                assert_eq!(twice, None, "{name} is there twice");
            } else if !line.starts_with('#') && !line.is_empty() {
                samples.push(sample(line));
            }
        }
        Scrape {
            head: head.to_owned(),
            text: text.to_owned(),
            families,
            samples,
        }
    }

    /// The sum of all series of this name that have these labels; none if there is no such series.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut found = self.matching(name, labels).map(|sample| sample.value).peekable();
        found.peek()?;
        Some(found.sum())
    }

    /// Like [`Self::sum`], for a series that must be there.
    #[track_caller]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let value = self.sum(name, labels);
        value.unwrap_or_else(|| panic!("there is no {name} with {labels:?} in\n{}", self.text))
    }

    /// The values that a label has.
    pub fn values_of(&self, name: &str, label: &str) -> BTreeSet<&str> {
        let labels = self.matching(name, &[]).filter_map(|sample| sample.labels.get(label));
        labels.map(String::as_str).collect()
    }

    /// The buckets of a histogram, without labels: upper bounds with cumulative counts.
    pub fn buckets(&self, histogram: &str) -> Vec<(f64, f64)> {
        let buckets = self.matching(&format!("{histogram}_bucket"), &[]).collect::<Vec<_>>();
        let bound = |sample: &&Sample| sample.labels["le"].parse().expect("a bound is a number");
        buckets.iter().map(|sample| (bound(sample), sample.value)).collect()
    }

    fn matching<'a>(&'a self, name: &str, labels: &'a [(&str, &str)]) -> impl Iterator<Item = &'a Sample> {
        let has = |sample: &&Sample| {
            let mut labels = labels.iter();
            labels.all(|(label, value)| sample.labels.get(*label).is_some_and(|found| found == value))
        };
        let named = self.samples.iter().filter(move |sample| sample.name == name);
        named.filter(has)
    }
}

/// `name{label="value",...} number`. No value of these tests has a quote in it.
fn sample(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').expect("a series has a value");
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    let labels = labels.strip_suffix('}').expect("labels end");
    let pairs = labels.split("\",").filter(|pair| !pair.is_empty());
    let labels = pairs.map(|pair| {
        let (label, value) = pair.split_once("=\"").expect("a label has a value");
        (label.to_owned(), value.trim_end_matches('"').to_owned())
    });
    Sample {
        name: name.to_owned(),
        labels: labels.collect(),
        value: value.parse().expect("a value is a number"),
    }
}
