//! The one place that knows that we were asked to stop (SIGTERM, SIGINT, SIGHUP).
//!
//! Whoever takes the signals calls [`note`]; every wait in this crate (commands, locks, sleeps)
//! asks [`pending`] and ends with [`Interrupted`]. Invariant: while a [`Shield`] lives, `pending()`
//! says `None`, so that a way back once begun is not cut short; the signal itself is not forgotten,
//! it is seen when the last shield is gone.

use std::fmt;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

pub use nix::sys::signal::Signal;

static NOTED: AtomicI32 = AtomicI32::new(0);
static SHIELDS: AtomicUsize = AtomicUsize::new(0);

/// How often a wait looks for a signal. Short enough for a person, long enough to cost nothing.
pub(crate) const LOOK_EVERY: std::time::Duration = std::time::Duration::from_millis(50);

/// Remembers the signal; the first one wins. Two atomic operations, so it may be called in a signal
/// handler.
pub fn note(signal: Signal) {
    let _ = NOTED.compare_exchange(0, signal as i32, Ordering::SeqCst, Ordering::SeqCst);
}

/// The signal that asks us to stop, unless a shield is up.
pub fn pending() -> Option<Signal> {
    if SHIELDS.load(Ordering::SeqCst) > 0 {
        return None;
    }
    noted()
}

/// The signal that was noted, shield or not: for the result that is printed at the end.
pub fn noted() -> Option<Signal> {
    Signal::try_from(NOTED.load(Ordering::SeqCst)).ok()
}

/// `Err(Interrupted)` when a signal is pending: to be asked between two steps.
pub fn check() -> Result<(), Interrupted> {
    pending().map_or(Ok(()), |signal| Err(Interrupted { signal }))
}

/// Keeps signals from ending waits until it is dropped. Shields nest.
#[must_use = "the shield is down as soon as it is dropped"]
pub struct Shield(());

/// Raises a shield: used while restoring.
pub fn shield() -> Shield {
    SHIELDS.fetch_add(1, Ordering::SeqCst);
    Shield(())
}

impl Drop for Shield {
    fn drop(&mut self) {
        SHIELDS.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A wait was ended by a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupted {
    pub signal: Signal,
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stopped by {}", self.signal.as_str())
    }
}

impl std::error::Error for Interrupted {}
