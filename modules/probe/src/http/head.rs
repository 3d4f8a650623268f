//! Writes the head of a request and parses that of an answer.
//!
//! Invariant: nothing that is written can end a line early or change the framing, and both size and
//! number of the headers that are read are bounded.

use super::Url;

/// The longest head that is accepted; servers themselves allow 8 to 64 KiB.
const LONGEST: usize = 64 << 10;
const MOST_HEADERS: usize = 128;

/// Headers for framing and connections, which a caller cannot set.
const RESERVED: [&str; 7] =
    ["connection", "content-length", "expect", "te", "trailer", "transfer-encoding", "upgrade"];

/// Checks that these headers can be sent. The error names a header, but never its value.
pub fn check_headers(headers: &[(String, String)]) -> Result<(), String> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    for (name, value) in headers {
        if name.is_empty() || !name.bytes().all(token) {
            return Err("the name of a header must consist of letters, digits and hyphens".into());
        }
        if value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
            return Err(format!("the value of the header {name} contains a control character"));
        }
        if RESERVED.iter().any(|reserved| name.eq_ignore_ascii_case(reserved)) {
            return Err(format!("the header {name} cannot be set: there is no body to send"));
        }
    }
    if headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("host")).count() > 1 {
        return Err("the header Host can be given only once".into());
    }
    Ok(())
}

/// Writes a head. `headers` replace default ones of the same name; `framing` are added in any case.
pub(super) fn write(
    verb: &str,
    url: &Url,
    headers: &[(String, String)],
    framing: &[(&'static str, String)],
) -> Vec<u8> {
    let authority = url.authority();
    let defaults = [
        ("Host", authority.as_str()),
        ("User-Agent", concat!("reversible.deploy/", env!("CARGO_PKG_VERSION"))),
        ("Accept", "*/*"),
        ("Connection", "close"),
    ];
    let is_set = |name: &str| headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(name));
    let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let framing = framing.iter().map(|(name, value)| (*name, value.as_str()));
    let mut head = format!("{verb} {} HTTP/1.1\r\n", url.target());
    let defaults = defaults.into_iter().filter(|(name, _)| !is_set(name)).chain(framing);
    for (name, value) in defaults.chain(headers) {
        head.extend([name, ": ", value, "\r\n"]);
    }
    head += "\r\n";
    head.into_bytes()
}

/// The head of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    /// The length of the head in bytes.
    pub length: usize,
}

impl Head {
    /// Returns all values of a header, in their order.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        let named = move |(other, _): &&(String, String)| other.eq_ignore_ascii_case(name);
        self.headers.iter().filter(named).map(|(_, value)| value.trim())
    }
}

/// Parses a head; `None` if more bytes are needed. The error completes "shop.example ...".
pub(super) fn read(bytes: &[u8]) -> Result<Option<Head>, String> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut answer = httparse::Response::new(&mut headers);
    let length = match answer.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() <= LONGEST => return Ok(None),
        Ok(httparse::Status::Partial) => return Err(too_long()),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(format!("sent more than {MOST_HEADERS} headers"));
        }
        // The record of a TLS alert, which a TLS server sends to a client that does not speak TLS.
        Err(_) if bytes.starts_with(&[21, 3]) => {
            return Err("speaks TLS, not plain HTTP; is its URL https?".into());
        }
        Err(httparse::Error::Version) if bytes.starts_with(b"HTTP/") => {
            return Err("speaks a version of HTTP other than 1.0 and 1.1".into());
        }
        Err(_) => return Err("does not speak HTTP".into()),
    };
    if length > LONGEST {
        return Err(too_long());
    }
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let headers = answer.headers.iter().map(|header| (header.name.to_owned(), text(header.value)));
    let status = answer.code.unwrap_or_default();
    if !(100..=999).contains(&status) {
        return Err(format!("sent the impossible status {status}"));
    }
    Ok(Some(Head { status, headers: headers.collect(), length }))
}

fn too_long() -> String {
    format!("sent headers of more than {} KiB", LONGEST >> 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn each_header_once() {
        let url = "https://shop.example:8443/a?b".parse().unwrap();
        let headers = pairs(&[("host", "other"), ("X-Token", "abc"), ("Accept", "text/html")]);
        let head = String::from_utf8(write("HEAD", &url, &headers, &[])).unwrap();
        let expected = format!(
            "HEAD /a?b HTTP/1.1\r\nUser-Agent: reversible.deploy/{}\r\nConnection: close\r\nhost: \
             other\r\nX-Token: abc\r\nAccept: text/html\r\n\r\n",
            env!("CARGO_PKG_VERSION")
        );
        assert_eq!(head, expected);
        let head = String::from_utf8(write("GET", &url, &[], &[])).unwrap();
        assert!(head.starts_with("GET /a?b HTTP/1.1\r\nHost: shop.example:8443\r\n"), "{head}");
        let range = [("Range", "bytes=5-".to_owned())];
        let head = String::from_utf8(write("GET", &url, &headers, &range)).unwrap();
        assert!(head.contains("Connection: close\r\nRange: bytes=5-\r\nhost: other"), "{head}");
    }

    #[test]
    fn nothing_is_injected_and_no_value_is_repeated() {
        for (name, value) in [
            ("", "secret"),
            ("X Y", "secret"),
            ("X:", "secret"),
            ("X\r\nY", "secret"),
            ("é", "secret"),
            ("X", "secret\r\nY: z"),
            ("X", "secret\n"),
            ("X", "secret\0"),
            ("Content-Length", "secret"),
            ("transfer-encoding", "secret"),
        ] {
            let error = check_headers(&pairs(&[(name, value)])).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
        assert!(check_headers(&pairs(&[("Host", "a"), ("host", "b")])).is_err());
        assert_eq!(check_headers(&pairs(&[("X-A", "b\tc é"), ("X-A", ""), ("Host", "a")])), Ok(()));
    }

    #[test]
    fn reads_heads() {
        let head = read(b"HTTP/1.0 200 OK\r\nA: b\r\na:  c \r\n\r\nbody").unwrap().unwrap();
        assert_eq!((head.status, head.length), (200, 33));
        assert_eq!(head.all("A").collect::<Vec<_>>(), ["b", "c"]);
        assert_eq!(read(b"HTTP/1.1 204\n\n").unwrap().unwrap().headers, []);
        for begin in ["", "H", "HTTP/1.1 200 OK\r\nA: b\r\n"] {
            assert_eq!(read(begin.as_bytes()), Ok(None), "{begin}");
        }
    }

    #[test]
    fn malformed_heads_are_refused() {
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(MOST_HEADERS + 1));
        let long = format!("HTTP/1.1 200 OK\r\nA: {}", "b".repeat(LONGEST));
        let whole = format!("{long}\r\n\r\n");
        for (bytes, sentence) in [
            (b"SSH-2.0-OpenSSH_9.2p1\r\n".as_slice(), "does not speak HTTP"),
            (b"HTTP/2 200\r\n\r\n", "a version of HTTP other than"),
            (b"HTTP/1.1 20x\r\n\r\n", "does not speak HTTP"),
            (b"HTTP/1.1 000 OK\r\n\r\n", "impossible status 0"),
            (b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n", "does not speak HTTP"),
            (b"\x15\x03\x03\x00\x02\x02\x32", "is its URL https?"),
            (many.as_bytes(), "more than 128 headers"),
            (long.as_bytes(), "more than 64 KiB"),
            (whole.as_bytes(), "more than 64 KiB"),
        ] {
            let error = read(bytes).unwrap_err();
            assert!(error.contains(sentence), "{error}");
        }
    }
}
