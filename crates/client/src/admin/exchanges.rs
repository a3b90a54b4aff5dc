//! Exchanges from outside: creating, showing and deleting them, binding, and asking where a message would go. Field names are those of
//! `exchange.proto`.

use std::collections::BTreeMap;
use std::future::Future;

use jangada_proto::v1;
use jangada_proto::v1::exchange_service_client::ExchangeServiceClient;
use jangada_proto::v1::trace_hop::CameBy as WireCameBy;
use jangada_types::{ExchangeId, Header, Reason};
use tonic::transport::Channel;
use tonic::{Response, Status};

use super::{Admin, CREATE_TIMEOUT};
use crate::attempts::CallFailed;
use crate::cluster::Repeat;
use crate::error::ClientError;
use crate::exchange::{Binding, ExchangeKind, exchange_error, exchange_service, header_to_wire};
use crate::queue::calls::unreadable;
use crate::wire_error::Failure;

/// An exchange to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewExchange {
    /// `[A-Za-z0-9._-]{1,249}`, not `.` or `..`, not beginning with `__`. A queue or a topic may have it, too.
    pub name: String,
    /// How it finds bindings.
    pub kind: ExchangeKind,
    /// The exchange, by name, that gets what matches no binding. It need not be there. Default: what matches nothing is unroutable.
    pub alternate: Option<String>,
    /// Whether messages come from other exchanges only. Default: false.
    pub is_internal: bool,
    /// Whether it is deleted when its last binding is taken away. Default: false.
    pub auto_delete: bool,
    /// Accept an exchange of that name that exists, if it is as asked for. Default: false.
    pub if_not_exists: bool,
    /// The log that its queues are to be views over, for wide fan-out. Default: none, each queue gets a copy.
    pub log: Option<ExchangeLog>,
}

/// The log of an exchange.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExchangeLog {
    /// 1 to 10,000. 0: the cluster's default.
    pub partitions: u32,
    /// 1 to the number of brokers. 0: the cluster's default.
    pub replicas: u32,
    /// Settings by key: `retention.ms`, `retention.bytes`, `segment.bytes`, `max.message.bytes`.
    pub config: BTreeMap<String, String>,
}

impl NewExchange {
    /// An exchange with nothing special.
    pub fn new(name: impl Into<String>, kind: ExchangeKind) -> Self {
        Self {
            name: name.into(),
            kind,
            alternate: None,
            is_internal: false,
            auto_delete: false,
            if_not_exists: false,
            log: None,
        }
    }

    fn wire(&self) -> v1::CreateExchangeRequest {
        v1::CreateExchangeRequest {
            name: self.name.clone(),
            r#type: self.kind.to_wire().into(),
            alternate: self.alternate.clone().unwrap_or_default(),
            internal: self.is_internal,
            auto_delete: self.auto_delete,
            if_not_exists: self.if_not_exists,
            log: self.log.as_ref().map(|log| v1::ExchangeLog {
                partitions: log.partitions,
                replicas: log.replicas,
                config: log.config.clone().into_iter().collect(),
            }),
        }
    }
}

/// An exchange that was created or was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreatedExchange {
    /// The exchange's id.
    pub exchange_id: ExchangeId,
    /// Whether this call created the exchange; false if it was there before.
    pub created: bool,
    /// The metadata version that has the exchange.
    pub version: u64,
}

/// An exchange in the list of all exchanges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExchangeSummary {
    /// The exchange's name.
    pub name: String,
    /// The exchange's id.
    pub exchange_id: ExchangeId,
    /// How it finds bindings.
    pub kind: ExchangeKind,
    /// The exchange, by name, that gets what matches no binding. `None`: it has none.
    pub alternate: Option<String>,
    /// Whether messages come from other exchanges only.
    pub is_internal: bool,
    /// Whether it is deleted when its last binding is taken away.
    pub auto_delete: bool,
    /// How many bindings it has.
    pub bindings: u32,
    /// Its log, with the settings that are set. `None`: it has none.
    pub log: Option<ExchangeLog>,
}

/// An exchange with its bindings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExchangeDescription {
    /// As in the list.
    pub exchange: ExchangeSummary,
    /// All of its bindings, by destination.
    pub bindings: Vec<Binding>,
    /// The names of exchanges that have bindings to it.
    pub bound_from: Vec<String>,
}

