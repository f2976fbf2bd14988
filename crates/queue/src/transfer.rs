//! Moving a message from one machine's queue to another's: its envelope and state in words, its id kept.
//!
//! Nothing is lost on the way: recipients that were done stay done, a hold stays a hold, lifetimes count from when the
//! message was first accepted. Leases do not travel: a message that is being delivered belongs where it is.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use postern_smtp::{Address, Body, EnvelopeId, Notify, OriginalRecipient, Ret, ReversePath};
use serde::{Deserialize, Serialize};

use crate::Queue;
use crate::codec::{self, milliseconds};
use crate::edits::Edits;
use crate::envelope::{Envelope, Origin, Recipient, checked_priority};
use crate::incoming::{AcceptError, Incoming};
use crate::message::{QueueId, Report};
use crate::state::{MessageState, Phase, RecipientState, shortened};
use crate::terms::{DeliverBy, Late, Terms};

/// The version of [`Transfer`].
pub const FORMAT: u32 = 1;

/// Characters of a text that is not evidence.
const MAX_TEXT: usize = 4096;

/// Ids may be made by a clock that is ahead by so much. One from far in the future would use up all that are greater.
const MAX_AHEAD: Duration = Duration::from_secs(24 * 3600);

/// A queued message without its content. Times are milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transfer {
    /// [`FORMAT`].
    pub format: u32,
    /// The queue id.
    pub id: String,
    /// When it was accepted.
    pub received: u64,
    /// Octets of the content.
    pub size: u64,
    /// MAIL FROM; empty is the null sender.
    pub sender: String,
    /// By which right it came.
    pub origin: TransferOrigin,
    /// The client's address.
    pub client: Option<IpAddr>,
    /// The argument of EHLO or HELO.
    pub helo: Option<String>,
    /// Where the client had the message from, as it said by XFORWARD.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forwarded: Option<String>,
    /// `7BIT`, `8BITMIME` or `BINARYMIME`.
    pub body: String,
    /// Whether it needs SMTPUTF8.
    pub smtputf8: bool,
    /// `FULL` or `HDRS`.
    pub ret: Option<String>,
    /// ENVID.
    pub envelope_id: Option<String>,
    /// The Message-ID.
    pub message_id: Option<String>,
    /// How far it is brought forward: -9 to 9.
    #[serde(default)]
    pub priority: i8,
    /// What its sender demands of every server on the way.
    #[serde(default, skip_serializing_if = "TransferTerms::is_none")]
    pub terms: TransferTerms,
    /// Why it is held.
    pub held: Option<String>,
    /// When the hold ends by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_until: Option<u64>,
    /// Attempts that ended without an outcome.
    pub strikes: u8,
    /// Whether the sender was told of a delay.
    pub delay_told: bool,
    /// All recipients, those that are done included.
    pub recipients: Vec<TransferRecipient>,
}

/// What a sender demands: [`Terms`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TransferTerms {
    /// REQUIRETLS.
    pub require_tls: bool,
    /// `TLS-Required: No`.
    pub tls_optional: bool,
    /// Nothing is tried before.
    pub release: Option<u64>,
    /// When it is to be delivered.
    pub deliver_by: Option<u64>,
    /// Whether it is tried on when it is late, and does not return.
    pub tried_when_late: bool,
    /// Whether each host that takes it is reported.
    pub trace: bool,
    /// MT-PRIORITY.
    pub priority: Option<i8>,
}

impl TransferTerms {
    fn is_none(&self) -> bool {
        *self == Self::default()
    }

    fn describe(terms: &Terms) -> Self {
        let by = terms.deliver_by;
        Self {
            require_tls: terms.require_tls,
            tls_optional: terms.tls_optional,
            release: terms.release.map(milliseconds),
            deliver_by: by.map(|by| milliseconds(by.at)),
            tried_when_late: by.is_some_and(|by| by.late == Late::Notify),
            trace: by.is_some_and(|by| by.trace),
            priority: terms.priority,
        }
    }

    fn read(&self) -> Result<Terms, String> {
        let late = if self.tried_when_late { Late::Notify } else { Late::Return };
        let by = |at| Ok::<_, String>(DeliverBy { at: time(at)?, late, trace: self.trace });
        Ok(Terms {
            require_tls: self.require_tls,
            tls_optional: self.tls_optional,
            release: self.release.map(time).transpose()?,
            deliver_by: self.deliver_by.map(by).transpose()?,
            priority: self.priority.map(checked_priority).transpose()?,
        })
    }
}

