//! The command that changes slots: sections, decided together.

use bytes::Bytes;
use jangada_types::CodecError;
use jangada_types::frame;
use jangada_types::replicated::Wire;

use super::section::Section;

const WHAT: &str = "queue command";

/// What the leader decided for any of a partition's slots. A partition's command carries it as its body.
///
/// Decided by the leader of `term` over the state as that leader saw it: in an entry of another term it has no effect, for other
/// decisions may have come between.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueOps {
    /// The term in which it was decided.
    pub term: u64,
    /// The leader's clock, milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// The number that its proposer knows it by, so that whoever applies it can tell the proposer. Means nothing to apply.
    pub ticket: u64,
    /// What becomes of messages, in this order.
    pub sections: Vec<Section>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct OpsForm {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(uint64, tag = "2")]
    now_ms: u64,
    #[prost(bytes = "bytes", repeated, tag = "3")]
    sections: Vec<Bytes>,
    #[prost(uint64, tag = "4")]
    ticket: u64,
}

impl QueueOps {
    /// As bytes: `version | message`, each section framed in it.
    pub fn encode(&self) -> Bytes {
        let form = OpsForm {
            term: self.term,
            now_ms: self.now_ms,
            ticket: self.ticket,
            sections: self.sections.iter().map(Section::encode).collect(),
        };
        frame::frame(None, &form)
    }

    /// The reverse of [`QueueOps::encode`].
    ///
    /// # Errors
    /// A later build wrote it, or it is damaged. A replica that skipped it would part from the others.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let form: OpsForm = frame::message(WHAT, frame::unframe_plain(WHAT, bytes)?)?;
        let sections: Result<Vec<Section>, CodecError> =
            form.sections.iter().map(|bytes| Section::decode(bytes)).collect();
        let sections = sections?;
        if sections.len() > usize::from(u16::MAX) {
            return Err(frame::malformed(WHAT, format!("{} sections", sections.len())));
        }
        sections.iter().try_for_each(Section::check)?;
        Ok(Self {
            term: u64::from_form(WHAT, form.term)?,
            now_ms: u64::from_form(WHAT, form.now_ms)?,
            ticket: form.ticket,
            sections,
        })
    }
}
