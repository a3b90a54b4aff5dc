//! Free TCP ports for nodes.
//!
//! They lie below the range from which the system takes the ports of outgoing connections (32768 on, on Linux). A port of that range could
//! be taken while its node is down; worse, a connection to it could come to be with itself.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

const FIRST: u32 = 11_000;
const COUNT: u32 = 20_000;

/// A port that no process listens on at this moment, and that this process has not been given yet.
pub fn free() -> u16 {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    // Test processes that run at once begin at different places.
    let start = std::process::id().wrapping_mul(97);
    for _ in 0..COUNT {
        let at = start.wrapping_add(TAKEN.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let port = u16::try_from(FIRST + at).expect("the range ends below 65536");
        if is_free(port) {
            return port;
        }
    }
    panic!("no free port from {FIRST} on");
}

/// A port for `jangada up --port`: those of all kinds of this many nodes are free.
pub fn free_for_up(nodes: u16) -> u16 {
    let all_free = |port: u16| {
        [0, 40, 80]
            .iter()
            .all(|kind| (0..nodes).all(|node| is_free(port + kind + node)))
    };
    (0..COUNT)
        .map(|_| free())
        .find(|port| all_free(*port))
        .expect("there are enough free ports")
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}