/// By which right a message came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TransferOrigin {
    /// From a login.
    Login(String),
    /// From a trusted network, by its label.
    TrustedNetwork(String),
    /// From a client with another right, in words.
    Granted(String),
    /// From anybody.
    Outsider,
    /// Written by the server.
    Own,
}

/// A recipient on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransferRecipient {
    /// Where the message goes.
    pub address: String,
    /// What RCPT TO said, where it differs.
    pub given: Option<String>,
    /// Reports that are wanted: `success`, `failure`, `delay`.
    pub notify: Vec<String>,
    /// ORCPT: its kind and address.
    pub original: Option<(String, String)>,
    /// What became of it.
    pub state: TransferState,
    /// When it is tried next; left out: at once.
    pub next: Option<u64>,
    /// Whether a report about it is owed.
    pub report_owed: bool,
    /// Attempts so far.
    pub attempts: u32,
    /// Whether an interval that the other side asked for was granted.
    pub wish_granted: bool,
    /// Those of the attempts that the schedule does not count, as an operator had it begin anew.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub forgiven: u32,
    /// Whether others took its place when the message was rewritten.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replaced: bool,
    /// Whether it is an alias of which only a report is owed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub expanded: bool,
    /// Whether the report that is owed says that it was delivered, not relayed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_final: bool,
    /// The route that an operator has chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
    /// The last evidence.
    pub last: Option<TransferReport>,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// What became of a recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TransferState {
    /// To be tried.
    Waiting,
    /// Done.
    Delivered,
    /// Given up.
    Failed,
    /// Given up because its time was over.
    Expired,
}

/// The evidence of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransferReport {
    /// The enhanced code.
    pub status: String,
    /// What was said.
    pub text: String,
    /// Whether it is an SMTP reply.
    pub is_reply: bool,
    /// By whom.
    pub host: Option<String>,
    /// Over which protection.
    pub tls: Option<String>,
    /// When.
    pub at: u64,
}

/// Why a message is not taken from another queue.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// A message with this id is in the queue.
    #[error("already in the queue")]
    Present,
    /// Every recipient is done: there is nothing to deliver and nothing to report.
    #[error("already over: no recipient waits")]
    Over,
    /// The description makes no sense.
    #[error("{0}")]
    Bad(String),
    /// The queue takes nothing now.
    #[error(transparent)]
    Accept(#[from] AcceptError),
}

impl Queue {
    /// A message in words, for another queue. None if it is not here, or is being delivered. Blocking.
    pub fn transfer(&self, id: QueueId) -> Option<Transfer> {
        let describe = |envelope: &Envelope, state: &MessageState| {
            let is_in_hand = |r: &RecipientState| r.leased || r.ending.is_some();
            let in_flight = state.recipients.iter().any(is_in_hand);
            (!in_flight).then(|| describe(id, envelope, state))
        };
        self.inner.read(id, describe).flatten()
    }

    /// Begins to take a message from another queue: write its content, which has our header fields already, and commit it
    /// with the envelope and no header.
    ///
    /// # Errors
    /// [`TransferError`].
    pub fn incoming_transfer(&self, transfer: &Transfer) -> Result<(Incoming, Envelope), TransferError> {
        let now = self.inner.clock.now();
        let (id, envelope, state) = read(transfer, now).map_err(TransferError::Bad)?;
        if self.inner.messages.lock().entry(id).is_some() {
            return Err(TransferError::Present);
        }
        if state.is_over() {
            return Err(TransferError::Over);
        }
        self.admits(envelope.size)?;
        Ok((Incoming::transferred(self.inner.clone(), id, state.encode()), envelope))
    }
}

