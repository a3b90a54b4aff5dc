//! The exchange service, as far as the tests use it: a message goes to the queues that a test gives its routing key, and its way is made
//! up.

use std::collections::{BTreeMap, VecDeque};

use jangada_proto::v1;
use jangada_types::Reason;
use tonic::{Request, Response, Status};

use super::{Broker, Error};

/// What brokers know of exchanges.
#[derive(Default)]
pub struct Exchanges {
    /// The exchanges by name, each with its bindings.
    pub all: BTreeMap<String, (v1::ExchangeInfo, Vec<v1::Binding>)>,
    /// The queues of a message by its routing key.
    pub routes: BTreeMap<String, Vec<String>>,
    /// The calls that published, as they came; also those that were refused.
    pub published: Vec<v1::PublishRequest>,
    /// The faults of the next calls that publish.
    pub faults: VecDeque<PublishFault>,
    /// Scripted answers of the next calls that change exchanges, each with whether the work is done before.
    pub admin_faults: VecDeque<(bool, Status)>,
    /// Bindings of one answer to DescribeExchange at most. None: any number.
    pub page: Option<usize>,
    next_offset: i64,
}

/// What happens to a call that publishes.
#[derive(Clone, Debug)]
pub enum PublishFault {
    /// It is refused without effect.
    Refuse(Error),
    /// Its messages of these places get errors, the others are published.
    Some(Vec<(usize, Error)>),
    /// It takes effect, and its answer is lost.
    Lose,
}

impl Exchanges {
    fn find(&mut self, name: &str) -> Result<&mut (v1::ExchangeInfo, Vec<v1::Binding>), Error> {
        self.all.get_mut(name).ok_or(Error::definite(Reason::UnknownExchange))
    }

    fn create(&mut self, wanted: v1::CreateExchangeRequest) -> Result<v1::CreateExchangeResponse, Error> {
        let info = v1::ExchangeInfo {
            exchange_id: vec![9; 16].into(),
            name: wanted.name.clone(),
            r#type: wanted.r#type,
            alternate: wanted.alternate,
            internal: wanted.internal,
            auto_delete: wanted.auto_delete,
            bindings: 0,
            log: wanted.log,
        };
        let created = match self.all.get(&wanted.name) {
            Some((known, _))
                if wanted.if_not_exists
                    && v1::ExchangeInfo {
                        bindings: 0,
                        ..known.clone()
                    } == info =>
            {
                false
            }
            Some(_) => return Err(Error::definite(Reason::ExchangeExists)),
            None => true,
        };
        if created {
            self.all.insert(wanted.name, (info, Vec::new()));
        }
        Ok(v1::CreateExchangeResponse {
            exchange_id: vec![9; 16].into(),
            created,
            version: 0,
        })
    }

    fn unbind(&mut self, wanted: &v1::BindRequest) -> Result<v1::BindResponse, Error> {
        let (info, bindings) = self.find(&wanted.name)?;
        bindings.retain(|binding| !wanted.bindings.contains(binding));
        info.bindings = bindings.len() as u32;
        if info.auto_delete && bindings.is_empty() {
            self.all.remove(&wanted.name);
        }
        Ok(v1::BindResponse { version: 0 })
    }

    fn publish(&mut self, request: &v1::PublishRequest, failing: &[(usize, Error)]) -> v1::PublishResponse {
        use v1::publish_result::Result as Outcome;
        let mut results = Vec::new();
        for (number, message) in request.messages.iter().enumerate() {
            let queues = self.routes.get(&message.routing_key).cloned().unwrap_or_default();
            let error = failing.iter().find(|(failing, _)| *failing == number);
            let outcome = match error {
                Some((_, error)) => Outcome::Error(error.wire()),
                None if queues.is_empty() && message.mandatory => {
                    Outcome::Error(Error::definite(Reason::Unroutable).wire())
                }
                None => Outcome::Published(v1::PublishedMessage {
                    places: queues.into_iter().map(|queue| self.place(queue)).collect(),
                }),
            };
            results.push(v1::PublishResult { result: Some(outcome) });
        }
        v1::PublishResponse { results }
    }

    fn place(&mut self, queue: String) -> v1::PublishedPlace {
        self.next_offset += 1;
        v1::PublishedPlace {
            queue,
            exchange: String::new(),
            sent: Some(v1::SentMessage {
                partition: 0,
                offset: self.next_offset - 1,
                duplicate: false,
            }),
        }
    }
}

impl Broker {
    /// Does the work unless the test's script says otherwise.
    fn change<T>(&self, work: impl FnOnce(&mut Exchanges) -> Result<T, Error>) -> Result<Response<T>, Status> {
        let exchanges = &mut self.shared.lock().exchanges;
        match exchanges.admin_faults.pop_front() {
            Some((is_done, status)) => {
                if is_done {
                    drop(work(exchanges));
                }
                Err(status)
            }
            None => work(exchanges).map(Response::new).map_err(|error| error.status()),
        }
    }
}

