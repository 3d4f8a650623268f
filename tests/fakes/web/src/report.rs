//! What the load has seen, as numbers. Every answer is kept with its time, and what belongs
//! together is found at the end, so that no worker waits for another while it measures.

use crate::client::Answer;
use crate::http::Fault;
use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

const MOST_FAILURES: usize = 1000;
const MOST_RUNS: usize = 20_000;

/// Nanoseconds of CLOCK_MONOTONIC, which is one clock for every process of a machine.
pub fn now() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}

pub fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

pub fn words(fault: Fault) -> String {
    match fault {
        Fault::Closed(why) | Fault::Broken(why) => why,
    }
}

/// An answer that was good: when it had come, how long it took, and its first word.
struct Seen {
    at: u64,
    micros: u32,
    word: u16,
}

/// What one worker has seen.
#[derive(Default)]
pub struct Tally {
    requests: u64,
    fresh: u64,
    pub keepalive_retries: u64,
    failures: Vec<(u64, String)>,
    words: Vec<String>,
    seen: Vec<Seen>,
}

impl Tally {
    pub fn record(&mut self, begun: u64, fresh: bool, answer: &Result<Answer, String>) {
        let at = now();
        self.requests += 1;
        self.fresh += u64::from(fresh);
        match answer {
            Ok(Answer { status: 200, body, .. }) => {
                let word = body.split(|byte| byte.is_ascii_whitespace()).next().unwrap_or_default();
                let word = self.word(&String::from_utf8_lossy(word));
                let micros = u32::try_from((at - begun) / 1000).unwrap_or(u32::MAX);
                self.seen.push(Seen { at, micros, word });
            }
            Ok(other) => self.failures.push((at, format!("status {}", other.status))),
            Err(why) => self.failures.push((at, why.clone())),
        }
    }

    fn word(&mut self, word: &str) -> u16 {
        let known = self.words.iter().position(|known| known == word);
        let at = known.unwrap_or_else(|| {
            self.words.push(word.to_owned());
            self.words.len() - 1
        });
        at as u16
    }
}

pub struct Report {
    all: Tally,
    pub lost_workers: u64,
    pub web_socket: Value,
    begun: u64,
}

impl Report {
    pub fn begin() -> Report {
        Report { all: Tally::default(), lost_workers: 0, web_socket: Value::Null, begun: now() }
    }

    pub fn add(&mut self, tally: Tally) {
        self.all.requests += tally.requests;
        self.all.fresh += tally.fresh;
        self.all.keepalive_retries += tally.keepalive_retries;
        self.all.failures.extend(tally.failures);
        let ids: Vec<u16> = tally.words.iter().map(|word| self.all.word(word)).collect();
        let renamed =
            tally.seen.into_iter().map(|seen| Seen { word: ids[seen.word as usize], ..seen });
        self.all.seen.extend(renamed);
    }

    pub fn finish(mut self) -> Value {
        let ended = now();
        self.all.seen.sort_by_key(|seen| seen.at);
        self.all.failures.sort();
        let all = &self.all;
        let mut answers: BTreeMap<&str, u64> = BTreeMap::new();
        for seen in &all.seen {
            *answers.entry(self.name(seen.word)).or_default() += 1;
        }
        let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
        for (_, why) in &all.failures {
            *kinds.entry(why).or_default() += 1;
        }
        let first_failures: Vec<Value> = (all.failures.iter().take(MOST_FAILURES))
            .map(|(at, why)| json!({"ns": at, "why": why}))
            .collect();
        let runs = self.runs();
        json!({
            "requests": all.requests,
            "fresh": all.fresh,
            "failed": all.failures.len(),
            "kinds": kinds,
            "failures": first_failures,
            "keepalive_retries": all.keepalive_retries,
            "answers": answers,
            "runs": runs.iter().take(MOST_RUNS).collect::<Vec<_>>(),
            "runs_left_off": runs.len().saturating_sub(MOST_RUNS),
            "milliseconds": self.milliseconds(),
            "web_socket": self.web_socket,
            "lost_workers": self.lost_workers,
            "begun_ns": self.begun,
            "ended_ns": ended,
            "seconds": (ended - self.begun) as f64 / 1e9,
        })
    }

    /// Answers of one word in a row: `[word, first ns, last ns, how many]`. All there is to know
    /// about who answered when.
    fn runs(&self) -> Vec<Value> {
        let rows = self.all.seen.chunk_by(|one, next| one.word == next.word);
        rows.map(|row| json!([self.name(row[0].word), row[0].at, row[row.len() - 1].at, row.len()]))
            .collect()
    }

    fn milliseconds(&self) -> Value {
        let mut micros: Vec<u32> = self.all.seen.iter().map(|seen| seen.micros).collect();
        micros.sort_unstable();
        let at = |share: f64| {
            let place = (micros.len() as f64 * share) as usize;
            micros.get(place.min(micros.len().saturating_sub(1))).map(|us| f64::from(*us) / 1e3)
        };
        json!({"p50": at(0.5), "p99": at(0.99), "max": at(1.0)})
    }

    fn name(&self, word: u16) -> &str {
        &self.all.words[word as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_one_word_in_a_row_are_a_run() {
        let mut report = Report::begin();
        for (at, word) in [(10, "blue"), (70, "green"), (90, "green"), (80, "blue")] {
            let mut tally = Tally::default();
            let word = tally.word(word);
            tally.seen.push(Seen { at, micros: 1, word });
            report.add(tally);
        }
        let seen = report.finish();
        let runs = [("blue", 10), ("green", 70), ("blue", 80), ("green", 90)];
        assert_eq!(seen["runs"], json!(runs.map(|(word, at)| json!([word, at, at, 1]))));
        assert_eq!(seen["answers"], json!({"blue": 2, "green": 2}));
    }

    #[test]
    fn whatever_is_not_200_has_failed() {
        let mut tally = Tally::default();
        for status in [200, 204, 302, 503] {
            let answer = Answer { status, body: b"blue 1".to_vec(), is_last: false };
            tally.record(now(), false, &Ok(answer));
        }
        tally.record(now(), true, &Err("closed without an answer".to_owned()));
        let mut report = Report::begin();
        report.add(tally);
        let report = report.finish();
        assert_eq!(report["failed"], 4);
        assert_eq!(report["kinds"]["status 503"], 1);
        assert_eq!(report["answers"], json!({"blue": 1}));
    }
}
