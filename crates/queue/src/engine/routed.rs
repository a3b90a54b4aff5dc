//! What is for other slots, in the next command.

use jangada_machine::Now;

use crate::command::Section;
use crate::engine::part::Part;
use crate::engine::step::Engine;
use crate::state::DoneCause;

/// Runs of messages that a command takes, whatever else is in it.
const RUNS_LEAST: usize = 256;

impl Engine {
    /// What is for other slots goes into a command that is made anyway, or has waited for long enough.
    pub(super) fn tell_elsewhere(&mut self, parts: &mut Vec<Part>, sections: &mut Vec<Section>, room: usize, now: Now) {
        let mut room = room.max(RUNS_LEAST);
        let is_alone = sections.is_empty();
        for (id, desk) in &mut self.desks {
            if is_alone && !desk.elsewhere.is_due(now.monotonic_ms) {
                continue;
            }
            if let Some(messages) = desk.elsewhere.tell(room) {
                room -= messages.runs().len();
                parts.push(Part::Elsewhere(*id, messages.clone()));
                sections.push(Section::Done {
                    slot: *id,
                    cause: DoneCause::NotRouted,
                    messages,
                });
            }
        }
    }
}
