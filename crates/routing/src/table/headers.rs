//! The bindings of a headers exchange: postings of what they ask for.
//!
//! Each header that a binding asks for, a name with its value or a name alone, is a posting. A message hits postings. A binding that asks
//! for any of its headers matches with one of them, and is at all of them; one that asks for all of them is at the one that fewest bindings
//! ask for, and looks from there whether the others are hit. So a header that all bindings ask for costs nothing, as long as each asks for
//! another one that few do.

use std::collections::HashMap;
use std::sync::Arc;

use super::look::Look;
use crate::binding::Binding;
use crate::headers::{HeaderMatch, Headers};

#[derive(Debug, Default)]
pub(crate) struct HeadersTable {
    names: HashMap<Arc<str>, Name>,
    postings: Vec<Posting>,
    /// The destinations of bindings that ask for nothing.
    always: Vec<u32>,
}

#[derive(Debug, Default)]
struct Name {
    /// The posting of the name alone.
    alone: Option<u32>,
    values: HashMap<Box<[u8]>, u32>,
}

#[derive(Debug, Default)]
struct Posting {
    /// The number of bindings that ask for it.
    asked: usize,
    /// Destinations of bindings that match with it.
    any: Vec<u32>,
    /// Bindings that match if the others are hit, too.
    all: Vec<Conjunction>,
}

#[derive(Debug)]
struct Conjunction {
    others: Box<[u32]>,
    destination: u32,
}

impl HeadersTable {
    pub(super) fn new<'a>(bindings: impl Iterator<Item = (&'a Binding, u32)>) -> Self {
        let mut table = Self::default();
        let asks = |(binding, number): (&'a Binding, u32)| Some((binding.headers.as_deref()?, number));
        let asked: Vec<_> = bindings
            .filter_map(asks)
            .map(|(asked, number)| (asked.mode.is_all(), table.postings_of(asked), number))
            .collect();
        for (all, postings, destination) in asked {
            if !all {
                for posting in postings {
                    table.postings[posting as usize].any.push(destination);
                }
                continue;
            }
            let rarest = postings
                .iter()
                .min_by_key(|posting| table.postings[**posting as usize].asked);
            let Some(rarest) = rarest.copied() else {
                table.always.push(destination);
                continue;
            };
            let others = postings.into_iter().filter(|posting| *posting != rarest).collect();
            let conjunction = Conjunction { others, destination };
            table.postings[rarest as usize].all.push(conjunction);
        }
        table
    }

    /// The postings of what a binding asks for, each of which is asked for once more.
    fn postings_of(&mut self, asked: &HeaderMatch) -> Vec<u32> {
        let mut of_binding = Vec::new();
        for (name, value) in asked.effective() {
            let next = u32::try_from(self.postings.len()).expect("bindings are limited in number and size");
            let name = self.names.entry(Arc::clone(name)).or_default();
            let posting = match value {
                None => *name.alone.get_or_insert(next),
                Some(value) => *name.values.entry(value[..].into()).or_insert(next),
            };
            if posting == next {
                self.postings.push(Posting::default());
            }
            self.postings[posting as usize].asked += 1;
            of_binding.push(posting);
        }
        of_binding
    }

    /// Marks the destinations of the bindings that match the headers.
    pub(super) fn look(&self, headers: &(impl Headers + ?Sized), look: &mut Look) {
        let Look {
            marks, seen, now: hit, ..
        } = look;
        marks.set_each(&self.always);
        seen.reset(self.postings.len());
        hit.clear();
        headers.each(&mut |name, value| {
            let Some(name) = self.names.get(name) else {
                return;
            };
            let with_value = value.and_then(|value| name.values.get(value).copied());
            for posting in [name.alone, with_value].into_iter().flatten() {
                if seen.add(posting) {
                    hit.push(posting);
                }
            }
        });
        for posting in hit.iter() {
            let posting = &self.postings[*posting as usize];
            marks.set_each(&posting.any);
            for conjunction in &posting.all {
                if conjunction.others.iter().all(|other| seen.has(*other)) {
                    marks.set(conjunction.destination);
                }
            }
        }
    }
}
