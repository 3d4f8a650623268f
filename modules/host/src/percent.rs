//! Percent-encoding of text in URLs.

/// Encodes every byte but the unreserved ones of RFC 3986 and those in `also`.
pub fn percent_encode(text: &str, also: &[u8]) -> String {
    let is_plain =
        |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || also.contains(&byte);
    let encode = |byte: u8| match is_plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unreserved_and_allowed_bytes_stay() {
        assert_eq!(percent_encode("a/../b?c=1 \u{e4}", b""), "a%2F..%2Fb%3Fc%3D1%20%C3%A4");
        assert_eq!(percent_encode("shop/web:1-2_3~4", b"/:"), "shop/web:1-2_3~4");
    }
}
