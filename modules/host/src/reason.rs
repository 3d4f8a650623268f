//! The stable code of an error.
//!
//! Invariant: a released code keeps its meaning: playbooks compare it.

use std::io::ErrorKind;

use crate::{command, deadline, fence, folder, interrupt, lock, program, record, space, spot};

/// Returns the code of the first error in the chain that has one.
pub fn reason(error: &anyhow::Error) -> Option<&'static str> {
    error.chain().find_map(code)
}

fn code(error: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    if let Some(failed) = error.downcast_ref::<command::Failed>() {
        return Some(failed.reason());
    }
    macro_rules! codes {
        ($($kind:ty => $code:literal,)*) => { $(if error.is::<$kind>() { return Some($code); })* };
    }
    codes!(
        deadline::TimedOut => "timed_out",
        fence::Ahead => "id_ahead",
        fence::Superseded => "superseded",
        folder::Unsafe => "unsafe_folder",
        interrupt::Interrupted => "interrupted",
        lock::Held => "lock_held",
        program::Missing => "program_missing",
        program::Unsafe => "unsafe_program",
        record::Unfinished => "unfinished",
        space::NoSpace => "no_space",
        spot::CannotExchange => "cannot_exchange",
    );
    match space::kind_of(error)? {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Some("no_space"),
        ErrorKind::ReadOnlyFilesystem => Some("read_only"),
        ErrorKind::PermissionDenied => Some("permission_denied"),
        _ => None,
    }
}
