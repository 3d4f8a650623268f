//! Checks all options of a task against the spec: names, rules, types, choices, defaults.
//!
//! All problems are reported at once, in the words that Ansible's users know. There are two differences
//! from `AnsibleModule`: an option that is null counts as not set (there its versions disagree), and for an
//! unknown option the most similar name is suggested.

use crate::censor;
use crate::coerce::{choice_from_bool, coerce, python_str, range_error, to_dict, type_name};
use crate::failure::Failure;
use crate::spec::{Default, Kind, Module, Opt, Rule};
use serde_json::{Map, Value, json};

/// Coerces all values and fills in the defaults; returns the options and warnings.
pub fn validate(
    module: &Module,
    values: Map<String, Value>,
) -> Result<(Map<String, Value>, Vec<String>), Failure> {
    let options: Vec<&Opt> = module.all_options().collect();
    let mut check = Check { module: module.name, problems: Vec::new(), warnings: Vec::new() };
    let values = check.level(&options, values, module.rules, &[]);
    values.values().for_each(censor::remember_urls);
    if check.problems.is_empty() {
        return Ok((values, check.warnings));
    }
    Err(Failure::new("bad_options", check.problems.join("; ")))
}

struct Check {
    module: &'static str,
    problems: Vec<String>,
    warnings: Vec<String>,
}

impl Check {
    /// Checks one level of options: those of the module, or the sub-options at `context`.
    fn level(
        &mut self,
        options: &[&Opt],
        raw: Map<String, Value>,
        rules: &[Rule],
        context: &[&str],
    ) -> Map<String, Value> {
        let mut values = Map::new();
        let mut unknown = Vec::new();
        for (name, value) in raw {
            let Some(option) = options.iter().find(|option| option.has_name(&name)) else {
                unknown.push(name);
                continue;
            };
            if option.secret {
                remember(option, &value);
            }
            if name != option.name && values.contains_key(option.name) {
                self.warnings
                    .push(format!("Both option {} and its alias {name} are set.", option.name));
            }
            // An alias wins over the name, as in Ansible, whatever their order.
            let alias_was_seen = name == option.name && values.contains_key(option.name);
            if !value.is_null() && !alias_was_seen {
                values.insert(option.name.to_owned(), value);
            }
        }
        self.unsupported(&unknown, options, context);
        self.rules_before_defaults(options, &values, rules, context);
        for option in options {
            let value = match values.remove(option.name).unwrap_or(option.default.to_json()) {
                Value::Null => Value::Null,
                value => self.one(option, value, context),
            };
            values.insert(option.name.to_owned(), value);
        }
        self.rules_after_defaults(&values, rules, context);
        values
    }

    fn one(&mut self, option: &Opt, value: Value, context: &[&str]) -> Value {
        let from = type_name(&value);
        let mut value = match coerce(option.kind, value) {
            Ok(value) => value,
            Err(why) => {
                self.problem(
                    format!(
                        "argument '{}' is of type {from} and we were unable to convert to {}: {why}",
                        option.name,
                        option.kind.name()
                    ),
                    context,
                );
                return Value::Null;
            }
        };
        self.form(option, option.kind, &value, context);
        if let (Some(kind), Value::Array(list)) = (option.elements, &mut value) {
            for item in list {
                let from = type_name(item);
                match coerce(kind, item.take()) {
                    Ok(coerced) => {
                        self.form(option, kind, &coerced, context);
                        *item = coerced;
                    }
                    Err(why) => self.problem(
                        format!(
                            "Elements value for option '{}' is of type {from} and we were unable \
                             to convert to {}: {why}",
                            option.name,
                            kind.name()
                        ),
                        context,
                    ),
                }
            }
        }
        self.choices(option, &mut value, context);
        self.sub_options(option, value, context)
    }

    fn form(&mut self, option: &Opt, kind: Kind, value: &Value, context: &[&str]) {
        if let Some(why) = range_error(kind, value) {
            self.problem(format!("argument '{}': {why}", option.name), context);
        }
    }

