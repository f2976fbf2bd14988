//! The content of a message while it is sent: whole in memory when it is small, else read from the spool in pieces.

use bytes::{Bytes, BytesMut};
use postern_queue::{Content, Lease, StoreError};
use postern_smtp::header::{body_offset, fields};

/// Up to this size a message is read once, for the signature and for every host that is tried.
const WHOLE_LIMIT: u64 = 256 * 1024;
/// A longer header is neither signed nor searched for what needs SMTPUTF8.
pub(crate) const MAX_HEADER: usize = 1024 * 1024;

/// Where the content comes from.
#[derive(Debug, Clone)]
pub(crate) enum Source<'a> {
    /// All of it.
    Whole(Bytes),
    /// The spool; read anew each time.
    Stored(&'a Lease),
}

impl<'a> Source<'a> {
    /// Reads a small message.
    pub(crate) async fn load(lease: &'a Lease) -> Result<Self, StoreError> {
        let mut content = lease.content();
        if content.len() > WHOLE_LIMIT {
            return Ok(Self::Stored(lease));
        }
        let Some(first) = content.next().await? else { return Ok(Self::Whole(Bytes::new())) };
        let Some(second) = content.next().await? else { return Ok(Self::Whole(first)) };
        let mut whole = BytesMut::from(&first[..]);
        whole.extend_from_slice(&second);
        while let Some(piece) = content.next().await? {
            whole.extend_from_slice(&piece);
        }
        Ok(Self::Whole(whole.freeze()))
    }

    /// Octets.
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Whole(bytes) => bytes.len() as u64,
            Self::Stored(lease) => lease.content().len(),
        }
    }

    /// From the beginning.
    pub(crate) fn pieces(&self) -> Pieces {
        match self {
            Self::Whole(bytes) => Pieces::Whole(Some(bytes.clone())),
            Self::Stored(lease) => Pieces::Stored(lease.content()),
        }
    }
}

/// The pieces of a content, in order.
#[derive(Debug)]
pub(crate) enum Pieces {
    Whole(Option<Bytes>),
    Stored(Content),
}

impl Pieces {
    /// The next piece; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        match self {
            Self::Whole(bytes) => Ok(bytes.take().filter(|bytes| !bytes.is_empty())),
            Self::Stored(content) => content.next().await,
        }
    }

    /// The header with its empty line, and what was read of the body with it. `None`: the header is too long.
    pub(crate) async fn header(&mut self) -> Result<Option<(Bytes, Bytes)>, StoreError> {
        let Some(mut read) = self.next().await? else { return Ok(Some((Bytes::new(), Bytes::new()))) };
        loop {
            let end = body_offset(&read);
            let is_complete = end < read.len() || read.ends_with(b"\r\n\r\n");
            if is_complete || read.len() > MAX_HEADER {
                let body = read.split_off(end);
                return Ok(is_complete.then_some((read, body)));
            }
            match self.next().await? {
                Some(more) => read = [read, more].concat().into(),
                None => return Ok(Some((read, Bytes::new()))),
            }
        }
    }
}

/// A message as it goes over the wire.
#[derive(Debug)]
pub(crate) struct Outgoing<'a> {
    /// DKIM-Signature fields, in front of all others.
    pub(crate) signatures: Vec<u8>,
    pub(crate) source: Source<'a>,
    /// Whether it has octets beyond ASCII, as far as is known without reading a large message.
    pub(crate) eight_bit: bool,
    /// Whether its header has any: then it needs SMTPUTF8 (RFC 6531 §3.1).
    pub(crate) utf8_header: bool,
}

impl<'a> Outgoing<'a> {
    /// Looks at the content. `smtputf8` is what the envelope says: without it the header is not searched.
    pub(crate) async fn new(
        source: Source<'a>,
        signatures: Vec<u8>,
        smtputf8: bool,
    ) -> Result<Self, StoreError> {
        let eight_bit = matches!(&source, Source::Whole(bytes) if !bytes.is_ascii());
        let utf8_header = match smtputf8 {
            true => has_utf8_header(&source).await?,
            false => false,
        };
        Ok(Self { signatures, source, eight_bit, utf8_header })
    }

    /// Octets before dots are stuffed.
    pub(crate) fn len(&self) -> u64 {
        self.signatures.len() as u64 + self.source.len()
    }
}

async fn has_utf8_header(source: &Source<'_>) -> Result<bool, StoreError> {
    let header = source.pieces().header().await?;
    Ok(header.is_none_or(|(header, _)| fields(&header).any(|field| !field.raw.is_ascii())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    async fn split(text: &'static str) -> (Bytes, Bytes) {
        Source::Whole(Bytes::from_static(text.as_bytes())).pieces().header().await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn header_and_body_are_told_apart() {
        assert_eq!(split("A: b\r\n\r\nbody\r\n").await, ("A: b\r\n\r\n".into(), "body\r\n".into()));
        assert_eq!(split("A: b\r\n\r\n").await, ("A: b\r\n\r\n".into(), "".into()));
        assert_eq!(split("A: b\r\n").await, ("A: b\r\n".into(), "".into()));
        assert_eq!(split("").await, ("".into(), "".into()));
    }

    #[tokio::test]
    async fn only_the_header_asks_for_smtputf8() {
        let outgoing = async |text: &str| {
            Outgoing::new(Source::Whole(Bytes::copy_from_slice(text.as_bytes())), Vec::new(), true)
                .await
                .unwrap()
        };
        let body = outgoing("A: b\r\n\r\nü\r\n").await;
        assert!(body.eight_bit && !body.utf8_header);
        assert!(outgoing("A: ü\r\n\r\n\r\n").await.utf8_header);
    }
}
