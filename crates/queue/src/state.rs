//! What has become of a message's recipients so far, and its encoding in the spool.

use std::time::SystemTime;

use postern_smtp::EnhancedStatus;

use crate::codec::{Damaged, Reader, Writer};
use crate::message::Report;

/// Evidence is kept up to this many octets: a reply of several lines fits, a hostile one does not fill the memory.
const MAX_EVIDENCE: usize = 512;

/// The durable state of a message, all its recipients together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct MessageState {
    /// Why it is held, if it is.
    pub(crate) held: Option<String>,
    /// Attempts that ended without an outcome.
    pub(crate) strikes: u8,
    /// Whether the sender was told of the delay.
    pub(crate) delay_told: bool,
    /// In the order of the envelope.
    pub(crate) recipients: Vec<RecipientState>,
}

/// The state of one recipient.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RecipientState {
    pub(crate) phase: Phase,
    /// Attempts with an outcome.
    pub(crate) attempts: u32,
    /// Whether an interval asked for by the other side was granted: once is enough.
    pub(crate) wish_granted: bool,
    /// The evidence of the last attempt.
    pub(crate) last: Option<Report>,
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
    /// The state of a message that was just accepted.
    pub(crate) fn fresh(recipients: usize) -> Self {
        Self { recipients: vec![RecipientState::default(); recipients], ..Self::default() }
    }

    /// Whether nothing has happened yet.
    pub(crate) fn is_fresh(&self) -> bool {
        let is_fresh = |recipient: &RecipientState| *recipient == RecipientState::default();
        self.held.is_none() && self.strikes == 0 && !self.delay_told && self.recipients.iter().all(is_fresh)
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
        self.held.is_none() && recipient.is_some_and(|r| r.is_due() && !r.leased)
    }

    /// How the spool keeps it.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::record();
        writer.optional_text(tag::HELD, self.held.as_deref());
        if self.strikes > 0 {
            writer.number(tag::STRIKES, self.strikes.into());
        }
        writer.flag(tag::DELAY_TOLD, self.delay_told);
        for recipient in &self.recipients {
            writer.nested(tag::RECIPIENT, |writer| recipient.encode(writer));
        }
        writer.finish()
    }

    /// Reads what [`MessageState::encode`] wrote, for a message of so many recipients.
    ///
    /// # Errors
    /// [`Damaged`].
    pub(crate) fn decode(encoded: &[u8], recipients: usize) -> Result<Self, Damaged> {
        let mut state = Self::default();
        let mut reader = Reader::record(encoded)?;
        while let Some(field) = reader.field()? {
            match field.tag {
                tag::HELD => state.held = Some(field.owned_text()?),
                tag::STRIKES => state.strikes = field.small_number()?,
                tag::DELAY_TOLD => state.delay_told = true,
                tag::RECIPIENT => state.recipients.push(RecipientState::decode(field.fields())?),
                _ => {}
            }
        }
        if state.recipients.len() != recipients {
            return Err(Damaged::Value("number of recipients"));
        }
        Ok(state)
    }
}

impl RecipientState {
    fn encode(&self, writer: &mut Writer) {
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
        if let Some(report) = &self.last {
            writer.nested(tag::recipient::LAST, |writer| encode_report(report, writer));
        }
    }

    fn decode(mut reader: Reader<'_>) -> Result<Self, Damaged> {
        let mut state = Self::default();
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
                _ => {}
            }
        }
        state.phase = match (delivered, failed) {
            (false, false) => Phase::Waiting { next },
            (true, false) => Phase::Delivered { report_owed },
            (false, true) => Phase::Failed { expired, report_owed },
            (true, true) => return Err(Damaged::Value("recipient state")),
        };
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
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

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
            wish_granted: true,
            last: Some(report.clone()),
            leased: false,
            due: false,
        });
        MessageState {
            held: Some("by hand".to_owned()),
            strikes: 2,
            delay_told: true,
            recipients: recipients.to_vec(),
        }
    }

    #[test]
    fn a_state_is_read_back_as_it_was_written() {
        assert_eq!(MessageState::decode(&sample().encode(), 6), Ok(sample()));
        let fresh = MessageState::fresh(3);
        assert_eq!(MessageState::decode(&fresh.encode(), 3), Ok(fresh));
    }

    #[test]
    fn a_state_of_another_message_is_damage() {
        assert!(MessageState::decode(&sample().encode(), 5).is_err());
    }

    #[test]
    fn evidence_is_cut_at_a_whole_character() {
        let mut state = MessageState::fresh(1);
        let text = "ä".repeat(MAX_EVIDENCE);
        let report = sample().recipients[0].last.clone().map(|report| Report { text, ..report });
        state.recipients[0].last = report;
        let read = MessageState::decode(&state.encode(), 1);
        let text = read.ok().and_then(|s| s.recipients[0].last.clone()).map(|r| r.text);
        assert_eq!(text, Some("ä".repeat(MAX_EVIDENCE / 2)));
    }

    #[test]
    fn a_message_is_over_when_nobody_waits_and_nothing_is_owed() {
        assert!(!MessageState::fresh(1).is_over());
        let mut state = MessageState::fresh(2);
        state.recipients[0].phase = Phase::Delivered { report_owed: false };
        state.recipients[1].phase = Phase::Failed { expired: false, report_owed: true };
        assert!(!state.is_over());
        state.recipients[1].phase = state.recipients[1].phase.reported();
        assert!(state.is_over());
    }

    proptest! {
        #[test]
        fn no_bytes_make_decoding_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let encoded = [vec![1], bytes].concat();
            if let Ok(state) = MessageState::decode(&encoded, 1) {
                prop_assert_eq!(MessageState::decode(&state.encode(), 1), Ok(state));
            }
        }
    }
}
