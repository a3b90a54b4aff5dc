//! What goes into a step of the engine, and what comes out.

use bytes::Bytes;

use crate::command::{Carry, Fire, Marks, QueueOps, Section};
use crate::engine::consumers::Waiter;
use crate::engine::policy::Policy;
use crate::ids::{AttemptId, CallId, LeaseId, SessionId, SlotId, TransactionId};
use crate::reply::{OpsReply, SectionReply};
use crate::state::{DeadReason, EndedTransaction, ScheduleKey};
use crate::tables::MarkRow;

macro_rules! number {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);
    };
}

number! {
    /// A consumer's stream. Chosen by the host, never used again.
    ConsumerId
}
number! {
    /// A request that is answered once. Chosen by the host, never used again.
    RequestId
}
number! {
    /// A command that was proposed.
    Ticket
}
number! {
    /// A look-up of rows.
    ReadId
}

/// What a consumer says of a message that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// It is done.
    Ack,
    /// It goes out again later: after the delay, or by the queue's backoff. `failed`: it counts.
    Nack {
        /// Milliseconds; none: the queue's backoff.
        delay_ms: Option<u64>,
        /// It counts as a failure.
        failed: bool,
    },
    /// It is given back, and goes out again at once.
    Release,
    /// It is dead.
    Reject,
    /// The lease lasts so many milliseconds from now on.
    Extend {
        /// Milliseconds from the time at which the engine is told.
        lease_ms: u64,
    },
    /// It is done if the transaction is committed, and goes out again, without a failure, if it is aborted. Until then it is with nobody.
    /// This partition is among those that are told of the transaction's end.
    AckIn {
        /// The transaction that it is part of.
        transaction: TransactionId,
    },
}

/// One message to settle, named by its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SettleItem {
    /// The offset of the message.
    pub offset: u64,
    /// The lease that it was handed out with.
    pub lease: LeaseId,
    /// What becomes of it.
    pub settlement: Settlement,
}

/// What became of a message to settle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It is as the consumer said.
    Done,
    /// Nothing becomes of it any more, since before.
    AlreadySettled,
    /// The lease is not the message's any more, or never was.
    LeaseLost,
    /// It is acknowledged in a transaction that is not over, and nothing else becomes of it before.
    InTransaction,
    /// The transaction that it was to be acknowledged in is over, or another one of its producer is not.
    TransactionOver,
    /// The state of the partition's slots is as large as it may be: no more is acknowledged in transactions.
    Full,
}

