//! What has become of a message's recipients so far, and its encoding in the spool.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::SystemTime;

use postern_smtp::EnhancedStatus;

use crate::codec::{Damaged, Reader, Writer};
use crate::edits::{self, Edits};
use crate::envelope::{Envelope, Recipient};
use crate::events::EventKind;
use crate::message::Report;

/// Evidence is kept up to this many octets: a reply of several lines fits, a hostile one does not fill the memory.
const MAX_EVIDENCE: usize = 512;

/// The durable state of a message, all its recipients together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct MessageState {
    /// Why it is held, if it is.
    pub(crate) held: Option<String>,
    /// When the hold ends by itself, if it does.
    pub(crate) held_until: Option<SystemTime>,
    /// Attempts that ended without an outcome.
    pub(crate) strikes: u8,
    /// Whether the sender was told of the delay.
    pub(crate) delay_told: bool,
    /// What operators have changed of the envelope.
    pub(crate) edits: Edits,
    /// In the order of the envelope, and behind them those that were added.
    pub(crate) recipients: Vec<RecipientState>,
}

/// The state of one recipient.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RecipientState {
    pub(crate) phase: Phase,
    /// Attempts with an outcome.
    pub(crate) attempts: u32,
    /// Those of them that the schedule does not count: before an operator had it begin anew.
    pub(crate) forgiven: u32,
    /// Whether an interval asked for by the other side was granted: once is enough.
    pub(crate) wish_granted: bool,
    /// Whether delivery ended here: a mailbox has it, and no other host will tell the sender of it.
    pub(crate) is_final: bool,
    /// Whether others took its place when the message was rewritten. Its phase is that of a failure of which nobody is told.
    pub(crate) replaced: bool,
    /// The evidence of the last attempt.
    pub(crate) last: Option<Report>,
    /// What becomes of it when the attempt under way ends without delivery: an operator has ended it meanwhile.
    pub(crate) ending: Option<Box<Ending>>,
    /// Whether an attempt is under way. Never written: a crash ends all leases.
    pub(crate) leased: bool,
    /// Whether its time has come, so that it stands in the line of its destination. Never written: it follows from the time.
    pub(crate) due: bool,
}

impl RecipientState {
    /// Whether it waits for nothing but room at its destination.
    pub(crate) fn is_due(&self) -> bool {
        self.due || self.phase == Phase::Waiting { next: None }
    }

    /// Has it wait until a time; without one it is due.
    pub(crate) fn wait_until(&mut self, next: Option<SystemTime>) {
        self.phase = Phase::Waiting { next };
        self.due = false;
    }

    /// Ends it.
    pub(crate) fn end(&mut self, phase: Phase) {
        self.phase = phase;
        self.due = false;
    }
}

/// How an operator ends a recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ending {
    pub(crate) kind: EndingKind,
    /// Kept as its evidence.
    pub(crate) report: Report,
}

/// The ways to end a recipient by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum EndingKind {
    /// The sender is told.
    Failed,
    /// Nobody is told.
    Dropped,
    /// It counts as delivered; nobody is told.
    Delivered,
    /// Others have taken its place; nobody is told.
    Replaced,
}

impl EndingKind {
    const ALL: [Self; 4] = [Self::Failed, Self::Dropped, Self::Delivered, Self::Replaced];

    /// What is told of it.
    pub(crate) fn event(self) -> EventKind {
        match self {
            Self::Failed => EventKind::Failed,
            Self::Dropped => EventKind::Dropped,
            Self::Delivered | Self::Replaced => EventKind::Edited,
        }
    }

    /// As views name it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Dropped => "dropped",
            Self::Delivered => "delivered",
            Self::Replaced => "replaced",
        }
    }

    fn decode(number: u64) -> Result<Self, Damaged> {
        let kind = usize::try_from(number).ok().and_then(|number| Self::ALL.get(number));
        kind.copied().ok_or(Damaged::Value("ending"))
    }
}

/// Where a recipient is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// To be tried at a time, or, without one, as soon as there is room.
    Waiting { next: Option<SystemTime> },
    /// Done. A report is owed where the sender asked for one and has none yet.
    Delivered { report_owed: bool },
    /// Given up.
    Failed { expired: bool, report_owed: bool },
}

