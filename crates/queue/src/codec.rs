//! The encoding of what the spool keeps beside the content: a version, then fields of tag, length and value.
//!
//! A reader skips tags it does not know, so that a newer patch release can add a field without a new version.

use std::time::{Duration, SystemTime};

/// The only version there is.
const VERSION: u8 = 1;

/// Why an encoded record cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Damaged {
    /// It ends in the middle of a field.
    #[error("it ends in the middle of a field")]
    Truncated,
    /// It was written by a later release.
    #[error("it has the unknown version {0}")]
    Version(u8),
    /// A field holds something that its meaning does not allow.
    #[error("bad {0}")]
    Value(&'static str),
}

/// Writes fields.
#[derive(Debug)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    /// A record, beginning with its version.
    pub(crate) fn record() -> Self {
        Self(vec![VERSION])
    }

    /// The encoded record.
    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }

    pub(crate) fn bytes(&mut self, tag: u8, value: &[u8]) {
        self.0.push(tag);
        self.length(value.len());
        self.0.extend_from_slice(value);
    }

    pub(crate) fn text(&mut self, tag: u8, value: &str) {
        self.bytes(tag, value.as_bytes());
    }

    pub(crate) fn optional_text(&mut self, tag: u8, value: Option<&str>) {
        if let Some(value) = value {
            self.text(tag, value);
        }
    }

    /// Little endian, without leading zero octets.
    pub(crate) fn number(&mut self, tag: u8, value: u64) {
        let octets = value.to_le_bytes();
        let used = octets.len() - value.leading_zeros() as usize / 8;
        self.bytes(tag, &octets[..used]);
    }

    /// Present means true.
    pub(crate) fn flag(&mut self, tag: u8, value: bool) {
        if value {
            self.bytes(tag, &[]);
        }
    }

    /// To the millisecond.
    pub(crate) fn time(&mut self, tag: u8, value: SystemTime) {
        self.number(tag, milliseconds(value));
    }

    /// A field that has fields.
    pub(crate) fn nested(&mut self, tag: u8, write: impl FnOnce(&mut Self)) {
        let mut inner = Self(Vec::new());
        write(&mut inner);
        self.bytes(tag, &inner.0);
    }

    /// Seven bits an octet, least significant first.
    fn length(&mut self, mut length: usize) {
        while length >= 0x80 {
            self.0.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        self.0.push(length as u8);
    }
}

/// Reads fields in the order they stand.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// The fields of a record.
    ///
    /// # Errors
    /// [`Damaged::Version`], [`Damaged::Truncated`].
    pub(crate) fn record(encoded: &'a [u8]) -> Result<Self, Damaged> {
        match encoded.split_first() {
            None => Err(Damaged::Truncated),
            Some((&VERSION, fields)) => Ok(Self(fields)),
            Some((&version, _)) => Err(Damaged::Version(version)),
        }
    }

    /// The next field; `None` at the end.
    pub(crate) fn field(&mut self) -> Result<Option<Field<'a>>, Damaged> {
        let Some((&tag, rest)) = self.0.split_first() else {
            return Ok(None);
        };
        self.0 = rest;
        let length = self.length()?;
        let (value, rest) = self.0.split_at_checked(length).ok_or(Damaged::Truncated)?;
        self.0 = rest;
        Ok(Some(Field { tag, value }))
    }

    fn length(&mut self) -> Result<usize, Damaged> {
        let mut length = 0_usize;
        for place in 0..4 {
            let (&octet, rest) = self.0.split_first().ok_or(Damaged::Truncated)?;
            self.0 = rest;
            length |= usize::from(octet & 0x7f) << (7 * place);
            if octet & 0x80 == 0 {
                return Ok(length);
            }
        }
        Err(Damaged::Value("length"))
    }
}

/// One field.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field<'a> {
    pub(crate) tag: u8,
    pub(crate) value: &'a [u8],
}

impl<'a> Field<'a> {
    pub(crate) fn text(self) -> Result<&'a str, Damaged> {
        std::str::from_utf8(self.value).map_err(|_| Damaged::Value("UTF-8"))
    }

    pub(crate) fn owned_text(self) -> Result<String, Damaged> {
        self.text().map(str::to_owned)
    }

    pub(crate) fn number(self) -> Result<u64, Damaged> {
        let mut octets = [0; 8];
        octets.get_mut(..self.value.len()).ok_or(Damaged::Value("number"))?.copy_from_slice(self.value);
        Ok(u64::from_le_bytes(octets))
    }

    pub(crate) fn small_number<T: TryFrom<u64>>(self) -> Result<T, Damaged> {
        T::try_from(self.number()?).map_err(|_| Damaged::Value("number"))
    }

    pub(crate) fn time(self) -> Result<SystemTime, Damaged> {
        time(self.number()?).ok_or(Damaged::Value("time"))
    }

    pub(crate) fn fields(self) -> Reader<'a> {
        Reader(self.value)
    }
}

/// Milliseconds since 1970; a time before that counts as 1970.
pub(crate) fn milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The reverse of [`milliseconds`]; `None` beyond what the system can say.
pub(crate) fn time(milliseconds: u64) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(milliseconds))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fields_are_read_back_in_order() {
        let mut writer = Writer::record();
        writer.number(1, 0);
        writer.number(2, u64::MAX);
        writer.text(3, &"ä".repeat(100));
        writer.flag(4, false);
        writer.nested(5, |inner| inner.number(9, 300));
        let encoded = writer.finish();
        let mut reader = Reader::record(&encoded).unwrap();
        assert_eq!(reader.field().unwrap().unwrap().number(), Ok(0));
        assert_eq!(reader.field().unwrap().unwrap().number(), Ok(u64::MAX));
        assert_eq!(reader.field().unwrap().unwrap().text(), Ok("ä".repeat(100).as_str()));
        let nested = reader.field().unwrap().unwrap();
        assert_eq!(nested.tag, 5);
        assert_eq!(nested.fields().field().unwrap().unwrap().number(), Ok(300));
        assert!(reader.field().unwrap().is_none());
    }

    #[test]
    fn a_later_version_and_a_cut_record_are_damage() {
        assert_eq!(Reader::record(&[]).unwrap_err(), Damaged::Truncated);
        assert_eq!(Reader::record(&[2]).unwrap_err(), Damaged::Version(2));
        assert_eq!(Reader::record(&[1, 7]).unwrap().field().unwrap_err(), Damaged::Truncated);
        assert_eq!(Reader::record(&[1, 7, 2, 0]).unwrap().field().unwrap_err(), Damaged::Truncated);
        assert!(Reader::record(&[1, 7, 255, 255, 255, 255, 1]).unwrap().field().is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(mut reader) = Reader::record(&bytes) {
                while let Ok(Some(field)) = reader.field() {
                    let _ = (field.number(), field.time(), field.text());
                }
            }
        }
    }
}