/// What the engine is told.
#[derive(Debug)]
pub enum Input {
    /// The settings of the queue of a slot, which is open. Until then the slot hands out nothing.
    Configure {
        /// The slot of the queue.
        slot: SlotId,
        /// The queue's settings, as the engine needs them.
        policy: Policy,
    },
    /// Records were appended: the partition's end is another one. With their marks, if they have any.
    Appended {
        /// The offset of the first record, and the marks.
        marks: Option<(u64, Marks)>,
    },
    /// A consumer's stream begins. It is answered by [`Output::Attached`], or by [`Output::Moved`]. Without credit it gets nothing but what
    /// its session has already.
    Attach {
        /// The consumer's stream.
        consumer: ConsumerId,
        /// The slot of the queue.
        slot: SlotId,
        /// The session; one that was there before goes on.
        session: SessionId,
        /// How long it has messages, milliseconds.
        lease_ms: u64,
        /// The messages that the session still has in hand, with their leases. What else it was granted is sent again.
        holds: Vec<(u64, LeaseId)>,
    },
    /// A consumer may get so many messages more.
    Credit {
        /// The consumer's stream.
        consumer: ConsumerId,
        /// How many messages more it may get.
        messages: u32,
    },
    /// A consumer's stream has ended: it took leave (`orderly`), or its connection broke.
    Detach {
        /// The consumer's stream.
        consumer: ConsumerId,
        /// Its messages are given back at once, and count no failure. Else they wait for the session to come back.
        orderly: bool,
    },
    /// Asks once for messages.
    Receive {
        /// The number of the request.
        request: RequestId,
        /// The slot of the queue.
        slot: SlotId,
        /// The session that the leases will belong to.
        session: SessionId,
        /// Names the receive, if it may be sent again; 0: it will not be.
        attempt: AttemptId,
        /// Which call of it this is; 0: not known.
        call: CallId,
        /// At most so many.
        messages: u32,
        /// How long it has them, milliseconds.
        lease_ms: u64,
        /// How long it waits for the first, milliseconds.
        wait_ms: u64,
    },
    /// Asks for what a call of a receive was granted here: whoever makes the call was answered by another partition, and nobody gets it.
    /// It ends what the call waits for. Of a receive that another call has asked for too, or that an earlier leader granted something,
    /// it gets nothing: that may be with the client already, and if it is not its lease runs out.
    TakeBack {
        /// The number of the request.
        request: RequestId,
        /// The slot of the queue.
        slot: SlotId,
        /// The session of the receive.
        session: SessionId,
        /// Names the receive.
        attempt: AttemptId,
        /// The call that has an end.
        call: CallId,
    },
    /// Whoever asked is gone: it is not granted anything any more.
    CancelReceive {
        /// The number of the request.
        request: RequestId,
    },
    /// Messages could not be handed on to whom they were for: nobody saw them. What was given to somebody else since, because a receive
    /// was sent again or its session has another stream, stays there.
    Undelivered {
        /// The slot of the queue.
        slot: SlotId,
        /// Whom they were for.
        to: Waiter,
        /// The messages, with their leases.
        messages: Vec<(u64, LeaseId)>,
    },
    /// Settles messages that were handed out.
    Settle {
        /// The number of the request.
        request: RequestId,
        /// The slot of the queue.
        slot: SlotId,
        /// The messages to settle, with their tokens.
        items: Vec<SettleItem>,
    },
    /// Proposes a section that an administrator asks for: to open, close, seek, purge, redrive.
    Administer {
        /// The number of the request.
        request: RequestId,
        /// What is to be done.
        section: Section,
    },
    /// Rows that the engine wanted.
    Rows {
        /// The number of the look-up.
        read: ReadId,
        /// The rows, in the order of their keys.
        rows: Rows,
    },
    /// A command of this term was applied; the slots have it already. One that is not this engine's is told, too.
    Applied {
        /// The number in the command.
        ticket: Ticket,
        /// What it came to.
        reply: OpsReply,
    },
    /// How large the log is. To be told when the engine begins, each time the log has grown by a part, and each 10 s while it grows.
    LogSizes {
        /// The first offset of the first part: the log start.
        start: u64,
        /// The parts in their order, up to the end of the log.
        parts: Vec<LogPart>,
        /// All bytes that were ever written to the log, records and commands: a number that only grows, from any beginning.
        written_bytes: u64,
    },
    /// The host has read the records of [`Output::Carry`] and proposes them. What becomes of it is told by [`Input::Carried`].
    CarryBuilt {
        /// The bytes of the batch.
        bytes: u64,
    },
    /// What [`Engine::admits`](crate::Engine::admits) admitted is appended, or was definitely not.
    Sent {
        /// The slot of the queue.
        slot: SlotId,
        /// As many messages as were admitted.
        messages: u64,
        /// As many bytes as were admitted.
        bytes: u64,
        /// They are in the log.
        is_appended: bool,
    },
    /// A producer id for the topic that dead letters go to, which nobody else has or had: see [`Output::Producer`].
    Producer {
        /// The slot of the queue.
        slot: SlotId,
        /// The producer id.
        producer: i64,
    },
    /// What became of [`Output::Forward`].
    Forwarded {
        /// The slot of the queue.
        slot: SlotId,
        /// The producer id of the batch.
        producer: i64,
        /// The first sequence of the batch.
        sequence: u32,
        /// What became of it.
        outcome: ForwardOutcome,
    },
    /// A command about a schedule was applied, whoever proposed it; or what [`Output::Fire`] asked for was definitely not.
    Scheduled {
        /// The queue's slot, and the name of the schedule.
        key: ScheduleKey,
        /// It was applied; else it is tried again.
        is_applied: bool,
    },
    /// Messages were carried: of each the old offset and the new one. The slots have it already. Without any: the carry that was to be
    /// made was refused, or its records could not be read.
    Carried {
        /// The old and new offsets of the messages.
        moves: Vec<(u64, u64)>,
    },
    /// The log begins elsewhere, whatever was not done below. The slots have it already.
    CutOff,
    /// A transaction is over: what was sent in it, and behind it, may go out. The slots have it already.
    Ended(EndedTransaction),
    /// What was handed out are no messages: control records, or those of a transaction that was aborted before the slot was there. Nobody
    /// has seen them.
    Void {
        /// The slot of the queue.
        slot: SlotId,
        /// Whom they were for.
        to: Waiter,
        /// The messages, with their leases.
        messages: Vec<(u64, LeaseId)>,
    },
    /// Time has passed.
    Tick,
    /// Leadership is to go to another broker: nothing is granted any more.
    HandOver,
}

