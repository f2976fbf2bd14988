//! Reports of failures, which are made of what strangers said. The first octet says what became of the recipient; 0xFF stands between
//! its address, the sender, the reply, the host, the envelope id, the Message-ID, the original recipient and the content. A report is a
//! message that every server takes, and is read back as one about that recipient.
#![no_main]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use libfuzzer_sys::fuzz_target;
use postern_policy::bounce::explain;
use postern_queue::dsn::{Action, Facts, Original, Told, compose};
use postern_queue::{Envelope, Origin, QueueId, Recipient, Report, Terms};
use postern_smtp::header::{body_offset, fields};
use postern_smtp::{
    Address, Body, Domain, EnhancedStatus, EnvelopeId, Notify, OriginalRecipient, ReversePath,
};

/// Sat, 21 Nov 2026 18:05:25 UTC.
const NOW: u64 = 1_795_284_325;
/// RFC 5321 §4.5.3.1.6, without the line end.
const MAX_LINE: usize = 998;
const ACTIONS: [Action; 5] =
    [Action::Failed, Action::Delayed, Action::Delivered, Action::Relayed, Action::Expanded];
/// What the first octet says beside the action.
const EXPIRED: u8 = 8;
const UNTRIED: u8 = 0x10;
const CUT: u8 = 0x20;
const SMTPUTF8: u8 = 0x40;
const OWN_WORDS: u8 = 0x80;

fuzz_target!(|octets: &[u8]| {
    let Some((choice, rest)) = octets.split_first() else { return };
    let mut parts = rest.splitn(8, |octet| *octet == 0xFF);
    let mut part = || parts.next().unwrap_or_default();
    let mut text = || String::from_utf8_lossy(part()).into_owned();
    let (Ok(recipient), Ok(sender)) = (Address::parse(&text()), Address::parse(&text())) else { return };
    let [reply, host, id, message_id, original] = [(); 5].map(|()| text());
    let content = part().to_vec();
    let given = |text: String| (!text.is_empty()).then_some(text);
    let told = Told {
        recipient: Recipient {
            address: recipient.clone(),
            given: None,
            notify: Notify::default(),
            original: original.split_once(';').map(|(kind, address)| OriginalRecipient {
                kind: kind.to_owned(),
                address: address.to_owned(),
            }),
            via: None,
            expanded: false,
        },
        action: ACTIONS[usize::from(choice & 7) % ACTIONS.len()],
        report: Report {
            status: EnhancedStatus { class: 5, subject: 1, detail: 1 },
            text: reply,
            is_reply: choice & OWN_WORDS == 0,
            host: given(host),
            tls: None,
            at: now(),
        },
        expired: choice & EXPIRED != 0,
        attempted: choice & UNTRIED == 0,
    };
    let envelope = Envelope {
        reverse_path: ReversePath::Address(sender.clone()),
        origin: Origin::Outsider,
        client: None,
        helo: None,
        forwarded: None,
        received: now() - Duration::from_secs(86_400),
        body: Body::SevenBit,
        smtputf8: choice & SMTPUTF8 != 0,
        ret: None,
        envelope_id: given(id).map(EnvelopeId),
        message_id: given(message_id),
        priority: 0,
        terms: Terms::default(),
        size: content.len() as u64,
        recipients: vec![told.recipient.clone()],
    };
    let composed = compose(&Facts {
        hostname: &Domain::parse("mail.proseware.test").expect("a name"),
        id: QueueId(2),
        about: QueueId(1),
        envelope: &envelope,
        to: &sender,
        told: std::slice::from_ref(&told),
        original: &Original::from_content(content, choice & CUT == 0),
        retried_until: now(),
        now: now(),
    });
    is_sound(&composed.content, composed.body);
    let bounce = explain(&composed.content);
    let [read] = &bounce.recipients[..] else { panic!("{} recipients", bounce.recipients.len()) };
    // What the sender wrote goes before what became of it.
    if told.recipient.original.is_none() && recipient.to_string().is_ascii() {
        assert_eq!(read.recipient.as_deref(), Some(recipient.to_string().as_str()));
    }
});

/// Whether every server takes it, and its header is ours alone.
fn is_sound(content: &[u8], body: Body) {
    let text = String::from_utf8_lossy(content);
    assert!(body != Body::SevenBit || content.is_ascii(), "8 bits: {text}");
    assert!(content.ends_with(b"\r\n"));
    for line in content.split_inclusive(|octet| *octet == b'\n') {
        let line = line.strip_suffix(b"\r\n").unwrap_or(line);
        assert!(
            !line.iter().any(|octet| matches!(octet, 0 | b'\r' | b'\n')),
            "a bare line end, or NUL: {text}"
        );
        assert!(line.len() <= MAX_LINE, "{} octets in a line: {text}", line.len());
    }
    let names: Vec<&[u8]> = fields(&content[..body_offset(content)]).map(|field| field.name).collect();
    let known: [&[u8]; 8] = [
        b"From",
        b"To",
        b"Subject",
        b"Date",
        b"Message-ID",
        b"Auto-Submitted",
        b"MIME-Version",
        b"Content-Type",
    ];
    for name in known {
        assert_eq!(names.iter().filter(|other| **other == name).count(), 1, "{text}");
    }
    assert!(names.len() <= known.len() + 3, "{text}");
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}
