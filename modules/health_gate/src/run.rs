//! Runs all probes in parallel, each with its tries.
//!
//! Invariant: it ends shortly after the deadline, whatever a probe does. One that hangs in the kernel (a
//! dead network filesystem) has failed, and its thread is abandoned.

use crate::observation::{Observation, Try};
use crate::options::Probe;
use crate::table::Row;
use host::deadline::{Deadline, seconds};
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

const MAX_PARALLEL: usize = 32;
/// Extra time to end programs at the deadline.
const GRACE: Duration = Duration::from_secs(2);
const STACK: usize = 1 << 20;

/// Runs all probes and returns the results in their order.
pub fn run_all(probes: Vec<Probe>, deadline: Deadline) -> Vec<Row> {
    let probes = Arc::new(probes);
    let next = Arc::new(AtomicUsize::new(0));
    let (sender, receiver) = mpsc::channel();
    for _ in 0..probes.len().min(MAX_PARALLEL) {
        let (probes, next, sender) = (probes.clone(), next.clone(), sender.clone());
        // Not scoped threads: a thread that hangs must not be waited for.
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
    let hung = |probe: &Probe| {
        let span = seconds(deadline.span());
        Row::new(probe).failed(format!("it hangs: it did not end within {span}"))
    };
    rows.into_iter()
        .zip(probes.iter())
        .map(|(row, probe)| row.unwrap_or_else(|| hung(probe)))
        .collect()
}

fn work(probes: &[Probe], next: &AtomicUsize, sender: &Sender<(usize, Row)>, deadline: Deadline) {
    loop {
        let index = next.fetch_add(1, Ordering::SeqCst);
        let Some(probe) = probes.get(index) else { return };
        if sender.send((index, run_probe(probe, deadline))).is_err() {
            return;
        }
    }
}

/// Tries until enough tries in a row have held, the tries are used up, or the deadline has passed.
fn run_probe(probe: &Probe, gate_deadline: Deadline) -> Row {
    let mut row = Row::new(probe);
    let mut initial = None;
    let mut streak = 0;
    while row.tries < probe.tries {
        if row.tries > 0 && probe.delay >= gate_deadline.remaining() {
            return row.ended(format!(
                "the deadline of {} left no time for another try",
                seconds(gate_deadline.span())
            ));
        }
        if row.tries > 0 && gate_deadline.sleep(probe.delay).is_err() {
            return row.ended("interrupted".to_owned());
        }
        if gate_deadline.passed() {
            return row
                .ended(format!("the deadline of {} passed before", seconds(gate_deadline.span())));
        }
        row.tries += 1;
        let asked = Instant::now();
        let seen = ask(probe, gate_deadline, &mut initial);
        row.milliseconds = (asked.elapsed().as_secs_f64() * 10_000.0).round() / 10.0;
        streak = if row.take(seen) { streak + 1 } else { 0 };
        if streak == probe.consecutive {
            return row.held();
        }
    }
    match streak {
        0 => row.ended(String::new()),
        _ => row.ended(format!("it held {streak} times in a row, expected {}", probe.consecutive)),
    }
}

fn ask(
    probe: &Probe,
    gate_deadline: Deadline,
    initial: &mut Option<Value>,
) -> Result<Observation, String> {
    let nothing = Value::Null;
    let now = |initial| Try {
        timeout: probe.timeout,
        gate_deadline,
        initial,
        before: probe.before.as_ref(),
        only_looks: probe.only_looks,
    };
    if initial.is_none() {
        *initial = Some(probe.ask.begin(&now(&nothing))?);
    }
    probe.ask.ask(&now(initial.as_ref().unwrap_or(&nothing)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::Ask;
    use std::sync::{Barrier, Mutex};

    /// A deadline that no test reaches unless something hangs.
    const LONG: Duration = Duration::from_secs(60);

    /// A probe that holds only while all others run too.
    struct Together(Arc<Barrier>);

    impl Ask for Together {
        fn ask(&self, _: &Try<'_>) -> Result<Observation, String> {
            self.0.wait();
            Ok(Observation::new("said"))
        }
    }

    /// A probe that gives these results one after the other, and repeats the last.
    struct Script(Mutex<Vec<Result<(), String>>>, Duration);

    impl Ask for Script {
        fn ask(&self, _: &Try<'_>) -> Result<Observation, String> {
            thread::sleep(self.1);
            let mut script = self.0.lock().unwrap();
            let answer = if script.len() > 1 { script.remove(0) } else { script[0].clone() };
            Ok(Observation::new("said").judged(answer))
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
            only_looks: false,
            ask: Box::new(Script(Mutex::new(answers.collect()), Duration::from_millis(takes))),
        }
    }

    fn run_one(script: &[bool], tries: u64, consecutive: u64) -> Row {
        run_probe(&probe(script, tries, consecutive, 0), Deadline::after(LONG))
    }

    #[test]
    fn enough_tries_in_a_row_must_hold() {
        let row = run_one(&[false, false, true], 5, 1);
        assert_eq!((row.ok, row.tries, row.why.as_deref()), (Some(true), 3, None));
        let row = run_one(&[false], 3, 1);
        assert_eq!((row.ok, row.tries), (Some(false), 3));
        assert_eq!(row.why.unwrap(), "bad (asked 3 times)");
        let row = run_one(&[true, false, true, true], 9, 2);
        assert_eq!((row.ok, row.tries), (Some(true), 4));
        let row = run_one(&[true, false, true], 3, 2);
        assert_eq!(row.ok, Some(false));
        assert!(row.why.unwrap().contains("it held 1 times in a row, expected 2"));
    }

    #[test]
    fn probes_run_in_parallel_and_end_at_the_deadline() {
        let barrier = Arc::new(Barrier::new(20));
        let together =
            || Probe { ask: Box::new(Together(barrier.clone())), ..probe(&[true], 1, 1, 0) };
        let rows = run_all((0..20).map(|_| together()).collect(), Deadline::after(LONG));
        assert!(rows.iter().all(|row| row.ok == Some(true)));

        let initial = Instant::now();
        let hangs = vec![probe(&[true], 1, 1, 600_000), probe(&[true], 1, 1, 0)];
        let rows = run_all(hangs, Deadline::after(Duration::from_secs(2)));
        assert!(rows[0].why.as_ref().unwrap().contains("it hangs"));
        assert_eq!(rows[1].ok, Some(true));
        assert!(initial.elapsed() < LONG, "{:?}", initial.elapsed());
    }

    #[test]
    fn no_try_begins_after_the_deadline() {
        // Each try takes 50 ms at least.
        let row =
            run_probe(&probe(&[false], 1000, 1, 50), Deadline::after(Duration::from_millis(200)));
        assert_eq!(row.ok, Some(false));
        assert!(row.tries < 10, "{}", row.tries);
        assert!(row.why.unwrap().contains("the deadline of 0.2 s"));
        let row = run_probe(&probe(&[true], 1, 1, 0), Deadline::after(Duration::ZERO));
        assert_eq!((row.ok, row.tries), (Some(false), 0), "its turn came after the deadline");
        assert_eq!(row.why.unwrap(), "the deadline of 0 s passed before");
    }
}
