//! Decompresses zstd, gzip or plain tar, recognised by the first bytes and not by the name.
//!
//! Invariant: the end is reported only when the compressed data itself marks it.

use crate::pipe::Inlet;
use flate2::bufread::MultiGzDecoder;
use std::io::{self, BufRead, Read};

/// 128 MiB, which is also the largest window that the zstd program accepts by default.
const LARGEST_WINDOW: u32 = 27;
const WHAT: &str = "neither zstd, nor gzip, nor tar";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Zstd,
    Gzip,
    Tar,
}

impl Form {
    /// Recognises the form by the first bytes; a tar archive has its magic at byte 257.
    pub fn of(head: &[u8]) -> Option<Form> {
        // A zstd file may begin with a skippable frame: 50 to 5f, then this.
        let skippable =
            head.len() >= 4 && head[0] & 0xf0 == 0x50 && head[1..4] == [0x2a, 0x4d, 0x18];
        if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) || skippable {
            Some(Form::Zstd)
        } else if head.starts_with(&[0x1f, 0x8b]) {
            Some(Form::Gzip)
        } else if head.get(257..262) == Some(b"ustar") {
            Some(Form::Tar)
        } else {
            None
        }
    }
}

/// Reads until the buffer is full or the input ends.
pub fn fill(from: &mut dyn Read, room: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < room.len() {
        match from.read(&mut room[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

/// Decompresses until the end, or until the reader of the pipe is gone, which is no error. The error
/// completes "the archive is damaged: ...".
pub fn run(from: impl BufRead, to: &Inlet) -> Result<(), String> {
    copy(&mut *decoder(from)?, to).map_err(|error| sentence(&error))
}

/// Returns a reader of the decompressed bytes; [`sentence`] turns its errors into a message.
pub fn decoder<'a>(mut from: impl BufRead + 'a) -> Result<Box<dyn Read + 'a>, String> {
    let reported = |error: io::Error| sentence(&error);
    let head = from.fill_buf().map_err(reported)?;
    if head.is_empty() {
        return Err("it is empty".into());
    }
    Ok(match Form::of(head) {
        Some(Form::Zstd) => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(from).map_err(reported)?;
            decoder.window_log_max(LARGEST_WINDOW).map_err(reported)?;
            Box::new(decoder)
        }
        Some(Form::Gzip) => Box::new(MultiGzDecoder::new(from)),
        Some(Form::Tar) => Box::new(from),
        None => return Err(format!("it is {WHAT}")),
    })
}

/// The error as a sentence that completes "the archive is damaged: ...".
pub fn sentence(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "it ends in the middle of its compressed data".to_owned(),
        _ => format!("it cannot be decompressed ({error})"),
    }
}

fn copy(from: &mut dyn Read, to: &Inlet) -> io::Result<()> {
    loop {
        let mut piece = to.piece();
        let mut length = 0;
        // Only full pieces are sent: each costs the same, however little it holds.
        while length < piece.room().len() {
            match from.read(&mut piece.room()[length..]) {
                Ok(0) => break,
                Ok(read) => length += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if length == 0 || to.send(piece, length).is_err() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_recognised_by_the_first_bytes() {
        let mut tar = vec![0; 512];
        tar[257..262].copy_from_slice(b"ustar");
        assert_eq!(Form::of(&tar), Some(Form::Tar));
        assert_eq!(Form::of(b"\x28\xb5\x2f\xfd"), Some(Form::Zstd));
        assert_eq!(Form::of(b"\x5f\x2a\x4d\x18"), Some(Form::Zstd));
        assert_eq!(Form::of(b"\x1f\x8b"), Some(Form::Gzip));
        for other in [&b""[..], b"PK", b"<!DOCTYPE html>", &[0; 512]] {
            assert_eq!(Form::of(other), None);
        }
    }
}
