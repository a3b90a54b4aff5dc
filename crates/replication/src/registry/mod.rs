//! The groups of one broker, and all that they share: the store, the transport, the table of leaders.

mod admitting;
mod announcing;
mod fitness;
mod inbox;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jangada_env::{Blocking, Env};
use jangada_proto::internal::GroupLeader;
use jangada_storage::{LatencyHistogram, Op, Starts, StateKind, Store, StoreError};
use jangada_types::limits::{SNAPSHOT_INFLIGHT_BYTES_MAX, STATE_ROW_BYTES_MAX};
use jangada_types::planted::{self, Bug};
use jangada_types::{BrokerId, GroupId, Incarnation, ReplicaId};
use openraft::Config;
use openraft::async_runtime::watch::WatchReceiver;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use crate::clocks::{LIVENESS_TIMEOUT, PeerClocks};
use crate::codec;
use crate::damage::unreadable;
use crate::group::{Group, GroupStatus, Raft};
use crate::host::{Host, HostSignals, Timings};
use crate::leaders::Leaders;
use crate::log_store::LogStore;
use crate::open_error::OpenError;
use crate::pace::Pace;
use crate::peers::Peers;
use crate::roster::Roster;
use crate::runtime::{Beat, under};
use crate::state_machine::StateMachine;
use crate::timing::{Timing, raft_config};
use crate::transport::client::NetworkFactory;
use crate::transport::dialer::Dialer;
use crate::transport::handshake::Identity;
use crate::transport::inbox::Hosted;
use crate::transport::plausible::{Cause, Horizon, Rejections};
use crate::transport::{CONNECTION_WINDOW_BYTES, Transport};
use crate::unfit::Unfit;

/// What is in memory of a snapshot that is received, at most: what lies in the windows of its connection, and what is on its way
/// into the store.
const SNAPSHOT_MEMORY_BYTES: u64 = CONNECTION_WINDOW_BYTES as u64 + STATE_ROW_BYTES_MAX as u64;
/// The same for all that are received at once, KiB.
const SNAPSHOTS_KIB: usize = SNAPSHOT_INFLIGHT_BYTES_MAX / 1024;

const _: () = assert!(
    SNAPSHOT_MEMORY_BYTES <= SNAPSHOT_INFLIGHT_BYTES_MAX as u64,
    "any snapshot has room"
);
/// For so long after its start a broker that lacks commits, whose loss was accepted, leaves elections to others: as long as
/// some elections take. The one among them with the longest log would win against it, but may be heard of too late.
const YIELDS_AFTER_LOSS: Duration = Duration::from_secs(10);

/// The groups of one broker, and what they share. There is one per broker.
pub struct Registry {
    identity: Arc<Identity>,
    store: Arc<dyn Store>,
    config: Arc<Config>,
    transport: OnceLock<Arc<Transport>>,
    groups: RwLock<BTreeMap<GroupId, Group>>,
    leaders: Leaders,
    /// What was refused of peers.
    rejections: Arc<Rejections>,
    /// Memory for snapshots that are being received, KiB.
    snapshots: Arc<Semaphore>,
    /// Who belongs to the cluster, once the metadata says so.
    roster: OnceLock<Arc<dyn Roster>>,
    /// What is known of other brokers' commits, and what they are told of this one's.
    peers: Arc<Peers>,
    heartbeat: Duration,
    /// Timers and chance of the groups.
    beat: Arc<Beat>,
    /// Where stores are read and states encoded.
    blocking: Blocking,
    /// What became of this broker's leaderships and is not announced yet, the last word on each group.
    unannounced: Mutex<BTreeMap<GroupId, GroupLeader>>,
    announce_soon: Arc<Notify>,
    heard: Mutex<BTreeMap<BrokerId, Instant>>,
    /// Other brokers that said that their disks are down to the reserve, and have not taken it back.
    low_disks: RwLock<BTreeSet<BrokerId>>,
    /// Replicas that are damaged and lead only if nobody else does.
    unfit: Unfit,
    timings: Arc<Timings>,
    clocks: PeerClocks,
    started: Instant,
}

