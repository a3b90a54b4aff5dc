//! The limit of open files (RLIMIT_NOFILE): raised to the hard limit, then divided so that no component can use up the
//! descriptors of another.
//!
//! ```text
//!   limit = the process itself + links to other brokers + the write-ahead log | the store's tables | each listener
//! ```
//!
//! When the limit is too low for the settings, the store's tables and the listeners get less, with a warning. When it is too low
//! for the minimum of each, the broker does not start.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::gate::EVICTING_MAX;

/// The limit is raised no further, also when the hard limit is higher or infinite: more is never used, and some programs close
/// every possible descriptor when they are started.
const LIMIT_MAX: u64 = 1 << 20;

/// Refused connections per listener that may be open at once while they are told why.
pub(super) const REFUSALS_CONCURRENT_MAX: usize = 32;
/// Descriptors of the process: standard streams, the runtime's, listening sockets, lock files, files that are open briefly.
const OF_PROCESS: u64 = 64;
/// Connections that this broker opens: two to each other broker, and those on which calls are forwarded.
const OUTGOING: u64 = 64;
/// Files that the store has open for writing: live files of the write-ahead log, outputs of flushes and compactions.
const OF_WRITES: u64 = 32;
/// Descriptors of a listener beyond its slots: connections that are being refused, and evicted ones that are still closing.
const BEYOND_SLOTS: u64 = (REFUSALS_CONCURRENT_MAX + EVICTING_MAX) as u64;

/// Connections of the internal listener: each other broker has two, and briefly more while it reconnects.
const INTERNAL_MAX: u64 = 1_000;
const INTERNAL_MIN: u64 = 32;
/// Connections of the HTTP listener: probes and scrapes.
const HTTP_MAX: u64 = 256;
const HTTP_MIN: u64 = 16;
/// The fewest connections of a client listener.
const PUBLIC_MIN: u64 = 32;
/// The fewest tables and blob files that the store must be able to keep open.
const STORE_MIN: u64 = 128;

/// How many descriptors the settings ask for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// The setting `storage.open_files_max`.
    pub store: u64,
    /// The setting `storage.wal_recycled_files`.
    pub wal_recycled: u64,
    /// The setting `limits.connections_max`, which holds for each client listener.
    pub public: u64,
    /// How many listeners there are; at least one of each protocol.
    pub listeners: Listeners,
}

/// How many listeners there are of each protocol.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listeners {
    pub grpc: u64,
    pub internal: u64,
    pub http: u64,
}

impl Wanted {
    /// Descriptors that are needed whatever the limit is.
    fn fixed(&self) -> u64 {
        let Listeners { grpc, internal, http } = self.listeners;
        OF_PROCESS + OUTGOING + OF_WRITES + (grpc + internal + http) * BEYOND_SLOTS + self.wal_recycled
    }
}

/// How many descriptors each part gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shares {
    /// Tables and blob files that the store may keep open.
    pub store: u64,
    /// Connections of each client listener.
    pub public: u64,
    /// Connections of each internal listener.
    pub internal: u64,
    /// Connections of each HTTP listener.
    pub http: u64,
}

impl Shares {
    /// The sum over the store and all listeners.
    fn total(&self, listeners: Listeners) -> u64 {
        let Listeners { grpc, internal, http } = listeners;
        self.store + grpc * self.public + internal * self.internal + http * self.http
    }
}

/// The limit of open files is below the sum of the minimums.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the limit of open files is {limit}, and this broker needs at least {least}, better {recommended}: raise the hard limit \
     (LimitNOFILE= of a systemd unit, `ulimit -Hn`, --ulimit nofile= of a container), or lower storage.wal_recycled_files"
)]
pub struct TooFewDescriptors {
    limit: u64,
    least: u64,
    recommended: u64,
}

/// Raises the soft limit to the hard one, and returns the soft limit that holds then.
pub(crate) fn raise() -> io::Result<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let to = maximum.unwrap_or(LIMIT_MAX).min(LIMIT_MAX);
    let Some(before) = current.filter(|before| *before < to) else {
        let limit = current.unwrap_or(LIMIT_MAX);
        tracing::info!(limit, "open files");
        return Ok(limit);
    };
    let raised = Rlimit {
        current: Some(to),
        maximum,
    };
    setrlimit(Resource::Nofile, raised)?;
    tracing::info!(limit = to, before, "open files: raised to the hard limit");
    Ok(to)
}

