//! What `host` runs: a state machine whose types are erased, so that groups of all kinds are of one type. A
//! [`Machine`] becomes one by a [`Publisher`], which shows its state to readers.

use std::any::{Any, TypeId, type_name};
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;
use jangada_machine::{Effects, EncodedCommand, Machine, RestoreError, Retention};
use jangada_types::{CodecError, LogPosition};

/// What a machine replied, on its way to the proposer in the same process. Both ends know its type.
#[derive(Default)]
pub struct Reply(Option<Box<dyn Any + Send + Sync>>);

impl Reply {
    /// A reply whose proposer waits for it here.
    pub fn new<T: Any + Send + Sync>(reply: T) -> Self {
        Self(Some(Box::new(reply)))
    }

    /// No reply: it is not waited for, or the entry was none of the machine's commands.
    pub const fn none() -> Self {
        Self(None)
    }

    /// What the machine replied. Panics when that is of another type: the proposer must name the group's machine.
    pub(crate) fn into_typed<T: Any>(self) -> T {
        let reply = self.0.expect("a command that was proposed here has a reply");
        *reply.downcast().unwrap_or_else(|_| {
            panic!(
                "the group's machine replies with another type than {}",
                type_name::<T>()
            )
        })
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "a reply" } else { "no reply" })
    }
}

/// Hands out the bytes of a state in pieces.
type EncodeLater = dyn FnOnce(&mut dyn FnMut(Bytes)) + Send + Sync;

/// A state as of one moment, on its way to bytes.
pub enum StateImage {
    /// It is encoded, as [`Check::restore`] takes it.
    Encoded(Bytes),
    /// A clone that shares what does not change, and is encoded when somebody calls this, on any thread.
    Shared(Box<EncodeLater>),
}

impl StateImage {
    /// The state of a machine that is cheap to clone and may be large.
    pub fn shared<M: Machine>(machine: M) -> Self {
        Self::Shared(Box::new(move |sink| machine.encode_into(sink)))
    }

    /// Hands the bytes to `sink`, in pieces of any size. May take long for a large state.
    pub fn encode_into(self, sink: &mut dyn FnMut(Bytes)) {
        match self {
            Self::Encoded(state) => sink(state),
            Self::Shared(encode) => encode(sink),
        }
    }
}

/// The type of a group's machine, by which a proposer's mistake is found before anything is encoded.
#[derive(Clone, Copy, Debug)]
pub struct MachineType {
    id: TypeId,
    /// The type's path, for people.
    pub name: &'static str,
}

impl MachineType {
    /// The type `M`.
    pub fn of<M: 'static>() -> Self {
        Self {
            id: TypeId::of::<M>(),
            name: type_name::<M>(),
        }
    }
}

impl PartialEq for MachineType {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

/// A state machine that was made from the bytes of a state and is not in its place yet.
pub struct Restored(Box<dyn Any + Send + Sync>);

impl Restored {
    /// For [`StateMachine::replace`] of the same kind of group.
    pub fn new<T: Any + Send + Sync>(machine: T) -> Self {
        Self(Box::new(machine))
    }

    /// What it is. Panics when it is of another type: both ends are of one group.
    pub fn into_inner<T: Any>(self) -> T {
        *self.0.downcast().unwrap_or_else(|_| {
            panic!(
                "the group's machine is of another type than {}",
                std::any::type_name::<T>()
            )
        })
    }
}

/// Says whether what a peer or a proposer sends could be applied: a replica that cannot apply what is committed stops, so it
/// must not get into the log. Looks at no state, and is called from any task.
pub trait Check: Send + Sync + 'static {
    /// The type of the machine whose commands these are.
    fn machine(&self) -> MachineType;

    /// A command; an error says what is wrong with it.
    fn command(&self, command: &EncodedCommand) -> Result<(), String>;

    /// Makes a state machine from the pieces of a state. May take long for a large state.
    fn restore(&self, pieces: &mut dyn Iterator<Item = Bytes>) -> Result<Restored, RestoreError>;
}