pub(crate) fn describe(id: QueueId, envelope: &Envelope, state: &MessageState) -> Transfer {
    let recipients = envelope.recipients.iter().zip(&state.recipients);
    Transfer {
        format: FORMAT,
        id: id.to_string(),
        received: milliseconds(envelope.received),
        size: envelope.size,
        sender: envelope.reverse_path.to_string(),
        origin: match &envelope.origin {
            Origin::Login(login) => TransferOrigin::Login(login.clone()),
            Origin::TrustedNetwork(label) => TransferOrigin::TrustedNetwork(label.clone()),
            Origin::Granted(right) => TransferOrigin::Granted(right.clone()),
            Origin::Outsider => TransferOrigin::Outsider,
            Origin::Own => TransferOrigin::Own,
        },
        client: envelope.client,
        helo: envelope.helo.clone(),
        forwarded: envelope.forwarded.clone(),
        body: envelope.body.as_str().to_owned(),
        smtputf8: envelope.smtputf8,
        ret: envelope.ret.map(|ret| if ret == Ret::Full { FULL } else { HEADERS }.to_owned()),
        envelope_id: envelope.envelope_id.as_ref().map(|id| id.0.clone()),
        message_id: envelope.message_id.clone(),
        priority: envelope.priority,
        terms: TransferTerms::describe(&envelope.terms),
        held: state.held.clone(),
        held_until: state.held_until.map(milliseconds),
        strikes: state.strikes,
        delay_told: state.delay_told,
        recipients: recipients.map(|(recipient, state)| describe_recipient(recipient, state)).collect(),
    }
}

const FULL: &str = "FULL";
const HEADERS: &str = "HDRS";

fn describe_recipient(recipient: &Recipient, state: &RecipientState) -> TransferRecipient {
    let Notify { success, failure, delay } = recipient.notify;
    let notify = [("success", success), ("failure", failure), ("delay", delay)];
    let (shown, next) = match state.phase {
        Phase::Waiting { next } => (TransferState::Waiting, next),
        Phase::Delivered { .. } => (TransferState::Delivered, None),
        Phase::Failed { expired: false, .. } => (TransferState::Failed, None),
        Phase::Failed { expired: true, .. } => (TransferState::Expired, None),
    };
    TransferRecipient {
        address: recipient.address.to_string(),
        given: recipient.given.as_ref().map(Address::to_string),
        notify: notify.into_iter().filter(|(_, wanted)| *wanted).map(|(name, _)| name.to_owned()).collect(),
        original: recipient.original.as_ref().map(|o| (o.kind.clone(), o.address.clone())),
        state: shown,
        next: next.map(milliseconds),
        report_owed: state.phase.owes_report(),
        attempts: state.attempts,
        wish_granted: state.wish_granted,
        forgiven: state.forgiven,
        replaced: state.replaced,
        expanded: recipient.expanded,
        is_final: state.is_final,
        via: recipient.via.as_deref().map(str::to_owned),
        last: state.last.as_ref().map(|report| TransferReport {
            status: report.status.to_string(),
            text: report.text.clone(),
            is_reply: report.is_reply,
            host: report.host.clone(),
            tls: report.tls.clone(),
            at: milliseconds(report.at),
        }),
    }
}

type Described = (QueueId, Envelope, MessageState);

/// Reads a description as strictly as what a client says: it goes into replies, reports and log lines like that.
fn read(transfer: &Transfer, now: SystemTime) -> Result<Described, String> {
    if transfer.format != FORMAT {
        return Err(format!("format {} is not known here, only {FORMAT}", transfer.format));
    }
    let id: QueueId = transfer.id.parse().map_err(|error| format!("{:?}: {error}", transfer.id))?;
    let newest = milliseconds(now + MAX_AHEAD).saturating_mul(1000) << 8;
    if id.0 == 0 || id.0 > newest {
        return Err(format!("the id {id} was made by a clock that is far ahead"));
    }
    if transfer.recipients.is_empty() {
        return Err("a message without recipients".to_owned());
    }
    let sender = ReversePath::parse(&transfer.sender).map_err(|e| format!("{:?}: {e}", transfer.sender))?;
    let recipients = transfer.recipients.iter().map(read_recipient).collect::<Result<_, _>>()?;
    let envelope = Envelope {
        reverse_path: sender,
        origin: match &transfer.origin {
            TransferOrigin::Login(login) => Origin::Login(one_line(login)?),
            TransferOrigin::TrustedNetwork(label) => Origin::TrustedNetwork(one_line(label)?),
            TransferOrigin::Granted(right) => Origin::Granted(one_line(right)?),
            TransferOrigin::Outsider => Origin::Outsider,
            TransferOrigin::Own => Origin::Own,
        },
        client: transfer.client,
        helo: optional_line(transfer.helo.as_deref())?,
        forwarded: optional_line(transfer.forwarded.as_deref())?,
        received: time(transfer.received)?.min(now),
        body: read_body(&transfer.body)?,
        smtputf8: transfer.smtputf8,
        ret: transfer.ret.as_deref().map(read_ret).transpose()?,
        envelope_id: optional_line(transfer.envelope_id.as_deref())?.map(EnvelopeId),
        message_id: optional_line(transfer.message_id.as_deref())?,
        priority: checked_priority(transfer.priority)?,
        terms: transfer.terms.read()?,
        size: transfer.size,
        recipients,
    };
    let states = transfer.recipients.iter().map(read_state).collect::<Result<_, _>>()?;
    let state = MessageState {
        held: optional_line(transfer.held.as_deref())?,
        held_until: transfer.held_until.map(time).transpose()?,
        strikes: transfer.strikes,
        delay_told: transfer.delay_told,
        edits: Edits { routes: routes(&envelope), ..Edits::default() },
        recipients: states,
    };
    Ok((id, envelope, state))
}

