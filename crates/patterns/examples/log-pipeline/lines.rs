//! Log lines of three kinds, parsed; and some that are made up.

use jiff::civil::DateTime;

/// What a line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// Seconds since the Unix epoch, as if the log's clock were UTC.
    pub at: i64,
    /// Who wrote it.
    pub component: String,
    /// Whether it tells of something that went wrong.
    pub is_error: bool,
}

/// Parses a line of Apache's error log, of ZooKeeper (log4j) or of syslog's sshd. None: it is none of them.
pub fn parse(line: &str) -> Option<Parsed> {
    let line = line.trim_end();
    apache(line).or_else(|| zookeeper(line)).or_else(|| sshd(line))
}

/// `[Sun Dec 04 04:47:44 2005] [error] mod_jk child workerEnv in error state 6`
fn apache(line: &str) -> Option<Parsed> {
    let (time, rest) = line.strip_prefix('[')?.split_once("] [")?;
    let (level, text) = rest.split_once("] ")?;
    // The weekday follows from the date; a wrong one is no reason to refuse the line.
    let (_, time) = time.split_once(' ')?;
    Some(Parsed {
        at: seconds("%b %d %H:%M:%S %Y", time)?,
        component: text.split([' ', '(']).next()?.to_owned(),
        is_error: matches!(level, "error" | "crit" | "alert" | "emerg"),
    })
}

/// `2015-07-29 17:41:44,747 - INFO  [QuorumPeer[myid=1]/0:0:2181:FastLeaderElection@774] - Notification time out: 3200`
fn zookeeper(line: &str) -> Option<Parsed> {
    let (time, rest) = line.split_once(',')?;
    let (_, rest) = rest.split_once(" - ")?;
    let (level, rest) = rest.split_once('[')?;
    let (place, _) = rest.split_once("] - ")?;
    let class = place.rsplit(':').next()?.split('@').next()?;
    Some(Parsed {
        at: seconds("%Y-%m-%d %H:%M:%S", time)?,
        component: class.to_owned(),
        is_error: matches!(level.trim(), "WARN" | "ERROR" | "FATAL"),
    })
}

/// `Dec 10 06:55:46 LabSZ sshd[24200]: Failed password for root`, which does not say in which year.
fn sshd(line: &str) -> Option<Parsed> {
    let time = line.get(..15)?;
    let mut rest = line.get(16..)?.splitn(3, ' ');
    let (_, program, text) = (rest.next()?, rest.next()?, rest.next()?);
    let failed = ["Failed", "failure", "error", "Invalid", "BREAK-IN"];
    Some(Parsed {
        at: seconds("%Y %b %d %H:%M:%S", &format!("2000 {time}"))?,
        component: program.split('[').next()?.trim_end_matches(':').to_owned(),
        is_error: failed.iter().any(|word| text.contains(word)),
    })
}

fn seconds(format: &str, time: &str) -> Option<i64> {
    let time = DateTime::strptime(format, time).ok()?;
    Some(time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second())
}

/// Lines in ZooKeeper's form, always the same: in the fourth minute of ten everything goes wrong.
pub fn made_up(count: usize) -> Vec<String> {
    let classes = ["FastLeaderElection", "Learner", "NIOServerCnxn"];
    let line = |number: usize| {
        let (minute, second) = (number / 60, number % 60);
        let is_error = minute % 10 == 3 || number.is_multiple_of(29);
        let level = if is_error { "WARN " } else { "INFO " };
        let class = classes[number % classes.len()];
        let (hour, minute) = (minute / 60 % 24, minute % 60);
        format!("2026-11-30 {hour:02}:{minute:02}:{second:02},000 - {level} [main:{class}@{number}] - line {number}")
    };
    (0..count).map(line).collect()
}
