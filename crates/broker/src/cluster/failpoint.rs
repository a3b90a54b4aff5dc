//! For tests only: lets this process die at a named step of [`bootstrap`](super::bootstrap), of a [`repair`](crate::repair) or of a
//! transaction, as SIGKILL would at that moment. The step is named by the variable `JANGADA_FAILPOINT`, which is read once; without it a
//! step costs one comparison.

use std::process::abort;
use std::sync::LazyLock;

static DEADLY: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("JANGADA_FAILPOINT").ok());

/// This step is reached: nothing after it happens when it is the one that was named.
pub(crate) fn reached(step: &str) {
    if DEADLY.as_deref() == Some(step) {
        tracing::error!(step, "dying here, as JANGADA_FAILPOINT says");
        abort();
    }
}
