//! The way through a proxy: a tunnel for TLS (`CONNECT`), and requests that name the whole URL for plain HTTP.
//!
//! Invariant: of what a proxy answers to `CONNECT` nothing but the head is read: what follows is the server's.

use std::io::{ErrorKind, Read, Write};

use host::deadline::Deadline;

use super::proxy::Proxy;
use super::{Kind, Unanswered, Url, head};
use crate::name;
use crate::wire::{Phase, Wire, broken};

/// The longest answer to `CONNECT`.
const LONGEST: usize = 16 << 10;

/// Connects to the proxy, and for https through it to the server.
pub(super) fn open(proxy: &Proxy, url: &Url, deadline: Deadline) -> Result<Wire, Unanswered> {
    let peer = proxy.to_string();
    let addresses = name::resolve_until(proxy.url.host(), proxy.url.port(), deadline)
        .map_err(|error| Unanswered::new(error.kind, format!("{peer}: {error}")))?;
    let mut wire = Wire::open(&addresses, &peer, deadline)?;
    if url.is_https() {
        let broke = |error| broken(&error, &peer, Phase::Head, deadline);
        wire.write_all(&connect(proxy, url)).map_err(broke)?;
        let status = answer(&mut wire, &peer, deadline)?;
        if !(200..300).contains(&status) {
            let why = match status {
                407 => "it wants a user and a password (http://user:password@host:port)",
                _ => "it opens no way there",
            };
            let msg = format!("{peer} answered {status} to a request for {}: {why}", target(url));
            return Err(Unanswered::new(Kind::Refused, msg));
        }
    }
    Ok(wire)
}

/// Writes the head of a request for plain HTTP that goes to a proxy.
pub(super) fn through(
    proxy: &Proxy,
    verb: &str,
    url: &Url,
    headers: &[(String, String)],
    framing: &[(&'static str, String)],
) -> Vec<u8> {
    let mut framing = framing.to_vec();
    framing.extend(proxy.authorization.iter().map(|it| ("Proxy-Authorization", it.clone())));
    let direct = head::write(verb, url, headers, &framing);
    // The request line names the whole URL, and all else is as without a proxy.
    let after_verb = verb.len() + 1;
    let mut head = format!("{verb} http://{}", url.authority()).into_bytes();
    head.extend(&direct[after_verb..]);
    head
}

fn connect(proxy: &Proxy, url: &Url) -> Vec<u8> {
    let target = target(url);
    let mut head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    if let Some(value) = &proxy.authorization {
        head.extend(["Proxy-Authorization: ", value, "\r\n"]);
    }
    head += "\r\n";
    head.into_bytes()
}

/// Always with a port, unlike the authority of a URL.
fn target(url: &Url) -> String {
    format!("{}:{}", super::url::bracketed(url.host()), url.port())
}

/// Reads one head, byte by byte.
fn answer(wire: &mut Wire, peer: &str, deadline: Deadline) -> Result<u16, Unanswered> {
    let refuse = |why: &str| Unanswered::new(Kind::Protocol, format!("{peer} {why}"));
    let broke = |error| broken(&error, peer, Phase::Head, deadline);
    let mut bytes = Vec::new();
    loop {
        let mut byte = [0];
        if wire.read(&mut byte).map_err(broke)? == 0 {
            return Err(broke(ErrorKind::UnexpectedEof.into()));
        }
        bytes.push(byte[0]);
        if byte[0] == b'\n' {
            if let Some(head) = head::read(&bytes).map_err(|why| refuse(&why))? {
                return Ok(head.status);
            }
        }
        if bytes.len() > LONGEST {
            return Err(refuse("sent a head that is too long"));
        }
    }
}