/// A [`Machine`] with its types erased, and what it publishes. It runs on one task; readers see what `publish` put where
/// they look.
pub trait StateMachine: Send + Sync + 'static {
    /// Applies one command, and gives the reply for its proposer; the reply may be none if no proposer `awaits`
    /// it here. After a restart, commands may be applied again to the state that was saved before them.
    ///
    /// # Errors
    /// This build cannot read the command, and the state is as it was. The replica must stop.
    fn apply(
        &mut self,
        at: LogPosition,
        command: EncodedCommand,
        awaits: bool,
        effects: &mut Effects,
    ) -> Result<Reply, CodecError>;

    /// Called after a run of `apply` and before any of their replies is sent.
    fn publish(&mut self);

    /// The state as of now. It is encoded later, if it is large.
    fn image(&self) -> StateImage;

    /// Puts a state that [`StateMachine::check`] made in the place of the one that is there.
    fn replace(&mut self, restored: Restored);

    /// Judges what peers send, and makes states from bytes.
    fn check(&self) -> Arc<dyn Check>;

    /// How the log is kept small, as of now.
    fn retention(&self) -> Retention;

    /// Bytes of log between two checkpoints, of a group whose log is its data.
    fn checkpoint_bytes(&self) -> u64;
}

/// Holds a [`Machine`] on one broker, and shows its state to readers.
///
/// What it keeps beside the state for its own replica, sessions of a leader say, may use a clock; nothing of that goes into
/// the state or into a reply.
pub trait Publisher: Send + Sync + 'static {
    /// The machine that is held and shown.
    type Machine: Machine;

    /// Applies the command to the machine.
    fn apply(
        &mut self,
        at: LogPosition,
        command: <Self::Machine as Machine>::Command,
        effects: &mut Effects,
    ) -> <Self::Machine as Machine>::Reply;

    /// Shows readers the state as it is now: after a run of `apply`, before any of their replies is sent.
    fn publish(&mut self) {}

    /// [`Machine::snapshot`] of the machine.
    fn snapshot(&self) -> Bytes;

    /// The state as of now, to be encoded later: so does a machine whose state may be large and is cheap to clone. One whose state
    /// is small is encoded at once.
    fn image(&self) -> StateImage {
        StateImage::Encoded(self.snapshot())
    }

    /// Puts a restored machine in the place of the one that is there.
    fn replace(&mut self, machine: Self::Machine);

    /// [`Machine::retention`] of the machine.
    fn retention(&self) -> Retention;

    /// Bytes of log between two checkpoints, of a group whose log is its data.
    fn checkpoint_bytes(&self) -> u64 {
        u64::MAX
    }

    /// As `host` runs it.
    fn erased(self) -> Box<dyn StateMachine>
    where
        Self: Sized,
    {
        Box::new(Erased(self))
    }
}

/// A publisher and its machine, as `host` runs them.
struct Erased<P>(P);

impl<P: Publisher> StateMachine for Erased<P> {
    fn apply(
        &mut self,
        at: LogPosition,
        command: EncodedCommand,
        awaits: bool,
        effects: &mut Effects,
    ) -> Result<Reply, CodecError> {
        let command = P::Machine::decode(command)?;
        let reply = self.0.apply(at, command, effects);
        Ok(if awaits { Reply::new(reply) } else { Reply::none() })
    }

    fn publish(&mut self) {
        self.0.publish();
    }

    fn image(&self) -> StateImage {
        self.0.image()
    }

    fn replace(&mut self, restored: Restored) {
        self.0.replace(restored.into_inner());
    }

    fn check(&self) -> Arc<dyn Check> {
        Arc::new(MachineCheck::<P::Machine>(PhantomData))
    }

    fn retention(&self) -> Retention {
        self.0.retention()
    }

    fn checkpoint_bytes(&self) -> u64 {
        self.0.checkpoint_bytes()
    }
}

/// Judges by what a machine says of its commands and states.
struct MachineCheck<M>(PhantomData<fn() -> M>);

impl<M: Machine> Check for MachineCheck<M> {
    fn machine(&self) -> MachineType {
        MachineType::of::<M>()
    }

