//! Keeps the beginning and the end of a stream that may never end.
//!
//! Invariant: at most `limit` bytes are returned, and at most one and a half times as many held in memory.

use super::Secrets;

pub(super) struct Capture {
    half: usize,
    head: Vec<u8>,
    tail: Vec<u8>,
    total: u64,
}

impl Capture {
    pub(super) fn new(limit: usize) -> Capture {
        Capture { half: (limit / 2).max(1), head: Vec::new(), tail: Vec::new(), total: 0 }
    }

    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let room = self.half - self.head.len();
        let (first, rest) = bytes.split_at(room.min(bytes.len()));
        self.head.extend_from_slice(first);
        bytes = &rest[rest.len().saturating_sub(self.half)..];
        if self.tail.len() + bytes.len() > 2 * self.half {
            let surplus = self.tail.len().saturating_sub(self.half - bytes.len());
            self.tail.drain(..surplus);
        }
        self.tail.extend_from_slice(bytes);
    }

    /// Returns what was kept, with a line in the middle that says how many bytes are missing, and that
    /// number.
    pub(super) fn finish(mut self, secrets: &Secrets) -> (Vec<u8>, u64) {
        let surplus = self.tail.len().saturating_sub(self.half);
        self.tail.drain(..surplus);
        let cut = self.total - (self.head.len() + self.tail.len()) as u64;
        if cut > 0 {
            // A secret that was cut in half would not be recognised any more: remove its rest.
            let partial = secrets.cut_at_end(&self.head);
            self.head.truncate(self.head.len() - partial);
            self.tail.drain(..secrets.cut_at_start(&self.tail));
            self.head.extend_from_slice(format!("\n[... {cut} bytes cut ...]\n").as_bytes());
        }
        self.head.append(&mut self.tail);
        (self.head, cut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_and_tail_for_every_chunk_size() {
        let all: Vec<u8> = (0..40).map(|n| b'a' + n % 26).collect();
        for chunk in 1..=40 {
            for limit in [1, 2, 10, 11, 39, 40, 80] {
                let mut capture = Capture::new(limit);
                all.chunks(chunk).for_each(|piece| capture.push(piece));
                assert!(capture.tail.len() <= limit.max(2) && capture.head.len() <= limit.max(1));
                let (kept, cut) = capture.finish(&Secrets::default());
                let half = (limit / 2).max(1);
                let expected_cut = 40_usize.saturating_sub(2 * half);
                assert_eq!(cut, expected_cut as u64);
                let expected = match cut {
                    0 => all.clone(),
                    n => [
                        &all[..half],
                        format!("\n[... {n} bytes cut ...]\n").as_bytes(),
                        &all[40 - half..],
                    ]
                    .concat(),
                };
                assert_eq!(kept, expected, "chunk {chunk} limit {limit}");
            }
        }
    }

    #[test]
    fn no_half_secret_at_the_cut() {
        let mut secrets = Secrets::default();
        secrets.add(b"hunter2");
        for limit in 2..40 {
            let mut capture = Capture::new(limit);
            capture.push(b"xxhunter2xxxxxxxxxxxxxxxxxxxxxxhunter2xx");
            let (kept, _) = capture.finish(&secrets);
            let text = String::from_utf8(secrets.censor(&kept)).unwrap();
            for part in ["hu", "r2", "unt", "nter"] {
                assert!(!text.contains(part), "{limit}: {text}");
            }
        }
    }
}
