//! A TCP proxy before a node's public listener, which can drop the node's answers.

use std::net::{SocketAddr, TcpListener as StdListener};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Forwards bytes, until told otherwise. Ends when it is dropped.
pub struct Proxy {
    address: SocketAddr,
    state: watch::Sender<State>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// Whether the node's answers are read and dropped.
    muted: bool,
    /// Number of times that the connections were cut.
    cuts: u64,
}

impl Proxy {
    /// Listens on loopback. Must be called within a runtime.
    pub fn before(target: String) -> Proxy {
        let listener = StdListener::bind("127.0.0.1:0").expect("loopback has a free port");
        listener.set_nonblocking(true).expect("a socket can be set so");
        let address = listener.local_addr().expect("it is bound");
        let listener = TcpListener::from_std(listener).expect("a runtime runs");
        let state = watch::Sender::new(State::default());
        let watched = state.subscribe();
        tokio::spawn(async move {
            let mut ended = watched.clone();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let Ok((client, _)) = accepted else { return };
                        tokio::spawn(serve(client, target.clone(), watched.clone()));
                    }
                    changed = ended.changed() => if changed.is_err() { return },
                }
            }
        });
        Proxy { address, state }
    }

    /// The address that clients connect to.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// From now on requests are forwarded and answers are dropped.
    pub fn lose_answers(&self) {
        self.state.send_modify(|state| state.muted = true);
    }

    /// Ends all connections; new ones are served in full.
    pub fn cut(&self) {
        self.state.send_modify(|state| {
            state.muted = false;
            state.cuts += 1;
        });
    }
}

/// Serves one connection, until an end closes it or it is cut.
async fn serve(client: TcpStream, target: String, mut state: watch::Receiver<State>) {
    let before = state.borrow().cuts;
    let Ok(node) = TcpStream::connect(target).await else {
        return;
    };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_node, mut to_node) = node.into_split();
    let watched = state.clone();
    let requests = async { tokio::io::copy(&mut from_client, &mut to_node).await.map(drop) };
    let answers = async {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let count = from_node.read(&mut buffer).await?;
            let (is_cut, is_muted) = {
                let state = watched.borrow();
                (state.cuts > before, state.muted)
            };
            // An answer that comes with the cut is lost as well: the batch may be seen in the log before it is answered.
            if is_cut {
                return std::io::Result::Ok(());
            }
            if is_muted {
                continue;
            }
            if count == 0 {
                return std::io::Result::Ok(());
            }
            to_client.write_all(&buffer[..count]).await?;
        }
    };
    tokio::select! {
        _ = requests => {}
        _ = answers => {}
        // An error is the proxy's end.
        _ = state.wait_for(|state| state.cuts > before) => {}
    }
}
