//! Outbox and inbox in a real PostgreSQL, where Debian's package `postgresql` is installed. Elsewhere the tests say that they are not run.

#![allow(
    clippy::disallowed_methods,
    reason = "tests of real processes live by the real clock"
)]
#![allow(clippy::print_stderr, reason = "a test says that it is not run")]

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use jangada_client::{Env, ProducerRecord};
use jangada_patterns::events::SeenEvents as _;
use jangada_patterns::inbox::PostgresInbox;
use jangada_patterns::outbox::{OutboxRows as _, PostgresOutbox, RowsMax};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

/// How long the server may take to answer.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// What the tests read of an outbox.
const MOST: RowsMax = RowsMax {
    rows: 10,
    bytes: 1 << 20,
};
/// Long enough for a statement that waits for nobody.
const SHORT: Duration = Duration::from_millis(500);

/// A server that listens on a socket in a folder. Dropping it ends both.
struct Server {
    child: Child,
    pool: PgPool,
    _folder: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGKILL: nothing of it is needed any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The newest version's programs.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
    let folders = versions.filter_map(|version| Some(version.ok()?.path().join("bin")));
    folders.filter(|folder| folder.join("initdb").is_file()).max()
}

/// Runs a program as the user that Debian's package makes: the server refuses root.
fn as_postgres(program: PathBuf) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"])
        .arg(program);
    command
}

/// None: this machine has no PostgreSQL, or this is not root, who may become the server's user.
async fn server() -> Option<Server> {
    let folder = tempfile::tempdir().expect("a folder");
    let owned = Command::new("chown")
        .arg("postgres:postgres")
        .arg(folder.path())
        .stderr(Stdio::null())
        .status();
    let Some(programs) = programs().filter(|_| owned.is_ok_and(|status| status.success())) else {
        eprintln!("NOT RUN: PostgreSQL: it needs root, and Debian's package postgresql");
        return None;
    };
    let data = folder.path().join("data");
    let made = as_postgres(programs.join("initdb"))
        .args(["--auth=trust", "--username=postgres", "--no-sync", "-D"])
        .arg(&data)
        .stdout(Stdio::null())
        .status();
    assert!(made.expect("initdb runs").success(), "the database is made");
    let child = as_postgres(programs.join("postgres"))
        .args(["-c", "listen_addresses=", "-c", "fsync=off", "-k"])
        .arg(folder.path())
        .arg("-D")
        .arg(&data)
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let options = PgConnectOptions::new_without_pgpass()
        .socket(folder.path())
        .username("postgres")
        .database("postgres");
    let deadline = Instant::now() + START_TIMEOUT;
    let pool = loop {
        match PgPoolOptions::new()
            .max_connections(4)
            .connect_with(options.clone())
            .await
        {
            Ok(pool) => break pool,
            Err(error) => assert!(Instant::now() < deadline, "the server does not answer: {error}"),
        }
        sleep(Duration::from_millis(50)).await;
    };
    Some(Server {
        child,
        pool,
        _folder: folder,
    })
}

#[tokio::test]
async fn outbox_and_inbox_hold_in_postgresql() {
    let Some(server) = server().await else { return };
    ids_are_in_the_order_of_the_commits(&server.pool).await;
    an_id_has_one_effect(&server.pool).await;
}

async fn ids_are_in_the_order_of_the_commits(pool: &PgPool) {
    let outbox = PostgresOutbox::create(pool.clone(), Env::system())
        .await
        .expect("it is created");
    let record = |value: &'static str| {
        ProducerRecord::new("t")
            .with_key("k")
            .with_value(value)
            .with_header("h", "1")
    };
    let (mut first, mut second) = (
        pool.begin().await.expect("it begins"),
        pool.begin().await.expect("it begins"),
    );
    // The second one has its transaction id before the first has put its record.
    sqlx::query("SELECT pg_current_xact_id()")
        .execute(&mut *second)
        .await
        .expect("it has an id");
    let one = outbox.put(&mut first, &record("one")).await.expect("it is put");
    let late = record("two");
    let mut putting = Box::pin(outbox.put(&mut second, &late));
    timeout(SHORT, &mut putting)
        .await
        .expect_err("it waits for the first one");
    assert_eq!(
        outbox.rows_after(0, MOST).await.expect("it is read"),
        [],
        "nothing is committed"
    );
    first.commit().await.expect("it is committed");
    let two = putting.await.expect("it is put");
    let seen = outbox.rows_after(0, MOST).await.expect("it is read");
    assert_eq!(seen.iter().map(|row| row.id).collect::<Vec<_>>(), [one]);
    assert_eq!(seen[0].record, record("one"));
    second.commit().await.expect("it is committed");
    assert!(two > one, "{two} came after {one}");
    outbox.sent(one).await.expect("it is deleted");
    let left = outbox.rows_after(0, MOST).await.expect("it is read");
    assert_eq!(left.iter().map(|row| row.id).collect::<Vec<_>>(), [two]);
}

async fn an_id_has_one_effect(pool: &PgPool) {
    let inbox = PostgresInbox::create(pool.clone(), "ledger", Env::system())
        .await
        .expect("it is created");
    let mut first = inbox.begin().await.expect("it begins");
    assert_eq!(inbox.claim(&mut first, "a").await.expect("it is claimed"), None);
    inbox.store(&mut first, "a", b"booked").await.expect("it is stored");
    let mut second = inbox.begin().await.expect("it begins");
    let mut claiming = Box::pin(inbox.claim(&mut second, "a"));
    timeout(SHORT, &mut claiming)
        .await
        .expect_err("it waits for the first one");
    first.commit().await.expect("it is committed");
    assert_eq!(claiming.await.expect("it is known"), Some(b"booked".to_vec()));
    second.rollback().await.expect("it is rolled back");

    let mut dropped = inbox.begin().await.expect("it begins");
    assert_eq!(inbox.claim(&mut dropped, "b").await.expect("it is claimed"), None);
    dropped.rollback().await.expect("it is rolled back");
    assert!(!inbox.is_seen("b").await.expect("it is looked up"), "it never was");
    inbox.note("b").await.expect("it is noted");
    assert!(inbox.is_seen("b").await.expect("it is looked up"));
    assert_eq!(inbox.forget_before(i64::MAX).await.expect("they are forgotten"), 2);
}
