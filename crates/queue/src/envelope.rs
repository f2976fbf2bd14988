//! What is kept of a message beside its content, and its encoding in the spool.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use postern_config as config;
use postern_smtp::{Address, Body, EnvelopeId, Notify, OriginalRecipient, Ret, ReversePath};

use crate::codec::{self, Damaged, Field, Reader, Writer};
use crate::message::QueueId;
use crate::retry;
use crate::terms::{Late, Terms};

/// How far a message can be brought forward in the lines of its destinations: the range of RFC 6710 §2. Below 0 others are
/// let pass.
pub const PRIORITIES: RangeInclusive<i8> = -PRIORITY_OFFSET..=PRIORITY_OFFSET;

/// The envelope of a queued message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// MAIL FROM.
    pub reverse_path: ReversePath,
    /// By which right the message came: decides whether it is signed.
    pub origin: Origin,
    /// The client's address; none for mail of our own.
    pub client: Option<IpAddr>,
    /// The argument of EHLO or HELO.
    pub helo: Option<String>,
    /// Where the client had the message from, as it said by XFORWARD: one line, to be shown. It decides nothing.
    pub forwarded: Option<String>,
    /// When it was accepted; lifetimes count from here. Kept to the millisecond.
    pub received: SystemTime,
    /// BODY.
    pub body: Body,
    /// Whether the message needs SMTPUTF8 downstream (RFC 6531).
    pub smtputf8: bool,
    /// RET.
    pub ret: Option<Ret>,
    /// ENVID.
    pub envelope_id: Option<EnvelopeId>,
    /// The Message-ID field without angle brackets, if there is one.
    pub message_id: Option<String>,
    /// How far it is brought forward in the lines of its destinations: one of [`PRIORITIES`], 0 for most.
    pub priority: i8,
    /// What its sender demands of every server on the way.
    pub terms: Terms,
    /// Octets of the content, our header fields included.
    pub size: u64,
    /// The final recipients, aliases expanded, without duplicates.
    pub recipients: Vec<Recipient>,
}

/// By which right a message came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// From a login.
    Login(String),
    /// From a trusted network, by its label.
    TrustedNetwork(String),
    /// From a client with another right to relay without a login: `grant scanner`, `host branch.proseware.test`.
    Granted(String),
    /// From anybody, for one of our recipients or relay domains.
    Outsider,
    /// Written by this server: a report.
    Own,
}

impl Origin {
    /// Only mail of our own people and our own is signed; what passes through for outsiders never is.
    pub fn is_signed(&self) -> bool {
        !matches!(self, Self::Outsider)
    }
}

/// One final recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    /// Where the message goes.
    pub address: Address,
    /// What the sender wrote in RCPT TO, where it differs (an alias, a subaddress).
    pub given: Option<Address>,
    /// NOTIFY.
    pub notify: Notify,
    /// ORCPT.
    pub original: Option<OriginalRecipient>,
    /// A route that an operator has chosen for it, in words; without one the configuration in force decides. It is part of
    /// the message's state and not of the encoded envelope.
    pub via: Option<Arc<str>>,
    /// An alias for several, whose sender wants to hear of success: nothing goes there, and a report that it was expanded is
    /// owed from the beginning (RFC 3461 §5.2.7). Those behind it are recipients of their own, without NOTIFY=SUCCESS.
    pub expanded: bool,
}

mod tag {
    pub(super) const RECEIVED: u8 = 1;
    pub(super) const SIZE: u8 = 2;
    /// Absent: the null sender.
    pub(super) const REVERSE_PATH: u8 = 3;
    pub(super) const LOGIN: u8 = 4;
    pub(super) const TRUSTED_NETWORK: u8 = 5;
    /// Neither this nor the two above: an outsider.
    pub(super) const OWN: u8 = 6;
    pub(super) const CLIENT: u8 = 7;
    pub(super) const HELO: u8 = 8;
    pub(super) const BODY: u8 = 9;
    pub(super) const SMTPUTF8: u8 = 10;
    pub(super) const RET: u8 = 11;
    pub(super) const ENVELOPE_ID: u8 = 12;
    pub(super) const MESSAGE_ID: u8 = 13;
    pub(super) const RECIPIENT: u8 = 14;
    /// As an unsigned number: with [`PRIORITY_OFFSET`](super::PRIORITY_OFFSET) added. Absent: 0.
    pub(super) const PRIORITY: u8 = 15;
    /// A release that does not know it takes the message for an outsider's.
    pub(super) const GRANTED: u8 = 16;
    /// The demands, as fields. Absent: none. A release that does not know them does not heed them.
    pub(super) const TERMS: u8 = 17;
    pub(super) const FORWARDED: u8 = 18;

