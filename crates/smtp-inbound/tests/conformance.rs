//! Is every reply that the server can give shown by a dialogue, and can each dialogue be found by what it is about?

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "support/dialogue.rs"]
mod dialogue;
#[path = "support/player.rs"]
mod player;
#[path = "support/replies.rs"]
mod replies;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use dialogue::{directory, fits};
use postern_smtp::EnhancedStatus;
use replies::Text;
use tokio::sync::OnceCell;

/// Replies of connections, not of sessions: the text as [`Text::pattern`] has it, and the test that shows it.
const SHOWN_BY_CONNECTIONS: [(&str, &str, &str); 17] = [
    (
        "252 2.0.0 Ok: messages for * are on their way",
        "crates/smtp-inbound/tests/extensions.rs",
        "what_became_of_a_run_of_the_queue_is_told",
    ),
    (
        "250 2.0.0 Ok: queuing for * started",
        "crates/smtp-inbound/tests/extensions.rs",
        "what_became_of_a_run_of_the_queue_is_told",
    ),
    (
        "458 4.3.2 cannot run the queue for * now, try again later",
        "crates/smtp-inbound/tests/extensions.rs",
        "what_became_of_a_run_of_the_queue_is_told",
    ),
    (
        "458 4.7.0 the queue for * is run once in * s: try again later",
        "crates/smtp-inbound/tests/extensions.rs",
        "what_became_of_a_run_of_the_queue_is_told",
    ),
    (
        "451 4.3.2 the queue is being loaded, try again later",
        "crates/smtp-inbound/tests/connections.rs",
        "a_server_that_stops_while_its_queue_is_loaded_defers_the_mail_that_waits",
    ),
    (
        "421 4.3.2 too many connections, try again later",
        "crates/smtp-inbound/tests/connections.rs",
        "the_limit_of_all_connections_holds_for_everybody_trusted_clients_have_twice_as_many",
    ),
    (
        "421 4.3.2 no memory for more connections, try again later",
        "tests/abuse.rs",
        "before_memory_runs_out_new_mail_and_new_sessions_are_deferred",
    ),
    (
        "452 4.3.1 no memory for new mail, try again later",
        "tests/abuse.rs",
        "before_memory_runs_out_new_mail_and_new_sessions_are_deferred",
    ),
    (
        "421 4.7.0 too many connections from your *",
        "tests/abuse.rs",
        "an_honest_client_gets_through_a_flood_from_one_network",
    ),
    (
        "*too many new connections from your *, try again in a minute*",
        "tests/abuse.rs",
        "new_connections_are_limited_by_the_minute_but_not_for_logins_and_trusted_networks",
    ),
    (
        "*too many errors from your * within an hour, try again later*",
        "tests/abuse.rs",
        "errors_are_limited_by_the_hour_over_all_sessions",
    ),
    (
        "*too many unknown recipients from your * within an hour, try again later*",
        "tests/abuse.rs",
        "whoever_tries_names_is_shut_out_for_an_hour_and_others_are_not",
    ),
    ("*network*", "tests/abuse.rs", "an_honest_client_gets_through_a_flood_from_one_network"),
    (
        "421 4.3.5 PROXY protocol header expected",
        "tests/abuse.rs",
        "a_proxy_without_the_header_is_refused_and_a_header_from_others_is_no_command",
    ),
    (
        "554 5.5.1 you talked before the greeting (RFC 5321 section 3.1)",
        "tests/abuse.rs",
        "whoever_talks_before_the_greeting_is_refused_where_that_is_wanted",
    ),
    (
        "421 4.4.2 timeout, closing connection",
        "crates/smtp-inbound/tests/connections.rs",
        "silence_is_answered_with_421",
    ),
    (
        "421 4.3.2 service is shutting down, try again later",
        "crates/smtp-inbound/tests/connections.rs",
        "stopping_ends_sessions_that_wait_and_lets_messages_finish",
    ),
];

