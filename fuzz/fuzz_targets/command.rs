//! Command lines: whatever comes, there is a command or an error with a reply that SMTP knows.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postern_smtp::command::Command;

fuzz_target!(|line: &[u8]| {
    match Command::parse(line) {
        Ok(Command::Mail(mail)) => {
            let utf8 = if mail.parameters.smtputf8 { " SMTPUTF8" } else { "" };
            let written = format!("MAIL FROM:<{}>{utf8}", mail.path);
            let Ok(Command::Mail(again)) = Command::parse(written.as_bytes()) else {
                panic!("what was read cannot be read again: {written}")
            };
            assert_eq!(again.path, mail.path);
        }
        Ok(_) => {}
        Err(error) => {
            assert!((500..=599).contains(&error.code()), "{error:?}");
            assert!(!error.to_string().chars().any(|c| c == '\r' || c == '\n'), "{error}");
        }
    }
});
