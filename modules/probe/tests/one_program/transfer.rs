//! Long transfers: ranges and servers that do not know them, every framing, pauses, and what becomes of a
//! body that is sent to a server that does not want it.

use std::io::{Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{AMPLE, SLACK, at, hang, replying, request_of, serve};
use host::deadline::Deadline;
use probe::http::{Kind, Patience, Unanswered, fetch, put};

const BODY: &str = "0123456789";
const PATIENCE: Duration = Duration::from_secs(4);

fn patience(pause: Duration, whole: Duration) -> Patience {
    Patience { pause, whole: Deadline::after(whole) }
}

/// All that comes from an offset on.
fn fetched(
    address: std::net::SocketAddr,
    from: u64,
) -> Result<(u16, Option<u64>, String), Unanswered> {
    fetched_with(address, from, patience(PATIENCE, AMPLE))
}

fn fetched_with(
    address: std::net::SocketAddr,
    from: u64,
    patience: Patience,
) -> Result<(u16, Option<u64>, String), Unanswered> {
    let mut answer = fetch(&at(address), from, patience)?;
    let (mut all, mut buffer) = (Vec::new(), [0; 3]);
    loop {
        match answer.read(&mut buffer)? {
            0 => return Ok((answer.status, answer.total, String::from_utf8(all).unwrap())),
            read => all.extend_from_slice(&buffer[..read]),
        }
    }
}

#[test]
fn a_range_or_the_whole_is_the_same_to_the_asker() {
    let ranges = replying(|request| {
        let from = request.split("Range: bytes=").nth(1).and_then(|rest| rest.split('-').next());
        match from.map(|from| from.parse::<usize>().unwrap()) {
            Some(from) => format!(
                "HTTP/1.1 206 x\r\nContent-Range: bytes {from}-9/10\r\nContent-Length: {}\r\n\r\n{}",
                10 - from,
                &BODY[from..]
            ),
            None => format!("HTTP/1.1 200 x\r\nContent-Length: 10\r\n\r\n{BODY}"),
        }
    });
    let whole = replying(|_| format!("HTTP/1.1 200 x\r\nContent-Length: 10\r\n\r\n{BODY}"));
    let closing = replying(|_| format!("HTTP/1.1 200 x\r\n\r\n{BODY}"));
    let chunked = replying(|_| {
        "HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n0123\r\n6;x=y\r\n456789\r\n0\r\n\r\n".into()
    });
    for from in [0, 1, 5, 9] {
        let rest = &BODY[from as usize..];
        let status = if from == 0 { 200 } else { 206 };
        assert_eq!(fetched(ranges, from).unwrap(), (status, Some(10), rest.to_owned()));
        assert_eq!(fetched(whole, from).unwrap(), (200, Some(10), rest.to_owned()));
        assert_eq!(fetched(closing, from).unwrap(), (200, None, rest.to_owned()));
        assert_eq!(fetched(chunked, from).unwrap(), (200, None, rest.to_owned()));
    }
    assert_eq!(fetched(whole, 11).unwrap_err().kind, Kind::Protocol);
}

#[test]
fn a_wrong_part_and_a_cut_body_are_no_answer() {
    for (answer, kind) in [
        ("206 x\r\nContent-Range: bytes 4-9/10\r\nContent-Length: 6\r\n\r\n456789", Kind::Protocol),
        ("206 x\r\nContent-Length: 5\r\n\r\n56789", Kind::Protocol),
        ("206 x\r\nContent-Range: bytes 5-9/10\r\nContent-Length: 5\r\n\r\n567", Kind::Closed),
        ("200 x\r\nContent-Length: 10\r\n\r\n01234567", Kind::Closed),
        ("200 x\r\nTransfer-Encoding: chunked\r\n\r\na\r\n0123456789", Kind::Closed),
        ("200 x\r\nTransfer-Encoding: chunked\r\n\r\na\r\n0123456789xx0\r\n\r\n", Kind::Protocol),
    ] {
        let server = replying(move |_| format!("HTTP/1.1 {answer}"));
        let error = fetched(server, 5).unwrap_err();
        assert_eq!(error.kind, kind, "{answer}: {error}");
        assert!(!error.msg.contains("secret"), "{error}");
    }
}

#[test]
fn pauses_have_an_end_and_so_has_the_whole() {
    let slow = |pause: u64| {
        serve(move |mut stream| {
            request_of(&mut stream);
            stream.write_all(b"HTTP/1.1 200 x\r\nContent-Length: 10\r\n\r\n").unwrap();
            for byte in BODY.bytes() {
                thread::sleep(Duration::from_millis(pause));
                if stream.write_all(&[byte]).is_err() {
                    return;
                }
            }
        })
    };
    let began = Instant::now();
    assert_eq!(fetched(slow(450), 0).unwrap().2, BODY);
    assert!(began.elapsed() > PATIENCE, "longer in all than any pause may be");
    let drips = patience(PATIENCE, Duration::from_secs(1));
    let error = fetched_with(slow(450), 0, drips).unwrap_err();
    assert_eq!(error.kind, Kind::Timeout, "{error}");
    let began = Instant::now();
    assert_eq!(fetched(slow(600_000), 0).unwrap_err().kind, Kind::Timeout);
    assert!(began.elapsed() < PATIENCE + SLACK, "{:?}", began.elapsed());
}

#[test]
fn a_body_is_sent_and_answered() {
    for goes_on in [true, false] {
        let server = serve(move |mut stream| {
            let head = request_of(&mut stream);
            assert!(
                head.starts_with("PUT /secret-path") && head.contains("Content-Length: 300000\r\n")
            );
            if goes_on {
                stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
            }
            let mut body = vec![0; 300_000];
            stream.read_exact(&mut body).unwrap();
            let status = if body.iter().all(|byte| *byte == b'x') { 201 } else { 400 };
            let answer = format!("HTTP/1.1 {status} x\r\nContent-Length: 2\r\n\r\nok");
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let body = vec![b'x'; 300_000];
        let answer = put(&at(server), &mut &body[..], 300_000, patience(AMPLE, AMPLE)).unwrap();
        assert_eq!((answer.status, answer.body.as_slice()), (201, &b"ok"[..]), "{goes_on}");
    }
}

#[test]
fn a_server_that_does_not_want_it_is_heard() {
    let before = replying(|_| "HTTP/1.1 401 x\r\nContent-Length: 0\r\n\r\n".into());
    assert_eq!(
        put(&at(before), &mut std::io::repeat(0), 1 << 30, patience(AMPLE, AMPLE)).unwrap().status,
        401
    );
    let silent = serve(|mut stream| {
        request_of(&mut stream);
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
        hang(stream);
    });
    let began = Instant::now();
    let error =
        put(&at(silent), &mut std::io::repeat(0), 1 << 30, patience(PATIENCE, AMPLE)).unwrap_err();
    assert_eq!(error.kind, Kind::Timeout, "{error}");
    assert!(began.elapsed() < PATIENCE + SLACK, "{:?}", began.elapsed());
    let short = replying(|_| "HTTP/1.1 100 x\r\n\r\n".into());
    let error = put(&at(short), &mut &b"abc"[..], 5, patience(AMPLE, AMPLE)).unwrap_err();
    assert!(error.msg.contains("cannot be read") || error.kind == Kind::Closed, "{error}");
}
