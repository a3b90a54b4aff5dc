//! Opens connections to other brokers, over their internal listeners: the one place that knows how, and for how long one is kept.
//!
//! Replication has two connections to each peer that nothing else goes over; [`Dialer::connect`] makes those. Single calls share
//! a connection for each address, which [`Dialer::call`] makes when it is needed, keeps while it is used, and gives up when a call
//! on it fails: what is silent may stay silent for longer than a new connection takes.
//!
//! It knows nothing of who is called, nor of what is said.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::Duration;

use jangada_env::Network;
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::{ConnectError, Response, Status};

use super::channel::{CONNECTION_WINDOW_BYTES, KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT, STREAM_WINDOW_BYTES};

const CONNECT_TIMEOUT: Duration = Duration::from_millis(1000);
/// A connection for calls is closed when there was none on it for so long. Less than the least time after which a listener ends
/// it by default, so that a call does not meet its end.
const KEPT_FOR: Duration = Duration::from_secs(60);
/// Connections for calls, of all addresses together. Beyond it the one that was used longest ago goes. They are among the
/// descriptors that a broker keeps for connections of its own.
const KEPT_MAX: usize = 32;

/// Opens the connections to other brokers. There is one per broker.
pub struct Dialer {
    network: Network,
    kept: Mutex<BTreeMap<String, Kept>>,
    next_number: AtomicU64,
    /// How long one is kept that nobody uses.
    kept_for: Duration,
}

struct Kept {
    channel: Channel,
    used: Instant,
    /// Tells it from one that was there before.
    number: u64,
}

/// A call that has no answer.
#[derive(Debug)]
pub enum CallError {
    /// There is no connection: nothing was asked.
    NotSent(String),
    /// No answer came in this time.
    Silent(Duration),
    /// The other side said so, or the connection was lost meanwhile.
    Failed(Status),
}

impl CallError {
    /// False: the call may have had an effect, unless what the other side said tells otherwise.
    pub fn was_not_sent(&self) -> bool {
        matches!(self, Self::NotSent(_))
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSent(why) => f.write_str(why),
            Self::Silent(within) => write!(f, "no answer within {within:?}"),
            Self::Failed(status) => f.write_str(status.message()),
        }
    }
}

impl From<CallError> for Status {
    fn from(error: CallError) -> Self {
        match error {
            CallError::NotSent(why) => Status::unavailable(why),
            CallError::Silent(_) => Status::deadline_exceeded(error.to_string()),
            CallError::Failed(status) => status,
        }
    }
}

impl Dialer {
    /// Without any connections.
    pub fn new(network: Network) -> Arc<Self> {
        Self::keeping_for(network, KEPT_FOR)
    }

    fn keeping_for(network: Network, kept_for: Duration) -> Arc<Self> {
        Arc::new(Self {
            network,
            kept_for,
            kept: Mutex::default(),
            next_number: AtomicU64::new(0),
        })
    }

    /// A connection of its own, whose silence is noticed also while nothing is asked on it.
    ///
    /// # Errors
    /// The address is none, or nobody answers there.
    pub async fn connect(&self, address: &str) -> Result<Channel, String> {
        let endpoint = endpoint(address)?.keep_alive_while_idle(true);
        let channel = self.network.connect(&endpoint).await;
        channel.map_err(|error| format!("{address}: {}", chain(&error)))
    }

    /// Makes one call on the connection for calls to an address.
    pub async fn call<T, F>(
        self: &Arc<Self>,
        address: &str,
        within: Duration,
        call: impl FnOnce(Channel) -> F,
    ) -> Result<T, CallError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = Instant::now() + within;
        let channel = tokio::time::timeout_at(deadline, self.for_calls(address)).await;
        let (channel, number) = match channel {
            Ok(channel) => channel.map_err(CallError::NotSent)?,
            Err(_) => return Err(CallError::NotSent(format!("not reached within {within:?}"))),
        };
        let error = match tokio::time::timeout_at(deadline, call(channel)).await {
            Ok(Ok(answer)) => return Ok(answer.into_inner()),
            Ok(Err(status)) if !is_of_connection(&status) => return Err(CallError::Failed(status)),
            Ok(Err(status)) if is_not_connected(&status) => CallError::NotSent(chain(&status)),
            Ok(Err(status)) => CallError::Failed(status),
            Err(_) => CallError::Silent(within),
        };
        self.give_up(address, number);
        Err(error)
    }

    async fn for_calls(self: &Arc<Self>, address: &str) -> Result<(Channel, u64), String> {
        if let Some(kept) = self.kept.lock().get_mut(address) {
            kept.used = Instant::now();
            return Ok((kept.channel.clone(), kept.number));
        }
        // Its silence is noticed while nothing is asked on it, so that a call fails for certain instead of waiting for a peer that
        // was cut off.
        let channel = self.connect(address).await?;
        Ok(self.keep(address, channel))
    }

    /// Keeps a connection, or takes the one that was made meanwhile.
    fn keep(self: &Arc<Self>, address: &str, channel: Channel) -> (Channel, u64) {
        let mut kept = self.kept.lock();
        if let Some(other) = kept.get(address) {
            return (other.channel.clone(), other.number);
        }
        if kept.len() >= KEPT_MAX {
            let oldest = kept.iter().min_by_key(|(_, kept)| kept.used);
            let oldest = oldest.map(|(address, _)| address.clone()).expect("it is full");
            kept.remove(&oldest);
        }
        let number = self.next_number.fetch_add(1, Relaxed);
        let used = Instant::now();
        let connection = Kept {
            channel: channel.clone(),
            used,
            number,
        };
        kept.insert(address.to_owned(), connection);
        tokio::spawn(close_unused(Arc::downgrade(self), address.to_owned(), number));
        (channel, number)
    }

    /// The next call makes another connection.
    fn give_up(&self, address: &str, number: u64) {
        let mut kept = self.kept.lock();
        if kept.get(address).is_some_and(|kept| kept.number == number) {
            kept.remove(address);
        }
    }

    /// Until when a connection is kept if nobody uses it; none if it is not there any more.
    fn kept_until(&self, address: &str, number: u64) -> Option<Instant> {
        let kept = self.kept.lock();
        let kept = kept.get(address).filter(|kept| kept.number == number)?;
        Some(kept.used + self.kept_for)
    }
}

