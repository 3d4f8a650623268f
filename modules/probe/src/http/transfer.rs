//! Long transfers: a GET that is read piece by piece and can resume an earlier one, and a PUT from a file.
//!
//! Invariants: each pause and the whole transfer have a deadline: a transfer ends if the server neither
//! sends nor takes anything for the length of a pause, and also if it sends a byte now and then for ever.
//! What a [`Fetching`] yields begins at the requested offset, even if the server ignores ranges, and its end
//! is the end of the body, or there is an error. A body is sent once, and no redirect of it is followed.

use std::io::{self, ErrorKind, Read};
use std::time::{Duration, Instant};

use host::deadline::Deadline;

use super::body::{self, Fault, Framing};
use super::head::Head;
use super::incoming::Incoming;
use super::{Answer, Exchange, Kind, Method, Request, Unanswered, any_head, final_head};
use crate::wire::{Phase, broken};

/// How long to wait for "100 Continue", which many servers never send.
const CONTINUE_WAIT: Duration = Duration::from_secs(1);
/// How long to wait for the answer of a server that has stopped reading: it may have said why.
const LATE_ANSWER_WAIT: Duration = Duration::from_secs(2);
const PIECE: usize = 128 << 10;

/// The time limits of a transfer.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// The longest time without any progress.
    pub pause: Duration,
    /// The deadline of the whole transfer.
    pub whole: Deadline,
}

impl Patience {
    fn next(&self) -> Deadline {
        Deadline::after(self.pause).or_sooner(self.whole)
    }
}

/// An answer whose body is read piece by piece.
pub struct Fetching {
    peer: String,
    /// Whether another server answered, after redirects.
    pub redirected: bool,
    pub status: u16,
    pub headers: Vec<(String, String)>,
    /// The length of the whole body, not only from the offset on, if the server says it.
    pub total: Option<u64>,
    incoming: Incoming,
    remaining: Remaining,
    /// Bytes to skip, since the server sends the whole body although only a part was requested.
    skip: u64,
    read: u64,
    patience: Patience,
}

enum Remaining {
    Bytes(u64),
    /// The rest of the current chunk; `None` before the size line of the next.
    Chunk(Option<u64>),
    UntilClosed,
}

/// Requests the body from the byte `from` on. Name, connection and head share one pause.
pub fn fetch(request: &Request, from: u64, patience: Patience) -> Result<Fetching, Unanswered> {
    let mut exchange = Exchange::new(request, Method::Get, patience.next())?;
    if from > 0 {
        exchange.own_headers.push(("Range", format!("bytes={from}-")));
    }
    let (url, head, incoming) = exchange.follow()?;
    let peer = url.authority();
    let refuse = |why: &str| Unanswered::new(Kind::Protocol, format!("{peer} {why}"));
    let remaining = match body::framing(Method::Get, &head).map_err(|why| refuse(&why))? {
        Framing::Nothing => Remaining::Bytes(0),
        Framing::Length(length) => Remaining::Bytes(length),
        Framing::Chunked => Remaining::Chunk(None),
        Framing::UntilClosed => Remaining::UntilClosed,
    };
    let (mut skip, mut total) = (0, None);
    match head.status {
        200 => {
            skip = from;
            total = if let Remaining::Bytes(length) = remaining { Some(length) } else { None };
        }
        206 => {
            let range = head.all("content-range").next().and_then(content_range);
            let Some((first, whole)) = range else {
                return Err(refuse("sent a part of the body without saying which"));
            };
            if first != from {
                return Err(refuse("sent another part of the body than was requested"));
            }
            total = whole;
        }
        _ => {}
    }
    let redirected = !url.same_origin(&request.url);
    let Head { status, headers, .. } = head;
    Ok(Fetching {
        peer,
        redirected,
        status,
        headers,
        total,
        incoming,
        remaining,
        skip,
        read: 0,
        patience,
    })
}

impl Fetching {
    /// Reads the next bytes of the body, as many as are available; 0 at its end.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Unanswered> {
        loop {
            let read = self.piece(buffer)?;
            self.read += read as u64;
            if read == 0 && self.skip > 0 {
                let msg = format!("{} sent less than it had sent before", self.peer);
                return Err(Unanswered::new(Kind::Protocol, msg));
            }
            let skipped = self.skip.min(read as u64) as usize;
            self.skip -= skipped as u64;
            if skipped == 0 || read == 0 {
                return Ok(read);
            }
            if skipped < read {
                buffer.copy_within(skipped..read, 0);
                return Ok(read - skipped);
            }
        }
    }

    fn piece(&mut self, buffer: &mut [u8]) -> Result<usize, Unanswered> {
        let deadline = self.patience.next();
        self.incoming.connection().set_deadline(deadline);
        self.framed(buffer).map_err(|fault| match fault {
            Fault::Malformed(why) => {
                Unanswered::new(Kind::Protocol, format!("{} {why}", self.peer))
            }
            Fault::Io(error) => {
                let so_far = usize::try_from(self.read).unwrap_or(usize::MAX);
                broken(&error, &self.peer, Phase::Body(so_far), deadline)
            }
        })
    }

    fn framed(&mut self, buffer: &mut [u8]) -> Result<usize, Fault> {
        let remaining = match &mut self.remaining {
            Remaining::UntilClosed => return Ok(self.incoming.read_into(buffer)?),
            Remaining::Bytes(remaining) => remaining,
            Remaining::Chunk(Some(remaining)) => remaining,
            Remaining::Chunk(none) => {
                let size = body::chunk_line(&mut self.incoming)?;
                if size == 0 {
                    self.remaining = Remaining::Bytes(0);
                    return Ok(0);
                }
                none.insert(size)
            }
        };
        if *remaining == 0 {
            return Ok(0);
        }
        let most = usize::try_from(*remaining).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.incoming.read_into(&mut buffer[..most])?;
        if read == 0 && most > 0 {
            return Err(Fault::Io(ErrorKind::UnexpectedEof.into()));
        }
        *remaining -= read as u64;
        if matches!(self.remaining, Remaining::Chunk(Some(0))) {
            body::chunk_end(&mut self.incoming)?;
            self.remaining = Remaining::Chunk(None);
        }
        Ok(read)
    }
}

