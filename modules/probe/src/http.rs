//! Sends one HTTP request on a new connection: [`ask`] for an answer that fits into memory, [`fetch`]
//! and [`put`] for long bodies.
//!
//! It is built on rustls and httparse, instead of a client such as ureq: what is needed is one GET on a
//! connection that is not reused, but with one deadline over everything, a check for signals in every
//! wait, names that the C library does not resolve, and an address to connect to that is not the URL's.
//! A client would need a resolver and connections of ours, through interfaces that it calls unstable,
//! and what remains of it is less than this.
//!
//! Invariant: an [`Answer`] is complete, except for what [`Request::most_body`] cut off; everything else
//! is [`Unanswered`].

mod body;
mod head;
mod incoming;
mod proxy;
mod transfer;
mod tunnel;
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
pub use proxy::Proxies;
pub use transfer::{Fetching, Patience, fetch, put};
pub use url::Url;

use crate::wire::{Phase, Wire, broken};
use crate::{name, tls};
use body::Fault;
use head::Head;
use incoming::{Connection, Incoming};
use proxy::Proxy;

/// How many interim answers (1xx) may precede the final one.
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

/// A request.
#[derive(Clone)]
pub struct Request {
    pub url: Url,
    pub method: Method,
    /// Headers that are sent unchanged, each once; `Host`, `User-Agent` and `Accept` replace the default
    /// ones. After a redirect to another scheme, host or port none of them is sent.
    pub headers: Vec<(String, String)>,
    pub tls: Tls,
    /// How many redirects to follow. With 0, an answer 3xx is returned like any other.
    pub redirects: u32,
    /// How many bytes of the body to read. With 0 the body is not waited for.
    pub most_body: usize,
    /// Connect to this address instead of the URL's host; `Host`, SNI and the name in the certificate
    /// are still the URL's. A redirect to another scheme, host or port uses its own name.
    pub connect_to: Option<SocketAddr>,
    /// Connect to this Unix socket instead, as for Docker's engine.
    pub socket: Option<PathBuf>,
    /// Through which proxies to go; by default through none. Not with `connect_to` or `socket`.
    pub proxies: Proxies,
}

impl Request {
    /// Makes a GET request that reads at most 1 MiB of the body and follows no redirects.
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
            proxies: Proxies::default(),
        }
    }
}

/// Prints no value of a header and no path, since these may contain tokens.
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
    /// Whether the body was longer than `most_body`.
    pub truncated: bool,
    pub took: Duration,
}

/// Sends a request on a new connection and reads the answer. `deadline` covers everything together:
/// name, connection, TLS, head, body, redirects.
pub fn ask(request: &Request, deadline: Duration) -> Result<Answer, Unanswered> {
    let (began, deadline) = (Instant::now(), Deadline::after(deadline));
    let mut exchange = Exchange::new(request, request.method, deadline)?;
    let (url, head, mut incoming) = exchange.follow()?;
    let (body, truncated) = exchange.body(&url, &head, &mut incoming)?;
    let Head { status, headers, .. } = head;
    Ok(Answer { status, headers, body, truncated, took: began.elapsed() })
}

/// A request and the redirects that it leads to.
struct Exchange<'a> {
    request: &'a Request,
    method: Method,
    /// Headers that are also sent after a redirect, since they contain no secret.
    own_headers: Vec<(&'static str, String)>,
    deadline: Deadline,
    /// Made once, and only if it is needed: it reads all trusted authorities of the machine.
    tls: Option<Arc<ClientConfig>>,
}

