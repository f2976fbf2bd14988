//! Lines of the configuration that can be put where they are said to go, as they are.

use std::fmt::Write as _;

use postern_config::paste::{Block, Place, Places};

/// What is to be done, the lines for it with the file that they go to, and what makes them count.
pub(super) fn added(what: &str, places: &Places, block: Block, keys: &[(&str, String)]) -> String {
    let place = match places.of(block) {
        Place::EndOf(file) => format!("at the end of {}:", file.display()),
        Place::NewFile(file) => format!("in a new file, {}:", file.display()),
        Place::Change(file) => {
            format!(
                "where {} has this key ({}, or a file in conf.d), change it:",
                block.header(),
                file.display()
            )
        }
    };
    let mut text = format!("{what}: {place}\n{}\n", block.header());
    for (key, value) in keys {
        let _ = writeln!(text, "{key} = {value}");
    }
    text + "then posternctl reload"
}

/// A text as TOML writes it.
pub(super) fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                // It cannot fail: it goes to a text.
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// A list of one text.
pub(super) fn list_of(text: &str) -> String {
    list(&[text.to_owned()])
}

/// A list of texts.
pub(super) fn list(texts: &[String]) -> String {
    let quoted: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
    format!("[{}]", quoted.join(", "))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn any_text_can_be_read_back() {
        for text in ["a", "\"x\\y\"@adatum.test", "a\u{7}b\n", "ä"] {
            let read: toml::Table = format!("key = {}", quoted(text)).parse().unwrap();
            assert_eq!(read["key"].as_str(), Some(text));
        }
    }
}
