//! From compressed bytes to those of the tar archive: zstd, gzip, or none, told by the first bytes and
//! not by the name.
//!
//! Invariant: the end is reported as good only when the compression itself says that it is the end.

use crate::pipe::Inlet;
use flate2::bufread::MultiGzDecoder;
use std::io::{self, BufRead, Read};

/// As the zstd program: a window of 128 MiB is the largest that is taken without being asked to.
const LARGEST_WINDOW: u32 = 27;
const WHAT: &str = "neither zstd, nor gzip, nor tar";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Zstd,
    Gzip,
    Tar,
}

impl Form {
    /// By the first bytes; a tar archive has its mark at byte 257.
    pub fn of(head: &[u8]) -> Option<Form> {
        // A zstd file may begin with a frame that is to be passed over: 50 to 5f, then this.
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

/// Reads as many bytes as there are, up to all of the room.
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

/// Decodes until the end. The error completes "the archive is damaged: ..."; that nobody reads any
/// more is none.
pub fn run(from: impl BufRead, to: &Inlet) -> Result<(), String> {
    copy(&mut *decoder(from)?, to).map_err(|error| sentence(&error))
}

/// For one who reads it himself; his errors are to be told by [`sentence`].
pub fn decoder<'a>(mut from: impl BufRead + 'a) -> Result<Box<dyn Read + 'a>, String> {
    let told = |error: io::Error| sentence(&error);
    let head = from.fill_buf().map_err(told)?;
    if head.is_empty() {
        return Err("it is empty".into());
    }
    Ok(match Form::of(head) {
        Some(Form::Zstd) => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(from).map_err(told)?;
            decoder.window_log_max(LARGEST_WINDOW).map_err(told)?;
            Box::new(decoder)
        }
        Some(Form::Gzip) => Box::new(MultiGzDecoder::new(from)),
        Some(Form::Tar) => Box::new(from),
        None => return Err(format!("it is {WHAT}")),
    })
}

/// Completes "the archive is damaged: ...".
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
        // Full pieces: passing one on costs the same for a byte and for all.
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
    fn tells_by_the_first_bytes() {
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