async fn close_unused(dialer: Weak<Dialer>, address: String, number: u64) {
    loop {
        let until = dialer.upgrade().and_then(|dialer| dialer.kept_until(&address, number));
        let Some(until) = until else { return };
        if Instant::now() >= until {
            if let Some(dialer) = dialer.upgrade() {
                dialer.give_up(&address, number);
            }
            return;
        }
        tokio::time::sleep_until(until).await;
    }
}

fn endpoint(address: &str) -> Result<Endpoint, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"));
    let endpoint = endpoint.map_err(|error| format!("address {address}: {error}"))?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES))
}

/// The other side's own words have no source.
fn is_of_connection(status: &Status) -> bool {
    status.source().is_some()
}

/// Whether a kept connection had ended and no other could be made.
fn is_not_connected(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// An error with all its causes: tonic's own says nothing but that it is one.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use jangada_proto::internal::internal_service_client::InternalServiceClient;
    use jangada_proto::internal::{ProbeRequest, ProbeResponse};
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;
    use tonic::transport::Server;

    use super::*;

    const WITHIN: Duration = Duration::from_secs(10);

    /// Somebody who answers no call, and says each time that a connection comes and that it ends.
    async fn silent() -> (String, mpsc::Receiver<&'static str>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (said, events) = mpsc::channel(16);
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let said = said.clone();
                tokio::spawn(async move {
                    let _ = said.send("begins").await;
                    let mut bytes = [0; 1024];
                    while socket.read(&mut bytes).await.is_ok_and(|read| read > 0) {}
                    let _ = said.send("ends").await;
                });
            }
        });
        (address, events)
    }

    async fn probe(dialer: &Arc<Dialer>, address: &str, within: Duration) -> Result<ProbeResponse, CallError> {
        let asked = |channel| async move { InternalServiceClient::new(channel).probe(ProbeRequest::default()).await };
        dialer.call(address, within, asked).await
    }

    /// A gRPC server that knows no method.
    async fn serve(at: SocketAddr) -> (SocketAddr, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind(at).await.unwrap();
        let at = listener.local_addr().unwrap();
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let routes = tonic::service::Routes::default();
        let serving = Server::builder().add_routes(routes).serve_with_incoming(incoming);
        (at, tokio::spawn(async move { serving.await.unwrap() }))
    }

    fn any() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    #[tokio::test]
    async fn a_connection_on_which_a_call_had_no_answer_is_given_up() {
        let (address, mut events) = silent().await;
        let dialer = Dialer::new(Network::System);
        let answer = probe(&dialer, &address, Duration::from_millis(100)).await;
        assert!(matches!(answer, Err(CallError::Silent(_))), "{answer:?}");
        assert_eq!(events.recv().await, Some("begins"));
        assert_eq!(events.recv().await, Some("ends"));
        assert!(dialer.kept.lock().is_empty());
    }

    #[tokio::test]
    async fn calls_share_a_connection_and_answers_keep_it() {
        let (at, server) = serve(any()).await;
        let dialer = Dialer::new(Network::System);
        for _ in 0..3 {
            let answer = probe(&dialer, &at.to_string(), WITHIN).await;
            assert!(matches!(answer, Err(CallError::Failed(_))), "{answer:?}");
        }
        let numbers: Vec<u64> = dialer.kept.lock().values().map(|kept| kept.number).collect();
        assert_eq!(numbers, [0], "there was one connection");
        server.abort();
    }

    #[tokio::test]
    async fn what_nobody_listens_to_was_not_sent() {
        let (at, server) = serve(any()).await;
        server.abort();
        let _ = server.await;
        let answer = probe(&Dialer::new(Network::System), &at.to_string(), WITHIN).await;
        let error = answer.expect_err("nobody is there");
        assert!(error.was_not_sent(), "{error}");
        assert!(Dialer::new(Network::System).connect("no address").await.is_err());
    }

    #[tokio::test]
    async fn a_connection_that_nobody_uses_is_closed() {
        let (address, mut events) = silent().await;
        let dialer = Dialer::keeping_for(Network::System, Duration::from_millis(100));
        let (channel, number) = dialer.for_calls(&address).await.unwrap();
        drop(channel);
        assert!(dialer.kept_until(&address, number).is_some());
        assert_eq!(events.recv().await, Some("begins"));
        assert_eq!(events.recv().await, Some("ends"));
        assert!(dialer.kept.lock().is_empty());
    }

    #[tokio::test]
    async fn so_many_are_kept_and_no_more() {
        let dialer = Dialer::new(Network::System);
        for n in 0..=KEPT_MAX {
            let channel = endpoint("127.0.0.1:1").unwrap().connect_lazy();
            dialer.keep(&format!("broker-{n}"), channel);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let kept = dialer.kept.lock();
        assert_eq!(kept.len(), KEPT_MAX);
        assert!(!kept.contains_key("broker-0"));
    }
}
