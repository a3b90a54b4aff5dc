//! The one place where gRPC's errors become ours: a unary call's or a stream's `Status` with its `google.rpc` details, and
//! the `Error` message inside a produce stream, both become a [`Failure`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jangada_proto::v1;
use jangada_types::{BrokerId, Reason};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::error::{ClientError, Rejection};

/// The domain of our `ErrorInfo`; details of other domains are ignored.
const DOMAIN: &str = "jangada";

/// A failed attempt.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub code: Code,
    pub reason: Option<Reason>,
    pub message: String,
    /// Whether a broker said so: in its answer, or when it closed the connection. What the client found itself explains less.
    pub told: bool,
    /// Whether the attempt certainly had no effect.
    pub definite: bool,
    pub retry_delay: Option<Duration>,
    pub metadata: HashMap<String, String>,
}

/// The leader that a broker named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeaderHint {
    pub broker: BrokerId,
    pub address: Option<String>,
    pub epoch: Option<u32>,
}

/// What an attempt's failure means for the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disposition {
    /// The attempt had no effect, and another one, perhaps at another broker, may succeed.
    Retry,
    /// The attempt may have had its effect.
    Unknown,
    /// The attempt had no effect, and no later one will have.
    Refuse,
}

impl Failure {
    /// A failure on the client's side: nothing was sent, or an answer did not come.
    pub fn local(code: Code, message: impl Into<String>, definite: bool) -> Self {
        Self {
            code,
            reason: None,
            message: message.into(),
            told: false,
            definite,
            retry_delay: None,
            metadata: HashMap::new(),
        }
    }

    /// A definite failure with a reason that follows from the brokers' answers, though none sent it in these words.
    pub fn from_brokers(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason: Some(reason),
            told: true,
            ..Self::local(Code::Unavailable, message, true)
        }
    }

    /// The brokers that answer know no leader of a partition.
    pub fn no_leader() -> Self {
        let message = "no leader of the partition is known; too few of its replicas may be alive";
        Self::from_brokers(Reason::LeaderNotAvailable, message)
    }

    /// The failure of a call to a partition's leader, when other brokers answer and name no other leader.
    #[must_use]
    pub fn of_last_leader(self) -> Self {
        let is_silence = matches!(self.code, Code::Unavailable | Code::DeadlineExceeded);
        if self.reason.is_some() || !is_silence {
            return self;
        }
        Self {
            reason: Some(Reason::LeaderNotAvailable),
            told: true,
            message: format!("no leader is known but one that does not answer: {}", self.message),
            ..self
        }
    }

    /// No answer came within the timeout of one attempt.
    pub fn timeout(after: Duration) -> Self {
        Self::local(
            Code::DeadlineExceeded,
            format!("no answer within {} ms", after.as_millis()),
            false,
        )
    }

    pub fn disposition(&self) -> Disposition {
        match (self.definite, self.may_pass()) {
            (true, true) => Disposition::Retry,
            (true, false) => Disposition::Refuse,
            (false, _) => Disposition::Unknown,
        }
    }

    /// Whether the cause may be gone when the same is tried again.
    pub fn may_pass(&self) -> bool {
        use Reason::*;
        match self.reason {
            Some(
                NotLeader
                | StaleLeaderEpoch
                | UnknownLeaderEpoch
                | PartitionBusy
                | BrokerBusy
                | DiskFull
                | TooManyStreams
                | LeaderNotAvailable
                | NotReady
                | ShuttingDown
                | StoreFenced
                | QuorumTimeout
                | DataCorrupted
                | Internal
                | GroupChanged
                | QueueFull
                | SlotStateFull
                | GroupLag
                | ConcurrentTransactions
                | UnstableOffsets,
            ) => true,
            Some(_) => false,
            // The reason is a newer broker's, or missing: the code and the retry hint decide.
            None => self.retry_delay.is_some() || !code_refuses(self.code),
        }
    }

    pub fn leader_hint(&self) -> Option<LeaderHint> {
        let broker = self
            .metadata
            .get("leader_id")?
            .parse()
            .ok()
            .filter(|id| *id != 0)
            .map(BrokerId)?;
        Some(LeaderHint {
            broker,
            address: self.metadata.get("leader_address").filter(|a| !a.is_empty()).cloned(),
            epoch: self.metadata.get("leader_epoch").and_then(|e| e.parse().ok()),
        })
    }

    /// A number among the values that a check compared.
    pub fn number(&self, key: &str) -> Option<i64> {
        self.metadata.get(key).and_then(|v| v.parse().ok())
    }

    pub fn rejection(&self, context: &str) -> Arc<Rejection> {
        Arc::new(Rejection {
            context: context.to_owned(),
            code: self.code,
            reason: self.reason,
            message: self.message.clone(),
            retry_delay: self.retry_delay,
            metadata: self.metadata.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
        })
    }

    /// The status of a call with this failure: for calls whose answer has failures inside.
    pub fn into_status(mut self) -> Status {
        self.metadata.insert("definite".to_owned(), self.definite.to_string());
        let reason = self.reason.map_or("", Reason::as_str);
        let mut details = ErrorDetails::with_error_info(reason, DOMAIN, self.metadata);
        if self.retry_delay.is_some() {
            details.set_retry_info(self.retry_delay);
        }
        Status::with_error_details(self.code, self.message, details)
    }

    /// The error that the caller gets when no further attempt is made.
    pub fn into_error(self, context: &str) -> ClientError {
        let rejection = self.rejection(context);
        match self.disposition() {
            Disposition::Retry => ClientError::Unavailable(rejection),
            Disposition::Unknown => ClientError::OutcomeUnknown(rejection),
            Disposition::Refuse => ClientError::Refused(rejection),
        }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info().filter(|info| info.domain == DOMAIN);
        let metadata = info.map(|info| info.metadata.clone()).unwrap_or_default();
        let definite = definite(&metadata).unwrap_or_else(|| {
            code_refuses(status.code()) || status.code() == Code::ResourceExhausted || never_connected(&status)
        });
        let mut message = status.message().to_owned();
        if info.is_none() {
            // Without a broker's answer the cause is further down the chain of sources.
            let mut source = std::error::Error::source(&status);
            while let Some(cause) = source {
                let text = cause.to_string();
                if !message.contains(&text) {
                    message = format!("{message}: {text}");
                }
                source = cause.source();
            }
        }
        Self {
            code: status.code(),
            told: info.is_some() || was_sent_away(&status),
            reason: info.and_then(|info| Reason::parse(&info.reason)),
            message,
            definite,
            retry_delay: details.retry_info().and_then(|retry| retry.retry_delay),
            metadata,
        }
    }
}

