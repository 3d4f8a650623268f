//! Runs all probes in parallel, each with its tries.
//!
//! Invariant: it ends shortly after the deadline, whatever a probe does. One that hangs in the kernel (a
//! dead network filesystem) has failed, and its thread is abandoned.

use crate::options::Probe;
use crate::seen::{Seen, Try};
use crate::table::Row;
use host::deadline::{Deadline, seconds};
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

const MOST_AT_ONCE: usize = 32;
/// Extra time to end programs at the deadline.
const GRACE: Duration = Duration::from_secs(2);
const STACK: usize = 1 << 20;

/// The results, in the order of the probes.
pub fn all(probes: Vec<Probe>, deadline: Deadline) -> Vec<Row> {
    let probes = Arc::new(probes);
    let next = Arc::new(AtomicUsize::new(0));
    let (sender, receiver) = mpsc::channel();
    for _ in 0..probes.len().min(MOST_AT_ONCE) {
        let (probes, next, sender) = (probes.clone(), next.clone(), sender.clone());
        // Not scoped: a thread that hangs must not be waited for.
        let thread = thread::Builder::new().name("probe".into()).stack_size(STACK);
        if thread.spawn(move || work(&probes, &next, &sender, deadline)).is_err() {
            break;
        }
    }
    drop(sender);
    let last = Deadline::after(deadline.remaining() + GRACE);
    let mut rows: Vec<Option<Row>> = probes.iter().map(|_| None).collect();
    while let Ok((index, row)) = receiver.recv_timeout(last.remaining()) {
        rows[index] = Some(row);
    }
    let silent = |probe: &Probe| {
        let span = seconds(deadline.span());
        Row::new(probe).failed(format!("it hangs: nothing came of it within {span}"))
    };
    rows.into_iter()
        .zip(probes.iter())
        .map(|(row, probe)| row.unwrap_or_else(|| silent(probe)))
        .collect()
}

fn work(probes: &[Probe], next: &AtomicUsize, sender: &Sender<(usize, Row)>, deadline: Deadline) {
    loop {
        let index = next.fetch_add(1, Ordering::SeqCst);
        let Some(probe) = probes.get(index) else { return };
        if sender.send((index, one(probe, deadline))).is_err() {
            return;
        }
    }
}

/// Tries until enough tries in a row have held, the tries are used up, or the deadline has passed.
fn one(probe: &Probe, whole: Deadline) -> Row {
    let mut row = Row::new(probe);
    let mut begun = None;
    let mut streak = 0;
    while row.tries < probe.tries {
        if row.tries > 0 && probe.delay >= whole.remaining() {
            return row.ended(format!(
                "the deadline of {} left no time to ask again",
                seconds(whole.span())
            ));
        }
        if row.tries > 0 && whole.sleep(probe.delay).is_err() {
            return row.ended("interrupted".to_owned());
        }
        if whole.passed() {
            return row.ended(format!("the deadline of {} came first", seconds(whole.span())));
        }
        row.tries += 1;
        let asked = Instant::now();
        let seen = ask(probe, whole, &mut begun);
        row.milliseconds = (asked.elapsed().as_secs_f64() * 10_000.0).round() / 10.0;
        streak = if row.take(seen) { streak + 1 } else { 0 };
        if streak == probe.consecutive {
            return row.held();
        }
    }
    match streak {
        0 => row.ended(String::new()),
        _ => row.ended(format!("it held {streak} times in a row of {}", probe.consecutive)),
    }
}

