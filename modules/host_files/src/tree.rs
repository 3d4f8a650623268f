//! Expands the options into single folders, files, links and absent paths; source folders become their files.

use crate::options::{ContentSource, Entry, Options, Owner, SECRET_MODE, What};
use ansible_module::Failure;
use anyhow::{Context, Result, ensure};
use host::atomic;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The most files and folders; the limit also ends a folder that contains itself by a link.
const MAX_ENTRIES: usize = 100_000;
/// Limit for a file whose lines are changed.
pub const MAX_TEXT: u64 = 16 << 20;
pub const PERMISSIONS: u32 = 0o777;
/// Mode of a folder for which the options give none.
const FOLDER_MODE: u32 = 0o755;

#[derive(Clone, Debug)]
pub struct File {
    pub path: PathBuf,
    /// The content; wanted lines are merged into a whole text already.
    pub from: ContentSource,
    /// None keeps the present mode.
    pub mode: Option<u32>,
    pub owner: Owner,
    pub replace: bool,
    pub is_secret: bool,
    pub validate: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct Folder {
    pub path: PathBuf,
    /// Mode when it is created.
    pub mode: u32,
    /// Mode that an existing folder must have too.
    pub required_mode: Option<u32>,
    pub owner: Owner,
}

impl Folder {
    fn plain(path: PathBuf) -> Folder {
        Folder { path, mode: FOLDER_MODE, required_mode: None, owner: (None, None) }
    }

    pub fn is_required(&self) -> bool {
        self.required_mode.is_some() || self.owner != (None, None)
    }
}

#[derive(Default)]
pub struct Tree {
    /// Parents first.
    pub folders: Vec<Folder>,
    pub files: Vec<File>,
    pub links: Vec<(PathBuf, PathBuf)>,
    pub absent: Vec<PathBuf>,
    /// The index of each path in `files`.
    at: BTreeMap<PathBuf, usize>,
    known: BTreeSet<PathBuf>,
}

impl Tree {
    pub fn of(options: &Options) -> Result<Tree> {
        let mut tree = Tree::default();
        if let Some(dest) = &options.dest {
            tree.plain_folder(dest);
        }
        for entry in &options.entries {
            tree.add(entry)?;
        }
        if !options.variables.is_empty() {
            tree.add_variables(options)?;
        }
        Ok(tree)
    }

    fn add(&mut self, entry: &Entry) -> Result<()> {
        match &entry.what {
            What::Absent => self.absent.push(entry.path.clone()),
            What::Folder => {
                let (path, required_mode) = (entry.path.clone(), entry.mode);
                let mode = required_mode.unwrap_or(FOLDER_MODE);
                self.known.insert(path.clone());
                self.folders.push(Folder { path, mode, required_mode, owner: entry.owner });
            }
            What::Link(target) => {
                self.folder_above(&entry.path);
                self.links.push((entry.path.clone(), target.clone()));
            }
            What::File(from) => {
                self.folder_above(&entry.path);
                match from {
                    ContentSource::Source(src) => self.add_source(entry, &entry.path, src)?,
                    ContentSource::Text(_) => {
                        self.put(file(entry, entry.path.clone(), from.clone()))?
                    }
                    ContentSource::Lines(lines) => {
                        let text = with_lines(&self.text_of(&entry.path)?, lines);
                        self.put(file(entry, entry.path.clone(), ContentSource::Text(text)))?;
                    }
                }
            }
        }
        Ok(())
    }

    fn folder_above(&mut self, path: &Path) {
        if let Some(above) = path.parent().filter(|above| *above != Path::new("/")) {
            self.plain_folder(above);
        }
    }

    fn plain_folder(&mut self, path: &Path) {
        if self.known.insert(path.to_owned()) {
            self.folders.push(Folder::plain(path.to_owned()));
        }
    }

