//! The wire protocol of an Ansible module: options in, exactly one JSON line out.
//!
//! A module is a [`Module`] (its option spec, from which the documentation is written too) and a
//! function from [`Invocation`] to [`Outcome`]; [`serve`] does everything in between. This crate
//! knows no outside program, and it is the only one that writes to stdout.
//!
//! - `spec`: what a module accepts and returns, as data
//! - `coerce`: one value to one type, as Ansible's own module does it
//! - `validate`: all options of a task against the spec
//! - `invocation`: reading the arguments, taking Ansible's own keys away
//! - `failure`, `outcome`: what a module answers
//! - `censor`: secrets, replaced in everything that is printed
//! - `progress`: what a long task is at, for whoever watches it run
//! - `serve`: the process around it: panic, signals, `--spec`, the one line

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

pub use failure::{Failure, reason};
pub use invocation::{Invocation, Options};
pub use outcome::{Diff, Outcome, StepDone};
pub use serve::{Served, serve};
pub use spec::{Default, Kind, Module, Opt, Return, Rule, Support};

// Fuzzed and compared with Ansible's own parser from outside.
pub use validate::validate;
