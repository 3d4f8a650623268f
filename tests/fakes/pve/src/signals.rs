//! Signals without handlers: a thread waits for them. Invariant: they are blocked before the thread
//! begins, so that none ends the process in between.

use crate::fail::Fail;
use nix::sys::signal::{SigSet, Signal};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Calls `act` for each of the signals with which a user ends a command.
pub fn watch(act: impl Fn() + Send + 'static) -> Result<(), Fail> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
        set.add(signal);
    }
    set.thread_block()?;
    thread::spawn(move || {
        while set.wait().is_ok() {
            act();
        }
    });
    Ok(())
}

/// In a worker: every wait ends.
pub fn note() {
    INTERRUPTED.store(true, Ordering::Relaxed);
}