fn read_recipient(recipient: &TransferRecipient) -> Result<Recipient, String> {
    let address = |text: &String| Address::parse(text).map_err(|error| format!("{text:?}: {error}"));
    let mut notify = Notify { success: false, failure: false, delay: false };
    for wanted in &recipient.notify {
        match wanted.as_str() {
            "success" => notify.success = true,
            "failure" => notify.failure = true,
            "delay" => notify.delay = true,
            _ => return Err(format!("notify {wanted:?}: success, failure or delay")),
        }
    }
    let original = recipient.original.as_ref().map(|(kind, address)| {
        Ok::<_, String>(OriginalRecipient { kind: one_line(kind)?, address: one_line(address)? })
    });
    Ok(Recipient {
        address: address(&recipient.address)?,
        given: recipient.given.as_ref().map(address).transpose()?,
        notify,
        original: original.transpose()?,
        via: optional_line(recipient.via.as_deref())?.map(Arc::from),
        expanded: recipient.expanded,
    })
}

/// The routes by recipient, as the state keeps them. A changed sender and added recipients are simply those of the envelope
/// in its new queue.
fn routes(envelope: &Envelope) -> BTreeMap<u32, Arc<str>> {
    let recipients = (0..).zip(&envelope.recipients);
    recipients.filter_map(|(index, recipient)| Some((index, recipient.via.clone()?))).collect()
}

fn read_state(recipient: &TransferRecipient) -> Result<RecipientState, String> {
    let report_owed = recipient.report_owed;
    Ok(RecipientState {
        phase: match recipient.state {
            TransferState::Waiting => Phase::Waiting { next: recipient.next.map(time).transpose()? },
            TransferState::Delivered => Phase::Delivered { report_owed },
            TransferState::Failed => Phase::Failed { expired: false, report_owed },
            TransferState::Expired => Phase::Failed { expired: true, report_owed },
        },
        attempts: recipient.attempts,
        forgiven: recipient.forgiven,
        wish_granted: recipient.wish_granted,
        replaced: recipient.replaced,
        is_final: recipient.is_final,
        ending: None,
        last: recipient.last.as_ref().map(read_report).transpose()?,
        leased: false,
        due: false,
    })
}

fn read_report(report: &TransferReport) -> Result<Report, String> {
    let status = report.status.parse().map_err(|_| format!("{:?} is no enhanced code", report.status))?;
    Ok(Report {
        status,
        text: shortened(&report.text).to_owned(),
        is_reply: report.is_reply,
        host: optional_line(report.host.as_deref())?,
        tls: optional_line(report.tls.as_deref())?,
        at: time(report.at)?,
    })
}

fn read_body(text: &str) -> Result<Body, String> {
    let known = [Body::SevenBit, Body::EightBitMime, Body::BinaryMime];
    let found = known.into_iter().find(|body| body.as_str() == text);
    found.ok_or_else(|| format!("body {text:?}: 7BIT, 8BITMIME or BINARYMIME"))
}

fn read_ret(text: &str) -> Result<Ret, String> {
    match text {
        FULL => Ok(Ret::Full),
        HEADERS => Ok(Ret::Headers),
        _ => Err(format!("ret {text:?}: {FULL} or {HEADERS}")),
    }
}

fn time(milliseconds: u64) -> Result<SystemTime, String> {
    codec::time(milliseconds).ok_or_else(|| format!("{milliseconds} is no time"))
}

fn one_line(text: &str) -> Result<String, String> {
    if text.chars().any(char::is_control) || text.chars().count() > MAX_TEXT {
        return Err(format!("a text must be one line of at most {MAX_TEXT} characters"));
    }
    Ok(text.to_owned())
}

