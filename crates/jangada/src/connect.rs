//! Makes a client from a list of brokers.

use std::time::Duration;

use jangada_client::{Client, ClientConfig, OnNotice};

use crate::brokers::Brokers;
use crate::errors::Result;
use crate::notices;

/// How long a command tries to reach a cluster before it reports that there is none.
const RETRY_TIMEOUT: Duration = Duration::from_secs(10);

/// How soon a command learns of partitions that were added to the topics it reads or writes.
const METADATA_MAX_AGE: Duration = Duration::from_secs(10);

/// Timeout of creating a topic: a broker answers when every partition has a leader that all brokers know, or after 30
/// s. The rest is for the network.
const CREATE_TIMEOUT: Duration = Duration::from_secs(35);

/// Connects to any of the brokers, with the timeouts of a command that a person waits for.
pub async fn connect(brokers: &Brokers) -> Result<Client> {
    connect_within(brokers, RETRY_TIMEOUT).await
}

/// Like [`connect`], with another limit for all attempts of one call.
pub async fn connect_within(brokers: &Brokers, retry_timeout: Duration) -> Result<Client> {
    let config = ClientConfig {
        retry_timeout,
        ..config(brokers)
    };
    let client = Client::connect(config).await?;
    brokers.check_cluster(&client.cluster_id())?;
    Ok(client)
}

/// Like [`connect_within`], without notices on stderr: for callers that retry, and report what they wait for.
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

/// Like [`connect`], for creating a topic, which may take longer than any other call: an attempt that is given up too
/// early would be told by the next one that the topic exists.
pub async fn connect_to_create(brokers: &Brokers) -> Result<Client> {
    // A missing cluster is reported as soon as possible.
    connect(brokers).await?;
    let config = ClientConfig {
        request_timeout: CREATE_TIMEOUT,
        retry_timeout: CREATE_TIMEOUT + RETRY_TIMEOUT,
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
