//! The errors of commands: the cause with its object, and what to do next.

use std::fmt;
use std::io;
use std::process::ExitCode;

use jangada_broker::settings::SettingsError;
use jangada_client::{ClientError, Reason};

use crate::brokers::Brokers;
use crate::exit::Exit;
use crate::note::note;

/// A command's failure.
#[derive(Clone, Debug)]
pub struct CliError {
    exit: Exit,
    message: String,
    hint: Option<String>,
    /// Set when nothing is to be printed: the reader of stdout is gone, or the error was printed already.
    silent: bool,
    /// Set when no broker answered.
    no_broker: bool,
}

/// The result of a command.
pub type Result<T> = std::result::Result<T, CliError>;

impl CliError {
    /// A failure, exit code 1.
    pub fn new(message: impl Into<String>) -> CliError {
        CliError {
            exit: Exit::Error,
            message: message.into(),
            hint: None,
            silent: false,
            no_broker: false,
        }
    }

    /// The arguments make no sense, exit code 2.
    pub fn usage(message: impl Into<String>) -> CliError {
        CliError {
            exit: Exit::Usage,
            ..CliError::new(message)
        }
    }

    /// The cluster is not as it should be, exit code 3.
    pub fn unhealthy(message: impl Into<String>) -> CliError {
        CliError {
            exit: Exit::Unhealthy,
            ..CliError::new(message)
        }
    }

    /// Adds a hint on what to do next.
    pub fn hint(self, hint: impl Into<String>) -> CliError {
        CliError {
            hint: Some(hint.into()),
            ..self
        }
    }

    /// Puts the action that failed, with its object, before the cause.
    pub fn doing(self, what: impl fmt::Display) -> CliError {
        CliError {
            message: format!("{what}: {}", self.message),
            ..self
        }
    }

    /// The same error with another exit code.
    pub fn with_exit(self, exit: Exit) -> CliError {
        CliError { exit, ..self }
    }

    /// The same error, marked as [reported](Self::report) already.
    pub fn reported(self) -> CliError {
        CliError { silent: true, ..self }
    }

    /// Adds the brokers that were asked, if none of them answered.
    pub fn asked(self, brokers: &Brokers) -> CliError {
        match self.no_broker {
            true => self.hint(brokers.hint()),
            false => self,
        }
    }

    /// Whether the arguments make no sense.
    pub fn is_usage(&self) -> bool {
        self.exit == Exit::Usage
    }