    fn choices(&mut self, option: &Opt, value: &mut Value, context: &[&str]) {
        if option.choices.is_empty() {
            return;
        }
        let allowed = option.choices.join(", ");
        if let Value::Array(list) = value {
            let strange: Vec<String> = (list.iter().map(python_str))
                .filter(|item| !option.choices.contains(&item.as_str()))
                .collect();
            if !strange.is_empty() {
                self.problem(
                    format!(
                        "value of {} must be one or more of: {allowed}. Got no match for: {}",
                        option.name,
                        strange.join(", ")
                    ),
                    context,
                );
            }
            return;
        }
        let text = python_str(value);
        if option.choices.contains(&text.as_str()) {
            return;
        }
        match choice_from_bool(&text, option.choices) {
            Some(meant) => *value = json!(meant),
            None => self.problem(
                format!(
                    "value of {} must be one of: {allowed}, got: {text}{}",
                    option.name,
                    did_you_mean(&text, option.choices.iter().copied()).replacen(' ', ". ", 1)
                ),
                context,
            ),
        }
    }

    fn sub_options(&mut self, option: &Opt, value: Value, context: &[&str]) -> Value {
        if option.options.is_empty() {
            return value;
        }
        let options: Vec<&Opt> = option.options.iter().collect();
        let mut context = context.to_vec();
        context.push(option.name);
        match value {
            Value::Array(list) => (list.into_iter())
                .map(|item| match to_dict(item) {
                    Ok(map) => Value::Object(self.level(&options, map, &[], &context)),
                    Err(_) => {
                        self.problems.push(format!(
                            "value of '{}' must be of type dict or list of dicts",
                            option.name
                        ));
                        Value::Null
                    }
                })
                .collect(),
            Value::Object(map) => Value::Object(self.level(&options, map, &[], &context)),
            other => other,
        }
    }

    fn unsupported(&mut self, unknown: &[String], options: &[&Opt], context: &[&str]) {
        if unknown.is_empty() {
            return;
        }
        let full = |name: &str| {
            let mut path = context.to_vec();
            path.push(name);
            path.join(".")
        };
        let mut names: Vec<String> = unknown.iter().map(|name| full(name)).collect();
        names.sort();
        let mut supported: Vec<String> = options.iter().map(|option| option.listed()).collect();
        supported.sort();
        let all_names = || {
            options.iter().flat_map(|option| {
                std::iter::once(option.name).chain(option.aliases.iter().copied())
            })
        };
        let hints: String = unknown.iter().map(|name| did_you_mean(name, all_names())).collect();
        self.problems.push(format!(
            "Unsupported parameters for ({}) module: {}. Supported parameters include: {}.{hints}",
            self.module,
            names.join(", "),
            supported.join(", "),
        ));
    }

    fn rules_before_defaults(
        &mut self,
        options: &[&Opt],
        values: &Map<String, Value>,
        rules: &[Rule],
        context: &[&str],
    ) {
        for rule in rules {
            if let Rule::MutuallyExclusive(names) = rule {
                if names.iter().filter(|name| values.contains_key(**name)).count() > 1 {
                    self.problem(
                        format!("parameters are mutually exclusive: {}", names.join("|")),
                        context,
                    );
                }
            }
        }
        let mut missing: Vec<&str> = (options.iter())
            .filter(|option| option.required && !values.contains_key(option.name))
            .map(|option| option.name)
            .collect();
        if !missing.is_empty() {
            missing.sort_unstable();
            self.problem(format!("missing required arguments: {}", missing.join(", ")), context);
        }
    }