/// Texts that no client hears, and why.
const NEVER_SAID: [(&str, &str); 5] = [
    ("503 5.5.1 bad sequence of commands: wait for the reply", "a connection gives no lines while it works"),
    (
        "503 5.5.1 bad sequence of commands: no message was asked for",
        "a connection does what it is asked for",
    ),
    ("503 5.5.1 bad sequence of commands: no password was asked for", "likewise"),
    ("503 5.5.1 bad sequence of commands: no token was asked for", "likewise"),
    ("503 5.5.1 bad sequence of commands: no queue was waited for", "likewise"),
];

/// How the names of dialogues begin whose replies are worded as the configuration says.
const OTHER_WORDS: &str = "own-replies-as-";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn every_reply_of_the_server_is_shown_by_a_dialogue() {
    let texts = replies::all(&repository());
    let heard = heard(true).await;
    let elsewhere: BTreeSet<&str> = SHOWN_BY_CONNECTIONS
        .map(|(text, ..)| text)
        .into_iter()
        .chain(NEVER_SAID.map(|(text, _)| text))
        .collect();
    let mut missing = String::new();
    for Text { place, pattern } in &texts {
        let is_heard = heard.iter().any(|reply| fits(pattern, reply));
        if !is_heard && !elsewhere.contains(pattern.as_str()) {
            let _ = writeln!(missing, "{place}: {pattern}");
        }
    }
    assert!(
        missing.is_empty(),
        "no dialogue in {} shows these (or, if they are of connections, name their test in {}):\n{missing}",
        directory().display(),
        file!()
    );
    for text in elsewhere {
        assert!(texts.iter().any(|known| known.pattern == text), "no reply is {text:?}: take it out here");
    }
}

#[test]
fn what_only_connections_say_is_shown_by_the_tests_that_are_named() {
    for (text, file, test) in SHOWN_BY_CONNECTIONS {
        let source = std::fs::read_to_string(repository().join(file)).unwrap();
        let begin = source.find(&format!("fn {test}(")).unwrap_or_else(|| panic!("no test {test} in {file}"));
        let body = source[begin..].split("\n}\n").next().unwrap();
        let pattern = format!("*{text}*");
        assert!(body.lines().any(|line| fits(&pattern, line)), "{test} in {file} does not show {text:?}");
    }
}

/// All replies to all dialogues whose wording is ours, or of those too that speak as other systems do.
async fn heard(in_all_words: bool) -> Vec<String> {
    static PLAYED: OnceCell<BTreeMap<String, Result<Vec<String>, String>>> = OnceCell::const_new();
    let played = PLAYED.get_or_init(dialogue::play_all).await.iter();
    let wanted = played.filter(|(name, _)| in_all_words || !name.starts_with(OTHER_WORDS));
    let replies = wanted.flat_map(|(name, played)| {
        whole_replies(played.as_ref().unwrap_or_else(|difference| panic!("{name}: {difference}")))
    });
    replies.collect()
}

/// The lines of each reply joined, with its codes at the beginning only.
fn whole_replies(lines: &[String]) -> Vec<String> {
    let mut replies = Vec::new();
    let mut whole = String::new();
    for line in lines.iter().filter(|line| line.as_bytes()[0].is_ascii_digit()) {
        let (code, text) = line.split_at(4);
        match whole.is_empty() {
            true => whole = format!("{} {text}", &code[..3]),
            false => whole = format!("{whole}\n{}", without_status(text)),
        }
        if code.ends_with(' ') {
            replies.push(std::mem::take(&mut whole));
        }
    }
    replies
}

/// The enhanced code stands in front of each line (RFC 2034 §4).
fn without_status(text: &str) -> &str {
    let (first, rest) = text.split_once(' ').unwrap_or((text, ""));
    if first.parse::<EnhancedStatus>().is_ok() { rest } else { text }
}

