//! The leader's side: it answers at once what follows from the state, and otherwise decides which command to propose.
//!
//! It holds state that is not replicated: until when transactions may be open, since when ids are not used, and which markers are not
//! acknowledged yet. A new leader sends all markers of what is decided again.
//!
//! All time comes in as [`Now`]. Nothing here changes the [`Image`]: a [`Step::Propose`] goes through the log, and its outcome comes back
//! by [`Leader::applied`] and [`Leader::resume`].

mod config;
mod driven;
mod habits;
mod outbox;
mod request;
mod requests;
mod timers;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;

pub use config::Config;
pub use jangada_machine::Now;
use jangada_types::{Reason, Rejection};
pub use outbox::{Acknowledgment, Delivery, Outgoing, Target};
pub use request::{Answer, EndRequest, InitRequest, JoinKind, JoinRequest, Pending, Step};

use crate::command::Command;
use crate::event::Event;
use crate::image::Image;
use crate::reply::Reply;
use habits::Habits;
use outbox::{Outbox, Settled};
use request::Request;
use timers::Timer;

/// Most times that one request is decided. It is decided anew when its id changed meanwhile; each time another command of the same id was
/// applied first, so this bounds the unfairness, not the work.
const ATTEMPTS_MAX: u32 = 16;

/// The volatile side of a shard's transactional ids, on the replica that leads it. It is made when that replica has applied an entry of its
/// own term, and dropped when it no longer leads.
#[derive(Debug)]
pub struct Leader {
    config: Config,
    timers: BTreeMap<Arc<str>, Timer>,
    /// The times at which ids are due, the earliest first. Entries that were overtaken are skipped.
    queue: BinaryHeap<Reverse<(u64, Arc<str>)>>,
    /// The ids with an open transaction, by the time at which it began, milliseconds since the Unix epoch.
    open: BTreeSet<(u64, Arc<str>)>,
    outbox: Outbox,
    habits: Habits,
    /// Events that the host has yet to write down.
    events: Vec<Event>,
}

impl Leader {
    /// A leader over the state as it is now. All markers of what is decided are due at once.
    pub fn new(config: Config, image: &Image, now: Now) -> Self {
        let mut leader = Self {
            config,
            timers: BTreeMap::new(),
            queue: BinaryHeap::new(),
            open: BTreeSet::new(),
            outbox: Outbox::default(),
            habits: Habits::default(),
            events: Vec::new(),
        };
        for id in image.ids.keys() {
            leader.refresh(image, id, now);
        }
        leader
    }

    /// Takes other settings. They count for what begins from now on.
    pub fn set_config(&mut self, config: Config) {
        self.config = config;
    }

    /// Takes note of a command that was applied, whatever the reply; `image` has it already.
    pub fn applied(&mut self, image: &Image, command: &Command, now: Now) {
        if let Command::Add { id, .. } | Command::Begin { id, .. } = command {
            self.habits.settled(id);
        }
        match command {
            Command::Init { id, .. }
            | Command::Add { id, .. }
            | Command::Begin { id, .. }
            | Command::End { id, .. }
            | Command::Expire { id, .. } => {
                self.refresh(image, id, now);
            }
            Command::Complete { ended, .. } => ended.iter().for_each(|(id, _)| self.refresh(image, id, now)),
        }
    }

    /// A process takes a transactional id.
    pub fn init(&mut self, image: &Image, request: InitRequest, now: Now) -> Step {
        self.decide(image, Request::Init(request), 1, now)
    }

    /// Partitions and groups become part of the open transaction, or begin one.
    pub fn join(&mut self, image: &Image, request: JoinRequest, now: Now) -> Step {
        self.decide(image, Request::Join(request), 1, now)
    }

    /// Whether a command is under way that adds all who ask, so that they need none of their own: they come again when it is applied.
    pub fn is_joining(&self, image: &Image, request: &JoinRequest) -> bool {
        let row = image.id(&request.id);
        row.is_some_and(|row| self.habits.are_under_way(row, request))
    }

    /// The producer ends its transaction.
    pub fn end(&mut self, image: &Image, request: EndRequest, now: Now) -> Step {
        self.decide(image, Request::End(request, None), 1, now)
    }

    /// An operator aborts the open transaction of an id.
    pub fn abort(&mut self, image: &Image, id: Arc<str>, now: Now) -> Step {
        self.decide(image, Request::Abort(id), 1, now)
    }

    /// The markers that are to be written now, at most `max`. Each comes again until it is acknowledged.
    pub fn take_outgoing(&mut self, now: Now, max: usize) -> Vec<Outgoing> {
        self.outbox.take(now.monotonic_ms, max)
    }

