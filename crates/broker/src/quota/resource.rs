//! The resources that clients share, and the scopes at which they are limited.

/// A resource that clients share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resource {
    /// Encoded bytes of requests that are being received or processed.
    Requests,
    /// Additional bytes that those requests take when they are decoded. Separate from `Requests`, and taken at once when a
    /// message is complete, so that a complete message never waits for one that is itself waiting.
    Decoded,
    /// Bytes of responses, other than records, that are not sent yet.
    Answers,
    /// Bytes of fetched batches that are not sent yet.
    Fetch,
    /// Like `Fetch`, for fetches that return decoded records. Separate, since such a fetch reserves much more than it usually
    /// needs, and fetches of batches would wait behind it.
    PlainFetch,
    /// Bytes of batches that were received and that Raft still holds.
    Produce,
    /// Bytes of offset commits and deletions of offsets that Raft still holds.
    Commits,
    /// Bytes of heartbeats that Raft still holds.
    Heartbeats,
    /// Number of produce and fetch streams.
    Streams,
    /// Number of calls of any kind: each has a task, headers, and buffers of the transport.
    Calls,
    /// Bytes in flow-control windows of messages that wait for their holding: they are in memory before they are counted in
    /// `Requests`.
    Windows,
}

impl Resource {
    pub const ALL: [Self; 11] = [
        Self::Requests,
        Self::Decoded,
        Self::Answers,
        Self::Fetch,
        Self::PlainFetch,
        Self::Produce,
        Self::Commits,
        Self::Heartbeats,
        Self::Streams,
        Self::Calls,
        Self::Windows,
    ];

    /// Whether the resource is counted in bytes; otherwise it is a number of things.
    pub fn is_bytes(self) -> bool {
        !matches!(self, Self::Streams | Self::Calls)
    }

    /// The value of the label `resource` in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Decoded => "decoded",
            Self::Answers => "answers",
            Self::Fetch => "fetch",
            Self::PlainFetch => "plain_fetch",
            Self::Produce => "produce",
            Self::Commits => "commits",
            Self::Heartbeats => "heartbeats",
            Self::Streams => "streams",
            Self::Calls => "calls",
            Self::Windows => "windows",
        }
    }

    /// The setting that limits the resource, for error messages.
    pub fn setting(self) -> &'static str {
        match self {
            Self::Requests | Self::Decoded | Self::Windows => "limits.request_inflight_bytes",
            Self::Answers => "limits.answer_inflight_bytes",
            Self::Fetch | Self::PlainFetch => "limits.fetch_inflight_bytes",
            Self::Produce => "limits.produce_inflight_bytes",
            Self::Commits | Self::Heartbeats => "fixed",
            Self::Streams => "limits.streams_max",
            Self::Calls => "limits.calls_max",
        }
    }
}

/// One value per resource.
pub(crate) type PerResource<T> = [T; Resource::ALL.len()];

/// The scope whose limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    Connection,
    Address,
    Broker,
}

impl Scope {
    pub const ALL: [Self; 3] = [Self::Connection, Self::Address, Self::Broker];

    pub fn name(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Address => "address",
            Self::Broker => "broker",
        }
    }
}
