//! The form of a line: an event with short names, and without what follows from the rest.
//!
//! The queue id stands first, at a fixed place: a search that knows its messages looks at nothing else of a line.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::events::{EventKind, EventRecipient, EventView};

/// What every line begins with; the queue id follows.
const BEGINNING: &[u8] = b"{\"id\":\"";
/// Characters of a queue id.
const ID_LENGTH: usize = 13;
/// Octets of a reply that are kept: of one that says no, and of one that says yes. The log has the rest.
const MAX_REFUSAL: usize = 400;
const MAX_CONSENT: usize = 120;

/// A queue id as it stands in a line.
pub(super) type LineId = [u8; ID_LENGTH];

#[derive(Debug, Serialize, Deserialize)]
struct Line<'a> {
    id: Cow<'a, str>,
    /// Milliseconds since 1970.
    t: u64,
    /// What.
    is: EventKind,
    from: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    to: Vec<Cow<'a, str>>,
    /// What RCPT TO said, for each of `to`; left out where none differs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    given: Vec<Option<Cow<'a, str>>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mid: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client: Option<Cow<'a, str>>,
    /// Where the client had it from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fwd: Option<Cow<'a, str>>,
    /// The origin; `login` alone: a login that is the sender.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    by: Option<Cow<'a, str>>,
    /// The destination, unless it is the MX of the recipient's domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dest: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    host: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tls: Option<Cow<'a, str>>,
    /// The enhanced code, unless the reply has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    code: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reply: Option<Cow<'a, str>>,
    /// Attempts, if more than one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    n: Option<u32>,
    /// Since it was accepted.
    ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    report: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kind: Option<Cow<'a, str>>,
    /// Whether it is the work of an operator.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    op: bool,
}

/// An event as a line, its end included. Nothing if it cannot be written, which does not happen: all of it is text.
pub(super) fn encode(event: &EventView) -> Vec<u8> {
    let shown = event.reply.as_deref().map(|reply| shortened(reply, event.event));
    // The lines before it, or the one that ends it, tell the rest.
    let has_facts = event.event.is_end() || (event.event == EventKind::Deferred && event.attempts <= Some(1));
    let fact = |fact: &'_ Option<String>| fact.as_deref().filter(|_| has_facts).map(str::to_owned);
    let has_given = event.recipients.iter().any(|recipient| recipient.given.is_some());
    let given = |recipient: &'_ EventRecipient| recipient.given.clone().map(Cow::Owned);
    let is_usual = |to: &&String| Some(to.as_str()) != usual_destination(event).as_deref();
    let is_new = |status: &&String| shown.as_deref().and_then(code_in) != Some(status.as_str());
    let line = Line {
        id: event.id.as_str().into(),
        t: event.time,
        is: event.event,
        from: event.sender.as_str().into(),
        to: event.recipients.iter().map(|recipient| recipient.address.as_str().into()).collect(),
        given: if has_given { event.recipients.iter().map(given).collect() } else { Vec::new() },
        mid: fact(&event.message_id).map(Cow::Owned),
        size: event.size.filter(|_| has_facts),
        client: fact(&event.client).map(Cow::Owned),
        fwd: fact(&event.forwarded).map(Cow::Owned),
        by: fact(&event.origin).map(|origin| short_origin(origin, &event.sender)),
        dest: event.destination.as_ref().filter(is_usual).map(|to| to.as_str().into()),
        host: event.host.as_deref().map(Into::into),
        tls: event.tls.as_deref().map(Into::into),
        code: event.status.as_ref().filter(is_new).map(|status| status.as_str().into()),
        reply: shown.as_deref().map(Into::into),
        n: event.attempts.filter(|attempts| *attempts > 1),
        ms: event.delay,
        report: event.report.as_deref().map(Into::into),
        kind: event.report_kind.as_deref().map(Into::into),
        op: event.operator,
    };
    let mut text = serde_json::to_vec(&line).unwrap_or_default();
    text.push(b'\n');
    text
}

/// The message that a line is about, without reading the line.
pub(super) fn id_of(line: &[u8]) -> Option<LineId> {
    line.strip_prefix(BEGINNING)?.first_chunk().copied()
}

/// Reads a line. `None`: damaged, or written by a release that knows more kinds of events.
pub(super) fn decode(line: &[u8]) -> Option<EventView> {
    let line: Line<'_> = serde_json::from_slice(line).ok()?;
    let owned = |text: Option<Cow<'_, str>>| text.map(Cow::into_owned);
    let mut given = line.given.into_iter();
    let recipients = line.to.into_iter().map(|address| EventRecipient {
        address: address.into_owned(),
        given: owned(given.next().flatten()),
    });
    let sender = line.from.into_owned();
    let origin = owned(line.by).map(|by| if by == LOGIN { format!("{LOGIN} {sender}") } else { by });
    let mut event = EventView {
        time: line.t,
        id: line.id.into_owned(),
        event: line.is,
        recipients: recipients.collect(),
        message_id: owned(line.mid),
        size: line.size,
        client: owned(line.client),
        forwarded: owned(line.fwd),
        origin,
        destination: owned(line.dest),
        host: owned(line.host),
        tls: owned(line.tls),
        status: owned(line.code),
        reply: owned(line.reply),
        attempts: line.n,
        delay: line.ms,
        report: owned(line.report),
        report_kind: owned(line.kind),
        operator: line.op,
        sender,
    };
    if is_attempt(&event) {
        event.attempts = event.attempts.or(Some(1));
        let usual = usual_destination(&event);
        event.destination = event.destination.or(usual);
    }
    event.status = event.status.or_else(|| event.reply.as_deref().and_then(code_in).map(str::to_owned));
    Some(event)
}

