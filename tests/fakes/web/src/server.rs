//! `web serve`: answers with its colour and release, a thread for each connection. How it behaves
//! is one value, the mode; a request meets the mode of the moment in which its head was read.

use crate::args::Args;
use crate::control::{self, Mode};
use crate::http::Head;
use crate::websocket;
use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufReader, ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(5);
const STACK: usize = 256 << 10;

pub struct App {
    address: SocketAddr,
    colour: String,
    health: String,
    now: Mutex<Now>,
    changed: Condvar,
    counts: Mutex<BTreeMap<String, u64>>,
    /// Requests that a share of failures was drawn for.
    drawn: AtomicU64,
    /// What is connected, to be cut by `refuse`.
    open: Mutex<HashMap<u64, TcpStream>>,
}

struct Now {
    mode: Mode,
    release: String,
    listening: bool,
}

enum Answer {
    Page { status: u16, body: String, after: Duration, mode: Mode },
    WebSocket { key: String },
    Never,
    Close,
}

pub fn run(words: &[String]) -> Result<()> {
    let known = ["listen", "port", "colour", "release", "health", "control"];
    let args = Args::parse(words, &known, &[])?;
    let here = args.get("listen")?.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let address = SocketAddr::from((here, args.must("port")?));
    let now = Now { mode: Mode::Ok, release: args.must("release")?, listening: false };
    let app = Arc::new(App {
        address,
        colour: args.must("colour")?,
        health: args.get("health")?.unwrap_or_else(|| "/health".to_owned()),
        now: Mutex::new(now),
        changed: Condvar::new(),
        counts: Mutex::default(),
        drawn: AtomicU64::new(0),
        open: Mutex::default(),
    });
    if let Some(path) = args.get::<PathBuf>("control")? {
        control::listen(app.clone(), &path)?;
    }
    loop {
        let listener = listen(address)?;
        app.now().listening = true;
        app.changed.notify_all();
        accept(&app, &listener);
        drop(listener);
        let mut now = app.now();
        now.listening = false;
        app.changed.notify_all();
        while now.mode == Mode::Refuse {
            now = app.changed.wait(now).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// After `refuse` the port may be in the hands of a connection that is just ending.
fn listen(address: SocketAddr) -> Result<TcpListener> {
    let begun = Instant::now();
    loop {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && begun.elapsed() < PATIENCE => {
                thread::sleep(Duration::from_millis(10));
            }
            other => return other.with_context(|| format!("listening at {address}")),
        }
    }
}

/// Take connections until told to refuse them.
fn accept(app: &Arc<App>, listener: &TcpListener) {
    for id in 0.. {
        // It was gone before it was taken, or no descriptor is left: the next one may do.
        let Ok((stream, _)) = listener.accept() else {
            thread::sleep(Duration::from_millis(1));
            continue;
        };
        match app.now().mode {
            Mode::Refuse => return,
            Mode::Close => continue,
            _ => {}
        }
        let app = app.clone();
        // Without a thread left the connection is closed, which is what the client then sees.
        let _ = thread::Builder::new().stack_size(STACK).spawn(move || {
            if let Ok(copy) = stream.try_clone() {
                lock(&app.open).insert(id, copy);
            }
            // Whatever ends a connection ends that connection alone.
            let _ = app.converse(&stream);
            lock(&app.open).remove(&id);
        });
    }
}

impl App {
    /// Change the mode; when this returns, `refuse` does not listen any more and the others do.
    pub fn set_mode(&self, mode: Mode) -> Result<()> {
        let mut now = self.now();
        now.mode = mode;
        self.changed.notify_all();
        drop(now);
        if mode == Mode::Refuse {
            // Wakes the thread that waits for a connection, if there is one.
            drop(TcpStream::connect_timeout(&self.address, PATIENCE));
            for stream in lock(&self.open).values() {
                // It may have ended by itself.
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
        let (now, waited) = self
            .changed
            .wait_timeout_while(self.now(), PATIENCE, |now| {
                now.mode == mode && now.listening == (mode == Mode::Refuse)
            })
            .unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() && now.mode == mode {
            bail!("listening is {} after {PATIENCE:?}", now.listening);
        }
        Ok(())
    }

    pub fn set_release(&self, release: String) {
        self.now().release = release;
    }

    /// How many requests were served for each path, and how many frames of WebSockets as `frames`.
    pub fn counts(&self) -> Value {
        let counts = lock(&self.counts);
        Value::Object(
            counts.iter().map(|(path, n)| (path.clone(), json!(n))).collect::<Map<_, _>>(),
        )
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        lock(&self.now)
    }

    fn converse(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream);
        let mut writer = stream;
        // Closed between two requests is how every connection ends.
        while let Ok(head) = Head::read(&mut reader) {
            let Ok(_body) = head.body(&mut reader, false) else { return Ok(()) };
            let (answer, release) = self.answer(&head);
            let names = format!("X-Release: {release}\r\nX-Colour: {}\r\n", self.colour);
            match answer {
                Answer::Close => return Ok(()),
                Answer::Never => return self.wait_for_the_end(stream),
                Answer::WebSocket { key } => {
                    let accept = websocket::accept_key(&key);
                    write!(
                        writer,
                        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                         Connection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n{names}\r\n"
                    )?;
                    return websocket::echo(&mut reader, &mut writer, || self.count("frames"));
                }
                Answer::Page { status, body, after, mode } => {
                    self.hold_back(after, mode);
                    let last = head.says("connection", "close") || head.first.ends_with("HTTP/1.0");
                    let connection = if last { "close" } else { "keep-alive" };
                    let length = body.len();
                    let body = if head.first.starts_with("HEAD ") { "" } else { &body };
                    // One write, so that it is one packet.
                    let text = format!(
                        "HTTP/1.1 {status} {}\r\nContent-Type: {}\r\nContent-Length: {length}\r\n\
                         Connection: {connection}\r\n{names}\r\n{body}",
                        reason(status),
                        if body.starts_with('{') { "application/json" } else { "text/plain" },
                    );
                    writer.write_all(text.as_bytes())?;
                    if last {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    fn answer(&self, head: &Head) -> (Answer, String) {
        let target = head.first.split(' ').nth(1).unwrap_or("/");
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        self.count(path);
        let now = self.now();
        let (mode, release) = (now.mode, now.release.clone());
        drop(now);
        let is_health = path == self.health || path == "/api/v1/health";
        let (fails, after) = match mode {
            Mode::Hang => return (Answer::Never, release),
            Mode::Close | Mode::Refuse => return (Answer::Close, release),
            Mode::Ok => (false, Duration::ZERO),
            Mode::Fail => (true, Duration::ZERO),
            Mode::FailHealth => (is_health, Duration::ZERO),
            Mode::FailApp => (!is_health, Duration::ZERO),
            Mode::Share(percent) => (!is_health && self.draw(percent), Duration::ZERO),
            Mode::Slow(after) => (false, after),
            Mode::SlowApp(after) => (false, if is_health { Duration::ZERO } else { after }),
        };
        let page =
            |status, body, after| (Answer::Page { status, body, after, mode }, release.clone());
        if fails {
            return page(500, format!("{} fails\n", self.colour), after);
        }
        let mine = format!("{} {release}\n", self.colour);
        match path {
            _ if is_health => page(200, self.health(&release), after),
            "/missing" => page(404, "missing\n".to_owned(), after),
            "/slow" => {
                let asked = query.split('&').find_map(|pair| pair.strip_prefix("ms="));
                let asked = asked.and_then(|text| text.parse().ok()).unwrap_or(0);
                page(200, mine, after + Duration::from_millis(asked))
            }
            "/ws" if head.says("upgrade", "websocket") => match head.field("sec-websocket-key") {
                Some(key) => (Answer::WebSocket { key: key.to_owned() }, release),
                None => page(400, "no key\n".to_owned(), after),
            },
            "/ws" => page(426, "this is for WebSockets\n".to_owned(), after),
            _ => page(200, mine, after),
        }
    }

    fn health(&self, release: &str) -> String {
        let build = json!({ "sha": release });
        let all = json!({
            "status": "ok", "colour": self.colour, "version": release, "build": build,
        });
        format!("{all}\n")
    }

    /// Spread evenly, not at random: of any hundred in a row, exactly so many fail.
    fn draw(&self, percent: u64) -> bool {
        let turn = self.drawn.fetch_add(1, Ordering::Relaxed);
        (turn + 1) * percent / 100 > turn * percent / 100
    }

    fn count(&self, path: &str) {
        let mut counts = lock(&self.counts);
        match counts.get_mut(path) {
            Some(count) => *count += 1,
            None => drop(counts.insert(path.to_owned(), 1)),
        }
    }

    /// A slow answer takes that long, or until the mode is another.
    fn hold_back(&self, after: Duration, mode: Mode) {
        if !after.is_zero() {
            drop(self.changed.wait_timeout_while(self.now(), after, |now| now.mode == mode));
        }
    }

    /// No answer, until the client gives up or the mode is another.
    fn wait_for_the_end(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_read_timeout(Some(Duration::from_millis(50)))?;
        while self.now().mode == Mode::Hang {
            match stream.peek(&mut [0]) {
                Ok(0) => break,
                Ok(_) => thread::sleep(Duration::from_millis(50)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        426 => "Upgrade Required",
        _ => "Internal Server Error",
    }
}

/// A panic in one connection must not take the others with it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