fn ask(probe: &Probe, whole: Deadline, begun: &mut Option<Value>) -> Result<Seen, String> {
    let nothing = Value::Null;
    let now = |begun| Try { timeout: probe.timeout, whole, begun, before: probe.before.as_ref() };
    if begun.is_none() {
        *begun = Some(probe.ask.begin(&now(&nothing))?);
    }
    probe.ask.ask(&now(begun.as_ref().unwrap_or(&nothing)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seen::Ask;
    use std::sync::{Barrier, Mutex};

    /// No test takes so long unless something hangs.
    const LONG: Duration = Duration::from_secs(60);

    /// Answers when all the others are asked, too.
    struct Together(Arc<Barrier>);

    impl Ask for Together {
        fn ask(&self, _: &Try<'_>) -> Result<Seen, String> {
            self.0.wait();
            Ok(Seen::new("said"))
        }
    }

    /// Answers in turn; the last for ever.
    struct Script(Mutex<Vec<Result<(), String>>>, Duration);

    impl Ask for Script {
        fn ask(&self, _: &Try<'_>) -> Result<Seen, String> {
            thread::sleep(self.1);
            let mut script = self.0.lock().unwrap();
            let answer = if script.len() > 1 { script.remove(0) } else { script[0].clone() };
            Ok(Seen::new("said").judged(answer))
        }
    }

    fn probe(script: &[bool], tries: u64, consecutive: u64, takes: u64) -> Probe {
        let answers = script.iter().map(|good| if *good { Ok(()) } else { Err("bad".into()) });
        Probe {
            name: "p".into(),
            kind: "tcp".into(),
            tries,
            delay: Duration::from_millis(1),
            consecutive,
            timeout: Duration::from_secs(1),
            before: None,
            ask: Box::new(Script(Mutex::new(answers.collect()), Duration::from_millis(takes))),
        }
    }

    fn run_one(script: &[bool], tries: u64, consecutive: u64) -> Row {
        one(&probe(script, tries, consecutive, 0), Deadline::after(LONG))
    }

    #[test]
    fn tries_and_streaks() {
        let row = run_one(&[false, false, true], 5, 1);
        assert_eq!((row.ok, row.tries, row.why.as_deref()), (Some(true), 3, None));
        let row = run_one(&[false], 3, 1);
        assert_eq!((row.ok, row.tries), (Some(false), 3));
        assert_eq!(row.why.unwrap(), "bad (asked 3 times)");
        let row = run_one(&[true, false, true, true], 9, 2);
        assert_eq!((row.ok, row.tries), (Some(true), 4));
        let row = run_one(&[true, false, true], 3, 2);
        assert_eq!(row.ok, Some(false));
        assert!(row.why.unwrap().contains("it held 1 times in a row of 2"));
    }

    #[test]
    fn side_by_side_and_never_past_the_deadline() {
        let barrier = Arc::new(Barrier::new(20));
        let together =
            || Probe { ask: Box::new(Together(barrier.clone())), ..probe(&[true], 1, 1, 0) };
        let rows = all((0..20).map(|_| together()).collect(), Deadline::after(LONG));
        assert!(rows.iter().all(|row| row.ok == Some(true)));

        let begun = Instant::now();
        let hangs = vec![probe(&[true], 1, 1, 600_000), probe(&[true], 1, 1, 0)];
        let rows = all(hangs, Deadline::after(Duration::from_secs(2)));
        assert!(rows[0].why.as_ref().unwrap().contains("it hangs"));
        assert_eq!(rows[1].ok, Some(true));
        assert!(begun.elapsed() < LONG, "{:?}", begun.elapsed());
    }

    #[test]
    fn the_deadline_ends_the_tries() {
        // Each try takes 50 ms at least.
        let row = one(&probe(&[false], 1000, 1, 50), Deadline::after(Duration::from_millis(200)));
        assert_eq!(row.ok, Some(false));
        assert!(row.tries < 10, "{}", row.tries);
        assert!(row.why.unwrap().contains("the deadline of 0.2 s"));
        let row = one(&probe(&[true], 1, 1, 0), Deadline::after(Duration::ZERO));
        assert_eq!((row.ok, row.tries), (Some(false), 0), "its turn came after the deadline");
        assert_eq!(row.why.unwrap(), "the deadline of 0 s came first");
    }
}
