//! What consumers do in a [`World`]: they connect, ask, settle, break and crash.

use jangada_queue::engine::{ConsumerId, Input, RequestId, SettleItem, Settlement};
use jangada_queue::{AttemptId, CallId, SessionId};

use crate::world::{Client, LEASE_MS, SLOT, World};

impl World {
    /// A client says what becomes of a message that it has, or says it again.
    pub fn say(&mut self, client: usize, offset: u64, settlement: Settlement) -> Option<RequestId> {
        let known = self.clients[client].unanswered.get(&offset).copied();
        let lease = self.clients[client].holds.get(&offset).copied();
        let (lease, settlement) = known.or(Some((lease?, settlement)))?;
        let id = self.records[offset as usize].0;
        if let Some(holder) = self.holders.get_mut(&id).filter(|holder| holder.lease == lease) {
            let most = match settlement {
                Settlement::Extend { lease_ms } => self.now_ms + lease_ms,
                _ => self.now_ms,
            };
            holder.until_ms = holder.until_ms.min(most);
        }
        let item = SettleItem {
            offset,
            lease,
            settlement,
        };
        self.clients[client].unanswered.insert(offset, (lease, settlement));
        let request = RequestId(self.next_id());
        self.requests.insert(request, (client, vec![item]));
        self.asked.insert(request, self.now_ms);
        let items = vec![item];
        self.step(Input::Settle {
            request,
            slot: SLOT,
            items,
        });
        Some(request)
    }

    /// A client connects, again or for the first time, and gets credit.
    pub fn connect(&mut self, client: usize, credit: u32) {
        if self.clients[client].stream.is_some() {
            return;
        }
        let consumer = ConsumerId(self.next_id());
        let known = &mut self.clients[client];
        (known.stream, known.credit) = (Some(consumer), credit);
        let input = Input::Attach {
            consumer,
            slot: SLOT,
            session: SessionId(known.session),
            lease_ms: LEASE_MS,
            holds: known.holds.iter().map(|(offset, lease)| (*offset, *lease)).collect(),
        };
        self.step(input);
        if self.clients[client].stream == Some(consumer) {
            let messages = credit;
            self.step(Input::Credit { consumer, messages });
        }
    }

    pub fn give_credit(&mut self, client: usize, messages: u32) {
        if let Some(consumer) = self.clients[client].stream {
            self.clients[client].credit += messages;
            self.step(Input::Credit { consumer, messages });
        }
    }

    /// The connection ends. A client that takes leave knows nothing of its messages any more.
    pub fn disconnect(&mut self, client: usize, orderly: bool) {
        let Some(consumer) = self.clients[client].stream.take() else {
            return;
        };
        let (until, holds) = match orderly {
            true => (self.now_ms, std::mem::take(&mut self.clients[client].holds)),
            false => (self.now_ms + 5_000, self.clients[client].holds.clone()),
        };
        if orderly {
            self.clients[client].unanswered.clear();
        }
        for (offset, lease) in holds {
            let id = self.records[offset as usize].0;
            if let Some(holder) = self.holders.get_mut(&id).filter(|holder| holder.lease == lease) {
                holder.until_ms = holder.until_ms.min(until);
            }
        }
        self.step(Input::Detach { consumer, orderly });
    }

    /// The process ends, and another one begins in its place.
    pub fn crash(&mut self, client: usize) {
        self.disconnect(client, false);
        if let Some(txn) = self.clients[client].txn.take() {
            // Its time runs out.
            self.decide(txn, false);
        }
        let session = self.next_id() + 1_000_000;
        self.requests.retain(|_, (known, _)| *known != client);
        self.clients[client] = Client {
            session,
            ..Client::default()
        };
    }

    /// Asks once, or again if it was not answered.
    pub fn receive(&mut self, client: usize, messages: u32, wait_ms: u64) -> RequestId {
        let request = RequestId(self.next_id());
        let attempt = match self.clients[client].receive {
            Some((_, attempt)) => attempt,
            None => self.next_id(),
        };
        self.clients[client].receive = Some((request, attempt));
        self.step(Input::Receive {
            request,
            slot: SLOT,
            session: SessionId(self.clients[client].session),
            attempt: AttemptId(attempt),
            call: CallId(request.0),
            messages,
            lease_ms: LEASE_MS,
            wait_ms,
        });
        request
    }
}
