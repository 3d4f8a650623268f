//! What every module that changes something has in common: observe, plan, apply, verify.
//!
//! A module observes, makes a [`Plan`] (pure), and hands it to [`run`], which does the rest in the
//! same way for all: check mode, consent, the intent record, the steps with their seconds, the
//! diff and the result. There is no trait to implement: a plan is data, apply and verify are two
//! closures.
//!
//! - `plan`: steps and what each destroys; the plan id
//! - `consent`: `confirm`, `accept`, `max_loss`
//! - `ids`: `deploy_id` and `rollback_id`: the fence, and a rollback that is done once
//! - `journal`: the intent of a plan, and that a rollback was done
//! - `run`: carrying a plan out

mod consent;
mod ids;
mod journal;
mod plan;
mod run;

pub use consent::{CONSENT, Consent};
pub use ids::{ROLLBACK_ID, fence, look_at_fence, rollback_key};
pub use journal::Journal;
pub use plan::{Loss, Plan, Step, Undo};
pub use run::{RESULT, run};
