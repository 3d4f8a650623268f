//! Resolves a path from `/` down, one component after the other, each held by a descriptor.
//!
//! The kernel follows no link: at each link the caller decides whether to follow its target.
//! Invariant: `..` in the target of a link leads to the folder that the descent came through, whatever
//! its name is by now.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};

use crate::beneath::{Dir, read_link};
use crate::meta::Meta;
use crate::none_if_missing;

const MOST_LINKS: usize = 16;

pub(crate) struct Descent {
    pub(crate) dir: Dir,
    /// The path of the current folder, without links.
    pub(crate) path: PathBuf,
    above: Vec<(Dir, PathBuf)>,
    todo: VecDeque<OsString>,
    links: usize,
    /// How many components of the path were still to do after the first link.
    behind: usize,
}

/// A component of a path, held by O_PATH.
pub(crate) struct Found {
    pub(crate) held: OwnedFd,
    pub(crate) meta: Meta,
    pub(crate) path: PathBuf,
}

impl Descent {
    pub(crate) fn begin(path: &Path) -> Result<Descent> {
        let path = match path.is_absolute() {
            true => path.to_owned(),
            false => std::env::current_dir()?.join(path),
        };
        let dir = Dir::root().context("cannot open /")?;
        let (todo, above, behind) = (VecDeque::new(), Vec::new(), usize::MAX);
        let mut descent = Descent { dir, path: "/".into(), above, todo, links: 0, behind };
        descent.push_front(&path);
        Ok(descent)
    }

    pub(crate) fn next_name(&mut self) -> Option<OsString> {
        while let Some(name) = self.todo.pop_front() {
            if name != ".." {
                return Some(name);
            }
            if let Some(above) = self.above.pop() {
                (self.dir, self.path) = above;
            }
        }
        None
    }

    /// Whether the name that was returned last is the last one.
    pub(crate) fn is_last(&self) -> bool {
        self.todo.is_empty()
    }

    /// Whether that name is from the target of a link and not from the path itself.
    pub(crate) fn is_in_link(&self) -> bool {
        self.links > 0 && self.todo.len() >= self.behind
    }

    /// Looks at a name in the current folder; `None` if nothing has it.
    pub(crate) fn look(&self, name: &OsStr) -> Result<Option<Found>> {
        let path = self.path.join(name);
        let held = none_if_missing(self.dir.look(Path::new(name)));
        let held = held.with_context(|| format!("cannot look at {}", path.display()))?;
        let Some(held) = held else { return Ok(None) };
        Ok(Some(Found { meta: meta_of(&held, &path)?, held, path }))
    }

    pub(crate) fn enter(&mut self, dir: Dir, path: PathBuf) {
        let above =
            (std::mem::replace(&mut self.dir, dir), std::mem::replace(&mut self.path, path));
        self.above.push(above);
    }

    /// Goes on at the target of a link; false if it was one link too many.
    pub(crate) fn follow(&mut self, target: &Path) -> bool {
        self.links += 1;
        self.behind = self.behind.min(self.todo.len());
        if target.is_absolute() && !self.above.is_empty() {
            (self.dir, self.path) = self.above.swap_remove(0);
            self.above.clear();
        }
        self.push_front(target);
        self.links <= MOST_LINKS
    }

    fn push_front(&mut self, path: &Path) {
        for part in path.components().rev() {
            match part {
                Component::Normal(name) => self.todo.push_front(name.to_owned()),
                Component::ParentDir => self.todo.push_front("..".into()),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
        }
    }
}

impl Found {
    /// Reads the target of a link.
    pub(crate) fn target(&self) -> Result<PathBuf> {
        read_link(&self.held)
            .with_context(|| format!("cannot read the link {}", self.path.display()))
    }
}

pub(crate) fn meta_of(held: impl AsFd, path: &Path) -> Result<Meta> {
    Meta::read(held).with_context(|| format!("cannot look at {}", path.display()))
}
