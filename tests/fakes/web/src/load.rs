//! `web load`: so many connections that ask without a pause, some of them again for each request.
//! Everything that a user would have seen fail counts as failed; what RFC 9112 lets a client try
//! again without telling (a kept connection that is closed before any byte of an answer) is
//! counted apart, and tried again.

use crate::args::Args;
use crate::client::{Answer, Connection, Target};
use crate::http::Fault;
use crate::report::{self, Report, Tally, now};
use crate::websocket;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{SigSet, Signal};
use serde_json::{Value, json};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// What every worker sees of the whole.
struct Plan {
    target: Target,
    left: Option<AtomicU64>,
    until: Option<Instant>,
    pause: Duration,
    stop: &'static AtomicBool,
    /// So many pauses of each worker are ended early.
    pauses_ended: &'static AtomicU64,
    /// Workers that have not had their first answer yet.
    waiting: AtomicU64,
    report: Option<PathBuf>,
}

static STOP: AtomicBool = AtomicBool::new(false);
static PAUSES_ENDED: AtomicU64 = AtomicU64::new(0);
const LOOK_EVERY: Duration = Duration::from_millis(20);
const WEB_SOCKET_PAUSE: Duration = Duration::from_millis(100);
const AFTER_A_FAILURE: Duration = Duration::from_millis(5);

pub fn run(words: &[String]) -> Result<()> {
    let known = [
        "url",
        "connections",
        "seconds",
        "requests",
        "fresh-share",
        "header",
        "method",
        "timeout",
        "pause",
        "report",
    ];
    let args = Args::parse(words, &known, &["ws"])?;
    let connections: u64 = args.must("connections")?;
    let share: f64 = args.get("fresh-share")?.unwrap_or(0.5);
    let seconds: Option<f64> = args.get("seconds")?;
    let requests: Option<u64> = args.get("requests")?;
    ensure!(
        connections > 0 && (0.0..=1.0).contains(&share),
        "no such --connections, --fresh-share"
    );
    ensure!(seconds.is_some() != requests.is_some(), "either --seconds or --requests");
    let headers: Vec<&str> = args.all("header").collect();
    let method = args.get::<String>("method")?.unwrap_or_else(|| "GET".to_owned());
    let timeout = Duration::try_from_secs_f64(args.get("timeout")?.unwrap_or(5.0))?;
    let url: String = args.must("url")?;
    let plan = Plan {
        target: Target::new(&url, &method, &headers, timeout)?,
        left: requests.map(AtomicU64::new),
        until: match seconds {
            Some(seconds) => Some(Instant::now() + Duration::try_from_secs_f64(seconds)?),
            None => None,
        },
        pause: Duration::from_millis(args.get("pause")?.unwrap_or(0)),
        stop: &STOP,
        pauses_ended: &PAUSES_ENDED,
        waiting: AtomicU64::new(connections + u64::from(args.has("ws"))),
        report: args.get("report")?,
    };
    listen_to_signals()?;
    let fresh = (connections as f64 * share).round() as u64;
    let mut report = Report::begin();
    thread::scope(|scope| {
        let socket = args.has("ws").then(|| scope.spawn(|| hold_web_socket(&plan)));
        let plan = &plan;
        let workers: Vec<_> =
            (0..connections).map(|at| scope.spawn(move || work(plan, at < fresh))).collect();
        for worker in workers {
            match worker.join() {
                Ok(tally) => report.add(tally),
                Err(_) => report.lost_workers += 1,
            }
        }
        STOP.store(true, Ordering::Relaxed);
        if let Some(socket) = socket {
            report.web_socket = socket.join().unwrap_or_else(|_| json!({"cut": "it panicked"}));
        }
    });
    write(&report.finish(), plan.report.as_deref())
}

/// SIGTERM ends the load early, and the report is written all the same; SIGUSR1 ends a pause.
fn listen_to_signals() -> Result<()> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGUSR1] {
        signals.add(signal);
    }
    signals.thread_block().context("blocking signals")?;
    thread::spawn(move || {
        while let Ok(Signal::SIGUSR1) = signals.wait() {
            PAUSES_ENDED.fetch_add(1, Ordering::Relaxed);
        }
        STOP.store(true, Ordering::Relaxed);
    });
    Ok(())
}

impl Plan {
    fn goes_on(&self) -> bool {
        let in_time = self.until.is_none_or(|end| Instant::now() < end);
        in_time && !self.stop.load(Ordering::Relaxed)
    }

