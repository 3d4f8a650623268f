//! Asking servers that behave: what is sent, and what is understood.

use std::net::SocketAddr;
use std::sync::mpsc;

use crate::common::*;
use probe::expect::Expect;
use probe::http::{Kind, Method, Request};

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn moved(to: &str) -> String {
    format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n")
}

/// The requests that a server gets while it answers `answer`.
fn overheard(answer: String) -> (SocketAddr, mpsc::Receiver<String>) {
    let (sender, receiver) = mpsc::channel();
    let address = replying(move |request| {
        sender.send(request.to_owned()).unwrap();
        answer.clone()
    });
    (address, receiver)
}

#[test]
fn one_plain_question() {
    let (address, requests) = overheard(ok("{\"version\":\"abc\"}"));
    let answer = answered(&at(address));
    assert_eq!((answer.status, answer.truncated), (200, false));
    assert_eq!(answer.headers, [("Content-Length".to_owned(), "17".to_owned())]);
    let json = |value: &str| Some(("version".to_owned(), value.into()));
    assert_eq!(Expect { json: json("abc"), ..Expect::default() }.holds(&answer), Ok(()));
    let error = Expect { json: json("def"), ..Expect::default() }.holds(&answer).unwrap_err();
    assert_eq!(error, "expected def in the JSON field version, got abc");
    assert_eq!(
        requests.recv().unwrap(),
        format!(
            "GET /secret-path?token=secret HTTP/1.1\r\nHost: {address}\r\nUser-Agent: \
             reversible.deploy/{}\r\nAccept: */*\r\nConnection: close\r\n\r\n",
            env!("CARGO_PKG_VERSION")
        )
    );
}

#[test]
fn another_place_and_a_host_header_of_its_own() {
    let (address, requests) = overheard(ok(""));
    let mut request = get("http://shop.example/x");
    request.connect_to = Some(address);
    answered(&request);
    assert!(requests.recv().unwrap().contains("\r\nHost: shop.example\r\n"));
    request.headers = vec![("host".into(), "other.example".into())];
    answered(&request);
    let sent = requests.recv().unwrap().to_lowercase();
    assert_eq!(sent.matches("host:").count(), 1, "{sent}");
    assert!(sent.contains("\r\nhost: other.example\r\n"), "{sent}");
}

#[test]
fn head_has_no_body_whatever_it_announces() {
    let address = serve(|mut stream| {
        let request = request_of(&mut stream);
        assert!(request.starts_with("HEAD "), "{request}");
        let _ = std::io::Write::write_all(
            &mut stream,
            b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n",
        );
        hang(stream);
    });
    let answer = answered(&Request { method: Method::Head, ..at(address) });
    assert_eq!((answer.body.len(), answer.truncated), (0, false));
}