/// A dead message on its way to another topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The offset of the message.
    pub offset: u64,
    /// The offset that it was sent with; another one if it was carried and the queue keeps an order.
    pub origin: u64,
    /// Why it is dead.
    pub reason: DeadReason,
    /// How often it failed.
    pub failures: u16,
    /// How often it was handed out.
    pub deliveries: u16,
    /// When it died, milliseconds since the Unix epoch.
    pub died_at_ms: u64,
}

/// What became of a batch of dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardOutcome {
    /// It is in the topic, now or since an earlier try.
    Arrived,
    /// This try is definitely not in the topic: it is missing, or refuses. The letters stay dead here, and are tried again later.
    Refused,
    /// This try is definitely not in the topic: it has no room for so many. Half as many are tried at once; one alone is tried again later.
    Full,
    /// It is definitely not in the topic: the batch is larger than one may be. Fewer are tried, at once.
    TooLarge {
        /// So many of the first letters may fit. 0: the first one is too large alone, and stays dead here.
        fits: usize,
    },
    /// The topic does not know the producer any more, or expects another sequence. The letters go again with another producer id, and
    /// may be there twice.
    Forgotten,
    /// Whether it is in the topic is not known. The same is sent again.
    Unknown,
}

/// A part of the log: what lies between two places where the log can be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogPart {
    /// The offset behind its last record; it begins where the part before ends.
    pub end: u64,
    /// The bytes of its records.
    pub record_bytes: u64,
    /// The bytes of all of its entries: records and commands.
    pub bytes: u64,
}

/// Rows that the engine wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// The rows that were found.
    pub rows: Vec<MarkRow>,
    /// There are no more of what was asked for.
    pub is_all: bool,
}

/// Which rows the engine wants: those of one kind from a place on, in the order of their keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowsWanted {
    /// Marks of batches whose last offset is at or above `from`.
    Batches {
        /// The least last offset of a batch.
        from: u64,
        /// At most so many.
        limit: usize,
    },
    /// Timers behind `after`: time and offset.
    Timers {
        /// Time in milliseconds, and offset.
        after: (u64, u64),
        /// At most so many.
        limit: usize,
    },
    /// Messages of a key behind a place in the order.
    Key {
        /// The hash of the key.
        key: u64,
        /// A place in the order.
        after: u64,
        /// At most so many.
        limit: usize,
    },
    /// Batches with messages of a lane, whose last offset is at or above `from`.
    Lane {
        /// The level of priority.
        lane: u8,
        /// The least last offset of a batch.
        from: u64,
        /// At most so many.
        limit: usize,
    },
    /// Where a message is now.
    Origin {
        /// Its old offset.
        old: u64,
    },
}

/// A message that is handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// The offset of the message.
    pub offset: u64,
    /// With the offset its token.
    pub lease: LeaseId,
    /// How often it failed.
    pub failures: u16,
    /// How often it was handed out, this time included.
    pub deliveries: u16,
    /// How long it is leased still, milliseconds: less than asked for if it is sent again.
    pub lease_left_ms: u64,
}

