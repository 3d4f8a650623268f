//! Answers and URLs that nobody thought of: each is an answer, or a sentence of one line that says why it is none.

use std::io::Write;
use std::net::TcpListener;
use std::thread;

use crate::common::{AMPLE, at, request_of};
use fuzz::rounds;
use probe::expect::Expect;
use probe::http::{Kind, Method, Url, ask};
use serde_json::json;

const ANSWERS: [&str; 6] = [
    "HTTP/1.1 200 OK\r\nContent-Length: 18\r\nX-Release: 4f2a9c1\r\n\r\n{\"data\":[\"up\",1.5]}",
    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n5;a=b\r\nhello\r\n6\r\n world\r\n0\r\nX: y\r\n\r\n",
    "HTTP/1.0 503 Service Unavailable\r\nRetry-After: 5\r\n\r\nuntil the end",
    "HTTP/1.1 302 Found\r\nLocation: /there\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
];

const PIECES: [&[u8]; 24] = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b"\0",
    b" ",
    b"\t",
    b":",
    b"HTTP/1.1 ",
    b"HTTP/2",
    b"Content-Length: 18446744073709551616\r\n",
    b"Content-Length: -1\r\n",
    b"Content-Length: 5\r\nContent-Length: 6\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Connection: close\r\n",
    b"ffffffffffffffff\r\n",
    b"fffffffffffffffff\r\n",
    b"0\r\n\r\n",
    b"-1\r\n",
    b"999",
    b"000",
    b"\xff\xfe\x80",
    "\u{1b}[31m\u{202e}é".as_bytes(),
];

fn one_line(sentence: &str) {
    assert!(!sentence.is_empty() && !sentence.contains(|c: char| c.is_control()), "{sentence:?}");
}

#[test]
fn whatever_a_server_answers() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    rounds(300, 100_000, |random| {
        let sound = random.one(&ANSWERS).as_bytes();
        let answer = random.changed(sound, &PIECES);
        let cut = random.below(answer.len() + 1);
        let mut request = at(address);
        request.most_body = *random.one(&[0, 1, 7, 1 << 20]);
        request.method = if random.percent(20) { Method::Head } else { Method::Get };
        let asked = thread::scope(|scope| {
            let asking = scope.spawn(|| ask(&request, AMPLE));
            let (mut stream, _) = listener.accept().unwrap();
            request_of(&mut stream);
            // In two pieces; the other side may have seen enough, and gone.
            let _ =
                stream.write_all(&answer[..cut]).and_then(|()| stream.write_all(&answer[cut..]));
            drop(stream);
            asking.join().unwrap()
        });
        match asked {
            Ok(answer) => {
                assert!(answer.body.len() <= request.most_body, "{answer:?}");
                let expect = Expect {
                    status: vec![*random.one(&[200, 204, 503])],
                    header: random.percent(50).then(|| ("X-Release".into(), "4f2a9c1".into())),
                    json: random.percent(50).then(|| ("data.1".into(), json!(1.5))),
                    text: random.percent(50).then(|| "world".into()),
                };
                expect.holds(&answer).unwrap_or_else(|why| one_line(&why));
            }
            Err(why) => {
                assert_ne!(why.kind, Kind::Timeout, "{why} of {answer:?}");
                one_line(&why.msg);
            }
        }
    });
}

#[test]
fn whatever_is_given_as_a_url() {
    const URLS: [&str; 5] = [
        "http://shop.example:8080/a/b?c=d&e#f",
        "https://[2001:db8::1%25eth0]:443/",
        "http://127.0.0.1",
        "HTTPS://me:secret@shop.example./%7euser/é",
        "http://xn--bcher-kva.example/?q=//x:y@z",
    ];
    const PARTS: [&[u8]; 16] = [
        b":",
        b"/",
        b"//",
        b"@",
        b"?",
        b"#",
        b"[",
        b"]",
        b"%",
        b"\\",
        b" ",
        b"\r\n",
        b".",
        b":65536",
        b"0x7f.1",
        "é\u{202e}".as_bytes(),
    ];
    rounds(5_000, 2_000_000, |random| {
        let url = random.one(&URLS).as_bytes();
        let text = String::from_utf8_lossy(&random.changed(url, &PARTS)).into_owned();
        match text.parse::<Url>() {
            Ok(url) => one_line(&url.authority()),
            Err(why) => {
                one_line(&why);
                assert!(!why.contains("secret"), "{why}");
            }
        }
    });
}