impl Registry {
    /// A registry without groups. Spawns the tasks of the transport, so it needs a runtime.
    ///
    /// Reads a few rows, so it blocks for a moment. `starts` are what the peers are told of this broker's past; none: it
    /// tells nothing.
    pub fn start(
        identity: Identity,
        store: Arc<dyn Store>,
        timing: Timing,
        starts: Starts,
        dialer: Arc<Dialer>,
        env: &Env,
    ) -> Result<Arc<Self>, OpenError> {
        let config = raft_config(&identity, timing)?;
        let heartbeat = Duration::from_millis(timing.heartbeat_ms);
        let pace = Pace::new(heartbeat, Duration::from_millis(timing.election_timeout_max_ms));
        let identity = Arc::new(identity);
        let peers = Arc::new(Peers::load(store.clone(), starts)?);
        let registry = Arc::new(Self {
            identity: identity.clone(),
            store,
            config: Arc::new(config),
            transport: OnceLock::new(),
            groups: RwLock::default(),
            leaders: Leaders::default(),
            rejections: Arc::default(),
            snapshots: Arc::new(Semaphore::new(SNAPSHOTS_KIB)),
            roster: OnceLock::new(),
            peers: peers.clone(),
            heartbeat,
            beat: Arc::new(Beat::new(pace, env)),
            blocking: env.blocking,
            unannounced: Mutex::default(),
            announce_soon: Arc::default(),
            heard: Mutex::default(),
            low_disks: RwLock::default(),
            unfit: Unfit::default(),
            timings: Arc::default(),
            clocks: PeerClocks::default(),
            started: Instant::now(),
        });
        if registry.peers.has_just_lost() {
            tracing::warn!(
                "the loss of commits was accepted: for {YIELDS_AFTER_LOSS:?} this broker leads nothing, so that others which \
                 still have them are elected"
            );
        }
        let weak = Arc::downgrade(&registry);
        let greeting = move || weak.upgrade().map(|registry| registry.all_led()).unwrap_or_default();
        let transport = Arc::new(Transport::new(identity, peers, Box::new(greeting), dialer));
        registry.transport.get_or_init(|| transport);
        let announce_soon = registry.announce_soon.clone();
        tokio::spawn(announcing::announcements(Arc::downgrade(&registry), announce_soon));
        Ok(registry)
    }

    /// Who this broker is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Where the groups' data is.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Where what blocks is done: reads of the store.
    pub fn blocking(&self) -> Blocking {
        self.blocking
    }

    /// Who leads which group.
    pub fn leaders(&self) -> &Leaders {
        &self.leaders
    }

    pub(crate) fn peers(&self) -> &Peers {
        &self.peers
    }

    /// Counts a refusal.
    pub(crate) fn rejected<T>(&self, cause: Cause, error: T) -> T {
        self.rejections.count(cause);
        error
    }

    /// What was refused of peers.
    pub fn rejections(&self) -> &Rejections {
        &self.rejections
    }

    /// How long runs of committed entries took to apply here, over all groups.
    pub fn apply_latency(&self) -> LatencyHistogram {
        self.timings.applies.read()
    }

    /// How long commands that were proposed here took until they were committed and applied, over all groups.
    pub fn commit_latency(&self) -> LatencyHistogram {
        self.timings.commits.read()
    }

    /// From now on only those of the cluster are let in.
    pub fn set_roster(&self, roster: Arc<dyn Roster>) {
        // There is one metadata group, opened once.
        let _ = self.roster.set(roster);
    }

    /// Groups that are open here.
    pub(crate) fn group_count(&self) -> usize {
        self.groups.read().len()
    }

