//! What every module that changes something has in common: observe, plan, apply, verify.
//!
//! A module observes, makes a [`Plan`] (pure), and hands it to its [`Session`], which does the rest in
//! the same way for all: check mode, consent, the fence, the intent, the steps with their seconds, the
//! diff and the result. There is no trait to implement: a plan is data, act and verify are two closures.
//!
//! - `plan`: steps and what each destroys; the plan id
//! - `consent`: `confirm`, `accept`, `max_loss`
//! - `session`: one run of a task, from its lock to its result
//! - `notes`: what a run that was killed had begun and noted
//! - `result`: the keys of the result, and what a failed step says

mod consent;
mod notes;
mod plan;
mod result;
mod session;

pub use consent::{CONSENT, Consent};
pub use notes::RunNotes;
pub use plan::{Loss, Plan, Step, Undo};
pub use result::RESULT;
pub use session::{ROLLBACK_ID, Session};
