//! From an error to its stable code.
//!
//! Invariant: a code, once released, keeps its meaning: playbooks compare it.

use nix::errno::Errno;

use crate::{command, deadline, fence, folder, interrupt, lock, program, record, space};

/// The code of the first error in the chain that has one: `lock_held`, `superseded`, `command_failed`, `timed_out`, `interrupted`,
/// `no_space`, `read_only`, `unsafe_folder`, `unfinished`, `program_missing`.
pub fn reason(error: &anyhow::Error) -> Option<&'static str> {
    error.chain().find_map(of_one)
}

fn of_one(error: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    macro_rules! typed {
        ($($kind:ty),*) => { $(if let Some(known) = error.downcast_ref::<$kind>() { return Some(known.reason()); })* };
    }
    typed!(
        command::Failed,
        deadline::TimedOut,
        fence::Superseded,
        folder::Unsafe,
        interrupt::Interrupted,
        lock::Held,
        program::Missing,
        record::Unfinished,
        space::NoSpace
    );
    let errno = match error.downcast_ref::<std::io::Error>() {
        Some(io) => Errno::from_raw(io.raw_os_error()?),
        None => *error.downcast_ref::<Errno>()?,
    };
    match errno {
        Errno::ENOSPC | Errno::EDQUOT => Some("no_space"),
        Errno::EROFS => Some("read_only"),
        _ => None,
    }
}