    /// Room for what is in memory of a snapshot of so many bytes while it is received; none while others have it.
    pub(crate) fn snapshot_room(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let kib = u32::try_from(bytes.min(SNAPSHOT_MEMORY_BYTES - 1) / 1024 + 1).ok()?;
        self.snapshots.clone().try_acquire_many_owned(kib).ok()
    }

    /// Between two heartbeats of a leader, as it is now: with very many replicas they are rarer than the timing says.
    pub fn heartbeat_interval(&self) -> Duration {
        self.heartbeat.max(self.beat.pace.tick())
    }

    /// The wall clocks of the other brokers.
    pub fn clocks(&self) -> &PeerClocks {
        &self.clocks
    }

    fn transport(&self) -> &Arc<Transport> {
        self.transport.get().expect("set when the registry starts")
    }

    /// The brokers of the cluster with the addresses of their internal listeners.
    pub fn set_peers(&self, addresses: &BTreeMap<BrokerId, String>) {
        self.transport().set_peers(addresses);
    }

    /// What opens connections to other brokers.
    pub fn dialer(&self) -> &Arc<Dialer> {
        self.transport().dialer()
    }

    /// The address of a broker's internal listener, if it is known.
    pub fn peer_address(&self, broker: BrokerId) -> Option<String> {
        self.transport().peer(broker).map(|peer| peer.address())
    }

    /// Whether this broker was heard of lately. This broker itself is alive.
    pub fn is_alive(&self, broker: BrokerId) -> bool {
        broker == self.identity.broker
            || self
                .heard
                .lock()
                .get(&broker)
                .is_some_and(|at| at.elapsed() < LIVENESS_TIMEOUT)
    }

    /// Other brokers that are alive.
    fn heard_lately(&self) -> BTreeSet<BrokerId> {
        let heard = self.heard.lock();
        let lately = heard.iter().filter(|(_, at)| at.elapsed() < LIVENESS_TIMEOUT);
        lately.map(|(broker, _)| *broker).collect()
    }

    pub(crate) fn note_contact(&self, broker: BrokerId) {
        let before = self.heard.lock().insert(broker, Instant::now());
        if before.is_none_or(|at| at.elapsed() >= LIVENESS_TIMEOUT) {
            self.leaders.changed();
        }
    }

    /// Other brokers whose disks are down to their reserve, as they said last. Those that are gone are among them.
    pub fn low_disks(&self) -> Vec<BrokerId> {
        // Nearly always empty, and asked for each batch.
        self.low_disks.read().iter().copied().collect()
    }

    pub(crate) fn disk_of(&self, broker: BrokerId, is_low: bool) {
        if self.low_disks.read().contains(&broker) == is_low {
            return;
        }
        let mut low = self.low_disks.write();
        if is_low {
            tracing::warn!(%broker, "another broker's disk is down to its reserve");
            low.insert(broker);
        } else {
            tracing::info!(%broker, "another broker's disk has space again");
            low.remove(&broker);
        }
    }

    /// The replica that this broker has, or would have, of a group in which it was not given an id of its own.
    pub fn local_replica(&self) -> ReplicaId {
        ReplicaId {
            broker: self.identity.broker,
            incarnation: self.identity.incarnation,
        }
    }

    /// A group that is open here.
    pub fn group(&self, id: GroupId) -> Option<Group> {
        self.groups.read().get(&id).cloned()
    }

    /// All groups that are open here.
    pub fn groups(&self) -> Vec<Group> {
        self.groups.read().values().cloned().collect()
    }

    pub(crate) fn hosted(&self, id: GroupId, incarnation: Incarnation) -> Result<Hosted, String> {
        match self.groups.read().get(&id) {
            Some(group) if group.replica().incarnation != incarnation => Err(format!(
                "broker {} has replica {} of group {id}, not incarnation {incarnation}",
                self.identity.broker,
                group.replica()
            )),
            Some(group) => Ok(Hosted {
                raft: group.raft().clone(),
                heartbeats: group.heartbeats().clone(),
                horizon: group.horizon().clone(),
                check: group.check().clone(),
                chunks: group.chunks().clone(),
                group: id,
                local: group.replica(),
            }),
            None => Err(format!("group {id} is not open on broker {}", self.identity.broker)),
        }
    }