    /// Is there one more request to make?
    fn take(&self) -> bool {
        let one_less = |left: u64| left.checked_sub(1);
        let order = Ordering::Relaxed;
        self.goes_on()
            && self
                .left
                .as_ref()
                .is_none_or(|left| left.fetch_update(order, order, one_less).is_ok())
    }

    /// The pause of a worker that has made so many requests, until there is nothing left to do.
    fn pause(&self, made: u64, pause: Duration) {
        let begun = Instant::now();
        let is_last = || self.left.as_ref().is_some_and(|left| left.load(Ordering::Relaxed) == 0);
        while self.goes_on() && !is_last() && self.pauses_ended.load(Ordering::Relaxed) < made {
            let left = pause.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return;
            }
            thread::sleep(left.min(LOOK_EVERY));
        }
    }

    /// Say once that everything has begun, for who waits for it before doing something.
    fn has_begun(&self) {
        if self.waiting.fetch_sub(1, Ordering::Relaxed) == 1 && self.report.is_some() {
            // Nobody may be listening; the load goes on.
            let _ = writeln!(io::stdout(), "begun");
        }
    }
}

fn work(plan: &Plan, fresh: bool) -> Tally {
    let mut tally = Tally::default();
    let mut kept = None;
    let mut made = 0;
    while plan.take() {
        let begun = now();
        let answer = ask(plan, &mut kept, fresh, &mut tally);
        tally.record(begun, fresh, &answer);
        made += 1;
        if made == 1 {
            plan.has_begun();
        }
        plan.pause(
            made,
            if answer.is_err() { plan.pause.max(AFTER_A_FAILURE) } else { plan.pause },
        );
    }
    if made == 0 {
        // The others were faster, and nothing was left.
        plan.has_begun();
    }
    tally
}

fn ask(
    plan: &Plan,
    kept: &mut Option<Connection>,
    fresh: bool,
    tally: &mut Tally,
) -> Result<Answer, String> {
    let is_new = kept.is_none();
    let mut connection = match kept.take() {
        Some(connection) => connection,
        None => plan.target.connect().map_err(report::words)?,
    };
    let mut answer = connection.ask(&plan.target, !fresh);
    if !is_new && plan.target.is_idempotent && matches!(answer, Err(Fault::Closed(_))) {
        tally.keepalive_retries += 1;
        connection = plan.target.connect().map_err(report::words)?;
        answer = connection.ask(&plan.target, !fresh);
    }
    let answer = answer.map_err(report::words)?;
    if !answer.is_last {
        *kept = Some(connection);
    }
    Ok(answer)
}

/// One WebSocket through it all. What it says at the end: whether it was cut, and by what.
fn hold_web_socket(plan: &Plan) -> Value {
    let mut echoed = 0u64;
    let mut longest = Duration::ZERO;
    let opened = plan.target.web_socket();
    plan.has_begun();
    let (mut socket, colour) = match opened {
        Ok(opened) => opened,
        Err(error) => return json!({"colour": null, "cut": format!("{error:#}"), "echoed": 0}),
    };
    let mut exchange = || -> io::Result<()> {
        let mut goes_on = true;
        while goes_on {
            // Once more at the end, for what has come to pass since the last time.
            goes_on = plan.goes_on();
            let begun = Instant::now();
            let text = format!("frame {echoed}");
            let frame = websocket::TEXT;
            websocket::write_frame(socket.get_mut(), frame, text.as_bytes(), Some([7, 1, 9, 3]))?;
            let (kind, payload) = websocket::read_frame(&mut socket)?;
            if kind == websocket::CLOSE {
                return Err(io::Error::other("the other end closed it"));
            }
            if kind != websocket::TEXT || payload != text.as_bytes() {
                return Err(io::Error::other("another frame came back"));
            }
            echoed += 1;
            longest = longest.max(begun.elapsed());
            if goes_on {
                thread::sleep(WEB_SOCKET_PAUSE);
            }
        }
        websocket::write_frame(socket.get_mut(), websocket::CLOSE, &[], Some([0; 4]))
    };
    let cut = exchange().err().map(|error| error.to_string());
    json!({"colour": colour, "cut": cut, "echoed": echoed, "longest_ms": report::ms(longest)})
}

/// Whole or not at all: who waits for the file must never read half of it.
fn write(report: &Value, path: Option<&Path>) -> Result<()> {
    let text = format!("{report:#}\n");
    let Some(path) = path else {
        return io::stdout().write_all(text.as_bytes()).context("writing the report");
    };
    let partial = path.with_extension("partial");
    fs::write(&partial, text).with_context(|| format!("writing {}", partial.display()))?;
    fs::rename(&partial, path).with_context(|| format!("writing {}", path.display()))
}
