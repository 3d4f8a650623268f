//! Access to a running HAProxy: its sockets, maps, servers and processes, and the files that it reads at
//! its next reload.
//!
//! - `socket`: sends a command and reads its answer
//! - `stat`: servers and the worker
//! - `map`: a map in the running process and in its file
//! - `process`: masters and workers, from /proc
//! - `reader`: files as HAProxy's master sees them
//! - `file`: files that a task names
//! - `locks`: a lock for each file or socket that only one task may change

pub mod file;
pub mod locks;
pub mod map;
pub mod process;
pub mod reader;
pub mod socket;
pub mod stat;