impl From<v1::Error> for Failure {
    fn from(error: v1::Error) -> Self {
        let code = Code::from_i32(error.code);
        Self {
            code,
            reason: Reason::parse(&error.reason),
            message: error.message,
            told: true,
            definite: definite(&error.metadata).unwrap_or_else(|| code_refuses(code)),
            retry_delay: error.retry_delay_ms.map(|ms| Duration::from_millis(ms.into())),
            metadata: error.metadata,
        }
    }
}

fn definite(metadata: &HashMap<String, String>) -> Option<bool> {
    metadata.get("definite").map(|text| text == "true")
}

/// Whether a code says, without details, that the request was looked at and turned down.
fn code_refuses(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Unauthenticated
    )
}

/// Whether the request was never sent because there was no connection.
fn never_connected(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        if cause.is::<tonic::ConnectError>() {
            return true;
        }
        source = cause.source();
    }
    false
}

/// Whether the broker closed the connection with a GOAWAY, whose text says why.
fn was_sent_away(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref::<h2::Error>() {
            return error.is_go_away() && error.is_remote();
        }
        source = cause.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: Code, reason: &str, metadata: &[(&str, &str)], retry: Option<Duration>) -> Status {
        let metadata: HashMap<String, String> = metadata.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let mut details = ErrorDetails::with_error_info(reason, DOMAIN, metadata);
        if let Some(delay) = retry {
            details.set_retry_info(Some(delay));
        }
        Status::with_error_details(code, "words", details)
    }

    #[test]
    fn details_of_a_status_are_read() {
        let metadata = [
            ("definite", "true"),
            ("leader_id", "3"),
            ("leader_address", "h:9402"),
            ("leader_epoch", "7"),
            ("offset", "12"),
        ];
        let delay = Duration::from_millis(40);
        let failure = Failure::from(status(Code::FailedPrecondition, "NOT_LEADER", &metadata, Some(delay)));
        assert_eq!(failure.reason, Some(Reason::NotLeader));
        assert_eq!(failure.disposition(), Disposition::Retry);
        assert_eq!(failure.retry_delay, Some(delay));
        assert_eq!(failure.number("offset"), Some(12));
        let hint = failure.leader_hint().expect("a hint");
        assert_eq!(
            hint,
            LeaderHint {
                broker: BrokerId(3),
                address: Some("h:9402".to_owned()),
                epoch: Some(7)
            }
        );
        assert!(matches!(failure.into_error("x"), ClientError::Unavailable(_)));
    }

    #[test]
    fn an_unknown_leader_is_no_hint() {
        let failure = Failure::from(status(
            Code::FailedPrecondition,
            "NOT_LEADER",
            &[("leader_id", "0")],
            None,
        ));
        assert_eq!(failure.leader_hint(), None);
    }

    #[test]
    fn what_may_have_happened_is_never_called_definite() {
        for failure in [
            Failure::from(status(
                Code::DeadlineExceeded,
                "QUORUM_TIMEOUT",
                &[("definite", "false")],
                None,
            )),
            Failure::from(Status::unavailable("connection reset")),
            Failure::from(Status::unknown("h2 broke")),
            Failure::from(Status::internal("h2 broke")),
            Failure::from(Status::cancelled("gone")),
            Failure::timeout(Duration::from_secs(1)),
        ] {
            assert_eq!(failure.disposition(), Disposition::Unknown, "{failure:?}");
            assert!(!failure.into_error("x").is_definite());
        }
    }

    #[test]
    fn errors_inside_a_stream_mean_what_a_status_means() {
        let error = v1::Error {
            code: Code::ResourceExhausted as i32,
            message: "full".to_owned(),
            reason: "PARTITION_BUSY".to_owned(),
            metadata: HashMap::from([("definite".to_owned(), "true".to_owned())]),
            retry_delay_ms: Some(25),
        };
        let failure = Failure::from(error);
        assert_eq!(failure.disposition(), Disposition::Retry);
        assert_eq!(failure.retry_delay, Some(Duration::from_millis(25)));
    }

    #[test]
    fn a_reason_of_a_newer_broker_is_judged_by_its_code() {
        let refused = Failure::from(status(
            Code::InvalidArgument,
            "SOMETHING_NEW",
            &[("definite", "true")],
            None,
        ));
        assert_eq!(refused.disposition(), Disposition::Refuse);
        let later = Failure::from(status(
            Code::Unavailable,
            "SOMETHING_NEW",
            &[("definite", "true")],
            None,
        ));
        assert_eq!(later.disposition(), Disposition::Retry);
    }

    #[tokio::test]
    async fn a_broker_that_closes_a_connection_tells_why() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        // Settings without one, and a GOAWAY with ENHANCE_YOUR_CALM (RFC 9113).
        let text = b"no place for you";
        let mut bytes = vec![0, 0, 0, 4, 0, 0, 0, 0, 0];
        bytes.extend([0, 0, 8 + text.len() as u8, 7, 0, 0, 0, 0, 0]);
        bytes.extend([0, 0, 0, 0, 0, 0, 0, 11]);
        bytes.extend(text);
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let (mut from, mut to) = socket.split();
                // It waits for the request, so that it is one that the connection ends amid.
                let _ = tokio::io::AsyncReadExt::read(&mut from, &mut [0; 4096]).await;
                let _ = tokio::io::AsyncWriteExt::write_all(&mut to, &bytes).await;
                let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
            }
        });
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).expect("a uri");
        let mut client = v1::metadata_service_client::MetadataServiceClient::new(endpoint.connect_lazy());
        // The connection may also end before the request is on it; then the client finds that itself.
        let told = async {
            loop {
                let answer = client.get_metadata(v1::GetMetadataRequest::default()).await;
                let failure = Failure::from(answer.expect_err("it is sent away"));
                if failure.told {
                    return failure;
                }
            }
        };
        let told = tokio::time::timeout(Duration::from_secs(10), told).await;
        let told = told.expect("it hears why");
        assert!(told.message.contains("no place for you"), "{told:?}");
    }

    #[tokio::test]
    async fn a_refused_connection_is_definite() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        drop(listener);
        let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}"))
            .expect("a uri")
            .connect_lazy();
        let mut client = v1::metadata_service_client::MetadataServiceClient::new(channel);
        let failure = Failure::from(
            client
                .get_metadata(v1::GetMetadataRequest::default())
                .await
                .expect_err("nobody listens"),
        );
        assert!(failure.definite, "{failure:?}");
        assert_eq!(failure.disposition(), Disposition::Retry);
    }
}
