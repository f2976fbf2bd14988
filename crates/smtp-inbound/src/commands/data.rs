//! DATA and the end of a message (RFC 5321 §4.1.1.4).

use postern_policy::facts::{self, Wanted};
use postern_policy::relay::{Decision, HeaderSenders, Stage};
use postern_policy::sender::header_senders;
use postern_queue::rules::{Forecast, RuleAction};
use postern_queue::{AcceptError, Envelope, Origin, Terms};
use postern_smtp::Body;

use crate::receive::{By, Failure, Header, Hop, Lines, Received, Receiver};
use crate::replies;
use crate::session::{Commit, Context, Matter, Refusal, Transaction};

/// Begins to receive the message, by DATA or by BDAT.
pub(crate) fn begin(context: &Context, transaction: &Transaction, by: By) -> Result<Receiver, Refusal> {
    // RFC 3030 §3: nothing but BDAT can carry it.
    if by == By::Data && transaction.body == Body::BinaryMime {
        return Err(Refusal::new("bad-sequence", replies::bad_sequence("BODY=BINARYMIME comes by BDAT")));
    }
    if transaction.recipients.is_empty() {
        return Err(match (transaction.tried, transaction.deferred) {
            (_, true) => Refusal::new("no-valid-recipients", replies::no_valid_recipients_now()),
            (true, false) => Refusal::new("no-valid-recipients", replies::no_valid_recipients()),
            (false, false) => Refusal::new("bad-sequence", replies::bad_sequence("RCPT first")),
        });
    }
    let incoming = transaction.queue.incoming().map_err(|error| not_stored(&error))?;
    Ok(Receiver::new(incoming, by, &context.config, context.peer))
}

/// What must be known before a message that came in can be decided about.
pub(crate) fn wanted(context: &Context, transaction: &Transaction, received: &Received) -> Vec<Wanted> {
    let Ok(content) = &received.content else { return Vec::new() };
    if context.login.is_none() {
        return Vec::new();
    }
    let senders = header_senders(&content.header);
    facts::wanted(&context.question(transaction.matter(), Stage::Message(&senders)), &context.policy)
}

/// Decides about the whole message and makes it ready to be stored.
pub(crate) fn finish(
    context: &Context,
    transaction: &mut Transaction,
    received: Received,
) -> Result<Box<Commit>, Refusal> {
    let limits = &context.config.smtp;
    let Received { content, lines } = received;
    check(context, lines, content.as_ref().err())?;
    let content = content.map_err(|failure| failed(context, &failure))?;
    let header = Header::read(&content.header);
    if header.received > limits.max_received {
        return Err(Refusal::new("routing-loop", replies::routing_loop(header.received)));
    }
    let binds = context.policy.binds_header(&context.question(transaction.matter(), Stage::Mail));
    if binds || transaction.of_login {
        let senders = header_senders(&content.header);
        context.ask(transaction.matter(), Stage::Message(&senders))?;
    }
    let now = context.shared.clock.now();
    let fields = hop(context, transaction).own_fields(&header, content.incoming.id(), now);
    transaction.size = content.octets + fields.text.len() as u64;
    if let Some(login) = &context.login {
        // Before the message is durable, so that other sessions of the login see it; given back where it is not stored.
        let (usage, limits) = (&context.policy.standing.usage, &login.access.limits);
        usage.reserve(&login.name, limits, transaction.distinct.len(), now).map_err(|exceeded| {
            let senders = HeaderSenders::default();
            context.over_limit(login, transaction.matter(), Stage::Message(&senders), exceeded)
        })?;
    }
    let recipients = std::mem::take(&mut transaction.recipients);
    let smtputf8 = transaction.smtputf8
        && (!content.header.is_ascii()
            || transaction.reverse_path.address().is_some_and(|address| address.needs_utf8())
            || recipients.iter().any(|recipient| recipient.address.needs_utf8()));
    let envelope = Envelope {
        reverse_path: transaction.reverse_path.clone(),
        origin: origin(context, transaction.matter()),
        client: context.peer.address(),
        helo: Some(transaction.hello.name.clone()),
        forwarded: transaction.forwarded.as_ref().and_then(|said| said.from()),
        received: now,
        body: body(transaction.body, lines),
        smtputf8,
        ret: transaction.ret,
        envelope_id: transaction.envelope_id.clone(),
        message_id: fields.message_id,
        priority: transaction.terms.priority.unwrap_or(fields.priority),
        // RFC 8689 §4.1: REQUIRETLS overrules the field.
        terms: Terms {
            tls_optional: header.tls_optional && !transaction.terms.require_tls,
            ..transaction.terms
        },
        size: transaction.size,
        recipients,
    };
    transaction.held = held(context, transaction, &envelope, &[&fields.text, &content.header]);
    Ok(Box::new(Commit { incoming: content.incoming, envelope, header: fields.text }))
}

