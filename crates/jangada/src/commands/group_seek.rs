//! `jangada group seek`: moves a group's offsets while it has no members. First it shows the plan, then, if asked to,
//! it commits. Offsets can be written to a file and read from one.

use std::collections::BTreeMap;
use std::path::Path;

use futures::future::try_join_all;
use jangada_client::{Client, OffsetAt, OffsetCommit, Reason, TopicPartition};
use jangada_types::Quantity;
use serde_json::{Value, json};

use super::group::partitions_of;
use super::group_lag::bounds;
use crate::cli::{FromArg, SeekArgs, ToArg};
use crate::errors::{CliError, Result};
use crate::files::write_whole;
use crate::note::note;
use crate::output::{Show, or_dash, plain_table};

pub async fn run(client: &Client, args: &SeekArgs) -> Result<()> {
    if let (Some(path), None) = (&args.to_file, args.to) {
        return keep_committed(client, args, path).await;
    }
    refuse_members(client, &args.group).await?;
    let plan = plan(client, args).await?;
    if let Some(path) = &args.to_file {
        let targets = plan.moves.iter().map(|to| (&to.partition, to.target));
        keep(path, targets)?;
        args.output.show(&plan)?;
        note(&format!(
            "nothing was changed: --from-file {} --execute does it",
            path.display()
        ));
        return Ok(());
    }
    if !args.execute {
        args.output.show(&plan)?;
        note("nothing was changed: --execute does it");
        return Ok(());
    }
    let commits: Vec<_> = plan
        .moves
        .iter()
        .map(|to| OffsetCommit::new(to.partition.clone(), to.target))
        .collect();
    client.admin().commit_offsets(&args.group, &commits).await?;
    args.output.show(&plan)?;
    note(&format!("moved {} partitions of group {}", commits.len(), args.group));
    Ok(())
}

/// Refuses a group with members, which would commit its own offsets over the new ones.
async fn refuse_members(client: &Client, group: &str) -> Result<()> {
    let members = match client.admin().describe_group(group).await {
        Ok(group) => group.members,
        Err(error) if error.reason() == Some(Reason::UnknownGroup) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let Some(first) = members.first() else { return Ok(()) };
    let message = format!(
        "group {group:?} has {} members (GROUP_NOT_EMPTY); nothing was changed",
        members.len()
    );
    Err(CliError::new(message).hint(format!(
        "stop its consumers first: Ctrl-C or SIGTERM lets one leave at once, a killed one counts for its session ({}). \
         The first is {:?} at {}; `jangada group describe {group}` shows all",
        Quantity::Time
            .readable(first.session_timeout_ms.into())
            .unwrap_or_else(|| format!("{} ms", first.session_timeout_ms)),
        first.client_id,
        first.client_host,
    )))
}

/// Writes the committed offsets to a file. If there are none the file stays as it is: it may be the only copy of an
/// earlier call's.
async fn keep_committed(client: &Client, args: &SeekArgs, path: &Path) -> Result<()> {
    let nothing = |why: &str| {
        let message = format!("group {:?} {why}; {} was not written", args.group, path.display());
        CliError::new(message).hint("`jangada group ls` shows the groups, `jangada group lag` their offsets")
    };
    let committed = match client.admin().fetch_offsets(&args.group, None).await {
        Ok(committed) => committed,
        Err(error) if error.reason() == Some(Reason::UnknownGroup) => return Err(nothing("does not exist")),
        Err(error) => return Err(error.into()),
    };
    let committed: Vec<_> = committed
        .iter()
        .filter_map(|of| Some((&of.partition, of.offset?)))
        .collect();
    if committed.is_empty() {
        return Err(nothing("has no committed offsets"));
    }
    let count = keep(path, committed.into_iter())?;
    note(&format!(
        "wrote {count} offsets of group {} to {}",
        args.group,
        path.display()
    ));
    Ok(())
}

fn keep<'a>(path: &Path, offsets: impl Iterator<Item = (&'a TopicPartition, i64)>) -> Result<usize> {
    let mut offsets: Vec<_> = offsets.collect();
    offsets.sort_by(|(a, _), (b, _)| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
    let lines: Vec<String> = offsets
        .iter()
        .map(|(partition, offset)| format!("{},{},{offset}\n", partition.topic, partition.partition))
        .collect();
    let text = format!("# topic,partition,offset\n{}", lines.concat());
    write_whole(path, &text)?;
    Ok(lines.len())
}

/// The offsets in a file for `--from-file`; an error names its line.
fn read(text: &str) -> std::result::Result<BTreeMap<(String, u32), i64>, String> {
    let mut offsets = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |why: &str| format!("line {} is {line:?}: {why}", index + 1);
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        let [topic, partition, offset] = fields[..] else {
            return Err(wrong("write topic,partition,offset"));
        };
        let partition = partition.parse().map_err(|_| wrong("the partition is no number"))?;
        let offset = offset.parse().ok().filter(|offset| *offset >= 0);
        let offset = offset.ok_or_else(|| wrong("the offset is no number from 0 on"))?;
        if offsets.insert((topic.to_owned(), partition), offset).is_some() {
            return Err(wrong("the partition is named twice"));
        }
    }
    match offsets.is_empty() {
        true => Err("it names no partition".to_owned()),
        false => Ok(offsets),
    }
}

