//! Writes YAML for people to read: plain scalars where they are safe, folded blocks where text is long, and quoted
//! strings (JSON's are YAML's) for the rest. Keys keep the order that they are given in.

use serde_json::Value;

/// The longest line, where the text can be broken.
const WIDTH: usize = 110;

#[derive(Clone, Debug, PartialEq)]
pub enum Yaml {
    /// A number, a boolean or null, which YAML reads as JSON writes it.
    Bare(String),
    Text(String),
    List(Vec<Yaml>),
    Map(Vec<(String, Yaml)>),
}

impl From<&str> for Yaml {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<&Value> for Yaml {
    fn from(value: &Value) -> Self {
        match value {
            Value::String(text) => Self::Text(text.clone()),
            Value::Array(items) => Self::List(items.iter().map(Self::from).collect()),
            Value::Object(map) => Self::Map(Self::object(map)),
            bare => Self::Bare(bare.to_string()),
        }
    }
}

impl Yaml {
    pub fn list<T: AsRef<str>>(items: &[T]) -> Self {
        Self::List(items.iter().map(|item| item.as_ref().into()).collect())
    }

    /// Formats a document, without the `---` line. All of Ansible's are mappings.
    pub fn document(entries: &[(String, Yaml)]) -> String {
        let mut out = String::new();
        match entries {
            [] => out.push_str("{}\n"),
            entries => write_map(&mut out, entries, 0, false),
        }
        out
    }

    pub fn map(entries: Vec<(&str, Yaml)>) -> Vec<(String, Yaml)> {
        entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }

    /// Converts JSON, whose keys are sorted; those that begin an entry of Ansible's documentation go first.
    pub fn object(map: &serde_json::Map<String, Value>) -> Vec<(String, Yaml)> {
        const FIRST: [&str; 5] = ["description", "returned", "type", "elements", "sample"];
        let rank = |key: &str| FIRST.iter().position(|first| *first == key).unwrap_or(FIRST.len());
        let mut entries: Vec<_> =
            map.iter().map(|(key, value)| (key.clone(), Self::from(value))).collect();
        entries.sort_by(|(a, _), (b, _)| (rank(a), a).cmp(&(rank(b), b)));
        entries
    }
}

fn write_map(out: &mut String, entries: &[(String, Yaml)], indent: usize, first_is_inline: bool) {
    for (index, (key, value)) in entries.iter().enumerate() {
        if index > 0 || !first_is_inline {
            pad(out, indent);
        }
        out.push_str(&if is_plain(key) { key.clone() } else { quoted(key) });
        out.push(':');
        write_value(out, value, indent + 2);
    }
}

fn write_list(out: &mut String, items: &[Yaml], indent: usize) {
    for item in items {
        pad(out, indent);
        out.push('-');
        match item {
            Yaml::Map(entries) if !entries.is_empty() => {
                out.push(' ');
                write_map(out, entries, indent + 2, true);
            }
            other => write_value(out, other, indent + 2),
        }
    }
}

/// Writes what follows `key:` or `-`; `indent` is that of the lines below.
fn write_value(out: &mut String, value: &Yaml, indent: usize) {
    match value {
        Yaml::Bare(text) => end_line(out, text),
        Yaml::List(items) if items.is_empty() => end_line(out, "[]"),
        Yaml::Map(entries) if entries.is_empty() => end_line(out, "{}"),
        Yaml::List(items) => {
            out.push('\n');
            write_list(out, items, indent);
        }
        Yaml::Map(entries) => {
            out.push('\n');
            write_map(out, entries, indent, false);
        }
        Yaml::Text(text) => write_text(out, text, indent),
    }
}

fn write_text(out: &mut String, text: &str, indent: usize) {
    if is_foldable(text) && indent + text.chars().count() > WIDTH {
        end_line(out, ">-");
        for line in fold(text, WIDTH.saturating_sub(indent)) {
            pad(out, indent);
            out.push_str(&line);
            out.push('\n');
        }
    } else if text.contains('\n') && is_literal(text) {
        end_line(out, if text.ends_with('\n') { "|" } else { "|-" });
        for line in text.lines() {
            if !line.is_empty() {
                pad(out, indent);
            }
            out.push_str(line);
            out.push('\n');
        }
    } else if is_plain(text) {
        end_line(out, text);
    } else {
        end_line(out, &quoted(text));
    }
}

fn end_line(out: &mut String, text: &str) {
    out.push(' ');
    out.push_str(text);
    out.push('\n');
}

fn pad(out: &mut String, indent: usize) {
    out.extend(std::iter::repeat_n(' ', indent));
}

pub fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// Whether a text is a string without quotes, in YAML 1.1 and 1.2.
fn is_plain(text: &str) -> bool {
    const WORDS: [&str; 9] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
    text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '/')
        && !text.ends_with([' ', ':'])
        && !text.contains(": ")
        && !text.contains(" #")
        && !text.chars().any(char::is_control)
        && !WORDS.contains(&text.to_ascii_lowercase().as_str())
}

