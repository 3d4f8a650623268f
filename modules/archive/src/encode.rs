//! Compresses, hashes and writes a file while its caller still reads: blocks go to worker threads, and
//! are written in their order.
//!
//! Each block becomes a zstd frame or a gzip member with its own checksum; concatenated they are a
//! standard file that every zstd or gzip reads. So two processors are used without the threads of the C
//! library, and for gzip just as for zstd.
//! Invariants: [`Written`] is returned only when the file is on the disk; memory does not grow with it.

use crate::decode::Form;
use anyhow::{Context, Result, anyhow};
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

/// More would slow down the services of the machine.
const WORKERS: usize = 2;
const BLOCK: usize = 2 << 20;
/// Blocks that wait or are being compressed.
const UNDER_WAY: usize = 4;
/// After so many bytes a sync is started, so that the last one has little to wait for.
const SYNC_EVERY: u64 = 32 << 20;
/// Nearly as fast as level 1, and nearly as small as level 3.
const ZSTD_LEVEL: i32 = 2;
const GZIP_LEVEL: u32 = 4;

/// The file as it was written and synced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Size of the file.
    pub bytes: u64,
    /// Size before compression.
    pub raw: u64,
    /// Checksum of the file, in hex.
    pub sha256: String,
}

#[derive(Debug)]
pub struct Encoder {
    block: Vec<u8>,
    filled: usize,
    raw: u64,
    queues: Option<Queues>,
    spare: Receiver<Vec<u8>>,
    workers: Vec<JoinHandle<()>>,
    writer: Option<JoinHandle<io::Result<Written>>>,
}

#[derive(Debug)]
struct Queues {
    jobs: SyncSender<Job>,
    /// Results for the writer, in the order of the file.
    order: SyncSender<Receiver<io::Result<Vec<u8>>>>,
}

#[derive(Debug)]
struct Job {
    block: Vec<u8>,
    length: usize,
    done: SyncSender<io::Result<Vec<u8>>>,
}

impl Encoder {
    /// Writes into an empty file.
    pub fn new(file: File, form: Form) -> Result<Encoder> {
        let workers = thread::available_parallelism().map_or(1, |count| count.get().min(WORKERS));
        Encoder::with(file, form, workers, BLOCK)
    }

    /// Uses one worker and small blocks: for little data, or data that comes slowly.
    pub fn small(file: File, form: Form) -> Result<Encoder> {
        Encoder::with(file, form, 1, BLOCK >> 3)
    }

    fn with(file: File, form: Form, workers: usize, block: usize) -> Result<Encoder> {
        let (jobs, waiting) = sync_channel::<Job>(UNDER_WAY);
        let (order, ordered) = sync_channel(UNDER_WAY);
        let (give_back, spare) = channel();
        let waiting = Arc::new(Mutex::new(waiting));
        let cannot = "cannot start a thread that compresses";
        let workers = (0..workers).map(|_| {
            let (waiting, give_back) = (waiting.clone(), give_back.clone());
            thread::Builder::new().spawn(move || work(&waiting, &give_back, form)).context(cannot)
        });
        let workers = workers.collect::<Result<_>>()?;
        let writer = thread::Builder::new().spawn(move || write(file, &ordered)).context(cannot)?;
        Ok(Encoder {
            block: vec![0; block],
            filled: 0,
            raw: 0,
            queues: Some(Queues { jobs, order }),
            spare,
            workers,
            writer: Some(writer),
        })
    }

    /// Space for the next bytes, never empty; [`Self::advance`] says how many were put there.
    pub fn room(&mut self) -> Result<&mut [u8]> {
        if self.filled == self.block.len() {
            self.send()?;
        }
        Ok(&mut self.block[self.filled..])
    }

    pub fn advance(&mut self, bytes: usize) {
        self.filled = (self.filled + bytes).min(self.block.len());
    }

