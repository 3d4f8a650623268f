//! Observe: what is to be there, and what of it is not. Reads only.

use crate::options::{CONTENT_MODE, From, Options, VARIABLES_MODE, Wish};
use ansible_module::Failure;
use anyhow::{Context, Result, bail, ensure};
use host::atomic::{self, Replace};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A release is not the place for more; and a folder that holds itself, by a link, ends here.
const MOST: usize = 100_000;
/// Of a file whose lines are changed.
const LONGEST: u64 = 16 << 20;
const CHUNK: u64 = 64 << 10;
const PERMISSIONS: u32 = 0o777;

#[derive(Clone, Debug)]
pub struct Wanted {
    /// Below the folder.
    pub path: PathBuf,
    from: From,
    mode: u32,
}

#[derive(Clone, Debug)]
pub struct Folder {
    pub path: PathBuf,
    pub mode: u32,
}

#[derive(Debug)]
pub struct Seen {
    /// Those to be made, from above.
    pub missing: Vec<Folder>,
    pub differ: Vec<Wanted>,
}

impl Seen {
    pub fn has_all(&self) -> bool {
        self.missing.is_empty() && self.differ.is_empty()
    }

    pub fn view(&self) -> Value {
        let paths = self.differ.iter().map(|one| one.path.to_string_lossy());
        json!({ "differ": paths.collect::<Vec<_>>() })
    }
}

pub fn observe(options: &Options) -> Result<Seen> {
    let mut all = All::default();
    for wish in &options.files {
        all.add(wish)?;
    }
    if !options.variables.is_empty() {
        all.add_variables(options)?;
    }
    let mut seen = Seen { missing: Vec::new(), differ: Vec::new() };
    let root = Folder { path: PathBuf::new(), mode: 0o755 };
    for folder in [root].into_iter().chain(all.folders) {
        if !atomic::has_folder(&options.dest.join(&folder.path))? {
            seen.missing.push(folder);
        }
    }
    for wanted in all.files {
        if !wanted.is_at(&options.dest.join(&wanted.path))? {
            seen.differ.push(wanted);
        }
    }
    Ok(seen)
}

#[derive(Default)]
struct All {
    folders: Vec<Folder>,
    files: Vec<Wanted>,
    /// Where each path stands in `files`.
    at: BTreeMap<PathBuf, usize>,
}

impl All {
    fn add(&mut self, wish: &Wish) -> Result<()> {
        if let Some(above) = wish.path.parent().filter(|above| *above != Path::new("")) {
            self.folders.push(Folder { path: above.to_owned(), mode: 0o755 });
        }
        match &wish.from {
            From::Text(_) => self.put(Wanted {
                path: wish.path.clone(),
                from: wish.from.clone(),
                mode: wish.mode.unwrap_or(CONTENT_MODE),
            }),
            From::Source(src) => self.add_source(&wish.path, src, wish.mode),
        }
    }

    /// Its names are found by its path; what has them is read only where nobody else can lead.
    fn add_source(&mut self, path: &Path, src: &Path, mode: Option<u32>) -> Result<()> {
        let found = fs::metadata(src).map_err(|error| {
            let msg = format!("nothing was changed: cannot read {}", src.display());
            Failure::new("no_source", msg).caused_by(error.into())
        })?;
        let own = mode.unwrap_or(found.permissions().mode() & PERMISSIONS);
        if found.is_file() {
            return self.put(Wanted {
                path: path.to_owned(),
                from: From::Source(src.to_owned()),
                mode: own,
            });
        }
        ensure!(found.is_dir(), "{} is neither a file nor a folder", src.display());
        let mode_of_folder = found.permissions().mode() & PERMISSIONS;
        self.folders.push(Folder { path: path.to_owned(), mode: mode_of_folder });
        ensure!(self.folders.len() < MOST, "{} has no end", src.display());
        let listed = || format!("listing {}", src.display());
        let mut names = Vec::new();
        for entry in fs::read_dir(src).with_context(listed)? {
            names.push(entry.with_context(listed)?.file_name());
        }
        names.sort_unstable();
        names.iter().try_for_each(|name| self.add_source(&path.join(name), &src.join(name), mode))
    }

