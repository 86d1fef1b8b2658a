//! Text for messages.

/// Returns the start of `text` in at most `max_bytes` bytes, with `…` behind it if the rest is missing.
#[must_use]
pub fn excerpt(text: &str, max_bytes: usize) -> String {
    if text.len() <= max_bytes {
        text.to_owned()
    } else {
        format!("{}…", &text[..text.floor_char_boundary(max_bytes)])
    }
}

#[cfg(test)]
mod tests {
    use super::excerpt;

    #[test]
    fn excerpt_ends_at_a_character_and_shows_the_cut() {
        assert_eq!(excerpt("short", 5), "short");
        assert_eq!(excerpt("longer", 5), "longe…");
        assert_eq!(excerpt("größer", 3), "gr…");
    }
}