impl Default for Phase {
    fn default() -> Self {
        Self::Waiting { next: None }
    }
}

impl Phase {
    pub(crate) fn is_waiting(self) -> bool {
        matches!(self, Self::Waiting { .. })
    }

    pub(crate) fn owes_report(self) -> bool {
        matches!(self, Self::Delivered { report_owed: true } | Self::Failed { report_owed: true, .. })
    }

    /// The same with its report written.
    pub(crate) fn reported(self) -> Self {
        match self {
            Self::Waiting { .. } => self,
            Self::Delivered { .. } => Self::Delivered { report_owed: false },
            Self::Failed { expired, .. } => Self::Failed { expired, report_owed: false },
        }
    }
}

mod tag {
    pub(super) const HELD: u8 = 1;
    pub(super) const STRIKES: u8 = 2;
    pub(super) const DELAY_TOLD: u8 = 3;
    pub(super) const RECIPIENT: u8 = 4;
    pub(super) const HELD_UNTIL: u8 = 5;
    // 6, 7, 8 and 10 are those of `edits::tag`.
    /// Evidence that several recipients share; it stands in front of them and is counted from zero.
    pub(super) const REPORT: u8 = 9;

    /// Fields of a recipient. Without any, it waits and was never tried.
    pub(super) mod recipient {
        pub(in super::super) const NEXT: u8 = 1;
        pub(in super::super) const DELIVERED: u8 = 2;
        pub(in super::super) const FAILED: u8 = 3;
        pub(in super::super) const EXPIRED: u8 = 4;
        pub(in super::super) const REPORT_OWED: u8 = 5;
        pub(in super::super) const ATTEMPTS: u8 = 6;
        pub(in super::super) const WISH_GRANTED: u8 = 7;
        pub(in super::super) const LAST: u8 = 8;
        /// In place of `LAST`: the number of a shared report.
        pub(in super::super) const SHARED_LAST: u8 = 9;
        pub(in super::super) const FORGIVEN: u8 = 10;
        pub(in super::super) const REPLACED: u8 = 11;
        pub(in super::super) const ENDING: u8 = 12;
        /// The number of a shared report.
        pub(in super::super) const ENDING_REPORT: u8 = 13;
        pub(in super::super) const FINAL: u8 = 14;
    }

    /// Fields of the evidence.
    pub(super) mod report {
        /// Class, subject and detail, 16 bits each.
        pub(in super::super) const STATUS: u8 = 1;
        pub(in super::super) const TEXT: u8 = 2;
        pub(in super::super) const IS_REPLY: u8 = 3;
        pub(in super::super) const HOST: u8 = 4;
        pub(in super::super) const TLS: u8 = 5;
        pub(in super::super) const AT: u8 = 6;
    }
}

impl MessageState {
    /// The state of a message that was just accepted, which may wait for its time. Aliases that were expanded get nothing, and a report is owed of them.
    pub(crate) fn of(envelope: &Envelope) -> Self {
        let recipients = envelope.recipients.iter().map(|recipient| RecipientState::of(envelope, recipient));
        Self { recipients: recipients.collect(), ..Self::default() }
    }

    /// Whether nothing has happened yet.
    pub(crate) fn is_fresh(&self, envelope: &Envelope) -> bool {
        let mut recipients = self.recipients.iter().zip(&envelope.recipients);
        let is_fresh = |(state, recipient): (&RecipientState, &Recipient)| {
            *state == RecipientState::of(envelope, recipient)
        };
        self.held.is_none() && self.strikes == 0 && !self.delay_told && recipients.all(is_fresh)
    }

    /// Whether nothing remains to be done: no recipient waits and no report is owed. A message whose envelope cannot be read
    /// has no recipients and is held: that is no end.
    pub(crate) fn is_over(&self) -> bool {
        let is_unreadable = self.recipients.is_empty() && self.held.is_some();
        !is_unreadable && self.recipients.iter().all(|r| !r.phase.is_waiting() && !r.phase.owes_report())
    }

    /// Whether a recipient may be leased.
    pub(crate) fn is_ready(&self, index: u32) -> bool {
        let recipient = self.recipients.get(index as usize);
        let is_ready = |r: &RecipientState| r.is_due() && !r.leased && r.ending.is_none();
        self.held.is_none() && recipient.is_some_and(is_ready)
    }