    /// The time at which [`Leader::take_outgoing`] has something next, on the monotonic clock.
    pub fn next_outgoing(&self) -> Option<u64> {
        self.outbox.next_due()
    }

    /// Whether all markers of a decided transaction are written, though it may not be complete yet.
    pub fn is_written(&self, id: &str, seq: u64) -> bool {
        self.outbox.is_written(id, seq)
    }

    /// Number of open transactions, and the time at which the oldest of them began, milliseconds since the Unix epoch.
    pub fn open_transactions(&self) -> (usize, Option<u64>) {
        (self.open.len(), self.open.first().map(|(started_ms, _)| *started_ms))
    }

    /// Number of markers that are not acknowledged.
    pub fn waiting_markers(&self) -> usize {
        self.outbox.len()
    }

    /// Whether the next transaction of an id may begin: none is being ended, or all markers of the last one are written and the command by
    /// which the next begins says so.
    pub fn may_begin(&self, image: &Image, id: &str) -> bool {
        image
            .id(id)
            .is_none_or(|row| !row.state.is_prepare() || self.begins_at_once(id, row))
    }

    /// Takes what became of markers. Transactions of which all are written become complete by the command with which the next one begins,
    /// or, when none does for a moment, by one for all that are due.
    pub fn acknowledge(&mut self, image: &Image, acknowledgments: &[Acknowledgment], now: Now) -> Step {
        let mut ended = Vec::new();
        for acknowledgment in acknowledgments {
            let Acknowledgment { id, seq, target, .. } = acknowledgment;
            match self.outbox.settle(acknowledgment, now.monotonic_ms) {
                Settled::All if self.config.begins_at_once => self.complete_later(image, id, now),
                Settled::All => {
                    self.hush(id, now);
                    self.enqueue(image, id, now);
                    ended.push((Arc::clone(id), *seq));
                }
                Settled::Told { attempts } => {
                    self.events.push(Event::MarkerWaits {
                        id: Arc::clone(id),
                        seq: *seq,
                        target: target.clone(),
                        attempts,
                    });
                    // Events are taken at a tick.
                    self.look_at(id, now.monotonic_ms);
                }
                Settled::Again | Settled::Nothing => {}
            }
        }
        if ended.is_empty() {
            return Step::Done(Ok(Answer::Acknowledged));
        }
        let at_ms = now.wall_ms;
        Step::Propose {
            command: Command::Complete { ended, at_ms },
            pending: Pending {
                request: Request::Acknowledge,
                attempts: 1,
                answer: Some(Answer::Acknowledged),
            },
        }
    }

    /// Takes the events since the last call.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Goes on with a request whose command was applied. A command whose outcome is not known (the replica stopped leading, or no quorum
    /// answered) has no reply: the host fails the request, and the client sends it again.
    pub fn resume(&mut self, image: &Image, pending: Pending, reply: Reply, now: Now) -> Step {
        let Pending {
            request,
            attempts,
            answer,
        } = pending;
        match (reply, answer) {
            (Reply::Applied { .. }, Some(answer)) => Step::Done(Ok(answer)),
            (Reply::Rejected(rejection), _) if !is_retryable(&rejection) || attempts >= ATTEMPTS_MAX => {
                Step::Done(Err(rejection))
            }
            _ => self.decide(image, request, attempts + 1, now),
        }
    }

    fn decide(&mut self, image: &Image, mut request: Request, attempts: u32, now: Now) -> Step {
        let decided = match &mut request {
            Request::Init(init) => self.decide_init(image, init, now),
            Request::Join(join) => self.decide_join(image, join, now),
            Request::End(end, decided_for) => self.decide_end(image, end, decided_for, now),
            Request::Abort(id) => self.decide_abort(image, id, now),
            Request::Acknowledge => Ok(Decision::Answer(Answer::Acknowledged)),
        };
        match decided {
            Ok(Decision::Propose(command, answer)) => Step::Propose {
                command,
                pending: Pending {
                    request,
                    attempts,
                    answer,
                },
            },
            Ok(Decision::Answer(answer)) => Step::Done(Ok(answer)),
            Err(rejection) => Step::Done(Err(rejection)),
        }
    }
}

/// The decision about a request.
enum Decision {
    /// The command, and the answer when it takes effect; none: the request is decided again.
    Propose(Command, Option<Answer>),
    Answer(Answer),
}

impl Decision {
    const NEEDS_ID: Self = Self::Answer(Answer::NeedsProducerId);
}

/// Whether deciding again may have another outcome: the id changed after the command was decided.
fn is_retryable(rejection: &Rejection) -> bool {
    rejection.reason == Reason::ConcurrentTransactions
}
