//! Builds the installable archive, reproducibly: the same commit and compiler give the same bytes. `ansible-galaxy collection build` is not
//! used, since it writes current times, owners and an arbitrary order.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};
use walkdir::{DirEntry, WalkDir};

use crate::binaries::{self, Take};
use crate::cache::sha256;
use crate::galaxy::{self, Galaxy};
use crate::stage;
use crate::target::{Arch, advice};
use crate::workspace::{Workspace, run};

/// Half of the 20 MB that Galaxy accepts, to keep downloads short.
const MOST_BYTES: usize = 10_000_000;

/// A draft has a folder of its own, so that it is not mistaken for a release.
pub fn dist(workspace: &Workspace, draft: bool) -> Result<()> {
    let galaxy = galaxy::check_version(workspace)?;
    let time = source_time(workspace)?;
    let mut toolchains = Vec::new();
    for arch in Arch::ALL {
        let toolchain = binaries::find(workspace, arch, draft);
        toolchains.push((
            arch,
            toolchain.with_context(|| {
                format!("{}: no toolchain for it here; install one: {}", arch.name(), advice(arch))
            })?,
        ));
    }
    let folder = workspace.target_dir.join(if draft { "draft" } else { "dist" });
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let work = tempfile::tempdir_in(&folder)?;
    // What is shipped is built from the sources that are here.
    let take = if draft { Take::Cached } else { Take::Nothing };
    let copy = stage::stage_with(workspace, work.path(), false, &toolchains, take)?;

    let name = format!("{}-{}-{}.tar.gz", galaxy.namespace, galaxy.name, galaxy.version);
    let draft = work.path().join(&name);
    archive(&copy, &galaxy, time, &draft).with_context(|| format!("writing {name}"))?;
    let content = fs::read(&draft)?;
    ensure!(
        take == Take::Cached || content.len() <= MOST_BYTES,
        "{name} has {} bytes, the limit is {MOST_BYTES}",
        content.len()
    );
    let path = folder.join(&name);
    fs::rename(&draft, &path).with_context(|| format!("writing {}", path.display()))?;
    fs::write(folder.join(format!("{name}.sha256")), format!("{}  {name}\n", sha256(&content)))?;
    println!("{} ({:.2} MiB)", path.display(), content.len() as f64 / f64::from(1 << 20));
    Ok(())
}

/// Returns the time of every file in the archive: SOURCE_DATE_EPOCH, or the time of the last commit.
fn source_time(workspace: &Workspace) -> Result<u64> {
    let text = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text,
        Err(_) => run(Command::new("git").current_dir(&workspace.root).args(["log", "-1", "--format=%ct"]))
            .context("asking git for the last commit's time; set SOURCE_DATE_EPOCH if there is no repository")?,
    };
    text.trim().parse().with_context(|| format!("not a time in seconds: {text:?}"))
}

/// Writes the archive in ansible-galaxy's format 1: both lists first, then the files.
fn archive(copy: &Path, galaxy: &Galaxy, time: u64, path: &Path) -> Result<()> {
    let entries: Vec<DirEntry> = WalkDir::new(copy)
        .min_depth(1)
        .sort_by_file_name()
        .into_iter()
        .collect::<Result<_, _>>()?;
    // An installed collection has its manifest in place of galaxy.yml.
    let entries: Vec<DirEntry> =
        entries.into_iter().filter(|entry| entry.path() != copy.join("galaxy.yml")).collect();
    let mut listed = vec![listing(".", None)];
    for entry in &entries {
        let name = relative(copy, entry)?;
        listed.push(match entry.file_type().is_dir() {
            true => listing(&name, None),
            false => listing(&name, Some(&fs::read(entry.path())?)),
        });
    }
    let files = pretty(&json!({"files": listed, "format": 1}))?;
    let manifest = json!({
        "collection_info": galaxy,
        "file_manifest_file": listing("FILES.json", Some(&files)),
        "format": 1,
    });

    let mut tar = Writer { builder: Builder::new(Vec::new()), time };
    tar.file("MANIFEST.json", &pretty(&manifest)?, 0o644)?;
    tar.file("FILES.json", &files, 0o644)?;
    for entry in &entries {
        let name = relative(copy, entry)?;
        if entry.file_type().is_symlink() {
            tar.link(&name, &fs::read_link(entry.path())?)?;
        } else if entry.file_type().is_dir() {
            tar.folder(&name)?;
        } else {
            let executable = entry.metadata()?.permissions().mode() & 0o100 != 0;
            tar.file(&name, &fs::read(entry.path())?, if executable { 0o755 } else { 0o644 })?;
        }
    }
    let mut file = File::create(path)?;
    file.write_all(&gzip(&tar.builder.into_inner()?))?;
    file.sync_all()?;
    Ok(())
}

/// The gzip header (RFC 1952) without a name and a time: best level, unknown system.
fn gzip(content: &[u8]) -> Vec<u8> {
    let mut packed = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 255];
    packed.extend(miniz_oxide::deflate::compress_to_vec(content, 9));
    packed.extend(crc32fast::hash(content).to_le_bytes());
    packed.extend((content.len() as u32).to_le_bytes());
    packed
}

/// An entry of FILES.json: a folder, or a file with its checksum (for a link, that of its target).
fn listing(name: &str, content: Option<&[u8]>) -> Value {
    json!({
        "name": name,
        "ftype": if content.is_some() { "file" } else { "dir" },
        "chksum_type": content.map(|_| "sha256"),
        "chksum_sha256": content.map(sha256),
        "format": 1,
    })
}

struct Writer<W: Write> {
    builder: Builder<W>,
    time: u64,
}

impl<W: Write> Writer<W> {
    fn header(&self, kind: EntryType, size: usize, mode: u32) -> Header {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_size(size as u64);
        header.set_mode(mode);
        header.set_mtime(self.time);
        header.set_uid(0);
        header.set_gid(0);
        header
    }

    fn file(&mut self, name: &str, content: &[u8], mode: u32) -> Result<()> {
        let mut header = self.header(EntryType::Regular, content.len(), mode);
        Ok(self.builder.append_data(&mut header, name, content)?)
    }

    fn folder(&mut self, name: &str) -> Result<()> {
        let mut header = self.header(EntryType::Directory, 0, 0o755);
        Ok(self.builder.append_data(&mut header, name, std::io::empty())?)
    }

    fn link(&mut self, name: &str, target: &Path) -> Result<()> {
        ensure!(
            target.components().count() == 1,
            "{name}: a link may only point to a file in its own folder"
        );
        let mut header = self.header(EntryType::Symlink, 0, 0o777);
        Ok(self.builder.append_link(&mut header, name, target)?)
    }
}

fn relative(copy: &Path, entry: &DirEntry) -> Result<String> {
    let path = entry.path().strip_prefix(copy)?;
    Ok(path.to_str().with_context(|| format!("not a UTF-8 name: {}", path.display()))?.to_owned())
}

fn pretty(value: &Value) -> Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_itself_unpacks_what_was_packed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text.gz");
        for text in [String::new(), "a line\n".repeat(100_000)] {
            let packed = gzip(text.as_bytes());
            assert_eq!(packed, gzip(text.as_bytes()));
            fs::write(&path, packed).unwrap();
            assert_eq!(run(Command::new("gzip").arg("-dc").arg(&path)).unwrap(), text);
        }
    }
}
