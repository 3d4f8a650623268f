//! The tests of whole files and programs, as one program: linking one for each file takes longer than running them.
//! Apart are those that change the whole process: interrupt.

#![allow(clippy::unwrap_used)] // A test that meets what it does not expect has failed.

mod bad_servers;
#[path = "../common/mod.rs"]
mod common;
mod fuzz;
mod http;
mod name;
mod proxy;
mod tls;
mod transfer;