    /// Writes the error to stderr; returns the exit code.
    pub fn report(&self) -> ExitCode {
        if self.silent {
            return self.exit.into();
        }
        note(&format!("error: {}", self.message));
        if let Some(hint) = &self.hint {
            note(&format!("  {hint}"));
        }
        self.exit.into()
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<io::Error> for CliError {
    /// A closed stdout (`jangada consume orders | head`) ends the command quietly: its reader has enough.
    fn from(error: io::Error) -> CliError {
        let silent = error.kind() == io::ErrorKind::BrokenPipe;
        CliError {
            exit: if silent { Exit::Fine } else { Exit::Error },
            silent,
            ..CliError::new(error.to_string())
        }
    }
}

impl From<SettingsError> for CliError {
    fn from(error: SettingsError) -> CliError {
        let cause = CliError::new(error.to_string());
        match error {
            SettingsError::Invalid(_) => {
                cause.hint("`jangada server reference` lists all settings with defaults and bounds")
            }
            _ => cause,
        }
    }
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> CliError {
        // A client's settings come from flags.
        let usage = matches!(error, ClientError::Config(_));
        CliError {
            exit: if usage { Exit::Usage } else { Exit::Error },
            hint: next_step(&error).map(str::to_owned),
            no_broker: is_silence(&error),
            ..CliError::new(error.to_string())
        }
    }
}

/// Whether no broker answered.
fn is_silence(error: &ClientError) -> bool {
    matches!(error, ClientError::Unavailable(rejection) if rejection.reason.is_none())
}

/// The advice for an error of the client.
fn next_step(error: &ClientError) -> Option<&'static str> {
    if let Some(hint) = error.reason().and_then(next_step_for_reason) {
        return Some(hint);
    }
    match error {
        silence if is_silence(silence) => Some("is the cluster running?"),
        ClientError::Unavailable(_) => Some("try again; `jangada cluster health` tells what is wrong with the cluster"),
        ClientError::ConditionFailed { definite: true, .. } => {
            Some("nothing was written: read what is there now, and try again with the offset that is named")
        }
        ClientError::ConditionFailed { definite: false, .. } => {
            Some("an earlier attempt got lost and may still come: read what is there before trying again")
        }
        ClientError::OutcomeUnknown(_) => Some("it may have happened or not: look before doing it again"),
        ClientError::DuplicateSequence(_) => Some("nothing is to be done: the records are there"),
        ClientError::Gap { .. } => Some(
            "the leader lost records: `jangada cluster health` and the logs of the brokers tell; another replica may have \
             them (`jangada partition transfer-leader`)",
        ),
        ClientError::Corrupt { .. } => Some("`--on-bad-batch skip` reads on after it, and tells what it skips"),
        _ => None,
    }
}

fn next_step_for_reason(reason: Reason) -> Option<&'static str> {
    Some(match reason {
        Reason::UnknownTopic => "`jangada topic ls` shows the topics; `jangada topic create NAME` makes one",
        Reason::UnknownPartition => "`jangada partition ls TOPIC` shows the partitions",
        Reason::UnknownBroker => "`jangada cluster info` shows the brokers",
        Reason::TopicExists => "choose another name, or add --if-not-exists",
        Reason::InvalidTopicName => {
            "a name has 1 to 249 characters of A-Z a-z 0-9 . _ - and does not begin with two underscores"
        }
        Reason::InvalidConfig => "`jangada topic describe NAME` shows all settings of a topic with their bounds",
        Reason::InvalidReplicas => "`jangada cluster info` shows how many brokers there are",
        Reason::UnknownQueue => "`jangada queue ls` shows the queues; `jangada queue create NAME` makes one",
        Reason::UnknownExchange => {
            "`jangada exchange ls` shows the exchanges; `jangada exchange create NAME --type TYPE` makes one"
        }
        Reason::ExchangeExists => {
            "choose another name, or add --if-not-exists if it is as asked for: `jangada exchange describe NAME` shows it"
        }
        Reason::InvalidExchangeName => {
            "a name has 1 to 249 characters of A-Z a-z 0-9 . _ - and does not begin with amq."
        }
        Reason::InvalidBinding => {
            "`jangada exchange describe NAME` shows the exchange's type and bindings; headers are for headers exchanges"
        }
        Reason::ExchangeInUse => "take its bindings away with `jangada exchange unbind`, or leave out --if-unused",
        Reason::ExchangeInternal => {
            "publish to an exchange that is bound to it: `jangada exchange describe NAME` shows which are"
        }
        Reason::Unroutable => {
            "`jangada exchange trace NAME --key KEY` shows what matches; `jangada exchange bind NAME --queue QUEUE` binds a queue"
        }
        Reason::TooManyExchanges => {
            "delete some that are not used: `jangada exchange ls` shows how many bindings each has"
        }
        Reason::TooManyBindings => {
            "take some away with `jangada exchange unbind`: one pattern with # may do for many keys"
        }
        Reason::UnknownGroup => "`jangada group ls` shows the groups",
        Reason::InvalidGroupName => "a name has 1 to 249 characters of A-Z a-z 0-9 . _ -",
        Reason::GroupNotEmpty => "stop its consumers first; `jangada group describe GROUP` shows them",
        Reason::FencedInstanceId | Reason::UnreleasedInstanceId => {
            "another process has the instance id; give each an --instance-id of its own"
        }
        Reason::OffsetOutOfRange => {
            "`jangada partition ls TOPIC` shows what each partition has; --from earliest begins with the oldest"
        }
        Reason::RecordTooLarge | Reason::BatchTooLarge => {
            "raise the topic's limit: jangada topic alter NAME -c max.message.bytes=..."
        }
        Reason::AcksNoneIdempotent => "use --acks quorum",
        Reason::DiskFull => "free space on the broker's disk, or trim: jangada topic trim NAME --before OFFSET",
        Reason::PartitionBusy | Reason::BrokerBusy | Reason::TooManyStreams => {
            "the broker has more work than it takes: try again, or send less at once"
        }
        Reason::QuorumTimeout => "too few replicas answer: `jangada cluster health` tells which",
        Reason::StoreFenced => "the broker's disk failed; see its log",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_stdout_is_no_failure() {
        let error = CliError::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(error.silent && error.exit == Exit::Fine);
        assert!(!CliError::from(io::Error::from(io::ErrorKind::StorageFull)).silent);
    }

    #[test]
    fn errors_of_exchanges_come_with_the_next_step() {
        let unroutable = ClientError::Unroutable {
            exchange: "orders".into(),
            routing_key: "a.b".into(),
        };
        let unknown = ClientError::UnknownExchange {
            exchange: "orders".into(),
        };
        for (error, step) in [(unroutable, "exchange trace"), (unknown, "exchange ls")] {
            let error = CliError::from(error);
            assert!(error.message.contains("orders"), "{}", error.message);
            assert!(error.hint.is_some_and(|hint| hint.contains(step)));
        }
    }

    #[test]
    fn an_unknown_topic_comes_with_the_next_step() {
        let error = CliError::from(ClientError::UnknownTopic { topic: "orders".into() });
        assert!(error.message.contains("orders"), "{}", error.message);
        assert!(error.hint.is_some_and(|hint| hint.contains("topic ls")));
    }
}
