//! Sends a command to a socket of HAProxy and reads its answer.
//!
//! Invariants: every answer has a deadline and a size limit. The sending half is closed after the command:
//! otherwise the master's socket would wait for more, and the read would hang.

use ansible_module::Failure;
use anyhow::{Context, Result};
use host::deadline::{Deadline, seconds};
use host::interrupt;
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// The usual deadline; HAProxy answers in milliseconds, except to a reload of a large configuration.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a wait checks for a signal.
const SLICE: Duration = Duration::from_millis(50);
/// The longest answer; `show stat` of 10,000 servers is about 5 MB.
const MOST: u64 = 64 << 20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Socket {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

enum Connection {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Socket {
    /// Parses a path, or an address with a port, with or without HAProxy's own prefixes for them.
    pub fn parse(text: &str) -> Result<Socket, String> {
        let bare = ["unix@", "ipv4@", "ipv6@"].iter().find_map(|kind| text.strip_prefix(kind));
        let bare = bare.unwrap_or(text);
        if bare.starts_with('/') {
            return Ok(Socket::Unix(bare.into()));
        }
        bare.parse().map(Socket::Tcp).map_err(|_| {
            format!(
                "expected the absolute path of a socket, or an address with a port such as \
                 127.0.0.1:9999, got {text:?}"
            )
        })
    }

    /// Sends a command and returns its answer without the empty lines at its end.
    pub fn ask(&self, command: &str) -> Result<String> {
        self.ask_for(command, PATIENCE)
    }

    pub fn ask_for(&self, command: &str, patience: Duration) -> Result<String> {
        let (answer, _) = self
            .exchange(command, Deadline::after(patience))
            .with_context(|| format!("asking HAProxy at {self}: {command}"))?;
        let text = String::from_utf8_lossy(&answer);
        let text = text.trim_end_matches('\n');
        if text.starts_with("Permission denied") {
            return Err(Failure::new(
                "no_rights",
                format!("HAProxy at {self} refuses {command:?}: the socket needs `level admin`"),
            )
            .into());
        }
        if text.starts_with("Unknown command") {
            return Err(Failure::new(
                "unknown_command",
                format!("HAProxy at {self} does not know {command:?}: is it a stats socket of HAProxy 2.6 or newer?"),
            )
            .into());
        }
        Ok(text.to_owned())
    }

    /// Returns the pid, on this machine, of the process that made the socket; it may have ended since.
    pub fn creator(&self) -> Result<Option<u32>> {
        let asked = self.exchange("show info", Deadline::after(PATIENCE));
        Ok(asked.with_context(|| format!("finding out which process made the socket {self}"))?.1)
    }

    /// Sends a command; returns the answer and the creator of the socket.
    fn exchange(&self, command: &str, deadline: Deadline) -> Result<(Vec<u8>, Option<u32>)> {
        let mut line = self.connect(deadline).map_err(|why| self.unreachable(&why))?;
        let creator = line.creator();
        let sent = line.write_all(format!("{command}\n").as_bytes()).and_then(|()| line.shutdown());
        sent.map_err(|why| self.unreachable(&why))?;
        let (mut answer, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
        loop {
            interrupt::check()?;
            match line.read(&mut buffer) {
                Ok(0) => return Ok((answer, creator)),
                Ok(got) => answer.extend_from_slice(&buffer[..got]),
                Err(error) if is_timeout(&error) => {}
                Err(error) => return Err(self.unreachable(&error).into()),
            }
            if answer.len() as u64 > MOST {
                let msg = format!("the answer is longer than {} MiB", MOST >> 20);
                return Err(Failure::new("bad_answer", msg).into());
            }
            if deadline.passed() {
                let msg = format!("no complete answer within {}", seconds(deadline.span()));
                return Err(Failure::new("timed_out", msg).into());
            }
        }
    }

    fn connect(&self, deadline: Deadline) -> io::Result<Connection> {
        let line = match self {
            Socket::Unix(path) => Connection::Unix(UnixStream::connect(path)?),
            Socket::Tcp(address) => Connection::Tcp(TcpStream::connect_timeout(
                address,
                deadline.remaining().max(Duration::from_millis(1)),
            )?),
        };
        line.limit(SLICE)?;
        Ok(line)
    }

    /// Explains why the socket cannot be used, and what to do.
    fn unreachable(&self, why: &io::Error) -> Failure {
        let (reason, text) = match why.kind() {
            ErrorKind::NotFound => (
                "no_socket",
                "there is no such socket: is HAProxy running, with this `stats socket` (or -S) in \
                 its configuration?"
                    .to_owned(),
            ),
            ErrorKind::ConnectionRefused => {
                ("not_running", "nothing listens there: HAProxy is not running".to_owned())
            }
            ErrorKind::PermissionDenied => (
                "permission_denied",
                "no right to use this socket: run as root, or as its owner".to_owned(),
            ),
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::NotConnected => {
                ("not_running", format!("the connection was cut ({why}): HAProxy has ended"))
            }
            _ => ("bad_answer", why.to_string()),
        };
        Failure::new(reason, text)
    }
}

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Socket::Unix(path) => write!(f, "{}", path.display()),
            Socket::Tcp(address) => write!(f, "{address}"),
        }
    }
}