#[test]
fn every_framing() {
    let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (bytes, body) in [
        ("HTTP/1.0 200 OK\r\n\r\nuntil the end".to_owned(), "until the end"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokmore".into(), "ok"),
        (format!("{chunks}3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\nT: x\r\n\r\n"), "abc0123456789"),
        (format!("{chunks}0\r\n\r\n"), ""),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".into(), ""),
        (format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 x\r\nA: b\r\n\r\n{}", ok("x")), "x"),
    ] {
        let answer = answered(&at(answering(bytes.clone())));
        assert_eq!(String::from_utf8(answer.body).unwrap(), body, "{bytes}");
        assert!(!answer.truncated && answer.status == 200, "{bytes}");
    }
    let answer = answered(&at(answering("HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\nhello")));
    assert_eq!((answer.status, answer.body.len()), (204, 0));
}

#[test]
fn no_more_than_was_asked_for() {
    let big = "x".repeat(100);
    for (name, bytes) in [
        ("length", format!("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{big}")),
        (
            "chunks",
            format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\n{big}\r\n0\r\n\r\n"
            ),
        ),
        ("end", format!("HTTP/1.1 200 OK\r\n\r\n{big}")),
    ] {
        for (most_body, length, truncated) in
            [(0, 0, true), (1, 1, true), (99, 99, true), (100, 100, false), (101, 100, false)]
        {
            let answer = answered(&Request { most_body, ..at(answering(bytes.clone())) });
            let got = (answer.body.len(), answer.truncated);
            assert_eq!(got, (length, truncated), "{name}, at most {most_body}");
        }
    }
}

#[test]
fn a_body_without_end_is_left() {
    let address = serve(|mut stream| {
        request_of(&mut stream);
        let mut send = |bytes: &[u8]| std::io::Write::write_all(&mut stream, bytes);
        if send(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n").is_ok() {
            while send(&[b'x'; 65536]).is_ok() {}
        }
    });
    let answer = answered(&at(address));
    assert_eq!((answer.body.len(), answer.truncated), (1 << 20, true));
    assert!(answer.took < SLACK, "{:?}", answer.took);
}

#[test]
fn redirects_are_answers_unless_asked_for() {
    let address = replying(|request| match request.split(' ').nth(1).unwrap() {
        "/a/b" => moved("../c?d#e"),
        "/c?d" => moved("/end"),
        "/end" => ok("here"),
        _ => moved("/loop"),
    });
    let mut request = get(&format!("http://{address}/a/b"));
    assert_eq!(answered(&request).status, 302);
    request.redirects = 1;
    refused(&request, Kind::Redirects, "redirects more often than allowed (1)");
    request.redirects = 2;
    let answer = answered(&request);
    assert_eq!((answer.status, answer.body.as_slice()), (200, b"here".as_slice()));
    request.url = format!("http://{address}/loop").parse().unwrap();
    request.redirects = 20;
    refused(&request, Kind::Redirects, "redirects more often than allowed (20)");
    // Nowhere to go to: an answer.
    let address = answering("HTTP/1.1 304 x\r\nLocation: /x\r\n\r\n");
    assert_eq!(answered(&Request { redirects: 5, ..at(address) }).status, 304);
    let address = answering("HTTP/1.1 302 x\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(answered(&Request { redirects: 5, ..at(address) }).status, 302);
}

#[test]
fn another_server_gets_no_secret() {
    let (second, requests) = overheard(ok("second"));
    let first = replying(move |_| moved(&format!("http://{second}/x")));
    let headers = vec![("X-Token".to_owned(), "abc".to_owned()), ("Host".into(), "a".into())];
    let answer = answered(&Request { redirects: 1, headers, ..at(first) });
    assert_eq!(answer.body, b"second");
    let sent = requests.recv().unwrap();
    assert!(!sent.contains("abc") && sent.contains(&format!("Host: {second}\r\n")), "{sent}");

    for to in ["ftp://a/", "http://me:secret@a/", "http://a b/", "javascript://secret"] {
        let address = answering(moved(to));
        let request = Request { redirects: 1, ..at(address) };
        refused(&request, Kind::Redirects, "redirects to a URL that must not be followed");
    }
}

#[test]
fn what_cannot_be_sent_reaches_no_server() {
    let nobody = Nobody::new();
    for (name, value) in
        [("X-Token", "secret\r\nX: y"), ("secret header", "a"), ("Upgrade", "secret")]
    {
        let headers = vec![(name.to_owned(), value.to_owned())];
        refused(
            &Request { headers, ..at(nobody.address()) },
            Kind::Protocol,
            "cannot ask 127.0.0.1",
        );
    }
    nobody.was_asked();
}

#[test]
fn nothing_secret_is_shown() {
    let mut request = at("127.0.0.1:1".parse().unwrap());
    request.headers = vec![("X-Token".into(), "secret".into())];
    let shown = format!("{request:?}");
    assert!(shown.contains("X-Token") && !shown.contains("secret"), "{shown}");
}
