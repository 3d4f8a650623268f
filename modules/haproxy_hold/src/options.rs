//! The options as typed values, with the checks that a spec cannot express.

use ansible_module::{Failure, Options as RawOptions};
use haproxy::socket::Socket;
use host::deploy_id::DeployId;
use std::path::PathBuf;
use std::time::Duration;

/// The HAProxy processes to observe.
pub struct Subject {
    pub sockets: Vec<Socket>,
    pub master: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    Held,
    Released,
}

pub struct Task {
    pub subject: Subject,
    pub key: String,
    pub wanted: Wanted,
    pub most: Duration,
    pub backends: Vec<String>,
    pub drain_timeout: Duration,
    pub up_timeout: Duration,
    pub deploy: Option<DeployId>,
    pub state_dir: PathBuf,
    pub lock_timeout: Duration,
}

impl Subject {
    pub fn parse(raw: &RawOptions) -> Result<Subject, Failure> {
        let sockets: Vec<String> = raw.get("stats_socket")?;
        if sockets.is_empty() {
            return Err(Failure::bad_option("stats_socket", "expected at least one"));
        }
        let sockets = sockets.iter().map(|text| Socket::parse(text)).collect::<Result<_, _>>();
        Ok(Subject {
            sockets: sockets.map_err(|why| Failure::bad_option("stats_socket", why))?,
            master: raw.get("master_socket")?,
        })
    }
}

impl Task {
    pub fn parse(raw: &RawOptions) -> Result<Task, Failure> {
        let key = word("map_key", raw.get("map_key")?)?;
        let (wanted, most): (String, Duration) = (raw.get("state")?, raw.seconds("most")?);
        if most < Duration::from_secs(1) {
            return Err(Failure::bad_option("most", "expected at least 1 second"));
        }
        let backends: Vec<String> = raw.get("backends")?;
        let backends = backends.into_iter().map(|name| word("backends", name));
        let state_dir: Option<PathBuf> = raw.get("state_dir")?;
        Ok(Task {
            subject: Subject::parse(raw)?,
            wanted: if wanted == "held" { Wanted::Held } else { Wanted::Released },
            most,
            backends: backends.collect::<Result<_, _>>()?,
            drain_timeout: raw.seconds("drain_timeout")?,
            up_timeout: raw.seconds("up_timeout")?,
            deploy: raw.get("deploy_id")?,
            state_dir: state_dir.unwrap_or_else(|| format!("/var/lib/reversible/{key}").into()),
            lock_timeout: raw.seconds("lock_timeout")?,
            key,
        })
    }
}

/// One word in a command to HAProxy and in a line of its map.
pub fn word(option: &str, text: String) -> Result<String, Failure> {
    let sound = |byte: u8| byte.is_ascii_alphanumeric() || b"._:@-".contains(&byte);
    if !text.is_empty() && text.bytes().all(sound) && !text.starts_with('.') {
        return Ok(text);
    }
    let expected = "letters, digits and any of . _ : @ -, beginning with no .";
    Err(Failure::bad_option(option, format!("expected {expected}, got {text:?}")))
}
