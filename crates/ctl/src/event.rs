//! What happened to a message, in words.

use std::time::{Duration, UNIX_EPOCH};

use postern_admin::api::history::{EventKind, EventRecipient, EventView};
use postern_smtp::date::rfc3339;

use crate::output;

/// Recipients that are named; of more, only how many.
const NAMED: usize = 3;

/// One line: `2026-11-21T18:05:26Z  delivered  bob@adatum.test to mx1.adatum.test ...`; `between` goes behind the time.
pub fn line(event: &EventView, between: &str) -> String {
    let time = UNIX_EPOCH.checked_add(Duration::from_millis(event.time)).unwrap_or(UNIX_EPOCH);
    let text = format!("{}  {between}{:9}  {}", rfc3339(time), event.event.as_str(), words(event));
    format!("{}\n", output::clean(text.trim_end()))
}

/// Who, by whom, why.
fn words(event: &EventView) -> String {
    let who = recipients(&event.recipients);
    match event.event {
        EventKind::Accepted => {
            let size = event.size.map(|size| format!(", {}", output::size(size))).unwrap_or_default();
            format!("from <{}> for {who}{size}, {}", event.sender, source(event))
        }
        EventKind::Delivered => {
            format!("{who}{} after {}{}", host(event, "to"), delay(event.delay), reply(event))
        }
        EventKind::Deferred | EventKind::Failed | EventKind::Dropped => {
            format!("{who}{}{}", host(event, "by"), reply(event))
        }
        EventKind::Expired => format!("{who} after {}{}", delay(event.delay), reply(event)),
        EventKind::Held | EventKind::Released | EventKind::Retried | EventKind::Edited => {
            let text = format!("{}{}", host(event, "by"), reply(event));
            text.trim_start_matches([' ', ':']).to_owned()
        }
        EventKind::Reported => {
            let report = event.report.as_deref().unwrap_or("-");
            format!("to the sender ({}), as {report}", event.report_kind.as_deref().unwrap_or("-"))
        }
        EventKind::Gone => "from the queue".to_owned(),
    }
}

/// By which right and from where a message came.
pub fn source(event: &EventView) -> String {
    let forwarded = event.forwarded.as_ref().map(|from| format!("forwarded from {from}"));
    let known = [event.client.clone(), forwarded].into_iter().flatten();
    let origin = event.origin.clone().unwrap_or_else(|| "-".to_owned());
    [origin].into_iter().chain(known).collect::<Vec<_>>().join(", ")
}

fn recipients(recipients: &[EventRecipient]) -> String {
    let named = recipients.iter().take(NAMED).map(|recipient| match &recipient.given {
        Some(given) => format!("{} (given as {given})", recipient.address),
        None => recipient.address.clone(),
    });
    let mut text = named.collect::<Vec<_>>().join(", ");
    if recipients.len() > NAMED {
        text += &format!(" and {} more", recipients.len() - NAMED);
    }
    text
}

fn host(event: &EventView, by: &str) -> String {
    let host = match (&event.host, event.operator) {
        (_, true) => " by an operator".to_owned(),
        (Some(host), false) => format!(" {by} {host}"),
        (None, false) => String::new(),
    };
    let tls = event.tls.as_ref().map(|tls| format!(" ({tls})")).unwrap_or_default();
    let attempt = event.attempts.filter(|attempts| *attempts > 1);
    let attempt = attempt.map(|attempts| format!(", attempt {attempts}")).unwrap_or_default();
    format!("{host}{tls}{attempt}")
}

fn reply(event: &EventView) -> String {
    let Some(reply) = &event.reply else {
        return String::new();
    };
    let text = reply.replace("\r\n", "\n").trim_end().replace('\n', " / ");
    // Our own words do not say the code themselves.
    let code = event.status.as_ref().filter(|status| !text.contains(status.as_str()) && !event.operator);
    let code = code.map(|status| format!("{status} ")).unwrap_or_default();
    format!(": {code}{text}")
}