/// What the next hop is told of the content. A client that sends 8 bits without saying so has said so now; nothing binary is left of
/// a message that was converted.
fn body(announced: Body, lines: Lines) -> Body {
    match announced {
        _ if lines.findings.eight_bit => Body::EightBitMime,
        Body::BinaryMime => Body::SevenBit,
        announced => announced,
    }
}

/// What the standing rules say of a message that they hold. The queue does it, when the message is durable; what they refuse is
/// told by it, too.
fn held(
    context: &Context,
    transaction: &Transaction,
    envelope: &Envelope,
    header: &[&[u8]],
) -> Option<Decision> {
    let rules = transaction.queue.rules();
    if rules.is_empty() {
        return None;
    }
    match rules.forecast(envelope, Some(&header.concat())) {
        Some(Forecast::Accepted { rule, .. }) if rule.action == RuleAction::Hold => {
            Some(context.held_by_rule(rule.id, &rule.reason))
        }
        Some(Forecast::Accepted { .. } | Forecast::Refused(_)) | None => None,
    }
}

/// What is wrong with a message whatever follows: asked at its end, and behind each of its chunks.
pub(crate) fn check(context: &Context, lines: Lines, failure: Option<&Failure>) -> Result<(), Refusal> {
    let Lines { findings, normalised, converted } = lines;
    // The first thing that a client can mend: how it writes lines. A message without line ends looks long in every way.
    if findings.bare_cr || (findings.bare_lf && !normalised) {
        let reply = match converted {
            true => replies::bare_line_end_outside_binary_parts(),
            false => replies::bare_line_end_in_message(),
        };
        return Err(Refusal::new("bare-line-end", reply));
    }
    if let Some(failure) = failure {
        return Err(failed(context, failure));
    }
    if findings.long_line {
        let limit = context.config.smtp.max_data_line;
        return Err(Refusal::new("long-line", replies::long_line_in_message(limit)));
    }
    Ok(())
}

fn hop<'a>(context: &'a Context, transaction: &'a Transaction) -> Hop<'a> {
    Hop {
        hostname: &context.config.hostname,
        client: context.peer.address(),
        lmtp: context.speaks_lmtp(),
        hello: &transaction.hello,
        tls: context.tls,
        certificate: context.certificate.as_ref().map(|certificate| certificate.sha256.as_str()),
        authenticated: context.login.is_some(),
        smtputf8: transaction.smtputf8,
        only_recipient: transaction.only.as_deref(),
        completes: context.peer.listener.is_submission(),
    }
}

/// The queue said no.
pub(crate) fn not_stored(error: &AcceptError) -> Refusal {
    let reason = match error {
        AcceptError::NoSpace(_) => "no-space",
        AcceptError::Full(_) => "queue-full",
        AcceptError::Rule(_) => "standing-rule",
        AcceptError::Timeout | AcceptError::Store(_) => {
            tracing::error!(event = "store", "{error}");
            "store-error"
        }
    };
    Refusal::new(reason, replies::not_stored(error))
}

fn failed(context: &Context, failure: &Failure) -> Refusal {
    let limits = &context.config.smtp;
    match failure {
        Failure::TooLarge => {
            Refusal::new("message-too-large", replies::message_too_large(limits.max_message_size))
        }
        Failure::TooLargeConverted => {
            Refusal::new("message-too-large", replies::converted_message_too_large(limits.max_message_size))
        }
        Failure::Unconvertible(error) => Refusal::new("not-convertible", replies::not_convertible(error)),
        Failure::HeaderTooLarge => {
            Refusal::new("header-too-large", replies::header_too_large(limits.max_header_size))
        }
        Failure::NoMemory => Refusal::new("no-memory", replies::no_room_for_mail()),
        Failure::Store(error) => not_stored(error),
    }
}

/// By which right the message came: decides whether it is signed.
pub(crate) fn origin(context: &Context, matter: Matter<'_>) -> Origin {
    if let Some(login) = &context.login {
        return Origin::Login(login.name.clone());
    }
    if let Some(trusted) = context.policy.relay.trusted_network(context.peer.client) {
        return Origin::TrustedNetwork(trusted.label.clone());
    }
    let granted = context.policy.granted(&context.question(matter, Stage::Mail));
    granted.map_or(Origin::Outsider, Origin::Granted)
}
