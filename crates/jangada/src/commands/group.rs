//! `jangada group ...`.

use serde_json::json;

use super::group_views::{Group, Groups};
use super::{group_lag, group_seek};
use crate::cli::{BrokersArgs, GroupCommand};
use crate::connect::connect;
use crate::errors::{CliError, Result};
use crate::output::join;

pub async fn run(brokers: &BrokersArgs, command: GroupCommand) -> Result<()> {
    if let GroupCommand::Rm { group, yes: false, .. } = &command {
        let message = format!("group {group:?} and its offsets would be deleted for good: say so with --yes");
        return Err(CliError::usage(message).hint("nothing was deleted"));
    }
    let client = connect(brokers).await?;
    let admin = client.admin();
    match command {
        GroupCommand::Ls { output } => {
            let listing = admin.list_groups().await?;
            output.show(&Groups(listing.groups))?;
            if listing.missing_shards.is_empty() {
                return Ok(());
            }
            let shards = join(&listing.missing_shards);
            let message = format!("the listing is not whole: the coordinators of shards {shards} did not answer");
            Err(CliError::unhealthy(message).hint("`jangada cluster health` tells what is wrong with the cluster"))
        }
        GroupCommand::Describe { group, output } => output.show(&Group(admin.describe_group(&group).await?)),
        GroupCommand::Lag(args) => group_lag::run(&client, &args).await,
        GroupCommand::Rm { group, output, .. } => {
            admin.delete_group(&group).await?;
            output.done(&format!("deleted group {group}"), json!({ "deleted": 1 }))
        }
        GroupCommand::Seek(args) => group_seek::run(&client, &args).await,
    }
}
