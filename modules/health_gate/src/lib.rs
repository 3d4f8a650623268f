//! `health_gate`: runs many probes in parallel, and succeeds only when they hold. It changes nothing, so
//! there is no plan.

mod bounds;
mod kinds;
mod observation;
mod options;
mod probe_options;
mod run;
mod spec;
mod table;

use ansible_module::{Failure, Invocation, Outcome, Served};
use anyhow::Result;
use host::deadline::Deadline;
use options::Gate;
use table::{Row, Table};

/// The modules that this crate serves.
pub const MODULES: &[Served] = &[Served { spec: &spec::MODULE, run }];

fn run(invocation: &Invocation) -> Result<Outcome> {
    let Gate { probes, required, deadline, warnings } = Gate::parse(&invocation.options)?;
    if invocation.check_mode {
        let why = Some("not evaluated".to_owned());
        let rows = probes.iter().map(|probe| Row { why: why.clone(), ..Row::new(probe) }).collect();
        let facts = Table { rows, required }.facts();
        let outcome = Outcome { warnings, facts, ..Outcome::default() };
        return Ok(outcome.fact("msg", "not evaluated: this is check mode"));
    }
    let rows = run::run_all(probes, Deadline::after(deadline));
    host::interrupt::check()?;
    judge(Table { rows, required }, warnings)
}

fn judge(table: Table, mut warnings: Vec<String>) -> Result<Outcome> {
    let (msg, facts) = (table.msg(), table.facts());
    if table.held() < table.required {
        let failure = Failure::new("gate_failed", msg);
        let failure = facts.into_iter().fold(failure, |all, (key, value)| all.with(&key, value));
        return Err(match warnings.is_empty() {
            true => failure.into(),
            false => failure.with("warnings", warnings).into(),
        });
    }
    // Enough probes hold; warnings name those that do not.
    warnings.extend(table.failed().map(|row| format!("probe {}", row.sentence())));
    Ok(Outcome { warnings, facts, ..Outcome::default() }.fact("msg", msg))
}
