//! The part of HTTP/1.1 that both ends need: a head and its fields. Reading has bounds, and a
//! connection that ends before the first byte of a head is told from one that ends within it:
//! only the first may be tried again (RFC 9112, 9.3.1).

use std::io::{self, BufRead, ErrorKind, Read};

const MOST_HEAD: u64 = 64 << 10;
const MOST_BODY: u64 = 64 << 20;

#[derive(Debug)]
pub struct Head {
    /// The request line or the status line.
    pub first: String,
    fields: Vec<(String, String)>,
}

#[derive(Debug)]
pub enum Fault {
    /// The other end closed the connection and no byte had come.
    Closed(String),
    /// Anything else: what there is of an answer cannot be used.
    Broken(String),
}

impl Head {
    pub fn read(reader: &mut impl BufRead) -> Result<Head, Fault> {
        match reader.fill_buf() {
            Ok([]) => return Err(Fault::Closed("closed without an answer".to_owned())),
            Ok(_) => {}
            Err(error) => return Err(no_byte(&error)),
        }
        let mut lines = reader.take(MOST_HEAD);
        let first = line(&mut lines)?;
        let mut fields = Vec::new();
        loop {
            let text = line(&mut lines)?;
            if text.is_empty() {
                return Ok(Head { first, fields });
            }
            let (name, value) = text
                .split_once(':')
                .ok_or_else(|| Fault::Broken(format!("not a header field: {text:?}")))?;
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    /// A field by its lower-case name.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn says(&self, name: &str, word: &str) -> bool {
        let words = |text: &str| text.split(',').any(|one| one.trim().eq_ignore_ascii_case(word));
        self.field(name).is_some_and(words)
    }

    /// The body by its length; without one there is none (requests), or all that comes (answers).
    pub fn body(&self, reader: &mut impl BufRead, to_the_end: bool) -> Result<Vec<u8>, Fault> {
        if self.field("transfer-encoding").is_some() {
            return Err(Fault::Broken("transfer-encoding is not known here".to_owned()));
        }
        let length = match self.field("content-length").map(str::parse::<u64>) {
            Some(Ok(length)) if length <= MOST_BODY => Some(length),
            Some(_) => return Err(Fault::Broken("a bad content-length".to_owned())),
            None if to_the_end => None,
            None => Some(0),
        };
        let mut body = Vec::new();
        reader
            .take(length.unwrap_or(MOST_BODY))
            .read_to_end(&mut body)
            .map_err(|error| Fault::Broken(format!("the body: {error}")))?;
        match length {
            Some(length) if length != body.len() as u64 => {
                Err(Fault::Broken(format!("the body ends after {} of {length}", body.len())))
            }
            _ => Ok(body),
        }
    }
}

/// An error with nothing read; a reset is a close, a timeout is not.
pub fn no_byte(error: &io::Error) -> Fault {
    let text = error.kind().to_string();
    match error.kind() {
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted => {
            Fault::Closed(text)
        }
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            Fault::Broken("no answer within the timeout".to_owned())
        }
        _ => Fault::Broken(text),
    }
}

fn line(reader: &mut impl BufRead) -> Result<String, Fault> {
    let mut bytes = Vec::new();
    reader
        .read_until(b'\n', &mut bytes)
        .map_err(|error| Fault::Broken(format!("the head: {error}")))?;
    if bytes.pop() != Some(b'\n') {
        return Err(Fault::Broken("the head ends early".to_owned()));
    }
    if bytes.last() == Some(&b'\r') {
        bytes.pop();
    }
    String::from_utf8(bytes).map_err(|_| Fault::Broken("the head is not UTF-8".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(Head, Vec<u8>), Fault> {
        let mut bytes = text.as_bytes();
        let head = Head::read(&mut bytes)?;
        let body = head.body(&mut bytes, true)?;
        Ok((head, body))
    }

    #[test]
    fn a_head_and_its_body() {
        let (head, body) =
            read("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: Close\r\n\r\nblue rest")
                .unwrap_or_else(|fault| panic!("{fault:?}"));
        assert_eq!(head.first, "HTTP/1.1 200 OK");
        assert!(head.says("connection", "close"));
        assert_eq!(body, b"blue ");
    }

    #[test]
    fn what_ends_before_the_first_byte_is_told_from_what_ends_later() {
        assert!(matches!(read(""), Err(Fault::Closed(_))));
        for cut in ["H", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nblue"]
        {
            assert!(matches!(read(cut), Err(Fault::Broken(_))), "{cut:?}");
        }
        let timeout = io::Error::from(ErrorKind::WouldBlock);
        assert!(matches!(no_byte(&timeout), Fault::Broken(_)));
    }
}