    /// [`Registry::open_as`] under the broker's own incarnation.
    pub async fn open(self: &Arc<Self>, id: GroupId, machine: Box<dyn StateMachine>) -> Result<Group, OpenError> {
        self.open_as(id, self.local_replica(), machine).await
    }

    /// Starts this broker's replica of a group: loads its state, applies what is committed, takes part. Opening an
    /// open group gives it again. Data of another replica is refused: who has voted as one must not vote as the other.
    pub async fn open_as(
        self: &Arc<Self>,
        id: GroupId,
        replica: ReplicaId,
        machine: Box<dyn StateMachine>,
    ) -> Result<Group, OpenError> {
        if let Some(group) = self.group(id) {
            return Ok(group);
        }
        let (store, own) = (self.store.clone(), self.identity.incarnation);
        let timings = self.timings.clone();
        let check = machine.check();
        let blocking = self.blocking;
        let opened = blocking.run(move || {
            let found = owner(&*store, id)?.unwrap_or(own);
            if found != replica.incarnation {
                return Err(OpenError::OtherReplica {
                    group: id,
                    found,
                    wanted: replica,
                });
            }
            let log = LogStore::open(id, store, blocking)?;
            let host = Host::open(log.clone(), machine).map_err(|error| OpenError::Group(id, error.to_string()))?;
            Ok::<_, OpenError>((log, host.timed_by(timings)))
        });
        let (log, host) = opened
            .await
            .map_err(|error| OpenError::Group(id, error.to_string()))??;
        let (signals, chunks) = (host.signals(), host.chunks().clone());
        let (term, is_new) = log.term();
        let horizon = Arc::new(Horizon::new(term, is_new));
        let network = NetworkFactory {
            transport: self.transport().clone(),
            group: id,
            horizon: horizon.clone(),
            rejections: self.rejections.clone(),
        };
        let start = Raft::new(replica, self.config.clone(), network, log, host);
        // Nothing can be created, moved or deleted without the metadata's leader.
        let is_steady = id == GroupId::METADATA;
        let started = under(self.beat.clone(), is_steady, start).await;
        let raft = started.map_err(|fatal| OpenError::Group(id, fatal.to_string()))?;
        let (status, watched) = watch::channel(GroupStatus::default());
        let believed = (horizon, check);
        let group = Group::new(
            replica,
            raft.clone(),
            chunks,
            signals.clone(),
            watched,
            believed,
            (self.timings.clone(), self.beat.pace.clone()),
        );
        let yields = YIELDS_AFTER_LOSS.saturating_sub(self.started.elapsed());
        if self.peers.has_just_lost() && !yields.is_zero() {
            group.yield_for(yields);
        }
        self.fit_unless_damaged(id);
        self.groups.write().insert(id, group.clone());
        tokio::spawn(observe(self.clone(), id, raft, signals, status));
        Ok(group)
    }

    /// Stops this broker's replica, and nothing that it still has under way is written: its data is to be deleted.
    pub async fn give_up(&self, id: GroupId) {
        if let Some(group) = self.group(id) {
            group.retire();
        }
        self.close(id).await;
    }

    /// Stops this broker's replica; its data stays.
    pub async fn close(&self, id: GroupId) {
        let group = self.groups.write().remove(&id);
        self.fit_unless_damaged(id);
        if let Some(group) = group {
            // The error is that of a task that ended already.
            let _ = group.raft().shutdown().await;
            self.store.close_group(id);
        }
    }

    /// The incarnation that the data of a group belongs to, if it is not the broker's own. The group need not be open.
    pub async fn owner_of(&self, id: GroupId) -> Result<Option<Incarnation>, StoreError> {
        let store = self.store.clone();
        let read = self.blocking.run(move || owner(&*store, id)).await;
        read.map_err(|error| StoreError::Database(error.to_string()))?
    }