    pub fn put(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let room = self.room()?;
            let length = room.len().min(bytes.len());
            room[..length].copy_from_slice(&bytes[..length]);
            self.advance(length);
            bytes = &bytes[length..];
        }
        Ok(())
    }

    /// Compresses the rest, and returns when all of it is on the disk.
    pub fn finish(mut self) -> Result<Written> {
        // Empty input makes a frame too: an empty file would be no archive.
        self.send()?;
        self.end()
    }

    fn send(&mut self) -> Result<()> {
        let size = self.block.len();
        let next = self.spare.try_recv().unwrap_or_else(|_| vec![0; size]);
        let block = std::mem::replace(&mut self.block, next);
        let length = std::mem::take(&mut self.filled);
        self.raw += length as u64;
        let (done, result) = sync_channel(1);
        let sent = self.queues.as_ref().is_some_and(|queues| {
            queues.order.send(result).is_ok()
                && queues.jobs.send(Job { block, length, done }).is_ok()
        });
        match sent {
            true => Ok(()),
            // The thread that has ended knows why.
            false => Err(self.end().err().unwrap_or_else(panicked)),
        }
    }

    fn end(&mut self) -> Result<Written> {
        drop(self.queues.take());
        let ended = self.workers.drain(..).all(|worker| worker.join().is_ok());
        let writer = self.writer.take().ok_or_else(panicked)?;
        let written = writer.join().map_err(|_| panicked())?.context("cannot write")?;
        if ended { Ok(Written { raw: self.raw, ..written }) } else { Err(panicked()) }
    }
}

impl Write for Encoder {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.put(bytes).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        // Abandoned: the threads must end, and their errors no longer matter.
        let _ = self.end();
    }
}

fn panicked() -> anyhow::Error {
    anyhow!("a worker thread panicked")
}

fn work(waiting: &Mutex<Receiver<Job>>, give_back: &Sender<Vec<u8>>, form: Form) {
    let mut packer = Packer::new(form);
    loop {
        // Held while waiting for a job: the other worker waits for the lock instead.
        let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { block, length, done }) = next else { return };
        let packed = match &mut packer {
            Ok(packer) => packer.pack(&block[..length]),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        // Either receiver may be gone.
        let _ = done.send(packed);
        let _ = give_back.send(block);
    }
}

enum Packer {
    Zstd(Box<zstd::bulk::Compressor<'static>>),
    Gzip,
    None,
}

impl Packer {
    fn new(form: Form) -> io::Result<Packer> {
        Ok(match form {
            Form::Zstd => {
                let mut compressor = zstd::bulk::Compressor::new(ZSTD_LEVEL)?;
                compressor.include_checksum(true)?;
                Packer::Zstd(Box::new(compressor))
            }
            Form::Gzip => Packer::Gzip,
            Form::Tar => Packer::None,
        })
    }

    fn pack(&mut self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Packer::Zstd(compressor) => compressor.compress(bytes),
            Packer::Gzip => {
                let level = flate2::Compression::new(GZIP_LEVEL);
                let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 2), level);
                encoder.write_all(bytes)?;
                encoder.finish()
            }
            Packer::None => Ok(bytes.to_vec()),
        }
    }
}

fn write(mut file: File, ordered: &Receiver<Receiver<io::Result<Vec<u8>>>>) -> io::Result<Written> {
    let syncing = file.try_clone()?;
    let (wake, woken) = sync_channel::<()>(1);
    let syncer = thread::Builder::new()
        .spawn(move || woken.iter().try_for_each(|()| syncing.sync_data()))?;
    let mut hash = Sha256::new();
    let mut bytes = 0;
    let mut asked = 0;
    for packed in ordered {
        let packed = packed.recv().map_err(|_| io::Error::other("a worker thread panicked"))??;
        hash.update(&packed);
        file.write_all(&packed)?;
        bytes += packed.len() as u64;
        if bytes - asked >= SYNC_EVERY {
            asked = bytes;
            // Full: a sync is running, and the next request will cover this.
            let _ = wake.try_send(());
        }
    }
    drop(wake);
    syncer.join().map_err(|_| io::Error::other("a worker thread panicked"))??;
    file.sync_all()?;
    Ok(Written { bytes, raw: 0, sha256: host::hex(&hash.finalize()) })
}
