//! When a chain of segments has become too long: too much of it is no longer wanted, or it has too many
//! pieces to be handed on.

use std::collections::BTreeMap;

/// What an index still wants of a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    pub entries: u64,
    pub bytes: u64,
}

const MOST: usize = 8;
const SUPERSEDED_PERCENT: u64 = 30;

/// Whether the next capture should copy everything again, into a chain of its own. `stored` has the
/// bytes of content that each segment holds ([`crate::Captured::copied`] of its capture).
pub fn begin_anew(stored: &BTreeMap<u32, u64>, used: &BTreeMap<u32, Used>) -> bool {
    let live: u64 = used.values().map(|used| used.bytes).sum();
    let kept = stored.iter().filter(|(segment, _)| used.contains_key(segment));
    let superseded = kept.map(|(_, bytes)| bytes).sum::<u64>().saturating_sub(live);
    used.len() > MOST || superseded.saturating_mul(100) > live.saturating_mul(SUPERSEDED_PERCENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_much_or_too_many() {
        let used = |bytes: &[u64]| -> BTreeMap<u32, Used> {
            (0..).zip(bytes.iter().map(|bytes| Used { entries: 1, bytes: *bytes })).collect()
        };
        let stored =
            |bytes: &[u64]| -> BTreeMap<u32, u64> { (0..).zip(bytes.iter().copied()).collect() };
        assert!(!begin_anew(&stored(&[100]), &used(&[100])));
        assert!(!begin_anew(&stored(&[110, 20]), &used(&[80, 20])));
        assert!(begin_anew(&stored(&[120, 20]), &used(&[80, 20])));
        // What nothing is wanted of is not handed on, and costs nothing.
        assert!(!begin_anew(&stored(&[10, 10, 1000]), &used(&[10, 10])));
        assert!(!begin_anew(&stored(&[1; 8]), &used(&[1; 8])));
        assert!(begin_anew(&stored(&[1; 9]), &used(&[1; 9])));
    }
}
