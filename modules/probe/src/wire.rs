//! A connection over TCP or to a Unix socket, with one deadline for everything.
//!
//! Invariant: it never blocks in the kernel. Every wait is poll(2) in slices of [`LOOK_EVERY`] and ends at
//! the deadline or at a signal, whatever the other side does: even if it sends without a pause, or a byte
//! now and then.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use host::deadline::{Deadline, seconds};
use host::interrupt::{self, Interrupted};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrLike, SockaddrStorage, UnixAddr, connect, socket,
};

use crate::tls;
use crate::unanswered::{Kind, Unanswered};

/// How often a wait checks for a signal.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const ROUND_UP: Duration = Duration::from_micros(999);
/// How often a Unix socket with a full backlog is tried again: poll(2) does not report when it has room.
const TRY_AGAIN: Duration = Duration::from_millis(20);

/// A connection. Reads and writes fail with `TimedOut` at the deadline, and with an error that contains
/// [`Interrupted`] if a signal is pending.
pub(crate) struct Wire {
    stream: Stream,
    deadline: Deadline,
}

pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Wire {
    /// Connects to the first address that accepts. Each address gets its share of the remaining time, so that
    /// one that drops packets does not prevent trying the next.
    pub(crate) fn open(
        addresses: &[SocketAddr],
        peer: &str,
        deadline: Deadline,
    ) -> Result<Wire, Unanswered> {
        let (mut kinds, mut reasons) = (Vec::new(), Vec::new());
        for (index, address) in addresses.iter().enumerate() {
            let others = (addresses.len() - index) as u32;
            let share = Deadline::after(deadline.remaining() / others);
            let error = match open_one(*address, share) {
                Ok(stream) => return Ok(Wire { stream: Stream::Tcp(stream), deadline }),
                Err(error) => error,
            };
            if let Some(why) = interrupted(&error) {
                return Err(Unanswered::interrupted(&format!("connecting to {peer}"), why));
            }
            let (kind, reason) = refusal(&error, share);
            kinds.push(kind);
            let shown = address.to_string();
            reasons.push(if shown == peer { reason } else { format!("{reason} ({shown})") });
        }
        // The most specific kind: a closed port says more than a network without IPv6.
        let kind = [Kind::Refused, Kind::Timeout].into_iter().find(|kind| kinds.contains(kind));
        let msg = format!("cannot connect to {peer}: {}", reasons.join(", "));
        Err(Unanswered::new(kind.unwrap_or(Kind::Unreachable), msg))
    }

    /// Connects to a Unix socket by its path.
    pub(crate) fn open_socket(path: &Path, deadline: Deadline) -> Result<Wire, Unanswered> {
        let peer = path.display();
        match open_path(path, deadline) {
            Ok(stream) => Ok(Wire { stream: Stream::Unix(stream), deadline }),
            Err(error) => Err(match interrupted(&error) {
                Some(why) => Unanswered::interrupted(&format!("connecting to {peer}"), why),
                None => {
                    let (kind, reason) = refusal(&error, deadline);
                    Unanswered::new(kind, format!("cannot connect to {peer}: {reason}"))
                }
            }),
        }
    }

    /// Sets the deadline of all further waits: a long transfer gets more time as it makes progress.
    pub(crate) fn set_deadline(&mut self, deadline: Deadline) {
        self.deadline = deadline;
    }

    /// Returns the stream, which never waits: for the last message before closing.
    pub(crate) fn stream(&mut self) -> &mut Stream {
        &mut self.stream
    }

    /// Retries an operation until it does not block. The deadline is checked even if nothing blocks: a server
    /// may send for ever.
    fn retry<T>(
        &mut self,
        flags: PollFlags,
        mut attempt: impl FnMut(&mut Stream) -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            alive(self.deadline)?;
            match attempt(&mut self.stream) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    wait(self.stream.as_fd(), flags, self.deadline)?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(buffer),
            Stream::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(buffer),
            Stream::Unix(stream) => stream.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Tcp(stream) => stream.as_fd(),
            Stream::Unix(stream) => stream.as_fd(),
        }
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.retry(PollFlags::POLLIN, |stream| stream.read(buffer))
    }
}

impl Write for Wire {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.retry(PollFlags::POLLOUT, |stream| stream.write(buffer))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What was happening when a connection failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Handshake,
    Head,
    /// This many bytes of the body were received.
    Body(usize),
    /// This many bytes were sent.
    Sent(u64),
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Phase::Handshake => f.write_str("during the TLS handshake"),
            Phase::Head => f.write_str("before the headers of its answer were complete"),
            Phase::Body(bytes) => write!(f, "after {bytes} bytes of the body"),
            Phase::Sent(bytes) => write!(f, "after {bytes} bytes were sent"),
        }
    }
}

