//! `prometheus`: the result of a query is within bounds, now or at each step of a window; `alerts`: no
//! alert fires that did not fire before.
//!
//! Invariant: it fails closed. No data, NaN, a string in place of a number, too few samples and a query
//! that is refused are failures.

use super::web;
use crate::bounds::Bounds;
use crate::observation::{Ask, Observation, Try, shown};
use crate::probe_options::ProbeOptions;
use ansible_module::Failure;
use host::deadline::Deadline;
use probe::http::{Request, Url};
use probe::shown::clipped;
use serde_json::{Map, Value, json};
use series::{Series, Window};
use std::time::Duration;

pub mod series;

const STEP: Duration = Duration::from_secs(15);
/// Prometheus itself refuses more points.
const MAX_STEPS: f64 = 11_000.0;
const MAX_ANSWER: usize = 8 << 20;

/// A Prometheus server.
struct Server(Request);

impl Server {
    fn parse(options: &mut ProbeOptions) -> Result<Server, Failure> {
        let mut request = web::request(options)?;
        if request.url.target().contains('?') {
            let msg =
                "expected the URL of the server without a query, such as http://127.0.0.1:9090";
            return Err(options.bad("url", msg));
        }
        request.most_body = MAX_ANSWER;
        Ok(Server(request))
    }

    /// Calls its API and returns the `data` of the answer.
    fn get(
        &self,
        call: &str,
        parameters: &[(&str, &str)],
        deadline: Deadline,
    ) -> Result<Value, String> {
        let mut request = self.0.clone();
        let base = request.url.to_string();
        let mut url = format!("{}/api/v1/{call}", base.trim_end_matches('/'));
        for (index, (name, value)) in parameters.iter().enumerate() {
            url += if index == 0 { "?" } else { "&" };
            url += &format!("{name}={}", host::percent_encode(value, b""));
        }
        request.url = Url::try_from(url)?;
        let answer = web::ask(&request, deadline.remaining())?;
        let whom = request.url.authority();
        if answer.truncated {
            return Err(format!("{whom} answered more than {} MiB", MAX_ANSWER >> 20));
        }
        let body: Value = serde_json::from_slice(&answer.body).map_err(|_| {
            format!(
                "{whom} answered with status {} and no JSON: is it a Prometheus server?",
                answer.status
            )
        })?;
        if answer.status != 200 || body["status"] != "success" {
            let why = body["error"].as_str().unwrap_or("it gives no reason");
            return Err(format!(
                "{whom} refused the query with status {}: {}",
                answer.status,
                shown(why)
            ));
        }
        Ok(body["data"].clone())
    }

    /// Returns the server's time, which its samples have.
    fn now(&self, deadline: Deadline) -> Result<f64, String> {
        let data = self.get("query", &[("query", "time()")], deadline)?;
        let text = data["result"][1].as_str().and_then(|text| text.parse::<f64>().ok());
        text.ok_or_else(|| "it does not tell its time: is it a Prometheus server?".to_owned())
    }
}

pub struct Prometheus {
    server: Server,
    query: String,
    bounds: Bounds,
    window: Option<Window>,
}

impl Prometheus {
    pub fn parse(options: &mut ProbeOptions) -> Result<Prometheus, Failure> {
        let server = Server::parse(options)?;
        let query = options.text("query")?;
        let query = query.ok_or_else(|| options.refuse("kind prometheus needs query".into()))?;
        let bounds = Bounds::parse(options)?;
        Ok(Prometheus { server, query, bounds, window: window(options)? })
    }

    fn now(&self, deadline: Deadline) -> Result<Vec<Series>, String> {
        series::parse_instant(&self.server.get("query", &[("query", &self.query)], deadline)?)
    }

    fn over(&self, window: &Window, deadline: Deadline) -> Result<Vec<Series>, String> {
        let end = self.server.now(deadline)?;
        let start = end - window.span.as_secs_f64();
        let parameters = [
            ("query", self.query.as_str()),
            ("start", &format!("{start:.3}")),
            ("end", &format!("{end:.3}")),
            ("step", &format!("{:.3}", window.step.as_secs_f64())),
        ];
        series::parse_range(&self.server.get("query_range", &parameters, deadline)?, start)
    }
}

fn window(options: &mut ProbeOptions) -> Result<Option<Window>, Failure> {
    let (span, tolerated) = (options.seconds("window")?, options.seconds("for")?);
    let (step, min_samples) = (options.seconds("step")?, options.integer("min_samples", 1)?);
    let Some(span) = span.or(tolerated).filter(|span| !span.is_zero()) else {
        if step.is_some() || min_samples.is_some() || tolerated.is_some() {
            let msg = "step, min_samples and for need a window: give window too".to_owned();
            return Err(options.refuse(msg));
        }
        return Ok(None);
    };
    if tolerated.is_some_and(|tolerated| tolerated > span) {
        return Err(options.bad("for", "expected no more than window"));
    }
    let step = step.unwrap_or(STEP.min(span));
    if step.is_zero() || step > span {
        return Err(options.bad("step", "expected more than 0, and no more than window"));
    }
    let steps = span.as_secs_f64() / step.as_secs_f64();
    if steps > MAX_STEPS {
        return Err(options.bad("step", format!("{MAX_STEPS} steps in a window at most")));
    }
    let min_samples = min_samples.unwrap_or(1) as usize;
    if min_samples as f64 > steps + 1.0 {
        let msg = format!("the window has only {} steps", steps as u64 + 1);
        return Err(options.bad("min_samples", msg));
    }
    Ok(Some(Window { span, step, tolerated, min_samples }))
}

