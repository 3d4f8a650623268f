//! Long transfers: a GET that is read piece by piece and can go on from where an earlier one broke
//! off, and a PUT from a file.
//!
//! Invariants: every pause has an end, and so has the whole: whoever sends nothing, or takes nothing,
//! for the length of a pause is left, and so is whoever sends a byte now and then for ever. What a [`Fetching`] yields begins at the offset
//! that was asked for, whatever the server makes of ranges, and its end is the body's end, or there
//! is an error. A body is sent once; it follows no redirect.

use std::io::{self, ErrorKind, Read};
use std::time::{Duration, Instant};

use host::deadline::Deadline;

use super::body::{self, Fault, Framing};
use super::head::Head;
use super::incoming::Incoming;
use super::{Answer, Asking, Kind, Method, Request, Unanswered, any_head, final_head};
use crate::wire::{Phase, broken};

/// How long to wait for a server to say that it wants the body. Many never say it.
const GO_ON: Duration = Duration::from_secs(1);
/// How long to listen to a server that has stopped listening to us: it may have said why.
const LAST_WORDS: Duration = Duration::from_secs(2);
const PIECE: usize = 128 << 10;

/// How long a transfer is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// The longest time in which nothing moves.
    pub pause: Duration,
    /// The end of everything.
    pub whole: Deadline,
}

impl Patience {
    fn next(&self) -> Deadline {
        Deadline::after(self.pause).or_sooner(self.whole)
    }
}

/// An answer whose body is read piece by piece.
pub struct Fetching {
    place: String,
    /// The server that answered after redirects, if another one than was asked.
    pub redirected: bool,
    pub status: u16,
    pub headers: Vec<(String, String)>,
    /// The length of the whole, not only from the offset on, where the server says it.
    pub total: Option<u64>,
    incoming: Incoming,
    left: Left,
    /// To be passed over: the server has sent the whole although a part was asked for.
    skip: u64,
    read: u64,
    patience: Patience,
}

enum Left {
    Bytes(u64),
    /// So much of the chunk that we are in; none: at the line before the next.
    Chunk(Option<u64>),
    UntilClosed,
}

/// Asks for the body from the byte `from` on. Name, connection and head share one pause; then each
/// pause counts for itself.
pub fn fetch(request: &Request, from: u64, patience: Patience) -> Result<Fetching, Unanswered> {
    let mut asking = Asking::new(request, Method::Get, patience.next())?;
    if from > 0 {
        asking.ours.push(("Range", format!("bytes={from}-")));
    }
    let (url, head, incoming) = asking.follow()?;
    let place = url.authority();
    let refuse = |why: &str| Unanswered::new(Kind::Protocol, format!("{place} {why}"));
    let left = match body::framing(Method::Get, &head).map_err(|why| refuse(&why))? {
        Framing::Nothing => Left::Bytes(0),
        Framing::Length(length) => Left::Bytes(length),
        Framing::Chunked => Left::Chunk(None),
        Framing::UntilClosed => Left::UntilClosed,
    };
    let (mut skip, mut total) = (0, None);
    match head.status {
        200 => {
            skip = from;
            total = if let Left::Bytes(length) = left { Some(length) } else { None };
        }
        206 => {
            let range = head.all("content-range").next().and_then(content_range);
            let Some((first, whole)) = range else {
                return Err(refuse("sent a part without saying which"));
            };
            if first != from {
                return Err(refuse("sent another part than was asked for"));
            }
            total = whole;
        }
        _ => {}
    }
    let redirected = !url.same_origin(&request.url);
    let Head { status, headers, .. } = head;
    Ok(Fetching {
        place,
        redirected,
        status,
        headers,
        total,
        incoming,
        left,
        skip,
        read: 0,
        patience,
    })
}

