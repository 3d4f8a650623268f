//! From an error to its stable code.
//!
//! Invariant: a code, once released, keeps its meaning: playbooks compare it.

use std::io::ErrorKind;

use crate::{command, deadline, fence, folder, interrupt, lock, program, record, space, spot};

/// The code of the first error in the chain that has one: `lock_held`, `superseded`,
/// `id_ahead`, `command_failed`, `timed_out`, `interrupted`, `no_space`, `read_only`,
/// `permission_denied`, `unsafe_folder`, `unfinished`, `program_missing`, `unsafe_program`,
/// `cannot_exchange`.
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
        fence::Ahead,
        fence::Superseded,
        folder::Unsafe,
        interrupt::Interrupted,
        lock::Held,
        program::Missing,
        program::Unsafe,
        record::Unfinished,
        space::NoSpace,
        spot::CannotExchange
    );
    match space::kind_of(error)? {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Some("no_space"),
        ErrorKind::ReadOnlyFilesystem => Some("read_only"),
        ErrorKind::PermissionDenied => Some("permission_denied"),
        _ => None,
    }
}
