//! When a schedule has its occurrences. Only leaders ask: what comes of it goes through the log, for data of time zones differ between
//! machines.

use std::fmt;

use cronexpr::{Crontab, MakeTimestamp};

use crate::limits::{
    SCHEDULE_CATCH_UP_MAX, SCHEDULE_EVERY_MS_MIN, SCHEDULE_LATE_MS, SCHEDULE_NAME_BYTES_MAX,
    SCHEDULE_TEMPLATE_BYTES_MAX,
};

/// When a schedule has its occurrences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Timing {
    /// As cron does: `minute hour day-of-month month day-of-week`.
    Cron {
        /// The five fields, as crontab(5) has them.
        expression: String,
        /// The name of a time zone, as `Europe/Berlin`.
        zone: String,
    },
    /// Again and again.
    Every {
        /// Milliseconds from one to the next.
        every_ms: u64,
        /// An occurrence, milliseconds since the Unix epoch: the others are multiples of `every_ms` away.
        anchor_ms: u64,
    },
}

/// What becomes of occurrences that nobody fired in time, as there was no leader: of those more than a minute late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum CatchUp {
    /// They are left out.
    Skip = 1,
    /// The last of them is fired.
    One = 2,
    /// The last 100 of them are fired, one after another.
    All = 3,
}

/// What is wrong with a schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InvalidSchedule {
    /// The name is empty or too long.
    Name {
        /// The length that it has.
        bytes: usize,
    },
    /// The expression has not five fields.
    Fields {
        /// So many it has.
        fields: usize,
    },
    /// The expression cannot be read.
    Expression {
        /// What is wrong, and where.
        detail: String,
    },
    /// There is no such time zone.
    Zone {
        /// The name that was given.
        zone: String,
    },
    /// The occurrences are too close to each other.
    Every {
        /// Milliseconds from one to the next, as given.
        every_ms: u64,
    },
    /// It has no occurrence before its end.
    Never,
    /// The message is too large.
    Template {
        /// The size that it has.
        bytes: usize,
    },
}

impl fmt::Display for InvalidSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name { bytes } => write!(
                f,
                "the name of a schedule has {bytes} bytes; it needs from 1 to {SCHEDULE_NAME_BYTES_MAX}"
            ),
            Self::Fields { fields } => write!(
                f,
                "the cron expression has {fields} fields; it needs five: minute, hour, day of month, month, day of week"
            ),
            Self::Expression { detail } => write!(f, "the cron expression cannot be read: {detail}"),
            Self::Zone { zone } => write!(f, "there is no time zone {zone:?}; give one as Europe/Berlin or UTC"),
            Self::Every { every_ms } => write!(
                f,
                "a schedule every {every_ms} ms is too frequent; the least is {SCHEDULE_EVERY_MS_MIN} ms"
            ),
            Self::Never => write!(f, "the schedule has no occurrence between now and its end"),
            Self::Template { bytes } => write!(
                f,
                "the message of the schedule has {bytes} bytes; it may have {SCHEDULE_TEMPLATE_BYTES_MAX}"
            ),
        }
    }
}

impl std::error::Error for InvalidSchedule {}

#[derive(Debug)]
enum Kind {
    Cron(Box<Crontab>),
    Every { every_ms: u64, anchor_ms: u64 },
}

/// A [`Timing`] that can be asked for its occurrences.
#[derive(Debug)]
pub struct Planner {
    kind: Kind,
    until_ms: u64,
}

/// What a leader does about a schedule that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// The occurrence, milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The occurrence after it; 0: there is none.
    pub next_ms: u64,
    /// Its message is appended; else it, and others up to the next, are left out.
    pub appends: bool,
}

/// How far back occurrences are looked for, milliseconds: as far as is needed.
const LOOK_BACK_MS: [u64; 6] = [
    3_600_000,
    86_400_000,
    30 * 86_400_000,
    400 * 86_400_000,
    40_000 * 86_400_000,
    u64::MAX,
];

