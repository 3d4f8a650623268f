//! One connection to what is asked: a request and its answer, or what went wrong in which way.

use crate::http::{Fault, Head, no_byte};
use crate::websocket;
use anyhow::{Context, Result, bail};
use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

/// Where to ask and how; the same for every request.
pub struct Target {
    address: SocketAddr,
    timeout: Duration,
    keep: Vec<u8>,
    fresh: Vec<u8>,
    upgrade: Vec<u8>,
    /// May a request be sent again when the connection was closed without an answer?
    pub is_idempotent: bool,
}

pub struct Connection {
    reader: BufReader<TcpStream>,
}

pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
    /// The other end closes after this answer.
    pub is_last: bool,
}

impl Target {
    pub fn new(url: &str, method: &str, headers: &[&str], timeout: Duration) -> Result<Target> {
        let rest = url.strip_prefix("http://").context("only http:// can be asked")?;
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        let named = if authority.contains(':') { authority } else { &format!("{authority}:80") };
        let address = (named.to_socket_addrs().with_context(|| format!("{url}: {named}"))?)
            .next()
            .with_context(|| format!("{url}: no address"))?;
        let own_host = headers.iter().any(|line| line.to_ascii_lowercase().starts_with("host:"));
        let mut lines: Vec<String> = headers.iter().map(|line| (*line).to_owned()).collect();
        if !own_host {
            lines.push(format!("Host: {authority}"));
        }
        let length = if method == "GET" { "" } else { "Content-Length: 0\r\n" };
        let request = |path: &str, extra: &str| {
            let lines = lines.join("\r\n");
            format!("{method} {path} HTTP/1.1\r\n{lines}\r\n{length}{extra}\r\n").into_bytes()
        };
        let upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        Ok(Target {
            address,
            timeout,
            keep: request(path, ""),
            fresh: request(path, "Connection: close\r\n"),
            upgrade: request("/ws", upgrade),
            is_idempotent: matches!(method, "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE"),
        })
    }

    pub fn connect(&self) -> Result<Connection, Fault> {
        let stream = TcpStream::connect_timeout(&self.address, self.timeout)
            .and_then(|stream| {
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(self.timeout))?;
                stream.set_write_timeout(Some(self.timeout))?;
                Ok(stream)
            })
            .map_err(|error| Fault::Broken(format!("connect: {}", error.kind())))?;
        Ok(Connection { reader: BufReader::new(stream) })
    }

    /// A WebSocket, and the colour of the one that holds its other end.
    pub fn web_socket(&self) -> Result<(BufReader<TcpStream>, String)> {
        let refused = |fault| match fault {
            Fault::Closed(why) | Fault::Broken(why) => anyhow::anyhow!("no WebSocket: {why}"),
        };
        let mut connection = self.connect().map_err(refused)?;
        connection.reader.get_mut().write_all(&self.upgrade).context("asking for a WebSocket")?;
        let head = Head::read(&mut connection.reader).map_err(refused)?;
        let key = websocket::accept_key("dGhlIHNhbXBsZSBub25jZQ==");
        if !head.first.contains(" 101 ") || head.field("sec-websocket-accept") != Some(&key) {
            bail!("no WebSocket: {}", head.first);
        }
        let colour = head.field("x-colour").unwrap_or("unknown").to_owned();
        Ok((connection.reader, colour))
    }
}

impl Connection {
    pub fn ask(&mut self, target: &Target, keep: bool) -> Result<Answer, Fault> {
        let request = if keep { &target.keep } else { &target.fresh };
        let stream = self.reader.get_mut();
        stream.write_all(request).map_err(|error| no_byte(&error))?;
        let head = Head::read(&mut self.reader)?;
        let status = head.first.split(' ').nth(1).and_then(|text| text.parse().ok());
        let Some(status) = status else {
            return Err(Fault::Broken(format!("not a status line: {:?}", head.first)));
        };
        let body = head.body(&mut self.reader, true)?;
        Ok(Answer { status, body, is_last: head.says("connection", "close") || !keep })
    }
}
