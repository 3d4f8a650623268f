//! A signal in the middle of each kind of wait. One test, since the signal is noted for the whole
//! process.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use common::*;
use host::interrupt::{Signal, note, shield};
use probe::http::{Kind, Request, Tls, ask};
use probe::{name, tcp};

#[test]
fn a_signal_ends_every_wait_but_not_behind_a_shield() {
    let hangs = serve(hang);
    let waiting: Vec<(&str, Request)> = vec![
        ("head", at(hangs)),
        (
            "body",
            at(serve(|mut stream| {
                request_of(&mut stream);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
                drip(&mut stream);
            })),
        ),
        (
            "handshake",
            Request {
                tls: Tls { insecure: true, ..Tls::default() },
                ..get(&format!("https://{hangs}/"))
            },
        ),
    ];
    let asking: Vec<_> = waiting
        .into_iter()
        .map(|(what, request)| {
            thread::spawn(move || {
                let error = ask(&request, AMPLE).unwrap_err();
                (what, error, Instant::now())
            })
        })
        .collect();
    thread::sleep(Duration::from_millis(300));
    let signalled = Instant::now();
    note(Signal::SIGTERM);
    for thread in asking {
        let (what, error, ended) = thread.join().unwrap();
        let late = ended.saturating_duration_since(signalled);
        println!("{what}: {error}, {late:?} after the signal");
        assert!(ended >= signalled && late < SLACK, "{what}: {late:?}");
        assert_eq!((error.kind, error.reason()), (Kind::Interrupted, "interrupted"), "{error}");
        assert!(error.msg.contains("stopped by SIGTERM"), "{error}");
    }
    let good = answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(ask(&at(good), AMPLE).unwrap_err().kind, Kind::Interrupted);
    assert_eq!(tcp::connect("127.0.0.1", good.port(), AMPLE).unwrap_err().kind, Kind::Interrupted);
    assert_eq!(name::resolve("shop.example", 1, AMPLE).unwrap_err().kind, Kind::Interrupted);
    // A rollback is proved too.
    let shielded = shield();
    assert_eq!(answered(&at(good)).status, 200);
    drop(shielded);
}