/// The page about the protocol.
fn documentation() -> String {
    std::fs::read_to_string(repository().join("docs/smtp.md")).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn the_documentation_lists_the_codes_of_all_replies() {
    let page = documentation();
    let section =
        page.split("## Replies").nth(1).expect("the section about replies").split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let documented: BTreeSet<String> = rows.map(str::to_owned).collect();
    let by_connections = SHOWN_BY_CONNECTIONS.map(|(text, ..)| text.to_owned());
    let of_connections = by_connections.iter().filter(|text| text.starts_with(|c: char| c.is_ascii_digit()));
    let said: BTreeSet<String> =
        heard(false).await.iter().chain(of_connections).map(|reply| codes(reply)).collect();
    let missing: Vec<_> = said.difference(&documented).collect();
    let unsaid: Vec<_> = documented.difference(&said).collect();
    assert!(
        missing.is_empty() && unsaid.is_empty(),
        "docs/smtp.md: missing {missing:?}, said by no dialogue {unsaid:?}"
    );
}

/// `250 2.1.0`, or `354` where there is no enhanced code.
fn codes(reply: &str) -> String {
    let mut words = reply.split(' ');
    let code = words.next().unwrap_or_default();
    match words.next().filter(|word| word.parse::<EnhancedStatus>().is_ok()) {
        Some(status) => format!("{code} {status}"),
        None => code.to_owned(),
    }
}

#[test]
fn the_files_that_the_documentation_names_exist() {
    let page = documentation();
    let mut found = 0;
    for row in page.lines().filter(|line| line.starts_with('|')) {
        // What is no whole path is below the sources of the crate that was named before.
        let mut sources: Option<PathBuf> = None;
        for name in row.split('`').skip(1).step_by(2).filter(|name| name.ends_with(".rs")) {
            let below_crates = name.split_once("/src/");
            if let Some((name, _)) = below_crates {
                sources = Some(repository().join("crates").join(name).join("src"));
            }
            let folder = sources.as_ref().unwrap_or_else(|| panic!("which crate has {name}? {row}"));
            let file = folder.join(below_crates.map_or(name, |(_, file)| file));
            assert!(file.is_file(), "there is no {}: {row}", file.display());
            found += 1;
        }
    }
    assert!(found > 60, "only {found} files found in docs/smtp.md");
}

#[test]
fn dialogues_are_named_after_the_rfc_or_as_our_own() {
    for entry in std::fs::read_dir(directory()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        // Configurations stand beside them.
        assert!(
            is_named_well(&name) || name.ends_with(".toml"),
            "{name}: call a dialogue rfcNNNN-SECTION-what-it-shows.smtp after the RFC and the section that ask for it, such as \
             rfc5321-4.1.4-commands-out-of-order.smtp, or own-what-it-shows.smtp where it is our own choice"
        );
    }
}

#[test]
fn names_that_say_too_little_are_found() {
    for name in [
        "rfc5321-4.1.4-commands-out-of-order.smtp",
        "rfc4954-4-auth-cancelled.smtp",
        "rfc9422-limits.smtp",
        "own-http-is-cut-off.smtp",
    ] {
        // A section is needed.
        assert_eq!(is_named_well(name), name != "rfc9422-limits.smtp", "{name}");
    }
    for name in [
        "auth-cancelled.smtp",
        "rfc-4-x.smtp",
        "rfc5321-4..1-x.smtp",
        "own-.smtp",
        "rfc5321-4.1.smtp",
        "own-Ä.smtp",
    ] {
        assert!(!is_named_well(name), "{name}");
    }
}

fn is_named_well(name: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_said = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    let Some(name) = name.strip_suffix(".smtp") else { return false };
    if let Some(said) = name.strip_prefix("own-") {
        return is_said(said);
    }
    let Some((number, rest)) = name.strip_prefix("rfc").and_then(|rest| rest.split_once('-')) else {
        return false;
    };
    let Some((section, said)) = rest.split_once('-') else { return false };
    number.len() <= 5 && is_number(number) && section.split('.').all(is_number) && is_said(said)
}
