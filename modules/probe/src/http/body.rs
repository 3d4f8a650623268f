//! Reads the body of an answer, and no more of it than was requested.
//!
//! Invariant: a body that is not truncated by the caller's limit is complete, or there is an error.

use std::io;

use super::Method;
use super::head::Head;
use super::incoming::Incoming;

/// The longest size line of a chunk; longer ones only contain extensions that nobody uses.
const LONGEST_CHUNK_LINE: usize = 4 << 10;

/// How the end of a body is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Nothing,
    Length(u64),
    Chunked,
    UntilClosed,
}

/// Determines the framing by RFC 9112, section 6.3. What two readers could understand differently is
/// refused. The error completes "shop.example ...".
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
        ([], _) => {
            Err("sent a Content-Length that is not a number, or several different ones".into())
        }
        ([coding], []) if coding.eq_ignore_ascii_case("chunked") => Ok(Framing::Chunked),
        (_, []) => Err("sent a Transfer-Encoding that was not requested".into()),
        _ => Err("sent both a Content-Length and a Transfer-Encoding".into()),
    }
}

/// Why a body cannot be read.
pub(super) enum Fault {
    Io(io::Error),
    /// Completes "shop.example ...".
    Malformed(&'static str),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Fault {
        Fault::Io(error)
    }
}

/// Adds at most `most` bytes to `body`; true if there would have been more.
pub(super) fn read(
    incoming: &mut Incoming,
    framing: Framing,
    most: usize,
    body: &mut Vec<u8>,
) -> Result<bool, Fault> {
    match framing {
        Framing::Nothing | Framing::Length(0) => Ok(false),
        // A caller that wants nothing of the body does not wait for it.
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
            incoming.read_more()?;
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
        if incoming.read_more_or_end()? == 0 {
            return Ok(false);
        }
    }
}

/// Reads up to the size line of the last chunk; trailers after it are ignored.
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

/// Reads the line end after the bytes of a chunk.
pub(super) fn chunk_end(incoming: &mut Incoming) -> Result<(), Fault> {
    let mut end = Vec::new();
    take(incoming, 2, &mut end)?;
    match end == b"\r\n" {
        true => Ok(()),
        false => Err(Fault::Malformed("sent a chunk that is longer than its size line says")),
    }
}

/// Reads the size line of a chunk; the last one has size 0.
pub(super) fn chunk_line(incoming: &mut Incoming) -> Result<u64, Fault> {
    let malformed = Fault::Malformed("sent a malformed chunk");
    loop {
        match httparse::parse_chunk_size(incoming.pending()) {
            Ok(httparse::Status::Complete((length, size))) => {
                incoming.consume(length);
                return Ok(size);
            }
            Ok(httparse::Status::Partial) if incoming.pending().len() < LONGEST_CHUNK_LINE => {
                incoming.read_more()?;
            }
            _ => return Err(malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn framing_by_headers() {
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
