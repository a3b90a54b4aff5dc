//! The error of this crate, divided by what a caller can do about it.

use jangada_client::ClientError;
use thiserror::Error;

/// The error of a handler that the user wrote.
pub type HandlerError = Box<dyn std::error::Error + Send + Sync>;

/// An error of this crate. [`is_retryable`](Self::is_retryable) tells whether the same call may succeed later.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PatternError {
    /// The client failed, or a broker refused.
    #[error(transparent)]
    Client(#[from] ClientError),

    /// A database failed that is used through sqlx. What was to be done in its transaction was not done.
    #[error("{what}: {source}")]
    Database {
        /// What was to be done.
        what: &'static str,
        /// What the database said.
        source: sqlx::Error,
    },

    /// A database failed that is used through rusqlite. What was to be done in its transaction was not done.
    #[error("{what}: {source}")]
    Sqlite {
        /// What was to be done.
        what: &'static str,
        /// What the database said.
        source: rusqlite::Error,
    },

    /// A record or a row cannot be read: it was written by something else, or by a newer version of the program.
    #[error("{what} cannot be read: {why}; upgrade this program, or mend what wrote it")]
    Unreadable {
        /// What it is, and where it is.
        what: String,
        /// What is wrong with it.
        why: String,
    },

    /// A handler failed as often as it may, and there are no [dead letters](crate::DeadLetters) for what it failed on.
    #[error("the handler failed {attempts} times on {what}: {source}; mend it, or set dead letters")]
    Handler {
        /// What it failed on.
        what: String,
        /// How often it was called.
        attempts: u32,
        /// What it said last.
        source: HandlerError,
    },

    /// The record was not taken: as many are under way as the brokers keep up with. Wait, or do without it.
    #[error("{in_flight} records are under way, and the brokers keep up with {window}; send it later")]
    Busy {
        /// Records under way.
        in_flight: usize,
        /// Records that may be under way now.
        window: usize,
    },

    /// It was not there in time. Nothing was changed; it may come later.
    #[error("{what} in time")]
    Late {
        /// What did not happen.
        what: String,
    },

    /// A setting or an argument cannot be used: correct it.
    #[error("{0}")]
    Config(String),
}

impl PatternError {
    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Client(error) => error.is_retryable(),
            Self::Database { source, .. } => match source {
                sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed => true,
                sqlx::Error::Database(error) => error.code().is_some_and(|code| passes(&code)),
                _ => false,
            },
            Self::Sqlite { source, .. } => matches!(
                source.sqlite_error_code(),
                Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked)
            ),
            Self::Busy { .. } | Self::Late { .. } => true,
            Self::Unreadable { .. } | Self::Handler { .. } | Self::Config(_) => false,
        }
    }

    /// Makes an error of sqlx one of this crate: `.map_err(PatternError::database("store the row"))`.
    pub fn database(what: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self::Database { what, source }
    }

    /// Makes an error of rusqlite one of this crate: `.map_err(PatternError::sqlite("store the row"))`.
    pub fn sqlite(what: &'static str) -> impl FnOnce(rusqlite::Error) -> Self {
        move |source| Self::Sqlite { what, source }
    }
}

/// Whether what a database says by this code passes by itself: PostgreSQL's five characters, of which the first two are a class, or the
/// number of SQLite, whose lowest byte is the kind.
fn passes(code: &str) -> bool {
    /// The connection, the transaction against others, resources, and the system around it.
    const CLASSES: [&str; 4] = ["08", "40", "53", "58"];
    /// A lock that is not free, a statement that took too long, a server that goes down or comes up, and a standby that does not write.
    const CODES: [&str; 6] = ["55P03", "57014", "57P01", "57P02", "57P03", "25006"];
    /// It is busy, or locked by another connection of this process.
    const SQLITE_KINDS: [u32; 2] = [5, 6];
    if code.len() == CODES[0].len() {
        return CODES.contains(&code) || CLASSES.iter().any(|class| code.starts_with(class));
    }
    code.parse()
        .is_ok_and(|code: u32| SQLITE_KINDS.contains(&(code & 0xff)))
}

#[cfg(test)]
mod tests {
    use sqlx::sqlite::SqlitePoolOptions;

    use super::*;

    #[test]
    fn what_passes_by_itself_is_known_by_its_code() {
        for code in [
            "08006", "40001", "40P01", "53300", "55P03", "57014", "57P03", "5", "6", "261", "517",
        ] {
            assert!(passes(code), "{code}");
        }
        for code in [
            "23505", "42P01", "22001", "28P01", "0A000", "57P04", "1", "19", "2067", "8", "",
        ] {
            assert!(!passes(code), "{code}");
        }
    }

    #[tokio::test]
    async fn a_statement_that_a_database_never_takes_is_not_tried_again() {
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .connect("sqlite::memory:")
            .await;
        let pool = pool.expect("a database");
        let create = "CREATE TABLE t (id INTEGER PRIMARY KEY)";
        sqlx::query(create).execute(&pool).await.expect("it is created");
        for never in [create, "INSERT INTO t VALUES (1), (1)", "SELECT nothing FROM nowhere"] {
            let said = sqlx::query(never)
                .execute(&pool)
                .await
                .map_err(PatternError::database("try"));
            let error = said.expect_err("it is refused");
            assert!(!error.is_retryable(), "{error}");
        }
        assert!(PatternError::database("wait")(sqlx::Error::PoolTimedOut).is_retryable());
    }
}
