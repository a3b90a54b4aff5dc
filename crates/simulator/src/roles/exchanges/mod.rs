//! Teams that publish to exchanges: bindings come and go meanwhile, and what is confirmed is in all of its queues and in no other.
//!
//! | module | what is in it |
//! |---|---|
//! | `routes` | what is bound, as far as it is certain |
//! | `publishing` | publishing, and the recording of it; bindings that change |
//! | `copies` | exchanges that copy messages to queues: of all kinds, with alternate exchanges and taps |
//! | `logged` | exchanges with a log, whose queues are views over it |

mod copies;
mod logged;
mod publishing;
mod routes;

use jangada_env::Random;

use self::copies::CopiesTeam;
use self::logged::LoggedTeam;
use crate::roles::team::Team;

/// Exchanges that copy messages to queues.
pub(super) fn copies(random: &Random) -> Box<dyn Team> {
    Box::new(CopiesTeam::draw(random))
}

/// An exchange with a log, and views over it.
pub(super) fn logged(random: &Random) -> Box<dyn Team> {
    Box::new(LoggedTeam::draw(random))
}