    /// How the spool keeps it.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::record();
        writer.optional_text(tag::HELD, self.held.as_deref());
        if let Some(until) = self.held_until {
            writer.time(tag::HELD_UNTIL, until);
        }
        if self.strikes > 0 {
            writer.number(tag::STRIKES, self.strikes.into());
        }
        writer.flag(tag::DELAY_TOLD, self.delay_told);
        self.edits.encode(&mut writer);
        let shared = Shared::among(&self.recipients);
        for report in &shared.reports {
            writer.nested(tag::REPORT, |writer| encode_report(report, writer));
        }
        for recipient in &self.recipients {
            writer.nested(tag::RECIPIENT, |writer| recipient.encode(&shared, writer));
        }
        writer.finish()
    }

    /// Reads what [`MessageState::encode`] wrote, for a message that was accepted for so many recipients.
    ///
    /// # Errors
    /// [`Damaged`].
    pub(crate) fn decode(encoded: &[u8], recipients: usize) -> Result<Self, Damaged> {
        let mut state = Self::default();
        let mut shared = Vec::new();
        let mut reader = Reader::record(encoded)?;
        while let Some(field) = reader.field()? {
            match field.tag {
                tag::HELD => state.held = Some(field.owned_text()?),
                tag::STRIKES => state.strikes = field.small_number()?,
                tag::DELAY_TOLD => state.delay_told = true,
                tag::RECIPIENT => {
                    state.recipients.push(RecipientState::decode(field.fields(), &shared)?);
                }
                tag::HELD_UNTIL => state.held_until = Some(field.time()?),
                tag::REPORT => shared.push(decode_report(field.fields())?),
                edits::tag::SENDER | edits::tag::ADDED | edits::tag::ROUTE | edits::tag::PRIORITY => {
                    state.edits.take(field)?;
                }
                _ => {}
            }
        }
        // A release that does not know of added recipients comes here too, and holds the message: better than to lose them.
        if state.recipients.len() != recipients + state.edits.added.len() {
            return Err(Damaged::Value("number of recipients"));
        }
        Ok(state)
    }
}

/// Reports that stand in front of the recipients: those that several of them have, and those of endings.
#[derive(Debug, Default)]
struct Shared<'a> {
    reports: Vec<&'a Report>,
    numbers: HashMap<&'a Report, u64>,
}

impl<'a> Shared<'a> {
    fn among(recipients: &'a [RecipientState]) -> Self {
        let mut shared = Self::default();
        let mut seen: HashMap<&Report, usize> = HashMap::new();
        if recipients.len() > 1 {
            for report in recipients.iter().filter_map(|recipient| recipient.last.as_ref()) {
                let times = seen.entry(report).or_default();
                *times += 1;
                if *times == 2 {
                    shared.add(report);
                }
            }
        }
        for ending in recipients.iter().filter_map(|recipient| recipient.ending.as_deref()) {
            shared.add(&ending.report);
        }
        shared
    }

    fn add(&mut self, report: &'a Report) {
        let number = self.reports.len() as u64;
        if let Entry::Vacant(place) = self.numbers.entry(report) {
            place.insert(number);
            self.reports.push(report);
        }
    }

    fn number(&self, report: &Report) -> Option<u64> {
        self.numbers.get(report).copied()
    }
}

/// A report by its number.
fn shared_report(shared: &[Report], number: u64) -> Result<Report, Damaged> {
    let report = usize::try_from(number).ok().and_then(|number| shared.get(number));
    report.cloned().ok_or(Damaged::Value("number of a report"))
}

impl RecipientState {
    /// When nothing has happened to it yet.
    fn of(envelope: &Envelope, recipient: &Recipient) -> Self {
        let phase = match recipient.expanded {
            true => Phase::Delivered { report_owed: recipient.notify.success && !envelope.has_null_sender() },
            false => Phase::Waiting { next: envelope.terms.release },
        };
        Self { phase, ..Self::default() }
    }

