//! Lists of names in sentences.

use std::fmt::{Display, Write};

/// Joins items by a comma and a space.
pub fn joined<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    joined_or(items, "")
}

/// Joins items by a comma and a space, or returns `none` if there is no item.
pub fn joined_or<T: Display>(items: impl IntoIterator<Item = T>, none: &str) -> String {
    let mut items = items.into_iter();
    let Some(first) = items.next() else { return none.to_owned() };
    items.fold(first.to_string(), |mut text, item| {
        let _ = write!(text, ", {item}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_a_sentence() {
        assert_eq!(joined(["a", "", "b"]), "a, , b");
        assert_eq!((joined([1; 0]), joined_or(["a"], "none")), (String::new(), "a".to_owned()));
        assert_eq!(joined_or([""; 0], "none"), "none");
    }
}
