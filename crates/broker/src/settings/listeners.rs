//! The three listeners of a broker.

use std::net::SocketAddr;

use super::Problem;

settings! {
    /// Where the broker listens. Each address is host:port; a bind address is an IP address and a port. An advertised
    /// address is what others are told to connect to; empty, it is the bind address, which must then be one that others
    /// can reach.
    ListenerSettings {
        keys {
            /// Where clients connect (gRPC, package jangada.v1).
            public: String = "127.0.0.1:9400".to_owned(), said("an IP address and a port");
            /// The public address that clients are told. Empty: `public`.
            public_advertised: String = String::new(), said("empty, or host:port");
            /// Where other brokers connect. Clients are refused there; keep it inside the cluster's network.
            internal: String = "127.0.0.1:9440".to_owned(), said("an IP address and a port");
            /// The internal address that other brokers are told. Empty: `internal`.
            internal_advertised: String = String::new(), said("empty, or host:port");
            /// Where /metrics, /livez and /readyz are served (HTTP).
            http: String = "127.0.0.1:9480".to_owned(), said("an IP address and a port");
        }
        sections {}
    }
}

impl ListenerSettings {
    /// The address that clients are told.
    pub fn public_address(&self) -> &str {
        if self.public_advertised.is_empty() {
            &self.public
        } else {
            &self.public_advertised
        }
    }

    /// The address that other brokers are told.
    pub fn internal_address(&self) -> &str {
        if self.internal_advertised.is_empty() {
            &self.internal
        } else {
            &self.internal_advertised
        }
    }

    pub(super) fn check(&self, problems: &mut Vec<Problem>) {
        let binds = [
            ("public", &self.public),
            ("internal", &self.internal),
            ("http", &self.http),
        ];
        for (key, value) in binds {
            if let Err(error) = value.parse::<SocketAddr>() {
                let message = format!("is {value:?}, must be an IP address and a port such as 127.0.0.1:9400: {error}");
                problems.push(Problem::new(&format!("listeners.{key}"), message));
            }
        }
        for (i, (key, value)) in binds.iter().enumerate() {
            for (other, _) in binds[..i]
                .iter()
                .filter(|(_, other)| other == value && !value.ends_with(":0"))
            {
                problems.push(Problem::new(
                    &format!("listeners.{key}"),
                    format!("is {value}, which listeners.{other} uses already"),
                ));
            }
        }
        let advertised = [
            ("public", &self.public, &self.public_advertised),
            ("internal", &self.internal, &self.internal_advertised),
        ];
        for (key, bind, advertised) in advertised {
            let name = format!("listeners.{key}_advertised");
            if advertised.is_empty() {
                if bind
                    .parse::<SocketAddr>()
                    .is_ok_and(|address| address.ip().is_unspecified())
                {
                    let message =
                        format!("is required, because listeners.{key} is {bind}, which nobody can connect to");
                    problems.push(Problem::new(&name, message));
                }
            } else if let Err(why) = check_address(advertised) {
                problems.push(Problem::new(
                    &name,
                    format!("is {advertised:?}, must be host:port: {why}"),
                ));
            }
        }
    }
}

/// Checks the form host:port; the host may be a name, an IPv4 address or an IPv6 address in brackets.
pub(super) fn check_address(text: &str) -> Result<(), &'static str> {
    let (host, port) = text.rsplit_once(':').ok_or("the port is missing")?;
    match port.parse::<u16>() {
        Ok(0) => return Err("port 0 is not an address"),
        Ok(_) => {}
        Err(_) => return Err("the port is not a number from 1 to 65535"),
    }
    let bare = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host);
    if bare.is_empty() {
        return Err("the host is missing");
    }
    if bare == host && host.contains(':') {
        return Err("an IPv6 address needs brackets");
    }
    if bare.bytes().any(|byte| byte.is_ascii_whitespace() || byte == b'/') {
        return Err("the host has a character that no host name has");
    }
    Ok(())
}
