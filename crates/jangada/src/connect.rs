//! From a list of brokers to a client.

use std::time::Duration;

use jangada_client::{Client, ClientConfig, OnNotice};

use crate::brokers::Brokers;
use crate::errors::Result;
use crate::notices;

/// How long a command waits for a cluster before it says that there is none.
const RETRY_TIMEOUT: Duration = Duration::from_secs(10);

/// How soon a command hears of partitions that were added to what it reads or writes.
const METADATA_MAX_AGE: Duration = Duration::from_secs(10);

/// How long a broker takes at most to create a topic: it answers when every partition has a leader that all brokers know, or after
/// 30 s. The rest is for the way.
const CREATED_WITHIN: Duration = Duration::from_secs(35);

/// Connects to any of the brokers, with the time-outs of a command that a person waits for.
pub async fn connect(brokers: &Brokers) -> Result<Client> {
    connect_within(brokers, RETRY_TIMEOUT).await
}

/// The same with another limit for all attempts of one call.
pub async fn connect_within(brokers: &Brokers, retry_timeout: Duration) -> Result<Client> {
    let config = ClientConfig {
        retry_timeout,
        ..config(brokers)
    };
    let client = Client::connect(config).await?;
    brokers.check_cluster(&client.cluster_id())?;
    Ok(client)
}

/// The same without a word on stderr: for those who try again and again, and say what they wait for.
pub async fn connect_silently(brokers: &Brokers, retry_timeout: Duration) -> Result<Client> {
    let config = ClientConfig {
        retry_timeout,
        on_notice: OnNotice::default(),
        ..config(brokers)
    };
    let client = Client::connect(config).await?;
    brokers.check_cluster(&client.cluster_id())?;
    Ok(client)
}

/// The same for creating a topic, which may take longer than any other call: an attempt that is given up too early would be told by
/// the next one that the topic exists.
pub async fn connect_to_create(brokers: &Brokers) -> Result<Client> {
    // Whether there is a cluster is found out as soon as ever.
    connect(brokers).await?;
    let config = ClientConfig {
        request_timeout: CREATED_WITHIN,
        retry_timeout: CREATED_WITHIN + RETRY_TIMEOUT,
        ..config(brokers)
    };
    Ok(Client::connect(config).await?)
}

fn config(brokers: &Brokers) -> ClientConfig {
    let mut config = ClientConfig::new(brokers.addresses.iter().map(String::as_str));
    config.client_id = "jangada-cli".to_owned();
    config.metadata_max_age = METADATA_MAX_AGE;
    config.on_notice = notices::on_stderr();
    config
}