    /// Adds the files of a source. Names are found by path, but files are opened safely (`host::regular`).
    fn add_source(&mut self, entry: &Entry, path: &Path, src: &Path) -> Result<()> {
        let found = fs::metadata(src).map_err(|error| {
            let msg = format!("nothing was changed: cannot read {}", src.display());
            Failure::new("no_source", msg).caused_by(error.into())
        })?;
        let own = found.permissions().mode() & PERMISSIONS;
        if found.is_file() {
            let one = file(entry, path.to_owned(), ContentSource::Source(src.to_owned()));
            return self.put(File { mode: entry.mode.or(Some(own)), ..one });
        }
        ensure!(found.is_dir(), "{} is neither a file nor a folder", src.display());
        let folder = Folder { mode: own, ..Folder::plain(path.to_owned()) };
        self.known.insert(path.to_owned());
        self.folders.push(Folder { owner: entry.owner, ..folder });
        ensure!(self.folders.len() < MAX_ENTRIES, "{} has no end", src.display());
        let listed = || format!("listing {}", src.display());
        let mut names = Vec::new();
        for entry in fs::read_dir(src).with_context(listed)? {
            names.push(entry.with_context(listed)?.file_name());
        }
        names.sort_unstable();
        names.iter().try_for_each(|name| self.add_source(entry, &path.join(name), &src.join(name)))
    }

    fn put(&mut self, one: File) -> Result<()> {
        match self.at.get(&one.path) {
            Some(at) => self.files[*at] = one,
            None => {
                ensure!(self.files.len() < MAX_ENTRIES, "there are more than {MAX_ENTRIES} files");
                self.at.insert(one.path.clone(), self.files.len());
                self.files.push(one);
            }
        }
        Ok(())
    }

    /// The new text of the file if it is written, else the present one.
    fn text_of(&self, path: &Path) -> Result<String> {
        let text = match self.at.get(path).map(|at| &self.files[*at].from) {
            Some(ContentSource::Text(text)) => Some(text.clone()),
            Some(ContentSource::Source(src)) => read_text(src)?,
            Some(ContentSource::Lines(_)) | None => read_text(path)?,
        };
        Ok(text.unwrap_or_default())
    }

    fn add_variables(&mut self, options: &Options) -> Result<()> {
        let path = &options.variables_file;
        let text = with_variables(&self.text_of(path)?, &options.variables);
        self.add(&Entry {
            path: path.clone(),
            what: What::File(ContentSource::Text(text)),
            mode: Some(SECRET_MODE),
            owner: (None, None),
            replace: true,
            is_secret: true,
            validate: Vec::new(),
        })
    }
}

fn file(entry: &Entry, path: PathBuf, from: ContentSource) -> File {
    let (mode, owner, replace, is_secret) =
        (entry.mode, entry.owner, entry.replace, entry.is_secret);
    File { path, from, mode, owner, replace, is_secret, validate: entry.validate.clone() }
}

/// Reads a file as text; `None` when it does not exist.
pub fn read_text(path: &Path) -> Result<Option<String>> {
    let Some((file, _)) = atomic::open(path)? else { return Ok(None) };
    let mut bytes = Vec::new();
    let read = file.take(MAX_TEXT + 1).read_to_end(&mut bytes);
    read.with_context(|| format!("reading {}", path.display()))?;
    let shown = path.display();
    ensure!(bytes.len() as u64 <= MAX_TEXT, "{shown} is longer than {} MiB", MAX_TEXT >> 20);
    Ok(Some(String::from_utf8(bytes).with_context(|| format!("{shown} is no text in UTF-8"))?))
}

/// Sets variables. The last line that sets a variable is replaced, since that one counts.
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

/// Appends missing lines. The present text stays as it is; only a missing last newline is added.
fn with_lines(text: &str, wanted: &[String]) -> String {
    let mut lines: BTreeSet<&str> = text.lines().collect();
    let mut all = text.to_owned();
    for line in wanted {
        if lines.insert(line) {
            if !all.is_empty() && !all.ends_with('\n') {
                all.push('\n');
            }
            all.push_str(line);
            all.push('\n');
        }
    }
    all
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
    fn lines_are_added_once_and_nothing_else_moves() {
        let wanted = ["b 1".to_owned(), "a 2".to_owned(), "b 1".to_owned()];
        for (text, becomes) in [
            ("", "b 1\na 2\n"),
            ("a 2\n", "a 2\nb 1\n"),
            ("a 1\r\n\n a 2", "a 1\r\n\n a 2\nb 1\na 2\n"),
            ("a 2\nb 1", "a 2\nb 1"),
        ] {
            assert_eq!(with_lines(text, &wanted), becomes, "{text:?}");
            assert_eq!(with_lines(becomes, &wanted), becomes, "{text:?} again");
        }
    }
}