    fn encode(&self, shared: &Shared<'_>, writer: &mut Writer) {
        match self.phase {
            Phase::Waiting { next: None } => {}
            Phase::Waiting { next: Some(next) } => writer.time(tag::recipient::NEXT, next),
            Phase::Delivered { .. } => writer.flag(tag::recipient::DELIVERED, true),
            Phase::Failed { expired, .. } => {
                writer.flag(tag::recipient::FAILED, true);
                writer.flag(tag::recipient::EXPIRED, expired);
            }
        }
        writer.flag(tag::recipient::REPORT_OWED, self.phase.owes_report());
        if self.attempts > 0 {
            writer.number(tag::recipient::ATTEMPTS, self.attempts.into());
        }
        writer.flag(tag::recipient::WISH_GRANTED, self.wish_granted);
        if self.forgiven > 0 {
            writer.number(tag::recipient::FORGIVEN, self.forgiven.into());
        }
        writer.flag(tag::recipient::REPLACED, self.replaced);
        writer.flag(tag::recipient::FINAL, self.is_final);
        if let Some(report) = &self.last {
            match shared.number(report) {
                Some(number) => writer.number(tag::recipient::SHARED_LAST, number),
                None => writer.nested(tag::recipient::LAST, |writer| encode_report(report, writer)),
            }
        }
        if let Some(ending) = &self.ending
            && let Some(number) = shared.number(&ending.report)
        {
            writer.number(tag::recipient::ENDING, ending.kind as u64);
            writer.number(tag::recipient::ENDING_REPORT, number);
        }
    }

    fn decode(mut reader: Reader<'_>, shared: &[Report]) -> Result<Self, Damaged> {
        let mut state = Self::default();
        let (mut ending, mut ending_report) = (None, None);
        let (mut next, mut delivered, mut failed) = (None, false, false);
        let (mut expired, mut report_owed) = (false, false);
        while let Some(field) = reader.field()? {
            match field.tag {
                tag::recipient::NEXT => next = Some(field.time()?),
                tag::recipient::DELIVERED => delivered = true,
                tag::recipient::FAILED => failed = true,
                tag::recipient::EXPIRED => expired = true,
                tag::recipient::REPORT_OWED => report_owed = true,
                tag::recipient::ATTEMPTS => state.attempts = field.small_number()?,
                tag::recipient::WISH_GRANTED => state.wish_granted = true,
                tag::recipient::LAST => state.last = Some(decode_report(field.fields())?),
                tag::recipient::SHARED_LAST => state.last = Some(shared_report(shared, field.number()?)?),
                tag::recipient::FORGIVEN => state.forgiven = field.small_number()?,
                tag::recipient::REPLACED => state.replaced = true,
                tag::recipient::FINAL => state.is_final = true,
                tag::recipient::ENDING => ending = Some(EndingKind::decode(field.number()?)?),
                tag::recipient::ENDING_REPORT => {
                    ending_report = Some(shared_report(shared, field.number()?)?);
                }
                _ => {}
            }
        }
        state.phase = match (delivered, failed) {
            (false, false) => Phase::Waiting { next },
            (true, false) => Phase::Delivered { report_owed },
            (false, true) => Phase::Failed { expired, report_owed },
            (true, true) => return Err(Damaged::Value("recipient state")),
        };
        state.ending = ending.zip(ending_report).map(|(kind, report)| Box::new(Ending { kind, report }));
        Ok(state)
    }
}

fn encode_report(report: &Report, writer: &mut Writer) {
    let EnhancedStatus { class, subject, detail } = report.status;
    writer.number(tag::report::STATUS, u64::from(class) << 32 | u64::from(subject) << 16 | u64::from(detail));
    writer.text(tag::report::TEXT, shortened(&report.text));
    writer.flag(tag::report::IS_REPLY, report.is_reply);
    writer.optional_text(tag::report::HOST, report.host.as_deref().map(shortened));
    writer.optional_text(tag::report::TLS, report.tls.as_deref().map(shortened));
    writer.time(tag::report::AT, report.at);
}

