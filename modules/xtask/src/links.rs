//! Rewrites links between the shipped texts, whose files have other paths in the copy than in the repository. A link to a file that is not
//! shipped becomes plain text; a link to a file that does not exist is refused.

use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use walkdir::WalkDir;

use crate::layout::{FILES, FOLDERS};

/// Rewrites the links of all texts in `copy`; `root` is the repository that it was copied from.
pub fn follow(root: &Path, copy: &Path) -> Result<()> {
    for entry in WalkDir::new(copy).sort_by_file_name() {
        let entry = entry?;
        let place = entry.path().strip_prefix(copy)?;
        if place.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        let Some(source) = in_repository(place) else { continue };
        let text = fs::read_to_string(entry.path())?;
        let followed =
            rewritten(root, &source, place, &text).with_context(|| source.display().to_string())?;
        if followed != text {
            fs::write(entry.path(), followed)
                .with_context(|| format!("writing {}", place.display()))?;
        }
    }
    Ok(())
}

fn rewritten(root: &Path, source: &Path, place: &Path, text: &str) -> Result<String> {
    let mut lines = Vec::new();
    let mut in_code = false;
    for line in text.split_inclusive('\n') {
        in_code ^= line.trim_start().starts_with("```");
        lines.push(if in_code { line.to_owned() } else { of_line(root, source, place, line)? });
    }
    Ok(lines.concat())
}

fn of_line(root: &Path, source: &Path, place: &Path, line: &str) -> Result<String> {
    let mut done = String::new();
    let mut rest = line;
    while let Some(middle) = rest.find("](") {
        let target_at = middle + 2;
        let Some(length) = rest[target_at..].find(')') else { break };
        let target = &rest[target_at..target_at + length];
        let (path, anchor) = target.split_at(target.find('#').unwrap_or(target.len()));
        if path.is_empty() || path.contains(':') {
            done.push_str(&rest[..=target_at + length]);
        } else {
            let meant = normal(&source.parent().unwrap_or(Path::new("")).join(path));
            if !root.join(&meant).exists() {
                bail!("it links to {target}, but {} does not exist", meant.display());
            }
            let begin = rest[..middle].rfind('[').unwrap_or(0);
            match in_copy(&meant) {
                Some(there) => {
                    let way = from(place.parent().unwrap_or(Path::new("")), &there);
                    done.push_str(&rest[..target_at]);
                    done.push_str(&format!("{}{anchor})", way.display()));
                }
                None if rest[..begin].ends_with('!') => {
                    bail!("it shows {target}, which is not shipped")
                }
                None => {
                    done.push_str(&rest[..begin]);
                    done.push_str(&rest[begin + 1..middle]);
                }
            }
        }
        rest = &rest[target_at + length + 1..];
    }
    done.push_str(rest);
    Ok(done)
}

/// Returns the source of a file of the copy.
fn in_repository(place: &Path) -> Option<PathBuf> {
    let file = FILES.iter().find(|(_, to)| place == Path::new(to));
    file.map(|(from, _)| PathBuf::from(from)).or_else(|| {
        FOLDERS.iter().find_map(|(from, to)| {
            place.strip_prefix(to).ok().map(|rest| Path::new(from).join(rest))
        })
    })
}

/// Returns the path in the copy of a file of the repository.
fn in_copy(source: &Path) -> Option<PathBuf> {
    let file = FILES.iter().find(|(from, _)| source == Path::new(from));
    file.map(|(_, to)| PathBuf::from(to)).or_else(|| {
        FOLDERS.iter().find_map(|(from, to)| {
            source.strip_prefix(from).ok().map(|rest| Path::new(to).join(rest))
        })
    })
}

/// Resolves `.` and `..` in a path.
fn normal(path: &Path) -> PathBuf {
    let mut parts = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                parts.pop();
            }
            Component::CurDir => {}
            part => parts.push(part),
        }
    }
    parts
}

/// Returns the relative path from a folder to a file.
fn from(folder: &Path, file: &Path) -> PathBuf {
    let shared = folder.components().zip(file.components()).take_while(|(a, b)| a == b).count();
    let up = folder.components().skip(shared).map(|_| Component::ParentDir);
    up.chain(file.components().skip(shared)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(source: &str, place: &str, text: &str) -> Result<String> {
        let folder = tempfile::tempdir().unwrap();
        for file in [
            "README.md",
            "roles/haproxy/README.md",
            "collection/docs/app.md",
            "tests/x.md",
            "collection/CHANGELOG.rst",
        ] {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        rewritten(folder.path(), Path::new(source), Path::new(place), text)
    }

    #[test]
    fn a_link_follows_its_file() {
        let readme = |text| of("README.md", "README.md", text).unwrap();
        assert_eq!(readme("[a](collection/docs/app.md#x), [b](#y)"), "[a](docs/app.md#x), [b](#y)");
        assert_eq!(
            readme("See [how](tests/x.md), [it](https://x.org)."),
            "See how, [it](https://x.org)."
        );
        assert_eq!(readme("[new](collection/CHANGELOG.rst)"), "[new](CHANGELOG.rst)");
        assert_eq!(readme("```\n[a](b)\n```\n"), "```\n[a](b)\n```\n");
        let docs = |text| of("collection/docs/app.md", "docs/app.md", text).unwrap();
        assert_eq!(docs("[r](../../roles/haproxy/README.md)"), "[r](../roles/haproxy/README.md)");
        assert_eq!(docs("[top](../../README.md)"), "[top](../README.md)");
    }

    #[test]
    fn a_dead_link_is_refused() {
        let error = of("README.md", "README.md", "[a](docs/app.md)").unwrap_err().to_string();
        assert!(error.contains("docs/app.md"), "{error}");
        assert!(of("README.md", "README.md", "![a](tests/x.md)").is_err());
    }
}