/// Where a message would go, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageTrace {
    /// The exchanges that it passes, the first one first.
    pub hops: Vec<TraceHop>,
    /// The names of the queues that get it, each once. None: it is unroutable.
    pub queues: Vec<String>,
}

/// An exchange that a message passes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceHop {
    /// The exchange's name.
    pub exchange: String,
    /// How it finds bindings.
    pub kind: ExchangeKind,
    /// What leads to it.
    pub came_by: CameBy,
    /// The bindings that match; of all hops together the first 2,000.
    pub matched: Vec<Binding>,
    /// How many bindings match.
    pub matched_count: u32,
    /// The alternate exchange that is meant to get the message, as nothing matches, and that is not there.
    pub missing_alternate: Option<String>,
}

/// The way by which a message comes to an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CameBy {
    /// It was published there.
    Published,
    /// A binding of the hop of this number, from 0 on, leads there.
    BindingOf(u32),
    /// The exchange is the alternate one of the hop of this number, from 0 on.
    AlternateOf(u32),
}

fn exchange_id(bytes: &[u8], context: &str) -> Result<ExchangeId, ClientError> {
    ExchangeId::from_slice(bytes).ok_or_else(|| {
        let message = format!("the answer has an exchange id of {} bytes instead of 16", bytes.len());
        ClientError::Refused(Failure::local(tonic::Code::DataLoss, message, true).rejection(context))
    })
}

fn bindings(bindings: Vec<v1::Binding>, context: &str) -> Result<Vec<Binding>, ClientError> {
    let all: Option<Vec<Binding>> = bindings.into_iter().map(Binding::from_wire).collect();
    all.ok_or_else(|| unreadable(context))
}

fn some_name(name: String) -> Option<String> {
    Some(name).filter(|name| !name.is_empty())
}

impl ExchangeSummary {
    fn from_wire(exchange: v1::ExchangeInfo, context: &str) -> Result<Self, ClientError> {
        Ok(Self {
            exchange_id: exchange_id(&exchange.exchange_id, context)?,
            kind: ExchangeKind::from_wire(exchange.r#type).ok_or_else(|| unreadable(context))?,
            name: exchange.name,
            alternate: some_name(exchange.alternate),
            is_internal: exchange.internal,
            auto_delete: exchange.auto_delete,
            bindings: exchange.bindings,
            log: exchange.log.map(|log| ExchangeLog {
                partitions: log.partitions,
                replicas: log.replicas,
                config: log.config.into_iter().collect(),
            }),
        })
    }
}

impl TraceHop {
    fn from_wire(hop: v1::TraceHop, context: &str) -> Result<Self, ClientError> {
        Ok(Self {
            kind: ExchangeKind::from_wire(hop.r#type).ok_or_else(|| unreadable(context))?,
            exchange: hop.exchange,
            came_by: match hop.came_by {
                None => CameBy::Published,
                Some(WireCameBy::BindingOf(number)) => CameBy::BindingOf(number),
                Some(WireCameBy::AlternateOf(number)) => CameBy::AlternateOf(number),
            },
            matched: bindings(hop.matched, context)?,
            matched_count: hop.matched_count,
            missing_alternate: some_name(hop.missing_alternate),
        })
    }
}

impl Admin {
    /// Creates an exchange, and returns when all live brokers know it.
    ///
    /// When an attempt ended without an answer and the next one finds an exchange of that name that is as asked for, it is taken for the
    /// work of the first and reported as created.
    ///
    /// An attempt of this call, of [`delete_exchange`](Self::delete_exchange), [`bind`](Self::bind) and [`unbind`](Self::unbind) may take
    /// 35 s, whatever `request_timeout` is.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with `EXCHANGE_EXISTS` unless [`NewExchange::if_not_exists`], and also then if the exchange is another
    /// one than asked for; and for a bad name or alternate exchange.
    pub async fn create_exchange(&self, exchange: NewExchange) -> Result<CreatedExchange, ClientError> {
        let context = format!("create exchange {}", exchange.name);
        let mut request = exchange.wire();
        let mut is_ours = false;
        let answer = match self.send_new_exchange(&context, &request).await {
            Err(failed) if failed.in_doubt && failed.failure.reason == Some(Reason::ExchangeExists) => {
                // The broker compares the exchange that is there with what is asked for.
                is_ours = !request.if_not_exists;
                request.if_not_exists = true;
                self.send_new_exchange(&context, &request).await
            }
            answer => answer,
        };
        let answer = answer.map_err(|failed| failed.into_error(&context))?;
        self.cluster.metadata.require_version(answer.version);
        Ok(CreatedExchange {
            exchange_id: exchange_id(&answer.exchange_id, &context)?,
            created: answer.created || is_ours,
            version: answer.version,
        })
    }

