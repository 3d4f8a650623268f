//! One HTTP request on a connection of its own: [`ask`] for an answer that fits into memory, [`fetch`]
//! and [`put`] for what does not.
//!
//! Over rustls and httparse, with a loop of our own in place of a client such as ureq: what is asked
//! here is one GET on a connection that is never kept, but with one deadline over everything, a look
//! for signals in every wait, names that the C library does not resolve, and a place to connect to
//! that is not the URL's. A client would have to be given its own resolver and its own connections,
//! through interfaces that it calls unstable, and what is left of it is less than this.
//!
//! Invariant: an [`Answer`] is complete but for what [`Request::most_body`] cut off; everything
//! else is [`Unanswered`].

mod body;
mod head;
mod incoming;
mod transfer;
pub(crate) mod url;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use host::deadline::Deadline;
use rustls::{ClientConfig, StreamOwned};

pub use crate::tls::Tls;
pub use crate::unanswered::{Kind, Unanswered};
pub use head::check_headers;
pub use transfer::{Fetching, Patience, fetch, put};
pub use url::Url;

use crate::wire::{Phase, Wire, broken};
use crate::{name, tls};
use body::Fault;
use head::Head;
use incoming::{Connection, Incoming};

/// How many answers 1xx may come before the one that counts.
const MOST_INTERIM: usize = 16;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    #[default]
    Get,
    Head,
}

impl Method {
    fn verb(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
        }
    }
}

/// What to ask.
#[derive(Clone)]
pub struct Request {
    pub url: Url,
    pub method: Method,
    /// Sent as they stand, each once; `Host`, `User-Agent` and `Accept` replace our own. A redirect
    /// to another scheme, host or port gets none of them.
    pub headers: Vec<(String, String)>,
    pub tls: Tls,
    /// How many redirects to follow. 0: an answer 3xx is just an answer.
    pub redirects: u32,
    /// How many bytes of the body to read; the rest is left. With 0 the body is not waited for.
    pub most_body: usize,
    /// Connect here, whatever the URL's host is; `Host`, SNI and the certificate's name stay the
    /// URL's. A redirect to another scheme, host or port goes where its own name leads.
    pub connect_to: Option<SocketAddr>,
    /// The same with a socket of this machine, as Docker's engine has one.
    pub socket: Option<PathBuf>,
}

impl Request {
    /// A GET: 1 MiB of the body at most, no redirects followed.
    pub fn get(url: Url) -> Request {
        Request {
            url,
            method: Method::Get,
            headers: Vec::new(),
            tls: Tls::default(),
            redirects: 0,
            most_body: 1 << 20,
            connect_to: None,
            socket: None,
        }
    }
}

/// Shows no value of a header and no path: tokens stand there.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.headers.iter().map(|(name, _)| name).collect();
        f.debug_struct("Request")
            .field("host", &self.url.authority())
            .field("method", &self.method)
            .field("headers", &names)
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// There was more of the body than was to be read.
    pub truncated: bool,
    pub took: Duration,
}

/// Asks, on a new connection, and never for longer than `deadline` for everything together: name,
/// connection, TLS, head, body, redirects.
pub fn ask(request: &Request, deadline: Duration) -> Result<Answer, Unanswered> {
    let (begun, deadline) = (Instant::now(), Deadline::after(deadline));
    let mut asking = Asking::new(request, request.method, deadline)?;
    let (url, head, mut incoming) = asking.follow()?;
    let (body, truncated) = asking.body(&url, &head, &mut incoming)?;
    let Head { status, headers, .. } = head;
    Ok(Answer { status, headers, body, truncated, took: begun.elapsed() })
}

/// One request and the redirects that it leads to.
struct Asking<'a> {
    request: &'a Request,
    method: Method,
    /// Headers of our own, which a redirect gets too: they tell nothing but what is wanted.
    ours: Vec<(&'static str, String)>,
    deadline: Deadline,
    /// Made once, and only when it is needed: it reads all the authorities of the machine.
    tls: Option<Arc<ClientConfig>>,
}

