//! The transaction service: one shard, on the broker that coordinates groups. The ends of transactions come to all partitions and groups at
//! once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jangada_coordinator::{EndStagedRequest, TransactionRef};
use jangada_proto::v1;
use jangada_types::batch::EndMarker;
use jangada_types::{ProducerEpoch, ProducerId, Reason};
use tonic::{Request, Response, Status};

use super::{Broker, Error, State};

/// The fault of the next end.
#[derive(Clone, Debug)]
pub enum EndFault {
    /// It is refused without effect.
    Refuse(Error),
    /// It takes effect, and its answer is lost.
    Lose,
    /// It never comes to the coordinator, and there is no answer.
    Miss,
}

#[derive(Default)]
pub struct Transactions {
    ids: BTreeMap<String, Id>,
    /// The faults of the next ends.
    pub faults: VecDeque<EndFault>,
    /// All ends that took effect: the epoch, and whether it was a commit.
    pub ended: Vec<(i32, bool)>,
    /// Number of calls of InitTransactions that took effect.
    pub inits: u32,
}

#[derive(Clone, Debug, Default)]
struct Id {
    producer_id: i64,
    epoch: i32,
    /// The epoch with which its present life began.
    life: i32,
    seq: u64,
    is_open: bool,
    partitions: BTreeSet<(String, u32)>,
    groups: BTreeSet<String>,
    last: Option<(i32, bool)>,
}

impl State {
    /// Makes a transaction part of the id's open one.
    pub fn join(&mut self, id: &str, (producer, epoch): (i64, i32)) -> Result<&mut BTreeSet<(String, u32)>, Error> {
        let known = self.transactions.ids.get_mut(id);
        let known = known.ok_or(Error::definite(Reason::UnknownTransactionalId))?;
        if known.producer_id != producer || known.epoch != epoch {
            return Err(Error::definite(Reason::ProducerFenced).with("expected", known.epoch));
        }
        if !known.is_open {
            known.is_open = true;
            known.seq += 1;
        }
        Ok(&mut known.partitions)
    }

    /// Makes a group part of the id's open transaction, and names that.
    pub fn join_group(&mut self, of: &v1::OffsetsTransaction, group: &str) -> Result<TransactionRef, Error> {
        let epoch = of.producer_epoch;
        let known = self.transactions.ids.get(&of.transactional_id);
        if known.is_some_and(|known| known.last == Some((epoch, false)) && known.life <= epoch) {
            return Err(Error::definite(Reason::TransactionTimedOut));
        }
        self.join(&of.transactional_id, (of.producer_id, epoch))?;
        let id = self.transactions.ids.get_mut(&of.transactional_id).expect("it joined");
        id.groups.insert(group.to_owned());
        Ok(id.transaction())
    }

    /// Ends the open transaction of an id, as its coordinator does by itself when the time is over.
    pub fn end(&mut self, id: &str, commit: bool) {
        let known = self.transactions.ids.get_mut(id).expect("it is known");
        let before = known.clone();
        known.last = Some((known.epoch, commit));
        known.epoch += 1;
        known.is_open = false;
        known.partitions.clear();
        known.groups.clear();
        let next = known.epoch;
        self.transactions.ended.push((before.epoch, commit));
        for (topic, partition) in &before.partitions {
            let marker = EndMarker {
                producer_id: ProducerId(before.producer_id),
                producer_epoch: ProducerEpoch(next as i16),
                coordinator_epoch: 1,
                commit,
            };
            self.partition(topic, *partition).end(&marker);
        }
        for group in &before.groups {
            let request = EndStagedRequest {
                group: group.as_str().into(),
                transaction: TransactionRef {
                    epoch: ProducerEpoch(next as i16),
                    ..before.transaction()
                },
                is_commit: commit,
            };
            self.groups().end_staged(request);
        }
    }
}

impl Id {
    fn transaction(&self) -> TransactionRef {
        TransactionRef {
            producer_id: ProducerId(self.producer_id),
            epoch: ProducerEpoch(self.epoch as i16),
            seq: self.seq,
        }
    }
}

impl Broker {
    /// Refuses what is another broker's.
    fn coordinates(&self, state: &mut State) -> Result<(), Status> {
        let coordinator = state.groups().broker;
        if coordinator == self.id {
            return Ok(());
        }
        let address = state.addresses[&coordinator].to_string();
        let error = Error::definite(Reason::NotLeader).with("leader_id", coordinator);
        Err(error.with("leader_address", address).status())
    }

    fn end_now(state: &mut State, request: &v1::EndTransactionRequest) -> Result<v1::EndTransactionResponse, Status> {
        let id = &request.transactional_id;
        let known = state.transactions.ids.get(id);
        let known = known.ok_or_else(|| Error::definite(Reason::UnknownTransactionalId).status())?;
        let is_last = known
            .last
            .filter(|(epoch, _)| *epoch == request.producer_epoch && known.life <= *epoch);
        if known.producer_id == request.producer_id && known.epoch == request.producer_epoch {
            state.end(id, request.commit);
        } else {
            match is_last {
                Some((_, commit)) if commit == request.commit => {}
                // Its time was over, and the coordinator aborted it.
                Some((_, false)) => {
                    let error = Error::definite(Reason::ProducerFenced).with("expected", known.epoch);
                    return Err(error.status());
                }
                Some(_) => return Err(Error::definite(Reason::InvalidTransactionState).status()),
                None => return Err(Error::definite(Reason::ProducerFenced).status()),
            }
        }
        let known = &state.transactions.ids[id];
        Ok(v1::EndTransactionResponse {
            producer_id: known.producer_id,
            producer_epoch: known.epoch,
            visible: true,
        })
    }
}

