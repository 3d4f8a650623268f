//! Servers that do not behave: each ends in a sentence, at once or at the deadline.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::common::*;
use probe::http::{Kind, Request};
use probe::tcp;

/// Reads the request, sends the beginning of an answer, and goes on as the test says.
fn begins(answer: &'static str, then: fn(TcpStream)) -> Request {
    at(serve(move |mut stream| {
        request_of(&mut stream);
        let _ = stream.write_all(answer.as_bytes());
        then(stream);
    }))
}

fn drips(mut stream: TcpStream) {
    drip(&mut stream);
}

#[test]
fn never_answers() {
    timed_out(&begins("", hang), "the time ended before the headers of its answer were complete");
    // Half open: nobody even takes the connection out of the kernel's hands.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    timed_out(&at(listener.local_addr().unwrap()), "did not answer within 3 s");
}

#[test]
fn answers_too_slowly() {
    timed_out(&begins("HTTP/1.1 200 OK\r\nA: ", drips), "before the headers of its answer");
    timed_out(
        &begins("HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n", drips),
        "bytes of the body",
    );
    timed_out(&begins("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", hang), "after 3 bytes of");
    timed_out(&begins("HTTP/1.1 200 OK\r\n\r\n", drips), "bytes of the body");
    let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";
    timed_out(&begins(chunks, hang), "after 3 bytes of the body");
}

#[test]
fn sends_without_a_pause_and_without_an_end() {
    let flood = |mut stream: TcpStream| while stream.write_all(b"1\r\nx\r\n").is_ok() {};
    let mut request = begins("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", flood);
    request.most_body = usize::MAX;
    timed_out_after(Duration::from_secs(1), &request, "time ended");
    let interim =
        |mut stream: TcpStream| while stream.write_all(b"HTTP/1.1 102 x\r\n\r\n").is_ok() {};
    refused(&begins("", interim), Kind::Protocol, "sent more than 16 answers 1xx and no other");
    let headers = |mut stream: TcpStream| while stream.write_all(b"x").is_ok() {};
    refused(
        &begins("HTTP/1.1 200 OK\r\nA: ", headers),
        Kind::Protocol,
        "headers of more than 64 KiB",
    );
}

#[test]
fn does_not_listen_to_what_is_asked() {
    // The request does not fit into the buffers of a server that never reads.
    let mut request = at(serve(hang));
    request.headers = vec![("X-Long".into(), "x".repeat(8 << 20))];
    timed_out(&request, "before the headers of its answer");
}

#[test]
fn closes() {
    let sentence = "closed the connection before the headers of its answer were complete";
    refused(&begins("", drop), Kind::Closed, sentence);
    refused(&begins("HTTP/1.1 200 OK\r\nA: b\r\n", drop), Kind::Closed, sentence);
    let at_once = serve(|stream| stream.shutdown(Shutdown::Write).unwrap());
    refused(&at(at_once), Kind::Closed, "the connection before the headers of its answer");
    // With our request unread, the kernel resets.
    let resets = serve(|mut stream| {
        stream.read_exact(&mut [0]).unwrap();
    });
    refused(&at(resets), Kind::Closed, "reset the connection before the headers");
    for (begin, bytes) in [
        ("Content-Length: 9\r\n\r\nabc", 3),
        ("Content-Length: 9\r\n\r\n", 0),
        ("Transfer-Encoding: chunked\r\n\r\n9\r\nabc", 3),
        ("Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", 3),
        ("Transfer-Encoding: chunked\r\n\r\n3\r\nabc", 3),
    ] {
        let answer: &'static str = format!("HTTP/1.1 200 OK\r\n{begin}").leak();
        let sentence = format!("closed the connection after {bytes} bytes of the body");
        refused(&begins(answer, drop), Kind::Closed, &sentence);
    }
}

#[test]
fn speaks_something_else() {
    for (bytes, sentence) in [
        ("SSH-2.0-OpenSSH_9.2p1\r\n", "does not speak HTTP"),
        ("220 secret ESMTP\r\n", "does not speak HTTP"),
        ("<html>secret</html>", "does not speak HTTP"),
        ("\0\0\u{12}\u{4}\0\0\0\0\0", "does not speak HTTP"),
        ("HTTP/2 200\r\n\r\n", "a version of HTTP other than 1.0 and 1.1"),
        ("HTTP/1.1 101 x\r\n\r\n", "switched to a protocol that was not requested"),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: secret\r\n\r\n",
            "a Content-Length that is not a number",
        ),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nsecret", "sent a malformed chunk"),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nsecret",
            "longer than its size line",
        ),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nsecret", "that was not requested"),
    ] {
        // They keep the connection: only what they sent can show it.
        refused(&begins(bytes, hang), Kind::Protocol, sentence);
    }
}

#[test]
fn nobody_there() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = refused(&at(free), Kind::Refused, "connection refused");
    assert_eq!(error.msg, format!("cannot connect to {free}: connection refused"));
    let both = get(&format!("http://localhost:{}/", free.port()));
    refused(&both, Kind::Refused, &format!("connection refused ({free})"));
    // A multicast address takes no connections, and no packet leaves for it.
    let error = refused(&get("http://224.0.0.1/"), Kind::Unreachable, "network is unreachable");
    assert_eq!(error.reason(), "unanswered");
}

#[test]
fn a_port_without_http() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let took = tcp::connect("localhost", port, AMPLE).unwrap();
    assert!(took < SLACK, "{took:?}");
    drop(listener);
    let error = tcp::connect("127.0.0.1", port, AMPLE).unwrap_err();
    assert_eq!(error.msg, format!("cannot connect to 127.0.0.1:{port}: connection refused"));
    let began = Instant::now();
    assert_eq!(tcp::connect("a b", port, AMPLE).unwrap_err().kind, Kind::Name);
    assert!(began.elapsed() < SLACK);
}