/// Whether a text has only single spaces, so that folding does not change it.
fn is_foldable(text: &str) -> bool {
    !text.is_empty()
        && !text.chars().any(char::is_control)
        && text.split(' ').all(|word| !word.is_empty())
}

/// Whether a block keeps the lines as they are: the first has no leading spaces, none has trailing ones, and at most one newline ends it.
fn is_literal(text: &str) -> bool {
    !text.starts_with([' ', '\n'])
        && !text.ends_with("\n\n")
        && text.lines().all(|line| !line.ends_with(' ') && !line.chars().any(char::is_control))
        && !text.contains('\r')
}

fn fold(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Texts that YAML would read as something else, or fold.
    const TEXTS: &[&str] = &[
        "",
        " ",
        "yes",
        "No",
        "null",
        "~",
        "1.0",
        "0644",
        "plain words",
        "key: value",
        "ends with:",
        "a #comment",
        "#first",
        "- item",
        "* star",
        "{{ app }}",
        "[1]",
        "C(code)",
        "tab\there",
        "two  spaces",
        " leads",
        "trails ",
        "line\nline",
        "line\n\nline\n",
        "\nfirst",
        "ends\n\n",
        "  indented\nless",
        "less\n  indented",
        "trails \nline",
        "back\\slash",
        "ümlaut",
        "12:30:45",
        "0x1f",
        "1e3",
        "=",
        "!tag",
        "&anchor",
        "@at",
        "`tick`",
        "%percent",
        "a, b",
        "x: [",
        "\u{7}bell",
        "carriage\rreturn",
        "/a/path",
        "O(x=y)",
        "2026-11-21",
    ];

    #[test]
    fn whatever_is_written_reads_back_the_same() {
        let long = "A sentence with a colon: and \"quotes\", a # and 'more' that is told at such length that it must be folded. ".repeat(3);
        let texts = [TEXTS, &[long.trim_end(), &long]].concat();
        let value = json!({
            "texts": texts.as_slice(),
            "keys": texts.iter().map(|text| ((*text).to_owned(), json!(1))).collect::<serde_json::Map<_, _>>(),
            "nested": [[], {}, [[1, 2], [3]], {"a": {"b": [{"c": null, "d": [true, 1.5, -3]}]}}],
        });
        let document = Yaml::document(&Yaml::object(value.as_object().unwrap()));
        let read: Value = serde_yaml_ng::from_str(&document).unwrap();
        assert_eq!(read, value, "\n{document}");
    }

    #[test]
    fn is_pleasant_to_read() {
        let words = "word ".repeat(30);
        let value = json!({"type": "str", "description": ["Short.", words.trim_end()], "choices": ["yes", "present"], "default": 3});
        let (one, two) = ("word ".repeat(21), "word ".repeat(9));
        let expected = format!(
            "description:\n  - Short.\n  - >-\n    {}\n    {}\ntype: str\nchoices:\n  - \"yes\"\n  - present\ndefault: 3\n",
            one.trim_end(),
            two.trim_end()
        );
        assert_eq!(Yaml::document(&Yaml::object(value.as_object().unwrap())), expected);
    }
}