#[tonic::async_trait]
impl v1::transaction_service_server::TransactionService for Broker {
    async fn find_transaction_coordinator(
        &self,
        _: Request<v1::FindTransactionCoordinatorRequest>,
    ) -> Result<Response<v1::FindTransactionCoordinatorResponse>, Status> {
        self.thaw().await;
        let mut state = self.shared.lock();
        let broker_id = state.groups().broker;
        Ok(Response::new(v1::FindTransactionCoordinatorResponse {
            broker_id,
            address: state.addresses[&broker_id].to_string(),
            shard: 0,
        }))
    }

    async fn init_transactions(
        &self,
        request: Request<v1::InitTransactionsRequest>,
    ) -> Result<Response<v1::InitTransactionsResponse>, Status> {
        self.thaw().await;
        let request = request.into_inner();
        let mut state = self.shared.lock();
        self.coordinates(&mut state)?;
        let id = request.transactional_id;
        if !state.transactions.ids.contains_key(&id) {
            state.next_producer += 1;
            let producer_id = state.next_producer;
            let known = Id {
                producer_id,
                epoch: -1,
                ..Id::default()
            };
            state.transactions.ids.insert(id.clone(), known);
        }
        if let Some(epoch) = request.producer_epoch {
            let known = &state.transactions.ids[&id];
            let is_of_this_life = request.producer_id == Some(known.producer_id) && epoch >= known.life;
            if !is_of_this_life {
                return Err(Error::definite(Reason::ProducerFenced).status());
            }
        }
        if state.transactions.ids[&id].is_open {
            state.end(&id, false);
        }
        state.transactions.inits += 1;
        let known = state.transactions.ids.get_mut(&id).expect("made above");
        known.epoch += 1;
        if request.producer_epoch.is_none() {
            known.life = known.epoch;
        }
        let answer = v1::InitTransactionsResponse {
            producer_id: known.producer_id,
            producer_epoch: known.epoch,
        };
        drop(state);
        self.shared.changed();
        Ok(Response::new(answer))
    }

    async fn end_transaction(
        &self,
        request: Request<v1::EndTransactionRequest>,
    ) -> Result<Response<v1::EndTransactionResponse>, Status> {
        self.thaw().await;
        let request = request.into_inner();
        let answer = {
            let mut state = self.shared.lock();
            self.coordinates(&mut state)?;
            let fault = state.transactions.faults.pop_front();
            match fault {
                Some(EndFault::Refuse(error)) => return Err(error.status()),
                Some(EndFault::Miss) => return Err(Status::unavailable("the connection broke")),
                _ => {}
            }
            let answer = Self::end_now(&mut state, &request);
            match fault {
                Some(EndFault::Lose) => Err(Status::unavailable("the connection broke")),
                _ => answer,
            }
        };
        self.shared.changed();
        answer.map(Response::new)
    }

    async fn describe_transaction(
        &self,
        request: Request<v1::DescribeTransactionRequest>,
    ) -> Result<Response<v1::DescribeTransactionResponse>, Status> {
        self.thaw().await;
        let request = request.into_inner();
        let mut state = self.shared.lock();
        self.coordinates(&mut state)?;
        let known = state.transactions.ids.get(&request.transactional_id);
        let known = known.ok_or_else(|| Error::definite(Reason::UnknownTransactionalId).status())?;
        let transaction = v1::TransactionState {
            transactional_id: request.transactional_id,
            state: if known.is_open { "Ongoing" } else { "Empty" }.to_owned(),
            producer_id: known.producer_id,
            producer_epoch: known.epoch,
            last_epoch: known.last.map(|(epoch, _)| epoch),
            last_committed: known.last.is_some_and(|(_, commit)| commit),
            ..v1::TransactionState::default()
        };
        Ok(Response::new(v1::DescribeTransactionResponse {
            transaction: Some(transaction),
        }))
    }

    async fn list_transactions(
        &self,
        _: Request<v1::ListTransactionsRequest>,
    ) -> Result<Response<v1::ListTransactionsResponse>, Status> {
        Err(Status::unimplemented("not used"))
    }

    async fn abort_transaction(
        &self,
        _: Request<v1::AbortTransactionRequest>,
    ) -> Result<Response<v1::AbortTransactionResponse>, Status> {
        Err(Status::unimplemented("not used"))
    }

    async fn describe_producers(
        &self,
        _: Request<v1::DescribeProducersRequest>,
    ) -> Result<Response<v1::DescribeProducersResponse>, Status> {
        Err(Status::unimplemented("not used"))
    }
}
