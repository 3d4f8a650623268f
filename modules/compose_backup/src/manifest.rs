//! `manifest.json`: the content of a backup and how it was made; `manifest.sha256`: its sum;
//! `manifest.txt`: the same as text, with how to restore by hand.
//!
//! Invariant: a manifest of a newer format, a truncated one, or one whose sum differs is never used.

#[cfg(test)]
pub mod tests;

use crate::images::ImageRecord;
use ansible_module::Failure;
use anyhow::{Context, Result};
use host::clock::Utc;
use host::deploy_id::DeployId;
use host::hex;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub const FORMAT: u64 = 1;
pub const JSON: &str = "manifest.json";
pub const SUM: &str = "manifest.sha256";
pub const TEXT: &str = "manifest.txt";

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u64,
    pub program: String,
    pub name: String,
    /// Increases in a backup folder, so that the order does not depend on the clock.
    pub sequence: u64,
    pub at: Utc,
    pub deploy_id: DeployId,
    pub release: Option<String>,
    pub project: String,
    pub project_dir: PathBuf,
    pub engine: EngineRecord,
    pub compose: ComposeRecord,
    pub services: BTreeMap<String, ServiceRecord>,
    /// Services of the project that are not in the backup.
    pub left_out: Vec<String>,
    pub images: Vec<ImageRecord>,
    pub mounts: Vec<Mount>,
    pub not_data: Vec<NotData>,
    pub excluded: Vec<Excluded>,
    pub files: Vec<FileRecord>,
    pub dumps: Vec<DumpRecord>,
    pub logs: Vec<LogRecord>,
    pub consistency: Consistency,
    pub sizes: Sizes,
    /// The sums of all files of the backup, except the manifest's own.
    pub contents: BTreeMap<String, Sum>,
    pub verify: Verdicts,
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EngineRecord {
    pub version: String,
    pub compose: String,
    pub storage: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ComposeRecord {
    /// The compose files, in the order in which they were merged.
    pub files: Vec<PathBuf>,
    /// Whether the task named the files, so that they were not searched for.
    pub given_files: bool,
    pub env_files: Vec<PathBuf>,
    pub profiles: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServiceRecord {
    /// The name of the image in the configuration.
    pub image: String,
    pub image_id: Option<String>,
    pub running: bool,
    pub scale: usize,
    pub config_hash: Option<String>,
    /// Whether the files have changed since its containers were created.
    pub drift: bool,
    pub containers: Vec<ContainerRecord>,
    pub depends_on: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ContainerRecord {
    pub id: String,
    pub name: String,
    pub image_id: String,
    pub state: String,
    pub exit_code: i64,
    pub health: Option<String>,
    /// Its number among the containers of its service, from 1.
    #[serde(default)]
    pub number: u32,
    /// Its anonymous volumes, by their mount points.
    #[serde(default)]
    pub volumes: BTreeMap<PathBuf, String>,
}

impl ContainerRecord {
    pub fn is_paused(&self) -> bool {
        self.state == "paused"
    }

    /// Whether it was running in the engine's sense, which includes paused and restarting.
    pub fn was_running(&self) -> bool {
        matches!(self.state.as_str(), "running" | "paused" | "restarting")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Bind,
    /// A bind mount of one file.
    File,
    Volume,
    Anonymous,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    pub n: usize,
    pub kind: Kind,
    pub source: PathBuf,
    pub volume: Option<VolumeRecord>,
    pub users: Vec<User>,
    /// The name of its index: `data/<n>.index.zst`.
    pub index: String,
    pub segments: Vec<SegmentRecord>,
    pub entries: u64,
    pub bytes: u64,
    pub restorable: bool,
    pub why: Option<String>,
}

impl Mount {
    pub fn new(
        kind: Kind,
        source: PathBuf,
        volume: Option<VolumeRecord>,
        users: Vec<User>,
    ) -> Mount {
        Mount {
            n: 0,
            kind,
            source,
            volume,
            users,
            index: String::new(),
            segments: Vec::new(),
            entries: 0,
            bytes: 0,
            restorable: true,
            why: None,
        }
    }

    pub fn title(&self) -> String {
        match &self.volume {
            Some(volume) => format!("volume {}", volume.name),
            None => self.source.display().to_string(),
        }
    }

    pub fn is_used_by(&self, service: &str) -> bool {
        self.users.iter().any(|user| user.service == service)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentRecord {
    pub number: u32,
    /// The name of its file: `data/<n>.<number>.tar.zst`.
    pub file: String,
    /// The bytes of content in it, and how many of them the index still uses.
    pub stored: u64,
    pub used: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRecord {
    pub name: String,
    pub driver: String,
    pub options: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    pub external: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub service: String,
    pub target: PathBuf,
    pub read_only: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NotData {
    pub source: PathBuf,
    pub target: PathBuf,
    pub service: String,
    pub why: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Excluded {
    pub what: String,
    pub by: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Compose,
    Env,
    Secret,
}

/// A compose file, an env file, or a file of `secrets:` and `configs:`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FileRecord {
    /// The number in its name: `config/files/<n>`.
    pub n: usize,
    pub path: PathBuf,
    pub role: Role,
    pub meta: FileMeta,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileMeta {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: (i64, u32),
    /// The extended attributes: names and values in hex.
    pub xattrs: Vec<(String, String)>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DumpRecord {
    pub name: String,
    pub service: String,
    pub command: Vec<String>,
    pub bytes: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LogRecord {
    pub service: String,
    pub bytes: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Consistency {
    pub mode: String,
    /// What can be expected of the data, in a sentence.
    pub meaning: String,
    /// The names of the containers that were frozen.
    pub frozen: Vec<String>,
    pub freeze_ms: u64,
    pub stop_ms: u64,
    pub copy_ms: u64,
    pub start_ms: u64,
    pub changed_while_read: Vec<String>,
    /// Containers of other projects that write to the same data and were not frozen.
    pub foreign_writers: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Sizes {
    /// The size of this backup's files, including the linked ones.
    pub bytes: u64,
    pub bytes_new: u64,
    pub bytes_linked: u64,
    /// The size of the data in the mounts.
    pub data: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum {
    pub sha256: String,
    pub bytes: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Verdicts {
    pub checksums: Option<Value>,
    pub restore: Option<Value>,
}

impl Manifest {
    /// Whether it did not fail its verification by a restore.
    pub fn is_good(&self) -> bool {
        let ok = self.verify.restore.as_ref().and_then(|verdict| verdict.get("ok"));
        ok != Some(&Value::Bool(false))
    }

    /// Reads the manifest of the backup in this folder.
    pub fn read(folder: &Path) -> Result<Manifest> {
        let path = folder.join(JSON);
        let damaged = |why: String| {
            let msg = format!("{} is damaged: {why}; this backup cannot be used", path.display());
            Failure::new("damaged", msg)
        };
        let read = |name: &str| {
            let file = folder.join(name);
            std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))
        };
        let content =
            read(JSON).map_err(|why| damaged("it cannot be read".into()).caused_by(why))?;
        #[derive(Deserialize)]
        struct Format {
            format: u64,
        }
        // Checked before the sum: another version may compute it differently.
        if let Ok(Format { format }) = serde_json::from_slice(&content) {
            if format > FORMAT {
                let msg = format!(
                    "{} has format {format}, but this version supports {FORMAT}: use the version of the \
                     collection that made it, or a newer one",
                    path.display()
                );
                return Err(Failure::new("newer_format", msg).into());
            }
        }
        let sum = read(SUM).map_err(|why| damaged("its sum is missing".into()).caused_by(why))?;
        if String::from_utf8_lossy(&sum).trim() != hex(&Sha256::digest(&content)) {
            return Err(damaged("its sum differs".into()).into());
        }
        serde_json::from_slice(&content).map_err(|why| damaged(why.to_string()).into())
    }

    /// Writes the three files with mode 0600 into a folder that is not in use yet.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let mut content = serde_json::to_vec_pretty(self)?;
        content.push(b'\n');
        let sum = hex(&Sha256::digest(&content)) + "\n";
        for (name, content) in
            [(JSON, content), (SUM, sum.into_bytes()), (TEXT, self.text().into_bytes())]
        {
            host::atomic::Replace::new(&folder.join(name)).mode(0o600).write(&content)?;
        }
        Ok(())
    }

    /// Formats the manifest for people, who may have only tar and zstd.
    pub fn text(&self) -> String {
        let mut text = format!(
            "Backup {} of the Compose project {}\ntaken {} (deploy {}{})\n\n",
            self.name,
            self.project,
            self.at,
            self.deploy_id,
            self.release.as_ref().map(|one| format!(", release {one}")).unwrap_or_default(),
        );
        text += &format!("Project folder: {}\n", self.project_dir.display());
        text += &format!(
            "Consistency: {} ({}); frozen for {} ms\n",
            self.consistency.mode, self.consistency.meaning, self.consistency.freeze_ms
        );
        text += &format!(
            "Size: {} bytes, of which {} are new\n\nServices and their images:\n",
            self.sizes.bytes, self.sizes.bytes_new
        );
        for (name, service) in &self.services {
            let id = service.image_id.as_deref().unwrap_or("none");
            text += &format!("  {name}: {} ({id})\n", service.image);
        }
        text += "\nData:\n";
        for mount in &self.mounts {
            text += &format!(
                "  {}: {} ({} entries, {} bytes)\n",
                mount.n,
                mount.title(),
                mount.entries,
                mount.bytes
            );
            let files = host::joined(mount.segments.iter().map(|one| &one.file));
            text += &format!("     source {}; in {files}\n", mount.source.display());
        }
        for one in &self.excluded {
            text += &format!("  not backed up, excluded by {:?}: {}\n", one.by, one.what);
        }
        for one in &self.not_data {
            text +=
                &format!("  no data ({}): {} of {}\n", one.why, one.target.display(), one.service);
        }
        text += "\nFiles of the project:\n";
        for file in &self.files {
            text += &format!("  config/files/{}: {}\n", file.n, file.path.display());
        }
        text += "\nTo restore by hand: unpack the segments of a mount into an empty folder, in their order,\n\
                 later ones over earlier ones, with\n  zstd -dc data/<n>.<k>.tar.zst | tar --numeric-owner --xattrs --xattrs-include='*' -xpf - -C <folder>\n\
                 (gzip -dc for .gz), then remove what data/<n>.index.zst does not name (the last word of each line; %20 is a\n\
                 space and so on). config/compose.json is the whole configuration, for docker compose -f.\n\
                 sha256 of every file: manifest.json, under contents.\n";
        text
    }
}
