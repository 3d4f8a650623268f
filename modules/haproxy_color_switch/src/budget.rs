//! The error budget: the requests of the new colour, watched for a while. Fails closed: too few
//! requests to judge by are a failure.

use crate::apply::Apply;
use crate::haproxy::stat::Count;
use crate::servers::Fleet;
use crate::task::Budget;
use ansible_module::Failure;
use anyhow::Result;
use host::deadline::{Deadline, seconds};
use serde_json::json;
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(200);

/// What was seen so far.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    count: Count,
    own: u64,
    own_failed: u64,
}

impl Seen {
    fn failed(self) -> u64 {
        // A request of ours that no server saw failed all the same.
        self.count.failed.max(self.own_failed)
    }

    fn requests(self) -> u64 {
        self.count.requests.max(self.own)
    }

    fn share(self) -> f64 {
        share(self.failed(), self.requests())
    }
}

fn share(failed: u64, requests: u64) -> f64 {
    if requests == 0 { 0.0 } else { failed as f64 / requests as f64 }
}

/// Why the budget is broken, as far as can be said by now.
fn broken(budget: &Budget, before: f64, seen: Seen) -> Option<String> {
    let (failed, requests) = (seen.failed(), seen.requests());
    if budget.max_failed.is_some_and(|most| failed > most) {
        return Some(format!(
            "{failed} of {requests} requests failed, more than {}",
            budget.max_failed.unwrap_or_default()
        ));
    }
    if requests < budget.min_requests || seen.share() <= before + budget.max_share {
        return None;
    }
    Some(format!(
        "{failed} of {requests} requests failed ({:.1} %, allowed {:.1} % above the {:.1} % of the old colour)",
        seen.share() * 100.0,
        budget.max_share * 100.0,
        before * 100.0
    ))
}

pub fn watch(apply: &mut Apply<'_>) -> Result<()> {
    let (task, state, switch) = (apply.task, apply.state, apply.switch);
    let Some(budget) = &task.budget else { return Ok(()) };
    let old = state.fleet(switch.to.other()).since(&Fleet::default());
    let before = share(old.failed, old.requests);
    let observe = || Fleet::observe(&state.groups, switch.to, &state.sockets);
    let (began, deadline) = (Instant::now(), Deadline::after(budget.watch));
    // What goes wrong in the very first moment counts: from the counters before the flip.
    let mut last = state.fleet(switch.to).clone();
    let mut seen = Seen::default();
    let tell = |seen: Seen, apply: &mut Apply<'_>| {
        apply.numbers.budget = Some(json!({
            "seconds": (began.elapsed().as_secs_f64() * 10.0).round() / 10.0,
            "requests": seen.requests(),
            "failed": seen.failed(),
            "share": seen.share(),
            "share_before": before,
            "own_requests": seen.own,
        }));
    };
    loop {
        let now = observe()?;
        let more = now.since(&last);
        seen.count.requests += more.requests;
        seen.count.failed += more.failed;
        tell(seen, apply);
        if let Some(part) = now.lost() {
            return Err(refusal(format!("{part} has no server of {} that is up", switch.to)));
        }
        if let Some(why) = broken(budget, before, seen) {
            return Err(refusal(why));
        }
        last = now;
        let ended = deadline.passed();
        // On the way to the fewest requests, as far as the time has gone.
        let gone = began.elapsed().as_secs_f64() / budget.watch.as_secs_f64();
        let due = (budget.min_requests as f64 * gone.min(1.0)).ceil() as u64;
        if let Some(prove) = &task.prove {
            while seen.requests() < due {
                host::interrupt::check()?;
                let answer = prove.ask_once(None, switch.release.as_deref());
                seen.own += 1;
                seen.own_failed += u64::from(answer.is_err());
                if let Some(why) = broken(budget, before, seen) {
                    tell(seen, apply);
                    return Err(refusal(why));
                }
            }
        }
        if ended {
            tell(seen, apply);
            if seen.requests() >= budget.min_requests {
                return Ok(());
            }
            let watched = seconds(budget.watch);
            return Err(refusal(format!(
                "only {} requests in {watched}, and {} are needed to judge; with prove they are asked for",
                seen.requests(),
                budget.min_requests
            )));
        }
        deadline.sleep(POLL)?;
    }
}

fn refusal(why: String) -> anyhow::Error {
    Failure::new("budget_broken", why).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(max_failed: Option<u64>) -> Budget {
        Budget { watch: Duration::from_secs(1), max_failed, max_share: 0.1, min_requests: 10 }
    }

    fn seen(requests: u64, failed: u64) -> Seen {
        Seen { count: Count { requests, failed }, ..Seen::default() }
    }

    #[test]
    fn it_is_compared_with_the_old_colour() {
        assert!(broken(&budget(None), 0.0, seen(9, 9)).is_none());
        assert!(broken(&budget(None), 0.0, seen(10, 1)).is_none());
        assert!(broken(&budget(None), 0.0, seen(10, 2)).is_some());
        assert!(broken(&budget(None), 0.1, seen(10, 2)).is_none());
        assert!(broken(&budget(Some(3)), 0.0, seen(4, 4)).is_some());
        assert!(broken(&budget(Some(4)), 0.0, seen(4, 4)).is_none());
    }

    #[test]
    fn what_no_server_saw_counts() {
        let own = Seen { own: 12, own_failed: 12, ..Seen::default() };
        assert!(broken(&budget(None), 0.0, own).is_some());
    }
}