/// What a request came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The messages of a receive; none came in time if there are none.
    Received(Vec<Delivered>),
    /// No messages came in time, for consumers have as many as they may: this bound keeps the receive waiting.
    InFlightFull(u64),
    /// What became of each message to settle.
    Settled(Vec<Settled>),
    /// What a section of an administrator came to.
    Administered(SectionReply),
    /// There is no such slot.
    UnknownSlot,
    /// Another request took this one's place: it was sent again.
    Superseded,
    /// Leadership goes to another broker: ask there.
    Moved,
}

/// What the host is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Propose a command, and tell what it came to. A command whose outcome is not known ends the engine: leadership is lost.
    Propose {
        /// The command's number.
        ticket: Ticket,
        /// The command to propose.
        ops: QueueOps,
    },
    /// Look rows up, and give them.
    Read {
        /// The number of the look-up.
        read: ReadId,
        /// The rows to look up.
        wanted: RowsWanted,
    },
    /// A consumer's stream is known. The first that it hears, once. Send it messages that its session has already, and that it did not say
    /// it holds: they took none of its credit here. It may have them in hand, so they are never [`Input::Undelivered`].
    Attached {
        /// The consumer's stream.
        consumer: ConsumerId,
        /// The messages, by offset; often none.
        messages: Vec<Delivered>,
    },
    /// Send messages to a consumer, for credit that it had.
    Deliver {
        /// The consumer's stream.
        consumer: ConsumerId,
        /// The messages, in the order in which they go out.
        messages: Vec<Delivered>,
    },
    /// Answer a request.
    Answer {
        /// The number of the request.
        request: RequestId,
        /// What it came to.
        answer: Answer,
    },
    /// Append messages again: read their records, make one batch of them in the order of `carry.messages`, and propose the command `Carry`
    /// with that head and body, after [`Input::CarryBuilt`]. When it is applied, tell [`Input::Carried`] with the offset of each; if it
    /// was refused, or cannot be made, tell it with none. One is under way at a time.
    ///
    /// If the records are more than `bytes_max`, the first ones are carried, at least one: `messages` and `marks` are cut alike.
    Carry {
        /// What is carried.
        carry: Carry,
        /// Bytes of the batch, about.
        bytes_max: u64,
    },
    /// Get a producer id for the topic that a slot's dead letters go to, and tell [`Input::Producer`]. If it cannot be had now, try
    /// again until the engine ends.
    Producer {
        /// The slot of the queue.
        slot: SlotId,
    },
    /// Send dead letters to their topic: read their records and append them as one batch, with idempotence by this producer id and
    /// sequence, always to the same partition of the topic. Each gets headers that say where it comes from and why it is dead. What
    /// became of it is told by [`Input::Forwarded`]. The same letters may be asked for again, by this leader or the next one, and are
    /// to give the same batch.
    Forward {
        /// The slot of the queue.
        slot: SlotId,
        /// The producer id.
        producer: i64,
        /// The sequence of the first letter.
        sequence: u32,
        /// The letters, in their order; at most 500.
        letters: Vec<DeadLetter>,
        /// An earlier try may have arrived, or may still arrive. False: nobody has sent this batch before.
        may_be_there: bool,
    },
    /// A schedule is due: propose the command `Schedule` with this head. If it `appends`, make a batch of one message from the template for
    /// its body. Tell what it came to with [`Input::Scheduled`].
    Fire {
        /// Which occurrence of which schedule it is.
        fire: Fire,
        /// What its message is made of, as it was put.
        template: Bytes,
    },
    /// Nobody has used the queue for as long as its setting says. The queue is to be deleted when the leaders of all of its partitions have
    /// said so. Said once, and again if it is used and unused again.
    Unused {
        /// The slot of the queue.
        slot: SlotId,
    },
    /// Tell a consumer that leadership goes to another broker, and end its stream.
    Moved {
        /// The consumer's stream.
        consumer: ConsumerId,
    },
}