#[tonic::async_trait]
impl v1::exchange_service_server::ExchangeService for Broker {
    async fn create_exchange(
        &self,
        request: Request<v1::CreateExchangeRequest>,
    ) -> Result<Response<v1::CreateExchangeResponse>, Status> {
        self.change(|exchanges| exchanges.create(request.into_inner()))
    }

    async fn list_exchanges(
        &self,
        _: Request<v1::ListExchangesRequest>,
    ) -> Result<Response<v1::ListExchangesResponse>, Status> {
        let exchanges = &self.shared.lock().exchanges.all;
        Ok(Response::new(v1::ListExchangesResponse {
            exchanges: exchanges.values().map(|(info, _)| info.clone()).collect(),
            version: 0,
        }))
    }

    async fn describe_exchange(
        &self,
        request: Request<v1::DescribeExchangeRequest>,
    ) -> Result<Response<v1::DescribeExchangeResponse>, Status> {
        let request = request.into_inner();
        let exchanges = &mut self.shared.lock().exchanges;
        let page = exchanges.page.unwrap_or(usize::MAX);
        let (info, bindings) = exchanges.find(&request.name).map_err(|error| error.status())?;
        let shown = bindings.iter().skip(request.skip_bindings as usize).take(page);
        Ok(Response::new(v1::DescribeExchangeResponse {
            exchange: Some(info.clone()),
            bindings: shown.cloned().collect(),
            ..v1::DescribeExchangeResponse::default()
        }))
    }

    async fn delete_exchange(
        &self,
        request: Request<v1::DeleteExchangeRequest>,
    ) -> Result<Response<v1::DeleteExchangeResponse>, Status> {
        self.change(|exchanges| {
            let request = request.into_inner();
            let (_, bindings) = exchanges.find(&request.name)?;
            if request.if_unused && !bindings.is_empty() {
                return Err(Error::definite(Reason::ExchangeInUse));
            }
            exchanges.all.remove(&request.name);
            Ok(v1::DeleteExchangeResponse { version: 0 })
        })
    }

    async fn bind(&self, request: Request<v1::BindRequest>) -> Result<Response<v1::BindResponse>, Status> {
        self.change(|exchanges| {
            let request = request.into_inner();
            let (info, bindings) = exchanges.find(&request.name)?;
            for binding in request.bindings {
                if !bindings.contains(&binding) {
                    bindings.push(binding);
                }
            }
            info.bindings = bindings.len() as u32;
            Ok(v1::BindResponse { version: 0 })
        })
    }

    async fn unbind(&self, request: Request<v1::BindRequest>) -> Result<Response<v1::BindResponse>, Status> {
        self.change(|exchanges| exchanges.unbind(request.get_ref()))
    }

    async fn trace_message(
        &self,
        request: Request<v1::TraceMessageRequest>,
    ) -> Result<Response<v1::TraceMessageResponse>, Status> {
        let request = request.into_inner();
        let exchanges = &mut self.shared.lock().exchanges;
        let (info, bindings) = exchanges.find(&request.name).map_err(|error| error.status())?;
        let first = v1::TraceHop {
            exchange: request.name,
            r#type: info.r#type,
            matched_count: bindings.len() as u32,
            matched: bindings.clone(),
            ..v1::TraceHop::default()
        };
        let second = v1::TraceHop {
            came_by: Some(v1::trace_hop::CameBy::AlternateOf(0)),
            missing_alternate: "gone".to_owned(),
            ..first.clone()
        };
        Ok(Response::new(v1::TraceMessageResponse {
            hops: vec![first, second],
            queues: exchanges.routes.get(&request.routing_key).cloned().unwrap_or_default(),
            version: 0,
        }))
    }

    async fn publish(&self, request: Request<v1::PublishRequest>) -> Result<Response<v1::PublishResponse>, Status> {
        let request = request.into_inner();
        self.shared.lock().exchanges.published.push(request.clone());
        self.shared.changed();
        self.thaw().await;
        let exchanges = &mut self.shared.lock().exchanges;
        exchanges.find(&request.exchange).map_err(|error| error.status())?;
        match exchanges.faults.pop_front() {
            Some(PublishFault::Refuse(error)) => Err(error.status()),
            Some(PublishFault::Some(failing)) => Ok(Response::new(exchanges.publish(&request, &failing))),
            Some(PublishFault::Lose) => {
                exchanges.publish(&request, &[]);
                Err(Error::unknown(Reason::QuorumTimeout).status())
            }
            None => Ok(Response::new(exchanges.publish(&request, &[]))),
        }
    }
}
