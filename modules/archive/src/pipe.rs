//! Passes bytes from one thread to another in a few buffers that are reused, so that fetching, decoding
//! and unpacking together take a few MiB, however long the archive is.
//!
//! Invariant: the end of a pipe does not mean that all data has arrived; only the writer knows that.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

const PIECE: usize = 256 << 10;
const MAX_QUEUED: usize = 8;

pub struct Piece {
    bytes: Vec<u8>,
    length: usize,
}

pub struct Inlet {
    to: SyncSender<Piece>,
    empty: Receiver<Piece>,
}

pub struct Outlet {
    from: Receiver<Piece>,
    back: Sender<Piece>,
    current: Option<Piece>,
    at: usize,
}

/// The reader was dropped.
#[derive(Debug)]
pub struct ReaderGone;

pub fn pipe() -> (Inlet, Outlet) {
    let (to, from) = sync_channel(MAX_QUEUED);
    let (back, empty) = channel();
    (Inlet { to, empty }, Outlet { from, back, current: None, at: 0 })
}

impl Default for Piece {
    fn default() -> Piece {
        Piece { bytes: vec![0; PIECE], length: 0 }
    }
}

impl Piece {
    /// The whole buffer, to be filled.
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Inlet {
    /// Returns a buffer to fill: a used one, or a new one.
    pub fn piece(&self) -> Piece {
        self.empty.try_recv().unwrap_or_else(|_| Piece::default())
    }

    pub fn send(&self, mut piece: Piece, length: usize) -> Result<(), ReaderGone> {
        piece.length = length;
        self.to.send(piece).map_err(|_| ReaderGone)
    }
}

impl BufRead for Outlet {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.current.as_ref().is_none_or(|piece| self.at == piece.length) {
            if let Some(used) = self.current.take() {
                // The writer may have ended and needs it no more.
                let _ = self.back.send(used);
            }
            self.at = 0;
            match self.from.recv() {
                Ok(piece) => self.current = Some(piece),
                Err(_) => return Ok(&[]),
            }
        }
        Ok(self.current.as_ref().map_or(&[][..], |piece| &piece.bytes[self.at..piece.length]))
    }

    fn consume(&mut self, bytes: usize) {
        self.at += bytes;
    }
}

impl Read for Outlet {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let length = available.len().min(buffer.len());
        buffer[..length].copy_from_slice(&available[..length]);
        self.consume(length);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_arrive_as_they_were_sent() {
        let (inlet, mut outlet) = pipe();
        let sent: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        let expected = sent.clone();
        let writer = std::thread::spawn(move || {
            for part in sent.chunks(100_003) {
                let mut piece = inlet.piece();
                piece.room()[..part.len()].copy_from_slice(part);
                inlet.send(piece, part.len()).unwrap();
            }
        });
        let mut came = Vec::new();
        outlet.read_to_end(&mut came).unwrap();
        writer.join().unwrap();
        assert!(came == expected);
    }

    #[test]
    fn a_dropped_reader_is_reported() {
        let (inlet, outlet) = pipe();
        drop(outlet);
        assert!(inlet.send(inlet.piece(), 1).is_err());
    }
}
