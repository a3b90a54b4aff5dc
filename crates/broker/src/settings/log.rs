//! Settings of the broker's own log lines.

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

use super::{Kind, Problem, Setting};

/// The format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines to be read by people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl Setting for LogFormat {
    fn kind(&self) -> Kind {
        Kind::Text
    }

    fn show(&self) -> String {
        match self {
            LogFormat::Text => "\"text\"".to_owned(),
            LogFormat::Json => "\"json\"".to_owned(),
        }
    }
}

settings! {
    /// The broker's log lines, which go to its standard error.
    LogSettings {
        keys {
            /// The format of log lines: for people, or one JSON object per line.
            format: LogFormat = LogFormat::Text, one_of(&["text", "json"]);
            /// Which lines are written: a level, or directives such as `info,jangada_replication=debug`. openraft would warn of
            /// each call that a dead broker does not answer, so by default only its errors are shown.
            filter: String = "info,openraft=error".to_owned(), said("directives of tracing's EnvFilter");
        }
        sections {}
    }
}

impl LogSettings {
    pub(super) fn check(&self, problems: &mut Vec<Problem>) {
        if let Err(error) = EnvFilter::builder().parse(&self.filter) {
            problems.push(Problem::new("log.filter", format!("is {:?}: {error}", self.filter)));
        }
    }
}
