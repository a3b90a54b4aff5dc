//! From `--brokers` to a client.

use std::time::Duration;

use jangada_client::{Client, ClientConfig};

use crate::cli::BrokersArgs;
use crate::errors::Result;

/// How long a command waits for a cluster before it says that there is none.
const RETRY_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects to any of the brokers, with the time-outs of a command that a person waits for.
pub async fn connect(brokers: &BrokersArgs) -> Result<Client> {
    connect_within(brokers, RETRY_TIMEOUT).await
}

/// The same with another limit for all attempts of one call.
pub async fn connect_within(brokers: &BrokersArgs, retry_timeout: Duration) -> Result<Client> {
    let mut config = ClientConfig::new(brokers.brokers.iter().map(String::as_str));
    config.client_id = "jangada-cli".to_owned();
    config.retry_timeout = retry_timeout;
    Ok(Client::connect(config).await?)
}
