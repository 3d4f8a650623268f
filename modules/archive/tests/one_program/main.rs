//! The tests of whole files and programs, as one program: linking one for each file takes longer than running them.
//! Apart are those that change the whole process: many.

#![allow(clippy::unwrap_used)] // A test that meets what it does not expect has failed.

#[path = "../common/mod.rs"]
mod common;
mod faults;
mod fuzz;
mod gnu_tar;
mod there_and_back;
