//! Names through a `getent` of our own: what is asked of it, what is read, and how long it may take.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Instant;

use crate::common::*;
use probe::http::{Kind, Unanswered};
use probe::name::resolve;

/// Plays `getent` (glibc 2.36); `old` knows no `ahosts`.
const GETENT: &str = r#"#!/bin/sh
case "$*" in
    "ahosts shop.example")
        echo "127.0.0.2       STREAM shop.example"
        echo "127.0.0.2       DGRAM  "
        echo "127.0.0.1       STREAM "
        echo "fe80::1%lo      STREAM " ;;
    "hosts old.example") echo "127.0.0.1       old.example old" ;;
    "ahosts old.example") echo "Unknown database: ahosts" >&2; exit 1 ;;
    "ahosts empty.example") ;;
    "ahosts garbage.example") echo "who knows"; echo "\033[1m 300.1.1.1" ;;
    "ahosts slow.example") sleep 60 ;;
    "ahosts stubborn.example") trap "" TERM; sleep 60; sleep 60 ;;
    "ahosts broken.example") echo "out of memory" >&2; exit 3 ;;
    *) exit 2 ;;
esac
"#;

const PLAY: &str = "PROBE_TEST_FOLDER";

/// PATH is the whole process's, so the test runs itself again with another one.
#[test]
fn through_getent() {
    if let Some(folder) = std::env::var_os(PLAY) {
        let found = host::program::find("getent").unwrap();
        assert_eq!(found.parent().unwrap(), folder, "not the one that was put there");
        return play();
    }
    let folder = tempfile::tempdir().unwrap();
    let getent = folder.path().join("getent");
    std::fs::write(&getent, GETENT).unwrap();
    std::fs::set_permissions(&getent, PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let again = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "name::through_getent", "--nocapture"])
        .env("PATH", path)
        .env(PLAY, folder.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&again.stdout);
    println!("{text}{}", String::from_utf8_lossy(&again.stderr));
    assert!(again.status.success() && text.contains("played to the end"));
}

fn play() {
    let addresses = |name: &str| -> Vec<SocketAddr> { resolve(name, 80, AMPLE).unwrap() };
    let all: Vec<SocketAddr> =
        ["127.0.0.2:80", "127.0.0.1:80"].map(|address| address.parse().unwrap()).into();
    assert_eq!(addresses("shop.example"), all);
    assert_eq!(addresses("old.example"), all[1..]);
    for (name, sentence) in [
        ("nobody.example", "cannot find the address of nobody.example: no such name"),
        ("empty.example", "it has no usable address"),
        ("garbage.example", "it has no usable address"),
        ("broken.example", "out of memory"),
    ] {
        let error: Unanswered = resolve(name, 80, AMPLE).unwrap_err();
        println!("{error}");
        assert_eq!(error.kind, Kind::Name, "{error}");
        assert!(error.msg.contains(sentence) && error.msg.contains(name), "{error}");
    }
    refused(&get("http://nobody.example/secret"), Kind::Name, "no such name");
    for name in ["slow.example", "stubborn.example"] {
        timed_out(&get(&format!("http://{name}/")), &format!("no address of {name} within 3 s"));
    }
    // The second address answers, and the name stays in what is sent.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let began = Instant::now();
    probe::tcp::connect("shop.example", port, AMPLE).unwrap();
    assert!(began.elapsed() < SLACK);
    let address = replying(|request| {
        let host = request.lines().nth(1).unwrap().to_owned();
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{host}", host.len())
    });
    let answer = answered(&get(&format!("http://shop.example:{}/", address.port())));
    assert_eq!(answer.body, format!("Host: shop.example:{}", address.port()).into_bytes());
    println!("played to the end");
}
