//! Restores one segment up to a number of progress reports, says so and stops there: a process for the tests to kill half way.
//!
//!     restore SEGMENT INDEX INTO STEPS
#![allow(clippy::print_stdout)]

use host::beneath::Dir;
use std::fs::File;

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [segment, index, into, steps] = words.as_slice() else {
        anyhow::bail!("expected a segment, its index, a folder and a number");
    };
    let mut left: u32 = steps.parse()?;
    archive::restore(
        File::open(index)?,
        vec![archive::Stored { number: 0, file: File::open(segment)?, sha256: None }],
        Dir::of(File::open(into)?.into()),
        &mut |_| {
            left = left.saturating_sub(1);
            if left == 0 {
                println!("half way");
                loop {
                    std::thread::park();
                }
            }
        },
    )?;
    Ok(())
}
