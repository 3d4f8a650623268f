//! Remembers the signal that asked this process to stop (SIGTERM, SIGINT, SIGHUP).
//!
//! The signal handler calls [`note`]; every wait in this crate (commands, locks, sleeps) asks
//! [`pending`] and ends with [`Interrupted`]. Invariant: while a [`Shield`] exists, `pending()` returns
//! `None`, so that a rollback that has started is not cut short; the signal is seen again when the last
//! shield is dropped.

use std::fmt;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

pub use nix::sys::signal::Signal;

static NOTED: AtomicI32 = AtomicI32::new(0);
static SHIELDS: AtomicUsize = AtomicUsize::new(0);

/// How often a wait checks for a signal: often enough for a person, rarely enough to cost nothing.
pub(crate) const LOOK_EVERY: std::time::Duration = std::time::Duration::from_millis(50);

/// Remembers the signal; the first one wins. It is one atomic operation, so a signal handler may call it.
pub fn note(signal: Signal) {
    let _ = NOTED.compare_exchange(0, signal as i32, Ordering::SeqCst, Ordering::SeqCst);
}

/// Returns the signal that asked this process to stop, unless there is a shield.
pub fn pending() -> Option<Signal> {
    if SHIELDS.load(Ordering::SeqCst) > 0 {
        return None;
    }
    noted()
}

/// Returns the signal even if there is a shield: for the result that is printed at the end.
pub fn noted() -> Option<Signal> {
    Signal::try_from(NOTED.load(Ordering::SeqCst)).ok()
}

/// Fails with [`Interrupted`] if a signal is pending: called between two steps.
pub fn check() -> Result<(), Interrupted> {
    pending().map_or(Ok(()), |signal| Err(Interrupted { signal }))
}

/// Keeps signals from ending waits until it is dropped. Shields nest.
#[must_use = "the shield ends as soon as it is dropped"]
pub struct Shield(());

/// Makes a shield, for the time of a restore.
pub fn shield() -> Shield {
    SHIELDS.fetch_add(1, Ordering::SeqCst);
    Shield(())
}

impl Drop for Shield {
    fn drop(&mut self) {
        SHIELDS.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A wait that was ended by a signal.
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
