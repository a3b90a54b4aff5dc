//! The aggregate behind a step: an office with places, which knows the keys that it has seen.

use std::collections::BTreeMap;

use jangada_client::{Client, ConsumerConfig, StartAt};
use jangada_patterns::eventsource::{Aggregate, Committed};
use jangada_patterns::saga::{Effect, Judgement, Ledger, Way};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;
use thiserror::Error;

use crate::common::Error;

/// Places of an office: so few that some trips find them taken.
pub const PLACES: usize = 12;

/// An office, as its events have made it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Office {
    guests: usize,
    ledger: Ledger,
}

/// What one asks of an office: a place for this key, or to give it back.
#[derive(Clone, Debug)]
pub struct Booking {
    pub key: String,
    pub way: Way,
}

/// What has happened to an office.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Booked {
    Taken {
        key: String,
        place: usize,
    },
    GivenBack {
        key: String,
    },
    /// It was given back before it was taken: it never will be.
    Barred {
        key: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    #[error("no place is free")]
    Full,
    #[error("it was given back before")]
    GivenBack,
}

impl Booked {
    /// The key, and which effect was made or undone.
    pub fn effect(&self) -> Option<(&str, Way)> {
        match self {
            Self::Taken { key, .. } => Some((key, Way::Do)),
            Self::GivenBack { key } => Some((key, Way::Undo)),
            Self::Barred { .. } => None,
        }
    }
}

impl Office {
    /// The place that a key has.
    pub fn place_of(&self, key: &str) -> Option<u64> {
        match self.ledger.get(key) {
            Some(Effect::Made(place)) => place.as_u64(),
            _ => None,
        }
    }
}

impl Aggregate for Office {
    type Command = Booking;
    type Event = Booked;
    type Refusal = Refusal;

    fn handle(&self, booking: &Booking) -> Result<Vec<Booked>, Refusal> {
        let key = booking.key.clone();
        Ok(match self.ledger.judge(&key, booking.way) {
            Judgement::Make if self.guests >= PLACES => return Err(Refusal::Full),
            Judgement::Make => vec![Booked::Taken {
                key,
                place: self.guests,
            }],
            Judgement::Barred => return Err(Refusal::GivenBack),
            Judgement::Undo => vec![Booked::GivenBack { key }],
            Judgement::Bar => vec![Booked::Barred { key }],
            Judgement::Made(_) | Judgement::Undone => Vec::new(),
        })
    }

    fn apply(&mut self, event: &Booked) {
        match event {
            Booked::Taken { key, place } => {
                self.guests += 1;
                self.ledger.note(key, Effect::Made(json!(place)));
            }
            Booked::GivenBack { key } => {
                self.guests -= 1;
                self.ledger.note(key, Effect::Undone);
            }
            Booked::Barred { key } => self.ledger.note(key, Effect::Barred),
        }
    }
}

/// All commits of a topic of streams, those of each stream in their order.
pub async fn read_log<E: DeserializeOwned>(client: &Client, topic: &str) -> Result<Vec<Committed<E>>, Error> {
    let mut consumer = client.consumer(ConsumerConfig::default())?;
    consumer.assign_topic(topic, StartAt::Earliest).await?;
    let ends = consumer.end_offsets().await?;
    let mut log = Vec::new();
    while !consumer.reached(&ends) {
        for record in consumer.next_batch().await? {
            log.push(Committed::read(&record)?);
        }
    }
    Ok(log)
}

/// The most guests that an office ever had at a time.
pub fn most_guests(log: &[Committed<Booked>]) -> usize {
    let (mut guests, mut most): (BTreeMap<&str, usize>, usize) = (BTreeMap::new(), 0);
    for read in log {
        let guests = guests.entry(&read.key).or_default();
        for (_, way) in read.commit.events.iter().filter_map(Booked::effect) {
            match way {
                Way::Do => *guests += 1,
                Way::Undo => *guests = guests.saturating_sub(1),
            }
        }
        most = most.max(*guests);
    }
    most
}