    fn command(&self, command: &EncodedCommand) -> Result<(), String> {
        M::check_command(command)
    }

    fn restore(&self, pieces: &mut dyn Iterator<Item = Bytes>) -> Result<Restored, RestoreError> {
        M::restore_from(pieces).map(Restored::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sum of what was added.
    #[derive(Default)]
    struct Sum(u64);

    impl Machine for Sum {
        type Command = u8;
        type Reply = u64;

        fn encode(command: u8) -> EncodedCommand {
            EncodedCommand::new(&[command], Bytes::new())
        }

        fn decode(command: EncodedCommand) -> Result<u8, CodecError> {
            match *command.head() {
                [kind] => Ok(kind),
                _ => Err(CodecError::UnknownFields { what: "number" }),
            }
        }

        fn apply(&mut self, _: LogPosition, command: &u8, _: &mut Effects) -> u64 {
            self.0 += u64::from(*command);
            self.0
        }

        fn snapshot(&self) -> Bytes {
            Bytes::copy_from_slice(&self.0.to_be_bytes())
        }

        fn restore(snapshot: &Bytes) -> Result<Self, RestoreError> {
            let bytes = <[u8; 8]>::try_from(&snapshot[..]);
            bytes
                .map(|bytes| Self(u64::from_be_bytes(bytes)))
                .map_err(|error| RestoreError(error.to_string()))
        }

        fn retention(&self) -> Retention {
            Retention::Compacted
        }
    }

    impl Publisher for Sum {
        type Machine = Self;

        fn apply(&mut self, at: LogPosition, command: u8, effects: &mut Effects) -> u64 {
            Machine::apply(self, at, &command, effects)
        }

        fn snapshot(&self) -> Bytes {
            Machine::snapshot(self)
        }

        fn replace(&mut self, machine: Self) {
            *self = machine;
        }

        fn retention(&self) -> Retention {
            Retention::Compacted
        }
    }

    fn apply(machine: &mut dyn StateMachine, command: EncodedCommand, awaits: bool) -> Result<Reply, CodecError> {
        machine.apply(LogPosition::default(), command, awaits, &mut Effects::default())
    }

    fn state(machine: &dyn StateMachine) -> Bytes {
        let mut pieces = Vec::new();
        machine.image().encode_into(&mut |piece| pieces.push(piece));
        pieces.concat().into()
    }

    #[test]
    fn a_reply_comes_back_as_it_was_and_is_kept_only_if_its_proposer_waits() {
        let mut machine = Sum::default().erased();
        let reply = apply(&mut *machine, Sum::encode(3), true).expect("it can be read");
        assert_eq!(reply.into_typed::<u64>(), 3);
        let reply = apply(&mut *machine, Sum::encode(4), false).expect("it can be read");
        assert!(reply.0.is_none(), "nothing is allocated where no proposer waits");
        assert_eq!(state(&*machine), Machine::snapshot(&Sum(7)));
    }

    #[test]
    fn what_cannot_be_read_changes_nothing_and_is_refused_of_peers() {
        let mut machine = Sum::default().erased();
        let unreadable = EncodedCommand::new(&[1, 2], Bytes::new());
        assert!(apply(&mut *machine, unreadable.clone(), true).is_err());
        let check = machine.check();
        assert!(check.command(&unreadable).is_err() && check.command(&Sum::encode(1)).is_ok());
        let restore = |pieces: &[&'static [u8]]| check.restore(&mut pieces.iter().copied().map(Bytes::from_static));
        assert!(restore(&[]).is_err() && restore(&[b"short"]).is_err());
        assert_eq!(state(&*machine), Machine::snapshot(&Sum(0)));
        machine.replace(restore(&[&[0; 3], &[0, 0, 0, 1], &[5]]).expect("eight bytes"));
        assert_eq!(state(&*machine), Machine::snapshot(&Sum(256 + 5)));
    }

    #[test]
    #[should_panic(expected = "replies with another type than u8")]
    fn a_reply_of_another_machine_is_a_bug() {
        Reply::new(3_u64).into_typed::<u8>();
    }
}