    /// Fields of a recipient.
    pub(super) mod recipient {
        pub(in super::super) const ADDRESS: u8 = 1;
        pub(in super::super) const GIVEN: u8 = 2;
        /// Absent: the default of RFC 3461 §4.1.
        pub(in super::super) const NOTIFY: u8 = 3;
        pub(in super::super) const ORIGINAL_KIND: u8 = 4;
        pub(in super::super) const ORIGINAL_ADDRESS: u8 = 5;
        /// A release that does not know it takes the alias for one more recipient.
        pub(in super::super) const EXPANDED: u8 = 6;
    }
}

impl Envelope {
    /// How the spool keeps it.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::record();
        writer.time(tag::RECEIVED, self.received);
        writer.number(tag::SIZE, self.size);
        if let ReversePath::Address(address) = &self.reverse_path {
            writer.text(tag::REVERSE_PATH, &address.to_string());
        }
        match &self.origin {
            Origin::Login(login) => writer.text(tag::LOGIN, login),
            Origin::TrustedNetwork(label) => writer.text(tag::TRUSTED_NETWORK, label),
            Origin::Granted(right) => writer.text(tag::GRANTED, right),
            Origin::Outsider => {}
            Origin::Own => writer.flag(tag::OWN, true),
        }
        match self.client {
            Some(IpAddr::V4(ip)) => writer.bytes(tag::CLIENT, &ip.octets()),
            Some(IpAddr::V6(ip)) => writer.bytes(tag::CLIENT, &ip.octets()),
            None => {}
        }
        writer.optional_text(tag::HELO, self.helo.as_deref());
        writer.optional_text(tag::FORWARDED, self.forwarded.as_deref());
        if self.body != Body::SevenBit {
            writer.number(tag::BODY, if self.body == Body::EightBitMime { 1 } else { 2 });
        }
        writer.flag(tag::SMTPUTF8, self.smtputf8);
        if let Some(ret) = self.ret {
            writer.number(tag::RET, if ret == Ret::Full { 1 } else { 2 });
        }
        writer.optional_text(tag::ENVELOPE_ID, self.envelope_id.as_ref().map(|id| id.0.as_str()));
        writer.optional_text(tag::MESSAGE_ID, self.message_id.as_deref());
        if self.priority != 0 {
            write_priority(tag::PRIORITY, self.priority, &mut writer);
        }
        if self.terms != Terms::default() {
            writer.nested(tag::TERMS, |writer| self.terms.encode(writer));
        }
        for recipient in &self.recipients {
            writer.nested(tag::RECIPIENT, |writer| recipient.encode(writer));
        }
        writer.finish()
    }

    /// Reads what [`Envelope::encode`] wrote.
    ///
    /// # Errors
    /// [`Damaged`]: also when a value is well formed and means nothing, such as an address without a domain.
    pub(crate) fn decode(encoded: &[u8]) -> Result<Self, Damaged> {
        let mut envelope = Self {
            reverse_path: ReversePath::Null,
            origin: Origin::Outsider,
            client: None,
            helo: None,
            forwarded: None,
            received: SystemTime::UNIX_EPOCH,
            body: Body::SevenBit,
            smtputf8: false,
            ret: None,
            envelope_id: None,
            message_id: None,
            priority: 0,
            terms: Terms::default(),
            size: 0,
            recipients: Vec::new(),
        };
        let mut reader = Reader::record(encoded)?;
        while let Some(field) = reader.field()? {
            match field.tag {
                tag::RECEIVED => envelope.received = received(field)?,
                tag::SIZE => envelope.size = addable(field)?,
                tag::REVERSE_PATH => envelope.reverse_path = ReversePath::Address(address(field)?),
                tag::LOGIN => envelope.origin = Origin::Login(field.owned_text()?),
                tag::TRUSTED_NETWORK => envelope.origin = Origin::TrustedNetwork(field.owned_text()?),
                tag::GRANTED => envelope.origin = Origin::Granted(field.owned_text()?),
                tag::OWN => envelope.origin = Origin::Own,
                tag::CLIENT => envelope.client = Some(ip_address(field.value)?),
                tag::HELO => envelope.helo = Some(field.owned_text()?),
                tag::FORWARDED => envelope.forwarded = Some(field.owned_text()?),
                tag::BODY => envelope.body = body(field)?,
                tag::SMTPUTF8 => envelope.smtputf8 = true,
                tag::RET => envelope.ret = Some(ret(field)?),
                tag::ENVELOPE_ID => envelope.envelope_id = Some(EnvelopeId(field.owned_text()?)),
                tag::MESSAGE_ID => envelope.message_id = Some(field.owned_text()?),
                tag::PRIORITY => envelope.priority = priority(field)?,
                tag::TERMS => envelope.terms = Terms::decode(field)?,
                tag::RECIPIENT => envelope.recipients.push(Recipient::decode(field.fields())?),
                _ => {}
            }
        }
        Ok(envelope)
    }

    /// What stands for an envelope that cannot be read: without recipients.
    pub(crate) fn unreadable(id: QueueId) -> Self {
        Self {
            reverse_path: ReversePath::Null,
            origin: Origin::Outsider,
            client: None,
            helo: None,
            forwarded: None,
            // The time is part of the id.
            received: SystemTime::UNIX_EPOCH + Duration::from_micros(id.0 >> 8),
            body: Body::SevenBit,
            smtputf8: false,
            ret: None,
            envelope_id: None,
            message_id: None,
            priority: 0,
            terms: Terms::default(),
            size: 0,
            recipients: Vec::new(),
        }
    }

    /// When it may be tried first: the delays and the lifetime of the schedule count from here.
    pub(crate) fn starts(&self) -> SystemTime {
        self.terms.release.map_or(self.received, |release| release.max(self.received))
    }

    /// When its recipients are given up: at the end of the lifetime, or when its sender wants it back.
    pub(crate) fn expires(&self, schedule: &config::Queue) -> SystemTime {
        let expires = retry::expires(schedule, self.starts(), self.has_null_sender());
        self.returns_at().map_or(expires, |returns| expires.min(returns))
    }

    /// When its sender wants it back.
    pub(crate) fn returns_at(&self) -> Option<SystemTime> {
        self.terms.deliver_by.filter(|by| by.late == Late::Return).map(|by| by.at)
    }

    /// When its sender wants to be told that it is late, if he does; not if that was so already before it came here.
    pub(crate) fn tells_late_at(&self) -> Option<SystemTime> {
        let by = self.terms.deliver_by.filter(|by| by.late == Late::Notify)?;
        (by.at > self.received).then_some(by.at)
    }

    /// Whether nobody is told when delivery fails (RFC 5321 §4.5.5).
    pub(crate) fn has_null_sender(&self) -> bool {
        self.reverse_path == ReversePath::Null
    }
}

