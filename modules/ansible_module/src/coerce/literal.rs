//! Parses the Python literal of a dictionary, `{'a': [1, True, None]}`, which older versions of Ansible
//! produce for a dictionary inside of a string.

use super::python;
use serde_json::{Map, Number, Value};

/// The deepest nesting that is accepted, less than that of serde_json.
const DEPTH: usize = 100;

pub(super) fn parse_dict(text: &str) -> Option<Map<String, Value>> {
    let mut parser = Parser { rest: text };
    let value = parser.value(DEPTH)?;
    parser.space();
    match value {
        Value::Object(map) if parser.rest.is_empty() => Some(map),
        _ => None,
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    fn space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn eat(&mut self, token: &str) -> bool {
        self.space();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        let depth = depth.checked_sub(1)?;
        self.space();
        match self.rest.chars().next()? {
            '{' => self.dict(depth),
            '[' => self.list("[", "]", depth),
            '(' => self.list("(", ")", depth),
            '\'' | '"' => self.text().map(Value::String),
            'T' => self.eat("True").then_some(Value::Bool(true)),
            'F' => self.eat("False").then_some(Value::Bool(false)),
            'N' => self.eat("None").then_some(Value::Null),
            _ => self.number(),
        }
    }

    fn dict(&mut self, depth: usize) -> Option<Value> {
        let mut map = Map::new();
        self.eat("{");
        while !self.eat("}") {
            let key = python::str(&self.value(depth)?);
            if !self.eat(":") {
                return None;
            }
            map.insert(key, self.value(depth)?);
            if !self.eat(",") && !self.rest.trim_start().starts_with('}') {
                return None;
            }
        }
        Some(Value::Object(map))
    }

    fn list(&mut self, open: &str, close: &str, depth: usize) -> Option<Value> {
        let mut list = Vec::new();
        self.eat(open);
        while !self.eat(close) {
            list.push(self.value(depth)?);
            if !self.eat(",") && !self.rest.trim_start().starts_with(close) {
                return None;
            }
        }
        Some(Value::Array(list))
    }

    fn text(&mut self) -> Option<String> {
        let mut chars = self.rest.char_indices();
        let (_, quote) = chars.next()?;
        let mut out = String::new();
        while let Some((at, c)) = chars.next() {
            match c {
                c if c == quote => {
                    self.rest = &self.rest[at + 1..];
                    return Some(out);
                }
                '\\' => match chars.next()?.1 {
                    'n' => out.push('\n'),
                    't' => out.push('\t'),
                    'r' => out.push('\r'),
                    c @ ('\\' | '\'' | '"') => out.push(c),
                    // Numeric escapes are refused: they are not worth their code.
                    _ => return None,
                },
                c => out.push(c),
            }
        }
        None
    }

    fn number(&mut self) -> Option<Value> {
        let end = self.rest.find(|c: char| !(c.is_ascii_alphanumeric() || "+-._".contains(c)));
        let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        match word.parse::<i64>() {
            Ok(int) => Some(int.into()),
            Err(_) => Number::from_f64(python::parse_float(word)?).map(Value::Number),
        }
    }
}
