//! What locks deploys until a person unlocks them: a person, for a reason of their own; a rollback, since
//! the next push would deploy the bad release again; and several deploys that rolled back by themselves.
//!
//! Invariants: only opening a deploy is refused. A lock never keeps a bad release active: a rollback is
//! always opened, and a run may always roll back by itself. A person's lock ends only when it is named: a
//! rollback that is unlocked later does not end it.

use super::{Deploy, Ledger, Outcome, Purpose};
use host::clock;
use host::deploy_id::DeployId;

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
    /// The present locks, the oldest first. Unlocking a rollback unlocks the rollbacks before it as well,
    /// and a lock of a person only itself.
    pub fn locks(&self) -> Vec<&Deploy> {
        let mut present: Vec<&Deploy> = Vec::new();
        for deploy in &self.deploys {
            if let Some(named) = &deploy.opening.unlock {
                match self.is_by_person(named) {
                    true => present.retain(|lock| lock.id != *named),
                    false => present.retain(|lock| lock.opening.purpose == Purpose::Lock),
                }
            }
            if deploy.locks() {
                present.push(deploy);
            }
        }
        present
    }

    pub fn is_by_person(&self, id: &DeployId) -> bool {
        self.deploy(id).is_some_and(|deploy| deploy.opening.purpose == Purpose::Lock)
    }

    /// The newest lock, which is to be unlocked first; its reason names the others, too.
    pub fn locked(&self, cap: Cap) -> Option<Locked<'_>> {
        let locks = self.locks();
        let Some((by, others)) = locks.split_last() else {
            let since = self.deploys.iter().rposition(|deploy| deploy.opening.unlock.is_some());
            return too_many(&self.deploys[since.unwrap_or(0)..], cap);
        };
        let others = others.iter().filter(|lock| lock.opening.purpose == Purpose::Lock);
        let each: Vec<String> = [*by].into_iter().chain(others.copied()).map(described).collect();
        let until = match by.opening.purpose {
            Purpose::Lock => "this is over",
            _ => UNTIL_FIXED,
        };
        Some(Locked { by, why: each.join("; and "), until })
    }

    /// The locks that are left when this one is unlocked.
    pub fn locks_without(&self, id: &DeployId) -> Vec<&Deploy> {
        let is_by_person = self.is_by_person(id);
        let mut left = self.locks();
        left.retain(|lock| {
            lock.id != *id && (is_by_person || lock.opening.purpose == Purpose::Lock)
        });
        left
    }
}

fn described(by: &Deploy) -> String {
    let what = match by.opening.purpose {
        Purpose::Lock => "locked them",
        _ => "was a rollback",
    };
    format!("{} {what}{}", by.id, said(by))
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
