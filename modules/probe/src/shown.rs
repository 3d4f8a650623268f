//! How a text that somebody else wrote is repeated in a sentence: its beginning, in one line.

/// No control characters, and nothing that turns the direction of the line or cannot be seen; `...`
/// where more than `most` characters would be shown.
pub fn clipped(text: &str, most: usize) -> String {
    let mut line = String::new();
    let mut left = most;
    for character in text.chars() {
        let escaped: String = if character.is_control() || !is_plain(character) {
            character.escape_default().collect()
        } else {
            character.into()
        };
        let length = escaped.chars().count();
        if length > left {
            return line + "...";
        }
        left -= length;
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
