//! Which replicas are to lead only if no other can, because they are damaged: of this broker, and as others say of theirs.

use jangada_types::{BrokerId, GroupId};

use super::Registry;

impl Registry {
    /// Whether a broker, this one or another, said that its replica of a group is damaged, and leads only if nobody else does.
    pub fn is_unfit(&self, group: GroupId, broker: BrokerId) -> bool {
        match broker == self.identity.broker {
            true => self.unfit.is_own(group),
            false => self.unfit.is(broker, group),
        }
    }

    /// This broker's replica of a group is damaged. The others are told at once, whether it leads or not: none hands it a
    /// leadership, and none takes its word for it that the others have everything.
    pub fn tell_unfit(&self, id: GroupId) {
        if self.group(id).is_some() && self.unfit.add(id) {
            self.announce_soon.notify_one();
        }
    }

    /// This broker's replica of a group is sound again.
    pub fn tell_fit(&self, id: GroupId) {
        if self.unfit.is_own(id) {
            self.unfit.remove(id);
            self.announce_soon.notify_one();
        }
    }

    /// From now on this broker's replica of a group stands for no election, and the other brokers know that it is not to be
    /// handed the leadership. It goes on following, and leading if it does. Offered the leadership all the same it takes it:
    /// the leader that offers it takes no writes and sends no heartbeats any more, so the group would be led by nobody.
    pub fn refuse_to_lead(&self, id: GroupId) {
        let Some(group) = self.group(id) else { return };
        if !self.unfit.is_asked(id) {
            group.refuse_to_lead();
        }
        if self.unfit.add(id) {
            self.announce_soon.notify_one();
        }
    }

    /// A replica that refused to lead stands for elections again, as nobody leads. The others still hand it nothing.
    pub fn lead_again(&self, id: GroupId) {
        if let Some(group) = self.group(id) {
            group.lead_again();
        }
    }

    /// The leader asks this broker's replica to take over. True: it had refused to lead, and does so now.
    pub(crate) fn asked_to_lead(&self, id: GroupId) -> bool {
        let is_unfit = self.unfit.asked(id);
        if is_unfit {
            self.lead_again(id);
        }
        is_unfit
    }

    /// What the others were told of a replica that is damaged holds while it is closed and when it is opened again: none of them
    /// must begin to hand it the leadership.
    pub(super) fn fit_unless_damaged(&self, id: GroupId) {
        if self.store.damage().of(id).is_none() {
            self.unfit.remove(id);
        }
    }
}
