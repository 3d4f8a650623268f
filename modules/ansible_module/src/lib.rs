//! The wire protocol of an Ansible module: options in, exactly one JSON line out.
//!
//! A module is a [`Module`] (its option spec, from which the documentation is written too) and a
//! function from [`Invocation`] to [`Outcome`]; [`serve`] does everything in between. This crate
//! knows no outside program, and it is the only one that writes to stdout.
//!
//! - `spec`: what a module accepts and returns, as data
//! - `coerce`: converts a value to a type, as Ansible's own module does it
//! - `validate`: checks all options of a task against the spec
//! - `invocation`: reads the arguments and separates Ansible's own keys
//! - `failure`, `outcome`: the results of a module
//! - `censor`: replaces secrets in everything that is printed
//! - `progress`: shows the progress of a long task to the controller
//! - `serve`: the process around a module: panics, signals, `--spec`, the one line

mod censor;
mod coerce;
mod describe;
mod failure;
mod invocation;
mod outcome;
pub mod progress;
mod serve;
mod spec;
mod validate;

pub use censor::hide_secret;
pub use failure::{Failure, outermost_reason, reason};
pub use invocation::{Invocation, Options};
pub use outcome::{Diff, Outcome, StepDone};
pub use serve::{Served, serve};
pub use spec::{Default, Kind, Module, Opt, Return, Rule, Support};

// Public for tests that fuzz it and compare it with Ansible's own parser.
pub use validate::validate;
