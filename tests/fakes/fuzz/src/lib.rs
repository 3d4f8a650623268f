//! Rounds of a test with data that nobody thought of: the same few in each ordinary run, many new ones with
//! REVERSIBLE_LONG. A round is repeated from its seed, which stands in the failure.

use std::env;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

/// `long` rounds when there is time, `short` ones else; REVERSIBLE_SEED=n is round n alone.
pub fn rounds(short: u64, long: u64, round: impl Fn(&mut Random)) {
    let given = env::var("REVERSIBLE_SEED").ok().and_then(|seed| seed.parse::<u64>().ok());
    let (first, count) =
        match (given, env::var_os("REVERSIBLE_LONG").is_some_and(|it| !it.is_empty())) {
            (Some(seed), _) => (seed, 1),
            (None, false) => (0, short),
            (None, true) => (now(), long),
        };
    for seed in first..first + count {
        let _failure = SaysSeed(seed);
        round(&mut Random::new(seed));
    }
}

/// So far apart that two long runs have no round in common.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs() << 24
}

struct SaysSeed(u64);

impl Drop for SaysSeed {
    #[allow(clippy::print_stderr)]
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("this was the round REVERSIBLE_SEED={}", self.0);
        }
    }
}

/// SplitMix64.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 on; 0 for 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.number() % end.max(1) as u64) as usize
    }

    pub fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }

    /// One of a list that is not empty.
    pub fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// Changed in one to four places: bytes that are others, missing, twice or elsewhere, and pieces put in.
    pub fn changed(&mut self, bytes: &[u8], pieces: &[&[u8]]) -> Vec<u8> {
        let mut changed = bytes.to_vec();
        for _ in 0..=self.below(4) {
            let from = self.below(changed.len() + 1);
            let length = match self.percent(70) {
                true => self.below(8),
                false => self.below(changed.len() + 1),
            };
            let to = changed.len().min(from + length);
            match self.below(6) {
                0 if from < changed.len() => changed[from] = self.number() as u8,
                1 if from < changed.len() => changed[from] ^= 1 << self.below(8),
                2 => drop(changed.drain(from..to)),
                3 => changed.truncate(from),
                4 => {
                    let piece = changed[from..to].to_vec();
                    let at = self.below(changed.len() + 1);
                    changed.splice(at..at, piece);
                }
                _ if !pieces.is_empty() => {
                    let piece = self.one(pieces).to_vec();
                    let to =
                        if self.percent(50) { from } else { changed.len().min(from + piece.len()) };
                    changed.splice(from..to, piece);
                }
                _ => {}
            }
        }
        changed
    }
}

/// A tar archive whose heads have the right sums again, so that what was changed in them is looked at.
pub fn with_right_sums(mut archive: Vec<u8>) -> Vec<u8> {
    for head in archive.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
        head[148..156].fill(b' ');
        let sum: u32 = head.iter().map(|byte| u32::from(*byte)).sum();
        head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    archive
}

/// What may stand in a tar archive, and has led others astray.
pub const OF_TAR: [&[u8]; 22] = [
    b"../",
    b"/",
    b"..",
    b"./",
    b"\0",
    b"../../outside/evil\0",
    b"link/evil\0",
    b"77777777777\0",
    b"\x80\0\0\0\0\0\0\0\0\0\x01\0",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    b"00000000000\0",
    b"0006755\0",
    b"-0000000001\0",
    b"18 path=../../ab\n",
    b"20 linkpath=/outside\n",
    b"30 size=9223372036854775807\n",
    b"22 GNU.sparse.major=1\n",
    b"30 GNU.sparse.realsize=999999\n",
    b"99999999999999999999 x=y\n",
    b"1\n18446744073709551615\n512\n",
    b"ustar\x0000",
    b"ustar  \0",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_and_another_one_something_else() {
        let of = |seed| Random::new(seed).changed(b"a text that is to be changed", &[b"piece"]);
        assert_eq!(of(1), of(1));
        let many: std::collections::HashSet<_> = (0..100).map(of).collect();
        assert!(many.len() > 80, "{}", many.len());
    }
}