impl Recipient {
    /// A recipient of whom nothing is said but the address: reports are as without NOTIFY (RFC 3461 §4.1).
    pub fn new(address: Address) -> Self {
        Self { address, given: None, notify: Notify::default(), original: None, via: None, expanded: false }
    }

    /// Everything but its route.
    pub(crate) fn encode(&self, writer: &mut Writer) {
        writer.text(tag::recipient::ADDRESS, &self.address.to_string());
        writer.optional_text(tag::recipient::GIVEN, self.given.as_ref().map(Address::to_string).as_deref());
        if self.notify != Notify::default() {
            let Notify { success, failure, delay } = self.notify;
            let bits = u64::from(success) | u64::from(failure) << 1 | u64::from(delay) << 2;
            writer.number(tag::recipient::NOTIFY, bits);
        }
        if let Some(original) = &self.original {
            writer.text(tag::recipient::ORIGINAL_KIND, &original.kind);
            writer.text(tag::recipient::ORIGINAL_ADDRESS, &original.address);
        }
        writer.flag(tag::recipient::EXPANDED, self.expanded);
    }

    /// Reads what [`Recipient::encode`] wrote.
    ///
    /// # Errors
    /// [`Damaged`].
    pub(crate) fn decode(mut reader: Reader<'_>) -> Result<Self, Damaged> {
        let mut found = None;
        let mut given = None;
        let mut notify = Notify::default();
        let (mut kind, mut original) = (None, None);
        let mut expanded = false;
        while let Some(field) = reader.field()? {
            match field.tag {
                tag::recipient::ADDRESS => found = Some(address(field)?),
                tag::recipient::GIVEN => given = Some(address(field)?),
                tag::recipient::NOTIFY => {
                    let bits = field.number()?;
                    notify = Notify { success: bits & 1 != 0, failure: bits & 2 != 0, delay: bits & 4 != 0 };
                }
                tag::recipient::ORIGINAL_KIND => kind = Some(field.owned_text()?),
                tag::recipient::ORIGINAL_ADDRESS => original = Some(field.owned_text()?),
                tag::recipient::EXPANDED => expanded = true,
                _ => {}
            }
        }
        let original = kind.zip(original).map(|(kind, address)| OriginalRecipient { kind, address });
        let address = found.ok_or(Damaged::Value("recipient"))?;
        Ok(Self { address, given, notify, original, via: None, expanded })
    }
}

