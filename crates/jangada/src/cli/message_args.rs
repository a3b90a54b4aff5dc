//! What messages of queues have beside their bodies, for the commands that send and publish them.

use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use jangada_client::{Due, Header, QueueMessage};

use super::parse::{pair, seconds};
use super::when::TimeArg;

#[derive(Args, Debug, Default)]
pub struct MessageArgs {
    /// A header of every message; may be given again
    #[arg(short = 'H', long, value_name = "NAME=VALUE", value_parser = pair)]
    pub header: Vec<(String, String)>,

    /// Every message goes out after this time, in seconds or with a unit, at most ten years
    #[arg(long, value_name = "DURATION", value_parser = seconds, conflicts_with = "at")]
    pub delay: Option<Duration>,

    /// Every message goes out at this time: RFC 3339, or milliseconds since 1970
    #[arg(long, value_name = "TIME")]
    pub at: Option<TimeArg>,

    /// The priority of every message, from 0 on, for queues with queue.priorities
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub priority: u32,

    /// Every message may be handed out for so long, in seconds or with a unit
    #[arg(long, value_name = "DURATION", value_parser = seconds)]
    pub ttl: Option<Duration>,

    /// The id of the message, by which queues with queue.dedup recognize it; only for one message
    #[arg(long, value_name = "ID", conflicts_with = "format")]
    pub message_id: Option<String>,
}

impl MessageArgs {
    /// Gives a message what is said of every one; `number` is that of its line, from 1 on.
    pub fn apply(&self, number: u64, message: &mut QueueMessage) -> Result<(), String> {
        if self.message_id.is_some() && number > 1 {
            return Err("--message-id is for one message".to_owned());
        }
        let headers = self.header.iter().map(|(key, value)| Header {
            key: key.clone(),
            value: Some(Bytes::copy_from_slice(value.as_bytes())),
        });
        message.headers.extend(headers);
        if let Some(delay) = self.delay {
            message.due = Due::After(delay);
        }
        if let Some(at) = &self.at {
            message.due = Due::At(u64::try_from(at.0).map_err(|_| "--at is before 1970".to_owned())?);
        }
        if self.priority > 0 {
            message.priority = self.priority;
        }
        message.ttl = self.ttl.or(message.ttl);
        message.message_id = self.message_id.clone().or_else(|| message.message_id.take());
        Ok(())
    }
}
