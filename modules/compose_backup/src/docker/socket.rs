//! Sends queries to the engine's socket, as `docker inspect` does. Starting a program for each query would take longer than the
//! engine takes to answer. Changes go through the `docker` program.
//!
//! Invariant: an object is missing only if the engine says so; any other answer, or none, is an error.

use ansible_module::Failure;
use anyhow::{Context, Error, Result, ensure};
use probe::http::{self, Kind, Request, Unanswered, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

const QUERY_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest answer: a container with a long environment, or a list of very many.
const LONGEST_ANSWER: usize = 64 << 20;

/// The socket of the engine on this machine.
#[derive(Clone, Debug)]
pub struct Socket {
    host: String,
    /// The version of the engine's API as in its paths, which is read once.
    version: OnceLock<String>,
}

impl Socket {
    /// Makes a socket from docker's notation: `unix:///var/run/docker.sock`.
    pub fn at(host: &str) -> Socket {
        Socket { host: host.to_owned(), version: OnceLock::new() }
    }

    /// Sends a GET request; `None` if the engine has no such object. The path begins with `/`, and names in it
    /// are [`escaped`].
    pub fn ask<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>> {
        let version = self.version()?;
        let answer = self.send(&format!("/{version}{path}"))?;
        if answer.status == 404 {
            let said = said(&answer.body);
            let missing = ["no such ", "not found"].iter().any(|words| said.contains(words));
            ensure!(
                missing && !said.contains("page not found"),
                "the engine at {} does not support {path}: {said}",
                self.host
            );
            return Ok(None);
        }
        ensure!(
            answer.status == 200,
            "the engine at {} answers {} to GET {path}: {}",
            self.host,
            answer.status,
            said(&answer.body)
        );
        ensure!(!answer.truncated, "the engine's answer to GET {path} is too long");
        let what = || format!("parsing the answer of the engine at {} to GET {path}", self.host);
        serde_json::from_slice(&answer.body).with_context(what).map(Some)
    }

    /// Returns the API version that the engine offers or the user has set. Without a version in the path the
    /// engine would use its newest, whose answers may differ one day.
    pub fn version(&self) -> Result<&str> {
        if let Some(version) = self.version.get() {
            return Ok(version);
        }
        let wanted = std::env::var("DOCKER_API_VERSION").ok().filter(|version| !version.is_empty());
        let version = match wanted {
            Some(version) => version,
            None => {
                let answer = self.send("/_ping")?;
                let named =
                    |(name, _): &&(String, String)| name.eq_ignore_ascii_case("api-version");
                let version = answer.headers.iter().find(named).map(|(_, value)| value.clone());
                version.filter(|_| answer.status == 200).ok_or_else(|| {
                    let said = format!("{} {}", answer.status, said(&answer.body));
                    self.unreachable(anyhow::anyhow!("it answers {said} to GET /_ping"))
                })?
            }
        };
        let number = version.trim().trim_start_matches('v').chars();
        let number: String = number.filter(|one| one.is_ascii_digit() || *one == '.').collect();
        Ok(self.version.get_or_init(|| format!("v{number}")))
    }

    fn send(&self, target: &str) -> Result<http::Answer> {
        let url: Url = format!("http://docker{target}").parse().map_err(Error::msg)?;
        let path = self.host.strip_prefix("unix://").unwrap_or(&self.host);
        let request = Request {
            socket: Some(PathBuf::from(path)),
            most_body: LONGEST_ANSWER,
            ..Request::get(url)
        };
        http::ask(&request, QUERY_TIMEOUT).map_err(|why| self.explained(why))
    }

    fn explained(&self, why: Unanswered) -> Error {
        match why.kind {
            Kind::Interrupted | Kind::Timeout => Failure::new(why.reason(), why.msg).into(),
            _ => self.unreachable(why.into()),
        }
    }

    fn unreachable(&self, cause: Error) -> Error {
        let msg =
            format!("the engine at {} does not answer: start it, or give docker_host", self.host);
        Failure::new("engine_unreachable", msg).caused_by(cause).into()
    }
}

/// Returns the engine's error message in lower case.
fn said(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Said {
        message: String,
    }
    let text = match serde_json::from_slice::<Said>(body) {
        Ok(said) => said.message,
        Err(_) => String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned(),
    };
    text.trim().to_lowercase()
}

/// Percent-encodes a name for a path; the slashes of an image's name are kept.
pub fn escaped(name: &str) -> String {
    host::percent_encode(name, b"/:@")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;

    /// Answers each connection with the next of these, and gives the first line of each request back.
    fn engine(answers: &'static [&'static str]) -> (Socket, std::thread::JoinHandle<Vec<String>>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("docker.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let lines = std::thread::spawn(move || {
            let _folder = folder;
            let one = |answer: &&str| {
                let (mut line, mut asked) = (listener.accept().unwrap().0, Vec::new());
                while !asked.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    line.read_exact(&mut byte).unwrap();
                    asked.extend(byte);
                }
                line.write_all(answer.as_bytes()).unwrap();
                String::from_utf8(asked).unwrap().lines().next().unwrap().to_owned()
            };
            answers.iter().map(one).collect()
        });
        (Socket::at(&format!("unix://{}", path.display())), lines)
    }

    const PING: &str = "HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nContent-Length: 2\r\n\r\nOK";

    #[test]
    fn paths_have_the_version_of_the_engine() {
        let (socket, lines) = engine(&[
            PING,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{\"a\r\n5\r\n\": 1}\r\n0\r\n\r\n",
            "HTTP/1.1 404 Not Found\r\n\r\n{\"message\":\"get x: no such volume\"}\n",
            "HTTP/1.1 404 Not Found\r\n\r\n{\"message\":\"page not found\"}\n",
            "HTTP/1.1 500 Oh\r\n\r\n{\"message\":\"The disk is full\"}\n",
        ]);
        let ask = |path: &str| socket.ask::<serde_json::Value>(path);
        assert_eq!(ask("/a").unwrap(), Some(serde_json::json!({"a": 1})));
        assert_eq!(ask("/volumes/x").unwrap(), None);
        assert!(ask("/b").unwrap_err().to_string().contains("page not found"));
        assert!(
            ask("/c").unwrap_err().to_string().ends_with("answers 500 to GET /c: the disk is full")
        );
        let asked = ["/_ping", "/v1.41/a", "/v1.41/volumes/x", "/v1.41/b", "/v1.41/c"];
        assert_eq!(lines.join().unwrap(), asked.map(|path| format!("GET {path} HTTP/1.1")));
    }

    #[test]
    fn an_engine_that_does_not_answer_is_an_error() {
        let (cut, _lines) = engine(&[PING, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}"]);
        let (other, _lines) = engine(&["HTTP/1.1 404 Not Found\r\n\r\nno such page"]);
        for socket in [cut, other, Socket::at("unix:///nowhere/docker.sock")] {
            let error = socket.ask::<serde_json::Value>("/a").unwrap_err();
            let failure = error.downcast_ref::<Failure>().unwrap();
            assert_eq!(failure.reason, "engine_unreachable", "{error:#}");
        }
    }

    #[test]
    fn names_are_escaped() {
        assert_eq!(escaped("127.0.0.1:5000/lab/a@sha256:0f"), "127.0.0.1:5000/lab/a@sha256:0f");
        assert_eq!(escaped("a?b=c#d e%é"), "a%3Fb%3Dc%23d%20e%25%C3%A9");
    }
}
