//! What comes over a connection, plain or in TLS, with what was read and not yet used.

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

    /// From now on the waits end with another deadline.
    pub(super) fn until(&mut self, deadline: Deadline) {
        match self {
            Connection::Plain(wire) => wire.until(deadline),
            Connection::Tls(stream) => stream.sock.until(deadline),
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Connection::Plain(wire) => wire.read(buffer),
            Connection::Tls(stream) => stream.read(buffer),
        }
    }
}

/// Some servers count a TLS connection that ends without a farewell as an error.
impl Drop for Connection {
    fn drop(&mut self) {
        if let Connection::Tls(stream) = self {
            stream.conn.send_close_notify();
            // The answer is complete, or it failed for another reason than this.
            let _ = stream.conn.write_tls(stream.sock.without_waiting());
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

    /// Read, and not yet used.
    pub(super) fn pending(&self) -> &[u8] {
        &self.buffer[self.used..]
    }

    pub(super) fn consume(&mut self, bytes: usize) {
        self.used += bytes;
    }

    pub(super) fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// What was read before, or else new bytes, straight to where they are wanted; 0 when the other
    /// side has closed.
    pub(super) fn read_into(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let known = self.pending().len().min(buffer.len());
        if known == 0 {
            return self.connection.read(buffer);
        }
        buffer[..known].copy_from_slice(&self.pending()[..known]);
        self.consume(known);
        Ok(known)
    }

    /// At least one byte more.
    pub(super) fn more(&mut self) -> io::Result<()> {
        match self.more_or_end()? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// How many bytes more there are now; 0 when the other side has closed.
    pub(super) fn more_or_end(&mut self) -> io::Result<usize> {
        self.buffer.drain(..std::mem::take(&mut self.used));
        let known = self.buffer.len();
        self.buffer.resize(known + PIECE, 0);
        let read = self.connection.read(&mut self.buffer[known..]);
        self.buffer.truncate(known + *read.as_ref().unwrap_or(&0));
        read
    }
}
