//! Quotes text from another side in a message: its beginning, in one line.

/// Escapes control characters and characters that are invisible or change the direction of the line,
/// and ends with `...` after `most` characters.
pub fn clipped(text: &str, most: usize) -> String {
    let mut line = String::new();
    let mut remaining = most;
    for character in text.chars() {
        let escaped: String = if character.is_control() || !is_plain(character) {
            character.escape_default().collect()
        } else {
            character.into()
        };
        let length = escaped.chars().count();
        if length > remaining {
            return line + "...";
        }
        remaining -= length;
        line += &escaped;
    }
    line
}

fn is_plain(character: char) -> bool {
    !matches!(
        character,
        '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
    )
}