impl Planner {
    /// For occurrences up to `until_ms`, inclusive; 0: without end.
    ///
    /// # Errors
    /// The timing is not valid, or its time zone is not known on this machine.
    pub fn new(timing: &Timing, until_ms: u64) -> Result<Self, InvalidSchedule> {
        let kind = match timing {
            Timing::Every { every_ms, anchor_ms } => {
                if *every_ms < SCHEDULE_EVERY_MS_MIN {
                    return Err(InvalidSchedule::Every { every_ms: *every_ms });
                }
                let (every_ms, anchor_ms) = (*every_ms, *anchor_ms);
                Kind::Every { every_ms, anchor_ms }
            }
            Timing::Cron { expression, zone } => {
                let fields = expression.split_whitespace().count();
                if fields != 5 {
                    return Err(InvalidSchedule::Fields { fields });
                }
                let is_name = !zone.is_empty() && !zone.contains(char::is_whitespace);
                if !is_name || jiff::tz::TimeZone::get(zone).is_err() {
                    return Err(InvalidSchedule::Zone { zone: zone.clone() });
                }
                let crontab = cronexpr::parse_crontab(&format!("{expression} {zone}"));
                let crontab = crontab.map_err(|error| InvalidSchedule::Expression {
                    detail: error.to_string(),
                })?;
                Kind::Cron(Box::new(crontab))
            }
        };
        let until_ms = if until_ms == 0 { u64::MAX } else { until_ms };
        Ok(Self { kind, until_ms })
    }

    /// The first occurrence after a time, both milliseconds since the Unix epoch.
    pub fn next_after(&self, at_ms: u64) -> Option<u64> {
        let next = match &self.kind {
            Kind::Every { every_ms, anchor_ms } if at_ms < *anchor_ms => {
                let back = (anchor_ms - at_ms - 1) / every_ms;
                anchor_ms - back * every_ms
            }
            Kind::Every { every_ms, anchor_ms } => {
                let steps = (at_ms - anchor_ms) / every_ms + 1;
                anchor_ms.checked_add(steps.checked_mul(*every_ms)?)?
            }
            Kind::Cron(crontab) => {
                let start = MakeTimestamp::from_millisecond(i64::try_from(at_ms).ok()?).ok()?;
                let next = crontab.find_next(start).ok()?.timestamp().as_millisecond();
                u64::try_from(next).ok().filter(|next| *next > at_ms)?
            }
        };
        Some(next).filter(|next| *next <= self.until_ms)
    }

    /// The last occurrences from `first_ms` on and before `end_ms`, at most so many, in their order.
    fn last(&self, first_ms: u64, end_ms: u64, most: usize) -> Vec<u64> {
        let mut found = std::collections::VecDeque::new();
        for look_back_ms in LOOK_BACK_MS {
            found.clear();
            let from = end_ms.saturating_sub(look_back_ms).max(first_ms);
            let mut at = self.next_after(from.saturating_sub(1));
            while let Some(occurrence) = at.filter(|at| *at < end_ms) {
                found.push_back(occurrence);
                if found.len() > most {
                    found.pop_front();
                }
                at = self.next_after(occurrence);
            }
            if found.len() >= most || from == first_ms {
                break;
            }
        }
        found.into()
    }

    /// How many occurrences there are from a time on and before another one, both milliseconds since the Unix epoch: counted up to so many.
    pub fn count(&self, from_ms: u64, end_ms: u64, most: u64) -> u64 {
        let first = self.next_after(from_ms.saturating_sub(1)).filter(|at| *at < end_ms);
        if let (Kind::Every { every_ms, .. }, Some(first)) = (&self.kind, first) {
            let last = end_ms.min(self.until_ms.saturating_add(1)) - 1;
            return ((last - first) / every_ms + 1).min(most);
        }
        let mut at = first;
        let mut count = 0;
        while count < most
            && let Some(occurrence) = at.filter(|at| *at < end_ms)
        {
            count += 1;
            at = self.next_after(occurrence);
        }
        count
    }

