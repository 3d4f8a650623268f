//! `pods`: the Kubernetes pods of an app are ready, their containers are not restarted, and their logs have no lines that must not come.
//!
//! Counted from the baseline, or from the first try without one, to the end of a window. Invariant: no pod at all, and a log that cannot
//! be read as a whole, are failures.

use super::logs::{LinePattern, Matches, whole_number};
use crate::observation::{Ask, Observation, Try};
use crate::probe_options::ProbeOptions;
use ansible_module::Failure;
use host::command::{IfWeDie, Output};
use host::deadline::Deadline;
use host::kubectl::Access;
use host::percent_encode;
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::time::Duration;

const WINDOW: Duration = Duration::from_secs(10);
/// The largest log of a container that is read.
const MAX_LOG: usize = 8 << 20;

pub struct Pods {
    access: Access,
    namespace: String,
    /// As in a selector: `app=shop,tier=web`.
    selector: String,
    max_restarts: u64,
    lines: Option<Lines>,
    window: Duration,
}

struct Lines {
    pattern: LinePattern,
    max: u64,
}

impl Pods {
    pub fn parse(options: &mut ProbeOptions) -> Result<Pods, Failure> {
        let labels: Map<String, Value> = options.need("labels")?;
        if labels.is_empty() {
            return Err(options.bad("labels", "expected the labels of the pods, such as app: shop"));
        }
        let context =
            options.take::<String>("context")?.filter(|context| !context.trim().is_empty());
        let (Some(context), Some(namespace)) = (context, options.word("namespace")?) else {
            return Err(options.refuse("kind pods needs context and namespace".to_owned()));
        };
        let access = Access {
            kubectl: path(options, "kubectl")?,
            kubeconfig: path(options, "kubeconfig")?,
            context,
        };
        let pattern = LinePattern::parse(options)?;
        let max = whole_number(options, "max", 0)?;
        if pattern.is_none() && max.is_some() {
            return Err(options.refuse("max is for lines of logs: give text or regex".to_owned()));
        }
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let selector: Vec<String> =
            labels.iter().map(|(key, value)| format!("{key}={}", text(value))).collect();
        Ok(Pods {
            access,
            namespace,
            selector: selector.join(","),
            max_restarts: whole_number(options, "max_restarts", 0)?.unwrap_or_default(),
            lines: pattern.map(|pattern| Lines { pattern, max: max.unwrap_or_default() }),
            window: options.seconds("window")?.unwrap_or(WINDOW),
        })
    }

    fn get(&self, path: &str, deadline: Deadline) -> Result<Output, String> {
        let program = self
            .access
            .program()
            .map_err(|_| "cannot run kubectl: this machine has no such program".to_owned())?;
        let path =
            format!("/api/v1/namespaces/{}/pods{path}", percent_encode(&self.namespace, b""));
        let command = self
            .access
            .command(&program, "get", &path)
            .deadline(deadline)
            .if_we_die(IfWeDie::DiesToo);
        command.run().map_err(|failed| {
            let said = crate::observation::last_line(&failed.stderr);
            if said.is_empty() { failed.to_string() } else { said }
        })
    }

    /// Returns the pods that are to run.
    fn pods(&self, deadline: Deadline) -> Result<Vec<Value>, String> {
        let path = format!("?labelSelector={}", percent_encode(&self.selector, b""));
        let all: Value = self.get(&path, deadline)?.json().map_err(|why| format!("{why:#}"))?;
        let items = all["items"].as_array().ok_or("the answer has no list of pods")?;
        let pods: Vec<Value> = items.iter().filter(|pod| is_wanted(pod)).cloned().collect();
        match pods.is_empty() {
            true => {
                Err(format!("no pod with the labels {} runs in {}", self.selector, self.namespace))
            }
            false => Ok(pods),
        }
    }

    /// Counts the new lines of the logs of all containers that match.
    fn matches(
        &self,
        lines: &Lines,
        pods: &[Value],
        was: &Map<String, Value>,
        deadline: Deadline,
    ) -> Result<Matches, String> {
        let mut matches = Matches::default();
        for pod in pods {
            // Of a pod that was there before only the lines of the window are new.
            let since = match was.contains_key(uid(pod)) {
                true => format!("&sinceSeconds={}", self.window.as_secs().max(1)),
                false => String::new(),
            };
            for container in statuses(pod).filter_map(|one| one["name"].as_str()) {
                let path = format!(
                    "/{}/log?container={}&limitBytes={MAX_LOG}{since}",
                    percent_encode(name(pod), b""),
                    percent_encode(container, b"")
                );
                let log = self.get(&path, deadline)?.stdout;
                if log.len() >= MAX_LOG {
                    return Err(format!(
                        "the log of {}, container {container}, is longer than the {MAX_LOG} bytes that are read",
                        name(pod)
                    ));
                }
                log.split(|byte| *byte == b'\n')
                    .filter(|line| !line.is_empty())
                    .for_each(|line| matches.count(&lines.pattern, line));
            }
        }
        Ok(matches)
    }
}

/// Takes an absolute path; an empty one counts as not given, since the role's lists cannot leave it out.
fn path(options: &mut ProbeOptions, key: &str) -> Result<Option<PathBuf>, Failure> {
    match options.take::<PathBuf>(key)?.filter(|path| !path.as_os_str().is_empty()) {
        Some(path) if !path.is_absolute() => Err(options
            .bad(key, format!("expected an absolute path, got {:?}", path.display().to_string()))),
        path => Ok(path),
    }
}

