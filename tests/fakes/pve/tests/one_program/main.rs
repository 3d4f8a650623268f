//! The tests of whole files and programs, as one program: linking one for each file takes longer than running them.

#![allow(clippy::unwrap_used)] // A test that meets what it does not expect has failed.

mod api;
mod checks;
mod common;
mod faults;
mod formats;
mod hazards;
