//! What a bounce means, and who must do what: short enough to be read at night.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use postern_policy::bounce::{Bounce, Finding, MAX_INPUT, MAX_RECIPIENTS, Told, explain};
use postern_policy::record::Reference;
use serde::Serialize;

use crate::Session;
use crate::advice::Advice;
use crate::config;
use crate::failure::{Exit, Failure};
use crate::output::{self, Look};

/// Columns where no terminal says how many it has.
const DEFAULT_WIDTH: usize = 100;
/// What is shown of a server's words; `--json` has more.
const MAX_WORDS: usize = 300;
/// Addresses that are named where many recipients were told the same.
const MAX_NAMED: usize = 3;

/// The answer for programs. Fields are added, never changed.
#[derive(Debug, Serialize)]
struct Answer {
    /// Whether at least one recipient's reply is known by its words or its enhanced code.
    recognised: bool,
    /// Whether the configuration found names the server that wrote the bounce.
    reported_by_us: bool,
    #[serde(flatten)]
    bounce: Bounce,
}

/// Explains the bounce in a file; `-` is standard input.
///
/// # Errors
/// A file that cannot be read, an output that cannot be written.
pub fn file(path: &Path, session: &mut Session) -> Result<Exit, Failure> {
    let octets = read(path)?;
    run(&octets, session)
}

/// One octet more than is looked at, so that what is longer is noticed.
fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let limit = MAX_INPUT as u64 + 1;
    let mut octets = Vec::new();
    if path == Path::new("-") {
        io::stdin().lock().take(limit).read_to_end(&mut octets)?;
        return Ok(octets);
    }
    let file = File::open(path).and_then(|file| file.take(limit).read_to_end(&mut octets));
    match file {
        Ok(_) => Ok(octets),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::IsADirectory) => {
            Err(Failure::Usage(format!("{}: {error}", path.display())))
        }
        Err(error) => Err(Failure::Other(anyhow::Error::from(error).context(path.display().to_string()))),
    }
}

/// The reference in a reply that this server may have given: one that names no server, or this one.
pub(super) fn reference_of_ours(octets: &[u8], session: &Session) -> Option<Reference> {
    let bounce = explain(octets);
    let us = config::hostname(&session.global.config);
    let may_be_us = |host: Option<&str>| {
        host.is_none_or(|host| us.as_deref().is_some_and(|us| us.eq_ignore_ascii_case(host)))
    };
    let told = bounce.recipients.into_iter().find(|told| told.reference.is_some())?;
    may_be_us(told.said_by.as_deref().or(bounce.reported_by.as_deref())).then_some(told.reference)?
}

/// Explains what was read. Ends with [`Exit::Finding`] if nothing in it was recognised.
///
/// # Errors
/// [`Failure`] if the answer cannot be written.
pub fn run(octets: &[u8], session: &mut Session) -> Result<Exit, Failure> {
    let bounce = explain(octets);
    let us = config::hostname(&session.global.config);
    let is_us = |host: &str| us.as_deref().is_some_and(|us| us.eq_ignore_ascii_case(host));
    let answer = Answer {
        recognised: bounce.is_recognised(),
        reported_by_us: bounce.reported_by.as_deref().is_some_and(is_us),
        bounce,
    };
    session.out.answer_quoting(&answer, |answer, look, advice| text(answer, us.as_deref(), look, advice))?;
    Ok(if answer.recognised { Exit::Done } else { Exit::Finding })
}

fn text(answer: &Answer, us: Option<&str>, look: Look, advice: &Advice) -> String {
    let bounce = &answer.bounce;
    let mut text = String::new();
    if let Some(reporter) = &bounce.reported_by {
        let ours = if answer.reported_by_us { ", this server" } else { "" };
        text.push_str(&format!("{}, written by {reporter}{ours}\n", bounce.form));
    }
    // Whoever has it needs no explanation.
    let (arrived, missing): (Vec<&Told>, Vec<&Told>) =
        bounce.recipients.iter().partition(|told| told.is_success());
    for group in groups(&missing) {
        text.push_str(&recipient_text(group, bounce, us, look, advice));
    }
    text.push_str(&arrived_text(&arrived));
    let notes = [
        (bounce.cut, format!("Only the first {} MiB were read.", MAX_INPUT / 1024 / 1024)),
        (
            bounce.recipients.len() >= MAX_RECIPIENTS,
            format!("No more than {MAX_RECIPIENTS} recipients are looked at."),
        ),
        (!answer.recognised, not_recognised(bounce)),
    ];
    for (_, note) in notes.into_iter().filter(|(is_so, _)| *is_so) {
        text.push_str(&paragraphs("", [(String::new(), note)], look));
    }
    text
}

