//! The body of an answer: where it ends, and reading no more of it than was asked for.
//!
//! Invariant: a body that is not cut by our own limit is complete, or there is an error.

use std::io;

use super::Method;
use super::head::Head;
use super::incoming::Incoming;

/// The line before a chunk; longer ones only hold extensions that nobody uses.
const LONGEST_CHUNK_LINE: usize = 4 << 10;

/// Where a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Nothing,
    Length(u64),
    Chunked,
    UntilClosed,
}

/// As RFC 9112, section 6.3 has it. What two readers could understand differently is refused. The
/// error completes "shop.example ...".
pub(super) fn framing(method: Method, head: &Head) -> Result<Framing, String> {
    if method == Method::Head || matches!(head.status, 204 | 304) {
        return Ok(Framing::Nothing);
    }
    let codings: Vec<_> = head.all("transfer-encoding").collect();
    let mut lengths: Vec<_> =
        head.all("content-length").flat_map(|list| list.split(',')).map(str::trim).collect();
    lengths.dedup();
    match (codings.as_slice(), lengths.as_slice()) {
        ([], []) => Ok(Framing::UntilClosed),
        ([], [length]) if length.bytes().all(|byte| byte.is_ascii_digit()) => {
            let length = length.parse().map_err(|_| "sent an impossible Content-Length")?;
            Ok(Framing::Length(length))
        }
        ([], _) => Err("sent a Content-Length that is no number, or several".into()),
        ([coding], []) if coding.eq_ignore_ascii_case("chunked") => Ok(Framing::Chunked),
        (_, []) => Err("sent a Transfer-Encoding that was not asked for".into()),
        _ => Err("sent both a Content-Length and a Transfer-Encoding".into()),
    }
}

/// Why there is no body.
pub(super) enum Fault {
    Io(io::Error),
    /// Completes "shop.example ...".
    Garbage(&'static str),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Fault {
        Fault::Io(error)
    }
}

/// Adds at most `most` bytes to `body`; says whether there would have been more.
pub(super) fn read(
    incoming: &mut Incoming,
    framing: Framing,
    most: usize,
    body: &mut Vec<u8>,
) -> Result<bool, Fault> {
    match framing {
        Framing::Nothing | Framing::Length(0) => Ok(false),
        // Who wants nothing of it does not wait for it.
        _ if most == 0 => Ok(true),
        Framing::Length(length) => {
            let wanted = usize::try_from(length).unwrap_or(usize::MAX).min(most);
            take(incoming, wanted, body)?;
            Ok(length > wanted as u64)
        }
        Framing::UntilClosed => until_closed(incoming, most, body),
        Framing::Chunked => chunked(incoming, most, body),
    }
}

fn take(incoming: &mut Incoming, wanted: usize, body: &mut Vec<u8>) -> Result<(), Fault> {
    let end = body.len() + wanted;
    while body.len() < end {
        if incoming.pending().is_empty() {
            incoming.more()?;
        }
        let part = incoming.pending().len().min(end - body.len());
        body.extend_from_slice(&incoming.pending()[..part]);
        incoming.consume(part);
    }
    Ok(())
}

fn until_closed(incoming: &mut Incoming, most: usize, body: &mut Vec<u8>) -> Result<bool, Fault> {
    loop {
        let part = incoming.pending().len().min(most - body.len());
        body.extend_from_slice(&incoming.pending()[..part]);
        incoming.consume(part);
        if !incoming.pending().is_empty() {
            return Ok(true);
        }
        if incoming.more_or_end()? == 0 {
            return Ok(false);
        }
    }
}

/// Ends with the line of the last chunk: what may follow are trailers, which say nothing to us.
fn chunked(incoming: &mut Incoming, most: usize, body: &mut Vec<u8>) -> Result<bool, Fault> {
    loop {
        let size = chunk_line(incoming)?;
        if size == 0 {
            return Ok(false);
        }
        let wanted = usize::try_from(size).unwrap_or(usize::MAX).min(most - body.len());
        take(incoming, wanted, body)?;
        if size > wanted as u64 {
            return Ok(true);
        }
        chunk_end(incoming)?;
    }
}

/// What stands behind the bytes of a chunk.
pub(super) fn chunk_end(incoming: &mut Incoming) -> Result<(), Fault> {
    let mut end = Vec::new();
    take(incoming, 2, &mut end)?;
    match end == b"\r\n" {
        true => Ok(()),
        false => Err(Fault::Garbage("sent a chunk that does not end where it said")),
    }
}

/// The size of the chunk that begins here; 0 for the last.
pub(super) fn chunk_line(incoming: &mut Incoming) -> Result<u64, Fault> {
    let garbage = Fault::Garbage("sent a body in chunks that cannot be read");
    loop {
        match httparse::parse_chunk_size(incoming.pending()) {
            Ok(httparse::Status::Complete((length, size))) => {
                incoming.consume(length);
                return Ok(size);
            }
            Ok(httparse::Status::Partial) if incoming.pending().len() < LONGEST_CHUNK_LINE => {
                incoming.more()?;
            }
            _ => return Err(garbage),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_body_ends() {
        let of = |status: u16, headers: &str| {
            let text = format!("HTTP/1.1 {status} x\r\n{headers}\r\n");
            let head = super::super::head::read(text.as_bytes()).unwrap().unwrap();
            framing(Method::Get, &head)
        };
        assert_eq!(of(200, ""), Ok(Framing::UntilClosed));
        assert_eq!(of(204, "Content-Length: 5\r\n"), Ok(Framing::Nothing));
        assert_eq!(of(304, "Transfer-Encoding: chunked\r\n"), Ok(Framing::Nothing));
        assert_eq!(of(200, "Content-Length: 5\r\n"), Ok(Framing::Length(5)));
        assert_eq!(
            of(200, "Content-Length: 5, 5\r\ncontent-length: 5\r\n"),
            Ok(Framing::Length(5))
        );
        assert_eq!(of(200, "transfer-encoding: Chunked\r\n"), Ok(Framing::Chunked));
        for headers in [
            "Content-Length: 5, 6\r\n",
            "Content-Length: +5\r\n",
            "Content-Length: 5 5\r\n",
            "Content-Length:\r\n",
            "Content-Length: 99999999999999999999999\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: identity\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        ] {
            assert!(of(200, headers).is_err(), "{headers}");
        }
    }
}
