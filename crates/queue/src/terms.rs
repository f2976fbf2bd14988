//! What a sender demands of every server on the way, beside reports: that nobody reads along, a time to begin, a time to
//! end, a place in the line.

use std::time::SystemTime;

use postern_smtp::date;

use crate::codec::{Damaged, Field, Writer};
use crate::envelope::{priority, write_priority};

/// The demands of a message. Most have none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Terms {
    /// REQUIRETLS: only to hosts that have proved their name and promise the same (RFC 8689 §2).
    pub require_tls: bool,
    /// `TLS-Required: No` in the header: what recipients' domains demand of TLS does not count (RFC 8689 §3). Never with
    /// `require_tls`, which overrules it.
    pub tls_optional: bool,
    /// HOLDFOR or HOLDUNTIL: nothing is tried before (RFC 4865).
    pub release: Option<SystemTime>,
    /// BY (RFC 2852).
    pub deliver_by: Option<DeliverBy>,
    /// MT-PRIORITY, as far as it was granted: one of [`crate::envelope::PRIORITIES`] (RFC 6710).
    pub priority: Option<i8>,
}

/// When a message is to be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeliverBy {
    /// The time.
    pub at: SystemTime,
    /// What happens if it is not.
    pub late: Late,
    /// Whether the sender wants to hear of each host that takes it (the by-trace of RFC 2852 §4).
    pub trace: bool,
}

/// What happens to a message that is late (the by-mode of RFC 2852 §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Late {
    /// `R`: it returns.
    Return,
    /// `N`: its sender is told, and it is tried on.
    Notify,
}

mod tag {
    pub(super) const REQUIRE_TLS: u8 = 1;
    pub(super) const TLS_OPTIONAL: u8 = 2;
    pub(super) const RELEASE: u8 = 3;
    pub(super) const DELIVER_BY: u8 = 4;
    /// Absent: it returns.
    pub(super) const NOTIFY: u8 = 5;
    pub(super) const TRACE: u8 = 6;
    /// With 9 added, as the envelope's.
    pub(super) const PRIORITY: u8 = 7;
}

impl Terms {
    /// As operators see them: `only over verified TLS (REQUIRETLS)`.
    pub fn in_words(&self) -> Vec<String> {
        let mut words = Vec::new();
        if self.require_tls {
            words.push("only over verified TLS (REQUIRETLS)".to_owned());
        }
        if self.tls_optional {
            words.push("also where TLS fails (TLS-Required: No)".to_owned());
        }
        if let Some(release) = self.release {
            words.push(format!("not before {}, as the sender wants (FUTURERELEASE)", date::rfc3339(release)));
        }
        if let Some(by) = self.deliver_by {
            let late = match by.late {
                Late::Return => "else it returns",
                Late::Notify => "else the sender is told",
            };
            words.push(format!("by {}, {late} (DELIVERBY)", date::rfc3339(by.at)));
        }
        words.extend(self.priority.map(|priority| format!("priority {priority} (MT-PRIORITY)")));
        words
    }

    /// As a field of the envelope.
    pub(crate) fn encode(&self, writer: &mut Writer) {
        writer.flag(tag::REQUIRE_TLS, self.require_tls);
        writer.flag(tag::TLS_OPTIONAL, self.tls_optional);
        if let Some(release) = self.release {
            writer.time(tag::RELEASE, release);
        }
        if let Some(by) = self.deliver_by {
            writer.time(tag::DELIVER_BY, by.at);
            writer.flag(tag::NOTIFY, by.late == Late::Notify);
            writer.flag(tag::TRACE, by.trace);
        }
        if let Some(priority) = self.priority {
            write_priority(tag::PRIORITY, priority, writer);
        }
    }

    /// Reads what [`Terms::encode`] wrote.
    ///
    /// # Errors
    /// [`Damaged`].
    pub(crate) fn decode(field: Field<'_>) -> Result<Self, Damaged> {
        let mut terms = Self::default();
        let (mut at, mut late, mut trace) = (None, Late::Return, false);
        let mut reader = field.fields();
        while let Some(field) = reader.field()? {
            match field.tag {
                tag::REQUIRE_TLS => terms.require_tls = true,
                tag::TLS_OPTIONAL => terms.tls_optional = true,
                tag::RELEASE => terms.release = Some(field.time()?),
                tag::DELIVER_BY => at = Some(field.time()?),
                tag::NOTIFY => late = Late::Notify,
                tag::TRACE => trace = true,
                tag::PRIORITY => terms.priority = Some(priority(field)?),
                _ => {}
            }
        }
        terms.deliver_by = at.map(|at| DeliverBy { at, late, trace });
        Ok(terms)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::time::Duration;

    use super::*;
    use crate::codec::Reader;

    #[test]
    fn terms_are_read_back_as_they_were_written_and_told_in_words() {
        let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_284_325 + seconds);
        let by = DeliverBy { at: at(60), late: Late::Notify, trace: true };
        let all = Terms {
            require_tls: true,
            tls_optional: false,
            release: Some(at(0)),
            deliver_by: Some(by),
            priority: Some(-9),
        };
        let returns = DeliverBy { late: Late::Return, trace: false, ..by };
        let others = Terms { tls_optional: true, deliver_by: Some(returns), ..Terms::default() };
        for terms in [all, others, Terms::default()] {
            let mut writer = Writer::record();
            writer.nested(1, |writer| terms.encode(writer));
            let encoded = writer.finish();
            let field = Reader::record(&encoded).unwrap().field().unwrap().unwrap();
            assert_eq!(Terms::decode(field), Ok(terms));
        }
        assert_eq!(
            all.in_words(),
            [
                "only over verified TLS (REQUIRETLS)",
                "not before 2026-11-21T18:05:25Z, as the sender wants (FUTURERELEASE)",
                "by 2026-11-21T18:06:25Z, else the sender is told (DELIVERBY)",
                "priority -9 (MT-PRIORITY)",
            ]
        );
        assert!(Terms::default().in_words().is_empty());
    }
}