fn optional_line(text: Option<&str>) -> Result<Option<String>, String> {
    text.map(one_line).transpose()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use postern_smtp::EnhancedStatus;

    const NOW: u64 = 1_795_284_325_000;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(NOW)
    }

    fn sample() -> Described {
        let mut envelope = Envelope {
            reverse_path: ReversePath::parse("alice@proseware.test").unwrap(),
            origin: Origin::Login("alice".to_owned()),
            client: Some("2001:db8::1".parse().unwrap()),
            helo: Some("laptop".to_owned()),
            forwarded: Some("office.test [192.0.2.7]".to_owned()),
            received: now() - Duration::from_millis(5),
            body: Body::EightBitMime,
            smtputf8: true,
            ret: Some(Ret::Headers),
            envelope_id: Some(EnvelopeId("a+b".to_owned())),
            message_id: Some("1@proseware.test".to_owned()),
            priority: 3,
            terms: Terms {
                require_tls: true,
                tls_optional: false,
                release: Some(now() + Duration::from_secs(40)),
                deliver_by: Some(DeliverBy {
                    at: now() + Duration::from_secs(90),
                    late: Late::Notify,
                    trace: true,
                }),
                priority: Some(-2),
            },
            size: 123,
            recipients: crate::messages::tests::envelope(4).recipients,
        };
        envelope.recipients[1].via = Some("smarthost relay.test".into());
        let last = Report {
            status: EnhancedStatus::new(4, 7, 1),
            text: "450-4.7.1 slow\r\n450 4.7.1 down".to_owned(),
            is_reply: true,
            host: Some("mx.adatum.test".to_owned()),
            tls: Some("TLSv1.3 verified".to_owned()),
            at: now(),
        };
        let phases = [
            Phase::Waiting { next: Some(now()) },
            Phase::Delivered { report_owed: true },
            Phase::Failed { expired: true, report_owed: false },
            Phase::Waiting { next: None },
        ];
        let recipient = |phase| RecipientState {
            phase,
            attempts: 3,
            forgiven: 2,
            wish_granted: true,
            is_final: false,
            replaced: true,
            ending: None,
            last: Some(last.clone()),
            due: false,
            leased: false,
        };
        let state = MessageState {
            held: Some("waits".to_owned()),
            held_until: Some(now() + Duration::from_secs(60)),
            strikes: 1,
            delay_told: true,
            edits: Edits { routes: BTreeMap::from([(1, "smarthost relay.test".into())]), ..Edits::default() },
            recipients: phases.map(recipient).into(),
        };
        (QueueId((NOW * 1000) << 8), envelope, state)
    }

    fn transfer() -> Transfer {
        let (id, envelope, state) = sample();
        describe(id, &envelope, &state)
    }

    #[test]
    fn nothing_is_lost_on_the_way() {
        assert_eq!(read(&transfer(), now()), Ok(sample()));
        let (id, envelope, state) = sample();
        for origin in [Origin::Own, Origin::Outsider, Origin::TrustedNetwork("office".to_owned())] {
            let envelope = Envelope { origin, reverse_path: ReversePath::Null, ..envelope.clone() };
            let there = read(&describe(id, &envelope, &state), now());
            assert_eq!(there, Ok((id, envelope, state.clone())));
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let some = |text: &str| Some(text.to_owned());
        let with = |change: &dyn Fn(&mut Transfer)| {
            let mut transfer = transfer();
            change(&mut transfer);
            read(&transfer, now()).unwrap_err()
        };
        type Refused<'a> = (&'a dyn Fn(&mut Transfer), &'a str);
        let refused: [Refused<'_>; 12] = [
            (&|t| t.format = 2, "format 2"),
            (&|t| t.id = "x".to_owned(), "not a queue id"),
            (&|t| t.id = QueueId(u64::MAX).to_string(), "far ahead"),
            (&|t| t.sender = "nobody".to_owned(), "nobody"),
            (&|t| t.helo = some("a\r\nb"), "one line"),
            (&|t| t.forwarded = some("a\r\nb"), "one line"),
            (&|t| t.envelope_id = some("a\r\nRCPT"), "one line"),
            (&|t| t.body = "8bit".to_owned(), "7BIT"),
            (&|t| t.ret = some("all"), "FULL"),
            (&|t| t.recipients[0].notify = vec!["never".to_owned()], "success"),
            (&|t| t.recipients[0].address = "x@".to_owned(), "x@"),
            (&|t| t.recipients.clear(), "without recipients"),
        ];
        for (change, says) in refused {
            let error = with(change);
            assert!(error.contains(says), "{error}");
        }
    }
}
