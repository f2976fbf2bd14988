//! What is kept of a refusal, so that its reference can be explained.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde::Serialize;

use crate::relay::{Decision, Question, Stage};

/// The short name of a record, as it stands in the reply: `4QX7-93KD` (40 random bits, Crockford base 32).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reference(u64);

const REFERENCE_BITS: u32 = 40;
const BITS_PER_DIGIT: u32 = 5;
const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

impl Reference {
    fn random() -> Self {
        Self(rand::random::<u64>() >> (u64::BITS - REFERENCE_BITS))
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for at in 0..REFERENCE_BITS / BITS_PER_DIGIT {
            if at == 4 {
                f.write_str("-")?;
            }
            let digit = (self.0 >> (REFERENCE_BITS - BITS_PER_DIGIT * (at + 1))) & 31;
            write!(f, "{}", char::from(DIGITS[digit as usize]))?;
        }
        Ok(())
    }
}

/// A text that is no reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a reference: eight letters and digits such as 4QX7-93KD are expected")]
pub struct BadReference;

impl FromStr for Reference {
    type Err = BadReference;

    /// Any case, with or without the hyphen; I and L are read as 1, O as 0 (Crockford).
    fn from_str(text: &str) -> Result<Self, BadReference> {
        let mut value = 0;
        let mut digits = 0;
        for byte in text.trim().bytes().filter(|byte| *byte != b'-') {
            let digit = match byte.to_ascii_uppercase() {
                b'I' | b'L' => 1,
                b'O' => 0,
                byte => DIGITS.iter().position(|digit| *digit == byte).ok_or(BadReference)?,
            };
            digits += 1;
            if digits > REFERENCE_BITS / BITS_PER_DIGIT {
                return Err(BadReference);
            }
            value = value << BITS_PER_DIGIT | digit as u64;
        }
        if digits < REFERENCE_BITS / BITS_PER_DIGIT {
            return Err(BadReference);
        }
        Ok(Self(value))
    }
}

/// Every fact of a question, and the answer.
#[derive(Debug, Clone, Serialize)]
pub struct Record {
    /// Seconds since 1970.
    pub time: u64,
    /// The reference in the reply.
    pub reference: String,
    /// `mx`, `submission`, `submissions`.
    pub listener: String,
    /// The client's address.
    pub client: String,
    /// Whether it was under TLS.
    pub tls: bool,
    /// The login.
    pub login: Option<String>,
    /// EHLO or HELO.
    pub helo: Option<String>,
    /// MAIL FROM; empty is the null sender.
    pub reverse_path: String,
    /// RCPT TO, if it was about a recipient.
    pub recipient: Option<String>,
    /// The answer.
    pub decision: Decision,
}

impl Record {
    fn new(reference: Reference, question: &Question<'_>, decision: &Decision, now: SystemTime) -> Self {
        let recipient = match question.stage {
            Stage::Rcpt(path) => Some(path.to_string()),
            Stage::Login | Stage::Mail | Stage::Message(_) => None,
        };
        Self {
            time: now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            reference: reference.to_string(),
            listener: question.listener.as_str().to_owned(),
            client: question.client.to_canonical().to_string(),
            tls: question.tls,
            login: question.login.map(|login| login.name.clone()),
            helo: question.helo.map(str::to_owned),
            reverse_path: question.reverse_path.to_string(),
            recipient,
            decision: decision.clone(),
        }
    }
}

/// The latest records, in memory: a fixed number, the oldest go first.
#[derive(Debug)]
pub struct Records {
    capacity: usize,
    /// The oldest in front.
    ring: Mutex<VecDeque<(Reference, Record)>>,
}

impl Records {
    /// Room for `capacity` records.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, ring: Mutex::new(VecDeque::new()) }
    }

    /// Keeps a decision and names it.
    pub fn keep(&self, question: &Question<'_>, decision: &Decision, now: SystemTime) -> Reference {
        let reference = Reference::random();
        if self.capacity == 0 {
            return reference;
        }
        let record = Record::new(reference, question, decision, now);
        let mut ring = self.ring.lock();
        if ring.len() >= self.capacity {
            ring.pop_front();
        }
        ring.push_back((reference, record));
        reference
    }

    /// The record of a reference as a person types it: any case, with or without the hyphen.
    pub fn find(&self, reference: &str) -> Option<Record> {
        let reference: Reference = reference.parse().ok()?;
        let ring = self.ring.lock();
        ring.iter().rev().find(|(known, _)| *known == reference).map(|(_, record)| record.clone())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::time::Duration;

    use postern_config::ListenerKind;
    use postern_smtp::{ForwardPath, ReversePath};
    use proptest::prelude::*;

    use super::*;
    use crate::relay::{Reason, Trace, Verdict};

    fn keep(records: &Records, recipient: &str) -> Reference {
        let recipient = ForwardPath::parse(recipient).unwrap();
        let question = Question {
            listener: ListenerKind::Mx,
            client: "::ffff:198.51.100.9".parse().unwrap(),
            local: None,
            tls: false,
            certificate: None,
            login: None,
            helo: Some("client.test"),
            now: UNIX_EPOCH,
            recipients: 0,
            reverse_path: &ReversePath::Null,
            stage: Stage::Rcpt(&recipient),
        };
        let decision = Decision {
            verdict: Verdict::Reject,
            reason: Reason::NotTrustedNotLocal,
            trace: Trace::default(),
        };
        records.keep(&question, &decision, UNIX_EPOCH + Duration::from_secs(7))
    }

    #[test]
    fn a_record_is_found_however_its_reference_is_typed() {
        let records = Records::new(10);
        let reference = keep(&records, "bob@adatum.test").to_string();
        for typed in
            [reference.clone(), reference.to_lowercase(), reference.replace('-', ""), format!(" {reference}")]
        {
            let record = records.find(&typed).unwrap();
            assert_eq!(record.recipient.as_deref(), Some("bob@adatum.test"));
            assert_eq!((record.client.as_str(), record.time), ("198.51.100.9", 7));
        }
        assert!(records.find("not one").is_none());
    }

    #[test]
    fn the_oldest_records_go_first() {
        let records = Records::new(2);
        let references: Vec<String> =
            ["a@b.test", "c@d.test", "e@f.test"].map(|to| keep(&records, to).to_string()).into();
        assert!(records.find(&references[0]).is_none());
        assert!(records.find(&references[1]).is_some() && records.find(&references[2]).is_some());
        assert!(Records::new(0).find(&keep(&Records::new(0), "a@b.test").to_string()).is_none());
    }

    #[test]
    fn letters_that_look_like_digits_are_read_as_digits() {
        assert_eq!("OIL0-0000".parse::<Reference>(), "0110-0000".parse());
        for text in ["", "4QX7-93K", "4QX7-93KDA", "4QX7-93KU", "ÄÄÄÄ"] {
            assert_eq!(text.parse::<Reference>(), Err(BadReference), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_reference_reads_back(value in 0u64..1 << REFERENCE_BITS) {
            let text = Reference(value).to_string();
            prop_assert_eq!(text.len(), 9);
            prop_assert_eq!(text.parse(), Ok(Reference(value)));
        }
    }
}
