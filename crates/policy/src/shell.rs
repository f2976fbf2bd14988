//! Commands that people are told to run: what somebody else wrote is one word in them, whatever stands in it.

use std::borrow::Cow;

/// The text as one word of a POSIX shell: in single quotes, unless every shell reads it as it stands.
///
/// Local parts may hold nearly every sign that means something to a shell (RFC 5321 §4.1.2: `` ` ``, `|`, `$`, and anything
/// within quotes), and the names of logins too where other systems know them.
pub fn word(text: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "@._+-=:/,".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return Cow::Borrowed(text);
    }
    // A quote ends the quoted part, stands escaped, and begins the next one.
    Cow::Owned(format!("'{}'", text.replace('\'', r"'\''")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::process::Command;

    use super::*;

    #[test]
    fn a_shell_reads_the_same_word() {
        let texts = [
            "alice@proseware.test",
            "x|id>/tmp/x|y@adatum.test",
            "`reboot`@adatum.test",
            "\"$(reboot)\"@adatum.test",
            "o'brien@adatum.test",
            "two words",
            "ä@adatum.test",
            "",
            "*",
            "~",
            "a\\b",
            "'; rm -rf / #",
        ];
        for text in texts {
            let script = format!("printf %s {}", word(text));
            let output = Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), text, "{script}");
        }
        assert_eq!(word("alice@proseware.test"), "alice@proseware.test");
    }
}