/// Reads an address.
///
/// # Errors
/// [`Damaged`].
pub(crate) fn address(field: Field<'_>) -> Result<Address, Damaged> {
    Address::parse(field.text()?).map_err(|_| Damaged::Value("address"))
}

/// No message has more octets, and none came later in milliseconds since 1970: so sizes and times can be added to others.
const MOST_ADDABLE: u64 = 1 << 53;

fn addable(field: Field<'_>) -> Result<u64, Damaged> {
    let number = field.number()?;
    if number <= MOST_ADDABLE { Ok(number) } else { Err(Damaged::Value("number")) }
}

fn received(field: Field<'_>) -> Result<SystemTime, Damaged> {
    codec::time(addable(field)?).ok_or(Damaged::Value("time"))
}

fn ip_address(octets: &[u8]) -> Result<IpAddr, Damaged> {
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    let v6 = <[u8; 16]>::try_from(octets).map(IpAddr::from);
    v4.or(v6).map_err(|_| Damaged::Value("client address"))
}

fn body(field: Field<'_>) -> Result<Body, Damaged> {
    match field.number()? {
        1 => Ok(Body::EightBitMime),
        2 => Ok(Body::BinaryMime),
        _ => Err(Damaged::Value("BODY")),
    }
}

/// So that it is written without a sign.
const PRIORITY_OFFSET: i8 = 9;

/// A priority that somebody has given.
///
/// # Errors
/// The text names the number and the range.
pub(crate) fn checked_priority(number: i8) -> Result<i8, String> {
    if PRIORITIES.contains(&number) {
        return Ok(number);
    }
    Err(format!("priority {number} is not {} to {}", PRIORITIES.start(), PRIORITIES.end()))
}

/// A number outside of [`PRIORITIES`] comes from nowhere; it would be damage when it is read back.
pub(crate) fn write_priority(tag: u8, priority: i8, writer: &mut Writer) {
    let priority = priority.clamp(*PRIORITIES.start(), *PRIORITIES.end());
    writer.number(tag, u64::from((priority + PRIORITY_OFFSET).unsigned_abs()));
}

/// Reads what [`write_priority`] wrote.
///
/// # Errors
/// [`Damaged`].
pub(crate) fn priority(field: Field<'_>) -> Result<i8, Damaged> {
    let number = i8::try_from(field.number()?).ok().filter(|number| *number <= 2 * PRIORITY_OFFSET);
    number.map(|number| number - PRIORITY_OFFSET).ok_or(Damaged::Value("priority"))
}

