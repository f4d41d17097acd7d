//! Text that a guest wrote, made safe for a terminal where it enters this program.

use std::fmt;

/// Longest text of a guest that is shown, in bytes.
const BYTES_MAX: usize = 1000;

/// Text of a guest on one line, without characters that a terminal or a reader's eye takes for something else.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct GuestText(String);

impl GuestText {
    /// Cleans and cuts a text, which need not be UTF-8.
    pub(crate) fn new(bytes: &[u8]) -> Self {
        Self(capsid_image::printable(bytes, BYTES_MAX))
    }
}

impl fmt::Display for GuestText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<GuestText> for String {
    fn from(text: GuestText) -> Self {
        text.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_of_a_guest_moves_the_cursor_or_hides_anything() {
        let text = GuestText::new(b"\x1b[2J gone\r\n\xe2\x80\xae right to left \xff");
        assert_eq!(text.to_string(), "\\u{1b}[2J gone\\r\\n\\u{202e} right to left \\xff");
    }

    #[test]
    fn a_long_text_is_cut() {
        let text = String::from(GuestText::new(&[b'x'; 1 << 20]));
        assert_eq!(text.len(), BYTES_MAX + 1 + "...".len());
    }
}
