//! Whose turn it is: the process whose tasks run on this thread at the moment. What it logs carries its name, and when it panics, it is
//! known who did.

use std::cell::{Cell, RefCell};
use std::panic::{PanicHookInfo, set_hook, take_hook};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};

use parking_lot::Mutex;

/// A process, as far as all know it.
#[derive(Debug, Default)]
pub(crate) struct Who {
    /// 0 is the play.
    pub id: u32,
    pub name: String,
    is_dead: AtomicBool,
    has_work: AtomicBool,
    panicked: Mutex<Option<String>>,
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<Who>>> = const { RefCell::new(None) };
    static POLLED: Cell<bool> = const { Cell::new(false) };
}

impl Who {
    pub fn new(id: u32, name: &str) -> Arc<Self> {
        Arc::new(Self {
            id,
            name: name.to_owned(),
            has_work: AtomicBool::new(true),
            ..Self::default()
        })
    }

    /// Whether it was killed: nothing that its tasks still do is to be seen from outside.
    pub fn is_dead(&self) -> bool {
        self.is_dead.load(Ordering::Relaxed)
    }

    /// Kills it. False if it was dead already.
    pub fn set_dead(&self) -> bool {
        !self.is_dead.swap(true, Ordering::Relaxed)
    }

    /// Something has come for it from outside of its runtime: it is stepped in the next tick.
    pub fn rouse(&self) {
        self.has_work.store(true, Ordering::Relaxed);
    }

    pub fn take_work(&self) -> bool {
        self.has_work.swap(false, Ordering::Relaxed)
    }

    /// What its first panic said, once.
    pub fn take_panic(&self) -> Option<String> {
        self.panicked.lock().take()
    }

    fn note_panic(&self, info: &PanicHookInfo<'_>) {
        let text = info.payload_as_str().unwrap_or("with something that is no text");
        let place = info.location().map(|place| format!(", at {place}")).unwrap_or_default();
        let text = format!("{text}{place}");
        self.panicked.lock().get_or_insert(text);
    }
}

/// As long as it lives, the tasks of a process run.
pub(crate) struct Turn(Option<Arc<Who>>);

impl Turn {
    pub fn begin(who: &Arc<Who>) -> Self {
        Self(CURRENT.replace(Some(who.clone())))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

/// Gives what `read` makes of the process whose turn it is.
pub(crate) fn with_current<T>(read: impl FnOnce(Option<&Who>) -> T) -> T {
    CURRENT.with_borrow(|current| read(current.as_deref()))
}

/// A task is polled.
pub(crate) fn note_poll() {
    POLLED.set(true);
}

/// Whether a task was polled since this was asked last.
pub(crate) fn take_polled() -> bool {
    POLLED.replace(false)
}

/// From now on panics are known to the process whose turn it is, and those of dead ones are told to nobody. Whoever heard of panics
/// before hears of the others.
pub(crate) fn watch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |info| {
            let current = CURRENT.try_with(|current| current.try_borrow().ok().and_then(|who| who.clone()));
            match current.ok().flatten() {
                Some(who) if who.is_dead() => {}
                Some(who) => {
                    who.note_panic(info);
                    before(info);
                }
                None => before(info),
            }
        }));
    });
}
