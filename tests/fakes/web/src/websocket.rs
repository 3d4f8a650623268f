//! WebSockets (RFC 6455), as far as an echo needs them: the handshake's key, and frames.

use sha1::{Digest, Sha1};
use std::io::{self, ErrorKind, Read, Write};

pub const TEXT: u8 = 0x81;
pub const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;
const MOST_PAYLOAD: u64 = 1 << 20;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// What the server answers to the client's key.
pub fn accept_key(key: &str) -> String {
    let mut hash = Sha1::new();
    hash.update(key);
    hash.update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    base64(&hash.finalize())
}

fn base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, at| bits << 8 | *three.get(at).unwrap_or(&0) as usize);
        for at in 0..4 {
            let letter = char::from(ALPHABET[bits >> (18 - 6 * at) & 63]);
            text.push(if at > three.len() { '=' } else { letter });
        }
    }
    text
}

/// One frame: its first byte (FIN and opcode) and its payload, unmasked.
pub fn read_frame(reader: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let mut start = [0; 2];
    reader.read_exact(&mut start)?;
    let length = match start[1] & 0x7f {
        126 => {
            let mut more = [0; 2];
            reader.read_exact(&mut more)?;
            u64::from(u16::from_be_bytes(more))
        }
        127 => {
            let mut more = [0; 8];
            reader.read_exact(&mut more)?;
            u64::from_be_bytes(more)
        }
        short => u64::from(short),
    };
    if length > MOST_PAYLOAD {
        return Err(io::Error::new(ErrorKind::InvalidData, "a frame of more than 1 MiB"));
    }
    let mut mask = [0; 4];
    if start[1] & 0x80 != 0 {
        reader.read_exact(&mut mask)?;
    }
    let mut payload = vec![0; length as usize];
    reader.read_exact(&mut payload)?;
    for (byte, key) in payload.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
    Ok((start[0], payload))
}

/// A client must mask, a server must not.
pub fn write_frame(
    writer: &mut impl Write,
    first: u8,
    payload: &[u8],
    mask: Option<[u8; 4]>,
) -> io::Result<()> {
    let masked = if mask.is_some() { 0x80 } else { 0 };
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..=125 => frame.push(masked | short as u8),
        middle @ 126..=0xffff => {
            frame.push(masked | 126);
            frame.extend((middle as u16).to_be_bytes());
        }
        long => {
            frame.push(masked | 127);
            frame.extend((long as u64).to_be_bytes());
        }
    }
    let key = mask.unwrap_or_default();
    if mask.is_some() {
        frame.extend(key);
    }
    frame.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    writer.write_all(&frame)
}

/// Give back every frame until the client closes; `count` is called for each with text in it.
pub fn echo(reader: &mut impl Read, writer: &mut impl Write, count: impl Fn()) -> io::Result<()> {
    loop {
        let (first, payload) = read_frame(reader)?;
        match first {
            PING => write_frame(writer, PONG, &payload, None)?,
            PONG => {}
            _ => write_frame(writer, first, &payload, None)?,
        }
        match first {
            CLOSE => return Ok(()),
            TEXT => count(),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_the_standards_example() {
        assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(base64(b"ab"), "YWI=");
        assert_eq!(base64(b"a"), "YQ==");
    }

    #[test]
    fn frames_of_every_length_come_back_from_the_echo() {
        for length in [0, 1, 125, 126, 0xffff, 0x10000] {
            let payload: Vec<u8> = (0..length).map(|at| at as u8).collect();
            let mut sent = Vec::new();
            write_frame(&mut sent, TEXT, &payload, Some([1, 2, 3, 4])).unwrap_or_default();
            write_frame(&mut sent, CLOSE, &[], Some([9, 9, 9, 9])).unwrap_or_default();
            let mut answered = Vec::new();
            assert!(echo(&mut sent.as_slice(), &mut answered, || ()).is_ok());
            let back = read_frame(&mut answered.as_slice());
            assert!(matches!(&back, Ok((TEXT, same)) if *same == payload), "{length}");
        }
    }
}
