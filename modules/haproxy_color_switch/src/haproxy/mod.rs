//! HAProxy: its sockets, its answers, its configuration, and how it is made to load a new one.

pub mod config;
pub mod file;
pub mod map;
pub mod reader;
pub mod reload;
pub mod socket;
pub mod stat;
