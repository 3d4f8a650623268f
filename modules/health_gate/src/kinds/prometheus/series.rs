//! The series of an answer of Prometheus, and whether their samples hold.
//!
//! Invariant: a sample is a number or it has not held; the answer has the shape that was asked for or
//! it is an error.

use host::deadline::seconds;
use serde_json::{Map, Value};
use std::time::Duration;

#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// `{}` when it has none.
    pub labels: String,
    /// Time in seconds from the beginning of the window, and value; ordered by time.
    samples: Vec<(f64, f64)>,
}

/// A range, and what must hold in it.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    pub span: Duration,
    pub step: Duration,
    /// For how long the value may be out of bounds without interruption; `None` for never.
    pub tolerated: Option<Duration>,
    pub min_samples: usize,
}

/// Parses an answer with `resultType` vector or scalar: one sample for each series.
pub fn parse_instant(data: &Value) -> Result<Vec<Series>, String> {
    match data["resultType"].as_str() {
        Some("scalar") => Ok(vec![Series {
            labels: "{}".to_owned(),
            samples: vec![parse_sample(&data["result"], 0.0)?],
        }]),
        Some("vector") => rows(data)?
            .iter()
            .map(|row| {
                let samples = vec![parse_sample(&row["value"], 0.0)?];
                Ok(Series { labels: labels_of(row), samples })
            })
            .collect(),
        Some("matrix") => {
            Err("the query gives a range, not a value: put a function such as rate around it"
                .into())
        }
        _ => Err("the query gives no numbers".to_owned()),
    }
}

/// Parses an answer with `resultType` matrix: the samples since `start`.
pub fn parse_range(data: &Value, start: f64) -> Result<Vec<Series>, String> {
    match data["resultType"].as_str() {
        Some("matrix") => rows(data)?
            .iter()
            .map(|row| {
                let values =
                    row["values"].as_array().ok_or("a series of the answer has no values")?;
                let samples = values.iter().map(|value| parse_sample(value, start));
                Ok(Series { labels: labels_of(row), samples: samples.collect::<Result<_, _>>()? })
            })
            .collect(),
        _ => Err("the query gives no numbers over time".to_owned()),
    }
}

fn rows(data: &Value) -> Result<&Vec<Value>, String> {
    data["result"].as_array().ok_or_else(|| "the answer holds no list of series".to_owned())
}

/// Parses a sample such as `[1700000000.123, "0.05"]`, whose value may be `NaN` or `+Inf`.
fn parse_sample(value: &Value, start: f64) -> Result<(f64, f64), String> {
    let parsed = || {
        let time = value[0].as_f64()?;
        Some((time - start, value[1].as_str()?.parse().ok()?))
    };
    parsed().ok_or_else(|| "a sample of the answer is not a number".to_owned())
}

fn labels_of(row: &Value) -> String {
    row["metric"].as_object().map(labels).unwrap_or_else(|| "{}".to_owned())
}

/// Formats labels as `name{a="b"}`, sorted, so that the same alert gives the same text each time.
pub fn labels(all: &Map<String, Value>) -> String {
    let mut pairs: Vec<(&String, &Value)> = all.iter().collect();
    pairs.sort_by_key(|(name, _)| *name);
    let named = |name: &str| matches!(name, "__name__" | "alertname");
    let name: String = pairs
        .iter()
        .filter(|(name, _)| named(name))
        .filter_map(|(_, value)| value.as_str())
        .collect();
    let list: Vec<String> = (pairs.iter())
        .filter(|(name, _)| !named(name))
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    match (name.is_empty(), list.is_empty()) {
        (false, true) => name,
        _ => format!("{name}{{{}}}", list.join(",")),
    }
}

impl Series {
    pub fn last(&self) -> Option<f64> {
        self.samples.last().map(|(_, value)| *value)
    }

    pub fn holds_now(&self, hold: impl Fn(f64) -> Result<(), String>) -> Result<(), String> {
        hold(self.last().ok_or("no data: the series is empty")?)
    }

    /// Without `tolerated` each sample must hold. With it, samples may fail for that time without
    /// interruption. A step without a sample counts as failed.
    pub fn holds_over(
        &self,
        window: &Window,
        hold: impl Fn(f64) -> Result<(), String>,
    ) -> Result<(), String> {
        let (got, wanted) = (self.samples.len(), window.min_samples.max(1));
        if got < wanted {
            return Err(format!("{got} samples in the window, at least {wanted} are needed"));
        }
        let (span, step) = (window.span.as_secs_f64(), window.step.as_secs_f64());
        let last = self.samples.last().map_or(0.0, |(time, _)| *time);
        // Half a step of slack here and below: the times of samples are rounded.
        if last < span - 1.5 * step {
            return Err(format!("no data for the last {:.0} s of the window", span - last));
        }
        match window.tolerated {
            None => self.each_holds(hold),
            Some(tolerated) => self.holds_with_patience(step, tolerated, hold),
        }
    }

    fn each_holds(&self, hold: impl Fn(f64) -> Result<(), String>) -> Result<(), String> {
        let mut failure = self.samples.iter().filter_map(|(_, value)| hold(*value).err());
        match failure.next() {
            None => Ok(()),
            Some(why) => {
                let count = 1 + failure.count();
                Err(format!("{count} of {} samples: {why}", self.samples.len()))
            }
        }
    }

