//! Checks that an answer is as expected, and says in a sentence what was found instead.
//!
//! Invariant: it fails closed. Missing data, another type and a truncated body are failures; at most
//! `SHOWN` characters of what a server sent are shown, escaped.

use serde_json::Value;

use crate::http::Answer;
use crate::shown::clipped;

/// How many characters of a body or a header a message quotes.
const SHOWN: usize = 120;

/// What is expected of an answer; all of it must be met.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Expect {
    /// The accepted status codes. If empty: 200 to 299.
    pub status: Vec<u16>,
    /// The name of a header and its whole value.
    pub header: Option<(String, String)>,
    /// A field of the body, as `data.version` or `/data/0/version`, and its value.
    pub json: Option<(String, Value)>,
    /// A text that the body must contain.
    pub text: Option<String>,
}

impl Expect {
    /// Checks an answer. The error completes a sentence such as "the answer is wrong: ...".
    pub fn holds(&self, answer: &Answer) -> Result<(), String> {
        self.status_holds(answer)?;
        if let Some((name, value)) = &self.header {
            header_holds(answer, name, value)?;
        }
        if let Some((path, value)) = &self.json {
            json_holds(answer, path, value)?;
        }
        if let Some(text) = &self.text {
            text_holds(answer, text)?;
        }
        Ok(())
    }

    fn status_holds(&self, answer: &Answer) -> Result<(), String> {
        let status = answer.status;
        let (holds, expected) = match self.status.as_slice() {
            [] => ((200..=299).contains(&status), "200 to 299".to_owned()),
            any => {
                let list: Vec<_> = any.iter().map(u16::to_string).collect();
                (any.contains(&status), list.join(" or "))
            }
        };
        if holds { Ok(()) } else { Err(format!("expected status {expected}, got {status}")) }
    }
}

fn header_holds(answer: &Answer, name: &str, expected: &str) -> Result<(), String> {
    let named = |(known, _): &&(String, String)| known.eq_ignore_ascii_case(name.trim());
    let values: Vec<_> = answer.headers.iter().filter(named).map(|(_, value)| value).collect();
    if values.iter().any(|value| value.trim() == expected.trim()) {
        return Ok(());
    }
    let got = match values.first() {
        None => "there is no such header".to_owned(),
        Some(value) => format!("got {}", shown(value.as_bytes())),
    };
    Err(format!("expected {} in the header {}, {got}", shown(expected.as_bytes()), name.trim()))
}

fn json_holds(answer: &Answer, path: &str, expected: &Value) -> Result<(), String> {
    let wanted = format!("expected {} in the JSON field {path}", shown_value(expected));
    if answer.truncated {
        let read = answer.body.len();
        return Err(format!(
            "{wanted}, but the body is longer than the {read} bytes that are read"
        ));
    }
    if answer.body.is_empty() {
        return Err(format!("{wanted}, got an empty body"));
    }
    // The message of serde_json may quote the body; the position is enough.
    let body: Value = serde_json::from_slice(&answer.body).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let begin = shown(&answer.body);
        format!("{wanted}, got no JSON (line {line}, column {column}): {begin}")
    })?;
    match field(&body, path) {
        Some(found) if same(found, expected) => Ok(()),
        Some(found) => Err(format!("{wanted}, got {}", shown_value(found))),
        None => Err(format!("{wanted}, there is no such field")),
    }
}

fn text_holds(answer: &Answer, expected: &str) -> Result<(), String> {
    let expected_bytes = expected.as_bytes();
    // Every body contains the empty text, so it proves nothing.
    if !expected.is_empty()
        && answer.body.windows(expected_bytes.len()).any(|part| part == expected_bytes)
    {
        return Ok(());
    }
    let wanted = format!("expected {} in the body", shown(expected_bytes));
    Err(if answer.body.is_empty() {
        format!("{wanted}, got an empty body")
    } else if answer.truncated {
        format!("{wanted}, it is not in the first {} bytes", answer.body.len())
    } else {
        format!("{wanted}, got {}", shown(&answer.body))
    })
}

/// Finds `/data/0/version` (RFC 6901), or `data.0.version` if no name contains a dot.
fn field<'a>(body: &'a Value, path: &str) -> Option<&'a Value> {
    if path.is_empty() || path.starts_with('/') {
        return body.pointer(path);
    }
    path.split('.').try_fold(body, |value, part| match value {
        Value::Object(fields) => fields.get(part),
        Value::Array(items) => {
            let digits = part.bytes().all(|byte| byte.is_ascii_digit());
            items.get(part.parse::<usize>().ok().filter(|_| digits)?)
        }
        _ => None,
    })
}

