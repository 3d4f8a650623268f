//! Hashes a file while it is read.
//!
//! Invariant: the checksum covers exactly the bytes that were returned, so that the file cannot be
//! exchanged between its check and its use.

use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read};

pub struct Hashed {
    file: File,
    hash: Sha256,
}

impl Hashed {
    pub fn new(file: File) -> Hashed {
        Hashed { file, hash: Sha256::new() }
    }

    /// Checksum of what was read so far, in hex.
    pub fn sum(self) -> String {
        host::hex(&self.hash.finalize())
    }
}

impl Read for Hashed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.hash.update(&buffer[..read]);
        Ok(read)
    }
}