/// What was read where nothing was recognised, and what to try.
fn not_recognised(bounce: &Bounce) -> String {
    let read = match bounce.recipients.as_slice() {
        [] => "there is nothing in it that could be read".to_owned(),
        _ => format!("it was read as {}", bounce.form),
    };
    format!(
        "Not recognised: {read}. Save the whole bounce with its header and all parts (`Save as`, not `Forward`), or give the \
         reply of the server alone, beginning with its code."
    )
}

/// Recipients one after the other that were told the same.
fn groups<'a, 'b>(recipients: &'b [&'a Told]) -> impl Iterator<Item = &'b [&'a Told]> {
    recipients.chunk_by(|one, next| {
        // Servers repeat the address in their words.
        let words = |told: &Told| told.text.replace(told.recipient.as_deref().unwrap_or("\0"), "");
        let finding =
            |told: &Told| told.finding.as_ref().map(|finding| (finding.id.clone(), finding.change.clone()));
        one.action == next.action
            && one.said_by == next.said_by
            && one.reference == next.reference
            && (one.code, one.status) == (next.code, next.status)
            && finding(one) == finding(next)
            && words(one) == words(next)
    })
}

/// One line for all whom the message has reached: they are why the bounce is long, and nobody's trouble.
fn arrived_text(arrived: &[&Told]) -> String {
    if arrived.is_empty() {
        return String::new();
    }
    let mut actions: Vec<&str> =
        arrived.iter().filter_map(|told| told.action).map(|action| action.as_str()).collect();
    actions.sort_unstable();
    actions.dedup();
    format!("{}: {}, nothing to do\n", named(arrived), actions.join(" or "))
}

fn recipient_text(group: &[&Told], bounce: &Bounce, us: Option<&str>, look: Look, advice: &Advice) -> String {
    let Some(told) = group.first() else { return String::new() };
    let reply = [told.code.map(|code| code.to_string()), told.status.map(|status| status.to_string())];
    let reply: Vec<String> = reply.into_iter().flatten().collect();
    let mut lines = Vec::new();
    let mut line = |name: &str, value: String| lines.push((name.to_owned(), value));
    if told.said_by.is_some() || bounce.reported_by.is_some() {
        line("server", speaker(told, bounce, us));
    }
    if !reply.is_empty() {
        line("code", reply.join(" "));
    }
    if !told.text.is_empty() {
        line("words", shortened(&told.text));
    }
    if let Some(finding) = &told.finding {
        finding_lines(finding, told.reference.is_some(), advice, &mut line);
    }
    if let Some(reference) = &told.reference {
        let there = told.said_by.as_deref().or(bounce.reported_by.as_deref());
        let command = format!("posternctl explain {reference}");
        let place = match (there, us) {
            (Some(there), Some(us)) if there.eq_ignore_ascii_case(us) => {
                format!("here: {}", advice.in_text(&command))
            }
            // There, other options count.
            (Some(there), _) => format!("on {there}: {command}"),
            (None, _) => format!("on the server that refused: {command}"),
        };
        line("record", place);
    }
    let head = heading(group, look);
    let indent = if head.is_empty() { "" } else { "  " };
    format!("{head}{}", paragraphs(indent, lines, look))
}

/// Words with a reference are those of a Postern, also where another system has the same ones.
fn finding_lines(
    finding: &Finding,
    has_reference: bool,
    advice: &Advice,
    line: &mut impl FnMut(&str, String),
) {
    let is_told = finding.system != "any server" && !has_reference;
    let system = if is_told { format!(" ({})", finding.system) } else { String::new() };
    line("meaning", format!("{}{system}", finding.meaning));
    line("who", finding.side.to_string());
    line("change", finding.change.clone());
    for check in &finding.checks {
        line("check", advice.in_text(check).into_owned());
    }
    line("again", finding.again.to_string());
}

/// `bob@adatum.test: failed`; nothing for a pasted reply, which names nobody.
fn heading(group: &[&Told], look: Look) -> String {
    let Some(told) = group.first() else { return String::new() };
    let head = named(group);
    match (head.is_empty(), told.action) {
        (true, _) => String::new(),
        (false, Some(action)) => format!("{head}: {}\n", look.paint(action.as_str())),
        (false, None) => format!("{head}\n"),
    }
}

/// Addresses of recipients, the first ones of many.
fn named(recipients: &[&Told]) -> String {
    let names: Vec<&str> =
        recipients.iter().filter_map(|told| told.recipient.as_deref()).take(MAX_NAMED).collect();
    let more = recipients.len().checked_sub(MAX_NAMED).filter(|more| *more > 0);
    let more = more.map(|more| format!(" and {more} more")).unwrap_or_default();
    output::clean(&names.join(", ")).into_owned() + &more
}