    /// What is to be done by `now_ms` about a schedule whose next occurrence is at `next_ms`.
    pub fn due(&self, next_ms: u64, catch_up: CatchUp, now_ms: u64) -> Option<Due> {
        if next_ms == 0 || next_ms > now_ms {
            return None;
        }
        let fire = |at_ms: u64| Due {
            at_ms,
            next_ms: self.next_after(at_ms).unwrap_or(0),
            appends: true,
        };
        let pass = |next: Option<u64>| Due {
            at_ms: next_ms,
            next_ms: next.unwrap_or(0),
            appends: false,
        };
        // What is before this was missed.
        let in_time = now_ms.saturating_sub(SCHEDULE_LATE_MS);
        if next_ms >= in_time {
            return Some(fire(next_ms));
        }
        Some(match catch_up {
            CatchUp::Skip => pass(self.next_after(in_time - 1)),
            CatchUp::One => fire(self.last(next_ms, in_time, 1).first().copied().unwrap_or(next_ms)),
            CatchUp::All => match self.last(next_ms, in_time, SCHEDULE_CATCH_UP_MAX).first() {
                Some(first) if *first > next_ms => pass(Some(*first)),
                _ => fire(next_ms),
            },
        })
    }
}

/// Whether a schedule may be put; gives its first occurrence after `now_ms`.
///
/// # Errors
/// What is wrong with it.
pub fn check_schedule(
    name: &str,
    timing: &Timing,
    until_ms: u64,
    template: &[u8],
    now_ms: u64,
) -> Result<u64, InvalidSchedule> {
    let bytes = name.len();
    if bytes == 0 || bytes > SCHEDULE_NAME_BYTES_MAX {
        return Err(InvalidSchedule::Name { bytes });
    }
    let bytes = template.len();
    if bytes > SCHEDULE_TEMPLATE_BYTES_MAX {
        return Err(InvalidSchedule::Template { bytes });
    }
    Planner::new(timing, until_ms)?
        .next_after(now_ms)
        .ok_or(InvalidSchedule::Never)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;
    /// 2026-03-28T00:00:00Z, the day before the clocks of Europe go forward.
    const DAY: u64 = 1_774_656_000_000;

    fn cron(expression: &str, zone: &str) -> Timing {
        Timing::Cron {
            expression: expression.to_owned(),
            zone: zone.to_owned(),
        }
    }

    #[test]
    fn a_day_has_as_many_hours_as_its_zone_says() {
        let planner = Planner::new(&cron("30 8 * * *", "Europe/Berlin"), 0).expect("it is valid");
        let first = planner.next_after(DAY).expect("it goes on");
        let second = planner.next_after(first).expect("it goes on");
        assert_eq!((first - DAY, second - first), (450 * MINUTE, 23 * 60 * MINUTE));
        let planner = Planner::new(&cron("30 8 * * *", "UTC"), first + 24 * 60 * MINUTE).expect("it is valid");
        let first = planner.next_after(DAY).expect("it goes on");
        assert_eq!(first - DAY, 510 * MINUTE);
        assert_eq!(planner.next_after(first), None, "it has an end");
    }

    #[test]
    fn a_change_of_the_clocks_leaves_out_what_it_does_not_have() {
        let planner = Planner::new(&cron("30 2 * * *", "Europe/Berlin"), 0).expect("it is valid");
        let times = |from_ms: u64| {
            let next = |at: &u64| planner.next_after(*at);
            let times = std::iter::successors(planner.next_after(from_ms), next).take(4);
            times.map(|at| (at - from_ms) / MINUTE).collect::<Vec<_>>()
        };
        // The 29th of March has no such moment, and the 25th of October has two of them.
        assert_eq!(times(DAY), [90, 2 * 1_440 + 30, 3 * 1_440 + 30, 4 * 1_440 + 30]);
        let autumn = DAY + 210 * 1_440 * MINUTE;
        assert_eq!(times(autumn), [30, 1_440 + 30, 1_440 + 90, 2 * 1_440 + 90]);
        let hourly = Planner::new(&cron("0 * * * *", "Europe/Berlin"), 0).expect("it is valid");
        let mut at = autumn;
        for _ in 0..48 {
            let next = hourly.next_after(at).expect("it goes on");
            assert_eq!(next - at, 60 * MINUTE, "each hour has one");
            at = next;
        }
    }

    #[test]
    fn occurrences_of_a_time_are_counted() {
        let every = Timing::Every {
            every_ms: 5_000,
            anchor_ms: 12_000,
        };
        let every = Planner::new(&every, 32_000).expect("it is valid");
        for (from, end, most, count) in [
            (12_000, 12_000, 9, 0),
            (12_000, 12_001, 9, 1),
            (12_000, 22_000, 9, 2),
            (12_001, 22_000, 9, 1),
            (12_000, 90_000, 9, 5),
            (12_000, 90_000, 3, 3),
        ] {
            assert_eq!(every.count(from, end, most), count, "{from} {end} {most}");
        }
        let hourly = Planner::new(&cron("0 * * * *", "UTC"), 0).expect("it is valid");
        assert_eq!(hourly.count(DAY, DAY + 24 * 60 * MINUTE, 100), 24);
        assert_eq!(hourly.count(DAY, DAY + 24 * 60 * MINUTE, 10), 10);
    }

    #[test]
    fn every_so_often_is_counted_from_an_anchor() {
        let timing = Timing::Every {
            every_ms: 5_000,
            anchor_ms: 12_000,
        };
        let planner = Planner::new(&timing, 0).expect("it is valid");
        for (after, next) in [
            (0, 2_000),
            (1_999, 2_000),
            (2_000, 7_000),
            (11_999, 12_000),
            (12_000, 17_000),
            (99_999, 102_000),
        ] {
            assert_eq!(planner.next_after(after), Some(next), "after {after}");
        }
    }

    #[test]
    fn missed_occurrences_are_caught_up_with_by_rule() {
        let planner = Planner::new(&cron("* * * * *", "UTC"), 0).expect("it is valid");
        let due = |catch_up, now_ms| {
            planner
                .due(DAY, catch_up, now_ms)
                .map(|due| (due.at_ms, due.next_ms, due.appends))
        };
        for catch_up in [CatchUp::Skip, CatchUp::One, CatchUp::All] {
            assert_eq!(due(catch_up, DAY - 1), None, "not before its time");
            let in_time = Some((DAY, DAY + MINUTE, true));
            assert_eq!(due(catch_up, DAY + MINUTE), in_time, "a minute late is in time");
        }
        let late = DAY + 500 * MINUTE + 1;
        assert_eq!(due(CatchUp::Skip, late), Some((DAY, DAY + 500 * MINUTE, false)));
        assert_eq!(
            due(CatchUp::One, late),
            Some((DAY + 499 * MINUTE, DAY + 500 * MINUTE, true))
        );
        assert_eq!(
            due(CatchUp::All, late),
            Some((DAY, DAY + 400 * MINUTE, false)),
            "the last hundred"
        );
        assert_eq!(due(CatchUp::All, DAY + 99 * MINUTE), Some((DAY, DAY + MINUTE, true)));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let said = |timing: &Timing| {
            check_schedule("a", timing, 0, b"", DAY)
                .expect_err("it is wrong")
                .to_string()
        };
        let error = said(&cron("* * * *", "UTC"));
        assert!(error.contains("4 fields"), "{error}");
        let error = said(&cron("61 * * * *", "UTC"));
        assert!(error.contains("61"), "{error}");
        let error = said(&cron("* * * * *", "Europe/Atlantis"));
        assert!(error.contains("Europe/Atlantis"), "{error}");
        let error = said(&cron("0 0 30 2 *", "UTC"));
        assert!(error.contains("no occurrence"), "{error}");
        let error = said(&cron("* * * * *", "UTC UTC"));
        assert!(error.contains("time zone"), "{error}");
        let every = |every_ms| Timing::Every { every_ms, anchor_ms: 0 };
        assert!(said(&every(999)).contains("1000 ms"), "{}", said(&every(999)));
        let valid = cron("0 0 * * *", "UTC");
        assert_eq!(
            check_schedule("a", &valid, DAY, b"", DAY),
            Err(InvalidSchedule::Never),
            "its end is before"
        );
        assert_eq!(
            check_schedule("", &valid, 0, b"", DAY),
            Err(InvalidSchedule::Name { bytes: 0 })
        );
        let large = vec![0; SCHEDULE_TEMPLATE_BYTES_MAX + 1];
        assert_eq!(
            check_schedule("a", &valid, 0, &large, DAY),
            Err(InvalidSchedule::Template { bytes: 4_097 })
        );
        assert_eq!(check_schedule("a", &valid, 0, b"", DAY - 1), Ok(DAY));
    }
}
