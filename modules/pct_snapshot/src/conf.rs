//! Parses the file of a container, `/etc/pve/lxc/<id>.conf`: its configuration and those of its snapshots.
//! Proxmox's commands read it too, but each takes most of a second of processor time. No I/O here.
//!
//! The current configuration comes first, then `[name]` sections; `[pve:pending]` is the configuration
//! after the next start. Lines that begin with `#` are the description of their section, percent-encoded.

use crate::container::{Config, Snapshot, Snapshots};

#[derive(Debug)]
pub struct ConfFile {
    pub current: Config,
    kept: Vec<(String, Config)>,
}

impl ConfFile {
    pub fn parse(text: &str) -> ConfFile {
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        let heading = |line: &str| {
            line.strip_prefix('[').and_then(|line| line.strip_suffix(']')).map(str::to_owned)
        };
        let mut sections = lines.chunk_by(|_, next| heading(next).is_none()).peekable();
        let current = match sections.next_if(|first| heading(first[0]).is_none()) {
            Some(first) => config(first),
            _ => Config::default(),
        };
        let kept =
            sections.map(|lines| (heading(lines[0]).unwrap_or_default(), config(&lines[1..])));
        // A snapshot's name has no colon.
        ConfFile { current, kept: kept.filter(|(name, _)| !name.contains(':')).collect() }
    }

    /// Returns the configuration of a snapshot.
    pub fn snapshot_config(&self, name: &str) -> Option<&Config> {
        self.kept.iter().find(|(kept, _)| kept == name).map(|(_, config)| config)
    }

    pub fn snapshots(&self, running: bool) -> Snapshots {
        let snapshot = |(name, config): &(String, Config)| {
            let mut snapshot = Snapshot::new(name, &config.description, config.snaptime);
            (snapshot.parent, snapshot.state) = (config.parent.clone(), config.snapstate.clone());
            snapshot
        };
        let all = self.kept.iter().map(snapshot).collect();
        Snapshots::new(all, self.current.parent.clone(), running)
    }
}

fn config(lines: &[&str]) -> Config {
    let description: String = (lines.iter())
        .filter_map(|line| line.strip_prefix('#'))
        .map(|line| decoded(line) + "\n")
        .collect();
    let pairs = lines.iter().filter(|line| !line.starts_with('#')).filter_map(|line| {
        // Raw lines of LXC may have an equals sign.
        let (key, value) = match line.split_once(':') {
            Some((key, value)) if !key.contains('=') => (key, value),
            _ => line.split_once('=')?,
        };
        Some((key.trim(), value.trim().to_owned()))
    });
    Config::from_pairs(pairs.chain([("description", description)]))
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let byte = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (first, byte) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "#the shop%3A 100%25 %E9 %zz\n#\nlock: rollback\nlxc.mount.entry = /srv srv none bind\n\
        mp0: zp:vol,mp=/a b,size=1G\nparent: later\ntemplate: 0\n\n[pve:pending]\nmp0: zp:other,mp=/b\n\n\
        [first]\n#note%0Atwo\nrootfs: zp:root\nsnaptime: 1763710132\n\n[later]\nparent: first\nsnapstate: prepare\n";

    #[test]
    fn sections_and_their_descriptions() {
        let file = ConfFile::parse(TEXT);
        assert_eq!(file.current.description, "the shop: 100% \u{fffd} %zz\n\n");
        assert_eq!(file.current.lock.as_deref(), Some("rollback"));
        assert_eq!(file.current.mounts[0].path, "/a b");
        assert_eq!(file.current.entries, ["/srv (at /srv)"]);
        assert_eq!(file.snapshot_config("first").unwrap().mounts[0].key, "rootfs");
        assert!(
            file.snapshot_config("pve:pending").is_none()
                && file.snapshot_config("later").is_some()
        );
        let snapshots = file.snapshots(true);
        let shown: Vec<_> = (snapshots.all.iter())
            .map(|one| (one.name.as_str(), one.description.as_str(), one.time, one.is_complete()))
            .collect();
        assert!(shown.contains(&("first", "note\ntwo\n", 1_763_710_132, true)), "{shown:?}");
        assert!(shown.contains(&("later", "", 0, false)), "{shown:?}");
        assert_eq!((snapshots.parent.as_deref(), snapshots.running), (Some("later"), true));
        assert_eq!(snapshots.find("later").unwrap().parent.as_deref(), Some("first"));
    }

    #[test]
    fn an_empty_file() {
        let file = ConfFile::parse("");
        assert!(file.current.mounts.is_empty() && file.snapshots(false).all.is_empty());
    }
}
