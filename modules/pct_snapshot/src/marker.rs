//! The marker: one line at the end of a snapshot's description, after the user's text. It marks snapshots of this
//! module; retention and removal touch no others.
//!
//! Invariant: [`Marker::read`] returns what [`Marker::describe`] has written, for any text.

use serde::Serialize;

const BEGIN: &str = "[reversible.deploy ";
const VERSION: &str = "1";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Taken before a change.
    RestorePoint,
    /// The state before a rollback, so that the rollback can be undone.
    Failed,
}

impl Kind {
    const fn word(self) -> &'static str {
        match self {
            Kind::RestorePoint => "restore-point",
            Kind::Failed => "failed",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marker {
    pub kind: Kind,
    pub app: Option<String>,
    pub deploy: Option<String>,
    pub release: Option<String>,
}

impl Marker {
    /// Makes the description of a snapshot: the user's text and the marker.
    pub fn describe(&self, text: &str) -> String {
        let mut line = format!("{BEGIN}{VERSION} {}", self.kind.word());
        for (key, value) in
            [("app", &self.app), ("deploy", &self.deploy), ("release", &self.release)]
        {
            if let Some(value) = value {
                line.push_str(&format!(" {key}={value}"));
            }
        }
        line.push(']');
        match text.trim_end() {
            "" => line,
            text => format!("{text}\n{line}"),
        }
    }

    /// Parses the marker of a description, which can only be its last line.
    pub fn read(description: &str) -> Option<Marker> {
        let line = description.trim_end().lines().next_back()?.trim();
        let mut words = line.strip_prefix(BEGIN)?.strip_suffix(']')?.split(' ');
        words.next().filter(|version| version.bytes().all(|byte| byte.is_ascii_digit()))?;
        let kind = match words.next()? {
            "restore-point" => Kind::RestorePoint,
            "failed" => Kind::Failed,
            _ => return None,
        };
        let mut marker = Marker { kind, app: None, deploy: None, release: None };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let subject = match key {
                "app" => &mut marker.app,
                "deploy" => &mut marker.deploy,
                "release" => &mut marker.release,
                // A key of a later version.
                _ => continue,
            };
            *subject = Some(value.to_owned());
        }
        Some(marker)
    }

    /// Returns the user's text of a description.
    pub fn text_of(description: &str) -> &str {
        let whole = description.trim_end();
        match Marker::read(whole) {
            Some(_) => whole.rfind('\n').map_or("", |end| whole[..end].trim_end()),
            None => whole,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marker() -> Marker {
        Marker {
            kind: Kind::RestorePoint,
            app: None,
            deploy: Some("20261121t084500z-7f3a".into()),
            release: Some("4f2a9c1".into()),
        }
    }

    #[test]
    fn a_marker_is_read_as_it_was_written() {
        let line =
            "[reversible.deploy 1 restore-point deploy=20261121t084500z-7f3a release=4f2a9c1]";
        assert_eq!(marker().describe(""), line);
        for text in ["", "before the upgrade", "two\nlines", "odd \u{fffd}\u{e9}", line] {
            let whole = marker().describe(text);
            assert_eq!(Marker::read(&whole), Some(marker()), "{text:?}");
            // Proxmox ends each line of a description with a newline.
            assert_eq!(Marker::read(&format!("{whole}\n")), Some(marker()), "{text:?}");
            assert_eq!(Marker::text_of(&whole), text);
        }
    }

    #[test]
    fn other_descriptions_have_no_marker() {
        let line = marker().describe("");
        for text in [
            "",
            "by hand",
            "[reversible.deploy 1]",
            "[reversible.deploy x restore-point]",
            &format!("{line}\nand a note below"),
            &line[..line.len() - 1],
        ] {
            assert_eq!(Marker::read(text), None, "{text:?}");
            assert_eq!(Marker::text_of(text), text);
        }
    }

    #[test]
    fn a_later_version_is_still_ours() {
        let read = Marker::read("[reversible.deploy 2 failed deploy=x color=blue]");
        assert_eq!(
            read.map(|marker| (marker.kind, marker.deploy)),
            Some((Kind::Failed, Some("x".into())))
        );
    }
}
