//! What is spoken on a listener.

use serde::{Deserialize, Serialize};

/// See the module text. Its name is the one in settings, in registrations of brokers and in errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Clients: gRPC over HTTP/2.
    Grpc,
    /// Other brokers: the same.
    Internal,
    /// Probes and scrapes: HTTP/1.
    Http,
}

impl Protocol {
    /// The names of all.
    pub const NAMES: &[&str] = &["grpc", "internal", "http"];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Grpc => "grpc",
            Protocol::Internal => "internal",
            Protocol::Http => "http",
        }
    }

    /// How one of its connections is told why it ends.
    pub(super) fn is_http2(self) -> bool {
        match self {
            Protocol::Grpc | Protocol::Internal => true,
            Protocol::Http => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_those_of_the_settings() {
        for name in Protocol::NAMES {
            let value = toml::Value::String((*name).to_owned());
            let protocol: Protocol = value.try_into().expect("it is one");
            assert_eq!(protocol.name(), *name);
        }
    }
}
