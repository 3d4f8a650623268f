//! What locks deploys until a person unlocks them: a person, for a reason of their own; a rollback, since
//! the next push would deploy the bad release again; and several deploys that rolled back by themselves.
//!
//! Invariant: only opening a deploy is refused. A lock never keeps a bad release active: a rollback is
//! always opened, and a run may always roll back by itself.

use super::{Deploy, Ledger, Outcome, Purpose};
use host::clock;

/// How many deploys may roll back by themselves before another one is refused; none for no limit.
#[derive(Clone, Copy, Debug)]
pub struct Cap {
    pub most: usize,
    /// In seconds.
    pub window: u64,
}

pub struct Locked<'a> {
    /// The run that locked them, whose id unlocks them.
    pub by: &'a Deploy,
    pub why: String,
    /// When they may be unlocked.
    pub until: &'static str,
}

const UNTIL_FIXED: &str = "what was bad is fixed";

impl Ledger {
    /// The present lock. A run that was opened with `unlock` ends all earlier ones.
    pub fn locked(&self, cap: Cap) -> Option<Locked<'_>> {
        let since = self.deploys.iter().rposition(|deploy| deploy.opening.unlock.is_some());
        let after = &self.deploys[since.unwrap_or(0)..];
        let newest = after.iter().rev().find(|deploy| deploy.locks()).map(|by| {
            let (what, until) = match by.opening.purpose {
                Purpose::Lock => ("locked them", "this is over"),
                _ => ("was a rollback", UNTIL_FIXED),
            };
            Locked { by, why: format!("{} {what}{}", by.id, said(by)), until }
        });
        newest.or_else(|| too_many(after, cap))
    }
}

impl Deploy {
    /// Whether it locks deploys; not a run that failed and left everything as it was.
    pub fn locks(&self) -> bool {
        matches!(self.opening.purpose, Purpose::Rollback | Purpose::Lock)
            && self.outcome() != Some(Outcome::FailedReverted)
    }
}

fn said(deploy: &Deploy) -> String {
    let part = |before: &str, text: Option<&str>| match text.unwrap_or_default() {
        "" => String::new(),
        text => format!("{before}{text}"),
    };
    format!(
        "{} at {}{}",
        part(" by ", Some(&deploy.opening.by)),
        deploy.opened,
        part(": ", deploy.opening.reason.as_deref())
    )
}

fn too_many(deploys: &[Deploy], cap: Cap) -> Option<Locked<'_>> {
    let now = clock::now().unix();
    let window = i64::try_from(cap.window).unwrap_or(i64::MAX);
    let went_back = deploys.iter().filter_map(|deploy| Some((deploy.reverted.as_ref()?, deploy)));
    // A time in the future (the clock was set back) counts as recent.
    let lately: Vec<_> =
        went_back.filter(|((at, _), _)| now.saturating_sub(at.unix()) < window).collect();
    let (_, by) = lately.last().filter(|_| cap.most > 0 && lately.len() >= cap.most)?;
    let each: Vec<String> = (lately.iter())
        .map(|((at, why), deploy)| match why {
            Some(why) => format!("{} at {at} ({why})", deploy.id),
            None => format!("{} at {at}", deploy.id),
        })
        .collect();
    let why = format!(
        "{} went back by themselves within {} s, and revert_cap is {}: {}",
        lately.len(),
        cap.window,
        cap.most,
        each.join(", ")
    );
    Some(Locked { by, why, until: UNTIL_FIXED })
}