fn speaker(told: &Told, bounce: &Bounce, us: Option<&str>) -> String {
    let named = |host: &str| match us {
        Some(us) if us.eq_ignore_ascii_case(host) => format!("{host} (this server)"),
        _ => host.to_owned(),
    };
    match (told.said_by.as_deref(), bounce.reported_by.as_deref()) {
        (Some(host), _) => named(host),
        (None, Some(reporter)) => format!("{}, which wrote the bounce", named(reporter)),
        (None, None) => String::new(),
    }
}

fn shortened(words: &str) -> String {
    match words.char_indices().nth(MAX_WORDS) {
        Some((end, _)) => format!("{}...", words[..end].trim_end()),
        None => words.to_owned(),
    }
}

/// Lines of `name  value`, each value wrapped at the width of the terminal and indented under itself.
pub(super) fn paragraphs(
    indent: &str,
    lines: impl IntoIterator<Item = (String, String)>,
    look: Look,
) -> String {
    let lines: Vec<(String, String)> = lines.into_iter().collect();
    let names = lines.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let gap = if names == 0 { 0 } else { names + 2 };
    let room = look.width.unwrap_or(DEFAULT_WIDTH).saturating_sub(indent.len() + gap).max(20);
    let mut text = String::new();
    for (name, value) in lines {
        // What others have a hand in must not command the terminal; a command stays on one line, to be copied.
        let value = output::clean(&value);
        let is_command = matches!(name.as_str(), "check" | "record");
        let rows = if is_command { vec![value.clone().into_owned()] } else { wrapped(&value, room) };
        for (at, row) in rows.iter().enumerate() {
            let name = if at == 0 { name.as_str() } else { "" };
            text.push_str(format!("{indent}{name:gap$}{row}").trim_end());
            text.push('\n');
        }
    }
    text
}

