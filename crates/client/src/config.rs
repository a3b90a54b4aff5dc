//! Settings of a [`Client`](crate::Client).

use std::time::Duration;

use crate::error::ClientError;
use crate::notice::OnNotice;

/// Upper bound of every configured time: times are added to the clock's, which must not overflow.
pub(crate) const TIME_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// How a client finds the cluster, and how long it tries.
///
/// ```
/// use std::time::Duration;
/// use jangada_client::ClientConfig;
///
/// let mut config = ClientConfig::new(["10.0.0.1:9400", "10.0.0.2:9400", "10.0.0.3:9400"]);
/// config.retry_timeout = Duration::from_secs(60);
/// ```
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Brokers to begin with, as `host:port`. One that answers is enough; it names the others. They are asked again when
    /// none of the brokers known answers.
    pub brokers: Vec<String>,
    /// Goes to the brokers as the user agent. Default: `jangada-client`.
    pub client_id: String,
    /// How long a TCP connection may take to come about. Default: 1.5 s. This and the others: up to 7 days.
    pub connect_timeout: Duration,
    /// How long one attempt of a call may take. Default: 10 s.
    pub request_timeout: Duration,
    /// How long a call is tried in all. Default: 30 s. Producing has a limit of its own,
    /// [`ProducerConfig::delivery_timeout`](crate::ProducerConfig::delivery_timeout).
    pub retry_timeout: Duration,
    /// How many streams share a connection to a broker: a consumer has one for each partition, a producer one for each broker. More of them
    /// get another connection; calls have one of their own. It must be below the broker's `limits.calls_per_connection_max`, and
    /// below what a proxy on the way allows. Default: 100, which any HTTP/2 server should take (RFC 9113, section 6.5.2).
    pub streams_per_connection_max: usize,
    /// After this time a producer, and a consumer that reads whole topics, asks for the metadata of its topics anew even if nothing
    /// failed: that is how it learns of partitions that were added. Default: 60 s.
    pub metadata_max_age: Duration,
    /// Callback for everything that the client does by itself: see [`Notice`](crate::Notice). Default: none; notices
    /// are logged in any case.
    pub on_notice: OnNotice,
}

impl ClientConfig {
    /// Default settings, for a cluster that has these brokers (`host:port`).
    pub fn new<I, S>(brokers: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        Self {
            brokers: brokers.into_iter().map(Into::into).collect(),
            client_id: "jangada-client".to_owned(),
            connect_timeout: Duration::from_millis(1500),
            request_timeout: Duration::from_secs(10),
            retry_timeout: Duration::from_secs(30),
            streams_per_connection_max: 100,
            metadata_max_age: Duration::from_secs(60),
            on_notice: OnNotice::default(),
        }
    }

    pub(crate) fn check(&self) -> Result<(), ClientError> {
        if self.brokers.is_empty() {
            return Err(ClientError::Config(
                "brokers: name at least one as host:port".to_owned(),
            ));
        }
        for address in &self.brokers {
            let port = address
                .rsplit_once(':')
                .filter(|(host, _)| !host.is_empty())
                .map(|(_, port)| port);
            if port.and_then(|p| p.parse::<u16>().ok()).is_none_or(|p| p == 0) {
                return Err(ClientError::Config(format!("brokers: {address:?} is not host:port")));
            }
        }
        if self.streams_per_connection_max == 0 {
            return Err(ClientError::Config(
                "streams_per_connection_max 0: at least 1".to_owned(),
            ));
        }
        for (name, value) in [
            ("connect_timeout", self.connect_timeout),
            ("request_timeout", self.request_timeout),
            ("retry_timeout", self.retry_timeout),
            ("metadata_max_age", self.metadata_max_age),
        ] {
            if value.is_zero() || value > TIME_MAX {
                return Err(ClientError::Config(format!(
                    "{name} {value:?}: above zero, up to {TIME_MAX:?}"
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_need_host_and_port() {
        for bad in [
            "",
            "localhost",
            ":9400",
            "localhost:",
            "localhost:0",
            "localhost:70000",
            "localhost:http",
        ] {
            let error = ClientConfig::new([bad]).check().expect_err(bad);
            assert!(matches!(error, ClientError::Config(_)), "{bad}");
        }
        for good in ["localhost:9400", "10.0.0.1:1", "[::1]:9400"] {
            ClientConfig::new([good]).check().expect(good);
        }
    }

    #[test]
    fn a_client_needs_a_broker_and_time() {
        ClientConfig::new(Vec::<String>::new()).check().expect_err("no brokers");
        let mut config = ClientConfig::new(["localhost:9400"]);
        config.retry_timeout = Duration::ZERO;
        config.check().expect_err("no time");
        let mut config = ClientConfig::new(["localhost:9400"]);
        config.streams_per_connection_max = 0;
        config.check().expect_err("no place for a stream");
        for set in [
            |config: &mut ClientConfig| config.connect_timeout = Duration::MAX,
            |config: &mut ClientConfig| config.request_timeout = Duration::MAX,
            |config: &mut ClientConfig| config.retry_timeout = TIME_MAX + Duration::from_secs(1),
        ] {
            let mut config = ClientConfig::new(["localhost:9400"]);
            set(&mut config);
            config.check().expect_err("for ever");
        }
    }
}
