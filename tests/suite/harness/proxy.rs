//! A TCP proxy before a node's public listener, which can drop the node's answers, and hold back, slow down or cut one connection while
//! the others go on. What a client has sent comes to the node even if the client has closed its connection meanwhile: so a request can
//! come long after its client has sent it again over another connection, and has gone on.

use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::seq::IndexedRandom;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Bytes of one read.
const PIECE_BYTES: usize = 64 * 1024;
/// Pieces that are taken from one side and wait for the other.
const PIECES_MAX: usize = 64;
/// A slow connection passes so many bytes at once, and then waits.
const SLOW_BYTES: usize = 512;
const SLOW_PAUSE: Duration = Duration::from_millis(20);
/// Between two pieces that were held back: a request is taken up before the word comes that its client has given it up.
const LATE_PAUSE: Duration = Duration::from_millis(20);
/// The node is not told for so long that a client is gone, so that its last request is carried out.
const LINGER: Duration = Duration::from_secs(1);

/// Forwards bytes, until told otherwise. Ends when it is dropped, with all clones.
#[derive(Clone)]
pub struct Proxy {
    address: SocketAddr,
    state: Arc<watch::Sender<State>>,
    lines: Arc<Mutex<Vec<watch::Sender<Line>>>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// Whether the node's answers are read and dropped.
    muted: bool,
    /// Number of times that the connections were cut.
    cuts: u64,
}

/// What happens to one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// What its client sends waits for so long.
    HoldRequests(Duration),
    /// What the node answers waits for so long.
    HoldAnswers(Duration),
    /// Both directions are slow for so long.
    Slow(Duration),
    /// It is ended, and whatever was on its way is lost.
    Cut,
}

/// The state of one connection. What it says ends by itself.
#[derive(Clone, Copy, Debug, Default)]
struct Line {
    requests_from: Option<Instant>,
    answers_from: Option<Instant>,
    slow_until: Option<Instant>,
    is_cut: bool,
}

impl Proxy {
    /// Listens on loopback. Must be called within a runtime.
    pub fn before(target: String) -> Proxy {
        let listener = StdListener::bind("127.0.0.1:0").expect("loopback has a free port");
        listener.set_nonblocking(true).expect("a socket can be set so");
        let address = listener.local_addr().expect("it is bound");
        let listener = TcpListener::from_std(listener).expect("a runtime runs");
        let state = Arc::new(watch::Sender::new(State::default()));
        let watched = state.subscribe();
        let lines = Arc::<Mutex<Vec<watch::Sender<Line>>>>::default();
        let all = lines.clone();
        tokio::spawn(async move {
            let mut ended = watched.clone();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let Ok((client, _)) = accepted else { return };
                        let line = watch::Sender::new(Line::default());
                        tokio::spawn(serve(client, target.clone(), watched.clone(), line.subscribe()));
                        let mut all = all.lock().expect("nothing panicked");
                        all.retain(|line| line.receiver_count() > 0);
                        all.push(line);
                    }
                    changed = ended.changed() => if changed.is_err() { return },
                }
            }
        });
        Proxy { address, state, lines }
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

    /// Does this to one of the connections that are open. False: there is none.
    fn disturb(&self, trouble: Trouble) -> bool {
        let lines = self.lines.lock().expect("nothing panicked");
        let open: Vec<_> = lines.iter().filter(|line| line.receiver_count() > 0).collect();
        let Some(line) = open.choose(&mut rand::rng()) else {
            return false;
        };
        let now = Instant::now();
        line.send_modify(|line| match trouble {
            Trouble::HoldRequests(time) => line.requests_from = Some(now + time),
            Trouble::HoldAnswers(time) => line.answers_from = Some(now + time),
            Trouble::Slow(time) => line.slow_until = Some(now + time),
            Trouble::Cut => line.is_cut = true,
        });
        true
    }

    /// Lets all connections go on: what was held back passes.
    fn calm(&self) {
        for line in self.lines.lock().expect("nothing panicked").iter() {
            line.send_modify(|line| {
                *line = Line {
                    is_cut: line.is_cut,
                    ..Line::default()
                };
            });
        }
    }
}

/// A connection is held back for at most so long: for longer than an impatient client waits.
const TROUBLE_MAX_MS: u64 = 4_000;
/// Something happens to a connection at least so often, milliseconds.
const TROUBLE_EVERY_MAX_MS: u64 = 250;

/// How often something happened to a connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Disturbances {
    pub held: u32,
    pub slowed: u32,
    pub cut: u32,
}

