//! Writes and reads a segment, which is a tar archive, entry by entry.
//!
//! Invariants: the content after a header has the length that the header says, even when the file is
//! changed meanwhile; and a reader reports the end only after the end of the archive and of its
//! compression, so that a truncated segment is never taken for a short one.

use crate::decode::Form;
use crate::encode::{Encoder, Written};
use crate::fault::{Damaged, Unreadable};
use crate::head::{BLOCK, Head, LONGEST_RECORDS, padded};
use anyhow::Result;
use std::fs::File;
use std::io::{self, BufRead, Read};
use std::os::unix::fs::FileExt;
use tar::EntryType;

/// A segment that is being written.
#[derive(Debug)]
pub struct Segment {
    number: u32,
    to: Encoder,
}

/// Whether a piece of a file could be read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadOutcome {
    Complete,
    /// The file was truncated meanwhile: the rest is zeros.
    Truncated,
}

impl Segment {
    /// Begins a segment in an empty file.
    pub fn new(file: File, form: Form, number: u32) -> Result<Segment> {
        Ok(Segment { number, to: Encoder::new(file, form)? })
    }

    pub fn number(&self) -> u32 {
        self.number
    }

    /// Writes the end of the archive, and syncs the file.
    pub fn finish(mut self) -> Result<Written> {
        self.to.put(&[0; 2 * BLOCK])?;
        self.to.finish()
    }

    pub(crate) fn head(&mut self, head: &Head) -> Result<()> {
        self.to.put(&head.bytes())
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.to.put(bytes)
    }

    /// Appends a piece of a file, read right into the block that is compressed next. `read` gets the
    /// number of bytes after each step.
    pub(crate) fn piece(
        &mut self,
        file: &File,
        from: u64,
        length: u64,
        read: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<ReadOutcome> {
        let mut done = 0;
        let mut outcome = ReadOutcome::Complete;
        while done < length {
            let room = self.to.room()?;
            let most = usize::try_from(length - done).unwrap_or(usize::MAX).min(room.len());
            let room = &mut room[..most];
            let got = match outcome {
                ReadOutcome::Truncated => 0,
                ReadOutcome::Complete => loop {
                    match file.read_at(room, from + done) {
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        other => break other.map_err(Unreadable)?,
                    }
                },
            };
            let step = if got == 0 {
                outcome = ReadOutcome::Truncated;
                room.fill(0);
                room.len()
            } else {
                got
            };
            self.to.advance(step);
            done += step as u64;
            read(step as u64)?;
        }
        Ok(outcome)
    }

    /// Pads content of this length to a whole block.
    pub(crate) fn pad(&mut self, length: u64) -> Result<()> {
        let rest = padded(length) - length;
        self.to.put(&[0; BLOCK][..rest as usize])
    }
}

/// Reads a decompressed segment. The content of an entry is read from [`Self::content`] before the next
/// header.
pub(crate) struct Reader<R> {
    number: u32,
    from: R,
    /// Bytes of the current entry not read yet: its content, and the padding of its last block.
    left: u64,
    padding: u64,
    ended: bool,
}

impl<R: Read> Reader<R> {
    pub(crate) fn new(number: u32, from: R) -> Reader<R> {
        Reader { number, from, left: 0, padding: 0, ended: false }
    }

    /// Skips the rest of the current entry, and reads the next header; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Head>> {
        let mut records = Vec::new();
        loop {
            self.skip()?;
            if self.ended {
                return Ok(None);
            }
            let Some(block) = self.block()? else {
                return match records.is_empty() {
                    true => Ok(None),
                    false => Err(self.damaged("it ends after the PAX records of an entry")),
                };
            };
            let head = Head::parse(&block, &records);
            let head = head.map_err(|what| self.damaged(&format!("it holds {what}")))?;
            (self.left, self.padding) = (head.size, padded(head.size) - head.size);
            if head.kind != EntryType::XHeader {
                return Ok(Some(head));
            }
            if !records.is_empty() || head.size == 0 || head.size > LONGEST_RECORDS {
                return Err(self.damaged("it holds PAX records of an invalid length"));
            }
            let size = head.size as usize;
            self.content()
                .take(head.size)
                .read_to_end(&mut records)
                .map_err(|error| self.read_error(&error))?;
            if records.len() != size {
                return Err(self.damaged("its last part is missing"));
            }
        }
    }

