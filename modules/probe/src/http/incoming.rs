//! The bytes that come over a connection, plain or in TLS, buffered.

use std::io::{self, ErrorKind, Read, Write};

use host::deadline::Deadline;
use rustls::{ClientConnection, StreamOwned};

use crate::wire::Wire;

/// How much is read at once.
const PIECE: usize = 16 << 10;

pub(super) enum Connection {
    Plain(Wire),
    Tls(Box<StreamOwned<ClientConnection, Wire>>),
}

impl Connection {
    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Connection::Plain(wire) => wire.write_all(bytes),
            Connection::Tls(stream) => {
                stream.write_all(bytes)?;
                stream.flush()
            }
        }
    }

    /// Sets the deadline of all further waits.
    pub(super) fn set_deadline(&mut self, deadline: Deadline) {
        match self {
            Connection::Plain(wire) => wire.set_deadline(deadline),
            Connection::Tls(stream) => stream.sock.set_deadline(deadline),
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Connection::Plain(wire) => wire.read(buffer),
            Connection::Tls(stream) => stream.read(buffer),
        }
    }
}

/// Some servers log a TLS connection that ends without close_notify as an error.
impl Drop for Connection {
    fn drop(&mut self) {
        if let Connection::Tls(stream) = self {
            stream.conn.send_close_notify();
            // The answer is complete, or has failed for another reason.
            let _ = stream.conn.write_tls(stream.sock.stream());
        }
    }
}

pub(super) struct Incoming {
    connection: Connection,
    buffer: Vec<u8>,
    used: usize,
}

impl Incoming {
    pub(super) fn new(connection: Connection) -> Incoming {
        Incoming { connection, buffer: Vec::new(), used: 0 }
    }

    /// Returns the bytes that were read and not yet consumed.
    pub(super) fn pending(&self) -> &[u8] {
        &self.buffer[self.used..]
    }

    pub(super) fn consume(&mut self, bytes: usize) {
        self.used += bytes;
    }

    pub(super) fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// Copies buffered bytes, or else reads new ones directly into `buffer`; 0 if the other side has
    /// closed.
    pub(super) fn read_into(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let buffered = self.pending().len().min(buffer.len());
        if buffered == 0 {
            return self.connection.read(buffer);
        }
        buffer[..buffered].copy_from_slice(&self.pending()[..buffered]);
        self.consume(buffered);
        Ok(buffered)
    }

    /// Reads at least one more byte.
    pub(super) fn read_more(&mut self) -> io::Result<()> {
        match self.read_more_or_end()? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Reads more and returns how many bytes; 0 if the other side has closed.
    pub(super) fn read_more_or_end(&mut self) -> io::Result<usize> {
        self.buffer.drain(..std::mem::take(&mut self.used));
        let buffered = self.buffer.len();
        self.buffer.resize(buffered + PIECE, 0);
        let read = self.connection.read(&mut self.buffer[buffered..]);
        self.buffer.truncate(buffered + *read.as_ref().unwrap_or(&0));
        read
    }
}