/// Divides the limit between the store and the listeners.
pub(crate) fn share_out(limit: u64, wanted: &Wanted) -> Result<Shares, TooFewDescriptors> {
    let (fixed, listeners) = (wanted.fixed(), wanted.listeners);
    let all = Shares {
        store: wanted.store,
        public: wanted.public,
        internal: INTERNAL_MAX,
        http: HTTP_MAX,
    };
    let recommended = fixed + all.total(listeners);
    if limit >= recommended {
        return Ok(all);
    }
    let least = Shares {
        store: STORE_MIN.min(wanted.store),
        public: PUBLIC_MIN.min(wanted.public),
        internal: INTERNAL_MIN,
        http: HTTP_MIN,
    };
    let least = fixed + least.total(listeners);
    if limit < least {
        return Err(TooFewDescriptors {
            limit,
            least,
            recommended,
        });
    }
    let free = limit - fixed;
    let internal = (free / 8 / listeners.internal).clamp(INTERNAL_MIN, INTERNAL_MAX);
    let http = (free / 16 / listeners.http).clamp(HTTP_MIN, HTTP_MAX);
    let free = free - listeners.internal * internal - listeners.http * http;
    // The store and the client listeners get half each; what one of them does not want goes to the other.
    let clients_at_least = listeners.grpc * PUBLIC_MIN.min(wanted.public);
    let store_at_least = (free / 2).max(STORE_MIN).min(wanted.store).min(free - clients_at_least);
    let public = wanted.public.min((free - store_at_least) / listeners.grpc);
    let store = wanted.store.min(free - listeners.grpc * public);
    let shares = Shares {
        store,
        public,
        internal,
        http,
    };
    tracing::warn!(
        limit,
        recommended,
        store_files = shares.store,
        public_connections = shares.public,
        internal_connections = shares.internal,
        http_connections = shares.http,
        "the limit of open files is lower than what storage.open_files_max and limits.connections_max need: both are lowered"
    );
    Ok(shares)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Wanted = Wanted {
        store: 2_000,
        wal_recycled: 5,
        public: 10_000,
        listeners: THREE,
    };
    const THREE: Listeners = Listeners {
        grpc: 1,
        internal: 1,
        http: 1,
    };

    #[test]
    fn what_is_shared_out_never_exceeds_the_limit() {
        let lowest = lowest_limit(&WANTED);
        assert!(lowest.is_some_and(|lowest| lowest <= 600), "{lowest:?}");
    }

    #[test]
    fn each_of_several_listeners_has_places_of_its_own() {
        let listeners = Listeners {
            grpc: 3,
            internal: 2,
            http: 2,
        };
        let wanted = Wanted { listeners, ..WANTED };
        let lowest = lowest_limit(&wanted);
        assert!(lowest.is_some_and(|lowest| lowest <= 1_024), "{lowest:?}");
        let shares = share_out(LIMIT_MAX, &wanted).expect("it does");
        assert_eq!((shares.public, shares.internal), (10_000, INTERNAL_MAX));
    }

    /// Tries all limits. The lowest that does.
    fn lowest_limit(wanted: &Wanted) -> Option<u64> {
        let mut lowest = None;
        for limit in (0..50_000).chain([LIMIT_MAX]) {
            let Ok(shares) = share_out(limit, wanted) else {
                assert_eq!(lowest, None, "a higher limit is never refused");
                continue;
            };
            lowest.get_or_insert(limit);
            assert!(
                wanted.fixed() + shares.total(wanted.listeners) <= limit,
                "{limit}: {shares:?}"
            );
            assert!(
                shares.store >= STORE_MIN && shares.public >= PUBLIC_MIN,
                "{limit}: {shares:?}"
            );
            assert!(
                shares.internal >= INTERNAL_MIN && shares.http >= HTTP_MIN,
                "{limit}: {shares:?}"
            );
        }
        lowest
    }

    #[test]
    fn the_usual_limit_of_1024_does_for_a_broker() {
        let shares = share_out(1_024, &WANTED).expect("it does");
        assert!(shares.store >= 200 && shares.public >= 200, "{shares:?}");
    }

    #[test]
    fn what_one_does_not_need_is_the_others() {
        let wanted = Wanted { store: 64, ..WANTED };
        let shares = share_out(1_024, &wanted).expect("it does");
        assert_eq!(shares.store, 64);
        let few_clients = Wanted { public: 50, ..WANTED };
        let shares = share_out(1_024, &few_clients).expect("it does");
        assert_eq!(shares.public, 50);
        assert!(shares.store > 400);
    }

    #[test]
    fn a_limit_that_is_too_low_is_refused_with_what_to_do() {
        let refused = share_out(256, &WANTED).expect_err("too few").to_string();
        assert!(refused.contains("256") && refused.contains("LimitNOFILE"), "{refused}");
    }
}