/// Whether type and value are the same; `1` and `1.0` are the same number, at any depth.
fn same(found: &Value, expected: &Value) -> bool {
    match (found, expected) {
        (Value::Number(a), Value::Number(b)) if a.is_f64() != b.is_f64() => {
            a.as_f64() == b.as_f64()
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        (a, b) => a == b,
    }
}

/// Formats a string without quotes and anything else as JSON: `expected abc` reads well, and a number is
/// marked as one, to distinguish it from a string.
fn shown_value(value: &Value) -> String {
    match value {
        Value::String(text) => shown(text.as_bytes()),
        Value::Number(_) => format!("the number {value}"),
        other => shown(other.to_string().as_bytes()),
    }
}

/// Quotes the beginning of what a server sent, in one line.
fn shown(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "nothing".into();
    }
    let begin = &bytes[..bytes.len().min(4 * SHOWN)];
    let text = clipped(String::from_utf8_lossy(begin).trim_end(), SHOWN);
    match begin.len() < bytes.len() && !text.ends_with("...") {
        true => text + "...",
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::Duration;

    fn answer(status: u16, body: &str) -> Answer {
        Answer {
            status,
            headers: vec![
                ("Content-Type".into(), "text/plain".into()),
                ("X-Color".into(), "blue".into()),
                ("x-color".into(), "green".into()),
            ],
            body: body.into(),
            truncated: false,
            took: Duration::ZERO,
        }
    }

    fn json_in(body: &str, path: &str, value: Value) -> Result<(), String> {
        Expect { json: Some((path.into(), value)), ..Expect::default() }.holds(&answer(200, body))
    }

    fn refused(result: Result<(), String>, text: &str) {
        let error = result.unwrap_err();
        assert!(error.contains(text), "{error}");
        assert!(error.chars().count() < 300 && !error.chars().any(char::is_control), "{error}");
    }

    #[test]
    fn status() {
        let any = Expect::default();
        assert_eq!(any.holds(&answer(204, "")), Ok(()));
        refused(any.holds(&answer(302, "")), "expected status 200 to 299, got 302");
        let some = Expect { status: vec![200, 503], ..Expect::default() };
        assert_eq!(some.holds(&answer(503, "")), Ok(()));
        refused(some.holds(&answer(204, "")), "expected status 200 or 503, got 204");
    }

    #[test]
    fn header() {
        let expect = |name: &str, value: &str| {
            let header = Some((name.to_owned(), value.to_owned()));
            Expect { header, ..Expect::default() }.holds(&answer(200, ""))
        };
        assert_eq!(expect("x-COLOR", "green"), Ok(()));
        refused(expect("x-color", "Green"), "expected Green in the header x-color, got blue");
        refused(expect("x-release", "a"), "expected a in the header x-release, there is no such");
    }

    #[test]
    fn json_fields() {
        let body = r#"{"version":"abc","n":1,"data":[{"a.b":null}],"on":true,"f":1.0}"#;
        for (path, value) in [
            ("version", json!("abc")),
            ("/version", json!("abc")),
            ("n", json!(1)),
            ("n", json!(1.0)),
            ("f", json!(1)),
            ("data", json!([{"a.b": null}])),
            ("/data/0/a.b", json!(null)),
            ("data.0", json!({"a.b": null})),
            ("on", json!(true)),
        ] {
            assert_eq!(json_in(body, path, value), Ok(()), "{path}");
        }
        let wrong = "expected def in the JSON field version, got abc";
        refused(json_in(body, "version", json!("def")), wrong);
        refused(json_in(body, "n", json!("1")), "expected 1 in the JSON field n, got the number 1");
        refused(json_in(body, "on", json!("true")), "got true");
        for path in
            ["data.1", "data.-0", "data.0.a.b", "Version", "version.x", "/data/0/a", ".", "x"]
        {
            refused(json_in(body, path, json!(null)), "there is no such field");
        }
    }

    #[test]
    fn bodies_that_are_not_json() {
        refused(json_in("", "a", json!(null)), "got an empty body");
        refused(
            json_in("<html>\u{1b}[31m\r\n", "a", json!(1)),
            "got no JSON (line 1, column 1): <html>\\u{1b}[31m",
        );
        refused(json_in(r#"{"a": NaN}"#, "a", json!(null)), "got no JSON");
        refused(json_in(r#"{"a": 1e999}"#, "a", json!(1)), "got no JSON");
        refused(json_in(r#"{"a": 1} x"#, "a", json!(1)), "got no JSON");
        refused(json_in(&"[".repeat(100_000), "a", json!(1)), "got no JSON");
        let mut cut = answer(200, r#"{"a":1}"#);
        cut.truncated = true;
        let expect = Expect { json: Some(("a".into(), json!(1))), ..Expect::default() };
        refused(expect.holds(&cut), "longer than the 7 bytes that are read");
    }

    #[test]
    fn big_numbers_are_not_rounded() {
        let body = r#"{"a": 9007199254740993}"#;
        assert_eq!(json_in(body, "a", json!(9_007_199_254_740_993_u64)), Ok(()));
        refused(
            json_in(body, "a", json!(9_007_199_254_740_992_u64)),
            "got the number 9007199254740993",
        );
    }

    #[test]
    fn text() {
        let expect = |text: &str, body: &str| {
            Expect { text: Some(text.into()), ..Expect::default() }.holds(&answer(200, body))
        };
        assert_eq!(expect("ready", "not ready\n"), Ok(()));
        refused(expect("ready", "red"), "expected ready in the body, got red");
        refused(expect("ready", ""), "got an empty body");
        refused(expect("", "anything"), "expected nothing in the body");
        refused(expect("a", &"\u{0}é".repeat(9999)), "\\u{0}é\\u{0}");
        refused(expect("a", "\u{202e}b"), "got \\u{202e}b");
        let mut cut = answer(200, "red");
        cut.truncated = true;
        let expect = Expect { text: Some("ready".into()), ..Expect::default() };
        refused(expect.holds(&cut), "it is not in the first 3 bytes");
    }
}
