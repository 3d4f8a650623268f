//! The index file: a first line with the version, one line for each entry in the order of the sorted
//! walk, and a last line with their number.
//!
//! Invariant: a reader that has reached the end has seen every line that was written, in order; it
//! reports an error for a file that was truncated, changed or reordered.

use crate::decode::{self, Form};
use crate::encode::{Encoder, Written};
use crate::fault::Damaged;
use crate::line::Line;
use anyhow::{Context, Result, ensure};
use host::walk::order;
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;

const HEAD: &str = "reversible.deploy index 1";

#[derive(Debug)]
pub struct IndexWriter {
    to: Encoder,
    text: String,
    last: Option<PathBuf>,
    count: u64,
}

impl IndexWriter {
    /// Begins an index in an empty file.
    pub fn new(file: File, form: Form) -> Result<IndexWriter> {
        let mut to = Encoder::small(file, form)?;
        to.put(format!("{HEAD}\n").as_bytes())?;
        Ok(IndexWriter { to, text: String::new(), last: None, count: 0 })
    }

    pub fn write(&mut self, line: &Line) -> Result<()> {
        let follows = self.last.as_ref().is_none_or(|last| order(last, &line.path).is_lt());
        ensure!(follows, "{} is twice in the index, or out of order", line.path.display());
        self.last = Some(line.path.clone());
        self.count += 1;
        self.text.clear();
        line.write(&mut self.text);
        self.to.put(self.text.as_bytes()).context("cannot write the index")
    }

    /// Writes the last line, and syncs the file.
    pub fn finish(mut self) -> Result<Written> {
        let end = format!("end {}\n", self.count);
        self.to.put(end.as_bytes()).context("cannot write the index")?;
        self.to.finish().context("cannot write the index")
    }
}

pub struct IndexReader {
    from: BufReader<Box<dyn Read>>,
    text: Vec<u8>,
    last: Option<PathBuf>,
    count: u64,
    ended: bool,
}

impl fmt::Debug for IndexReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IndexReader").field("count", &self.count).finish_non_exhaustive()
    }
}

impl IndexReader {
    /// Opens an index, and checks its version.
    pub fn new(file: File) -> Result<IndexReader> {
        let from = decode::decoder(BufReader::new(file)).map_err(|why| damaged(&why))?;
        let mut reader = IndexReader {
            from: BufReader::with_capacity(64 << 10, from),
            text: Vec::new(),
            last: None,
            count: 0,
            ended: false,
        };
        match reader.text()? {
            Some(head) if head == HEAD => Ok(reader),
            _ => Err(damaged("it is no index, or has a newer version").into()),
        }
    }

    /// Reads the next line; `None` only at the end, when all lines were read.
    pub fn read(&mut self) -> Result<Option<Line>> {
        if self.ended {
            return Ok(None);
        }
        let count = self.count;
        let Some(text) = self.text()? else {
            return Err(damaged("its last part is missing").into());
        };
        if let Some(number) = text.strip_prefix("end ") {
            if number.parse() != Ok(count) {
                return Err(damaged("some of its lines are missing").into());
            }
            if self.text()?.is_some() {
                return Err(damaged("it has more data after its end").into());
            }
            self.ended = true;
            return Ok(None);
        }
        let odd = || damaged(&format!("its line {} cannot be read", count + 2));
        let line = Line::parse(text).ok_or_else(odd)?;
        if self.last.as_ref().is_some_and(|last| order(last, &line.path).is_ge()) {
            return Err(damaged(&format!("its line {} is out of order", count + 2)).into());
        }
        self.last = Some(line.path.clone());
        self.count += 1;
        Ok(Some(line))
    }

    fn text(&mut self) -> Result<Option<&str>> {
        self.text.clear();
        // A limit, since a damaged file may have no line end: ten times the kernel's longest path, escaped.
        let read = (&mut self.from).take(1 << 20).read_until(b'\n', &mut self.text);
        if read.map_err(|error| damaged(&decode::sentence(&error)))? == 0 {
            return Ok(None);
        }
        let text = self.text.strip_suffix(b"\n").and_then(|text| std::str::from_utf8(text).ok());
        text.map(Some).ok_or_else(|| damaged("it ends in the middle of a line").into())
    }
}

fn damaged(why: &str) -> Damaged {
    Damaged(format!("the index is damaged: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::line::EntryKind;
    use std::io::{Seek, Write};

    fn line(path: &str) -> Line {
        let text = format!("f 644 0 0 5 1.000000000 2.000000000 1 2 1 5 0 1 {path}");
        Line::parse(&text).unwrap()
    }

    fn all(mut file: File) -> Result<Vec<Line>> {
        file.rewind()?;
        let mut reader = IndexReader::new(file)?;
        std::iter::from_fn(|| reader.read().transpose()).collect()
    }

    fn of(text: &str) -> Result<Vec<Line>> {
        let mut file = tempfile::tempfile()?;
        file.write_all(&zstd::bulk::compress(text.as_bytes(), 1)?)?;
        all(file)
    }

    #[test]
    fn lines_are_read_as_they_were_written() {
        for form in [Form::Zstd, Form::Gzip] {
            let file = tempfile::tempfile().unwrap();
            let mut writer = IndexWriter::new(file.try_clone().unwrap(), form).unwrap();
            let root = Line { kind: EntryKind::Folder, ..line(".") };
            let lines = [root, line("a"), line("a/b"), line("a.b")];
            lines.iter().for_each(|line| writer.write(line).unwrap());
            assert!(writer.write(&line("a/c")).is_err());
            let written = writer.finish().unwrap();
            assert_eq!(written.bytes, file.metadata().unwrap().len());
            assert_eq!(all(file).unwrap(), lines);
        }
    }

    #[test]
    fn incomplete_indexes_are_refused() {
        let good = |path: &str| {
            let mut text = String::new();
            line(path).write(&mut text);
            text
        };
        let (a, b) = (good("a"), good("b"));
        let whole = format!("{HEAD}\n{a}{b}end 2\n");
        assert_eq!(of(&whole).unwrap().len(), 2);
        for odd in [
            String::new(),
            whole.replace("index 1", "index 2"),
            whole.replace("end 2", "end 3"),
            whole.replace("end 2\n", ""),
            whole.replace("end 2\n", "end 2"),
            format!("{whole}{b}"),
            format!("{HEAD}\n{b}{a}end 2\n"),
            format!("{HEAD}\n{a}{a}end 2\n"),
            whole.replace(" a\n", " ../a\n"),
        ] {
            let error = of(&odd).unwrap_err();
            assert!(error.is::<Damaged>(), "{odd}: {error:#}");
        }
    }
}
