//! The common part of all modules that change something: observe, plan, apply, verify.
//!
//! A module observes, makes a [`Plan`] (pure), and hands it to its [`Session`], which does the rest in the
//! same way for all: check mode, consent, the fence, the intent, the timed steps, the diff and the result.
//! There is no trait to implement: a plan is data, act and verify are two closures.
//!
//! - `plan`: steps and what each destroys; the plan id
//! - `consent`: `confirm`, `accept`, `max_loss`
//! - `session`: one run of a task, from its lock to its result
//! - `notes`: the intent and the notes of an unfinished run
//! - `result`: the keys of the result, and the failure of a step

mod consent;
mod notes;
mod plan;
mod result;
mod session;

pub use consent::{CONSENT, Consent};
pub use notes::RunNotes;
pub use plan::{Loss, Plan, Step, Undo};
pub use result::RESULT;
pub use session::{FENCE, ROLLBACK_ID, Session};