impl Ask for Prometheus {
    fn ask(&self, now: &Try<'_>) -> Result<Observation, String> {
        let deadline = now.deadline();
        let all = match &self.window {
            None => self.now(deadline)?,
            Some(window) => self.over(window, deadline)?,
        };
        let [first, others @ ..] = all.as_slice() else {
            return Err("no data: the query gives no series".to_owned());
        };
        let value = first.last();
        let mut seen = match others.len() {
            0 => Observation::new(value.map_or("no data".to_owned(), |value| value.to_string())),
            more => Observation::new(format!("{} series", more + 1)),
        };
        if others.is_empty() {
            seen.value = value.filter(|value| value.is_finite());
        } else if self.bounds.needs_baseline() {
            let msg =
                "to compare with the baseline, the query must give one series: use sum or max";
            return Ok(seen.judged(Err(msg.to_owned())));
        }
        let hold = |value: f64| self.bounds.hold(value, now.before);
        let judge = |series: &Series| match &self.window {
            None => series.holds_now(hold),
            Some(window) => series.holds_over(window, hold),
        };
        let verdict = all.iter().try_for_each(|series| {
            judge(series).map_err(|why| match series.labels.as_str() {
                "{}" => why,
                labels => format!("{}: {why}", clipped(labels, 160)),
            })
        });
        Ok(seen.judged(verdict))
    }
}

pub struct Alerts {
    server: Server,
    labels: Map<String, Value>,
    ignore: Vec<String>,
}

impl Alerts {
    pub fn parse(options: &mut ProbeOptions) -> Result<Alerts, Failure> {
        Ok(Alerts {
            server: Server::parse(options)?,
            labels: options.take("labels")?.unwrap_or_default(),
            ignore: options.take("ignore_alerts")?.unwrap_or_default(),
        })
    }

    fn counts(&self, labels: &Map<String, Value>) -> bool {
        let text = |value: &Value| web::to_text(value.clone());
        let ignored = self.ignore.iter().any(|name| labels.get("alertname") == Some(&json!(name)));
        let fits =
            |(name, value): (&String, &Value)| labels.get(name).map(text) == Some(text(value));
        !ignored && self.labels.iter().all(fits)
    }
}

impl Ask for Alerts {
    fn ask(&self, now: &Try<'_>) -> Result<Observation, String> {
        let data = self.server.get("alerts", &[], now.deadline())?;
        let all = data["alerts"].as_array().ok_or("the answer holds no list of alerts")?;
        let mut firing = Vec::new();
        for alert in all {
            let labels = alert["labels"].as_object().ok_or("there is an alert without labels")?;
            if alert["state"] == "firing" && self.counts(labels) {
                firing.push(series::labels(labels));
            }
        }
        firing.sort();
        let before = match now.before {
            None => Vec::new(),
            Some(before) => {
                let firing = before.seen.get("firing").and_then(Value::as_array);
                firing.ok_or("the baseline has no list of firing alerts")?.clone()
            }
        };
        let new: Vec<&String> =
            firing.iter().filter(|alert| !before.contains(&json!(alert))).collect();
        let mut answer = format!("{} firing", firing.len());
        if now.before.is_some() {
            answer += &format!(", {} of them in the baseline too", firing.len() - new.len());
        }
        let verdict = match new.as_slice() {
            [] => Ok(()),
            new => {
                let list = new.iter().map(|alert| clipped(alert, 160));
                Err(format!("firing: {}", host::joined(list)))
            }
        };
        let seen = Observation::new(answer).value(firing.len() as f64);
        Ok(seen.judged(verdict).remember("firing", json!(firing)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_encoded() {
        assert_eq!(host::percent_encode("up{a=\"b\"}", b""), "up%7Ba%3D%22b%22%7D");
        assert_eq!(host::percent_encode("a+b é", b""), "a%2Bb%20%C3%A9");
    }

    #[test]
    fn windows_are_checked() {
        let parse = |value: Value| {
            let mut options =
                ProbeOptions::new("p", "prometheus", value.as_object().cloned().unwrap());
            window(&mut options).map_err(|failure| failure.msg)
        };
        assert!(parse(json!({})).unwrap().is_none());
        let window = parse(json!({"for": 120})).unwrap().unwrap();
        assert_eq!((window.span.as_secs(), window.step.as_secs()), (120, 15));
        for (value, words) in [
            (json!({"min_samples": 2}), "give window too"),
            (json!({"window": 10, "for": 20}), "no more than window"),
            (json!({"window": 10, "step": 0}), "more than 0"),
            (json!({"window": 80000, "step": 1}), "11000 steps"),
            (json!({"window": 60, "step": 30, "min_samples": 9}), "only 3 steps"),
        ] {
            let msg = parse(value).err().unwrap_or_default();
            assert!(msg.contains(words), "{msg}");
        }
    }
}