    /// Stops this broker's replica and removes its data. Returns when that is durable. With `next` the place is kept for a
    /// replica of that incarnation, and only that one can be opened here from then on.
    pub async fn delete(&self, id: GroupId, next: Option<Incarnation>) -> Result<(), StoreError> {
        self.give_up(id).await;
        self.unfit.remove(id);
        let keep = |next| Op::PutState {
            kind: StateKind::REPLICA,
            suffix: None,
            value: codec::encode_owner(next),
        };
        let leave: Vec<Op> = next.map(keep).into_iter().collect();
        let store = self.store.clone();
        let (done, durable) = tokio::sync::oneshot::channel();
        let queued = self.blocking.run(move || {
            store.delete_group(id, leave, Box::new(move |result| drop(done.send(result))));
        });
        queued.await.map_err(|error| StoreError::Database(error.to_string()))?;
        durable.await.unwrap_or(Err(StoreError::ShuttingDown))
    }

    /// Stops all replicas, in parallel.
    pub async fn shutdown(&self) {
        let groups: Vec<Group> = std::mem::take(&mut *self.groups.write()).into_values().collect();
        futures::future::join_all(groups.iter().map(|group| group.raft().shutdown())).await;
        self.transport().set_peers(&BTreeMap::new());
        self.peers.save();
    }
}

fn owner(store: &dyn Store, group: GroupId) -> Result<Option<Incarnation>, StoreError> {
    let row = store.peek_state(group, StateKind::REPLICA)?;
    let owner = row.map(|row| codec::decode_owner(&row)).transpose();
    owner.map_err(|error| unreadable(store, group, "the owner of the data", &error))
}

/// A group's watcher: keeps its status and the table of leaders true, and lets the log shrink when it may.
async fn observe(
    registry: Arc<Registry>,
    id: GroupId,
    raft: Raft,
    signals: Arc<HostSignals>,
    status: watch::Sender<GroupStatus>,
) {
    let mut server = raft.server_metrics();
    let mut applied_term = signals.applied_term.subscribe();
    loop {
        let seen = {
            let metrics = server.borrow_watched();
            let term = metrics.vote.leader_id.term;
            let leading = metrics.state.is_leader();
            GroupStatus {
                term,
                leader: metrics.current_leader,
                leading,
                ready: leading
                    && (*applied_term.borrow_and_update() == term || planted::is(Bug::StaleReadAfterTransfer)),
                stopped: false,
            }
        };
        let before = status.send_replace(seen);
        registry.leaders.observed(id, seen.term, known_leader(&registry, seen));
        // The table may have had it before, from the leader itself.
        if seen != before {
            registry.leaders.changed();
        }
        registry.announce_change(id, before, seen);
        tokio::select! {
            changed = server.changed() => if changed.is_err() { break },
            changed = applied_term.changed() => if changed.is_err() { break },
            () = signals.snapshot_due.notified() => if raft.trigger().snapshot().await.is_err() { break },
        }
    }
    if registry.groups.read().contains_key(&id) {
        tracing::error!(group = %id, "a replica has stopped by itself; see the error before this one");
    }
    let before = *status.borrow();
    let stopped = GroupStatus {
        stopped: true,
        leader: None,
        leading: false,
        ready: false,
        ..before
    };
    status.send_replace(stopped);
    registry.leaders.left(id, before.term, registry.identity.broker);
    registry.leaders.changed();
    registry.announce_change(id, before, stopped);
}

/// Whom to name as leader: this broker only once it is ready, so that nobody is sent here to be turned away.
fn known_leader(registry: &Registry, status: GroupStatus) -> Option<BrokerId> {
    let leader = status.leader?;
    (leader.broker != registry.identity.broker || status.ready).then_some(leader.broker)
}