fn wrapped(value: &str, room: usize) -> Vec<String> {
    let mut rows = vec![String::new()];
    for word in value.split_whitespace() {
        let Some(row) = rows.last_mut() else { continue };
        if row.is_empty() {
            row.push_str(word);
        } else if row.chars().count() + 1 + word.chars().count() <= room {
            row.push(' ');
            row.push_str(word);
        } else {
            rows.push(word.to_owned());
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::collections::BTreeSet;

    use postern_policy::bounce::texts;

    use super::*;

    fn shown(bounce: &str, us: Option<&str>) -> String {
        let bounce = explain(bounce.as_bytes());
        let answer = Answer { recognised: bounce.is_recognised(), reported_by_us: false, bounce };
        text(&answer, us, Look::PLAIN, &Advice::default())
    }

    /// A report with one recipient for each pair of a name and what became of it.
    fn report(recipients: &[(&str, &str)]) -> String {
        let one = |(name, fields): &(&str, &str)| {
            format!("Final-Recipient: rfc822; {name}@adatum.test\n{fields}\n\n")
        };
        let recipients: String = recipients.iter().map(one).collect();
        format!("Reporting-MTA: dns; mail.proseware.test\n\n{recipients}")
    }

    const DELIVERED: &str = "Action: delivered\nStatus: 2.0.0\nDiagnostic-Code: smtp; 250 2.0.0 Ok";
    const FAILED: &str = "Action: failed\nStatus: 5.1.1\nDiagnostic-Code: smtp; 550 5.1.1 User unknown";
    const DELAYED: &str = "Action: delayed\nStatus: 4.4.1\nDiagnostic-Code: smtp; 451 4.4.1 no answer";

    #[test]
    fn only_whom_it_did_not_reach_is_explained() {
        let relayed = "Action: relayed\nStatus: 2.0.0";
        let bounce = report(&[
            ("a", DELIVERED),
            ("b", FAILED),
            ("c", relayed),
            ("d", DELAYED),
            ("e", DELIVERED),
            ("f", DELIVERED),
        ]);
        let text = shown(&bounce, None);
        assert_eq!(text.matches("meaning").count(), 2, "{text}");
        assert!(text.contains("\nb@adatum.test: failed\n"), "{text}");
        assert!(text.contains("\nd@adatum.test: delayed\n"), "{text}");
        let line =
            "a@adatum.test, c@adatum.test, e@adatum.test and 1 more: delivered or relayed, nothing to do\n";
        assert!(text.ends_with(line), "{text}");
    }

    #[test]
    fn a_failure_that_is_not_known_is_not_hidden_by_deliveries() {
        let unknown = "Action: failed\nDiagnostic-Code: smtp; xyzzy";
        let text = shown(&report(&[("a", DELIVERED), ("b", unknown)]), None);
        assert!(text.contains("Not recognised"), "{text}");
        let text = shown(&report(&[("a", DELIVERED)]), None);
        assert!(!text.contains("Not recognised") && text.contains("a@adatum.test: delivered"), "{text}");
    }

    #[test]
    fn commands_for_this_server_have_its_options_and_those_for_others_not() {
        let global =
            crate::Global { config: "/srv/postern.toml".into(), socket: None, json: false, no_color: false };
        let reply = "550 5.7.1 <bob@adatum.test>: relay not permitted: log in on port 587 (ref 6N8C-2MRF)";
        let bounce = format!(
            "This is the mail system at host mx.adatum.test.\n\n<bob@adatum.test>: host \
            mail.proseware.test[203.0.113.25] said: {reply} (in reply to RCPT TO command)\n"
        );
        let told = |us: Option<&str>| {
            let bounce = explain(bounce.as_bytes());
            let answer = Answer { recognised: true, reported_by_us: false, bounce };
            text(&answer, us, Look::PLAIN, &Advice::of(&global))
        };
        let here = told(Some("mail.proseware.test"));
        assert!(here.contains("here: posternctl --config /srv/postern.toml explain 6N8C-2MRF\n"), "{here}");
        let there = told(None);
        assert!(there.contains("on mail.proseware.test: posternctl explain 6N8C-2MRF\n"), "{there}");
    }

    #[test]
    fn a_pasted_reply_is_told_without_a_heading() {
        let expected = "\
code     550 5.1.1
words    <bob@adatum.test>: Recipient address rejected: User unknown in virtual mailbox table
meaning  There is no such mailbox in the recipient's domain. (Postfix)
who      the person who sent it
change   Look for a typing error in the address, or ask the recipient for it.
again    does not help
";
        let reply =
            "550 5.1.1 <bob@adatum.test>: Recipient address rejected: User unknown in virtual mailbox table";
        assert_eq!(shown(reply, None), expected);
    }

    #[test]
    fn recipients_that_were_told_the_same_are_told_of_once() {
        let block =
            |name: &str| format!("<{name}@adatum.test>:\n550 5.1.1 <{name}@adatum.test>: User unknown\n\n");
        let bounce: String = ["a", "b", "c", "d", "e"].map(block).concat();
        let text =
            shown(&format!("Hi. This is the qmail-send program at mail.proseware.test.\n\n{bounce}"), None);
        assert!(text.contains("a@adatum.test, b@adatum.test, c@adatum.test and 2 more: failed"), "{text}");
        assert_eq!(text.matches("meaning").count(), 1, "{text}");
    }

    #[test]
    fn a_reference_leads_to_the_server_that_has_the_record() {
        let bounce = "This is the mail system at host mx.adatum.test.\n\n<bob@adatum.test>: host mail.proseware.test[203.0.113.25] \
            said: 550 5.7.1 <bob@adatum.test>: relay not permitted: 192.0.2.7 is not logged in and not a trusted network; \
            log in on port 587 or 465 (ref 4QX7-93KD) (in reply to RCPT TO command)\n";
        assert!(
            shown(bounce, None).contains("record   on mail.proseware.test: posternctl explain 4QX7-93KD\n")
        );
        let here = shown(bounce, Some("mail.proseware.test"));
        assert!(here.contains("record   here: posternctl explain 4QX7-93KD\n"), "{here}");
        assert!(here.contains("server   mail.proseware.test (this server)"), "{here}");
    }

    #[test]
    fn words_with_a_reference_are_of_no_other_system() {
        let reply = "550 5.7.1 <bob@adatum.test>: relay not permitted: log in on port 587 (ref 6N8C-2MRF)";
        let text = shown(reply, None);
        assert!(!text.contains("(Exim)") && text.contains("posternctl explain 6N8C-2MRF"), "{text}");
    }

    #[test]
    fn what_is_not_recognised_says_what_to_try() {
        assert!(shown("", None).contains("nothing in it that could be read"));
        let text = shown("550 xyzzy", None);
        assert!(text.contains("xyzzy") && text.contains("Not recognised: it was read as a reply"), "{text}");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let text = shown("550 5.1.1 \u{1b}[2Jno such user", None);
        assert!(!text.contains('\u{1b}') && text.contains("?[2Jno such user"), "{text}");
    }

    #[test]
    fn every_command_of_ours_that_is_advised_exists() {
        let checks: BTreeSet<&str> = texts::all().flat_map(|known| known.checks.iter().copied()).collect();
        let ours: Vec<&&str> = checks.iter().filter(|check| check.starts_with("posternctl ")).collect();
        assert!(!ours.is_empty());
        for check in ours {
            let words = check.replace("{sender}", "proseware.test");
            let parsed = crate::command().try_get_matches_from(words.split(' '));
            assert!(parsed.is_ok(), "{check}: {}", parsed.unwrap_err());
        }
        let programs = ["dig ", "posternctl ", "openssl ", "nc ", "curl "];
        for check in checks {
            assert!(programs.iter().any(|program| check.starts_with(program)), "{check}");
        }
    }
}
