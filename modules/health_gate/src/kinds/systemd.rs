//! `systemctl show`, and the kind `unit`: a unit is in the state that it should be in, and was not
//! restarted since the baseline more often than it may.

use super::program;
use crate::observation::{Ask, Observation, Try, shown};
use crate::probe_options::ProbeOptions;
use ansible_module::Failure;
use host::deadline::Deadline;

#[derive(Debug, PartialEq)]
pub struct Unit {
    pub active: String,
    pub sub: String,
    pub result: String,
    /// Automatic restarts since it was last started by hand.
    pub restarts: Option<u64>,
}

const PROPERTIES: &str = "--property=LoadState,ActiveState,SubState,Result,NRestarts";

pub fn show(unit: &str, deadline: Deadline) -> Result<Unit, String> {
    parse(unit, &program::text("systemctl", &["show", PROPERTIES, "--", unit], deadline)?)
}

/// Parses `systemctl show --property=... -- <unit>`: a line `Name=value` for each property that the
/// unit has.
fn parse(unit: &str, text: &str) -> Result<Unit, String> {
    let property = |name: &str| {
        let mut values = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        values.next()
    };
    match property("LoadState") {
        Some("loaded") => {}
        Some("not-found") => return Err(format!("there is no unit {unit}")),
        Some(state) => return Err(format!("the unit {unit} is {}, not loaded", shown(state))),
        None => return Err(format!("systemctl printed no LoadState of the unit {unit}")),
    }
    let word = |name: &str| property(name).map(shown).unwrap_or_default();
    Ok(Unit {
        active: word("ActiveState"),
        sub: word("SubState"),
        result: word("Result"),
        restarts: property("NRestarts").and_then(|number| number.parse().ok()),
    })
}

/// Returns by how much a count has grown. A count that is lower than before was reset to zero.
pub fn increase(before: u64, now: u64) -> u64 {
    now.checked_sub(before).unwrap_or(now)
}

pub struct UnitState {
    unit: String,
    state: Vec<String>,
    max_restarts: Option<u64>,
}

impl UnitState {
    pub fn parse(options: &mut ProbeOptions) -> Result<UnitState, Failure> {
        let unit = options.word("unit")?;
        let unit = unit.ok_or_else(|| options.refuse("kind unit needs unit".to_owned()))?;
        let state = options.words("state")?;
        let known = [
            "active",
            "reloading",
            "inactive",
            "failed",
            "activating",
            "deactivating",
            "maintenance",
        ];
        if let Some(odd) = state.iter().find(|state| !known.contains(&state.as_str())) {
            let msg = format!("{odd:?} is none of {}", known.join(", "));
            return Err(options.bad("state", msg));
        }
        let state = if state.is_empty() { vec!["active".to_owned()] } else { state };
        Ok(UnitState { unit, state, max_restarts: options.integer("max_restarts", 0)? })
    }
}

impl Ask for UnitState {
    fn ask(&self, now: &Try<'_>) -> Result<Observation, String> {
        let unit = show(&self.unit, now.deadline())?;
        let mut answer = format!("{} ({})", unit.active, unit.sub);
        let mut seen = Observation::default();
        if let Some(restarts) = unit.restarts {
            answer += &format!(", {restarts} restarts");
            seen = seen.value(restarts as f64);
        }
        seen.answer = answer;
        let verdict = match self.state.contains(&unit.active) {
            true => self.restarts_hold(&unit, now),
            false => Err(format!(
                "expected {} to be {}, it is {} ({}, result {})",
                self.unit,
                self.state.join(" or "),
                unit.active,
                unit.sub,
                unit.result
            )),
        };
        Ok(seen.judged(verdict))
    }
}

impl UnitState {
    fn restarts_hold(&self, unit: &Unit, now: &Try<'_>) -> Result<(), String> {
        let (Some(most), Some(before)) = (self.max_restarts, now.before) else { return Ok(()) };
        let Some(restarts) = unit.restarts else {
            return Err("this systemd does not count restarts".to_owned());
        };
        let Some(was) = before.value else {
            return Err("the baseline has no restart count of this unit".to_owned());
        };
        match increase(was as u64, restarts) {
            new if new > most => {
                Err(format!("{} was restarted {new} times since the baseline", self.unit))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_parsed() {
        // systemd 252 (Debian 12), `systemctl show` of a service.
        let text =
            "Result=success\nNRestarts=2\nLoadState=loaded\nActiveState=active\nSubState=running\n";
        let unit = parse("x.service", text).unwrap();
        assert_eq!((unit.active.as_str(), unit.sub.as_str()), ("active", "running"));
        assert_eq!(unit.restarts, Some(2));
        // A target has no NRestarts.
        let target = parse("x.target", "LoadState=loaded\nActiveState=active\nSubState=active\n");
        assert_eq!(target.unwrap().restarts, None);
        let missing = parse("x", "LoadState=not-found\nActiveState=inactive\n").unwrap_err();
        assert_eq!(missing, "there is no unit x");
        assert!(parse("x", "LoadState=masked\n").unwrap_err().contains("masked, not loaded"));
        assert!(parse("x", "").is_err());
    }

    #[test]
    fn a_count_that_was_reset_is_all_new() {
        assert_eq!((increase(2, 5), increase(5, 5), increase(5, 1)), (3, 0, 1));
    }
}
