//! The caller's callback for notices.

use std::sync::Arc;

use super::Notice;

/// Called with each [`Notice`] of a client, by the task that it happens in: it must return soon and must not block. Notices are
/// logged besides.
///
/// ```
/// use jangada_client::{ClientConfig, OnNotice};
///
/// let mut config = ClientConfig::new(["127.0.0.1:9400"]);
/// config.on_notice = OnNotice::new(|notice| eprintln!("{notice}"));
/// ```
#[derive(Clone, Default)]
pub struct OnNotice(Option<Arc<Observer>>);

type Observer = dyn Fn(&Notice) + Send + Sync;

impl OnNotice {
    /// Calls `observer` with each notice.
    pub fn new(observer: impl Fn(&Notice) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(observer)))
    }

    pub(crate) fn call(&self, notice: &Notice) {
        if let Some(observer) = &self.0 {
            observer(notice);
        }
    }
}

impl std::fmt::Debug for OnNotice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() {
            "OnNotice(set)"
        } else {
            "OnNotice(none)"
        })
    }
}
