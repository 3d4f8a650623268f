//! The error budget: watches the requests to the new colour for a while. Fails closed: too few requests
//! are a failure.
//!
//! Invariant: on both colours, only requests count that came while this run watched.

use crate::apply::Apply;
use crate::color::Color;
use crate::options::Budget;
use crate::question::Question;
use crate::servers::Fleet;
use ansible_module::Failure;
use anyhow::{Error, Result};
use haproxy::stat::Count;
use host::deadline::{Deadline, seconds};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(200);

/// The requests of the new colour so far, and our own among them.
#[derive(Clone, Copy, Debug, Default)]
struct Watched {
    count: Count,
    own: u64,
    own_failed: u64,
}

impl Watched {
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
fn old_share(budget: &Budget, old: Count) -> f64 {
    if is_enough(budget, old.requests) { old.share() } else { 0.0 }
}

/// Returns why not to flip back, if a larger share had failed on the old colour than on the new one.
fn old_color_was_worse(budget: &Budget, old: Count, seen: Watched, color: Color) -> Option<String> {
    let worse = is_enough(budget, old.requests) && old.share() > seen.share();
    let Count { requests, failed } = old;
    (worse && seen.requests() > 0).then(|| {
        format!(
            "{failed} of {requests} requests ({:.1} %) had failed on {color} just before the flip",
            old.share() * 100.0
        )
    })
}

/// Returns why the budget is exceeded, if it is.
fn exceeded(budget: &Budget, before: f64, seen: Watched) -> Option<String> {
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

/// One watch over the new colour, from before the flip on.
struct Watch<'a> {
    budget: &'a Budget,
    began: Instant,
    /// Requests to the old colour just before the flip, and the share of them that failed.
    old: Count,
    before: f64,
    seen: Watched,
}

impl Watch<'_> {
    fn to_json(&self) -> Value {
        json!({
            "seconds": (self.began.elapsed().as_secs_f64() * 10.0).round() / 10.0,
            "requests": self.seen.requests(),
            "failed": self.seen.failed(),
            "share": self.seen.share(),
            "share_before": self.before,
            "requests_before": self.old.requests,
            "own_requests": self.seen.own,
        })
    }

    fn exceeded(&self) -> Option<String> {
        exceeded(self.budget, self.before, self.seen)
    }

    /// Makes the requests that are missing until now; ends early when the budget is exceeded.
    fn make_missing(&mut self, prove: &Question, release: Option<&str>) -> Result<()> {
        let due = requests_due(self.budget, self.began);
        while self.seen.requests() < due && self.exceeded().is_none() {
            host::interrupt::check()?;
            let answer = prove.ask_once(None, release);
            self.seen.own += 1;
            self.seen.own_failed += u64::from(answer.is_err());
        }
        Ok(())
    }
}

impl Apply<'_> {
    pub fn watch(&mut self) -> Result<()> {
        let (task, state, switch) = (self.task, self.state, self.switch);
        let Some(budget) = &task.budget else { return Ok(()) };
        let (old, before) = (self.old_requests, old_share(budget, self.old_requests));
        let (began, deadline) = (Instant::now(), Deadline::after(budget.watch));
        let mut watch = Watch { budget, began, old, before, seen: Watched::default() };
        // Counted from before the flip, so that failures in the first moment are included.
        let mut last = state.fleet(switch.to).clone();
        loop {
            let now = Fleet::observe(&state.groups, switch.to, &state.sockets)?;
            let more = now.since(&last);
            watch.seen.count.requests += more.requests;
            watch.seen.count.failed += more.failed;
            self.numbers.budget = Some(watch.to_json());
            if let Some(part) = now.lost() {
                return Err(refusal(format!("{part} has no server of {} that is up", switch.to)));
            }
            last = now;
            let ended = deadline.passed();
            if let Some(prove) = &task.prove {
                watch.make_missing(prove, switch.release.as_deref())?;
                self.numbers.budget = Some(watch.to_json());
            }
            if let Some(why) = watch.exceeded() {
                return Err(self.break_off(&watch, why));
            }
            if ended && watch.seen.requests() >= budget.min_requests {
                return Ok(());
            }
            if ended {
                return Err(self.break_off(&watch, too_few(budget, watch.seen)));
            }
            deadline.sleep(POLL)?;
        }
    }

    /// Fails the flip. The shares of both colours decide whether it is reverted; if the new colour has lost its
    /// servers, it always is.
    fn break_off(&mut self, watch: &Watch<'_>, why: String) -> Error {
        let color = self.switch.from.unwrap_or(self.switch.to.other());
        self.stays = old_color_was_worse(watch.budget, watch.old, watch.seen, color);
        refusal(why)
    }
}

/// Returns the minimum of requests in proportion to the time that has passed.
fn requests_due(budget: &Budget, began: Instant) -> u64 {
    let gone = began.elapsed().as_secs_f64() / budget.watch.as_secs_f64();
    (budget.min_requests as f64 * gone.min(1.0)).ceil() as u64
}

fn too_few(budget: &Budget, seen: Watched) -> String {
    format!(
        "only {} requests in {}, but {} are needed to judge; with prove the task makes the missing ones",
        seen.requests(),
        seconds(budget.watch),
        budget.min_requests
    )
}

fn refusal(why: String) -> Error {
    Failure::new("budget_broken", why).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(max_failed: Option<u64>) -> Budget {
        let (watch, max_total) = (Duration::from_secs(1), Some(0.5));
        Budget { watch, max_failed, max_share: 0.1, max_total, min_requests: 10 }
    }

    fn seen(requests: u64, failed: u64) -> Watched {
        Watched { count: Count { requests, failed }, ..Watched::default() }
    }

    #[test]
    fn it_is_compared_with_the_old_colour() {
        assert!(exceeded(&budget(None), 0.0, seen(9, 9)).is_none());
        assert!(exceeded(&budget(None), 0.0, seen(10, 1)).is_none());
        assert!(exceeded(&budget(None), 0.0, seen(10, 2)).is_some());
        assert!(exceeded(&budget(None), 0.1, seen(10, 2)).is_none());
        assert!(exceeded(&budget(Some(3)), 0.0, seen(4, 4)).is_some());
        assert!(exceeded(&budget(Some(4)), 0.0, seen(4, 4)).is_none());
        assert!(exceeded(&budget(None), 1.0, seen(10, 5)).is_none());
        assert!(exceeded(&budget(None), 1.0, seen(10, 6)).is_some());
    }

    #[test]
    fn too_few_requests_of_the_old_colour_allow_nothing_more() {
        let count = |requests, failed| Count { requests, failed };
        let budget = budget(None);
        assert_eq!(old_share(&budget, count(9, 9)), 0.0);
        assert_eq!(old_share(&budget, count(10, 9)), 0.9);
        assert_eq!(old_share(&Budget { min_requests: 0, ..budget }, count(0, 0)), 0.0);
    }

    #[test]
    fn no_flip_back_to_a_worse_colour() {
        let count = |requests, failed| Count { requests, failed };
        let worse =
            |old, seen| old_color_was_worse(&budget(None), old, seen, Color::Blue).is_some();
        assert!(worse(count(10, 6), seen(10, 5)));
        assert!(!worse(count(10, 5), seen(10, 5)));
        assert!(!worse(count(9, 9), seen(10, 5)));
        assert!(!worse(count(10, 6), seen(0, 0)));
    }

    #[test]
    fn requests_that_reached_no_server_count() {
        let own = Watched { own: 12, own_failed: 12, ..Watched::default() };
        assert!(exceeded(&budget(None), 0.0, own).is_some());
    }
}
