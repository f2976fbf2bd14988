//! What other mail systems say about the client that they speak for: the attributes of XCLIENT and XFORWARD, as Postfix's
//! XCLIENT_README and XFORWARD_README describe them. Values are xtext (RFC 3461 §4).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::command::decode_xtext;

/// Octets of a text: no host name is longer (RFC 1035 §2.3.4), and texts are kept in sessions and logs.
const MAX_TEXT: usize = 255;
/// In front of IPv6 addresses, in any case.
const IPV6_PREFIX: &str = "IPV6:";

/// What one attribute says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told<T> {
    /// This.
    Value(T),
    /// `[UNAVAILABLE]`, or `[TEMPUNAVAIL]`: whoever speaks for the client does not know it.
    Unavailable,
}

impl<T> Told<T> {
    /// What is said, if anything.
    pub fn value(&self) -> Option<&T> {
        match self {
            Self::Value(value) => Some(value),
            Self::Unavailable => None,
        }
    }
}

/// How the client spoke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// It said HELO.
    Smtp,
    /// It said EHLO.
    Esmtp,
}

/// Where a message came from before it came to whoever hands it on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// From the same host.
    Local,
    /// From another one.
    Remote,
}

/// What XCLIENT says. What it does not name stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct XClient {
    /// NAME: the host name of the client, as whoever speaks for it has found it.
    pub name: Option<Told<String>>,
    /// ADDR: the address of the client; never IPv4 mapped into IPv6.
    pub address: Option<Told<IpAddr>>,
    /// PORT: where it connected from.
    pub port: Option<Told<u16>>,
    /// PROTO.
    pub protocol: Option<Told<Protocol>>,
    /// HELO: what the client called itself, in printable ASCII.
    pub helo: Option<Told<String>>,
    /// LOGIN: as whom the client has logged in there.
    pub login: Option<Told<String>>,
    /// DESTADDR: the address that it connected to; never IPv4 mapped into IPv6.
    pub destination: Option<Told<IpAddr>>,
    /// DESTPORT.
    pub destination_port: Option<Told<u16>>,
}

/// What XFORWARD says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct XForward {
    /// NAME: the host name of the client.
    pub name: Option<Told<String>>,
    /// ADDR: its address; never IPv4 mapped into IPv6.
    pub address: Option<Told<IpAddr>>,
    /// PORT.
    pub port: Option<Told<u16>>,
    /// PROTO.
    pub protocol: Option<Told<String>>,
    /// HELO.
    pub helo: Option<Told<String>>,
    /// IDENT: what the message is called in the log of whoever hands it on.
    pub ident: Option<Told<String>>,
    /// SOURCE.
    pub source: Option<Told<Source>>,
}

impl XForward {
    /// Where the message came from, in one line: `office.test [192.0.2.7]`. `None`: neither name nor address is known.
    pub fn from(&self) -> Option<String> {
        let name = self.name.as_ref().and_then(Told::value).cloned();
        let address = self.address.as_ref().and_then(Told::value).map(|ip| format!("[{ip}]"));
        let known: Vec<String> = [name, address].into_iter().flatten().collect();
        (!known.is_empty()).then(|| known.join(" "))
    }

    /// Adds what was said later; what is said again counts in its last form.
    pub fn add(&mut self, later: Self) {
        let Self { name, address, port, protocol, helo, ident, source } = later;
        replace(&mut self.name, name);
        replace(&mut self.address, address);
        replace(&mut self.port, port);
        replace(&mut self.protocol, protocol);
        replace(&mut self.helo, helo);
        replace(&mut self.ident, ident);
        replace(&mut self.source, source);
    }
}

fn replace<T>(known: &mut Option<T>, later: Option<T>) {
    if later.is_some() {
        *known = later;
    }
}