    /// The content of the current entry.
    pub(crate) fn content(&mut self) -> Content<'_, R> {
        Content { reader: self }
    }

    /// Reads to the end, since only there the compression shows whether all data was sound.
    pub(crate) fn finish(mut self) -> Result<()> {
        while self.next()?.is_some() {}
        Ok(())
    }

    /// Reads a block; `None` at the end, which is two blocks of zeros and only zeros after them.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        self.exact(&mut block)?;
        if block.iter().any(|byte| *byte != 0) {
            return Ok(Some(block));
        }
        self.exact(&mut block)?;
        // Other programs pad to a record of twenty blocks.
        let mut after = [0; BLOCK];
        while block.iter().all(|byte| *byte == 0) {
            let read = self.from.read(&mut after).map_err(|error| self.read_error(&error))?;
            if read == 0 {
                self.ended = true;
                return Ok(None);
            }
            block[..read].copy_from_slice(&after[..read]);
        }
        Err(self.damaged("it has more data after its end"))
    }

    fn skip(&mut self) -> Result<()> {
        let rest = self.left + self.padding;
        (self.left, self.padding) = (0, 0);
        let skipped = io::copy(&mut (&mut self.from).take(rest), &mut io::sink());
        match skipped.map_err(|error| self.read_error(&error))? {
            all if all == rest => Ok(()),
            _ => Err(self.damaged("its last part is missing")),
        }
    }

    fn exact(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.from.read_exact(bytes).map_err(|error| self.read_error(&error))
    }

    pub(crate) fn read_error(&self, error: &io::Error) -> anyhow::Error {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => self.damaged("its last part is missing"),
            _ => self.damaged(&error.to_string()),
        }
    }

    pub(crate) fn damaged(&self, why: &str) -> anyhow::Error {
        Damaged(format!("segment {} is damaged: {why}", self.number)).into()
    }
}

pub(crate) struct Content<'a, R> {
    reader: &'a mut Reader<R>,
}

impl<R: Read> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.reader.left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.reader.from.read(&mut buffer[..most])?;
        if read == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.reader.left -= read as u64;
        Ok(read)
    }
}

impl<R: BufRead> BufRead for Content<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let most = usize::try_from(self.reader.left).unwrap_or(usize::MAX);
        let piece = self.reader.from.fill_buf()?;
        match piece.len().min(most) {
            0 if most > 0 => Err(io::ErrorKind::UnexpectedEof.into()),
            length => Ok(&piece[..length]),
        }
    }

    fn consume(&mut self, bytes: usize) {
        self.reader.left -= bytes as u64;
        self.reader.from.consume(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, Write};

    fn head(name: &str, size: u64) -> Head {
        Head {
            kind: EntryType::Regular,
            name: name.into(),
            mode: 0o644,
            uid: 0,
            gid: 0,
            size,
            modified: (1, 1),
            target: Vec::new(),
            device: (0, 0),
            attributes: Vec::new(),
            sparse: None,
        }
    }

    fn raw() -> Vec<u8> {
        let mut file = tempfile::tempfile().unwrap();
        let mut segment = Segment::new(file.try_clone().unwrap(), Form::Tar, 7).unwrap();
        let mut content = tempfile::tempfile().unwrap();
        content.write_all(b"content").unwrap();
        for (name, size) in [("a", 7), ("b", 9), ("c", 0)] {
            segment.head(&head(name, size)).unwrap();
            let outcome = segment.piece(&content, 0, size, &mut |_| Ok(())).unwrap();
            assert_eq!(outcome == ReadOutcome::Truncated, name == "b");
            segment.pad(size).unwrap();
        }
        let written = segment.finish().unwrap();
        let mut bytes = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut bytes).unwrap();
        assert_eq!((written.bytes, written.raw), (bytes.len() as u64, bytes.len() as u64));
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Vec<(String, String)>> {
        let mut reader = Reader::new(7, bytes);
        let mut all = Vec::new();
        while let Some(head) = reader.next()? {
            let mut text = String::new();
            if head.name != b"c" {
                reader.content().take(head.size).read_to_string(&mut text)?;
            }
            all.push((String::from_utf8(head.name)?, text));
        }
        reader.finish()?;
        Ok(all)
    }

    #[test]
    fn entries_come_back_padded_where_they_were_cut() {
        let pair = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        let expected = [pair("a", "content"), pair("b", "content\0\0"), pair("c", "")];
        assert_eq!(read(&raw()).unwrap(), expected);
    }

    #[test]
    fn a_cut_is_no_end() {
        let raw = raw();
        for length in (0..raw.len()).step_by(BLOCK / 2) {
            assert!(read(&raw[..length]).is_err(), "{length} of {}", raw.len());
        }
        assert!(read(&[&raw[..], &[0; 5000]].concat()).is_ok());
        assert!(read(&[&raw[..], &[0; 5000], &[1]].concat()).is_err());
    }
}