async fn plan(client: &Client, args: &SeekArgs) -> Result<Plan> {
    let admin = client.admin();
    let mut targets = Vec::new();
    match (&args.from_file, args.to) {
        (Some(path), _) => {
            let text = std::fs::read_to_string(path).map_err(|error| error.to_string());
            let offsets = text.and_then(|text| read(&text));
            let offsets = offsets.map_err(|why| CliError::new(format!("cannot use {}: {why}", path.display())))?;
            for ((topic, partition), offset) in offsets {
                let found = partitions_of(&admin, &[topic], &[partition]).await?;
                targets.extend(
                    found
                        .into_iter()
                        .map(|found| (found, ToArg::At(FromArg::Offset(offset)))),
                );
            }
        }
        (None, Some(to)) => {
            let partitions = partitions_of(&admin, &args.topic, &args.partition).await?;
            targets.extend(partitions.into_iter().map(|partition| (partition, to)));
        }
        (None, None) => unreachable!("one of the two is required"),
    }
    let (partitions, to): (Vec<_>, Vec<_>) = targets.into_iter().unzip();
    let committed = match admin.fetch_offsets(&args.group, Some(&partitions)).await {
        Ok(offsets) => offsets.into_iter().map(|offset| offset.offset).collect(),
        Err(error) if error.reason() == Some(Reason::UnknownGroup) => vec![None; partitions.len()],
        Err(error) => return Err(error.into()),
    };
    let moves = partitions.into_iter().zip(to).zip(committed);
    let moves = moves.map(|((partition, to), committed)| move_of(client, to, partition, committed));
    Ok(Plan {
        moves: try_join_all(moves).await?,
    })
}

async fn move_of(client: &Client, to: ToArg, partition: TopicPartition, committed: Option<i64>) -> Result<Move> {
    let (start, end) = bounds(client, &partition).await?;
    let wanted = match to {
        ToArg::At(FromArg::Earliest) => start,
        ToArg::At(FromArg::Latest) => end,
        ToArg::At(FromArg::Offset(offset)) => offset,
        ToArg::At(FromArg::Last(records)) => end.saturating_sub(i64::try_from(records).unwrap_or(i64::MAX)),
        ToArg::At(FromArg::Timestamp(ms)) => {
            let at = OffsetAt::Timestamp(ms);
            let found = client.list_offsets(&partition.topic, partition.partition, at).await?;
            found.offset.unwrap_or(end)
        }
        ToArg::Relative(records) => {
            let committed = committed.ok_or_else(|| {
                CliError::new(format!(
                    "{partition} has no committed offset to count from; nothing was changed"
                ))
                .hint("name the partitions that have one with --partition, or seek to an absolute position")
            })?;
            committed.saturating_add(records)
        }
    };
    Ok(Move {
        partition,
        committed,
        target: wanted.clamp(start, end.max(start)),
        log_start_offset: start,
        high_watermark: end,
    })
}

/// The planned move of one partition's offset.
struct Plan {
    moves: Vec<Move>,
}

struct Move {
    partition: TopicPartition,
    committed: Option<i64>,
    /// The new offset, within the two below.
    target: i64,
    log_start_offset: i64,
    high_watermark: i64,
}

impl Show for Plan {
    fn table(&self) -> String {
        let rows = self.moves.iter().map(|to| {
            [
                to.partition.topic.to_string(),
                to.partition.partition.to_string(),
                or_dash(to.committed),
                to.target.to_string(),
                to.log_start_offset.to_string(),
                to.high_watermark.to_string(),
            ]
        });
        let header = [
            "topic",
            "partition",
            "offset",
            "target",
            "log_start_offset",
            "high_watermark",
        ];
        plain_table(header, rows)
    }

    fn json(&self) -> Value {
        let row = |to: &Move| {
            json!({
                "topic": *to.partition.topic,
                "topic_id": to.partition.topic_id.to_string(),
                "partition": to.partition.partition,
                "offset": to.committed,
                "target": to.target,
                "log_start_offset": to.log_start_offset,
                "high_watermark": to.high_watermark,
            })
        };
        self.moves.iter().map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_names_offsets_by_partition() {
        let read = read("# topic,partition,offset\norders,0,5\n\n refunds , 12 , 0 \r\n").expect("it is valid");
        let expected = [(("orders".to_owned(), 0), 5), (("refunds".to_owned(), 12), 0)];
        assert_eq!(read, expected.into());
    }

    #[test]
    fn a_wrong_line_is_named() {
        for (text, expected) in [
            ("orders,0", "line 1 is \"orders,0\": write topic,partition,offset"),
            ("# x\norders,a,1", "line 2 is \"orders,a,1\": the partition"),
            ("orders,0,-1", "the offset is no number from 0 on"),
            (
                "orders,0,1\norders,0,2",
                "line 2 is \"orders,0,2\": the partition is named twice",
            ),
            ("# nothing", "names no partition"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(expected), "{error}");
        }
    }
}