/// Why attributes cannot be used. The text is fit for the reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AttributeError {
    /// There is none, or one without `=`.
    #[error("NAME=value [NAME=value ...] expected")]
    Syntax,
    /// A name that does not belong to the command.
    #[error("unknown attribute")]
    Unknown,
    /// An attribute given twice.
    #[error("attribute {0} given twice")]
    Twice(&'static str),
    /// A value that is not in its grammar.
    #[error("malformed attribute {0}")]
    Malformed(&'static str),
}

impl XClient {
    /// The names of the attributes, as EHLO announces them; LOGIN is for those who may say it.
    pub const NAMES: [&'static str; 8] =
        ["NAME", "ADDR", "PORT", "PROTO", "HELO", "LOGIN", "DESTADDR", "DESTPORT"];

    /// Reads what stands behind the verb.
    ///
    /// # Errors
    /// [`AttributeError`].
    pub fn parse(argument: &str) -> Result<Self, AttributeError> {
        let mut said = Self::default();
        for attribute in attributes(argument, &Self::NAMES)? {
            let (keyword, value) = attribute?;
            match keyword {
                "NAME" => set(keyword, &mut said.name, value, text)?,
                "ADDR" => set(keyword, &mut said.address, value, address)?,
                "PORT" => set(keyword, &mut said.port, value, port)?,
                "PROTO" => set(keyword, &mut said.protocol, value, protocol)?,
                "HELO" => set(keyword, &mut said.helo, value, text)?,
                "LOGIN" => set(keyword, &mut said.login, value, login)?,
                "DESTADDR" => set(keyword, &mut said.destination, value, address)?,
                _ => set(keyword, &mut said.destination_port, value, port)?,
            }
        }
        Ok(said)
    }
}

impl XForward {
    /// The names of the attributes, as EHLO announces them.
    pub const NAMES: [&'static str; 7] = ["NAME", "ADDR", "PORT", "PROTO", "HELO", "IDENT", "SOURCE"];

    /// Reads what stands behind the verb.
    ///
    /// # Errors
    /// [`AttributeError`].
    pub fn parse(argument: &str) -> Result<Self, AttributeError> {
        let mut said = Self::default();
        for attribute in attributes(argument, &Self::NAMES)? {
            let (keyword, value) = attribute?;
            match keyword {
                "NAME" => set(keyword, &mut said.name, value, text)?,
                "ADDR" => set(keyword, &mut said.address, value, address)?,
                "PORT" => set(keyword, &mut said.port, value, port)?,
                "PROTO" => set(keyword, &mut said.protocol, value, text)?,
                "HELO" => set(keyword, &mut said.helo, value, text)?,
                "IDENT" => set(keyword, &mut said.ident, value, text)?,
                _ => set(keyword, &mut said.source, value, source)?,
            }
        }
        Ok(said)
    }
}

/// As it stands in a log: what is known, as `NAME=value`.
impl fmt::Display for XForward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn known<T: fmt::Display>(keyword: &str, told: Option<&Told<T>>) -> Option<String> {
            told?.value().map(|value| format!("{keyword}={value}"))
        }
        let words = [
            known("NAME", self.name.as_ref()),
            known("ADDR", self.address.as_ref()),
            known("PORT", self.port.as_ref()),
            known("PROTO", self.protocol.as_ref()),
            known("HELO", self.helo.as_ref()),
            known("IDENT", self.ident.as_ref()),
            known("SOURCE", self.source.as_ref()),
        ];
        f.write_str(&words.into_iter().flatten().collect::<Vec<_>>().join(" "))
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Smtp => "SMTP",
            Self::Esmtp => "ESMTP",
        })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "LOCAL",
            Self::Remote => "REMOTE",
        })
    }
}

/// A keyword, as we write it, and its value.
type Attribute<'a> = Result<(&'static str, &'a str), AttributeError>;

fn attributes<'a>(
    argument: &'a str,
    known: &'static [&'static str],
) -> Result<impl Iterator<Item = Attribute<'a>>, AttributeError> {
    let words = || argument.split(' ').filter(|word| !word.is_empty());
    if words().next().is_none() {
        return Err(AttributeError::Syntax);
    }
    Ok(words().map(move |word| {
        let (keyword, value) = word.split_once('=').ok_or(AttributeError::Syntax)?;
        let mut same = known.iter().filter(|known| known.eq_ignore_ascii_case(keyword));
        Ok((*same.next().ok_or(AttributeError::Unknown)?, value))
    }))
}

