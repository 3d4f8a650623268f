//! HAProxy as it runs: its sockets and what it answers there, its maps, its processes, and the files
//! that it reads at its next reload. What a module makes of that is the module's own.
//!
//! - `socket`: one command, and its answer
//! - `stat`: servers, and the worker
//! - `map`: a map in the running process, and in its file
//! - `process`: masters and workers, as /proc has them
//! - `reader`: files as HAProxy's master sees them
//! - `file`: files that a task names
//! - `locks`: one lock for each thing that only one task may change

pub mod file;
pub mod locks;
pub mod map;
pub mod process;
pub mod reader;
pub mod socket;
pub mod stat;
