//! The result: a row for each probe, and a message for all.

use crate::observation::Observation;
use crate::options::Probe;
use probe::shown::clipped;
use serde_json::{Map, Value, json};

/// The maximum length of a reason.
const MAX_WHY: usize = 500;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    pub name: String,
    pub kind: String,
    /// Whether it held; `None` when it was not evaluated.
    pub ok: Option<bool>,
    pub tries: u64,
    pub answer: Option<String>,
    pub milliseconds: f64,
    pub why: Option<String>,
    pub value: Option<f64>,
    pub seen: Map<String, Value>,
    pub content: Option<String>,
}

impl Row {
    pub fn new(probe: &Probe) -> Row {
        Row { name: probe.name.clone(), kind: probe.kind.clone(), ..Row::default() }
    }

    /// Records the result of the last try and returns whether it held.
    pub fn take(&mut self, seen: Result<Observation, String>) -> bool {
        self.content = seen.as_ref().ok().and_then(|seen| seen.content.clone());
        (self.answer, self.why, self.value, self.seen) = match seen {
            Ok(seen) => (Some(seen.answer), seen.failure, seen.value, seen.seen),
            Err(why) => (None, Some(why), None, Map::new()),
        };
        self.why.is_none()
    }

    pub fn held(mut self) -> Row {
        self.ok = Some(true);
        self
    }

    pub fn failed(mut self, why: String) -> Row {
        self.why = Some(clipped(&why, MAX_WHY));
        self.ok = Some(false);
        self
    }

    /// Makes the reason after the last failed try: the last failure, the number of tries, and `end`.
    pub fn ended(self, end: String) -> Row {
        let mut why: Vec<String> = self.why.clone().into_iter().collect();
        let asked = match self.tries {
            0 | 1 => String::new(),
            tries => format!("asked {tries} times"),
        };
        let more: Vec<String> =
            [asked, end].into_iter().filter(|words| !words.is_empty()).collect();
        match (why.is_empty(), more.is_empty()) {
            (_, true) => {}
            (true, false) => why.push(more.join(", ")),
            (false, false) => why.push(format!("({})", more.join(", "))),
        }
        let why = why.join(" ");
        self.failed(why)
    }

    pub fn sentence(&self) -> String {
        format!("{}: {}", self.name, self.why.as_deref().unwrap_or_default())
    }

    pub fn to_json(&self) -> Value {
        let mut row = json!({
            "name": self.name,
            "kind": self.kind,
            "ok": self.ok,
            "tries": self.tries,
            "answer": self.answer,
            "milliseconds": self.milliseconds,
            "why": self.why,
            "value": self.value,
            "seen": self.seen,
        });
        if let Some(content) = &self.content {
            row["content"] = json!(content);
        }
        row
    }
}

/// The table and its summary.
pub struct Table {
    pub rows: Vec<Row>,
    pub required: usize,
}

impl Table {
    pub fn held(&self) -> usize {
        self.rows.iter().filter(|row| row.ok == Some(true)).count()
    }

    pub fn failed(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.ok == Some(false))
    }

    /// The message in one line: the names first, then a sentence for each.
    pub fn msg(&self) -> String {
        let all = self.rows.len();
        let names: Vec<&str> = self.failed().map(|row| row.name.as_str()).collect();
        let probes = if all == 1 { "probe" } else { "probes" };
        if names.is_empty() {
            return format!("{} of {all} {probes} hold", self.held());
        }
        let begin = format!("{} of {all} {probes} failed", names.len());
        let needed = match self.required == all {
            true => String::new(),
            false => format!(" ({} must hold)", self.required),
        };
        let sentences: Vec<String> = self.failed().map(Row::sentence).collect();
        format!("{begin}{needed}: {}; {}", names.join(", "), sentences.join("; "))
    }

    pub fn facts(&self) -> Map<String, Value> {
        let rows: Vec<Value> = self.rows.iter().map(Row::to_json).collect();
        let names: Vec<&str> = self.failed().map(|row| row.name.as_str()).collect();
        let mut facts = Map::new();
        facts.insert("probes".to_owned(), json!(rows));
        facts.insert("failed_probes".to_owned(), json!(names));
        facts.insert("held".to_owned(), json!(self.held()));
        facts.insert("required".to_owned(), json!(self.required));
        facts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, why: Option<&str>) -> Row {
        let row = Row { name: name.into(), ..Row::default() };
        match why {
            None => row.held(),
            Some(why) => row.failed(why.into()),
        }
    }

    #[test]
    fn the_message_begins_with_the_names() {
        let rows = vec![row("web", Some("no\nanswer")), row("db", None), row("disk", Some("full"))];
        let table = Table { rows: rows.clone(), required: 3 };
        let msg = "2 of 3 probes failed: web, disk; web: no\\nanswer; disk: full";
        assert_eq!(table.msg(), msg);
        let table = Table { rows, required: 1 };
        assert!(table.msg().starts_with("2 of 3 probes failed (1 must hold): web, disk; web:"));
        let table = Table { rows: vec![row("db", None)], required: 1 };
        assert_eq!((table.msg().as_str(), table.held()), ("1 of 1 probe hold", 1));
    }

    #[test]
    fn a_reason_contains_the_number_of_tries() {
        let ended = |tries, why: Option<&str>, end: &str| {
            let row = Row { tries, why: why.map(str::to_owned), ..Row::default() };
            row.ended(end.to_owned()).why.unwrap_or_default()
        };
        assert_eq!(ended(1, Some("no"), ""), "no");
        assert_eq!(ended(3, Some("no"), ""), "no (asked 3 times)");
        assert_eq!(ended(2, Some("no"), "late"), "no (asked 2 times, late)");
        assert_eq!(ended(0, None, "late"), "late");
    }
}