fn ret(field: Field<'_>) -> Result<Ret, Damaged> {
    match field.number()? {
        1 => Ok(Ret::Full),
        2 => Ok(Ret::Headers),
        _ => Err(Damaged::Value("RET")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    /// What the first releases wrote: alice@proseware.test to bob@adatum.test.
    const OLD: &[u8] =
        b"\x01\x01\x06\x03\xdc\x7f\xa9\xa1\x01\x02\x01\x2a\x03\x14alice@proseware.test\x04\x05alice\
        \x09\x01\x01\x0b\x01\x02\x0c\x03abc\x0e\x14\x01\x0fbob@adatum.test\x03\x01\x01";

    #[test]
    fn an_envelope_of_a_former_release_is_read() {
        let envelope = Envelope::decode(OLD).unwrap();
        assert_eq!(envelope.reverse_path.to_string(), "alice@proseware.test");
        assert_eq!((envelope.size, envelope.body), (42, Body::EightBitMime));
        assert_eq!(envelope.terms, Terms::default());
        assert_eq!(
            (envelope.ret, envelope.envelope_id),
            (Some(Ret::Headers), Some(EnvelopeId("abc".to_owned())))
        );
        let [bob] = &envelope.recipients[..] else { panic!("{:?}", envelope.recipients) };
        assert_eq!((bob.address.to_string().as_str(), bob.expanded), ("bob@adatum.test", false));
        assert_eq!(bob.notify, Notify { success: true, failure: false, delay: false });
    }

    fn full() -> Envelope {
        Envelope {
            reverse_path: ReversePath::parse("\"odd one\"@proseware.test").unwrap(),
            origin: Origin::Login("alice".to_owned()),
            client: Some("2001:db8::1".parse().unwrap()),
            helo: Some("laptop".to_owned()),
            forwarded: Some("office.test [192.0.2.7]".to_owned()),
            received: SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_284_325_123),
            body: Body::BinaryMime,
            smtputf8: true,
            ret: Some(Ret::Headers),
            envelope_id: Some(EnvelopeId("a+b".to_owned())),
            message_id: Some("1@proseware.test".to_owned()),
            priority: -9,
            terms: Terms::default(),
            size: 70_000,
            recipients: vec![
                Recipient {
                    address: Address::parse("bob@adatum.test").unwrap(),
                    given: Some(Address::parse("bob+list@adatum.test").unwrap()),
                    notify: Notify { success: true, failure: false, delay: false },
                    original: Some(OriginalRecipient {
                        kind: "rfc822".to_owned(),
                        address: "Bob@adatum.test".to_owned(),
                    }),
                    via: None,
                    expanded: false,
                },
                Recipient {
                    address: Address::parse("žofie@adatum.test").unwrap(),
                    given: None,
                    notify: Notify::default(),
                    original: None,
                    via: None,
                    expanded: true,
                },
            ],
        }
    }

    #[test]
    fn an_envelope_is_read_back_as_it_was_written() {
        let envelope = full();
        assert_eq!(Envelope::decode(&envelope.encode()), Ok(envelope.clone()));
        let named = ["office", "grant scanner"].map(str::to_owned);
        let [office, scanner] = named;
        for origin in
            [Origin::Own, Origin::Outsider, Origin::TrustedNetwork(office), Origin::Granted(scanner)]
        {
            let small =
                Envelope { origin, reverse_path: ReversePath::Null, client: None, ..envelope.clone() };
            assert_eq!(Envelope::decode(&small.encode()), Ok(small));
        }
    }

    #[test]
    fn fields_of_a_later_release_are_skipped() {
        let mut encoded = full().encode();
        encoded.extend_from_slice(&[200, 3, 1, 2, 3]);
        assert_eq!(Envelope::decode(&encoded), Ok(full()));
    }

    #[test]
    fn values_that_mean_nothing_are_damage() {
        for (tag, value) in [
            (tag::REVERSE_PATH, b"nobody".as_slice()),
            (tag::CLIENT, b"123"),
            (tag::BODY, b"\x09"),
            (tag::RET, b""),
            (tag::HELO, b"\xff"),
            (tag::RECIPIENT, b""),
            (tag::SIZE, &[0xff; 8]),
            (tag::RECEIVED, &[0xff; 8]),
        ] {
            let mut writer = Writer::record();
            writer.bytes(tag, value);
            assert!(Envelope::decode(&writer.finish()).is_err(), "{tag}");
        }
    }

    #[test]
    fn a_typical_envelope_is_small() {
        let envelope = Envelope {
            reverse_path: ReversePath::parse("alice.sender@proseware.test").unwrap(),
            client: Some("192.0.2.77".parse().unwrap()),
            helo: Some("laptop.proseware.test".to_owned()),
            forwarded: None,
            envelope_id: None,
            message_id: Some("20261121180525.4711.alice@laptop.proseware.test".to_owned()),
            recipients: vec![full().recipients[1].clone()],
            ..full()
        };
        assert!(envelope.encode().len() < 190, "{}", envelope.encode().len());
    }

    proptest! {
        #[test]
        fn no_bytes_make_decoding_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let encoded = [vec![1], bytes].concat();
            if let Ok(envelope) = Envelope::decode(&encoded) {
                prop_assert_eq!(Envelope::decode(&envelope.encode()), Ok(envelope));
            }
        }
    }
}
