//! Bytes as text.

/// Two lower-case digits for each byte: of a digest, say.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