/// Explains the error of an established connection.
pub(crate) fn broken(error: &io::Error, peer: &str, phase: Phase, whole: Deadline) -> Unanswered {
    if let Some(why) = interrupted(error) {
        return Unanswered::interrupted(&format!("asking {peer}"), why);
    }
    if let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref()) {
        return Unanswered::new(Kind::Tls, tls::sentence(error, peer));
    }
    let end = match error.kind() {
        ErrorKind::TimedOut => {
            let span = seconds(whole.span());
            let msg = format!("{peer} did not answer within {span}: the time ended {phase}");
            return Unanswered::new(Kind::Timeout, msg);
        }
        ErrorKind::UnexpectedEof => "closed the connection",
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted => {
            "reset the connection"
        }
        _ => {
            let msg = format!("the connection to {peer} broke {phase}: {}", plain(error));
            return Unanswered::new(Kind::Unreachable, msg);
        }
    };
    Unanswered::new(Kind::Closed, format!("{peer} {end} {phase}"))
}

fn open_one(address: SocketAddr, deadline: Deadline) -> io::Result<TcpStream> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let stream = TcpStream::from(connected(family, &SockaddrStorage::from(address), deadline)?);
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    // TCP lets a socket connect to itself if its own port happens to be the requested one.
    if stream.local_addr()? == stream.peer_addr()? {
        return Err(Errno::ECONNREFUSED.into());
    }
    // The last part of a handshake is followed by the request, which Nagle's algorithm would delay.
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn open_path(path: &Path, deadline: Deadline) -> io::Result<UnixStream> {
    let address = UnixAddr::new(path)?;
    loop {
        match connected(AddressFamily::Unix, &address, deadline) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => deadline
                .sleep(TRY_AGAIN)
                .map_err(io::Error::other)
                .and_then(|()| alive(deadline))?,
            done => return done.map(UnixStream::from),
        }
    }
}

fn connected(
    family: AddressFamily,
    address: &dyn SockaddrLike,
    deadline: Deadline,
) -> io::Result<OwnedFd> {
    // Tried even if no time remains: an immediate answer takes none.
    interrupt::check().map_err(io::Error::other)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, SockType::Stream, flags, None)?;
    match connect(socket.as_raw_fd(), address) {
        Ok(()) => {}
        Err(Errno::EINPROGRESS | Errno::EINTR) => {
            wait(socket.as_fd(), PollFlags::POLLOUT, deadline)?;
        }
        Err(errno) => return Err(errno.into()),
    }
    Ok(socket)
}

fn alive(deadline: Deadline) -> io::Result<()> {
    interrupt::check().map_err(io::Error::other)?;
    if deadline.passed() { Err(ErrorKind::TimedOut.into()) } else { Ok(()) }
}

