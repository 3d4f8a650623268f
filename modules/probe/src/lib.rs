//! Requests to services over HTTP, HTTPS and TCP from this machine. Knows no Ansible.
//!
//! | to ...                              | see        |
//! |-------------------------------------|------------|
//! | send a request on a new connection  | [`http`]   |
//! | receive or send a long body         | [`http::fetch`], [`http::put`] |
//! | check the answer                    | [`expect`] |
//! | know whether a port is open         | [`tcp`]    |
//! | resolve a name                      | [`name`]   |
//! | quote text from another side        | [`shown`]  |
//!
//! Invariants: nothing waits past its deadline (a long transfer has one for each pause, and one for the
//! whole), and every wait ends within a quarter of a second of a signal. An answer that could not be
//! checked counts as wrong. No error contains a request's headers, the path or the query of a URL (which
//! may contain tokens), or any part of a body.
//!
//! Deliberately absent: reused connections, proxies (the machine itself connects), cookies, HTTP/2, an
//! async runtime, and the name service of the C library, which a static binary cannot use.

pub mod expect;
pub mod http;
pub mod name;
pub mod shown;
pub mod tcp;
mod tls;
mod unanswered;
mod wire;
