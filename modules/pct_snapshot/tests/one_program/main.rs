//! The tests of whole files and programs, as one program: linking one for each file takes longer than running them.

#![allow(clippy::unwrap_used)] // A test that meets what it does not expect has failed.

mod bad_input;
mod boot;
mod common;
mod crash;
mod frozen;
mod info;
mod present;
mod repair;
mod rollback;
