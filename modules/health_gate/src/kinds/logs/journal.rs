//! A unit's lines in the journal, through `journalctl --output json`: one object a line.
//!
//! Invariant: no entry is lost. `--after-cursor` together with a unit loses one: it skips the first entry
//! that fits, also where that is not the one of the cursor (seen in systemd 252). So the entry of the
//! cursor is asked for as well, and left out here.

use super::file::OnLine;
use crate::kinds::program;
use host::deadline::Deadline;
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "__CURSOR")]
    cursor: String,
    #[serde(rename = "MESSAGE", default)]
    message: Value,
}

const UNREADABLE: &str = "cannot read what journalctl printed as JSON";

/// The newest entry of the whole journal.
pub fn end(deadline: Deadline) -> Result<String, String> {
    let args = ["--quiet", "--no-pager", "--lines", "1", "--output", "json"];
    let text = program::text("journalctl", &args, deadline)?;
    match text.lines().next() {
        None => Err("this machine has no journal, or it must be read as root".to_owned()),
        Some(line) => serde_json::from_str(line)
            .map(|entry: Entry| entry.cursor)
            .map_err(|_| UNREADABLE.into()),
    }
}

pub fn read_since(
    unit: &str,
    cursor: &str,
    deadline: Deadline,
    each: OnLine<'_>,
) -> Result<(), String> {
    let args = ["--quiet", "--no-pager", "--all", "--output", "json", "--output-fields", "MESSAGE"];
    let command = program::command("journalctl", deadline)?.args(args);
    let output = program::run(&command.args(["--unit", unit, "--cursor", cursor]))?;
    // Output beyond the limit is an error: there are more new lines than can be read.
    lines(output.text().map_err(|why| why.to_string())?, cursor, each)
}

fn lines(text: &str, cursor: &str, each: OnLine<'_>) -> Result<(), String> {
    for line in text.lines() {
        let entry: Entry = serde_json::from_str(line).map_err(|_| UNREADABLE.to_owned())?;
        if entry.cursor != cursor {
            message(&entry.message).split(|byte| *byte == b'\n').for_each(&mut *each);
        }
    }
    Ok(())
}

/// Decodes a message: a text, a list of bytes if it is not UTF-8, or a list of either for several fields.
fn message(value: &Value) -> Vec<u8> {
    match value {
        Value::String(text) => text.clone().into_bytes(),
        Value::Array(list) if list.iter().all(Value::is_u64) => {
            list.iter().filter_map(|byte| u8::try_from(byte.as_u64()?).ok()).collect()
        }
        Value::Array(list) => list.iter().map(message).collect::<Vec<_>>().join(&b'\n'),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_parsed() {
        // systemd 252 (Debian 12).
        let text = r#"{"MESSAGE":"at the cursor","__CURSOR":"s=d6;i=50","__REALTIME_TIMESTAMP":"1"}
{"__CURSOR":"s=d6;i=51","MESSAGE":"ERROR x\ny","_BOOT_ID":"b0"}
{"__CURSOR":"s=d6;i=52","MESSAGE":[69,82,255]}
{"__CURSOR":"s=d6;i=53","MESSAGE":["a",[98]]}
{"__CURSOR":"s=d6;i=54"}
"#;
        let read = |cursor: &str| {
            let mut all: Vec<Vec<u8>> = Vec::new();
            lines(text, cursor, &mut |line| all.push(line.to_vec())).map(|()| all)
        };
        let all = read("s=d6;i=50").unwrap();
        let expected: [&[u8]; 6] = [b"ERROR x", b"y", b"ER\xff", b"a", b"b", b""];
        assert_eq!(all, expected);
        // The entry of the cursor may be another unit's.
        assert_eq!(read("s=d6;i=49").unwrap().len(), 7);
        assert!(lines("-- No entries --\n", "x", &mut |_| ()).is_err());
        assert!(lines("", "x", &mut |_| ()).is_ok());
    }
}
