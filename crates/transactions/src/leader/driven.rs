//! The leader as the host's driver runs it, which is the same for all machines.

use std::sync::Arc;

use jangada_machine as machine;
use machine::{Due, DueOf, Now};

use super::request::{Answer, Pending, Step};
use super::{Config, Leader};
use crate::command::Command;
use crate::event::Event;
use crate::image::Image;
use crate::reply::Reply;

impl machine::Leader for Leader {
    type Machine = Image;
    type Pending = Pending;
    type Answer = Answer;
    type Event = Event;
    type Surroundings = Config;

    fn begin(image: &Image, config: &Arc<Config>, now: Now) -> Self {
        Self::new(Config::clone(config), image, now)
    }

    fn surroundings_changed(&mut self, _: &Image, config: &Arc<Config>, _: Now) {
        self.set_config(Config::clone(config));
    }

    fn applied(&mut self, image: &Image, command: &Command, _: &Reply, now: &dyn Fn() -> Now) {
        self.applied(image, command, now());
    }

    fn resume(&mut self, image: &Image, pending: Pending, reply: Reply, now: Now) -> Step {
        self.resume(image, pending, reply, now)
    }

    fn tick(&mut self, image: &Image, now: Now) -> Vec<DueOf<Self>> {
        self.tick(image, now).into_iter().map(Due::Propose).collect()
    }

    fn next_deadline(&self) -> Option<u64> {
        self.next_deadline()
    }

    fn take_events(&mut self) -> Vec<Event> {
        self.take_events()
    }

    fn events_of(image: &Image, command: &Command) -> Vec<Event> {
        Event::of(image, command)
    }

    fn had_effect(reply: &Reply) -> bool {
        matches!(reply, Reply::Applied { .. })
    }
}