    async fn send_new_exchange(
        &self,
        context: &str,
        request: &v1::CreateExchangeRequest,
    ) -> Result<v1::CreateExchangeResponse, CallFailed> {
        let create = |mut service: ExchangeServiceClient<Channel>| {
            let request = request.clone();
            async move { service.create_exchange(request).await }
        };
        self.change_exchanges(context, create).await
    }

    /// All exchanges, by name.
    ///
    /// # Errors
    /// [`ClientError::Unavailable`] when no broker answers.
    pub async fn list_exchanges(&self) -> Result<Vec<ExchangeSummary>, ClientError> {
        let context = "list exchanges";
        let answer = self.call_exchanges(context, Repeat::Hedged, |mut service| async move {
            service.list_exchanges(v1::ListExchangesRequest {}).await
        });
        let answer = answer.await.map_err(|failed| failed.into_error(context))?;
        let exchanges = answer.exchanges.into_iter();
        exchanges
            .map(|exchange| ExchangeSummary::from_wire(exchange, context))
            .collect()
    }

    /// One exchange with its bindings. Of one with more than 10,000 bindings they come in several answers: if it is changed meanwhile,
    /// some are of before and some of after that.
    ///
    /// # Errors
    /// [`ClientError::UnknownExchange`].
    pub async fn describe_exchange(&self, name: &str) -> Result<ExchangeDescription, ClientError> {
        let mut description = self.describe_some(name, 0).await?;
        while description.bindings.len() < description.exchange.bindings as usize {
            let more = self.describe_some(name, description.bindings.len()).await?;
            if more.bindings.is_empty() {
                break;
            }
            description.bindings.extend(more.bindings);
        }
        Ok(description)
    }

    /// The same, with the bindings of one answer, behind so many.
    async fn describe_some(&self, name: &str, skip: usize) -> Result<ExchangeDescription, ClientError> {
        let context = format!("describe exchange {name}");
        let answer = self.call_exchanges(&context, Repeat::Hedged, |mut service| {
            let request = v1::DescribeExchangeRequest {
                name: name.to_owned(),
                skip_bindings: u32::try_from(skip).unwrap_or(u32::MAX),
            };
            async move { service.describe_exchange(request).await }
        });
        let answer = answer.await.map_err(|failed| exchange_error(failed, name, &context))?;
        Ok(ExchangeDescription {
            exchange: ExchangeSummary::from_wire(answer.exchange.unwrap_or_default(), &context)?,
            bindings: bindings(answer.bindings, &context)?,
            bound_from: answer.bound_from,
        })
    }

    /// Deletes an exchange, with its bindings and those that lead to it; queues and their messages stay. With `if_unused` only one
    /// without bindings of its own. Returns the metadata version without it.
    ///
    /// When an attempt ended without an answer and the next one does not find the exchange, it is taken for deleted.
    ///
    /// # Errors
    /// [`ClientError::UnknownExchange`]; [`ClientError::Refused`] with `EXCHANGE_IN_USE`, and for an exchange that AMQP says is always
    /// there.
    pub async fn delete_exchange(&self, name: &str, if_unused: bool) -> Result<u64, ClientError> {
        let context = format!("delete exchange {name}");
        let answer = self.change_exchanges(&context, |mut service| {
            let request = v1::DeleteExchangeRequest {
                name: name.to_owned(),
                if_unused,
            };
            async move { service.delete_exchange(request).await }
        });
        let answer = answer.await.map(|answer| answer.version);
        let version = match self.or_gone(answer).await? {
            Ok(version) => version,
            Err(failed) => return Err(exchange_error(failed, name, &context)),
        };
        self.cluster.metadata.require_version(version);
        Ok(version)
    }

