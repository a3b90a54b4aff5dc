//! The protocols of listeners.

use serde::{Deserialize, Serialize};

/// The protocol of a listener. Its name is used in settings, in registrations of brokers and in errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// gRPC over HTTP/2, for clients.
    Grpc,
    /// gRPC over HTTP/2, for other brokers.
    Internal,
    /// HTTP/1, for probes and scrapes.
    Http,
}

impl Protocol {
    /// The names of all protocols.
    pub const NAMES: &[&str] = &["grpc", "internal", "http"];

    /// The protocol's name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Grpc => "grpc",
            Protocol::Internal => "internal",
            Protocol::Http => "http",
        }
    }

    /// Whether a connection can be sent an HTTP/2 GOAWAY when it is closed.
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
