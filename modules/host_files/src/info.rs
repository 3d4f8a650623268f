//! `host_files_info`: the kind and content of files, who could change them, and the state of units.

use crate::options::InfoOptions;
use crate::systemd;
use crate::tree::{PERMISSIONS, read_text};
use ansible_module::Outcome;
use anyhow::Result;
use host::atomic;
use host::folder::{self, Unsafe};
use host::meta::{Kind, Meta};
use rustix::fs::FileType;
use serde_json::{Map, Value, json};
use std::path::Path;

pub fn of(asked: &InfoOptions) -> Result<Outcome> {
    let mut files = Map::new();
    for path in asked.paths.iter().chain(&asked.read) {
        let mut one = look(path)?;
        if asked.read.contains(path) {
            one.insert("content".to_owned(), json!(read_text(path)?));
        }
        files.insert(path.display().to_string(), Value::Object(one));
    }
    let units = systemd::show(asked.units.iter().map(|(_, unit)| unit.as_str()))?;
    let units = asked.units.iter().zip(&units);
    let units: Map<String, Value> =
        units.map(|((name, _), unit)| (name.clone(), unit.shown())).collect();
    Ok(Outcome::default().fact("files", Value::Object(files)).fact("units", Value::Object(units)))
}

fn look(path: &Path) -> Result<Map<String, Value>> {
    let mut one = Map::new();
    let mut put = |key: &str, value: Value| one.insert(key.to_owned(), value);
    let named = atomic::entry(path)?;
    put("exists", json!(named.is_some()));
    put("kind", json!(named.as_ref().map_or("absent", |named| kind(&named.meta))));
    if let Some(named) = &named {
        put("mode", json!(format!("{:04o}", named.meta.mode & (PERMISSIONS | 0o7000))));
        put("uid", json!(named.meta.uid));
        put("gid", json!(named.meta.gid));
        put("size", json!(named.meta.size));
        if let Some(target) = &named.target {
            put("target", json!(target.display().to_string()));
        }
    }
    put("others_can_change", others_can_change(path)?);
    Ok(one)
}

fn kind(meta: &Meta) -> &'static str {
    match meta.kind {
        Kind::File => "file",
        Kind::Folder => "directory",
        Kind::Link => "link",
        Kind::Special if FileType::from_raw_mode(meta.mode) == FileType::Socket => "socket",
        Kind::Special => "other",
    }
}

fn others_can_change(path: &Path) -> Result<Value> {
    match folder::check_file(path) {
        Ok(()) => Ok(Value::Null),
        Err(error) => match error.downcast_ref::<Unsafe>() {
            Some(unsafe_path) => Ok(json!(unsafe_path.why())),
            None => Err(error),
        },
    }
}
