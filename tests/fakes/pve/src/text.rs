//! Text as Perl and Proxmox handle it: what a description becomes on its way into the file and
//! back.

/// The lines that the file keeps: empty ones at the end are lost.
pub fn lines(text: &str) -> impl Iterator<Item = &str> {
    let kept = text.trim_end_matches('\n');
    kept.split('\n').take(if kept.is_empty() { 0 } else { usize::MAX })
}

/// What is read back from the file: every line ends, the last one too.
pub fn read_back(text: &str) -> String {
    lines(text).flat_map(|line| [line, "\n"]).collect()
}

/// Percent-encoded: control characters, everything beyond ASCII, `:` and `%`.
pub fn encode(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if matches!(byte, b' '..=b'~') && byte != b':' && byte != b'%' {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// An argument as Perl understands it: in the locale's character set. In the C locale every byte
/// beyond ASCII is lost, whatever it was.
pub fn argument(text: &str) -> String {
    if utf8_locale() {
        return text.to_owned();
    }
    let replaced =
        text.bytes().map(|byte| if byte.is_ascii() { char::from(byte) } else { '\u{fffd}' });
    replaced.collect()
}

fn utf8_locale() -> bool {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let locale = set("LC_ALL").or_else(|| set("LC_CTYPE")).or_else(|| set("LANG"));
    locale.is_some_and(|locale| {
        let locale = locale.to_ascii_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    })
}
