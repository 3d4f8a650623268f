//! Formats the spec as JSON (`--spec`), from which the documentation is written.

use crate::spec::{Kind, Module, Opt, Return, Rule, Support};
use serde_json::{Map, Value, json};

pub(crate) fn module(module: &Module) -> Value {
    let group = |pick: fn(&Rule) -> Option<Value>| -> Vec<Value> {
        module.rules.iter().filter_map(pick).collect()
    };
    let required_by: Map<String, Value> = (module.rules.iter())
        .filter_map(|rule| match rule {
            Rule::RequiredBy(name, needed) => Some(((*name).to_owned(), json!(needed))),
            _ => None,
        })
        .collect();
    json!({
        "name": module.name,
        "short_description": module.short,
        "description": module.about,
        "version_added": module.version_added,
        "options": module.all_options().map(option).collect::<Vec<_>>(),
        "mutually_exclusive": group(|rule| match rule {
            Rule::MutuallyExclusive(names) => Some(json!(names)),
            _ => None,
        }),
        "required_together": group(|rule| match rule {
            Rule::RequiredTogether(names) => Some(json!(names)),
            _ => None,
        }),
        "required_one_of": group(|rule| match rule {
            Rule::RequiredOneOf(names) => Some(json!(names)),
            _ => None,
        }),
        "required_if": group(|rule| match rule {
            Rule::RequiredIf(name, value, needed) => Some(json!([name, value, needed, false])),
            Rule::RequiredIfAny(name, value, needed) => Some(json!([name, value, needed, true])),
            _ => None,
        }),
        "required_by": required_by,
        "check_mode": support(module.check_mode),
        "diff_mode": support(module.diff_mode),
        "notes": module.notes,
        "seealso": module.seealso,
        "examples": module.examples,
        "returns": returns(module.returns.iter().flat_map(|group| group.iter())),
    })
}

fn support(support: Support) -> &'static str {
    match support {
        Support::Full => "full",
        Support::None => "none",
    }
}

fn option(option: &Opt) -> Value {
    json!({
        "name": option.name,
        "type": option.kind.name(),
        "elements": option.elements.map(Kind::name),
        "form": option.kind.form().or(option.elements.and_then(Kind::form)),
        "required": option.required,
        "default": option.default.to_json(),
        "choices": option.choices,
        "aliases": option.aliases,
        "no_log": option.secret,
        "description": option.about,
        "options": option.options.iter().map(self::option).collect::<Vec<_>>(),
    })
}

fn returns<'a>(list: impl Iterator<Item = &'a Return>) -> Value {
    let described = list.map(|key| {
        let mut about = Map::new();
        about.insert("description".into(), json!(key.about));
        about.insert("returned".into(), json!(key.returned));
        about.insert("type".into(), json!(key.kind.name()));
        if key.kind == Kind::List {
            let elements = if key.contains.is_empty() { "str" } else { "dict" };
            about.insert("elements".into(), json!(elements));
        }
        if let Ok(sample) = serde_json::from_str::<Value>(key.sample) {
            about.insert("sample".into(), sample);
        }
        if !key.contains.is_empty() {
            about.insert("contains".into(), returns(key.contains.iter()));
        }
        (key.name.to_owned(), Value::Object(about))
    });
    Value::Object(described.collect())
}
