//! Chooses the partitions that `consume` reads, and where it starts and stops in each.

use std::collections::BTreeMap;

use futures::future::try_join_all;
use jangada_client::{Client, ClientError, Consumer, Isolation, OffsetAt, StartAt};
use regex::bytes::{Regex, RegexBuilder};

use crate::cli::{ConsumeArgs, FromArg, UntilArg};
use crate::errors::{CliError, Result};

/// The topics that were named, and those that match the pattern.
pub async fn matching(client: &Client, args: &ConsumeArgs) -> Result<Vec<String>> {
    let mut topics: Vec<String> = args.topics().into_iter().map(str::to_owned).collect();
    let Some(pattern) = &args.pattern else {
        return Ok(topics);
    };
    let whole = whole_name(pattern)?;
    for found in client.admin().list_topics().await? {
        if whole.is_match(found.name.as_bytes()) && !topics.contains(&found.name) {
            topics.push(found.name);
        }
    }
    match topics.is_empty() {
        true => Err(CliError::new(format!("no topic matches {pattern:?}")).hint("`jangada topic ls` shows the topics")),
        false => Ok(topics),
    }
}

/// The pattern as groups match it: the whole name, with classes such as `\w` those of ASCII.
fn whole_name(pattern: &str) -> Result<Regex> {
    let build = |text: &str| {
        let built = RegexBuilder::new(text).unicode(false).build();
        built.map_err(|error| CliError::usage(format!("--pattern {pattern:?}: {error}")))
    };
    // Compiled without our brackets first: a closing bracket too many must not close ours.
    build(pattern)?;
    build(&format!(r"\A(?:{pattern})\z"))
}

/// The partitions to read.
pub struct Plan {
    /// Topic, partition, and the position to begin at.
    pub partitions: Vec<(String, u32, StartAt)>,
}

impl Plan {
    /// Finds the partitions, and the position where each begins.
    pub async fn of(client: &Client, args: &ConsumeArgs, topics: &[String]) -> Result<Plan> {
        let mut wanted = Vec::new();
        for topic in topics {
            let count = client.topic(topic).await?.partitions.len() as u32;
            match args.partition.is_empty() {
                true => wanted.extend((0..count).map(|partition| (topic.clone(), partition))),
                // The client refuses a partition that does not exist, and names the number of partitions.
                false => wanted.extend(args.partition.iter().map(|partition| (topic.clone(), *partition))),
            }
        }
        let offset = match (args.from(), args.until) {
            (FromArg::Offset(offset), _) | (_, Some(UntilArg::Offset(offset))) => Some(offset),
            _ => None,
        };
        if let Some(offset) = offset.filter(|_| wanted.len() > 1) {
            let message = format!("{} partitions do not share offset {offset}", wanted.len());
            return Err(CliError::usage(message)
                .hint("name one with --partition, or begin and end with earliest, latest, -N or a time"));
        }
        let starts = wanted.into_iter().map(|(topic, partition)| async move {
            let start = match args.from() {
                FromArg::Last(records) => last(client, &topic, partition, (records, args.isolation.into())).await?,
                from => from.start().expect("all others need no look at the end"),
            };
            Ok::<_, ClientError>((topic, partition, start))
        });
        Ok(Plan {
            partitions: try_join_all(starts).await?,
        })
    }

    /// The ends of the partitions as asked: at the present end, before an offset, or before a time.
    pub async fn ends(&self, client: &Client, args: &ConsumeArgs, consumer: &Consumer) -> Result<Ends> {
        if !args.exit_at_end && args.until.is_none() {
            return Ok(Ends(None));
        }
        let mut ends = BTreeMap::new();
        for (topic, partition, end) in consumer.end_offsets().await?.iter() {
            let until = match args.until {
                None => end,
                // Records that are not written yet are waited for.
                Some(UntilArg::Offset(offset)) if !args.exit_at_end => offset,
                Some(UntilArg::Offset(offset)) => offset.min(end),
                Some(UntilArg::Timestamp(ms)) => {
                    let found = client.list_offsets(topic, partition, OffsetAt::Timestamp(ms)).await?;
                    found.offset.map_or(end, |offset| offset.min(end))
                }
            };
            ends.insert((topic.to_owned(), partition), until);
            self.check_start(client, topic, partition, end).await?;
        }
        Ok(Ends(Some(ends)))
    }

    /// Beginning behind the end is an error, rather than an end to wait for.
    async fn check_start(&self, client: &Client, topic: &str, partition: u32, end: i64) -> Result<()> {
        let start = self.partitions.iter().find(|(t, p, _)| t == topic && *p == partition);
        let Some((_, _, StartAt::Offset(offset))) =
            start.filter(|(_, _, at)| matches!(at, StartAt::Offset(at) if *at > end))
        else {
            return Ok(());
        };
        let first = client.list_offsets(topic, partition, OffsetAt::Earliest).await?;
        Err(CliError::from(ClientError::OffsetOutOfRange {
            topic: topic.into(),
            partition,
            offset: *offset,
            log_start_offset: first.offset.unwrap_or(0),
            high_watermark: end,
        }))
    }
}

/// The position so many records before the end, or the first one if there are fewer.
async fn last(
    client: &Client,
    topic: &str,
    partition: u32,
    (records, isolation): (u64, Isolation),
) -> std::result::Result<StartAt, ClientError> {
    let list = async |at| {
        let found = client.list_offsets_as(topic, partition, at, isolation).await?;
        Ok::<_, ClientError>(found.offset.unwrap_or(0))
    };
    let (first, end) = tokio::try_join!(list(OffsetAt::Earliest), list(OffsetAt::Latest))?;
    let records = i64::try_from(records).unwrap_or(i64::MAX);
    Ok(StartAt::Offset(end.saturating_sub(records).max(first)))
}

/// The positions at which each partition stops; none if the command goes on until it is ended.
pub struct Ends(Option<BTreeMap<(String, u32), i64>>);

impl Ends {
    /// Whether all records before the ends were handed out.
    pub fn reached(&self, consumer: &Consumer) -> bool {
        let Some(ends) = &self.0 else { return false };
        ends.iter().all(|((topic, partition), end)| {
            let position = consumer.position(topic, *partition);
            position.is_none_or(|position| position >= *end)
        })
    }

    /// The end of a partition: the offset after the last record that is wanted.
    pub fn of(&self, topic: &str, partition: u32) -> i64 {
        let end = self
            .0
            .as_ref()
            .and_then(|ends| ends.get(&(topic.to_owned(), partition)));
        end.copied().unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_whole_names() {
        let pattern = whole_name("orders-.*").expect("it is valid");
        assert!(pattern.is_match(b"orders-eu") && !pattern.is_match(b"all-orders-eu"));
        assert!(!whole_name("a|b").expect("it is valid").is_match(b"ab"));
        for wrong in ["(", "a)", "[z-a]"] {
            let error = whole_name(wrong).expect_err(wrong);
            assert!(error.is_usage() && error.to_string().contains("--pattern"), "{error}");
        }
    }
}
