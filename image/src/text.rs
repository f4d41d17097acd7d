//! Foreign text made fit for a terminal.

/// `bytes` as text of at most `bytes_max` bytes in which nothing controls a terminal: control characters, format
/// characters that reorder text, and bytes that are not UTF-8 become escapes.
pub fn printable(bytes: &[u8], bytes_max: usize) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            let hides =
                matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
            if c.is_control() || hides {
                text.extend(c.escape_default());
            } else {
                text.push(c);
            }
            if text.len() > bytes_max {
                text.push_str("...");
                return text;
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn nothing_reaches_the_terminal_raw() {
        assert_eq!(printable(b"a\x1b[31mb\n\xff", 100), "a\\u{1b}[31mb\\n\\xff");
        assert_eq!(printable("ok \u{202e}x".as_bytes(), 100), "ok \\u{202e}x");
        assert_eq!(printable(&[b'a'; 20], 4), "aaaaa...");
    }
}
