//! Exchanges and bindings: creation, deletion, binding, unbinding.

use std::collections::{BTreeMap, BTreeSet};

use jangada_routing::{Binding, Destination, Exchange};
use jangada_types::{ExchangeId, Reason, Rejection, ReplicaId};

use crate::command::CommandKind;
use crate::exchange_rules;
use crate::exchanges::Exchanges;
use crate::image::{Image, TopicKind};
use crate::reply::Reply;
use crate::rules;

impl Image {
    /// The name is judged before the id, as with topics: a proposal that was applied twice finds its own id in the rejection.
    pub(super) fn create_exchange(&mut self, exchange: Exchange) -> Result<Reply, Rejection> {
        let after = self.with_exchange(exchange, CommandKind::CreateExchange)?;
        Ok(self.exchange_created(after, CommandKind::CreateExchange))
    }

    /// An exchange with a topic of its own.
    pub(super) fn create_logged_exchange(
        &mut self,
        exchange: Exchange,
        config: &BTreeMap<String, String>,
        assignments: &[Vec<ReplicaId>],
    ) -> Result<Reply, Rejection> {
        exchange_rules::may_have_log(&exchange)?;
        exchange_rules::log_config(&exchange.name, config)?;
        let (topic_id, topic_name) = (exchange.id.own_topic(), exchange_rules::log_name(&exchange.name));
        let after = self.with_exchange(exchange, CommandKind::CreateLoggedExchange)?;
        self.add_topic(topic_id, TopicKind::Exchange, &topic_name, config, assignments)?;
        Ok(self.exchange_created(after, CommandKind::CreateLoggedExchange))
    }

    /// The exchanges with one more, which is judged; and its id.
    fn with_exchange(&self, exchange: Exchange, command: CommandKind) -> Result<(Exchanges, ExchangeId), Rejection> {
        exchange_rules::new_exchange(self, &exchange)?;
        let id = exchange.id;
        if id == ExchangeId::default() || self.exchanges.get(id).is_some() {
            let name = &exchange.name;
            return Err(Rejection::new(
                Reason::InvalidRequest,
                format!(
                    "exchange {name:?} was proposed with id {id}, which is taken: propose it with another random id"
                ),
            ));
        }
        rules::all_have_level(self, command.since())?;
        let mut after = self.exchanges.clone();
        after.insert(exchange);
        exchange_rules::is_near(&after, id)?;
        Ok((after, id))
    }

    fn exchange_created(&mut self, (after, exchange_id): (Exchanges, ExchangeId), command: CommandKind) -> Reply {
        self.exchanges = after;
        self.feature_level = self.feature_level.max(command.since());
        Reply::ExchangeCreated {
            exchange_id,
            version: self.version,
        }
    }

    pub(super) fn delete_exchange(&mut self, id: ExchangeId, if_unused: bool) -> Result<Reply, Rejection> {
        exchange_rules::may_delete(self, exchange_rules::exchange_by_id(self, id)?, if_unused)?;
        if let Some(log) = self.exchange_log(id).map(|log| log.id) {
            self.remove_topic(log);
        }
        self.exchanges.remove(id);
        Ok(Reply::ExchangeDeleted { version: self.version })
    }

    pub(super) fn bind(&mut self, id: ExchangeId, bindings: &[Binding]) -> Result<Reply, Rejection> {
        let exchange = exchange_rules::exchange_by_id(self, id)?;
        let added = exchange_rules::new_bindings(self, exchange, bindings)?;
        let leads_on = |binding: &Binding| matches!(binding.destination, Destination::Exchange(_));
        if added.iter().any(leads_on) {
            let mut after = self.exchanges.clone();
            after.bind(id, &added);
            exchange_rules::is_near(&after, id)?;
            self.exchanges = after;
        } else if !added.is_empty() {
            self.exchanges.bind(id, &added);
        }
        Ok(Reply::Bound {
            added: count(added.len()),
            version: self.version,
        })
    }

    pub(super) fn unbind(&mut self, id: ExchangeId, bindings: &[Binding]) -> Result<Reply, Rejection> {
        let exchange = exchange_rules::exchange_by_id(self, id)?;
        exchange_rules::may_unbind(self, exchange, bindings)?;
        let bindings: BTreeSet<Binding> = bindings.iter().cloned().collect();
        let removed = self.exchanges.unbind(id, &bindings);
        Ok(Reply::Unbound {
            removed: count(removed),
            version: self.version,
        })
    }
}

/// A number of bindings of one request, which is limited.
fn count(bindings: usize) -> u32 {
    u32::try_from(bindings).unwrap_or(u32::MAX)
}
