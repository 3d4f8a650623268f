//! The process around a module: it finds the requested module and prints exactly one line, also if the
//! module panics or a signal asks it to stop.

use crate::censor;
use crate::describe;
use crate::failure::{Failure, to_result};
use crate::invocation::{Invocation, Request};
use crate::outcome::Outcome;
use crate::progress;
use crate::spec::{Module, Support};
use anyhow::Result;
use nix::sys::signal::{SigHandler, SigSet, Signal};
use serde_json::{Map, Value, json};
use std::env;
use std::io::{self, Write};
use std::panic;
use std::process::{self, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// A module and its implementation. One binary may serve several.
#[derive(Clone, Copy)]
pub struct Served {
    pub spec: &'static Module,
    pub run: fn(&Invocation) -> Result<Outcome>,
}

/// How long a module may take to clean up after a signal, before it is stopped whatever it does. A
/// restore (under `host::interrupt::shield`) gets the longer time.
const GRACE: Duration = Duration::from_secs(5);
const GRACE_WHILE_RESTORING: Duration = Duration::from_secs(60);

static PRINTED: AtomicBool = AtomicBool::new(false);

/// The `main` function of a program of modules. A module with the program's own name is used if the options
/// name none.
pub fn serve(own: &str, modules: &[Served]) -> ExitCode {
    let mut arguments =
        env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned());
    match (arguments.next().as_deref(), arguments.next()) {
        (Some("--version"), None) => print_line(&format!("{own} {}", env!("CARGO_PKG_VERSION"))),
        (Some("--spec"), None) => {
            let specs: Value = modules.iter().map(|served| describe::module(served.spec)).collect();
            print_line(&specs.to_string())
        }
        (Some(source), None) => {
            panic::set_hook(Box::new(|info| print_and_exit(panicked(info), 1)));
            listen_for_signals();
            match answer(own, modules, source) {
                Ok(result) => print(result, 0),
                Err(error) => print(to_result(&error), 1),
            }
        }
        _ => print(
            to_result(
                &Failure::new(
                    "bad_arguments",
                    format!("{own} is an Ansible module: it expects one argument, the path of a file of options as JSON, or - for standard input"),
                )
                .into(),
            ),
            1,
        ),
    }
}

fn answer(own: &str, modules: &[Served], source: &str) -> Result<Map<String, Value>> {
    let request = Request::read(source)?;
    set_environment(&request);
    let asked = request.module_name();
    let name = if asked.is_empty() { own } else { asked };
    let served = modules.iter().find(|served| served.spec.name == name).ok_or_else(|| {
        let names = host::joined(modules.iter().map(|served| served.spec.name));
        let msg = match asked {
            "" => format!("_ansible_module_name is missing: expected one of {names}"),
            _ => format!("this program has no module {asked}, only {names}"),
        };
        Failure::new("bad_arguments", msg)
    })?;
    if request.flag("_ansible_check_mode") && served.spec.check_mode == Support::None {
        let skipped = Outcome {
            skipped: Some(format!("remote module ({name}) does not support check mode")),
            ..Outcome::default()
        };
        return Ok(skipped.into_result(false));
    }
    if let Some(name) = request.progress() {
        progress::begin(name);
    }
    let show_invocation = request.verbosity() >= 3 || request.flag("_ansible_inject_invocation");
    let (invocation, warnings) = request.into_invocation(served.spec)?;
    let mut result = match (served.run)(&invocation) {
        Ok(mut outcome) => {
            outcome.warnings.splice(0..0, warnings);
            outcome.into_result(invocation.diff)
        }
        Err(error) => {
            let mut result = to_result(&error);
            if !warnings.is_empty() {
                result.insert("warnings".into(), json!(warnings));
            }
            result
        }
    };
    if show_invocation {
        let options = json!({ "module_args": invocation.options.shown(served.spec) });
        result.insert("invocation".into(), options);
    }
    Ok(result)
}

#[allow(unsafe_code)]
fn set_environment(request: &Request) {
    for (key, value) in request.environment() {
        // SAFETY: the only other thread waits in sigwait and reads no environment.
        unsafe { env::set_var(key, value) };
    }
}

fn print_line(line: &str) -> ExitCode {
    match writeln!(io::stdout(), "{line}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Prints the result, unless one was printed already.
fn print(result: Map<String, Value>, code: u8) -> ExitCode {
    if PRINTED.swap(true, Ordering::SeqCst) {
        // The signal thread is printing; it ends the process.
        loop {
            thread::park();
        }
    }
    progress::end();
    let failed = result.get("failed") == Some(&Value::Bool(true));
    let line = one_line(&Value::Object(censor::result(result)).to_string());
    let mut stdout = io::stdout().lock();
    match stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) if !failed => ExitCode::from(code),
        _ => ExitCode::FAILURE,
    }
}

/// Escapes line ends: Ansible splits output by Python's splitlines, which knows more of them than JSON
/// escapes.
fn one_line(json: &str) -> String {
    let mut line = String::with_capacity(json.len() + 1);
    for c in json.chars() {
        match c {
            '\u{85}' | '\u{2028}' | '\u{2029}' => line.push_str(&format!("\\u{:04x}", c as u32)),
            c => line.push(c),
        }
    }
    line.push('\n');
    line
}

fn print_and_exit(result: Map<String, Value>, code: i32) -> ! {
    print(result, 1);
    process::exit(code)
}

fn panicked(info: &panic::PanicHookInfo<'_>) -> Map<String, Value> {
    let payload = info.payload();
    let what = (payload.downcast_ref::<&str>().copied())
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    let at = info.location().map(|at| format!(" ({}:{})", at.file(), at.line()));
    let msg = format!(
        "the module stopped because of a bug in it: {what}{}; look at the target before you run \
         the task again",
        at.unwrap_or_default()
    );
    to_result(&Failure::new("panic", msg).into())
}

/// Turns SIGTERM and SIGINT into a request to stop, which waits and commands notice; a module that does
/// not end in time is ended here, with a message.
///
/// SIGHUP is ignored: a controller that goes away must not stop a change half way.
fn listen_for_signals() {
    let mut stop = SigSet::empty();
    stop.add(Signal::SIGTERM);
    stop.add(Signal::SIGINT);
    ignore_hangup();
    // New threads inherit the mask, so that only the thread below receives the signals.
    if stop.thread_block().is_err() {
        return;
    }
    let wait = move || {
        let Ok(signal) = stop.wait() else { return };
        host::interrupt::note(signal);
        let mut waited = Duration::ZERO;
        let tick = Duration::from_millis(50);
        while waited < GRACE || (restoring() && waited < GRACE_WHILE_RESTORING) {
            thread::sleep(tick);
            waited += tick;
        }
        let msg = format!("stopped by {signal} before the module was done");
        print_and_exit(to_result(&Failure::new("interrupted", msg).into()), 128 + signal as i32);
    };
    let thread = thread::Builder::new().name("signals".into()).stack_size(64 << 10);
    // Without the thread a signal would be blocked for ever: let it end the process instead.
    if thread.spawn(wait).is_err() {
        let _ = stop.thread_unblock();
    }
}

/// Whether a restore is going on: its shield hides the signal.
fn restoring() -> bool {
    host::interrupt::pending().is_none()
}

#[allow(unsafe_code)]
fn ignore_hangup() {
    // SAFETY: SIG_IGN runs no handler.
    let _ = unsafe { nix::sys::signal::signal(Signal::SIGHUP, SigHandler::SigIgn) };
}
