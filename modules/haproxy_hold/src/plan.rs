//! Plans the steps from the observed state. Pure.

use crate::options::{Task, Wanted};
use crate::state::State;
use ansible_module::Failure;
use change::{Plan, Step, Undo};
use host::deadline::seconds;
use serde_json::json;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Hold,
    Drain,
    WaitForServers,
    Release,
}

pub fn plan(task: &Task, seen: &State) -> Result<Plan<Action>, Failure> {
    let key = &task.key;
    let mut plan = Plan::nothing(format!("requests of {key}"), seen.view(key));
    let at = match seen.edges.as_slice() {
        [only] => format!("HAProxy at {}", only.socket),
        several => format!("{} HAProxy processes", several.len()),
    };
    let named = task.backends.join(", ");
    match task.wanted {
        Wanted::Held => {
            refuse_too_long(task, seen)?;
            let by = task.deploy.as_ref().map(ToString::to_string);
            let same_run = seen.hold(key).is_some_and(|hold| hold.by == by);
            if same_run && seen.is_held_everywhere(key) {
                return Ok(plan);
            }
            let most = seconds(task.most);
            plan.steps.push(Step::new(
                Action::Hold,
                format!("hold new requests of {key} at {at} for {most} at most"),
            ));
            if !task.backends.is_empty() && !task.drain_timeout.is_zero() {
                let text = format!(
                    "wait for requests that are under way at {named}, for {} at most",
                    seconds(task.drain_timeout)
                );
                plan.steps.push(Step::new(Action::Drain, text));
            }
            plan.undo = Undo::By("state: released; it ends by itself, too".into());
            plan.after = json!({ "held": true, "deploy_id": by });
        }
        Wanted::Released => {
            let has_old = seen.hold(key).is_some_and(|hold| seen.count(key, &hold).waiting > 0);
            if seen.values(key).iter().all(Option::is_none) && !has_old {
                return Ok(plan);
            }
            if !task.backends.is_empty() && seen.is_held_anywhere(key) {
                let text = format!(
                    "wait until HAProxy sees a server of each up: {named}, for {} at most",
                    seconds(task.up_timeout)
                );
                plan.steps.push(Step::new(Action::WaitForServers, text));
            }
            plan.steps
                .push(Step::new(Action::Release, format!("release the requests of {key} at {at}")));
            plan.undo = Undo::By("state: held".into());
            plan.after = json!({ "held": false, "until": null, "deploy_id": null });
        }
    }
    Ok(plan)
}

fn refuse_too_long(task: &Task, seen: &State) -> Result<(), Failure> {
    let Some(edge) = seen.edges.iter().min_by_key(|edge| edge.report.seconds) else {
        return Ok(());
    };
    let bound = Duration::from_secs(edge.report.seconds);
    if task.most <= bound {
        return Ok(());
    }
    let msg = format!(
        "HAProxy at {} holds requests for {} at most, and {} is asked for; nothing was changed; ask \
         for less, or set haproxy_hold_seconds of the role reversible.deploy.haproxy",
        edge.socket,
        seconds(bound),
        seconds(task.most)
    );
    Err(Failure::new("too_long", msg))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Subject;
    use crate::script::{Hold, Report};
    use crate::state::Edge;
    use haproxy::socket::Socket;
    use std::collections::BTreeMap;

    const NOW: u64 = 1_796_182_157_000;

    fn task(wanted: Wanted, most: u64, backends: &[&str]) -> Task {
        Task {
            subject: Subject { sockets: Vec::new(), master: "/none".into() },
            key: "shop".into(),
            wanted,
            most: Duration::from_secs(most),
            backends: backends.iter().map(ToString::to_string).collect(),
            drain_timeout: Duration::from_secs(1),
            up_timeout: Duration::from_secs(1),
            deploy: None,
            state_dir: "/none".into(),
            lock_timeout: Duration::ZERO,
        }
    }

    /// Held until then, in the live map and in the file.
    fn state(live: Option<u64>, file: Option<u64>) -> State {
        let value = |until| Hold { since: NOW - 1000, until, by: None }.to_string();
        let report = Report {
            map: "/map".into(),
            seconds: 60,
            requests: 500,
            now: NOW,
            counts: BTreeMap::new(),
        };
        let live = live.map(|until| ("shop".to_owned(), value(until))).into_iter().collect();
        let text = file.map(|until| format!("shop {}\n", value(until))).unwrap_or_default();
        State {
            edges: vec![Edge { socket: Socket::Unix("/socket".into()), report, live }],
            old: Vec::new(),
            files: BTreeMap::from([("/map".into(), text.into_bytes())]),
        }
    }

    fn actions(task: &Task, state: &State) -> Vec<Action> {
        plan(task, state).unwrap().steps.iter().map(|step| step.action).collect()
    }

    #[test]
    fn a_present_hold_is_not_set_again() {
        let held = |backends: &[&str], live, file| {
            actions(&task(Wanted::Held, 30, backends), &state(live, file))
        };
        let (later, over) = (Some(NOW + 9), Some(NOW));
        assert_eq!(held(&[], None, None), [Action::Hold]);
        assert_eq!(held(&["web"], None, None), [Action::Hold, Action::Drain]);
        assert_eq!(held(&["web"], later, later), []);
        assert_eq!(held(&[], over, over), [Action::Hold]);
        assert_eq!(held(&[], None, later), [Action::Hold]);
        assert_eq!(held(&[], later, None), [Action::Hold]);
        // The script ignores an end that is too far in the future.
        assert_eq!(held(&[], Some(NOW + 60_001), Some(NOW + 60_001)), [Action::Hold]);
    }

    #[test]
    fn remains_of_a_hold_are_removed() {
        let released =
            |live, file| actions(&task(Wanted::Released, 30, &["web"]), &state(live, file));
        let (later, over) = (Some(NOW + 9), Some(NOW));
        assert_eq!(released(None, None), []);
        assert_eq!(released(later, later), [Action::WaitForServers, Action::Release]);
        assert_eq!(released(over, over), [Action::Release]);
        assert_eq!(released(None, later), [Action::Release]);
    }

    #[test]
    fn a_hold_longer_than_haproxy_allows_is_refused() {
        let refused = plan(&task(Wanted::Held, 61, &[]), &state(None, None)).unwrap_err();
        assert_eq!(refused.reason, "too_long");
        assert!(plan(&task(Wanted::Held, 60, &[]), &state(None, None)).is_ok());
    }
}
