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