    fn put(&mut self, wanted: Wanted) -> Result<()> {
        match self.at.get(&wanted.path) {
            Some(at) => self.files[*at] = wanted,
            None => {
                ensure!(self.files.len() < MOST, "there are more than {MOST} files");
                self.at.insert(wanted.path.clone(), self.files.len());
                self.files.push(wanted);
            }
        }
        Ok(())
    }

    /// Over the file that is written, or that is there.
    fn add_variables(&mut self, options: &Options) -> Result<()> {
        let path = &options.variables_file;
        let text = match self.at.get(path).map(|at| self.files[*at].from.clone()) {
            Some(From::Text(text)) => text,
            Some(From::Source(src)) => lines_of(&src)?.unwrap_or_default(),
            None => lines_of(&options.dest.join(path))?.unwrap_or_default(),
        };
        let text = with_variables(&text, &options.variables);
        let mode = Some(VARIABLES_MODE);
        self.add(&Wish { path: path.clone(), from: From::Text(text), mode })
    }
}

fn lines_of(path: &Path) -> Result<Option<String>> {
    let Some((file, _)) = atomic::open(path)? else { return Ok(None) };
    let mut text = String::new();
    let read = file.take(LONGEST + 1).read_to_string(&mut text);
    read.with_context(|| format!("reading {}", path.display()))?;
    ensure!(text.len() as u64 <= LONGEST, "{} is too long for variables", path.display());
    Ok(Some(text))
}

/// The last line that sets a variable is the one that counts.
fn with_variables(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for (name, value) in variables {
        let line = format!("{name}={value}");
        match lines.iter().rposition(|line| sets(line, name)) {
            Some(at) => lines[at] = line,
            None => lines.push(line),
        }
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn sets(line: &str, name: &str) -> bool {
    let line = line.trim_start();
    let bare = line.strip_prefix("export").filter(|rest| rest.starts_with(char::is_whitespace));
    let rest = bare.map_or(line, str::trim_start).strip_prefix(name);
    rest.is_some_and(|rest| rest.trim_start().starts_with('='))
}

impl Wanted {
    /// Its source is opened in any case: what is wrong with it is found before anything is changed.
    fn is_at(&self, path: &Path) -> Result<bool> {
        let (content, length): (Box<dyn Read + '_>, u64) = match &self.from {
            From::Text(text) => (Box::new(text.as_bytes()), text.len() as u64),
            From::Source(src) => {
                let (source, length) = self.source(src)?;
                (Box::new(source), length)
            }
        };
        let Some((there, found)) = atomic::open(path)? else { return Ok(false) };
        let is_like =
            found.permissions().mode() & PERMISSIONS == self.mode && found.len() == length;
        Ok(is_like && same(there, content, length)?)
    }

    fn source(&self, src: &Path) -> Result<(File, u64)> {
        match atomic::open(src)? {
            Some((file, metadata)) => Ok((file, metadata.len())),
            None => bail!("{} is gone", src.display()),
        }
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        let new = Replace::new(path).mode(self.mode);
        match &self.from {
            From::Text(text) => new.write(text.as_bytes()),
            From::Source(src) => {
                let (source, length) = self.source(src)?;
                // Not to its end: it may grow as fast as it is read.
                new.write_with(&mut |file| {
                    io::copy(&mut (&source).take(length), file)?;
                    Ok(())
                })
            }
        }
        .map(drop)
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

    fn set(text: &str, name: &str, value: &str) -> String {
        with_variables(text, &BTreeMap::from([(name.to_owned(), value.to_owned())]))
    }

    #[test]
    fn a_variable_takes_the_place_of_the_line_that_counts() {
        for (text, becomes) in [
            ("", "TAG=2\n"),
            ("A=1", "A=1\nTAG=2\n"),
            ("TAG=1\nA=1\n", "TAG=2\nA=1\n"),
            ("TAG=0\nTAG=1\n", "TAG=0\nTAG=2\n"),
            ("  export\tTAG =1\n", "TAG=2\n"),
            (
                "# TAG=1\nTAGS=1\nexportTAG=1\nOTHER_TAG=1\n",
                "# TAG=1\nTAGS=1\nexportTAG=1\nOTHER_TAG=1\nTAG=2\n",
            ),
            ("TAG\n", "TAG\nTAG=2\n"),
        ] {
            assert_eq!(set(text, "TAG", "2"), becomes, "{text:?}");
            assert_eq!(set(becomes, "TAG", "2"), becomes, "{text:?} again");
        }
    }

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
