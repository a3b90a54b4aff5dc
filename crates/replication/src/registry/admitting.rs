//! Which peers are let in, what they may speak of, and what they say of this broker's own past.

use std::collections::BTreeMap;
use std::time::Duration;

use jangada_proto::internal::{Hello, PutBack};
use jangada_types::{BrokerId, GroupId, Incarnation};
use tokio::time::Instant;

use super::Registry;
use crate::roster::Standing;
use crate::transport::introduction;
use crate::transport::link::FirstLook;
use crate::transport::not_admitted::NotAdmitted;
use crate::transport::plausible::{Cause, Refusal};

/// A peer that could not be called so often is away: the tries are 50, 100 and 200 ms apart where nothing listens.
const ASK_TRIES: u32 = 3;
/// How long a broker that starts waits for peers that do not answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// And for those that say that they open their store.
const ASK_STARTING_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks.
const ASK_AGAIN: Duration = Duration::from_millis(25);
/// After the first peer said that this broker was put back.
const OTHERS_TIMEOUT: Duration = Duration::from_millis(300);

impl Registry {
    /// What this broker says first to `to`.
    pub fn hello(&self, to: BrokerId) -> Hello {
        self.transport().hello(to)
    }

    /// Lets a caller in by what it said first, or refuses it.
    pub fn admit(&self, hello: Option<Hello>) -> Result<BrokerId, NotAdmitted> {
        let refused = |cause| move |refusal| self.rejected(cause, refusal);
        let hello = self.identity.check(hello).map_err(refused(Cause::Handshake))?;
        self.known(&hello).map_err(refused(Cause::Stranger))?;
        introduction::judge_caller(&self.peers, &hello).map_err(refused(Cause::PutBack))?;
        Ok(BrokerId::from(hello.broker_id))
    }

    /// Like [`Registry::admit`], for a broker that the metadata need not know. Gives whether the metadata knows it.
    pub fn admit_stranger(&self, hello: Option<Hello>) -> Result<bool, NotAdmitted> {
        let hello = self
            .identity
            .check(hello)
            .map_err(|refusal| self.rejected(Cause::Handshake, refusal))?;
        introduction::judge_caller(&self.peers, &hello).map_err(|refusal| self.rejected(Cause::PutBack, refusal))?;
        Ok(self.known(&hello).is_ok())
    }

    /// Why this broker does not belong to the cluster any more, once a peer that it called has said so.
    pub async fn removed(&self) -> String {
        let mut watched = self.peers.watch_removed();
        let said = watched
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|said| said.clone());
        match said {
            Some(said) => said,
            None => std::future::pending().await,
        }
    }

    /// Whether the metadata knows a caller.
    fn known(&self, hello: &Hello) -> Result<(), NotAdmitted> {
        let Some(roster) = self.roster.get() else { return Ok(()) };
        let broker = BrokerId::from(hello.broker_id);
        let refusal = match roster.standing(broker, Incarnation::from(hello.incarnation)) {
            Standing::Member => return Ok(()),
            Standing::Stranger(why) => NotAdmitted::Unknown(why),
            Standing::Removed(why) => NotAdmitted::Removed(why),
        };
        if self.peers.is_worth_telling(broker) {
            tracing::warn!(%broker, "a caller on the internal listener is refused: {refusal}");
        }
        Err(refusal)
    }

    /// Whether the metadata does not have a caller any more that was let in.
    pub(crate) fn is_expelled(&self, broker: BrokerId) -> bool {
        self.roster.get().is_some_and(|roster| !roster.is_known(broker))
    }

    /// Says and counts that something of a peer was refused.
    pub(crate) fn refused(&self, peer: BrokerId, group: u64, refusal: &Refusal) {
        let Refusal::Implausible(implausible) = refusal else {
            return;
        };
        self.rejections.count(implausible.cause);
        if self.peers.is_worth_telling(peer) {
            tracing::warn!(%peer, group, %refusal, "a message of another broker is refused");
        }
    }

    /// Refuses what a broker says of a group that it has no part in.
    pub(crate) fn may_speak(&self, group: GroupId, peer: BrokerId) -> Result<(), Refusal> {
        match self.has_part(group, peer) {
            true => Ok(()),
            false => Err(Refusal::of(
                Cause::Sender,
                format!("broker {peer} has no replica of group {group}"),
            )),
        }
    }

    /// Whether a broker may say something of a group: it is to have a replica of it, or has one.
    pub(crate) fn has_part(&self, group: GroupId, broker: BrokerId) -> bool {
        let Some(roster) = self.roster.get() else { return true };
        roster.has_part(group, broker)
            || self.group(group).is_some_and(|group| {
                let members = group.members();
                members
                    .voters
                    .iter()
                    .chain(&members.learners)
                    .any(|member| member.broker == broker)
            })
    }

    /// Brokers that this one has met, also in earlier runs, with the addresses where they were.
    pub fn met(&self) -> BTreeMap<BrokerId, String> {
        self.peers.addresses().into_iter().collect()
    }

    /// Returns when each peer whose address is known has answered a call, and so judged this broker's past, or is not
    /// there. To be awaited before a group is opened: a broker whose directory was put back must not vote before its peers
    /// could say so. When one does it never returns: see [`Registry::put_back`].
    pub async fn ask_peers(&self) {
        let started = Instant::now();
        let put_back = self.peers.watch_put_back();
        loop {
            if put_back.borrow().is_some() {
                // Who waits for the other outcome ends this.
                return std::future::pending().await;
            }
            let peers = self.transport().all();
            let looks: Vec<FirstLook> = peers.iter().map(|peer| peer.control.first_look(ASK_TRIES)).collect();
            let limit = match () {
                () if looks.contains(&FirstLook::Starting) => ASK_STARTING_TIMEOUT,
                () if looks.contains(&FirstLook::UnderWay) => ASK_TIMEOUT,
                () => return,
            };
            if started.elapsed() >= limit {
                tracing::warn!(
                    "not all peers could be asked what they have seen of this broker; going on without them"
                );
                return;
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// What a peer has seen of this broker's commits that this broker lacks, once one has said so.
    pub async fn put_back(&self) -> PutBack {
        let mut watched = self.peers.watch_put_back();
        if watched.wait_for(Option::is_some).await.is_err() {
            std::future::pending::<()>().await;
        }
        // Others may have seen more.
        tokio::time::sleep(OTHERS_TIMEOUT).await;
        let said = *watched.borrow();
        said.unwrap_or_default()
    }
}
