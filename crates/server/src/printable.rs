//! What users wrote, made harmless for a terminal.

/// What users wrote has no power over a terminal, begins no line, and is read in the order in which it was
/// written.
pub(crate) fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || is_format_control(c) {
            printable.extend(c.escape_default());
        } else {
            printable.push(c);
        }
    }
    printable
}

/// Whether a character is not seen itself but may change how others are (Unicode: Cf, Zl, Zp).
fn is_format_control(c: char) -> bool {
    matches!(
        c,
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
            | '\u{fff9}'..='\u{fffb}'
            | '\u{110bd}'
            | '\u{110cd}'
            | '\u{13430}'..='\u{1343f}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e007f}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_how_text_is_shown_is_escaped_and_the_rest_is_as_it_was_written() {
        let forged = "a\nb\u{1b}[2J\u{202e}c";
        assert_eq!(printable(forged), "a\\nb\\u{1b}[2J\\u{202e}c");
        let plain = "Grüße, \u{645}\u{631}\u{62d}\u{628}\u{627}, e\u{301}, \"'\\ \u{1f426}";
        assert_eq!(printable(plain), plain);
    }
}