/// Parses `bytes 5-9/10`: returns the first byte, and the length of the whole unless it is `*`.
fn content_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (range, whole) = value.strip_prefix("bytes ")?.trim().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let whole = if whole == "*" { None } else { Some(whole.parse().ok()?) };
    (first <= last && whole.is_none_or(|whole| last < whole)).then_some((first, whole))
}

/// Sends `length` bytes of `body` and reads the answer, also that of a server that refuses before it has
/// the whole body. A server that supports `Expect` can refuse before anything is sent.
pub fn put(
    request: &Request,
    body: &mut dyn Read,
    length: u64,
    patience: Patience,
) -> Result<Answer, Unanswered> {
    let began = Instant::now();
    let mut exchange = Exchange::new(request, Method::Get, patience.next())?;
    exchange.own_headers = vec![
        ("Content-Type", "application/octet-stream".to_owned()),
        ("Content-Length", length.to_string()),
        ("Expect", "100-continue".to_owned()),
    ];
    let url = &request.url;
    let peer = url.authority();
    let mut connection = exchange.connect(url)?;
    let head = exchange.head_for(url, "PUT");
    connection
        .send(&head)
        .map_err(|error| broken(&error, &peer, Phase::Head, exchange.deadline))?;
    let mut incoming = Incoming::new(connection);
    let (early, answer_by) = match wait_for_continue(&mut incoming, &peer)? {
        Some(head) => (Some(head), exchange.deadline),
        None => {
            let early = send(&mut incoming, &peer, body, length, patience)?;
            (early, patience.next())
        }
    };
    incoming.connection().set_deadline(answer_by);
    exchange.deadline = answer_by;
    let head = match early {
        Some(head) => head,
        None => final_head(&mut incoming, &peer, answer_by)?,
    };
    let (body, truncated) = exchange.body(url, &head, &mut incoming)?;
    let Head { status, headers, .. } = head;
    Ok(Answer { status, headers, body, truncated, took: began.elapsed() })
}

/// Waits a moment for "100 Continue". Returns the final answer if that came instead.
fn wait_for_continue(incoming: &mut Incoming, peer: &str) -> Result<Option<Head>, Unanswered> {
    let deadline = Deadline::after(CONTINUE_WAIT);
    incoming.connection().set_deadline(deadline);
    match any_head(incoming, peer, deadline) {
        Ok(head) if head.status == 100 => Ok(None),
        Ok(head) if head.status > 199 => Ok(Some(head)),
        Ok(_) => Ok(None),
        Err(error) if error.kind == Kind::Timeout => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sends the body. Returns the answer if the server sent one before the end and stopped reading.
fn send(
    incoming: &mut Incoming,
    peer: &str,
    body: &mut dyn Read,
    length: u64,
    patience: Patience,
) -> Result<Option<Head>, Unanswered> {
    let unreadable = |error: io::Error| {
        let msg = format!("cannot read the content that is sent to {peer}: {error}");
        Unanswered::new(Kind::Closed, msg)
    };
    let (mut sent, mut piece) = (0, vec![0; PIECE]);
    while sent < length {
        let most = usize::try_from(length - sent).unwrap_or(usize::MAX).min(PIECE);
        let read = match body.read(&mut piece[..most]) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(unreadable(error)),
            Ok(0) => return Err(unreadable(ErrorKind::UnexpectedEof.into())),
            Ok(read) => read,
        };
        let deadline = patience.next();
        incoming.connection().set_deadline(deadline);
        if let Err(error) = incoming.connection().send(&piece[..read]) {
            let broke = broken(&error, peer, Phase::Sent(sent), deadline);
            if broke.kind != Kind::Closed {
                return Err(broke);
            }
            let last = Deadline::after(LATE_ANSWER_WAIT);
            incoming.connection().set_deadline(last);
            return final_head(incoming, peer, last).map(Some).map_err(|_| broke);
        }
        sent += read as u64;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_ranges() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 0-0/*"), Some((0, None)));
        for wrong in ["", "bytes */10", "5-9/10", "bytes 9-5/10", "bytes 5-10/10", "bytes 5/10"] {
            assert_eq!(content_range(wrong), None, "{wrong}");
        }
    }
}
