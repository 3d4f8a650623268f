//! Observes which files, folders, links and units differ from the options. Reads only.

use crate::options::{ContentSource, Options, Owner};
use crate::systemd::{self, Unit};
use crate::tree::{File, Folder, PERMISSIONS, Tree, read_text};
use anyhow::{Context, Result, bail, ensure};
use host::atomic;
use host::meta::{Kind, Meta};
use serde_json::{Map, Value, json};
use std::fs::{self, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const CHUNK: u64 = 64 << 10;
/// Limit for a text in a diff.
const MAX_SHOWN: u64 = 256 << 10;

#[derive(Debug)]
pub struct Seen {
    /// Folders to create, parents first.
    pub missing: Vec<Folder>,
    /// Folders that exist with another mode or owner.
    pub wrong_attributes: Vec<Folder>,
    pub differ: Vec<File>,
    /// Symbolic links to create, and their targets.
    pub links: Vec<(PathBuf, PathBuf)>,
    pub to_remove: Vec<PathBuf>,
    /// In the order of the options.
    pub units: Vec<Unit>,
    dest: Option<PathBuf>,
}

impl Seen {
    pub fn has_all_files(&self) -> bool {
        let folders = self.missing.is_empty() && self.wrong_attributes.is_empty();
        folders && self.differ.is_empty() && self.links.is_empty() && self.to_remove.is_empty()
    }

    /// The names of everything that is written, linked or removed, as in the options.
    pub fn names(&self) -> Vec<String> {
        let files = self.differ.iter().map(|file| &file.path);
        let all = files.chain(self.links.iter().map(|(path, _)| path)).chain(&self.to_remove);
        all.map(|path| self.name(path)).collect()
    }

    pub fn name(&self, path: &Path) -> String {
        let below = self.dest.as_deref().and_then(|dest| path.strip_prefix(dest).ok());
        below.unwrap_or(path).display().to_string()
    }

    pub fn view(&self) -> Value {
        let mut view = Map::from_iter([("differ".to_owned(), json!(self.names()))]);
        if !self.units.is_empty() {
            let units = self.units.iter().map(|unit| (unit.name.clone(), unit.view()));
            view.insert("units".to_owned(), Value::Object(units.collect()));
        }
        Value::Object(view)
    }
}

pub fn observe(options: &Options) -> Result<Seen> {
    let tree = Tree::of(options)?;
    let mut seen = Seen {
        missing: Vec::new(),
        wrong_attributes: Vec::new(),
        differ: Vec::new(),
        links: Vec::new(),
        to_remove: Vec::new(),
        units: systemd::show(options.units.iter().map(|unit| unit.name.as_str()))?,
        dest: options.dest.clone(),
    };
    for folder in tree.folders {
        match atomic::folder_meta(&folder.path)? {
            None => seen.missing.push(folder),
            Some(is) if !has_attributes(&folder, &is) => seen.wrong_attributes.push(folder),
            Some(_) => {}
        }
    }
    for file in tree.files {
        if !file.is_there()? {
            seen.differ.push(file);
        }
    }
    for (path, target) in tree.links {
        match atomic::entry(&path)? {
            Some(named) if named.target.as_ref() == Some(&target) => {}
            Some(named) if named.meta.kind != Kind::Link => {
                bail!("{} is no symbolic link, and nothing else is replaced by one", path.display())
            }
            _ => seen.links.push((path, target)),
        }
    }
    for path in tree.absent {
        if let Some(named) = atomic::entry(&path)? {
            ensure!(
                named.meta.kind != Kind::Folder || is_empty(&path)?,
                "{} is a folder with something in it, which is not removed",
                path.display()
            );
            seen.to_remove.push(path);
        }
    }
    Ok(seen)
}

fn is_empty(path: &Path) -> Result<bool> {
    let listed = || format!("listing {}", path.display());
    Ok(fs::read_dir(path).with_context(listed)?.next().is_none())
}

fn has_attributes(folder: &Folder, is: &Meta) -> bool {
    let has_mode = folder.required_mode.is_none_or(|mode| is.mode & PERMISSIONS == mode);
    has_mode && is_owned((is.uid, is.gid), folder.owner)
}

fn is_owned(is: (u32, u32), wanted: Owner) -> bool {
    wanted.0.is_none_or(|uid| uid == is.0) && wanted.1.is_none_or(|gid| gid == is.1)
}

impl File {
    /// Whether the file is as wanted. Its source is always opened, so that errors are found before any
    /// change.
    fn is_there(&self) -> Result<bool> {
        let (content, length): (Box<dyn Read + '_>, u64) = match &self.from {
            ContentSource::Source(src) => {
                let (source, metadata) = source(src)?;
                (Box::new(source), metadata.len())
            }
            from => (Box::new(from.text().as_bytes()), from.text().len() as u64),
        };
        let Some((there, found)) = atomic::open(&self.path)? else { return Ok(false) };
        if !self.replace {
            return Ok(true);
        }
        let has_mode = self.mode.is_none_or(|mode| found.mode() & PERMISSIONS == mode);
        let is_like = has_mode && is_owned((found.uid(), found.gid()), self.owner);
        Ok(is_like && found.len() == length && same(there, content, length)?)
    }

    /// Old and new text for a diff; none for content that is secret, no text, or too long.
    pub fn texts(&self) -> Option<(String, &str)> {
        let ContentSource::Text(new) = &self.from else { return None };
        let old = match atomic::open(&self.path).ok()? {
            Some((_, found)) if found.len() > MAX_SHOWN => return None,
            Some(_) => read_text(&self.path).ok()??,
            None => String::new(),
        };
        (!self.is_secret && new.len() as u64 <= MAX_SHOWN).then_some((old, new))
    }
}

impl ContentSource {
    pub fn text(&self) -> &str {
        match self {
            ContentSource::Text(text) => text,
            ContentSource::Source(_) | ContentSource::Lines(_) => "",
        }
    }
}

pub fn source(src: &Path) -> Result<(fs::File, Metadata)> {
    match atomic::open(src)? {
        Some(found) => Ok(found),
        None => bail!("{} is gone", src.display()),
    }
}

fn same(mut one: impl Read, mut other: impl Read, length: u64) -> io::Result<bool> {
    let (mut left, mut right) = (Vec::new(), Vec::new());
    let mut done = 0;
    while done < length {
        left.clear();
        right.clear();
        (&mut one).take(CHUNK).read_to_end(&mut left)?;
        (&mut other).take(CHUNK).read_to_end(&mut right)?;
        if left != right {
            return Ok(false);
        }
        if left.is_empty() {
            break;
        }
        done += left.len() as u64;
    }
    Ok(done == length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_to_the_last_byte() {
        let long = vec![7; 200_000];
        let mut other = long.clone();
        assert!(same(&long[..], &other[..], 200_000).unwrap());
        *other.last_mut().unwrap() = 8;
        assert!(!same(&long[..], &other[..], 200_000).unwrap());
        assert!(!same(&long[..5], &long[..5], 6).unwrap(), "both have shrunk");
    }
}
