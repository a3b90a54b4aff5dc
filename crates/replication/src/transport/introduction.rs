//! What the two sides of a connection say of themselves before the first message, and what each makes of it.
//!
//! The caller says it in the first frame (or request), the answerer in a header of its response. A build from before this
//! header says nothing, and is taken as it was.

use jangada_proto::internal::{Hello, PutBack};
use jangada_types::BrokerId;
use prost::Message as _;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

use super::handshake::Identity;
use super::not_admitted::{NotAdmitted, PUT_BACK, REMOVED};
use crate::peers::Peers;

/// The header of a response that has the answerer's `Hello`.
const HEADER: &str = "jangada-hello-bin";
/// Begins the refusal of a broker that opens its store: it will be there soon.
pub const STARTING: &str = "STARTING";

/// This broker to `to`, with what it tells of its past.
pub(crate) fn hello(identity: &Identity, peers: &Peers, to: BrokerId) -> Hello {
    Hello {
        past: peers.own_past(),
        ..identity.hello(to)
    }
}

/// Adds to a response who gives it.
pub(crate) fn introduce(headers: &mut MetadataMap, hello: &Hello) {
    headers.insert_bin(HEADER, MetadataValue::from_bytes(&hello.encode_to_vec()));
}

/// Refuses a caller that has lost commits which this broker has seen.
pub(crate) fn judge_caller(peers: &Peers, hello: &Hello) -> Result<(), NotAdmitted> {
    peers.judge(hello).map_err(|lost| {
        let broker = BrokerId::from(hello.broker_id);
        let message = told(broker, &lost);
        // The broker knows itself whether it has them, and says so.
        if !Peers::is_under_way(hello, &lost) && peers.is_worth_telling(broker) {
            tracing::error!(%broker, "a broker is refused: {message}");
        }
        NotAdmitted::PutBack { lost, message }
    })
}

/// What is wrong, and what to do.
fn told(broker: BrokerId, lost: &PutBack) -> String {
    let PutBack { seen, last, .. } = lost;
    let what = match last < seen {
        true => format!("its commits {} to {seen} are missing", last + 1),
        false => format!("its commit {seen} is not in its directory's past"),
    };
    format!(
        "broker {broker} has lost what it had acknowledged: {what}. Its data directory was put back to an older state, and must not \
         vote. Stop it, run `jangada cluster replace-broker {broker}`, empty its data directory and start it again"
    )
}

/// Judges who answered at `address`, and remembers how far it is. An error is for the log.
pub(crate) fn judge_answerer(
    identity: &Identity,
    peers: &Peers,
    (broker, address): (BrokerId, &str),
    headers: &MetadataMap,
) -> Result<(), String> {
    let Some(header) = headers.get_bin(HEADER) else {
        return Ok(());
    };
    let hello = header.to_bytes().ok().and_then(|bytes| Hello::decode(bytes).ok());
    let hello = hello.ok_or_else(|| format!("{address}: its introduction cannot be read"))?;
    if hello.cluster_id != identity.cluster_id {
        return Err(format!("{address} belongs to cluster {}", hello.cluster_id));
    }
    if hello.broker_id != broker.get() {
        return Err(format!("{address} is broker {}, not {broker}", hello.broker_id));
    }
    if let Err(lost) = peers.judge(&hello) {
        let message = told(broker, &lost);
        if !Peers::is_under_way(&hello, &lost) && peers.is_worth_telling(broker) {
            tracing::error!(%broker, "a broker is not talked to: {message}");
        }
        return Err(message);
    }
    peers.learn(&hello, address);
    Ok(())
}

/// Remembers the refusal of a broker that was put back, or taken out of the cluster.
pub(crate) fn heed_refusal(peers: &Peers, by: BrokerId, status: &Status) {
    if status.code() != Code::FailedPrecondition {
        return;
    }
    if status.message().starts_with(PUT_BACK) {
        // Without details it says at least that there is something.
        peers.was_put_back(PutBack::decode(status.details()).unwrap_or_default());
    }
    if let Some(why) = status.message().strip_prefix(REMOVED) {
        peers.was_removed(by, why.trim_start_matches(": "));
    }
}

/// Whether the other side opens its store.
pub(crate) fn is_starting(status: &Status) -> bool {
    status.message().starts_with(STARTING)
}