/// Disturbs single connections by chance, until it is told to stop. At the end nothing is held back any more.
pub fn disturb(proxies: Vec<Proxy>, stop: Arc<AtomicBool>) -> JoinHandle<Disturbances> {
    tokio::spawn(async move {
        let mut done = Disturbances::default();
        while !stop.load(Ordering::Relaxed) {
            // The moment is chance: it is to hit calls at every step of their way.
            tokio::time::sleep(Duration::from_millis(rand::random_range(20..TROUBLE_EVERY_MAX_MS))).await;
            let proxy = &proxies[rand::random_range(0..proxies.len())];
            let time = Duration::from_millis(rand::random_range(100..TROUBLE_MAX_MS));
            match rand::random_range(0..12_u32) {
                0..=3 => done.held += u32::from(proxy.disturb(Trouble::HoldRequests(time))),
                4..=6 => done.held += u32::from(proxy.disturb(Trouble::HoldAnswers(time))),
                7..=8 => done.slowed += u32::from(proxy.disturb(Trouble::Slow(time))),
                _ => done.cut += u32::from(proxy.disturb(Trouble::Cut)),
            }
        }
        proxies.iter().for_each(Proxy::calm);
        done
    })
}

/// Serves one connection, until an end closes it or it is cut.
async fn serve(client: TcpStream, target: String, mut state: watch::Receiver<State>, mut line: watch::Receiver<Line>) {
    let before = state.borrow().cuts;
    let Ok(node) = TcpStream::connect(target).await else {
        return;
    };
    let (from_client, to_client) = client.into_split();
    let (from_node, to_node) = node.into_split();
    let watched = state.clone();
    let requests = pass(
        from_client,
        to_node,
        line.clone(),
        |line| line.requests_from,
        || Fate::Pass,
    );
    let answers = pass(
        from_node,
        to_client,
        line.clone(),
        |line| line.answers_from,
        || {
            let state = watched.borrow();
            // An answer that comes with the cut is lost as well: the batch may be seen in the log before it is answered.
            match (state.cuts > before, state.muted) {
                (true, _) => Fate::End,
                (false, true) => Fate::Drop,
                (false, false) => Fate::Pass,
            }
        },
    );
    tokio::pin!(requests);
    let both = async {
        let is_client_gone = tokio::select! {
            (ended, to_node) = &mut requests => {
                if ended == Ended::Reader {
                    tokio::time::sleep(LINGER).await;
                }
                drop(to_node);
                false
            }
            (ended, _) = answers => ended == Ended::Writer,
        };
        // What it has sent still comes to the node.
        if is_client_gone {
            let _to_node = requests.await;
            tokio::time::sleep(LINGER).await;
        }
    };
    tokio::select! {
        () = both => {}
        // An error is the proxy's end.
        _ = state.wait_for(|state| state.cuts > before) => {}
        _ = line.wait_for(|line| line.is_cut) => {}
    }
}

/// What becomes of a piece.
enum Fate {
    Pass,
    Drop,
    End,
}

/// Which side has ended a direction.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    Reader,
    Writer,
}

/// Passes one direction of a connection on. It takes from the one side also while it holds back from the other. Gives the side that it
/// wrote to, which is closed when that is dropped.
async fn pass<W: AsyncWrite + Unpin>(
    mut from: impl AsyncRead + Unpin,
    mut to: W,
    mut line: watch::Receiver<Line>,
    held_until: impl Fn(&Line) -> Option<Instant>,
    fate: impl Fn() -> Fate,
) -> (Ended, W) {
    let (taken, mut waiting) = mpsc::channel::<Vec<u8>>(PIECES_MAX);
    let take = async move {
        let mut buffer = vec![0; PIECE_BYTES];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            if taken.send(buffer[..count].to_vec()).await.is_err() {
                return;
            }
        }
    };
    let give = async move {
        let mut is_late = false;
        while let Some(piece) = waiting.recv().await {
            is_late |= released(&mut line, &held_until).await;
            match fate() {
                Fate::Pass => {}
                Fate::Drop => continue,
                Fate::End => return (Ended::Reader, to),
            }
            let mut rest = &piece[..];
            while !rest.is_empty() {
                let is_slow = line.borrow().slow_until.is_some_and(|until| Instant::now() < until);
                let (now, later) = rest.split_at(if is_slow {
                    rest.len().min(SLOW_BYTES)
                } else {
                    rest.len()
                });
                if to.write_all(now).await.is_err() {
                    return (Ended::Writer, to);
                }
                rest = later;
                if is_slow {
                    tokio::time::sleep(SLOW_PAUSE).await;
                }
            }
            if is_late {
                tokio::time::sleep(LATE_PAUSE).await;
                is_late = !waiting.is_empty();
            }
        }
        (Ended::Reader, to)
    };
    tokio::pin!(take, give);
    tokio::select! {
        () = &mut take => give.await,
        ended = &mut give => ended,
    }
}

/// Waits until the direction is not held back any more. True: it was.
async fn released(line: &mut watch::Receiver<Line>, held_until: &impl Fn(&Line) -> Option<Instant>) -> bool {
    let mut was_held = false;
    loop {
        let until = held_until(&line.borrow_and_update());
        let Some(until) = until.filter(|until| Instant::now() < *until) else {
            return was_held;
        };
        was_held = true;
        tokio::select! {
            () = tokio::time::sleep_until(until) => {}
            // Without the proxy nothing is held back.
            changed = line.changed() => if changed.is_err() { return true },
        }
    }
}
