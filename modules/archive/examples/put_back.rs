//! Puts one segment back slowly: a process for the tests to kill half way.
//!
//!     put_back SEGMENT INDEX INTO

use std::fs::File;
use std::time::Duration;

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [segment, index, into] = words.as_slice() else {
        anyhow::bail!("expected a segment, its index and a folder");
    };
    archive::put_back(
        File::open(index)?,
        vec![archive::Stored { number: 0, file: File::open(segment)?, sha256: None }],
        File::open(into)?.into(),
        &mut |_| std::thread::sleep(Duration::from_millis(1)),
    )?;
    Ok(())
}
