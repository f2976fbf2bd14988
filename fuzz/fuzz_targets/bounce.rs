//! The bounce explainer, which is given whatever somebody saved to a file. What it tells goes to a terminal, and its commands to a
//! shell.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postern_policy::bounce::{MAX_RECIPIENTS, explain};

fuzz_target!(|octets: &[u8]| {
    let bounce = explain(octets);
    assert!(bounce.recipients.len() <= MAX_RECIPIENTS);
    for told in &bounce.recipients {
        assert!(told.code.is_none_or(|code| (200..600).contains(&code)), "{:?}", told.code);
        if let Some(finding) = &told.finding {
            assert!(!finding.meaning.is_empty() && !finding.change.contains(char::is_control));
            for check in &finding.checks {
                let is_harmless = |c: char| c.is_ascii_graphic() || c == ' ';
                assert!(check.chars().all(is_harmless), "{check:?} is no command");
                assert!(
                    !check.contains(['`', '$', ';', '&', '|', '<', '>', '\\']),
                    "{check:?} is more than one"
                );
            }
        }
    }
});
