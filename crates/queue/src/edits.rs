//! What operators have changed of an envelope. The envelope in the spool stays as it was accepted; the changes are part of the
//! message's state and are laid over it whenever the two are put together in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use postern_smtp::ReversePath;

use crate::codec::{Damaged, Field, Reader, Writer};
use crate::envelope::{Envelope, Recipient, address, priority, write_priority};

/// Recipients that operators can add to one message: as many as a client may name by RFC 5321 §4.5.3.1.8, ten times over.
pub(crate) const MAX_ADDED: usize = 1000;

/// Characters of a route at most: a host name, a port and a login have room.
pub(crate) const MAX_ROUTE: usize = 500;

/// The changes of one envelope.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Edits {
    /// Another MAIL FROM.
    pub(crate) sender: Option<ReversePath>,
    /// Recipients behind those of the envelope.
    pub(crate) added: Vec<Recipient>,
    /// The routes that were chosen by hand, by recipient, those that were added included.
    pub(crate) routes: BTreeMap<u32, Arc<str>>,
    /// Another priority.
    pub(crate) priority: Option<i8>,
}

/// Fields of the message's state. Their numbers are among those of `state::tag`.
pub(crate) mod tag {
    /// Empty: the null sender.
    pub(crate) const SENDER: u8 = 6;
    pub(crate) const ADDED: u8 = 7;
    pub(crate) const ROUTE: u8 = 8;
    pub(crate) const PRIORITY: u8 = 10;

    /// Fields of a route.
    pub(super) mod route {
        pub(in super::super) const VIA: u8 = 1;
        /// A recipient that takes it; as often as there are such.
        pub(in super::super) const RECIPIENT: u8 = 2;
    }
}

impl Edits {
    /// Lays the changes over the envelope as it was accepted.
    pub(crate) fn apply(&self, envelope: &mut Envelope) {
        if let Some(sender) = &self.sender {
            envelope.reverse_path = sender.clone();
        }
        envelope.recipients.extend(self.added.iter().cloned());
        for (index, via) in &self.routes {
            if let Some(recipient) = envelope.recipients.get_mut(*index as usize) {
                recipient.via = Some(via.clone());
            }
        }
        envelope.priority = self.priority.unwrap_or(envelope.priority);
        let addresses = self.added.iter().map(|recipient| &recipient.address);
        let sender = self.sender.as_ref().and_then(ReversePath::address);
        // RFC 6531 §3.4: a message whose envelope is not in ASCII needs a next hop that takes such.
        envelope.smtputf8 |= addresses.chain(sender).any(|address| address.needs_utf8());
    }

    /// Writes what there is.
    pub(crate) fn encode(&self, writer: &mut Writer) {
        if let Some(sender) = &self.sender {
            writer.text(tag::SENDER, &sender.to_string());
        }
        for recipient in &self.added {
            writer.nested(tag::ADDED, |writer| recipient.encode(writer));
        }
        if let Some(priority) = self.priority {
            write_priority(tag::PRIORITY, priority, writer);
        }
        let mut by_route: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
        for (index, via) in &self.routes {
            by_route.entry(via).or_default().push(*index);
        }
        for (via, indices) in by_route {
            writer.nested(tag::ROUTE, |writer| {
                writer.text(tag::route::VIA, via);
                for index in indices {
                    writer.number(tag::route::RECIPIENT, index.into());
                }
            });
        }
    }

    /// Takes in one of its fields.
    ///
    /// # Errors
    /// [`Damaged`].
    pub(crate) fn take(&mut self, field: Field<'_>) -> Result<(), Damaged> {
        match field.tag {
            tag::SENDER if field.value.is_empty() => self.sender = Some(ReversePath::Null),
            tag::SENDER => self.sender = Some(ReversePath::Address(address(field)?)),
            tag::ADDED => self.added.push(Recipient::decode(field.fields())?),
            tag::ROUTE => self.take_route(field.fields())?,
            tag::PRIORITY => self.priority = Some(priority(field)?),
            _ => {}
        }
        Ok(())
    }

    fn take_route(&mut self, mut reader: Reader<'_>) -> Result<(), Damaged> {
        let mut via: Option<Arc<str>> = None;
        while let Some(field) = reader.field()? {
            match field.tag {
                tag::route::VIA => via = Some(field.text()?.into()),
                tag::route::RECIPIENT => {
                    let via = via.clone().ok_or(Damaged::Value("route"))?;
                    self.routes.insert(field.small_number()?, via);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::messages::tests::envelope;
    use postern_smtp::Address;

    fn recipient(address: &str) -> Recipient {
        Recipient::new(Address::parse(address).unwrap())
    }

    fn sample() -> Edits {
        Edits {
            sender: Some(ReversePath::Null),
            added: vec![recipient("žofie@adatum.test"), recipient("carol@adatum.test")],
            routes: BTreeMap::from([
                (0, "mx".into()),
                (1, "smarthost relay.test:587".into()),
                (3, "mx".into()),
            ]),
            priority: Some(-9),
        }
    }

    fn written(edits: &Edits) -> Vec<u8> {
        let mut writer = Writer::record();
        edits.encode(&mut writer);
        writer.finish()
    }

    fn read(encoded: &[u8]) -> Result<Edits, Damaged> {
        let mut edits = Edits::default();
        let mut reader = Reader::record(encoded)?;
        while let Some(field) = reader.field()? {
            edits.take(field)?;
        }
        Ok(edits)
    }

    #[test]
    fn edits_are_read_back_as_they_were_written() {
        let other = Edits { sender: Some(ReversePath::parse("alice@proseware.test").unwrap()), ..sample() };
        let priority = |priority| Edits { priority: Some(priority), ..Edits::default() };
        for edits in [Edits::default(), sample(), other, priority(0), priority(9)] {
            assert_eq!(read(&written(&edits)), Ok(edits));
        }
        assert_eq!(written(&Edits::default()).len(), 1, "most messages have none");
    }

    #[test]
    fn edits_are_laid_over_the_envelope() {
        let mut envelope = envelope(2);
        sample().apply(&mut envelope);
        assert!(envelope.has_null_sender() && envelope.smtputf8 && envelope.priority == -9);
        let shown = envelope.recipients.iter().map(|r| (r.address.to_string(), r.via.as_deref()));
        let expected = [
            ("r0@adatum.test", Some("mx")),
            ("r1@adatum.test", Some("smarthost relay.test:587")),
            ("žofie@adatum.test", None),
            ("carol@adatum.test", Some("mx")),
        ];
        assert_eq!(shown.collect::<Vec<_>>(), expected.map(|(address, via)| (address.to_owned(), via)));
    }

    #[test]
    fn a_priority_out_of_range_is_damage() {
        let mut writer = Writer::record();
        writer.number(tag::PRIORITY, 19);
        assert!(read(&writer.finish()).is_err());
    }

    #[test]
    fn a_recipient_in_front_of_its_route_is_damage() {
        let mut writer = Writer::record();
        writer.nested(tag::ROUTE, |writer| writer.number(tag::route::RECIPIENT, 0));
        assert!(read(&writer.finish()).is_err());
    }
}