/// Milliseconds for people: `0.5s`, `2h5m`.
fn delay(milliseconds: u64) -> String {
    match milliseconds {
        0..10_000 => format!("{:.1}s", milliseconds as f64 / 1000.0),
        _ => output::duration(Duration::from_millis(milliseconds)),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn event(kind: EventKind) -> EventView {
        EventView {
            time: 1_795_284_325_123,
            id: "01N2K3P4Q5R6S".to_owned(),
            event: kind,
            sender: "alice@proseware.test".to_owned(),
            recipients: vec![EventRecipient { address: "bob@adatum.test".to_owned(), given: None }],
            message_id: Some("1@proseware.test".to_owned()),
            size: Some(4096),
            client: Some("192.0.2.7".to_owned()),
            forwarded: None,
            origin: Some("login alice@proseware.test".to_owned()),
            destination: None,
            host: None,
            tls: None,
            status: None,
            reply: None,
            attempts: None,
            delay: 523,
            report: None,
            report_kind: None,
            operator: false,
        }
    }

    pub(crate) fn delivered() -> EventView {
        EventView {
            host: Some("mx1.adatum.test [192.0.2.25]:25".to_owned()),
            tls: Some("TLSv1.3 verified".to_owned()),
            status: Some("2.0.0".to_owned()),
            reply: Some("250 2.0.0 Ok: queued as 12345".to_owned()),
            attempts: Some(1),
            ..event(EventKind::Delivered)
        }
    }

    #[test]
    fn events_are_told_in_one_line() {
        let many = |n: usize| {
            let recipient = |n| EventRecipient {
                address: format!("r{n}@adatum.test"),
                given: (n == 1).then(|| "list@proseware.test".to_owned()),
            };
            (0..n).map(recipient).collect::<Vec<_>>()
        };
        let operator = |kind, reason: &str| EventView {
            operator: true,
            reply: Some(reason.to_owned()).filter(|reason| !reason.is_empty()),
            ..event(kind)
        };
        let deferred = EventView {
            event: EventKind::Deferred,
            recipients: many(5),
            status: Some("4.7.1".to_owned()),
            reply: Some("451-4.7.1 slow\r\n451 4.7.1 down\u{1b}".to_owned()),
            attempts: Some(3),
            ..delivered()
        };
        let expired = EventView {
            delay: 432_000_000,
            status: Some("4.4.7".to_owned()),
            reply: Some("the mail server could not be reached".to_owned()),
            ..event(EventKind::Expired)
        };
        let reported = EventView {
            report: Some("01N2K3P4Q5R7T".to_owned()),
            report_kind: Some("failed".to_owned()),
            ..event(EventKind::Reported)
        };
        for (event, expected) in [
            (
                event(EventKind::Accepted),
                "accepted   from <alice@proseware.test> for bob@adatum.test, 4.0 KiB, login alice@proseware.test, 192.0.2.7",
            ),
            (
                delivered(),
                "delivered  bob@adatum.test to mx1.adatum.test [192.0.2.25]:25 (TLSv1.3 verified) after 0.5s: 250 2.0.0 Ok: queued as 12345",
            ),
            (
                deferred,
                "deferred   r0@adatum.test, r1@adatum.test (given as list@proseware.test), r2@adatum.test and 2 more by \
                 mx1.adatum.test [192.0.2.25]:25 (TLSv1.3 verified), attempt 3: 451-4.7.1 slow / 451 4.7.1 down?",
            ),
            (
                operator(EventKind::Failed, "he has left"),
                "failed     bob@adatum.test by an operator: he has left",
            ),
            (operator(EventKind::Held, "looks odd"), "held       by an operator: looks odd"),
            (operator(EventKind::Released, ""), "released   by an operator"),
            (operator(EventKind::Dropped, "spam"), "dropped    bob@adatum.test by an operator: spam"),
            (
                EventView { reply: Some("three faults".to_owned()), ..event(EventKind::Held) },
                "held       three faults",
            ),
            (expired, "expired    bob@adatum.test after 5d: 4.4.7 the mail server could not be reached"),
            (reported, "reported   to the sender (failed), as 01N2K3P4Q5R7T"),
            (event(EventKind::Gone), "gone       from the queue"),
        ] {
            assert_eq!(line(&event, ""), format!("2026-11-21T18:05:25Z  {expected}\n"));
        }
    }
}
