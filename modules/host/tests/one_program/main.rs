//! The tests of whole files and programs, as one program: linking one for each file takes longer than running them.
//! Apart are those that change the whole process, or look at all of it: command, folder, interrupt, lock.

#![allow(clippy::unwrap_used)] // A test that meets what it does not expect has failed.

mod atomic;
#[path = "../common/mod.rs"]
mod common;
mod mounts;
mod record;
mod reserve;
