//! Names as small numbers: a history names the same few partitions and groups a million times, and a million values twice each.

use std::collections::HashMap;
use std::sync::Arc;

/// Defines the number of a name, which only its own table gives.
macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub(crate) u32);

        impl $name {
            /// The number as an index into a table of such things.
            pub(crate) fn at(self) -> usize {
                self.0 as usize
            }
        }

        impl From<u32> for $name {
            fn from(number: u32) -> Self {
                Self(number)
            }
        }
    };
}

number! {
    /// A partition, by the order in which a history names them.
    PartitionId
}
number! {
    /// The value of a record or message, by the order in which a history names them.
    ValueId
}
number! {
    /// A key, group, queue, transaction or lease, by the order in which a history names them.
    NameId
}
number! {
    /// An operation, by the order in which they were invoked.
    OperationId
}

/// A table of names of one kind.
#[derive(Clone, Debug)]
pub(crate) struct Names<I> {
    numbers: HashMap<Arc<str>, u32>,
    texts: Vec<Arc<str>>,
    kind: std::marker::PhantomData<I>,
}

impl<I> Default for Names<I> {
    fn default() -> Self {
        Self {
            numbers: HashMap::new(),
            texts: Vec::new(),
            kind: std::marker::PhantomData,
        }
    }
}

impl<I: From<u32> + Into<usize>> Names<I> {
    /// The number of a name, which is new if it was not named before.
    pub fn number(&mut self, text: &str) -> I {
        if let Some(number) = self.numbers.get(text) {
            return I::from(*number);
        }
        let number = u32::try_from(self.texts.len()).expect("a history has fewer than 4 G names");
        let text: Arc<str> = text.into();
        self.texts.push(text.clone());
        self.numbers.insert(text, number);
        I::from(number)
    }

    /// The number of a name that is in the table.
    pub fn find(&self, text: &str) -> Option<I> {
        self.numbers.get(text).map(|number| I::from(*number))
    }

    pub fn text(&self, number: I) -> &str {
        &self.texts[number.into()]
    }

    pub fn len(&self) -> usize {
        self.texts.len()
    }
}

macro_rules! index {
    ($($name:ident)*) => {
        $(impl From<$name> for usize {
            fn from(number: $name) -> usize {
                number.at()
            }
        })*
    };
}

index!(PartitionId ValueId NameId OperationId);
