//! Decides when a chain of segments is too long: too much of it is no longer needed, or it has too many
//! segments.

use std::collections::BTreeMap;

/// What an index still refers to in a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    pub entries: u64,
    pub bytes: u64,
}

const MAX_SEGMENTS: usize = 8;
const SUPERSEDED_PERCENT: u64 = 30;

/// Whether the next capture should copy everything again, into a chain of its own. `stored` has the
/// bytes of content that each segment holds ([`crate::Captured::copied`] of its capture).
pub fn should_start_new_chain(stored: &BTreeMap<u32, u64>, used: &BTreeMap<u32, Used>) -> bool {
    let live: u64 = used.values().map(|used| used.bytes).sum();
    let kept = stored.iter().filter(|(segment, _)| used.contains_key(segment));
    let superseded = kept.map(|(_, bytes)| bytes).sum::<u64>().saturating_sub(live);
    used.len() > MAX_SEGMENTS
        || superseded.saturating_mul(100) > live.saturating_mul(SUPERSEDED_PERCENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_ends_with_too_much_or_too_many() {
        let used = |bytes: &[u64]| -> BTreeMap<u32, Used> {
            (0..).zip(bytes.iter().map(|bytes| Used { entries: 1, bytes: *bytes })).collect()
        };
        let stored =
            |bytes: &[u64]| -> BTreeMap<u32, u64> { (0..).zip(bytes.iter().copied()).collect() };
        assert!(!should_start_new_chain(&stored(&[100]), &used(&[100])));
        assert!(!should_start_new_chain(&stored(&[110, 20]), &used(&[80, 20])));
        assert!(should_start_new_chain(&stored(&[120, 20]), &used(&[80, 20])));
        // A segment that nothing refers to is not kept in the chain, and does not count.
        assert!(!should_start_new_chain(&stored(&[10, 10, 1000]), &used(&[10, 10])));
        assert!(!should_start_new_chain(&stored(&[1; 8]), &used(&[1; 8])));
        assert!(should_start_new_chain(&stored(&[1; 9]), &used(&[1; 9])));
    }
}
