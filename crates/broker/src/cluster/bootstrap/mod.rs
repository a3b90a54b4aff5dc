//! How a broker comes to belong to a cluster.
//!
//! ```text
//!  directory is bound to a cluster ------------------------------> start as its broker
//!  directory is new:
//!    some seed belongs to a cluster and takes joiners -----------> join it
//!    all seeds answer, all are new, and this has the lowest id --> form a cluster: bind the own directory, let all others adopt it
//!    otherwise --------------------------------------------------> wait to be adopted, ask again
//! ```
//!
//! Two clusters can never come to be: only the seed with the lowest broker id forms one, only after it reached all
//! seeds and none belonged to a cluster; it binds its own directory before it asks the first other one, and each
//! binds its directory before it answers. A seed that is killed at any step finds its directory bound or new when it
//! comes back, and goes on from there: tests let it die at each `failpoint`.
//!
//! - [`state`]: what this broker is, which the others are methods of.
//! - [`seeds`]: asking them.
//! - [`find`]: joining, or deciding to form.
//! - [`form`][]: forming.
//! - [`register`]: coming back.
//! - [`member`]: a broker in the messages of these.
//! - [`answers`]: what others are told.

mod answers;
mod error;
mod find;
mod form;
mod member;
mod register;
mod seeds;
mod state;

pub(crate) use self::answers::admit;
pub use self::error::BootstrapError;
pub(crate) use self::register::addresses;
pub(crate) use self::state::{Bootstrap, Local};