impl Connection {
    fn limit(&self, slice: Duration) -> io::Result<()> {
        match self {
            Connection::Unix(line) => {
                line.set_read_timeout(Some(slice))?;
                line.set_write_timeout(Some(PATIENCE))
            }
            Connection::Tcp(line) => {
                line.set_read_timeout(Some(slice))?;
                line.set_write_timeout(Some(PATIENCE))
            }
        }
    }

    fn creator(&self) -> Option<u32> {
        let Connection::Unix(line) = self else { return None };
        let pid = getsockopt(line, PeerCredentials).ok()?.pid();
        u32::try_from(pid).ok().filter(|pid| *pid > 0)
    }

    fn shutdown(&self) -> io::Result<()> {
        match self {
            Connection::Unix(line) => line.shutdown(Shutdown::Write),
            Connection::Tcp(line) => line.shutdown(Shutdown::Write),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Connection::Unix(line) => line.write_all(bytes),
            Connection::Tcp(line) => line.write_all(bytes),
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Connection::Unix(line) => line.read(buffer),
            Connection::Tcp(line) => line.read(buffer),
        }
    }
}

/// How long a master takes at most to restart itself, which it does at each reload.
const RESTART: Duration = Duration::from_secs(3);
const RETRY_EVERY: Duration = Duration::from_millis(50);

/// Calls `ask` again while nothing listens, since HAProxy may be restarting.
pub fn retry_while_down<T>(mut ask: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Deadline::after(RESTART);
    loop {
        match ask() {
            Err(error) if is_gone(&error) && !deadline.passed() => deadline.sleep(RETRY_EVERY)?,
            answer => return answer,
        }
    }
}

/// Whether nothing listens: HAProxy has ended.
pub fn is_gone(error: &anyhow::Error) -> bool {
    has_reason(error, &["not_running", "no_socket"])
}

/// Whether HAProxy does not know the command.
pub fn is_unknown(error: &anyhow::Error) -> bool {
    has_reason(error, &["unknown_command"])
}

fn has_reason(error: &anyhow::Error, reasons: &[&str]) -> bool {
    let mut failures = error.chain().filter_map(|cause| cause.downcast_ref::<Failure>());
    failures.any(|failure| reasons.contains(&failure.reason))
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_a_path_or_an_address() {
        assert_eq!(Socket::parse("/run/h.sock"), Ok(Socket::Unix("/run/h.sock".into())));
        assert_eq!(Socket::parse("unix@/run/h.sock"), Ok(Socket::Unix("/run/h.sock".into())));
        assert!(matches!(Socket::parse("127.0.0.1:99"), Ok(Socket::Tcp(_))));
        assert!(matches!(Socket::parse("[::1]:99"), Ok(Socket::Tcp(_))));
        for odd in ["", "run/h.sock", "127.0.0.1", "localhost:99", "abns@x"] {
            assert!(Socket::parse(odd).is_err(), "{odd:?}");
        }
    }
}
