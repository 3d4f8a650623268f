//! The options as typed values, with the checks that a spec cannot express.

use ansible_module::{Failure, Options as RawOptions};
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Debug)]
pub struct Options {
    pub program: Program,
    pub args: Vec<String>,
    pub chdir: Option<PathBuf>,
    pub stdin: Option<String>,
    pub removes: Option<PathBuf>,
    pub deadline: Duration,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Program {
    /// A name to look up in PATH.
    Name(String),
    /// A path that the user has chosen.
    Path(PathBuf),
}

impl Options {
    pub fn parse(raw: &RawOptions) -> Result<Options, Failure> {
        let argv: Vec<String> = raw.get("argv")?;
        let chdir: Option<PathBuf> = raw.get("chdir")?;
        if argv.iter().any(|word| word.contains('\0')) {
            return Err(Failure::bad_option("argv", "a word holds a NUL character"));
        }
        let mut words = argv.into_iter();
        let program = program(&words.next().unwrap_or_default(), chdir.as_deref())?;
        Ok(Options {
            program,
            args: words.collect(),
            chdir,
            stdin: raw.get("stdin")?,
            removes: raw.get("removes")?,
            deadline: raw.seconds("deadline")?,
        })
    }
}

fn program(word: &str, chdir: Option<&Path>) -> Result<Program, Failure> {
    let path = Path::new(word);
    match (word.is_empty(), word.contains('/'), chdir) {
        (true, ..) => Err(Failure::bad_option("argv", "it names no program")),
        (_, false, _) => Ok(Program::Name(word.to_owned())),
        (_, true, _) if path.is_absolute() => Ok(Program::Path(path.to_owned())),
        (_, true, Some(folder)) => Ok(Program::Path(folder.join(path))),
        (_, true, None) => {
            let why = format!("{word} is a relative path: give an absolute one, or chdir");
            Err(Failure::bad_option("argv", why))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_program_is_meant() {
        let path = |path: &str| Program::Path(path.into());
        assert_eq!(program("id", None).unwrap(), Program::Name("id".into()));
        assert_eq!(program("/bin/id", Some(Path::new("/srv"))).unwrap(), path("/bin/id"));
        assert_eq!(
            program("bin/migrate", Some(Path::new("/srv"))).unwrap(),
            path("/srv/bin/migrate")
        );
        assert!(program("bin/migrate", None).is_err() && program("", None).is_err());
    }
}
