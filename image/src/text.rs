//! Foreign text made safe for a terminal.

/// Converts `bytes` to one line of text of at most `bytes_max` bytes, in which nothing [controls a
/// terminal](controls_terminal): such characters, and bytes that are not UTF-8, become escapes.
pub fn printable(bytes: &[u8], bytes_max: usize) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if controls_terminal(c) {
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
        if text.len() > bytes_max {
            text.push_str("...");
            return text;
        }
    }
    text
}

/// Joins an error and its causes in one line.
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

/// Whether a terminal, or a reader's eye, takes `c` for something else than a character of its own: control characters
/// (C0, delete, C1), line and paragraph separators, and format characters (Unicode's category Cf and the code points
/// that it reserves for more of them), which reorder, join or hide the characters around them.
pub fn controls_terminal(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}'
            | '\u{600}'..='\u{605}'
            | '\u{61c}'
            | '\u{6dd}'
            | '\u{70f}'
            | '\u{890}'..='\u{891}'
            | '\u{8e2}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{110bd}'
            | '\u{110cd}'
            | '\u{13430}'..='\u{1343f}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn nothing_reaches_the_terminal_raw() {
        assert_eq!(printable(b"a\x1b[31mb\n\xff", 100), "a\\u{1b}[31mb\\n\\xff");
        assert_eq!(printable("ok \u{202e}x".as_bytes(), 100), "ok \\u{202e}x");
        assert_eq!(printable(&[b'a'; 20], 4), "aaaaa...");
        assert_eq!(printable(&[0xff; 20], 4), "\\xff\\xff...");
    }

    /// Tests one of each kind that has ever deceived a reader, and text that needs no escape.
    #[test]
    fn every_kind_of_control_and_format_character_is_escaped() {
        let controls = [
            '\0',
            '\t',
            '\r',
            '\x7f',
            '\u{80}',
            '\u{85}',
            '\u{9b}',
            '\u{9d}',
            '\u{9f}',
            '\u{ad}',
            '\u{61c}',
            '\u{180e}',
            '\u{200b}',
            '\u{200d}',
            '\u{200e}',
            '\u{200f}',
            '\u{2028}',
            '\u{2029}',
            '\u{202a}',
            '\u{202e}',
            '\u{2060}',
            '\u{2066}',
            '\u{2069}',
            '\u{206f}',
            '\u{feff}',
            '\u{fff9}',
            '\u{1d173}',
            '\u{e0001}',
            '\u{e0041}',
            '\u{e0100}',
        ];
        for c in controls {
            let shown = printable(c.to_string().as_bytes(), 100);
            assert!(shown.starts_with('\\') && shown.is_ascii(), "{c:?}: {shown}");
        }
        let harmless = "Ångström 中文 עברית العربية 🙂 e\u{301}";
        assert_eq!(printable(harmless.as_bytes(), 100), harmless);
    }
}