impl<'a> Exchange<'a> {
    fn new(
        request: &'a Request,
        method: Method,
        deadline: Deadline,
    ) -> Result<Exchange<'a>, Unanswered> {
        check_headers(&request.headers).map_err(|why| {
            let msg = format!("cannot ask {}: {why}", request.url.authority());
            Unanswered::new(Kind::Protocol, msg)
        })?;
        Ok(Exchange { request, method, own_headers: Vec::new(), deadline, tls: None })
    }

    /// Follows redirects up to the head of the final answer, and returns its URL with it.
    fn follow(&mut self) -> Result<(Url, Head, Incoming), Unanswered> {
        let mut url = self.request.url.clone();
        let mut remaining = self.request.redirects;
        loop {
            let (head, incoming) = self.send_request(&url)?;
            let next = if self.request.redirects > 0 { next(&url, &head)? } else { None };
            let Some(next) = next else { return Ok((url, head, incoming)) };
            if remaining == 0 {
                let peer = self.request.url.authority();
                let most = self.request.redirects;
                let msg = format!("{peer} redirects more often than allowed ({most})");
                return Err(Unanswered::new(Kind::Redirects, msg));
            }
            remaining -= 1;
            url = next;
        }
    }

    /// Sends the request to one URL and reads the head of the answer.
    fn send_request(&mut self, url: &Url) -> Result<(Head, Incoming), Unanswered> {
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
        match self.proxy(url).filter(|_| !url.is_https()) {
            Some(proxy) => tunnel::through(proxy, verb, url, headers, &self.own_headers),
            None => head::write(verb, url, headers, &self.own_headers),
        }
    }

    fn proxy(&self, url: &Url) -> Option<&Proxy> {
        let Request { connect_to, socket, proxies, .. } = self.request;
        let own_way = connect_to.is_some() || socket.is_some();
        let own_way = own_way && url.same_origin(&self.request.url);
        proxies.of_url(url).filter(|_| !own_way)
    }

    fn connect(&mut self, url: &Url) -> Result<Connection, Unanswered> {
        let peer = url.authority();
        let of_tls = |why| Unanswered::new(Kind::Tls, why);
        // Before anything is sent: an unreadable file of authorities is an error in any case.
        let client = if url.is_https() {
            let config = match self.tls.take() {
                Some(config) => config,
                None => tls::config(&self.request.tls).map_err(of_tls)?,
            };
            self.tls = Some(config.clone());
            Some(tls::begin(config, url.host()).map_err(of_tls)?)
        } else {
            None
        };
        let mut wire = self.wire(url, &peer)?;
        let Some(mut client) = client else {
            return Ok(Connection::Plain(wire));
        };
        while client.is_handshaking() {
            client
                .complete_io(&mut wire)
                .map_err(|error| broken(&error, &peer, Phase::Handshake, self.deadline))?;
        }
        Ok(Connection::Tls(Box::new(StreamOwned::new(client, wire))))
    }

    fn wire(&self, url: &Url, peer: &str) -> Result<Wire, Unanswered> {
        let Request { connect_to, socket, .. } = self.request;
        if let Some(proxy) = self.proxy(url) {
            return tunnel::open(proxy, url, self.deadline);
        }
        let ours = url.same_origin(&self.request.url);
        if let Some(path) = socket.as_ref().filter(|_| ours) {
            return Wire::open_socket(path, self.deadline);
        }
        let addresses = match connect_to.filter(|_| ours) {
            Some(address) => vec![address],
            None => name::resolve_until(url.host(), url.port(), self.deadline)?,
        };
        Wire::open(&addresses, peer, self.deadline)
    }

    fn body(
        &self,
        url: &Url,
        head: &Head,
        incoming: &mut Incoming,
    ) -> Result<(Vec<u8>, bool), Unanswered> {
        let peer = url.authority();
        let refuse = |why: &str| Unanswered::new(Kind::Protocol, format!("{peer} {why}"));
        let framing = body::framing(self.method, head).map_err(|why| refuse(&why))?;
        let mut body = Vec::new();
        match body::read(incoming, framing, self.request.most_body, &mut body) {
            Ok(truncated) => Ok((body, truncated)),
            Err(Fault::Malformed(why)) => Err(refuse(why)),
            Err(Fault::Io(error)) => {
                Err(broken(&error, &peer, Phase::Body(body.len()), self.deadline))
            }
        }
    }
}

/// Reads the next head, whatever its status is.
fn any_head(incoming: &mut Incoming, peer: &str, deadline: Deadline) -> Result<Head, Unanswered> {
    let refuse = |why| Unanswered::new(Kind::Protocol, format!("{peer} {why}"));
    loop {
        if let Some(head) = head::read(incoming.pending()).map_err(refuse)? {
            incoming.consume(head.length);
            return Ok(head);
        }
        incoming.read_more().map_err(|error| broken(&error, peer, Phase::Head, deadline))?;
    }
}

/// Reads the final head, after interim ones.
fn final_head(incoming: &mut Incoming, peer: &str, deadline: Deadline) -> Result<Head, Unanswered> {
    let refuse = |why| Unanswered::new(Kind::Protocol, format!("{peer} {why}"));
    for _ in 0..=MOST_INTERIM {
        let head = any_head(incoming, peer, deadline)?;
        match head.status {
            101 => return Err(refuse("switched to a protocol that was not requested".to_owned())),
            100..=199 => {}
            _ => return Ok(head),
        }
    }
    Err(refuse(format!("sent more than {MOST_INTERIM} answers 1xx and no other")))
}

/// Returns the target of a redirect. Never from https to http, which would reveal what TLS protects.
fn next(url: &Url, head: &Head) -> Result<Option<Url>, Unanswered> {
    let (301 | 302 | 303 | 307 | 308, Some(location)) = (head.status, head.all("location").next())
    else {
        return Ok(None);
    };
    let refuse = |why: &str| {
        let msg =
            format!("{} redirects to a URL that must not be followed: {why}", url.authority());
        Unanswered::new(Kind::Redirects, msg)
    };
    let next = url.join(location).map_err(|why| refuse(&why))?;
    if url.is_https() && !next.is_https() {
        return Err(refuse("from https to http"));
    }
    Ok(Some(next))
}