    /// Gives an exchange bindings, all or none; those that it has already stay as they are. At least one, at most 1,000. What is published
    /// to any live broker after this is routed by them. Returns the metadata version that has them.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with `UNKNOWN_EXCHANGE`, of this exchange or of one at the other end, and `UNKNOWN_QUEUE`, with
    /// `WRONG_QUEUE_KIND` for a queue that reads a topic, with `INVALID_BINDING` and `TOO_MANY_BINDINGS`.
    pub async fn bind(&self, exchange: &str, bindings: Vec<Binding>) -> Result<u64, ClientError> {
        let context = format!("bind to exchange {exchange}");
        let request = bind_request(exchange, &bindings);
        let answer = self.change_exchanges(&context, |mut service| {
            let request = request.clone();
            async move { service.bind(request).await }
        });
        let answer = answer.await.map_err(|failed| failed.into_error(&context))?;
        self.cluster.metadata.require_version(answer.version);
        Ok(answer.version)
    }

    /// Takes bindings from an exchange, all or none; those that it does not have are left out. Returns the metadata version without them.
    ///
    /// When an attempt ended without an answer and the next one does not find the exchange, it was deleted with its last binding.
    ///
    /// # Errors
    /// As for [`bind`](Self::bind).
    pub async fn unbind(&self, exchange: &str, bindings: Vec<Binding>) -> Result<u64, ClientError> {
        let context = format!("unbind from exchange {exchange}");
        let request = bind_request(exchange, &bindings);
        let answer = self.change_exchanges(&context, |mut service| {
            let request = request.clone();
            async move { service.unbind(request).await }
        });
        let answer = answer.await.map(|answer| answer.version);
        let version = match self.or_gone(answer).await? {
            Ok(version) => version,
            Err(failed) => return Err(failed.into_error(&context)),
        };
        self.cluster.metadata.require_version(version);
        Ok(version)
    }

    /// The version that a call led to after which the exchange may be gone: if an earlier attempt of it may have done that, and the
    /// exchange is not there any more, that of now.
    async fn or_gone(&self, answer: Result<u64, CallFailed>) -> Result<Result<u64, CallFailed>, ClientError> {
        match answer {
            Err(failed) if failed.in_doubt && failed.failure.reason == Some(Reason::UnknownExchange) => {
                Ok(Ok(self.describe_cluster().await?.version))
            }
            answer => Ok(answer),
        }
    }

    /// Asks where a message would go, and by which bindings. Nothing is published.
    ///
    /// # Errors
    /// [`ClientError::UnknownExchange`]; [`ClientError::Refused`] with `EXCHANGE_INTERNAL`.
    pub async fn trace_message(
        &self,
        exchange: &str,
        routing_key: &str,
        headers: &[Header],
    ) -> Result<MessageTrace, ClientError> {
        let context = format!("trace a message to exchange {exchange}");
        let request = v1::TraceMessageRequest {
            name: exchange.to_owned(),
            routing_key: routing_key.to_owned(),
            headers: headers.iter().map(header_to_wire).collect(),
        };
        let answer = self.call_exchanges(&context, Repeat::Hedged, |mut service| {
            let request = request.clone();
            async move { service.trace_message(request).await }
        });
        let answer = answer
            .await
            .map_err(|failed| exchange_error(failed, exchange, &context))?;
        let hops = answer.hops.into_iter();
        Ok(MessageTrace {
            hops: hops
                .map(|hop| TraceHop::from_wire(hop, &context))
                .collect::<Result<_, _>>()?,
            queues: answer.queues,
        })
    }

    /// A call whose answer waits until all live brokers know what it changed. Made twice it has the effect of once.
    async fn change_exchanges<T, F>(
        &self,
        what: &str,
        call: impl Fn(ExchangeServiceClient<Channel>) -> F + Sync,
    ) -> Result<T, CallFailed>
    where
        T: Send,
        F: Future<Output = Result<Response<T>, Status>> + Send,
    {
        let within = CREATE_TIMEOUT.max(self.cluster.config.request_timeout);
        let call = |channel| call(exchange_service(channel));
        self.cluster.call_any_within(within, what, Repeat::Always, call).await
    }

    async fn call_exchanges<T, F>(
        &self,
        what: &str,
        repeat: Repeat,
        call: impl Fn(ExchangeServiceClient<Channel>) -> F + Sync,
    ) -> Result<T, CallFailed>
    where
        T: Send,
        F: Future<Output = Result<Response<T>, Status>> + Send,
    {
        self.cluster
            .call_any(what, repeat, |channel| call(exchange_service(channel)))
            .await
    }
}

fn bind_request(exchange: &str, bindings: &[Binding]) -> v1::BindRequest {
    v1::BindRequest {
        name: exchange.to_owned(),
        bindings: bindings.iter().map(Binding::to_wire).collect(),
    }
}
