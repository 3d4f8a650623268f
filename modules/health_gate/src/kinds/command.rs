//! `command`: a program ends with the expected exit code and output.

use super::program;
use super::web::to_text;
use crate::observation::{Ask, Observation, Try, last_line};
use crate::probe_options::ProbeOptions;
use ansible_module::Failure;
use serde_json::{Map, Value};

pub struct Command {
    argv: Vec<String>,
    rc: Vec<i32>,
    stdout: Option<String>,
    environment: Vec<(String, String)>,
}

impl Command {
    pub fn parse(options: &mut ProbeOptions) -> Result<Command, Failure> {
        let argv: Vec<String> = options.need("argv")?;
        if argv.first().is_none_or(String::is_empty) {
            return Err(options.bad("argv", "expected a program and its arguments"));
        }
        if argv.iter().any(|word| word.contains('\0')) {
            return Err(options.bad("argv", "an argument cannot contain a NUL"));
        }
        let environment: Map<String, Value> = options.take("environment")?.unwrap_or_default();
        let environment: Vec<(String, String)> =
            environment.into_iter().map(|(name, value)| (name, to_text(value))).collect();
        let odd = |(name, value): &(String, String)| {
            name.is_empty() || name.contains(['=', '\0']) || value.contains('\0')
        };
        if environment.iter().any(odd) {
            return Err(options.bad(
                "environment",
                "the name of a variable must not be empty or contain = or NUL",
            ));
        }
        Ok(Command {
            argv,
            rc: options.take("rc")?.unwrap_or_else(|| vec![0]),
            stdout: options.text("stdout")?,
            environment,
        })
    }
}

impl Ask for Command {
    fn ask(&self, now: &Try<'_>) -> Result<Observation, String> {
        let mut command = program::command(&self.argv[0], now.deadline())?.accept(&self.rc);
        command = command.args(&self.argv[1..]);
        for (name, value) in &self.environment {
            command = command.named_env(name, value);
        }
        let output = program::run(&command)?;
        let said = last_line(&output.stdout_shown());
        let answer = match said.as_str() {
            "" => format!("rc {}", output.rc),
            said => format!("rc {}: {said}", output.rc),
        };
        let verdict = match &self.stdout {
            Some(text) if !holds(&output.stdout, text.as_bytes()) => {
                let got = if said.is_empty() { "nothing was printed" } else { &said };
                Err(format!("expected {text:?} in its output, whose last line is: {got}"))
            }
            _ => Ok(()),
        };
        Ok(Observation::new(answer).judged(verdict))
    }
}

fn holds(all: &[u8], part: &[u8]) -> bool {
    all.windows(part.len()).any(|window| window == part)
}
