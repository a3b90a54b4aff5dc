//! The bindings of a topic exchange: a trie of the patterns' words.
//!
//! A key goes through the trie word by word with the set of all nodes that fit so far, each node once, so that several `#` in a pattern
//! cost no more than the number of nodes for each word. A node behind a `#` stays in the set whatever comes. One that nothing follows
//! matches at once, and needs not be in the set.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use super::look::Look;
use crate::binding::Binding;
use crate::pattern::{self, ANY, ONE};

const NONE: u32 = u32::MAX;
const ROOT: u32 = 0;

#[derive(Debug)]
pub(crate) struct TopicTable {
    /// The numbers of the words that patterns have.
    words: HashMap<Arc<str>, u32>,
    /// The node behind a node and a word.
    children: HashMap<u64, u32, BuildHasherDefault<Mixed>>,
    nodes: Box<[Node]>,
    /// Destinations of all nodes, one node's behind another's.
    targets: Box<[u32]>,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    /// The node behind a `*`.
    one: u32,
    /// The node behind a `#`.
    any: u32,
    /// Whether it is behind a `#`.
    stays: bool,
    /// Whether patterns with more words begin with it.
    goes_on: bool,
    /// Where its destinations are among all.
    targets: (u32, u32),
}

impl TopicTable {
    pub(super) fn new<'a>(bindings: impl Iterator<Item = (&'a Binding, u32)>) -> Self {
        let mut building = Building::new();
        for (binding, number) in bindings {
            let node = building.node_of(&binding.routing_key);
            building.targets[node as usize].push(number);
        }
        building.finish()
    }

    /// Marks the destinations of the patterns that match the key.
    pub(super) fn look(&self, key: &str, look: &mut Look) {
        look.now.clear();
        look.seen.reset(self.nodes.len());
        self.enter(ROOT, look, Into::Now);
        for word in pattern::words(key) {
            if look.now.is_empty() {
                return;
            }
            let word = self.words.get(word).copied();
            look.next.clear();
            look.seen.reset(self.nodes.len());
            for at in 0..look.now.len() {
                let number = look.now[at];
                let node = self.nodes[number as usize];
                if node.stays {
                    self.enter(number, look, Into::Next);
                }
                if node.one != NONE {
                    self.enter(node.one, look, Into::Next);
                }
                if let Some(child) = word.and_then(|word| self.children.get(&edge(number, word))) {
                    self.enter(*child, look, Into::Next);
                }
            }
            std::mem::swap(&mut look.now, &mut look.next);
        }
        for at in 0..look.now.len() {
            let node = self.nodes[look.now[at] as usize];
            look.marks.set_each(self.targets_of(node));
        }
    }

    /// Puts a node into a set, and with it the one behind a `#`, for which no word is needed.
    fn enter(&self, number: u32, look: &mut Look, set: Into) {
        let mut number = number;
        while number != NONE && look.seen.add(number) {
            let node = self.nodes[number as usize];
            if node.stays && !node.goes_on {
                look.marks.set_each(self.targets_of(node));
            } else {
                match set {
                    Into::Now => look.now.push(number),
                    Into::Next => look.next.push(number),
                }
            }
            number = node.any;
        }
    }

    fn targets_of(&self, node: Node) -> &[u32] {
        &self.targets[node.targets.0 as usize..node.targets.1 as usize]
    }
}

/// Which of the two sets a node goes into.
#[derive(Clone, Copy)]
enum Into {
    Now,
    Next,
}

struct Building {
    words: HashMap<Arc<str>, u32>,
    children: HashMap<u64, u32, BuildHasherDefault<Mixed>>,
    nodes: Vec<Node>,
    targets: Vec<Vec<u32>>,
}

impl Building {
    fn new() -> Self {
        let mut building = Self {
            words: HashMap::new(),
            children: HashMap::default(),
            nodes: Vec::new(),
            targets: Vec::new(),
        };
        building.add(false);
        building
    }

    fn add(&mut self, stays: bool) -> u32 {
        let number = u32::try_from(self.nodes.len()).expect("patterns are limited in number and length");
        self.nodes.push(Node {
            one: NONE,
            any: NONE,
            stays,
            goes_on: false,
            targets: (0, 0),
        });
        self.targets.push(Vec::new());
        number
    }

    /// The node at which the pattern ends.
    fn node_of(&mut self, pattern: &str) -> u32 {
        let mut at = ROOT;
        for word in pattern::words(pattern) {
            // A second `#` behind one stands for nothing more.
            if word == ANY && self.nodes[at as usize].stays {
                continue;
            }
            self.nodes[at as usize].goes_on = true;
            at = match word {
                ONE => self.branch(at, |node| &mut node.one, false),
                ANY => self.branch(at, |node| &mut node.any, true),
                word => self.child(at, word),
            };
        }
        at
    }

    fn branch(&mut self, at: u32, place: impl Fn(&mut Node) -> &mut u32, stays: bool) -> u32 {
        let there = *place(&mut self.nodes[at as usize]);
        if there != NONE {
            return there;
        }
        let added = self.add(stays);
        *place(&mut self.nodes[at as usize]) = added;
        added
    }

    fn child(&mut self, at: u32, word: &str) -> u32 {
        let word = match self.words.get(word) {
            Some(number) => *number,
            None => {
                let number = u32::try_from(self.words.len()).expect("patterns are limited in number and length");
                self.words.insert(Arc::from(word), number);
                number
            }
        };
        if let Some(child) = self.children.get(&edge(at, word)) {
            return *child;
        }
        let added = self.add(false);
        self.children.insert(edge(at, word), added);
        added
    }

    fn finish(mut self) -> TopicTable {
        let mut targets = Vec::new();
        let end = |targets: &Vec<u32>| u32::try_from(targets.len()).expect("the bindings of an exchange are limited");
        for (node, of_node) in self.nodes.iter_mut().zip(self.targets) {
            let begin = end(&targets);
            targets.extend(of_node);
            node.targets = (begin, end(&targets));
        }
        TopicTable {
            words: self.words,
            children: self.children,
            nodes: self.nodes.into(),
            targets: targets.into(),
        }
    }
}

fn edge(node: u32, word: u32) -> u64 {
    u64::from(node) << 32 | u64::from(word)
}

/// A hash of the numbers of nodes and words. They are given in the order of the bindings, so nobody can look for many that collide.
#[derive(Debug, Default)]
struct Mixed(u64);

impl Hasher for Mixed {
    fn write(&mut self, _: &[u8]) {
        unreachable!("only numbers are hashed");
    }

    fn write_u64(&mut self, number: u64) {
        let mixed = (number ^ (number >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 29);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
