//! Asking a service: HTTP, HTTPS and TCP, from this very machine. Knows no Ansible.
//!
//! | to ...                              | see        |
//! |-------------------------------------|------------|
//! | ask a URL, on a new connection      | [`http`]   |
//! | fetch or send what is long          | [`http::fetch`], [`http::put`] |
//! | judge the answer                    | [`expect`] |
//! | know whether a port is open         | [`tcp`]    |
//! | have the addresses of a name        | [`name`]   |
//! | repeat what another side has said   | [`shown`]  |
//!
//! Invariants: nothing waits past its deadline (a long transfer has one for each pause, and one for all), and every wait ends within a quarter of a second of
//! a signal. What could not be judged has not held. No error holds a request's headers, the path or
//! the query of a URL (tokens stand there), or any part of a body.
//!
//! Deliberately absent: connections that are kept, proxies (the machine itself asks), cookies,
//! HTTP/2, an async runtime, and the name service of the C library, which a static binary cannot
//! have.

pub mod expect;
pub mod http;
pub mod name;
pub mod shown;
pub mod tcp;
mod tls;
mod unanswered;
mod wire;
