//! Checks whether a port accepts connections. Nothing is sent.

use std::time::{Duration, Instant};

use host::deadline::Deadline;

use crate::http::Unanswered;
use crate::http::url::bracketed;
use crate::name;
use crate::wire::Wire;

/// Connects and closes again. Returns the time that it took, including the lookup of the name.
pub fn connect(host: &str, port: u16, deadline: Duration) -> Result<Duration, Unanswered> {
    let (began, deadline) = (Instant::now(), Deadline::after(deadline));
    let addresses = name::resolve_until(host, port, deadline)?;
    let bare = host.trim_matches(['[', ']']);
    Wire::open(&addresses, &format!("{}:{port}", bracketed(bare)), deadline)?;
    Ok(began.elapsed())
}