impl Fetching {
    /// The next bytes of the body, as many as there are at once; 0 at its end.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Unanswered> {
        loop {
            let read = self.piece(buffer)?;
            self.read += read as u64;
            if read == 0 && self.skip > 0 {
                let msg = format!("{} sent less than it had sent before", self.place);
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
        self.incoming.connection().until(deadline);
        self.framed(buffer).map_err(|fault| match fault {
            Fault::Garbage(why) => Unanswered::new(Kind::Protocol, format!("{} {why}", self.place)),
            Fault::Io(error) => {
                let so_far = usize::try_from(self.read).unwrap_or(usize::MAX);
                broken(&error, &self.place, Phase::Body(so_far), deadline)
            }
        })
    }

    fn framed(&mut self, buffer: &mut [u8]) -> Result<usize, Fault> {
        let left = match &mut self.left {
            Left::UntilClosed => return Ok(self.incoming.read_into(buffer)?),
            Left::Bytes(left) => left,
            Left::Chunk(Some(left)) => left,
            Left::Chunk(none) => {
                let size = body::chunk_line(&mut self.incoming)?;
                if size == 0 {
                    self.left = Left::Bytes(0);
                    return Ok(0);
                }
                none.insert(size)
            }
        };
        if *left == 0 {
            return Ok(0);
        }
        let most = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.incoming.read_into(&mut buffer[..most])?;
        if read == 0 && most > 0 {
            return Err(Fault::Io(ErrorKind::UnexpectedEof.into()));
        }
        *left -= read as u64;
        if matches!(self.left, Left::Chunk(Some(0))) {
            body::chunk_end(&mut self.incoming)?;
            self.left = Left::Chunk(None);
        }
        Ok(read)
    }
}

/// `bytes 5-9/10`: the first byte, and the length of the whole unless it is `*`.
fn content_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (range, whole) = value.strip_prefix("bytes ")?.trim().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let whole = if whole == "*" { None } else { Some(whole.parse().ok()?) };
    (first <= last && whole.is_none_or(|whole| last < whole)).then_some((first, whole))
}

/// Sends `length` bytes of `body`. A server that refuses before it has all of it is heard, if it
/// says so; and one that knows `Expect` can refuse before anything is sent.
pub fn put(
    request: &Request,
    body: &mut dyn Read,
    length: u64,
    patience: Patience,
) -> Result<Answer, Unanswered> {
    let begun = Instant::now();
    let mut asking = Asking::new(request, Method::Get, patience.next())?;
    asking.ours = vec![
        ("Content-Type", "application/octet-stream".to_owned()),
        ("Content-Length", length.to_string()),
        ("Expect", "100-continue".to_owned()),
    ];
    let url = &request.url;
    let place = url.authority();
    let mut connection = asking.connect(url)?;
    let head = asking.head_for(url, "PUT");
    connection.send(&head).map_err(|error| broken(&error, &place, Phase::Head, asking.deadline))?;
    let mut incoming = Incoming::new(connection);
    let (early, answer_by) = match asked_for_it(&mut incoming, &place)? {
        Some(head) => (Some(head), asking.deadline),
        None => {
            let early = send(&mut incoming, &place, body, length, patience)?;
            (early, patience.next())
        }
    };
    incoming.connection().until(answer_by);
    asking.deadline = answer_by;
    let head = match early {
        Some(head) => head,
        None => final_head(&mut incoming, &place, answer_by)?,
    };
    let (body, truncated) = asking.body(url, &head, &mut incoming)?;
    let Head { status, headers, .. } = head;
    Ok(Answer { status, headers, body, truncated, took: begun.elapsed() })
}

/// Waits a moment for "go on". `Some`: the answer came in its place.
fn asked_for_it(incoming: &mut Incoming, place: &str) -> Result<Option<Head>, Unanswered> {
    let deadline = Deadline::after(GO_ON);
    incoming.connection().until(deadline);
    match any_head(incoming, place, deadline) {
        Ok(head) if head.status == 100 => Ok(None),
        Ok(head) if head.status > 199 => Ok(Some(head)),
        Ok(_) => Ok(None),
        Err(error) if error.kind == Kind::Timeout => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sends the body. `Some`: the server had enough before the end, and said so.
fn send(
    incoming: &mut Incoming,
    place: &str,
    body: &mut dyn Read,
    length: u64,
    patience: Patience,
) -> Result<Option<Head>, Unanswered> {
    let own = |error: io::Error| {
        Unanswered::new(Kind::Closed, format!("what is sent to {place} cannot be read: {error}"))
    };
    let (mut sent, mut piece) = (0, vec![0; PIECE]);
    while sent < length {
        let most = usize::try_from(length - sent).unwrap_or(usize::MAX).min(PIECE);
        let read = match body.read(&mut piece[..most]) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(own(error)),
            Ok(0) => return Err(own(ErrorKind::UnexpectedEof.into())),
            Ok(read) => read,
        };
        let deadline = patience.next();
        incoming.connection().until(deadline);
        if let Err(error) = incoming.connection().send(&piece[..read]) {
            let broke = broken(&error, place, Phase::Sent(sent), deadline);
            if broke.kind != Kind::Closed {
                return Err(broke);
            }
            let last = Deadline::after(LAST_WORDS);
            incoming.connection().until(last);
            return final_head(incoming, place, last).map(Some).map_err(|_| broke);
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
