//! Servers on loopback that behave as badly as they are told to, and a clock beside each question.
// Each file uses a part of it; the sentences are there to be read in a failure.
#![allow(clippy::print_stdout, clippy::unwrap_used, dead_code)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use probe::http::{Answer, Kind, Request, Unanswered, ask};

/// What a deadline may be missed by on a machine that has much else to do; no test hangs for less.
pub const SLACK: Duration = Duration::from_secs(60);
/// A deadline that no test comes to.
pub const AMPLE: Duration = Duration::from_secs(300);
/// Long enough for what a server sends before it is silent.
pub const SHORT: Duration = Duration::from_secs(3);

/// Serves every connection with `behave`, in threads that end with the test's process.
pub fn serve(behave: impl Fn(TcpStream) + Send + Sync + Clone + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let behave = behave.clone();
            thread::spawn(move || behave(stream.unwrap()));
        }
    });
    address
}

/// Reads a whole request and sends these bytes, then closes.
pub fn answering(bytes: impl Into<Vec<u8>>) -> SocketAddr {
    let bytes = bytes.into();
    serve(move |mut stream| {
        request_of(&mut stream);
        let _ = stream.write_all(&bytes);
    })
}

/// Reads a whole request, and hands it to what makes the answer.
pub fn replying(reply: impl Fn(&str) -> String + Send + Sync + Clone + 'static) -> SocketAddr {
    serve(move |mut stream| {
        let answer = reply(&request_of(&mut stream));
        let _ = stream.write_all(answer.as_bytes());
    })
}

pub fn request_of(stream: &mut impl Read) -> String {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) > 0 {
        request.push(byte[0]);
    }
    String::from_utf8_lossy(&request).into_owned()
}

/// Sends a byte now and then until the other side has gone.
pub fn drip(stream: &mut impl Write) {
    while stream.write_all(b"x").and_then(|()| stream.flush()).is_ok() {
        thread::sleep(Duration::from_millis(50));
    }
}

/// Keeps the connection, and does nothing.
pub fn hang<T>(stream: T) {
    thread::sleep(Duration::from_secs(600));
    drop(stream);
}

/// A port that must not be connected to.
pub struct Nobody(TcpListener);

impl Nobody {
    pub fn new() -> Nobody {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        Nobody(listener)
    }

    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    /// Nobody was: the kernel would hold the connection for us.
    pub fn was_asked(self) {
        assert_eq!(self.0.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    }
}

pub fn get(url: &str) -> Request {
    Request::get(url.parse().unwrap())
}

pub fn at(address: SocketAddr) -> Request {
    get(&format!("http://{address}/secret-path?token=secret"))
}

/// An answer, long before the deadline.
pub fn answered(request: &Request) -> Answer {
    let began = Instant::now();
    let answer = ask(request, AMPLE).unwrap_or_else(|error| panic!("{error}"));
    assert!(began.elapsed() < SLACK, "{:?}", began.elapsed());
    assert!(answer.took <= began.elapsed());
    answer
}

/// No answer, at once, and a sentence that says why, without any secret.
pub fn refused(request: &Request, kind: Kind, sentence: &str) -> Unanswered {
    let began = Instant::now();
    let error = ask(request, AMPLE).unwrap_err();
    println!("{:?} after {:?}: {error}", error.kind, began.elapsed());
    assert!(began.elapsed() < SLACK, "{error} after {:?}", began.elapsed());
    judge(error, kind, sentence)
}

/// No answer, and not before the deadline, and not long after it.
pub fn timed_out(request: &Request, sentence: &str) {
    timed_out_after(SHORT, request, sentence);
}

pub fn timed_out_after(span: Duration, request: &Request, sentence: &str) {
    let began = Instant::now();
    let error = ask(request, span).unwrap_err();
    let took = began.elapsed();
    println!("{:?} after {took:?}: {error}", error.kind);
    assert!(took >= span && took < span + SLACK, "{error} after {took:?}");
    judge(error, Kind::Timeout, sentence);
}

fn judge(error: Unanswered, kind: Kind, sentence: &str) -> Unanswered {
    assert_eq!(error.kind, kind, "{error}");
    assert!(error.msg.contains(sentence), "{error}");
    assert!(!error.msg.contains("secret") && !error.msg.contains('\n'), "{error}");
    error
}