const LOGIN: &str = "login";

/// Most people send as themselves.
fn short_origin<'a>(origin: String, sender: &str) -> Cow<'a, str> {
    let is_sender = origin.strip_prefix(LOGIN).and_then(|rest| rest.strip_prefix(' ')) == Some(sender);
    if is_sender { LOGIN.into() } else { origin.into() }
}

fn is_attempt(event: &EventView) -> bool {
    matches!(event.event, EventKind::Delivered | EventKind::Deferred | EventKind::Failed) && !event.operator
}

/// Where the first recipient waits if no route says otherwise.
fn usual_destination(event: &EventView) -> Option<String> {
    let (_, domain) = event.recipients.first()?.address.rsplit_once('@')?;
    is_attempt(event).then(|| format!("mx {domain}"))
}

/// The enhanced code in a reply: its second word, as in `250 2.0.0 Ok` and `550-5.1.1 no`.
fn code_in(reply: &str) -> Option<&str> {
    let (basic, rest) = reply.split_at_checked(3)?;
    let rest = rest.strip_prefix([' ', '-'])?;
    let code = rest.split([' ', '\r', '\n']).next()?;
    let is_code = code.parse::<postern_smtp::EnhancedStatus>().is_ok();
    (is_code && basic.bytes().all(|byte| byte.is_ascii_digit())).then_some(code)
}

/// A reply as it is kept: its lines with LF, whole characters.
fn shortened(reply: &str, kind: EventKind) -> String {
    let most = if kind == EventKind::Delivered { MAX_CONSENT } else { MAX_REFUSAL };
    let mut text = reply.replace("\r\n", "\n");
    if text.len() > most {
        let mut end = most;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use proptest::prelude::*;

    pub(in super::super) fn delivered() -> EventView {
        EventView {
            time: 1_795_284_325_123,
            id: "01N2K3P4Q5R6S".to_owned(),
            event: EventKind::Delivered,
            sender: "alice@proseware.test".to_owned(),
            recipients: vec![EventRecipient { address: "bob@adatum.test".to_owned(), given: None }],
            message_id: Some("20261121180525.0A1B2C3D@proseware.test".to_owned()),
            size: Some(4096),
            client: Some("192.0.2.7".to_owned()),
            forwarded: None,
            origin: Some("login alice@proseware.test".to_owned()),
            destination: Some("mx adatum.test".to_owned()),
            host: Some("mx1.adatum.test [192.0.2.25]:25".to_owned()),
            tls: Some("TLSv1.3 verified".to_owned()),
            status: Some("2.0.0".to_owned()),
            reply: Some("250 2.0.0 Ok: queued as 4XyZ3k1Qz9".to_owned()),
            attempts: Some(1),
            delay: 523,
            report: None,
            report_kind: None,
            operator: false,
        }
    }

    #[test]
    fn a_simple_delivery_costs_some_350_octets_and_is_read_back_whole() {
        let line = encode(&delivered());
        assert!(line.len() <= 350, "{}: {}", line.len(), String::from_utf8_lossy(&line));
        assert_eq!(decode(&line).unwrap(), delivered());
        assert_eq!(id_of(&line).unwrap(), *b"01N2K3P4Q5R6S");
    }

    #[test]
    fn what_does_not_follow_from_the_rest_is_kept() {
        let unusual = EventView {
            recipients: vec![
                EventRecipient { address: "bob@adatum.test".to_owned(), given: None },
                EventRecipient {
                    address: "\"a \\\"b\"@adatum.test".to_owned(),
                    given: Some("info@proseware.test".to_owned()),
                },
            ],
            origin: Some("trusted network office".to_owned()),
            destination: Some("smarthost relay.test:587".to_owned()),
            status: Some("2.1.5".to_owned()),
            reply: Some("250 OK".to_owned()),
            attempts: Some(3),
            ..delivered()
        };
        assert_eq!(decode(&encode(&unusual)).unwrap(), unusual);
        let failed = EventView {
            event: EventKind::Failed,
            destination: None,
            host: None,
            tls: None,
            status: None,
            attempts: None,
            reply: Some("the customer has left".to_owned()),
            operator: true,
            ..delivered()
        };
        assert_eq!(decode(&encode(&failed)).unwrap(), failed);
    }

    #[test]
    fn later_deferrals_leave_out_what_the_first_and_the_last_line_say() {
        let deferred = EventView {
            event: EventKind::Deferred,
            status: Some("4.7.1".to_owned()),
            reply: Some("451-4.7.1 slow\r\n451 4.7.1 down".to_owned()),
            ..delivered()
        };
        let first = decode(&encode(&deferred)).unwrap();
        assert_eq!(
            (first.size, first.reply.as_deref()),
            (Some(4096), Some("451-4.7.1 slow\n451 4.7.1 down"))
        );
        let second = decode(&encode(&EventView { attempts: Some(2), ..deferred })).unwrap();
        assert_eq!((second.size, &second.message_id, second.attempts), (None, &None, Some(2)));
        assert_eq!(second.status.as_deref(), Some("4.7.1"));
    }

    #[test]
    fn long_replies_are_cut_at_a_whole_character() {
        let long = EventView { reply: Some("ä".repeat(1000)), ..delivered() };
        let reply = decode(&encode(&long)).unwrap().reply.unwrap();
        assert_eq!(reply, format!("{}…", "ä".repeat(MAX_CONSENT / 2)));
    }

    proptest! {
        #[test]
        fn no_bytes_make_decoding_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0usize..300) {
            let _ = (decode(&bytes), id_of(&bytes));
            let mut line = encode(&delivered());
            line.truncate(at);
            line.extend(bytes);
            let _ = (decode(&line), id_of(&line));
        }
    }
}