fn decode_report(mut reader: Reader<'_>) -> Result<Report, Damaged> {
    let mut report = Report {
        status: EnhancedStatus::new(4, 0, 0),
        text: String::new(),
        is_reply: false,
        host: None,
        tls: None,
        at: SystemTime::UNIX_EPOCH,
    };
    while let Some(field) = reader.field()? {
        match field.tag {
            tag::report::STATUS => report.status = status(field.number()?)?,
            tag::report::TEXT => report.text = field.owned_text()?,
            tag::report::IS_REPLY => report.is_reply = true,
            tag::report::HOST => report.host = Some(field.owned_text()?),
            tag::report::TLS => report.tls = Some(field.owned_text()?),
            tag::report::AT => report.at = field.time()?,
            _ => {}
        }
    }
    Ok(report)
}

fn status(number: u64) -> Result<EnhancedStatus, Damaged> {
    let class = u8::try_from(number >> 32).map_err(|_| Damaged::Value("status"))?;
    Ok(EnhancedStatus::new(class, (number >> 16) as u16, number as u16))
}

/// At most [`MAX_EVIDENCE`] octets of a text, whole characters.
pub(crate) fn shortened(text: &str) -> &str {
    let mut end = text.len().min(MAX_EVIDENCE);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    /// The state of a message that was just accepted, by the number of its recipients.
    pub(crate) fn fresh(recipients: usize) -> MessageState {
        MessageState { recipients: vec![RecipientState::default(); recipients], ..MessageState::default() }
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn sample() -> MessageState {
        let report = Report {
            status: EnhancedStatus::new(4, 7, 316),
            text: "450 4.7.1 later".to_owned(),
            is_reply: true,
            host: Some("mx.adatum.test".to_owned()),
            tls: Some("TLSv1.3 verified".to_owned()),
            at: at(5),
        };
        let phases = [
            Phase::Waiting { next: None },
            Phase::Waiting { next: Some(at(77)) },
            Phase::Delivered { report_owed: true },
            Phase::Delivered { report_owed: false },
            Phase::Failed { expired: true, report_owed: false },
            Phase::Failed { expired: false, report_owed: true },
        ];
        let recipients = phases.map(|phase| RecipientState {
            phase,
            attempts: 300,
            forgiven: 299,
            wish_granted: true,
            is_final: false,
            replaced: true,
            last: Some(report.clone()),
            ending: None,
            leased: false,
            due: false,
        });
        MessageState {
            held: Some("by hand".to_owned()),
            held_until: Some(at(99)),
            strikes: 2,
            delay_told: true,
            edits: Edits::default(),
            recipients: recipients.to_vec(),
        }
    }

    #[test]
    fn a_state_is_read_back_as_it_was_written() {
        assert_eq!(MessageState::decode(&sample().encode(), 6), Ok(sample()));
        let fresh = fresh(3);
        assert_eq!(MessageState::decode(&fresh.encode(), 3), Ok(fresh));
    }

    #[test]
    fn evidence_that_recipients_share_is_written_once() {
        let text = format!("450 4.2.1 {}", "x".repeat(390));
        let last = sample().recipients[0].last.clone().map(|report| Report { text, ..report });
        let mut state = fresh(1000);
        for recipient in &mut state.recipients {
            recipient.phase = Phase::Waiting { next: Some(at(1_795_284_325)) };
            recipient.attempts = 3;
            recipient.last = last.clone();
        }
        let encoded = state.encode();
        assert!(encoded.len() < 20_000, "{} octets: 17 for each recipient, and 400 once", encoded.len());
        assert_eq!(MessageState::decode(&encoded, 1000), Ok(state));
    }

    #[test]
    fn evidence_that_stands_with_each_recipient_is_read_as_well() {
        let recipients = sample().recipients;
        let mut writer = Writer::record();
        for recipient in &recipients {
            let alone = Shared::default();
            writer.nested(tag::RECIPIENT, |writer| recipient.encode(&alone, writer));
        }
        let read = MessageState::decode(&writer.finish(), recipients.len());
        assert_eq!(read.map(|state| state.recipients), Ok(recipients));
    }

    #[test]
    fn what_an_operator_wants_of_a_recipient_in_hand_is_read_back() {
        for kind in EndingKind::ALL {
            let mut state = sample();
            let report = Report { text: "moved".to_owned(), ..state.recipients[0].last.clone().unwrap() };
            state.recipients[1].ending = Some(Box::new(Ending { kind, report }));
            assert_eq!(MessageState::decode(&state.encode(), 6), Ok(state));
        }
    }

    #[test]
    fn a_number_without_a_report_is_damage() {
        let mut writer = Writer::record();
        writer.nested(tag::RECIPIENT, |writer| writer.number(tag::recipient::SHARED_LAST, 0));
        assert!(MessageState::decode(&writer.finish(), 1).is_err());
    }

    #[test]
    fn added_recipients_count_beside_those_of_the_envelope() {
        let mut state = fresh(3);
        state.edits.added = crate::messages::tests::envelope(1).recipients;
        assert!(MessageState::decode(&state.encode(), 3).is_err());
        assert_eq!(MessageState::decode(&state.encode(), 2), Ok(state));
    }

    #[test]
    fn a_state_of_another_message_is_damage() {
        assert!(MessageState::decode(&sample().encode(), 5).is_err());
    }

    #[test]
    fn evidence_is_cut_at_a_whole_character() {
        let mut state = fresh(1);
        let text = "ä".repeat(MAX_EVIDENCE);
        let report = sample().recipients[0].last.clone().map(|report| Report { text, ..report });
        state.recipients[0].last = report;
        let read = MessageState::decode(&state.encode(), 1);
        let text = read.ok().and_then(|s| s.recipients[0].last.clone()).map(|r| r.text);
        assert_eq!(text, Some("ä".repeat(MAX_EVIDENCE / 2)));
    }

    #[test]
    fn a_message_is_over_when_nobody_waits_and_nothing_is_owed() {
        assert!(!fresh(1).is_over());
        let mut state = fresh(2);
        state.recipients[0].phase = Phase::Delivered { report_owed: false };
        state.recipients[1].phase = Phase::Failed { expired: false, report_owed: true };
        assert!(!state.is_over());
        state.recipients[1].phase = state.recipients[1].phase.reported();
        assert!(state.is_over());
    }

    /// Of few reports, so that many share one.
    fn any_report() -> impl Strategy<Value = Report> {
        (0_u64..4, any::<bool>(), proptest::option::of("mx[0-1]")).prop_map(|(number, is_reply, host)| {
            Report {
                text: format!("reply {number}"),
                is_reply,
                host,
                ..sample().recipients[0].last.clone().unwrap()
            }
        })
    }

    fn any_recipient() -> impl Strategy<Value = RecipientState> {
        let phase = prop_oneof![
            proptest::option::of(0_u64..1 << 40).prop_map(|next| Phase::Waiting { next: next.map(at) }),
            any::<bool>().prop_map(|report_owed| Phase::Delivered { report_owed }),
            any::<(bool, bool)>().prop_map(|(expired, report_owed)| Phase::Failed { expired, report_owed }),
        ];
        let ending = (0..EndingKind::ALL.len(), any_report())
            .prop_map(|(kind, report)| Box::new(Ending { kind: EndingKind::ALL[kind], report }));
        let counts = any::<(u32, u32, bool, bool)>();
        let evidence = (proptest::option::of(any_report()), proptest::option::of(ending));
        (phase, counts, evidence).prop_map(|(phase, counts, (last, ending))| {
            let (attempts, forgiven, wish_granted, replaced) = counts;
            RecipientState {
                phase,
                attempts,
                forgiven,
                wish_granted,
                replaced,
                is_final: forgiven % 2 == 1,
                last,
                ending,
                leased: false,
                due: false,
            }
        })
    }

    proptest! {
        #[test]
        fn any_state_is_read_back_as_it_was_written(
            held in proptest::option::of("[a-z ]{0,20}"),
            until in proptest::option::of(0_u64..1 << 40),
            recipients in proptest::collection::vec(any_recipient(), 0..20),
        ) {
            let held_until = until.map(at);
            let state = MessageState { held, held_until, recipients, ..MessageState::default() };
            prop_assert_eq!(MessageState::decode(&state.encode(), state.recipients.len()), Ok(state));
        }

        #[test]
        fn no_bytes_make_decoding_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let encoded = [vec![1], bytes].concat();
            if let Ok(state) = MessageState::decode(&encoded, 1) {
                prop_assert_eq!(MessageState::decode(&state.encode(), 1), Ok(state));
            }
        }
    }
}