impl Ask for Pods {
    fn begin(&self, now: &Try<'_>) -> Result<Value, String> {
        Ok(Value::Object(restarts(&self.pods(now.deadline())?)))
    }

    fn ask(&self, now: &Try<'_>) -> Result<Observation, String> {
        now.watch(self.window)?;
        let deadline = now.deadline();
        let pods = self.pods(deadline)?;
        let counts = restarts(&pods);
        let nothing = Map::new();
        let was = match now.before {
            Some(before) => (before.seen.get("pods").and_then(Value::as_object))
                .ok_or("the baseline has no restart counts of this probe")?,
            None => now.initial.as_object().unwrap_or(&nothing),
        };
        let matches = match &self.lines {
            Some(lines) => self.matches(lines, &pods, was, deadline)?,
            None => Matches::default(),
        };
        let new = new_restarts(&pods, was);
        let verdict = self
            .judge(&pods, new, &matches)
            .and_then(|()| now.require_time_or_baseline(self.window));
        let answer = format!("{} pods, {new} new restarts", pods.len());
        let answer = match &self.lines {
            Some(_) => format!("{answer}, {} lines match", matches.matching),
            None => answer,
        };
        Ok(Observation::new(answer)
            .value(new as f64)
            .judged(verdict)
            .remember("pods", Value::Object(counts)))
    }
}

impl Pods {
    fn judge(&self, pods: &[Value], new: u64, matches: &Matches) -> Result<(), String> {
        let unready: Vec<String> = pods.iter().filter_map(why_not_ready).collect();
        if !unready.is_empty() {
            return Err(unready.join("; "));
        }
        if new > self.max_restarts {
            return Err(format!("containers of its pods were restarted {new} times"));
        }
        match &self.lines {
            Some(lines) if matches.matching > lines.max => {
                let first = matches.first.as_deref().unwrap_or_default();
                Err(format!("{} new lines match, the first: {first}", matches.matching))
            }
            _ => Ok(()),
        }
    }
}

/// Whether a pod is neither being deleted nor that of a Job that has ended.
fn is_wanted(pod: &Value) -> bool {
    pod["metadata"]["deletionTimestamp"].is_null() && pod["status"]["phase"] != "Succeeded"
}

fn name(pod: &Value) -> &str {
    pod["metadata"]["name"].as_str().unwrap_or_default()
}

fn uid(pod: &Value) -> &str {
    pod["metadata"]["uid"].as_str().unwrap_or_default()
}

fn statuses(pod: &Value) -> impl Iterator<Item = &Value> {
    pod["status"]["containerStatuses"].as_array().into_iter().flatten()
}

fn restarts_of(pod: &Value) -> u64 {
    statuses(pod).filter_map(|one| one["restartCount"].as_u64()).sum()
}

/// Returns how often the containers of each pod were restarted, by its uid: a new pod may have the name of an old one.
fn restarts(pods: &[Value]) -> Map<String, Value> {
    pods.iter().map(|pod| (uid(pod).to_owned(), json!(restarts_of(pod)))).collect()
}

fn new_restarts(pods: &[Value], was: &Map<String, Value>) -> u64 {
    let before = |pod: &Value| was.get(uid(pod)).and_then(Value::as_u64).unwrap_or_default();
    pods.iter().map(|pod| restarts_of(pod).saturating_sub(before(pod))).sum()
}

fn why_not_ready(pod: &Value) -> Option<String> {
    let conditions = pod["status"]["conditions"].as_array();
    let is_ready = conditions
        .is_some_and(|all| all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"));
    if is_ready {
        return None;
    }
    let waits = statuses(pod).find_map(|one| one["state"]["waiting"]["reason"].as_str());
    let phase = pod["status"]["phase"].as_str().unwrap_or("Unknown");
    Some(format!("pod {} is not ready ({})", name(pod), waits.unwrap_or(phase)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, restarts: u64, ready: &str) -> Value {
        json!({ "metadata": { "name": format!("web-{uid}"), "uid": uid },
                "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": ready }],
                            "containerStatuses": [{ "name": "web", "restartCount": restarts, "state": { "waiting": { "reason": "CrashLoopBackOff" } } }] } })
    }

    #[test]
    fn only_new_restarts_count() {
        let was = restarts(&[pod("a", 3, "True")]);
        assert_eq!(new_restarts(&[pod("a", 3, "True")], &was), 0);
        assert_eq!(new_restarts(&[pod("a", 5, "True"), pod("b", 1, "True")], &was), 3);
    }

    #[test]
    fn a_pod_that_is_not_ready_is_named() {
        assert_eq!(why_not_ready(&pod("a", 0, "True")), None);
        assert_eq!(
            why_not_ready(&pod("a", 0, "False")).as_deref(),
            Some("pod web-a is not ready (CrashLoopBackOff)")
        );
    }

    #[test]
    fn a_pod_that_is_to_go_does_not_count() {
        let mut gone = pod("a", 0, "True");
        assert!(is_wanted(&gone));
        gone["metadata"]["deletionTimestamp"] = json!("2026-11-21T08:45:00Z");
        assert!(!is_wanted(&gone));
    }
}