impl<'a> Asking<'a> {
    fn new(
        request: &'a Request,
        method: Method,
        deadline: Deadline,
    ) -> Result<Asking<'a>, Unanswered> {
        check_headers(&request.headers).map_err(|why| {
            let msg = format!("cannot ask {}: {why}", request.url.authority());
            Unanswered::new(Kind::Protocol, msg)
        })?;
        Ok(Asking { request, method, ours: Vec::new(), deadline, tls: None })
    }

    /// Up to the head of the answer that counts, and whose it is.
    fn follow(&mut self) -> Result<(Url, Head, Incoming), Unanswered> {
        let mut url = self.request.url.clone();
        let mut left = self.request.redirects;
        loop {
            let (head, incoming) = self.exchange(&url)?;
            let next = if self.request.redirects > 0 { next(&url, &head)? } else { None };
            let Some(next) = next else { return Ok((url, head, incoming)) };
            if left == 0 {
                let place = self.request.url.authority();
                let most = self.request.redirects;
                let msg = format!("{place} redirects more often than allowed ({most})");
                return Err(Unanswered::new(Kind::Redirects, msg));
            }
            left -= 1;
            url = next;
        }
    }

    /// Up to the head of one answer.
    fn exchange(&mut self, url: &Url) -> Result<(Head, Incoming), Unanswered> {
        let mut connection = self.connect(url)?;
        let head = self.head_for(url, self.method.verb());
        let broke = |error| broken(&error, &url.authority(), Phase::Head, self.deadline);
        connection.send(&head).map_err(broke)?;
        let mut incoming = Incoming::new(connection);
        let head = final_head(&mut incoming, &url.authority(), self.deadline)?;
        Ok((head, incoming))
    }

    fn head_for(&self, url: &Url, verb: &str) -> Vec<u8> {
        let Request { headers, .. } = self.request;
        let headers = if url.same_origin(&self.request.url) { headers.as_slice() } else { &[] };
        head::write(verb, url, headers, &self.ours)
    }

    fn connect(&mut self, url: &Url) -> Result<Connection, Unanswered> {
        let place = url.authority();
        let of_tls = |why| Unanswered::new(Kind::Tls, why);
        // Before anything is sent: what is wrong with the file of authorities is wrong every time.
        let begun = if url.is_https() {
            let config = match self.tls.take() {
                Some(known) => known,
                None => tls::config(&self.request.tls).map_err(of_tls)?,
            };
            self.tls = Some(config.clone());
            Some(tls::begin(config, url.host()).map_err(of_tls)?)
        } else {
            None
        };
        let mut wire = self.wire(url, &place)?;
        let Some(mut client) = begun else {
            return Ok(Connection::Plain(wire));
        };
        while client.is_handshaking() {
            client
                .complete_io(&mut wire)
                .map_err(|error| broken(&error, &place, Phase::Handshake, self.deadline))?;
        }
        Ok(Connection::Tls(Box::new(StreamOwned::new(client, wire))))
    }

    fn wire(&self, url: &Url, place: &str) -> Result<Wire, Unanswered> {
        let Request { connect_to, socket, .. } = self.request;
        let ours = url.same_origin(&self.request.url);
        if let Some(path) = socket.as_ref().filter(|_| ours) {
            return Wire::open_socket(path, self.deadline);
        }
        let addresses = match connect_to.filter(|_| ours) {
            Some(address) => vec![address],
            None => name::resolve_until(url.host(), url.port(), self.deadline)?,
        };
        Wire::open(&addresses, place, self.deadline)
    }

    fn body(
        &self,
        url: &Url,
        head: &Head,
        incoming: &mut Incoming,
    ) -> Result<(Vec<u8>, bool), Unanswered> {
        let place = url.authority();
        let refuse = |why: &str| Unanswered::new(Kind::Protocol, format!("{place} {why}"));
        let framing = body::framing(self.method, head).map_err(|why| refuse(&why))?;
        let mut body = Vec::new();
        match body::read(incoming, framing, self.request.most_body, &mut body) {
            Ok(truncated) => Ok((body, truncated)),
            Err(Fault::Garbage(why)) => Err(refuse(why)),
            Err(Fault::Io(error)) => {
                Err(broken(&error, &place, Phase::Body(body.len()), self.deadline))
            }
        }
    }
}

/// The next head, whatever its status is.
fn any_head(incoming: &mut Incoming, place: &str, deadline: Deadline) -> Result<Head, Unanswered> {
    let refuse = |why| Unanswered::new(Kind::Protocol, format!("{place} {why}"));
    loop {
        if let Some(head) = head::read(incoming.pending()).map_err(refuse)? {
            incoming.consume(head.length);
            return Ok(head);
        }
        incoming.more().map_err(|error| broken(&error, place, Phase::Head, deadline))?;
    }
}

/// The head that counts, after those that only say that it will come.
fn final_head(
    incoming: &mut Incoming,
    place: &str,
    deadline: Deadline,
) -> Result<Head, Unanswered> {
    let refuse = |why| Unanswered::new(Kind::Protocol, format!("{place} {why}"));
    for _ in 0..=MOST_INTERIM {
        let head = any_head(incoming, place, deadline)?;
        match head.status {
            101 => return Err(refuse("changed to a protocol that was not asked for".to_owned())),
            100..=199 => {}
            _ => return Ok(head),
        }
    }
    Err(refuse(format!("sent more than {MOST_INTERIM} answers 1xx and no other")))
}

/// Where an answer leads, if it does. Never from https to http: it would give away what TLS kept.
fn next(url: &Url, head: &Head) -> Result<Option<Url>, Unanswered> {
    let (301 | 302 | 303 | 307 | 308, Some(location)) = (head.status, head.all("location").next())
    else {
        return Ok(None);
    };
    let refuse = |why: &str| {
        let msg = format!("{} redirects to where it must not be followed: {why}", url.authority());
        Unanswered::new(Kind::Redirects, msg)
    };
    let next = url.join(location).map_err(|why| refuse(&why))?;
    if url.is_https() && !next.is_https() {
        return Err(refuse("from https to http"));
    }
    Ok(Some(next))
}
