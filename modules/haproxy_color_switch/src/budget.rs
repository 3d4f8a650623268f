//! The error budget: watches the requests to the new colour for a while. Fails closed: too few requests
//! are a failure.
//!
//! Invariant: on both colours only requests count that came while this run watched.

use crate::apply::Apply;
use crate::color::Color;
use crate::options::Budget;
use crate::servers::Fleet;
use ansible_module::Failure;
use anyhow::Result;
use haproxy::stat::Count;
use host::deadline::{Deadline, seconds};
use serde_json::json;
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(200);

/// The requests seen so far.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    count: Count,
    own: u64,
    own_failed: u64,
}

impl Seen {
    fn failed(self) -> u64 {
        // A request of ours that reached no server has failed too.
        self.count.failed.max(self.own_failed)
    }

    fn requests(self) -> u64 {
        self.count.requests.max(self.own)
    }

    fn share(self) -> f64 {
        Count { requests: self.requests(), failed: self.failed() }.share()
    }
}

/// Whether there are enough requests to judge by.
fn is_enough(budget: &Budget, requests: u64) -> bool {
    requests >= budget.min_requests.max(1)
}

/// The share of failed requests on the old colour; 0 when there were too few requests.
fn share_before(budget: &Budget, left: Count) -> f64 {
    if is_enough(budget, left.requests) { left.share() } else { 0.0 }
}

/// Why not to go back: the old colour had failed more often than the new one does.
fn worse_before(budget: &Budget, left: Count, seen: Seen, old: Color) -> Option<String> {
    let worse = is_enough(budget, left.requests) && left.share() > seen.share();
    let Count { requests, failed } = left;
    (worse && seen.requests() > 0).then(|| {
        format!(
            "{failed} of {requests} requests ({:.1} %) had failed on {old} just before the flip",
            left.share() * 100.0
        )
    })
}

/// Why the budget is broken, if it is by now.
fn broken(budget: &Budget, before: f64, seen: Seen) -> Option<String> {
    let (failed, requests) = (seen.failed(), seen.requests());
    if budget.max_failed.is_some_and(|most| failed > most) {
        return Some(format!(
            "{failed} of {requests} requests failed, more than {}",
            budget.max_failed.unwrap_or_default()
        ));
    }
    if requests < budget.min_requests {
        return None;
    }
    if let Some(most) = budget.max_total.filter(|most| seen.share() > *most) {
        return Some(format!(
            "{failed} of {requests} requests failed ({:.1} %, allowed {:.1} % whatever the old colour did)",
            seen.share() * 100.0,
            most * 100.0
        ));
    }
    if seen.share() <= before + budget.max_share {
        return None;
    }
    Some(format!(
        "{failed} of {requests} requests failed ({:.1} %, allowed {:.1} % above the {:.1} % of the old colour just before the flip)",
        seen.share() * 100.0,
        budget.max_share * 100.0,
        before * 100.0
    ))
}

impl Apply<'_> {
    pub fn watch(&mut self) -> Result<()> {
        let (task, state, switch) = (self.task, self.state, self.switch);
        let Some(budget) = &task.budget else { return Ok(()) };
        let left = self.left;
        let before = share_before(budget, left);
        let observe = || Fleet::observe(&state.groups, switch.to, &state.sockets);
        let (began, deadline) = (Instant::now(), Deadline::after(budget.watch));
        // Counted from before the flip, so that failures in the first moment are included.
        let mut last = state.fleet(switch.to).clone();
        let mut seen = Seen::default();
        let show = |seen: Seen, apply: &mut Apply<'_>| {
            apply.numbers.budget = Some(json!({
                "seconds": (began.elapsed().as_secs_f64() * 10.0).round() / 10.0,
                "requests": seen.requests(),
                "failed": seen.failed(),
                "share": seen.share(),
                "share_before": before,
                "requests_before": left.requests,
                "own_requests": seen.own,
            }));
        };
        // For every failure by shares, and not when a component has lost its servers.
        let break_off = |why: String, seen: Seen, apply: &mut Apply<'_>| {
            let old = switch.from.unwrap_or(switch.to.other());
            apply.stays = worse_before(budget, left, seen, old);
            Err(refusal(why))
        };
        loop {
            let now = observe()?;
            let more = now.since(&last);
            seen.count.requests += more.requests;
            seen.count.failed += more.failed;
            show(seen, self);
            if let Some(part) = now.lost() {
                return Err(refusal(format!("{part} has no server of {} that is up", switch.to)));
            }
            if let Some(why) = broken(budget, before, seen) {
                return break_off(why, seen, self);
            }
            last = now;
            let ended = deadline.passed();
            // The minimum in proportion to the time that has passed.
            let gone = began.elapsed().as_secs_f64() / budget.watch.as_secs_f64();
            let due = (budget.min_requests as f64 * gone.min(1.0)).ceil() as u64;
            if let Some(prove) = &task.prove {
                while seen.requests() < due {
                    host::interrupt::check()?;
                    let answer = prove.ask_once(None, switch.release.as_deref());
                    seen.own += 1;
                    seen.own_failed += u64::from(answer.is_err());
                    if let Some(why) = broken(budget, before, seen) {
                        show(seen, self);
                        return break_off(why, seen, self);
                    }
                }
            }
            if ended {
                show(seen, self);
                if seen.requests() >= budget.min_requests {
                    return Ok(());
                }
                let watched = seconds(budget.watch);
                let why = format!(
                    "only {} requests in {watched}, and {} are needed to judge; with prove they are asked for",
                    seen.requests(),
                    budget.min_requests
                );
                return break_off(why, seen, self);
            }
            deadline.sleep(POLL)?;
        }
    }
}

fn refusal(why: String) -> anyhow::Error {
    Failure::new("budget_broken", why).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(max_failed: Option<u64>) -> Budget {
        let (watch, max_total) = (Duration::from_secs(1), Some(0.5));
        Budget { watch, max_failed, max_share: 0.1, max_total, min_requests: 10 }
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
        assert!(broken(&budget(None), 1.0, seen(10, 5)).is_none());
        assert!(broken(&budget(None), 1.0, seen(10, 6)).is_some());
    }

    #[test]
    fn few_requests_excuse_nothing() {
        let count = |requests, failed| Count { requests, failed };
        let budget = budget(None);
        assert_eq!(share_before(&budget, count(9, 9)), 0.0);
        assert_eq!(share_before(&budget, count(10, 9)), 0.9);
        assert_eq!(share_before(&Budget { min_requests: 0, ..budget }, count(0, 0)), 0.0);
    }

    #[test]
    fn nobody_is_led_back_to_what_was_worse() {
        let count = |requests, failed| Count { requests, failed };
        let worse = |left, seen| worse_before(&budget(None), left, seen, Color::Blue).is_some();
        assert!(worse(count(10, 6), seen(10, 5)));
        assert!(!worse(count(10, 5), seen(10, 5)));
        assert!(!worse(count(9, 9), seen(10, 5)));
        assert!(!worse(count(10, 6), seen(0, 0)));
    }

    #[test]
    fn what_no_server_saw_counts() {
        let own = Seen { own: 12, own_failed: 12, ..Seen::default() };
        assert!(broken(&budget(None), 0.0, own).is_some());
    }
}
