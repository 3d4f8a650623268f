//! Writes the argument spec as a Python literal, in the layout that pycodestyle and Black agree with.

use serde_json::Value;

use crate::spec::{OptionSpec, Spec, Support};
use crate::yaml::quoted;

/// The longest line of a value, which leaves space for its key within what Ansible's checks allow.
const WIDTH: usize = 110;

pub enum Python {
    /// Already formatted text.
    Word(String),
    Tuple(Vec<Python>),
    List(Vec<Python>),
    Dict(Vec<(String, Python)>),
}

impl Python {
    fn bool(value: bool) -> Self {
        Self::Word(if value { "True" } else { "False" }.to_owned())
    }

    /// A string; JSON's escapes are valid in Python too.
    fn text(text: &str) -> Self {
        Self::Word(quoted(text))
    }

    fn texts(texts: &[String]) -> Self {
        Self::List(texts.iter().map(|text| Self::text(text)).collect())
    }

    fn groups(groups: &[Vec<String>]) -> Self {
        Self::List(groups.iter().map(|group| Self::texts(group)).collect())
    }

    fn value(value: &Value) -> Self {
        match value {
            Value::Null => Self::Word("None".to_owned()),
            Value::Bool(value) => Self::bool(*value),
            Value::Number(number) => Self::Word(number.to_string()),
            Value::String(text) => Self::text(text),
            Value::Array(items) => Self::List(items.iter().map(Self::value).collect()),
            Value::Object(map) => Self::Dict(
                map.iter().map(|(key, value)| (key.clone(), Self::value(value))).collect(),
            ),
        }
    }

    /// Formats on one line if that is short and contains no dictionary, else one entry a line.
    pub fn write(&self, out: &mut String, indent: usize) {
        let (open, close, entries): (char, char, Vec<(String, &Self)>) = match self {
            Self::Word(word) => return out.push_str(word),
            Self::Tuple(items) => {
                ('(', ')', items.iter().map(|item| (String::new(), item)).collect())
            }
            Self::List(items) => {
                ('[', ']', items.iter().map(|item| (String::new(), item)).collect())
            }
            Self::Dict(entries) => (
                '{',
                '}',
                entries.iter().map(|(key, value)| (format!("{}: ", quoted(key)), value)).collect(),
            ),
        };
        out.push(open);
        match self.one_line() {
            Some(line) if indent + line.len() < WIDTH => out.push_str(&line[1..line.len() - 1]),
            _ => {
                for (key, value) in entries {
                    out.push('\n');
                    out.extend(std::iter::repeat_n(' ', indent + 4));
                    out.push_str(&key);
                    value.write(out, indent + 4);
                    out.push(',');
                }
                out.push('\n');
                out.extend(std::iter::repeat_n(' ', indent));
            }
        }
        out.push(close);
    }

    fn one_line(&self) -> Option<String> {
        let joined = |items: &[Self]| {
            Some(items.iter().map(Self::one_line).collect::<Option<Vec<_>>>()?.join(", "))
        };
        match self {
            Self::Word(word) => Some(word.clone()),
            Self::Tuple(items) => Some(format!("({})", joined(items)?)),
            Self::List(items) => Some(format!("[{}]", joined(items)?)),
            Self::Dict(entries) => entries.is_empty().then(|| "{}".to_owned()),
        }
    }
}

/// Returns the keyword arguments of AnsibleModule for this module.
pub fn module_spec(spec: &Spec) -> Python {
    let mut arguments = vec![("argument_spec".to_owned(), argument_spec(&spec.options))];
    let groups = [
        ("mutually_exclusive", &spec.mutually_exclusive),
        ("required_together", &spec.required_together),
        ("required_one_of", &spec.required_one_of),
    ];
    for (name, groups) in groups.into_iter().filter(|(_, groups)| !groups.is_empty()) {
        arguments.push((name.to_owned(), Python::groups(groups)));
    }
    if !spec.required_if.is_empty() {
        let rules = spec.required_if.iter().map(|(option, value, names, any)| {
            Python::Tuple(vec![
                Python::text(option),
                Python::value(value),
                Python::texts(names),
                Python::bool(*any),
            ])
        });
        arguments.push(("required_if".to_owned(), Python::List(rules.collect())));
    }
    if !spec.required_by.is_empty() {
        let rules =
            spec.required_by.iter().map(|(option, names)| (option.clone(), Python::texts(names)));
        arguments.push(("required_by".to_owned(), Python::Dict(rules.collect())));
    }
    arguments
        .push(("supports_check_mode".to_owned(), Python::bool(spec.check_mode != Support::None)));
    Python::Dict(arguments)
}

/// Collects the formats that Ansible's types cannot express, by the option's name; a sub-option is `list.option`.
pub fn forms(spec: &Spec) -> Python {
    let mut forms = Vec::new();
    collect_forms("", &spec.options, &mut forms);
    Python::Dict(forms)
}

fn collect_forms(above: &str, options: &[OptionSpec], forms: &mut Vec<(String, Python)>) {
    for option in options {
        let name = format!("{above}{}", option.name);
        if let Some(form) = &option.form {
            forms.push((name.clone(), Python::text(form)));
        }
        collect_forms(&format!("{name}."), &option.options, forms);
    }
}

fn argument_spec(options: &[OptionSpec]) -> Python {
    Python::Dict(options.iter().map(|option| (option.name.clone(), argument(option))).collect())
}

fn argument(option: &OptionSpec) -> Python {
    let mut entry = vec![("type", Python::text(&option.kind))];
    if let Some(elements) = &option.elements {
        entry.push(("elements", Python::text(elements)));
    }
    if option.required {
        entry.push(("required", Python::bool(true)));
    }
    if let Some(default) = &option.default {
        entry.push(("default", Python::value(default)));
    }
    if !option.choices.is_empty() {
        entry.push(("choices", Python::List(option.choices.iter().map(Python::value).collect())));
    }
    if !option.aliases.is_empty() {
        entry.push(("aliases", Python::texts(&option.aliases)));
    }
    // Said explicitly where Ansible would otherwise guess a secret from the option's name.
    if option.no_log
        || ["pass", "secret", "token", "key"].iter().any(|part| option.name.contains(part))
    {
        entry.push(("no_log", Python::bool(option.no_log)));
    }
    if !option.options.is_empty() {
        entry.push(("options", argument_spec(&option.options)));
    }
    Python::Dict(entry.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}
