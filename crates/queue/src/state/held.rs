//! A message of which a slot knows more than that it is there, and the lease of one that is out.

use jangada_types::CodecError;
use jangada_types::frame::malformed;
use jangada_types::replicated::{Sample, Seeds, Wire};

use crate::ids::{AttemptId, LeaseId, SessionId};

/// Declares an enumeration that is one byte in a state and a number in a command.
macro_rules! bytes {
    ($(#[$meta:meta])* $name:ident, $what:literal, $sampled:literal { $($(#[$doc:meta])* $variant:ident = $byte:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum $name {
            $($(#[$doc])* $variant = $byte,)*
        }

        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The value with this byte; none: a later build wrote it, or it is damaged.
            pub fn of_byte(byte: u8) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| *value as u8 == byte)
            }
        }

        impl Wire<u32> for $name {
            fn to_form(&self) -> u32 {
                u32::from(*self as u8)
            }

            fn from_form(what: &'static str, form: u32) -> Result<Self, CodecError> {
                let known = u8::try_from(form).ok().and_then(Self::of_byte);
                known.ok_or_else(|| malformed(what, format!(concat!("unknown ", $what, " {}"), form)))
            }
        }

        impl Sample for $name {
            /// One of the first so many: golden files have what was drawn before others were added.
            fn sample(seeds: &mut Seeds) -> Self {
                Self::ALL[seeds.below($sampled) as usize]
            }
        }
    };
}

bytes! {
    /// Why a message is in a slot's table. One that is neither there nor done is free.
    HeldState, "state of a message", 4 {
        /// A session has it, until its deadline has passed and it is granted again.
        Leased = 1,
        /// It goes out again at its time.
        Waiting = 2,
        /// It does not go out any more, and is kept for people to look at.
        Dead = 3,
        /// It is dead, and on its way to another topic.
        Moving = 4,
        /// It is acknowledged in a transaction that is not over. It keeps the lease's id, and its lease is over: nobody has it, and
        /// nothing but the transaction's end, or what takes all, says what becomes of it.
        Staged = 5,
    }
}

bytes! {
    /// Why a message is dead.
    DeadReason, "reason of a dead message", 4 {
        /// It failed as often as it may, or was received as often as it may.
        Attempts = 1,
        /// A consumer rejected it.
        Rejected = 2,
        /// It was not settled within its time to live.
        Expired = 3,
        /// The queue was full, and it was the oldest.
        Length = 4,
    }
}

bytes! {
    /// By what a message is done.
    DoneCause, "cause of what is done", 9 {
        /// Its consumer acknowledged it.
        Acked = 1,
        /// It was not settled within its time to live.
        Expired = 2,
        /// Its sender cancelled it.
        Cancelled = 3,
        /// The queue, or its dead letters, were purged.
        Purged = 4,
        /// It is not for this slot.
        NotRouted = 5,
        /// The queue was full, and it was the oldest.
        Length = 6,
        /// It was sent to another topic as a dead letter.
        Forwarded = 7,
        /// It was appended again, and goes on under its new offset.
        Carried = 8,
        /// The log's retention took it undone.
        CutOff = 9,
        /// It never was a message: a control record, or one of a transaction that was aborted.
        Void = 10,
    }
}

bytes! {
    /// What a slot is for its log.
    SlotKind, "kind of slot", 3 {
        /// The log is the queue's alone: what is done may be deleted.
        Owned = 1,
        /// The queue is a view over an ordinary topic, whose retention rules. As Kafka's share group (KIP-932).
        Group = 2,
        /// The queue is one of several over an exchange's log, which is cut at the lowest floor, and above it where its retention says so.
        Bound = 3,
    }
}

bytes! {
    /// Whether messages keep their place in the order when they are appended again.
    KeepsOrder, "order of a slot", 2 {
        /// They do not.
        No = 1,
        /// They do: the queue has an order by key, or priorities.
        Yes = 2,
    }
}

/// What a slot knows of one message, 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The lease, while the message is leased, or staged.
    pub lease: LeaseId,
    /// The hash of the message's key, where the queue keeps an order by key; else 0.
    pub key: u64,
    /// Of a leased message its deadline, of a waiting one when it goes out, of a dead one when it died, of a staged one when it was
    /// staged: milliseconds since the Unix epoch, by the clock of the leader that decided it.
    pub at_ms: u64,
    /// How often it failed: it was refused as failed, or its lease ran out.
    pub failures: u16,
    /// How often it was handed out.
    pub deliveries: u16,
    /// Why it is in the table.
    pub state: HeldState,
    /// Its level of priority, 0 the lowest.
    pub lane: u8,
    /// Why it is dead. Otherwise `None`, or `Expired`: it was dead for that, came back, and has no time to live any more.
    pub reason: Option<DeadReason>,
}

/// What one session was granted by one section of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Who has the messages.
    pub session: SessionId,
    /// The receive that they were granted for.
    pub attempt: AttemptId,
    /// How long it was granted for, milliseconds.
    pub duration_ms: u64,
    /// So many messages are leased by it still.
    pub left: u32,
}

/// The place in the order that a message had before it was appended again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The offset that it was sent with.
    pub origin: u64,
    /// The hash of its key, or 0.
    pub key: u64,
    /// Not before this time, milliseconds since the Unix epoch; 0: at once.
    pub deliver_at_ms: u64,
    /// Its level of priority, 0 the lowest.
    pub lane: u8,
}
