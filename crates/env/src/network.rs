//! Listening, and the connections of gRPC channels.
//!
//! The system's side is TCP, and the channels of tonic are made as tonic makes them: names are resolved, and of several addresses
//! the one that answers is taken. A simulation's side are pipes: whoever implements [`SimulatedNetwork`] decides who reaches whom, and
//! when.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tonic::codegen::Service;
use tonic::transport::{Channel, Endpoint, Uri};

/// How a program listens and connects.
#[derive(Clone)]
pub enum Network {
    /// The system's TCP.
    System,
    /// Pipes in memory.
    Simulated(Arc<dyn SimulatedNetwork>),
}

/// A network in memory, as one program sees it.
pub trait SimulatedNetwork: Send + Sync + 'static {
    /// Listens at `host:port`; port 0 takes a free one.
    ///
    /// # Errors
    /// The address is none, or taken.
    fn bind(&self, address: &str) -> io::Result<Arc<dyn SimulatedListener>>;

    /// Opens a connection to `host:port`.
    ///
    /// # Errors
    /// Nobody listens there, or nobody can be reached.
    fn connect(&self, address: String) -> BoxFuture<'static, io::Result<Box<dyn Pipe>>>;
}

/// A bound address of a network in memory.
pub trait SimulatedListener: Send + Sync + 'static {
    /// Where it listens.
    fn local_addr(&self) -> SocketAddr;

    /// The next connection, with the address that it came from. May be called by several at once.
    fn accept(&self) -> BoxFuture<'_, io::Result<(Box<dyn Pipe>, SocketAddr)>>;
}

/// One end of a connection in memory.
pub trait Pipe: AsyncRead + AsyncWrite + Send + Unpin {}

impl<P: AsyncRead + AsyncWrite + Send + Unpin> Pipe for P {}

impl Network {
    /// Binds `host:port`. Connections wait until somebody accepts.
    ///
    /// # Errors
    /// The address is none, or taken.
    pub async fn bind(&self, address: &str) -> io::Result<Listening> {
        Ok(Listening(match self {
            Self::System => {
                let socket = TcpListener::bind(address).await?;
                Bound::Tcp {
                    address: socket.local_addr()?,
                    socket: Arc::new(socket),
                }
            }
            Self::Simulated(network) => Bound::Simulated(network.bind(address)?),
        }))
    }

    /// Connects a gRPC channel.
    ///
    /// # Errors
    /// Nobody answers within the endpoint's time.
    pub async fn connect(&self, endpoint: &Endpoint) -> Result<Channel, tonic::transport::Error> {
        match self {
            Self::System => endpoint.connect().await,
            Self::Simulated(network) => endpoint.connect_with_connector(Connector(network.clone())).await,
        }
    }

    /// A gRPC channel that connects when it is used. Must be called within a tokio runtime.
    pub fn connect_lazy(&self, endpoint: &Endpoint) -> Channel {
        match self {
            Self::System => endpoint.connect_lazy(),
            Self::Simulated(network) => endpoint.connect_with_connector_lazy(Connector(network.clone())),
        }
    }
}

/// A bound address. Clones share it: it stays bound until the last one is dropped.
#[derive(Clone)]
pub struct Listening(Bound);

#[derive(Clone)]
enum Bound {
    Tcp {
        socket: Arc<TcpListener>,
        address: SocketAddr,
    },
    Simulated(Arc<dyn SimulatedListener>),
}

impl Listening {
    /// Where it really listens: for port 0, the one that was free.
    pub fn local_addr(&self) -> SocketAddr {
        match &self.0 {
            Bound::Tcp { address, .. } => *address,
            Bound::Simulated(listener) => listener.local_addr(),
        }
    }

    /// The next connection, with the address that it came from.
    ///
    /// # Errors
    /// The system's: the peer is gone again, or the process or the system is out of something.
    pub async fn accept(&self) -> io::Result<(Socket, SocketAddr)> {
        match &self.0 {
            Bound::Tcp { socket, .. } => {
                let (socket, peer) = socket.accept().await?;
                Ok((Socket::Tcp(socket), peer))
            }
            Bound::Simulated(listener) => {
                let (pipe, peer) = listener.accept().await?;
                Ok((Socket::Pipe(pipe), peer))
            }
        }
    }
}

/// One end of a connection.
pub enum Socket {
    /// A TCP connection of the system.
    Tcp(TcpStream),
    /// A pipe of a simulation.
    Pipe(Box<dyn Pipe>),
}

impl Socket {
    /// Whether small writes leave at once.
    ///
    /// # Errors
    /// The system's.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.set_nodelay(nodelay),
            Self::Pipe(_) => Ok(()),
        }
    }

    /// Writes what goes in without waiting, and tells how much that was.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if nothing does; the system's.
    pub fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.try_write(bytes),
            Self::Pipe(pipe) => match Pin::new(pipe).poll_write(&mut Context::from_waker(Waker::noop()), bytes) {
                Poll::Ready(written) => written,
                Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
            },
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_read(cx, buffer),
            Self::Pipe(pipe) => Pin::new(pipe).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_write(cx, bytes),
            Self::Pipe(pipe) => Pin::new(pipe).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_write_vectored(cx, slices),
            Self::Pipe(pipe) => Pin::new(pipe).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(socket) => socket.is_write_vectored(),
            Self::Pipe(pipe) => pipe.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_flush(cx),
            Self::Pipe(pipe) => Pin::new(pipe).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Pipe(pipe) => Pin::new(pipe).poll_shutdown(cx),
        }
    }
}

/// Connects tonic's channels over a network in memory.
struct Connector(Arc<dyn SimulatedNetwork>);

impl Service<Uri> for Connector {
    type Response = TokioIo<Box<dyn Pipe>>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let address = uri.authority().map(ToString::to_string).unwrap_or_default();
        let connecting = self.0.connect(address);
        Box::pin(async move { connecting.await.map(TokioIo::new) })
    }
}
