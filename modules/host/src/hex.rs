//! Bytes as hexadecimal text.

/// Formats bytes, such as a digest, with two lower-case digits each.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
