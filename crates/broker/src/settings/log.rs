//! What a broker logs.

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

use super::{Kind, Problem, Setting};

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
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
    /// What the broker logs, to its standard error.
    LogSettings {
        keys {
            /// How log lines look.
            format: LogFormat = LogFormat::Text, one_of(&["text", "json"]);
            /// Which lines: a level, or directives such as `info,jangada_replication=debug`. openraft warns of each call that a
            /// dead broker does not answer.
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
