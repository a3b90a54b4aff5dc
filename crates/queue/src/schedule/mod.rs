//! Schedules: messages that are sent again and again, as cron does or every so often.
//!
//! ```text
//!   check_schedule -> ScheduleCommand::Put -> Slots::put_schedule
//!   the engine: it is due -> Output::Fire -> ScheduleCommand::Fire and the message, in one entry -> Slots::judge_fire, Slots::fired
//! ```

mod timing;

pub use timing::{CatchUp, Due, InvalidSchedule, Planner, Timing, check_schedule};
