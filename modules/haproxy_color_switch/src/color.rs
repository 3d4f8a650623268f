//! The two colours, and names that contain one as a separate word, such as `shop-blue`.

use serde::{Deserialize, Serialize};
use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Color {
    Blue,
    Green,
}

impl Color {
    pub const BOTH: [Color; 2] = [Color::Blue, Color::Green];

    pub fn other(self) -> Color {
        match self {
            Color::Blue => Color::Green,
            Color::Green => Color::Blue,
        }
    }

    pub fn word(self) -> &'static str {
        match self {
            Color::Blue => "blue",
            Color::Green => "green",
        }
    }

    /// Parses exactly `blue` or `green`.
    pub fn parse(word: &str) -> Option<Color> {
        Color::BOTH.into_iter().find(|color| color.word() == word)
    }
}

impl fmt::Display for Color {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A name with a placeholder for the colour: `shop-{color}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    before: String,
    after: String,
}

impl Pattern {
    pub const PLACEHOLDER: &'static str = "{color}";

    /// Returns the pattern of the bare colour.
    pub fn plain() -> Pattern {
        Pattern { before: String::new(), after: String::new() }
    }

    /// Parses a text that contains `{color}` exactly once.
    pub fn parse(text: &str) -> Option<Pattern> {
        let (before, after) = text.split_once(Pattern::PLACEHOLDER)?;
        (!after.contains(Pattern::PLACEHOLDER)).then(|| Pattern::around(before, after))
    }

    pub fn around(before: &str, after: &str) -> Pattern {
        Pattern { before: before.to_owned(), after: after.to_owned() }
    }

    /// Makes a pattern of a name that contains one colour exactly once, with no letter next to it.
    pub fn of(name: &str) -> Option<(Pattern, Color)> {
        let mut found = None;
        for color in Color::BOTH {
            for (at, word) in name.match_indices(color.word()) {
                let (before, after) = (&name[..at], &name[at + word.len()..]);
                let letter = |c: char| c.is_alphabetic();
                if before.ends_with(letter) || after.starts_with(letter) {
                    continue;
                }
                if found.is_some() {
                    return None;
                }
                found = Some((Pattern::around(before, after), color));
            }
        }
        found
    }

    pub fn name(&self, color: Color) -> String {
        format!("{}{color}{}", self.before, self.after)
    }

    /// Adds text before and after the names.
    pub fn within(&self, before: &str, after: &str) -> Pattern {
        Pattern {
            before: format!("{before}{}", self.before),
            after: format!("{}{after}", self.after),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", self.before, Pattern::PLACEHOLDER, self.after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colour_must_be_a_separate_word() {
        let says = |name| Pattern::of(name).map(|(pattern, color)| (pattern.to_string(), color));
        assert_eq!(says("blue"), Some(("{color}".into(), Color::Blue)));
        assert_eq!(says("shop-green"), Some(("shop-{color}".into(), Color::Green)));
        assert_eq!(says("web_blue2"), Some(("web_{color}2".into(), Color::Blue)));
        assert_eq!(says("greenhouse"), None);
        assert_eq!(says("evergreen"), None);
        assert_eq!(says("blue-green"), None);
        assert_eq!(says("Blue"), None);
        assert_eq!(says("greenhouse-blue"), Some(("greenhouse-{color}".into(), Color::Blue)));
    }

    #[test]
    fn a_pattern_makes_names() {
        let pattern = Pattern::parse("{color}-1").expect("a pattern").within("shop-", ".x");
        assert_eq!(pattern.name(Color::Green), "shop-green-1.x");
        assert_eq!(Pattern::parse("shop"), None);
        assert_eq!(Pattern::parse("{color}{color}"), None);
    }
}