    fn holds_with_patience(
        &self,
        step: f64,
        tolerated: Duration,
        hold: impl Fn(f64) -> Result<(), String>,
    ) -> Result<(), String> {
        // The time of the first of the latest failed steps in a row.
        let mut since = 0.0;
        let (mut good, mut failure) = (false, None);
        for (time, value) in &self.samples {
            match hold(*value) {
                Ok(()) => (since, good) = (time + step, true),
                Err(why) if time - since >= tolerated.as_secs_f64() - step / 2.0 => {
                    return Err(format!("for {} without a break: {why}", seconds(tolerated)));
                }
                Err(why) => failure = Some(why),
            }
        }
        match failure {
            // A window shorter than the tolerated time fails if no sample of it held.
            Some(why) if !good => Err(format!("not once in the window: {why}")),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn below_one(value: f64) -> Result<(), String> {
        if value < 1.0 { Ok(()) } else { Err(format!("{value} is above 1")) }
    }

    fn series(values: &[f64]) -> Series {
        let samples =
            values.iter().enumerate().map(|(n, value)| (n as f64 * 10.0, *value)).collect();
        Series { labels: "{}".into(), samples }
    }

    fn window(span: u64, tolerated: Option<u64>, min_samples: usize) -> Window {
        let step = Duration::from_secs(10);
        let tolerated = tolerated.map(Duration::from_secs);
        Window { span: Duration::from_secs(span), step, tolerated, min_samples }
    }

    fn over(values: &[f64], tolerated: Option<u64>, min_samples: usize) -> Result<(), String> {
        let span = 10 * values.len().saturating_sub(1) as u64;
        series(values).holds_over(&window(span, tolerated, min_samples), below_one)
    }

    #[test]
    fn answers_are_parsed() {
        let vector = json!({"resultType": "vector", "result": [
            {"metric": {"__name__": "up", "job": "a"}, "value": [1.5, "1"]},
            {"metric": {}, "value": [1.5, "NaN"]},
        ]});
        let all = parse_instant(&vector).unwrap();
        assert_eq!((all[0].labels.as_str(), all[0].last()), ("up{job=\"a\"}", Some(1.0)));
        assert!(all[1].labels == "{}" && all[1].last().unwrap().is_nan());
        let scalar = json!({"resultType": "scalar", "result": [1.5, "+Inf"]});
        assert_eq!(parse_instant(&scalar).unwrap()[0].last(), Some(f64::INFINITY));
        let matrix = json!({"resultType": "matrix", "result": [
            {"metric": {}, "values": [[10, "1"], [20, "2"]]}]});
        assert_eq!(parse_range(&matrix, 10.0).unwrap()[0].samples, [(0.0, 1.0), (10.0, 2.0)]);
        assert!(parse_instant(&matrix).unwrap_err().contains("rate around it"));
        assert!(parse_range(&vector, 0.0).is_err());
        for odd in [
            json!({"resultType": "string", "result": [1, "x"]}),
            json!({"resultType": "vector", "result": {}}),
            json!({"resultType": "vector", "result": [{"metric": {}, "value": [1, "x"]}]}),
            json!({"resultType": "vector", "result": [{"metric": {}, "value": [1, 5]}]}),
            json!({}),
            json!(null),
        ] {
            assert!(parse_instant(&odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn labels_are_sorted() {
        let all = json!({"severity": "page", "alertname": "Down", "job": "a"});
        let text = labels(all.as_object().unwrap());
        assert_eq!(text, "Down{job=\"a\",severity=\"page\"}");
        assert_eq!(labels(json!({"alertname": "Down"}).as_object().unwrap()), "Down");
    }

    #[test]
    fn every_sample_of_a_window_must_hold() {
        assert_eq!(over(&[0.1, 0.2], None, 1), Ok(()));
        let why = over(&[0.1, 5.0, 6.0], None, 1).unwrap_err();
        assert_eq!(why, "2 of 3 samples: 5 is above 1");
        assert!(over(&[0.1], None, 2).unwrap_err().contains("1 samples in the window, at least 2"));
        assert!(over(&[], None, 1).is_err());
    }

    #[test]
    fn samples_may_fail_for_the_tolerated_time() {
        assert_eq!(over(&[0.1, 5.0, 5.0, 0.1, 5.0], Some(20), 1), Ok(()));
        assert_eq!(over(&[5.0, 0.1], Some(20), 1), Ok(()));
        let why = over(&[5.0, 5.0, 5.0], Some(20), 1).unwrap_err();
        assert_eq!(why, "for 20 s without a break: 5 is above 1");
        assert!(over(&[0.1, 5.0, 5.0, 5.0], Some(20), 1).is_err());
        assert!(over(&[5.0], Some(20), 1).unwrap_err().contains("not once"));
        // A missing sample counts as out of bounds.
        let hole = Series { labels: "{}".into(), samples: vec![(0.0, 0.1), (40.0, 5.0)] };
        assert!(hole.holds_over(&window(40, Some(20), 1), below_one).is_err());
        assert_eq!(hole.holds_over(&window(40, Some(60), 1), below_one), Ok(()));
    }

    #[test]
    fn a_series_that_ended_early_fails() {
        for tolerated in [None, Some(60)] {
            let why = series(&[0.1, 0.1]).holds_over(&window(60, tolerated, 1), below_one);
            assert_eq!(why.unwrap_err(), "no data for the last 50 s of the window");
        }
    }
}