    fn rules_after_defaults(
        &mut self,
        values: &Map<String, Value>,
        rules: &[Rule],
        context: &[&str],
    ) {
        let is_set = |name: &str| values.get(name).is_some_and(|value| !value.is_null());
        let absent = |names: &[&'static str]| -> Vec<&'static str> {
            names.iter().copied().filter(|name| !is_set(name)).collect()
        };
        for rule in rules {
            let problem = match *rule {
                Rule::MutuallyExclusive(_) => None,
                Rule::RequiredTogether(names) => {
                    let missing = absent(names).len();
                    (missing > 0 && missing < names.len())
                        .then(|| format!("parameters are required together: {}", names.join(", ")))
                }
                Rule::RequiredOneOf(names) => (absent(names).len() == names.len())
                    .then(|| format!("one of the following is required: {}", names.join(", "))),
                Rule::RequiredIf(name, value, needed) => {
                    let missing = absent(needed);
                    let applies = values.get(name).is_some_and(|got| python_str(got) == value);
                    (applies && !missing.is_empty()).then(|| {
                        format!(
                            "{name} is {value} but all of the following are missing: {}",
                            missing.join(", ")
                        )
                    })
                }
                Rule::RequiredIfAny(name, value, needed) => {
                    let applies = values.get(name).is_some_and(|got| python_str(got) == value);
                    (applies && absent(needed).len() == needed.len()).then(|| {
                        format!(
                            "{name} is {value} but any of the following are missing: {}",
                            needed.join(", ")
                        )
                    })
                }
                Rule::RequiredBy(name, needed) => {
                    let missing = absent(needed);
                    (is_set(name) && !missing.is_empty()).then(|| {
                        format!("missing parameter(s) required by '{name}': {}", missing.join(", "))
                    })
                }
            };
            if let Some(problem) = problem {
                self.problem(problem, context);
            }
        }
    }

    fn problem(&mut self, problem: String, context: &[&str]) {
        self.problems.push(match context {
            [] => problem,
            context => format!("{problem} found in {}", context.join(" -> ")),
        });
    }
}

/// Remembers the secrets of an option. A dictionary is parsed even if it is given as text.
fn remember(option: &Opt, value: &Value) {
    match (option.kind, to_dict(value.clone())) {
        (Kind::Dict, Ok(map)) => censor::remember_named(&map),
        _ => censor::remember(value),
    }
}

impl Opt {
    fn has_name(&self, name: &str) -> bool {
        self.name == name || self.aliases.contains(&name)
    }

    fn listed(&self) -> String {
        match self.aliases {
            [] => self.name.to_owned(),
            aliases => {
                let mut aliases = aliases.to_vec();
                aliases.sort_unstable();
                format!("{} ({})", self.name, aliases.join(", "))
            }
        }
    }
}

impl Default {
    pub(crate) fn to_json(self) -> Value {
        match self {
            Default::None => Value::Null,
            Default::Str(text) => json!(text),
            Default::Bool(bool) => json!(bool),
            Default::Int(int) => json!(int),
            Default::Float(float) => json!(float),
            Default::List(list) => json!(list),
        }
    }
}

fn did_you_mean<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> String {
    let wrong = wrong.to_lowercase();
    let nearest = names
        .map(|name| {
            (if one_begins_the_other(&wrong, name) { 1 } else { distance(&wrong, name) }, name)
        })
        .min()
        // Up to a third of the letters may be wrong; with more it is another word.
        .filter(|(distance, name)| *distance <= (name.chars().count() / 3).max(1));
    match nearest {
        Some((_, name)) => format!(" Did you mean {name}?"),
        None => String::new(),
    }
}

/// Whether one word begins with the other, as `opened` with `open`; words like `vm` are too short for that.
fn one_begins_the_other(a: &str, b: &str) -> bool {
    a.len().min(b.len()) >= 3 && (a.starts_with(b) || b.starts_with(a))
}

/// Returns how many letters must be added, removed, changed or swapped with a neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len() > 64 || b.len() > 64 {
        return usize::MAX;
    }
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let change = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut least = change.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    least = least.min(rows[i - 2][j - 2] + 1);
                }
                least
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests;
