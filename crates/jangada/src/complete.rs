//! Shell completion of names that only a cluster knows: topics, queues, exchanges and groups.
//!
//! The shell calls the program with the line so far in its arguments; clap finds out what is to be completed there, and
//! asks here for names. The user has pressed a key, so the answer comes soon or not at all, and failures are silent.

use std::env;
use std::time::Duration;

use clap_complete::{ArgValueCandidates, CompletionCandidate};
use jangada_client::{Client, ClientError};
use tokio::time::timeout;

use crate::brokers::Brokers;
use crate::cli::BrokersArgs;
use crate::connect::connect_silently;

/// The environment variable by which a shell asks for completions.
pub const VARIABLE: &str = "JANGADA_COMPLETE";

/// Timeout of the cluster's answer.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(800);

/// Names of topics.
pub fn topics() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        names(async |client| {
            let topics = client.admin().list_topics().await?;
            Ok(topics.into_iter().map(|topic| topic.name).collect())
        })
    })
}

/// Names of queues.
pub fn queues() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        names(async |client| {
            let queues = client.admin().list_queues().await?;
            Ok(queues.into_iter().map(|queue| queue.name).collect())
        })
    })
}

/// Names of exchanges.
pub fn exchanges() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        names(async |client| {
            let exchanges = client.admin().list_exchanges().await?;
            Ok(exchanges.into_iter().map(|exchange| exchange.name).collect())
        })
    })
}

/// Names of consumer groups.
pub fn groups() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        names(async |client| {
            let listing = client.admin().list_groups().await?;
            Ok(listing.groups.into_iter().map(|group| group.group).collect())
        })
    })
}

fn names(list: impl AsyncFnOnce(Client) -> Result<Vec<String>, ClientError>) -> Vec<CompletionCandidate> {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return Vec::new();
    };
    let asked = async {
        let brokers = Brokers::find(&typed_brokers(env::args())).ok()?;
        let client = connect_silently(&brokers, ANSWER_TIMEOUT).await.ok()?;
        list(client).await.ok()
    };
    // The timeout uses the runtime's clock.
    let names = runtime.block_on(async { timeout(ANSWER_TIMEOUT, asked).await });
    let names = names.ok().flatten().unwrap_or_default();
    names.into_iter().map(CompletionCandidate::new).collect()
}

/// The brokers that the line so far names.
fn typed_brokers(mut words: impl Iterator<Item = String>) -> BrokersArgs {
    let mut brokers = BrokersArgs::default();
    while let Some(word) = words.next() {
        let value = match word.strip_prefix("--brokers") {
            Some("") => words.next(),
            Some(rest) => rest.strip_prefix('=').map(str::to_owned),
            None => continue,
        };
        brokers.brokers = value
            .iter()
            .flat_map(|value| value.split(','))
            .map(str::to_owned)
            .collect();
    }
    brokers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_of_the_line_are_asked() {
        for (line, expected) in [
            ("jangada -- jangada topic describe x", &[][..]),
            ("jangada -- jangada --brokers a:1,b:2 topic describe x", &["a:1", "b:2"]),
            ("jangada -- jangada topic describe --brokers=a:1 x", &["a:1"]),
            ("jangada -- jangada topic describe --brokers", &[]),
        ] {
            let typed = typed_brokers(line.split(' ').map(str::to_owned));
            assert_eq!(typed.brokers, expected, "{line}");
        }
    }
}
