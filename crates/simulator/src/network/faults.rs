//! What can go wrong between two hosts. Programs see it through TCP: what is lost or comes twice or out of order is sent again and put into
//! order below them, and shows as delay, as silence, or as a connection that breaks.

use std::net::Ipv4Addr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::net::Net;

/// Who has an address in the network.
pub trait Addressed {
    /// The host's address in the network.
    fn address(&self) -> Ipv4Addr;

    /// How it is called in the trace.
    fn name(&self) -> &str;
}

impl<T: Addressed> Addressed for &T {
    fn address(&self) -> Ipv4Addr {
        (**self).address()
    }

    fn name(&self) -> &str {
        (**self).name()
    }
}

/// The network's faults. What is said of a link is about one way, from the first host to the second.
pub struct Network(Arc<Net>);

impl Network {
    pub(crate) fn new(net: Arc<Net>) -> Self {
        Self(net)
    }

    fn note(&self, what: &str, from: &impl Addressed, to: &impl Addressed) {
        self.0
            .note(format_args!("net {what} from {} to {}", from.name(), to.name()));
    }

    /// Nothing that is sent, or under way, arrives until the link is mended: then it does, later. New connections wait, whichever of
    /// the two opens them.
    pub fn cut(&self, from: &impl Addressed, to: &impl Addressed) {
        self.note("is cut", from, to);
        self.0
            .change(from.address(), to.address(), |link, _| link.is_cut = true);
    }

    /// So many bytes pass in a second, of all connections together.
    pub fn slow(&self, from: &impl Addressed, to: &impl Addressed, bytes_per_second: u64) {
        self.note("is slow", from, to);
        self.0.change(from.address(), to.address(), |link, _| {
            link.bytes_per_second = Some(bytes_per_second);
        });
    }

    /// Each message takes so long, in place of what is usual.
    pub fn delay(&self, from: &impl Addressed, to: &impl Addressed, takes: Range<Duration>) {
        self.note("is late", from, to);
        self.0
            .change(from.address(), to.address(), |link, _| link.delay = Some(takes));
    }

    /// What is sent from now on arrives after so long at the earliest, all together.
    pub fn stall(&self, from: &impl Addressed, to: &impl Addressed, time: Duration) {
        self.note("stalls", from, to);
        self.0.change(from.address(), to.address(), |link, now| {
            link.stalled_until = now + time
        });
    }

    /// Of a hundred messages so many are lost and sent again, which holds up those behind them.
    pub fn lossy(&self, from: &impl Addressed, to: &impl Addressed, percent: u64) {
        self.note("is lossy", from, to);
        self.0
            .change(from.address(), to.address(), |link, _| link.loss_percent = percent);
    }

    /// Nothing is wrong with the link any more.
    pub fn mend(&self, from: &impl Addressed, to: &impl Addressed) {
        self.note("is mended", from, to);
        self.0.mend(Some((from.address(), to.address())));
    }

    /// Nothing is wrong with any link any more.
    pub fn mend_all(&self) {
        self.0.note(format_args!("net is mended"));
        self.0.mend(None);
    }

    /// Breaks all connections between two hosts, at both ends at once. Gives how many there were.
    pub fn reset(&self, one: &impl Addressed, other: &impl Addressed) -> usize {
        self.note("is reset", one, other);
        self.0.reset(one.address(), other.address())
    }
}