/// Notes an attribute, which is given once.
fn set<T>(
    keyword: &'static str,
    slot: &mut Option<Told<T>>,
    value: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<(), AttributeError> {
    let value = decode_xtext(value).ok_or(AttributeError::Malformed(keyword))?;
    let is = |word: &str| value.eq_ignore_ascii_case(word);
    let told = match is("[UNAVAILABLE]") || is("[TEMPUNAVAIL]") {
        true => Told::Unavailable,
        false => Told::Value(parse(&value).ok_or(AttributeError::Malformed(keyword))?),
    };
    match slot.replace(told) {
        None => Ok(()),
        Some(_) => Err(AttributeError::Twice(keyword)),
    }
}

/// Names stand in logs and Received fields: printable ASCII, anything else is shown as "?".
fn text(value: &str) -> Option<String> {
    let shown: String =
        value.chars().map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' }).collect();
    let shown = shown.trim();
    (!shown.is_empty() && shown.len() <= MAX_TEXT).then(|| shown.to_owned())
}

/// A name is looked up as it is.
fn login(value: &str) -> Option<String> {
    (!value.is_empty() && value.len() <= MAX_TEXT).then(|| value.to_owned())
}

fn address(value: &str) -> Option<IpAddr> {
    let Some((prefix, rest)) = value.split_at_checked(IPV6_PREFIX.len()) else {
        return value.parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    };
    match prefix.eq_ignore_ascii_case(IPV6_PREFIX) {
        true => rest.parse::<Ipv6Addr>().ok().map(|ip| IpAddr::V6(ip).to_canonical()),
        false => value.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

fn port(value: &str) -> Option<u16> {
    value.bytes().all(|byte| byte.is_ascii_digit()).then(|| value.parse().ok())?
}

fn protocol(value: &str) -> Option<Protocol> {
    [Protocol::Smtp, Protocol::Esmtp].into_iter().find(|known| known.to_string().eq_ignore_ascii_case(value))
}

fn source(value: &str) -> Option<Source> {
    [Source::Local, Source::Remote].into_iter().find(|known| known.to_string().eq_ignore_ascii_case(value))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn xclient_names_a_client_in_any_case_and_in_xtext() {
        let said = XClient::parse(
            "name=spike.adatum.test ADDR=192.0.2.7 Port=4711  PROTO=esmtp HELO=a+2Bb LOGIN=alice@proseware.test \
             DESTADDR=IPV6:2001:db8::25 DESTPORT=25",
        )
        .unwrap();
        assert_eq!(said.name.unwrap().value().unwrap(), "spike.adatum.test");
        assert_eq!(said.address, Some(Told::Value("192.0.2.7".parse().unwrap())));
        assert_eq!(said.port, Some(Told::Value(4711)));
        assert_eq!(said.protocol, Some(Told::Value(Protocol::Esmtp)));
        assert_eq!(said.helo, Some(Told::Value("a+b".to_owned())));
        assert_eq!(said.login, Some(Told::Value("alice@proseware.test".to_owned())));
        assert_eq!(said.destination, Some(Told::Value("2001:db8::25".parse().unwrap())));
        assert_eq!(said.destination_port, Some(Told::Value(25)));
    }

    #[test]
    fn what_is_not_known_is_told_apart_from_what_is_not_said() {
        let said = XClient::parse("NAME=[TEMPUNAVAIL] ADDR=[unavailable]").unwrap();
        assert_eq!((said.name, said.address), (Some(Told::Unavailable), Some(Told::Unavailable)));
        assert_eq!(said.helo, None);
    }

    #[test]
    fn ipv4_is_never_seen_in_ipv6_form() {
        let said = XClient::parse("ADDR=ipv6:::ffff:192.0.2.7").unwrap();
        assert_eq!(said.address, Some(Told::Value("192.0.2.7".parse().unwrap())));
    }

    #[test]
    fn malformed_attributes_say_which() {
        use AttributeError::{Malformed, Syntax, Twice, Unknown};
        for (argument, error) in [
            ("", Syntax),
            ("  ", Syntax),
            ("NAME", Syntax),
            ("NAME=a b", Syntax),
            ("COLOUR=red", Unknown),
            ("IDENT=1", Unknown),
            ("NAME=a NAME=b", Twice("NAME")),
            ("NAME=", Malformed("NAME")),
            ("NAME=a=b", Malformed("NAME")),
            ("HELO=a+0D+0Ab", Malformed("HELO")),
            ("HELO=+2", Malformed("HELO")),
            ("ADDR=2001:db8::1", Malformed("ADDR")),
            ("ADDR=IPV6:192.0.2.1", Malformed("ADDR")),
            ("ADDR=300.1.1.1", Malformed("ADDR")),
            ("ADDR=localhost", Malformed("ADDR")),
            ("PORT=65536", Malformed("PORT")),
            ("PORT=+2B1", Malformed("PORT")),
            ("PORT=-1", Malformed("PORT")),
            ("PROTO=HTTP", Malformed("PROTO")),
            ("DESTPORT=", Malformed("DESTPORT")),
        ] {
            assert_eq!(XClient::parse(argument), Err(error), "{argument}");
        }
        assert_eq!(XClient::parse(&format!("NAME={}", "a".repeat(256))), Err(Malformed("NAME")));
        for (argument, error) in [
            ("SOURCE=MOON", Malformed("SOURCE")),
            ("LOGIN=alice", Unknown),
            ("IDENT=1 IDENT=2", Twice("IDENT")),
        ] {
            assert_eq!(XForward::parse(argument), Err(error), "{argument}");
        }
    }

    #[test]
    fn xforward_comes_in_several_lines() {
        let mut said = XForward::parse("NAME=spike.adatum.test ADDR=192.0.2.7 PROTO=ESMTPS").unwrap();
        said.add(XForward::parse("HELO=spike IDENT=ABC123 SOURCE=local ADDR=192.0.2.8").unwrap());
        assert_eq!(said.from().as_deref(), Some("spike.adatum.test [192.0.2.8]"));
        assert_eq!(XForward::parse("NAME=[UNAVAILABLE] HELO=spike").unwrap().from(), None);
        assert_eq!(said.name.unwrap().value().unwrap(), "spike.adatum.test");
        assert_eq!(said.address, Some(Told::Value("192.0.2.8".parse().unwrap())));
        assert_eq!(
            (said.ident, said.source),
            (Some(Told::Value("ABC123".to_owned())), Some(Told::Value(Source::Local)))
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_them_panic_and_texts_are_one_printable_line(argument in "([A-Z]{4}=)?\\PC{0,60}") {
            let _ = XClient::parse(&argument);
            if let Ok(XForward { helo: Some(Told::Value(helo)), .. }) = XForward::parse(&format!("HELO={argument}")) {
                prop_assert!(helo.chars().all(|c| c == ' ' || c.is_ascii_graphic()) && helo.len() <= MAX_TEXT);
            }
        }
    }
}