fn wait(fd: BorrowedFd<'_>, flags: PollFlags, deadline: Deadline) -> io::Result<()> {
    loop {
        interrupt::check().map_err(io::Error::other)?;
        let remaining = deadline.remaining();
        // Rounded up, since poll(2) takes whole milliseconds: otherwise the last one would be a busy loop.
        let slice = match remaining.is_zero() {
            true => remaining,
            false => remaining.min(LOOK_EVERY) + ROUND_UP,
        };
        let slice = PollTimeout::try_from(slice).unwrap_or(PollTimeout::ZERO);
        match poll(&mut [PollFd::new(fd, flags)], slice) {
            Ok(0) if remaining.is_zero() => return Err(ErrorKind::TimedOut.into()),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn interrupted(error: &io::Error) -> Option<Interrupted> {
    error.get_ref()?.downcast_ref().copied()
}

fn refusal(error: &io::Error, share: Deadline) -> (Kind, String) {
    match error.kind() {
        ErrorKind::ConnectionRefused => (Kind::Refused, "connection refused".into()),
        ErrorKind::TimedOut => (Kind::Timeout, no_answer(share.span())),
        _ => (Kind::Unreachable, plain(error)),
    }
}

/// Rounds to hundredths of a second, since a share of a deadline is not a round number.
fn no_answer(within: Duration) -> String {
    match (within.as_millis() as u64 + 5) / 10 * 10 {
        0 => "no time remained for it".into(),
        millis => format!("no answer within {}", seconds(Duration::from_millis(millis))),
    }
}

/// Returns the kernel's text of an error, without the number.
fn plain(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => Errno::from_raw(number).desc().to_lowercase(),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::time::Instant;

    use nix::sys::socket::SockaddrIn;
    use nix::sys::socket::{Backlog, bind, getsockname, listen};

    /// A port whose queue is full: the kernel drops what asks for a connection, as a firewall does.
    fn silent() -> (SocketAddr, Vec<std::os::fd::OwnedFd>) {
        let flags = SockFlag::SOCK_NONBLOCK;
        let new = || socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap();
        let listener = new();
        bind(listener.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
        listen(&listener, Backlog::new(0).unwrap()).unwrap();
        let address: SockaddrIn = getsockname(listener.as_raw_fd()).unwrap();
        let mut kept = vec![listener];
        for _ in 0..4 {
            let client = new();
            let _ = connect(client.as_raw_fd(), &address as &dyn SockaddrLike);
            kept.push(client);
        }
        let (ip, port) = (address.ip(), address.port());
        (SocketAddr::from((ip, port)), kept)
    }

    #[test]
    fn one_silent_address_does_not_hide_the_next() {
        let (silent, _kept) = silent();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let good = listener.local_addr().unwrap();
        let span = Duration::from_secs(4);
        let began = Instant::now();
        Wire::open(&[silent, good], "shop", Deadline::after(span)).unwrap();
        let took = began.elapsed();
        assert!(took >= span / 2, "{took:?}");

        drop(listener);
        let error = Wire::open(&[silent, good], "shop", Deadline::after(span)).err().unwrap();
        assert_eq!(error.kind, Kind::Refused, "{error}");
        let share = error.msg.strip_prefix("cannot connect to shop: no answer within ");
        let (share, rest) = share.unwrap().split_once(' ').unwrap();
        assert!(share.parse::<f64>().unwrap() <= 2.0, "more than its share: {error}");
        assert_eq!(rest, format!("s ({silent}), connection refused ({good})"));

        let began = Instant::now();
        let error = Wire::open(&[silent, silent], "shop", Deadline::after(span)).err().unwrap();
        let took = began.elapsed();
        assert!(took >= span && took < Duration::from_secs(60), "{took:?}");
        assert_eq!(error.kind, Kind::Timeout, "{error}");
    }

    #[test]
    fn a_socket_of_this_machine() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let soon = || Deadline::after(Duration::from_millis(200));
        let refused = |kind: Kind, words: &str| {
            let error = Wire::open_socket(&path, soon()).err().unwrap();
            let begin = format!("cannot connect to {}: ", path.display());
            assert_eq!(error.kind, kind, "{error}");
            assert_eq!(error.msg.strip_prefix(&begin), Some(words));
        };
        refused(Kind::Unreachable, "no such file or directory");
        let flags = SockFlag::SOCK_NONBLOCK;
        let listener = socket(AddressFamily::Unix, SockType::Stream, flags, None).unwrap();
        bind(listener.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        refused(Kind::Refused, "connection refused");
        listen(&listener, Backlog::new(0).unwrap()).unwrap();
        let long = Deadline::after(Duration::from_secs(60));
        let mut wire = Wire::open_socket(&path, long).unwrap();
        wire.write_all(b"abc").unwrap();
        // It takes no more than one that waits.
        refused(Kind::Timeout, "no answer within 0.2 s");
        let listener = std::os::unix::net::UnixListener::from(listener);
        let mut bytes = [0; 3];
        listener.accept().unwrap().0.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"abc");
        // Whoever has closed it is at its end.
        assert_eq!(wire.read(&mut bytes).unwrap(), 0);
    }

    #[test]
    fn with_no_remaining_time_it_still_tries() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (silent, _kept) = silent();
        let none = Deadline::after(Duration::ZERO);
        let error = Wire::open(&[silent], "shop", none).err().unwrap();
        assert!(error.msg.contains("no time remained for it"), "{error}");
        drop(listener);
        let error = Wire::open(&[address], "shop", none).err().unwrap();
        assert_eq!(error.kind, Kind::Refused, "{error}");
    }

    #[test]
    fn the_deadline_counts_also_when_there_is_always_something_to_read() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let deadline = Deadline::after(Duration::from_millis(200));
        let mut wire = Wire::open(&[address], "shop", deadline).unwrap();
        listener.accept().unwrap().0.write_all(b"abc").unwrap();
        let mut byte = [0];
        assert_eq!(wire.read(&mut byte).unwrap(), 1);
        std::thread::sleep(deadline.remaining());
        assert_eq!(wire.read(&mut byte).unwrap_err().kind(), ErrorKind::TimedOut);
    }
}
