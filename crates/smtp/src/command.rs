//! Command lines of a client (RFC 5321 §4.1.1), read strictly: what is not in the grammar is an error with the reply
//! code it deserves. Some liberties are taken because clients rely on them: spaces behind `FROM:` and `TO:`, addresses
//! without angle brackets, and any printable words behind EHLO.

use std::fmt;
use std::time::Duration;

use crate::address::{AddressError, Domain};
use crate::attributes::{AttributeError, XClient, XForward};
use crate::chunk::Chunk;
use crate::date;
use crate::envelope::{Body, By, EnvelopeId, Hold, Notify, OriginalRecipient, Ret};
use crate::path::{ForwardPath, ReversePath};
use crate::status::EnhancedStatus;

/// One command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// HELO with the client's name, in printable ASCII: characters beyond it are shown as "?".
    Helo(String),
    /// EHLO with the client's name, likewise.
    Ehlo(String),
    /// LHLO with the client's name, likewise: EHLO of LMTP (RFC 2033 §4.1).
    Lhlo(String),
    /// MAIL FROM.
    Mail(Mail),
    /// RCPT TO.
    Rcpt(Rcpt),
    /// DATA.
    Data,
    /// BDAT: a chunk of the message follows (RFC 3030 §2).
    Bdat(Chunk),
    /// RSET.
    Rset,
    /// NOOP, with or without an argument.
    Noop,
    /// QUIT.
    Quit,
    /// VRFY of something.
    Vrfy,
    /// EXPN of something.
    Expn,
    /// HELP, with or without an argument.
    Help,
    /// STARTTLS (RFC 3207).
    StartTls,
    /// AUTH (RFC 4954).
    Auth(Auth),
    /// XCLIENT (Postfix's XCLIENT_README).
    XClient(Box<XClient>),
    /// XFORWARD (Postfix's XFORWARD_README).
    XForward(Box<XForward>),
    /// ETRN (RFC 1985).
    Etrn(Node),
}

/// Whose waiting mail ETRN asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// `example.test`, and `#example.test`: our queues have the names of domains.
    Domain(Domain),
    /// `@example.test`: the domain and all below it.
    Within(Domain),
}

impl Node {
    /// Whether mail to the domain is asked for.
    pub fn names(&self, domain: &Domain) -> bool {
        match self {
            Self::Domain(name) => domain == name,
            Self::Within(name) => domain.is_within(name),
        }
    }
}

/// As the client writes it.
impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Domain(name) => write!(f, "{name}"),
            Self::Within(name) => write!(f, "@{name}"),
        }
    }
}

/// A command that is only for some clients: for all others there is no such command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListedVerb {
    /// XCLIENT.
    XClient,
    /// XFORWARD.
    XForward,
    /// ETRN.
    Etrn,
    /// LHLO: for clients that speak LMTP.
    Lhlo,
}

impl ListedVerb {
    /// As EHLO announces it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::XClient => "XCLIENT",
            Self::XForward => "XFORWARD",
            Self::Etrn => "ETRN",
            Self::Lhlo => "LHLO",
        }
    }
}

/// MAIL FROM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// The sender.
    pub path: ReversePath,
    /// Whether it was written with characters beyond ASCII: only allowed with SMTPUTF8 (RFC 6531 §3.3).
    pub utf8: bool,
    /// What stands behind it.
    pub parameters: MailParameters,
}

/// The parameters of MAIL that we know.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MailParameters {
    /// SIZE, in octets (RFC 1870).
    pub size: Option<u64>,
    /// BODY (RFC 6152, RFC 3030).
    pub body: Option<Body>,
    /// SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    /// RET (RFC 3461 §4.3).
    pub ret: Option<Ret>,
    /// ENVID (RFC 3461 §4.4).
    pub envelope_id: Option<EnvelopeId>,
    /// REQUIRETLS (RFC 8689 §2).
    pub require_tls: bool,
    /// HOLDFOR or HOLDUNTIL (RFC 4865).
    pub hold: Option<Hold>,
    /// BY (RFC 2852).
    pub by: Option<By>,
    /// MT-PRIORITY, from -9 to 9 (RFC 6710).
    pub priority: Option<i8>,
    /// Whether AUTH was given. Its value is checked and dropped: nobody is trusted to vouch for others (RFC 4954 §5).
    pub auth: bool,
}

/// RCPT TO.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rcpt {
    /// The recipient.
    pub path: ForwardPath,
    /// Whether it was written with characters beyond ASCII: only allowed after MAIL with SMTPUTF8 (RFC 6531 §3.3).
    pub utf8: bool,
    /// What stands behind it.
    pub parameters: RcptParameters,
}

/// The parameters of RCPT that we know.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RcptParameters {
    /// NOTIFY (RFC 3461 §4.1).
    pub notify: Option<Notify>,
    /// ORCPT (RFC 3461 §4.2).
    pub original: Option<OriginalRecipient>,
}

/// AUTH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth {
    /// The name of the mechanism, in upper case.
    pub mechanism: String,
    /// What came with the command, still in base 64; `=` is an empty response (RFC 4954 §4).
    pub initial: Option<InitialResponse>,
}

/// The first words of a SASL exchange. They may hold a password, so nothing prints them.
#[derive(Clone, PartialEq, Eq)]
pub struct InitialResponse(pub String);

impl fmt::Debug for InitialResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InitialResponse(..)")
    }
}

/// Why a line is no command. The text is fit for the reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// No such command.
    #[error("command not recognised")]
    Unknown,
    /// A control character in what should be the name of a command.
    #[error("commands are printable ASCII")]
    BadCharacter,
    /// A control character behind a command, or an octet above 127 where there is no path.
    #[error("arguments are printable ASCII")]
    BadArgument,
    /// Octets that are not UTF-8 in a path.
    #[error("path is not UTF-8")]
    NotUtf8,
    /// BDAT that does not say how many octets follow.
    #[error("syntax: BDAT octets [LAST]")]
    BadChunk,
    /// What stands behind a command that is only for some clients.
    #[error("{}: {}", .0.as_str(), .1)]
    Attributes(ListedVerb, #[source] AttributeError),
    /// ETRN without a domain, or with one that is none.
    #[error("syntax: ETRN domain, @domain or #domain")]
    BadNode,
    /// LHLO without a name, or with one that cannot be kept.
    #[error("syntax: LHLO hostname")]
    BadLhlo,
    /// Arguments missing, too many, or not in order.
    #[error("syntax: {0}")]
    Syntax(&'static str),
    /// A parameter that we did not announce.
    #[error("parameter {0} is not supported")]
    UnknownParameter(String),
    /// A parameter given twice.
    #[error("parameter {0} given twice")]
    DuplicateParameter(&'static str),
    /// A parameter whose value is not in its grammar.
    #[error("malformed parameter {0}")]
    BadParameter(&'static str),
    /// A parameter whose value is one that we do not know.
    #[error("value of parameter {0} is not known")]
    UnknownValue(&'static str),
    /// A SIZE beyond what 64 bits can say.
    #[error("message too large")]
    SizeTooLarge,
    /// The address in MAIL FROM.
    #[error("bad sender address: {0}")]
    BadSender(#[source] AddressError),
    /// The address in RCPT TO.
    #[error("bad recipient address: {0}")]
    BadRecipient(#[source] AddressError),
}

impl CommandError {
    /// The parameter of MAIL or RCPT whose value cannot be used.
    pub fn parameter(&self) -> Option<&'static str> {
        match self {
            Self::DuplicateParameter(keyword) | Self::BadParameter(keyword) | Self::UnknownValue(keyword) => {
                Some(keyword)
            }
            _ => None,
        }
    }

    /// The command, if it is one that is only for some clients.
    pub fn listed_verb(&self) -> Option<ListedVerb> {
        match self {
            Self::Attributes(verb, _) => Some(*verb),
            Self::BadNode => Some(ListedVerb::Etrn),
            Self::BadLhlo => Some(ListedVerb::Lhlo),
            _ => None,
        }
    }

    /// The reply code (RFC 5321 §4.2.3; 555 and 552 from §4.1.1.11 and RFC 1870).
    pub fn code(&self) -> u16 {
        match self {
            Self::Unknown | Self::BadCharacter => 500,
            Self::BadArgument
            | Self::NotUtf8
            | Self::BadChunk
            | Self::Attributes(..)
            | Self::BadNode
            | Self::BadLhlo
            | Self::Syntax(_)
            | Self::DuplicateParameter(_)
            | Self::BadParameter(_)
            | Self::BadSender(_)
            | Self::BadRecipient(_) => 501,
            Self::UnknownValue(_) => 504,
            Self::SizeTooLarge => 552,
            Self::UnknownParameter(_) => 555,
        }
    }

    /// The enhanced status code.
    pub fn status(&self) -> EnhancedStatus {
        let (subject, detail) = match self {
            Self::Unknown | Self::BadCharacter | Self::NotUtf8 => (5, 2),
            Self::BadArgument | Self::BadChunk | Self::Syntax(_) | Self::UnknownParameter(_) => (5, 4),
            Self::Attributes(..) | Self::BadNode | Self::BadLhlo => (5, 4),
            Self::DuplicateParameter(_) | Self::BadParameter(_) | Self::UnknownValue(_) => (5, 4),
            Self::SizeTooLarge => (3, 4),
            Self::BadSender(_) => (1, 7),
            Self::BadRecipient(_) => (1, 3),
        };
        EnhancedStatus::new(5, subject, detail)
    }
}

/// No verb of ours is longer.
const MAX_VERB: usize = 8;
/// Octets of a client's name: no domain is longer, and it is kept in records and envelopes.
const MAX_NAME: usize = 255;
/// RFC 3461 §4.4.
const MAX_ENVID: usize = 100;
/// RFC 3461 §4.2.
const MAX_ORCPT: usize = 500;
/// What of an unknown keyword stands in the reply.
const MAX_ECHO: usize = 40;

impl Command {
    /// The command, if it is one that is only for some clients.
    pub fn listed_verb(&self) -> Option<ListedVerb> {
        match self {
            Self::XClient(_) => Some(ListedVerb::XClient),
            Self::XForward(_) => Some(ListedVerb::XForward),
            Self::Etrn(_) => Some(ListedVerb::Etrn),
            Self::Lhlo(_) => Some(ListedVerb::Lhlo),
            _ => None,
        }
    }

    /// Reads one line without its CRLF. Spaces at its end are dropped (RFC 5321 §4.1.1).
    ///
    /// # Errors
    /// [`CommandError`], which knows its reply code.
    pub fn parse(line: &[u8]) -> Result<Self, CommandError> {
        let line = trim_end(line);
        let (verb, argument) = match memchr::memchr(b' ', line) {
            Some(at) => (&line[..at], line[at..].trim_ascii_start()),
            None => (line, &line[line.len()..]),
        };
        if verb.iter().any(u8::is_ascii_control) {
            return Err(CommandError::BadCharacter);
        }
        let mut upper = [0; MAX_VERB];
        let upper = upper.get_mut(..verb.len()).ok_or(CommandError::Unknown)?;
        upper.copy_from_slice(verb);
        upper.make_ascii_uppercase();
        // Used by the commands that there are: any other is unknown, whatever stands behind it.
        let argument = without_controls(argument);
        match &*upper {
            b"MAIL" => mail(path_text(argument?)?).map(Self::Mail),
            b"RCPT" => rcpt(path_text(argument?)?).map(Self::Rcpt),
            b"DATA" => alone(argument?, Self::Data, "DATA"),
            b"BDAT" => argument.ok().and_then(chunk).map(Self::Bdat).ok_or(CommandError::BadChunk),
            b"EHLO" => client_name(argument?, "EHLO hostname").map(Self::Ehlo),
            b"HELO" => client_name(argument?, "HELO hostname").map(Self::Helo),
            b"LHLO" => {
                let name = argument.and_then(|argument| client_name(argument, "LHLO hostname"));
                name.map(Self::Lhlo).map_err(|_| CommandError::BadLhlo)
            }
            b"QUIT" => alone(argument?, Self::Quit, "QUIT"),
            b"RSET" => alone(argument?, Self::Rset, "RSET"),
            b"NOOP" => ascii(argument?).map(|_| Self::Noop),
            b"HELP" => ascii(argument?).map(|_| Self::Help),
            b"VRFY" => something(argument?, Self::Vrfy, "VRFY address"),
            b"EXPN" => something(argument?, Self::Expn, "EXPN list"),
            b"STARTTLS" => alone(argument?, Self::StartTls, "STARTTLS"),
            b"AUTH" => auth(ascii(argument?)?).map(Self::Auth),
            b"XCLIENT" => attributes(ListedVerb::XClient, argument, XClient::parse)
                .map(|said| Self::XClient(Box::new(said))),
            b"XFORWARD" => attributes(ListedVerb::XForward, argument, XForward::parse)
                .map(|said| Self::XForward(Box::new(said))),
            b"ETRN" => argument.ok().and_then(node).map(Self::Etrn).ok_or(CommandError::BadNode),
            _ => Err(CommandError::Unknown),
        }
    }
}

fn trim_end(line: &[u8]) -> &[u8] {
    let end = line.iter().rposition(|byte| !matches!(byte, b' ' | b'\t')).map_or(0, |at| at + 1);
    &line[..end]
}

fn without_controls(argument: &[u8]) -> Result<&[u8], CommandError> {
    match argument.iter().any(u8::is_ascii_control) {
        true => Err(CommandError::BadArgument),
        false => Ok(argument),
    }
}

fn alone(argument: &[u8], command: Command, usage: &'static str) -> Result<Command, CommandError> {
    if argument.is_empty() { Ok(command) } else { Err(CommandError::Syntax(usage)) }
}

/// `octets [LAST]` (RFC 3030 §2). `None` also for a number beyond 64 bits: nobody sends so much.
fn chunk(argument: &[u8]) -> Option<Chunk> {
    let mut words = ascii(argument).ok()?.split(' ').filter(|word| !word.is_empty());
    let octets = words.next().filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    let is_last = match words.next() {
        None => false,
        Some(word) if word.eq_ignore_ascii_case("LAST") => true,
        Some(_) => return None,
    };
    words.next().is_none().then_some(Chunk { octets: octets.parse().ok()?, is_last })
}

fn something(argument: &[u8], command: Command, usage: &'static str) -> Result<Command, CommandError> {
    if argument.is_empty() {
        return Err(CommandError::Syntax(usage));
    }
    path_text(argument).map(|_| command)
}

fn ascii(argument: &[u8]) -> Result<&str, CommandError> {
    let text = std::str::from_utf8(argument).map_err(|_| CommandError::BadArgument)?;
    if text.is_ascii() { Ok(text) } else { Err(CommandError::BadArgument) }
}

fn path_text(argument: &[u8]) -> Result<&str, CommandError> {
    std::str::from_utf8(argument).map_err(|_| CommandError::NotUtf8)
}

/// Machines are called by their owners, with spaces and umlauts; nothing is decided by the name, so none is refused for it.
fn client_name(argument: &[u8], usage: &'static str) -> Result<String, CommandError> {
    let text = String::from_utf8_lossy(argument);
    let ascii: String = text.chars().map(|c| if c.is_ascii() { c } else { '?' }).collect();
    let name = ascii.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(CommandError::Syntax(usage));
    }
    Ok(name)
}

fn auth(argument: &str) -> Result<Auth, CommandError> {
    let mut words = argument.split(' ').filter(|word| !word.is_empty());
    let (Some(mechanism), initial, None) = (words.next(), words.next(), words.next()) else {
        return Err(CommandError::Syntax("AUTH mechanism [initial-response]"));
    };
    Ok(Auth {
        mechanism: mechanism.to_ascii_uppercase(),
        initial: initial.map(|text| InitialResponse(text.to_owned())),
    })
}

/// `domain`, `@domain` or `#queue` (RFC 1985 §5).
fn node(argument: &[u8]) -> Option<Node> {
    let text = ascii(argument).ok()?;
    let domain = |name: &str| Domain::parse(name).ok();
    match text.split_at_checked(1)? {
        ("@", name) => domain(name).map(Node::Within),
        ("#", name) => domain(name).map(Node::Domain),
        _ => domain(text).map(Node::Domain),
    }
}

/// Whatever is wrong with it, the error says to which command it belongs: nobody else is to learn that there is one.
fn attributes<T>(
    verb: ListedVerb,
    argument: Result<&[u8], CommandError>,
    parse: impl Fn(&str) -> Result<T, AttributeError>,
) -> Result<T, CommandError> {
    let text = argument.and_then(ascii).map_err(|_| AttributeError::Syntax);
    text.and_then(parse).map_err(|error| CommandError::Attributes(verb, error))
}

const MAIL_USAGE: &str = "MAIL FROM:<address> [parameters]";
const RCPT_USAGE: &str = "RCPT TO:<address> [parameters]";

fn mail(argument: &str) -> Result<Mail, CommandError> {
    let (inner, rest) = split_path(argument, "FROM:").ok_or(CommandError::Syntax(MAIL_USAGE))?;
    let path = ReversePath::parse(inner).map_err(CommandError::BadSender)?;
    Ok(Mail { path, utf8: !inner.is_ascii(), parameters: mail_parameters(rest)? })
}

fn rcpt(argument: &str) -> Result<Rcpt, CommandError> {
    let (inner, rest) = split_path(argument, "TO:").ok_or(CommandError::Syntax(RCPT_USAGE))?;
    let path = ForwardPath::parse(inner).map_err(CommandError::BadRecipient)?;
    // RFC 6533 §3: the ORCPT parameter may have such characters too, then likewise.
    Ok(Rcpt { path, utf8: !inner.is_ascii() || !rest.is_ascii(), parameters: rcpt_parameters(rest)? })
}

/// `FROM:<inner> rest`: the first ">" outside quotes ends the path. Without brackets, as devices write it, the first space
/// does.
fn split_path<'a>(argument: &'a str, keyword: &str) -> Option<(&'a str, &'a str)> {
    let (head, tail) = argument.split_at_checked(keyword.len())?;
    if !head.eq_ignore_ascii_case(keyword) {
        return None;
    }
    let path = tail.trim_start_matches(' ');
    let Some(path) = path.strip_prefix('<') else {
        let (bare, rest) = path.split_at(path.find(' ').unwrap_or(path.len()));
        return (!bare.is_empty() && !bare.contains(['<', '>', '"'])).then_some((bare, rest));
    };
    let mut quoted = false;
    let mut escaped = false;
    for (at, byte) in path.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'>' if !quoted => {
                let rest = &path[at + 1..];
                return (rest.is_empty() || rest.starts_with(' ')).then_some((&path[..at], rest));
            }
            _ => {}
        }
    }
    None
}

fn mail_parameters(text: &str) -> Result<MailParameters, CommandError> {
    let mut parameters = MailParameters::default();
    let mut submitter = None;
    let (mut utf8, mut require_tls) = (None, None);
    for (keyword, value) in words(text) {
        match keyword.to_ascii_uppercase().as_str() {
            "SIZE" => once("SIZE", &mut parameters.size, size(value)?)?,
            "BODY" => once("BODY", &mut parameters.body, body(value)?)?,
            "SMTPUTF8" => once("SMTPUTF8", &mut utf8, no_value("SMTPUTF8", value)?)?,
            "RET" => once("RET", &mut parameters.ret, ret(value)?)?,
            "ENVID" => {
                let id = envelope_id(value).ok_or(CommandError::BadParameter("ENVID"))?;
                once("ENVID", &mut parameters.envelope_id, id)?;
            }
            "REQUIRETLS" => once("REQUIRETLS", &mut require_tls, no_value("REQUIRETLS", value)?)?,
            "HOLDFOR" => {
                let hold = hold_for(value).ok_or(CommandError::BadParameter("HOLDFOR"))?;
                once("HOLDFOR", &mut parameters.hold, hold)?;
            }
            "HOLDUNTIL" => {
                let hold = value.and_then(date::parse_rfc3339_utc).map(Hold::Until);
                let hold = hold.ok_or(CommandError::BadParameter("HOLDUNTIL"))?;
                once("HOLDUNTIL", &mut parameters.hold, hold)?;
            }
            "BY" => {
                let by = by(value).ok_or(CommandError::BadParameter("BY"))?;
                once("BY", &mut parameters.by, by)?;
            }
            "MT-PRIORITY" => {
                let priority = priority(value).ok_or(CommandError::BadParameter("MT-PRIORITY"))?;
                once("MT-PRIORITY", &mut parameters.priority, priority)?;
            }
            "AUTH" => once("AUTH", &mut submitter, check_submitter(value)?)?,
            _ => return Err(unknown(keyword)),
        }
    }
    parameters.smtputf8 = utf8.is_some();
    parameters.require_tls = require_tls.is_some();
    parameters.auth = submitter.is_some();
    Ok(parameters)
}

fn rcpt_parameters(text: &str) -> Result<RcptParameters, CommandError> {
    let mut parameters = RcptParameters::default();
    for (keyword, value) in words(text) {
        match keyword.to_ascii_uppercase().as_str() {
            "NOTIFY" => {
                let notify = notify(value).ok_or(CommandError::BadParameter("NOTIFY"))?;
                once("NOTIFY", &mut parameters.notify, notify)?;
            }
            "ORCPT" => {
                let original = original_recipient(value).ok_or(CommandError::BadParameter("ORCPT"))?;
                once("ORCPT", &mut parameters.original, original)?;
            }
            _ => return Err(unknown(keyword)),
        }
    }
    Ok(parameters)
}

/// `keyword` or `keyword=value`, separated by spaces (RFC 5321 §4.1.2).
fn words(text: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    text.split(' ').filter(|word| !word.is_empty()).map(|word| match word.split_once('=') {
        Some((keyword, value)) => (keyword, Some(value)),
        None => (word, None),
    })
}

fn unknown(keyword: &str) -> CommandError {
    CommandError::UnknownParameter(keyword.chars().take(MAX_ECHO).collect())
}

fn once<T>(keyword: &'static str, slot: &mut Option<T>, value: T) -> Result<(), CommandError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(CommandError::DuplicateParameter(keyword)),
    }
}

fn size(value: Option<&str>) -> Result<u64, CommandError> {
    let digits = value.filter(|v| !v.is_empty() && v.bytes().all(|b| b.is_ascii_digit()));
    let digits = digits.ok_or(CommandError::BadParameter("SIZE"))?;
    // Only digits: what does not parse is beyond 64 bits.
    digits.parse().map_err(|_| CommandError::SizeTooLarge)
}

fn body(value: Option<&str>) -> Result<Body, CommandError> {
    let value = word("BODY", value)?;
    [Body::SevenBit, Body::EightBitMime, Body::BinaryMime]
        .into_iter()
        .find(|body| value.eq_ignore_ascii_case(body.as_str()))
        .ok_or(CommandError::UnknownValue("BODY"))
}

/// The value of a parameter that must have one.
fn word<'a>(keyword: &'static str, value: Option<&'a str>) -> Result<&'a str, CommandError> {
    value.filter(|value| !value.is_empty()).ok_or(CommandError::BadParameter(keyword))
}

fn no_value(keyword: &'static str, value: Option<&str>) -> Result<(), CommandError> {
    if value.is_none() { Ok(()) } else { Err(CommandError::BadParameter(keyword)) }
}

fn ret(value: Option<&str>) -> Result<Ret, CommandError> {
    match word("RET", value)?.to_ascii_uppercase().as_str() {
        "FULL" => Ok(Ret::Full),
        "HDRS" => Ok(Ret::Headers),
        _ => Err(CommandError::BadParameter("RET")),
    }
}

fn envelope_id(value: Option<&str>) -> Option<EnvelopeId> {
    let value = value.filter(|v| !v.is_empty() && v.len() <= MAX_ENVID)?;
    decode_xtext(value).map(EnvelopeId)
}

/// Up to nine digits, none of them a zero in front (RFC 4865 §4).
fn hold_for(value: Option<&str>) -> Option<Hold> {
    let digits = value.filter(|value| !value.starts_with('0'))?;
    Some(Hold::For(Duration::from_secs(nine_digits(digits)?)))
}

/// `120;R`, `-5;NT` (RFC 2852 §4). What is to return needs a time that is not over.
fn by(value: Option<&str>) -> Option<By> {
    let (time, mode) = value?.split_once(';')?;
    let (sign, digits) = match time.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, time.strip_prefix('+').unwrap_or(time)),
    };
    let seconds = sign * i64::try_from(nine_digits(digits)?).ok()?;
    let (returns, trace) = match mode.to_ascii_uppercase().as_str() {
        "R" => (true, false),
        "RT" => (true, true),
        "N" => (false, false),
        "NT" => (false, true),
        _ => return None,
    };
    (seconds > 0 || !returns).then_some(By { seconds, returns, trace })
}

fn nine_digits(text: &str) -> Option<u64> {
    let is_written_so = (1..=9).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_written_so)
}

/// One digit, and perhaps a minus in front of it (RFC 6710 §3).
fn priority(value: Option<&str>) -> Option<i8> {
    let value = value?;
    let digit = value.strip_prefix('-').unwrap_or(value);
    let is_written_so = digit.len() == 1 && value != "-0" && digit.as_bytes()[0].is_ascii_digit();
    value.parse().ok().filter(|_| is_written_so)
}

fn check_submitter(value: Option<&str>) -> Result<(), CommandError> {
    let known = value.is_some_and(|v| v == "<>" || (!v.is_empty() && decode_xtext(v).is_some()));
    if known { Ok(()) } else { Err(CommandError::BadParameter("AUTH")) }
}

fn notify(value: Option<&str>) -> Option<Notify> {
    let value = value?;
    if value.eq_ignore_ascii_case("NEVER") {
        return Some(Notify::NEVER);
    }
    let mut notify = Notify::NEVER;
    for word in value.split(',') {
        let flag = match word.to_ascii_uppercase().as_str() {
            "SUCCESS" => &mut notify.success,
            "FAILURE" => &mut notify.failure,
            "DELAY" => &mut notify.delay,
            _ => return None,
        };
        if std::mem::replace(flag, true) {
            return None;
        }
    }
    Some(notify)
}

fn original_recipient(value: Option<&str>) -> Option<OriginalRecipient> {
    let (kind, address) = value.filter(|v| v.len() <= MAX_ORCPT)?.split_once(';')?;
    let is_atom = !kind.is_empty() && kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if !is_atom || address.is_empty() {
        return None;
    }
    let kind = kind.to_ascii_lowercase();
    let address = match kind.as_str() {
        "utf-8" => decode_utf8_address(address)?,
        _ => decode_xtext(address)?,
    };
    Some(OriginalRecipient { kind, address })
}

/// Decodes the address of the type `utf-8` (RFC 6533 §3), in either of its forms: characters beyond ASCII as they are, or as
/// `\x{17E}`. `None`: neither, or it hides a control character.
fn decode_utf8_address(text: &str) -> Option<String> {
    let mut decoded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        match first {
            '\\' => {
                let (digits, tail) = rest.strip_prefix("\\x{")?.split_once('}')?;
                // HEXPOINT: two to six digits, of upper case.
                let is_point =
                    (2..=6).contains(&digits.len()) && digits.bytes().all(|b| hex_digit(b).is_some());
                let point = u32::from_str_radix(digits, 16).ok().filter(|_| is_point)?;
                decoded.push(char::from_u32(point)?);
                rest = tail;
            }
            '+' | '=' | ' ' => return None,
            other => {
                decoded.push(other);
                rest = &rest[other.len_utf8()..];
            }
        }
    }
    (!decoded.chars().any(char::is_control)).then_some(decoded)
}

/// Decodes xtext (RFC 3461 §4): `+2B` stands for "+". `None`: not xtext, or it hides a control character, which would
/// forge a line wherever the text is shown again.
pub fn decode_xtext(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => decoded.push(hex_digit(bytes.next()?)? << 4 | hex_digit(bytes.next()?)?),
            b'=' => return None,
            b'!'..=b'~' => decoded.push(byte),
            _ => return None,
        }
    }
    String::from_utf8(decoded).ok().filter(|text| !text.chars().any(char::is_control))
}

/// RFC 3461 §4: only upper case.
fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use proptest::prelude::*;

    use super::*;

    fn parse(line: &str) -> Result<Command, CommandError> {
        Command::parse(line.as_bytes())
    }

    fn reply_to(line: impl AsRef<[u8]>) -> String {
        let error = Command::parse(line.as_ref()).unwrap_err();
        format!("{} {}", error.code(), error.status())
    }

    fn mail(line: &str) -> Mail {
        match parse(line).unwrap() {
            Command::Mail(mail) => mail,
            other => panic!("{other:?}"),
        }
    }

    fn rcpt(line: &str) -> Rcpt {
        match parse(line).unwrap() {
            Command::Rcpt(rcpt) => rcpt,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn commands_are_read_in_any_case_and_with_spaces_behind() {
        assert_eq!(parse("quit"), Ok(Command::Quit));
        assert_eq!(parse("dAtA  "), Ok(Command::Data));
        assert_eq!(parse("NOOP what ever"), Ok(Command::Noop));
        assert_eq!(parse("starttls\t"), Ok(Command::StartTls));
        assert_eq!(mail("mail from:<A@b.test>").path.to_string(), "A@b.test");
    }

    #[test]
    fn commands_without_arguments_take_none() {
        for line in ["DATA foo", "RSET x", "QUIT now", "STARTTLS x"] {
            assert_eq!(reply_to(line), "501 5.5.4", "{line}");
        }
    }

    #[test]
    fn bdat_says_how_much_follows_and_whether_it_is_all() {
        let bdat = |octets, is_last| Ok(Command::Bdat(Chunk { octets, is_last }));
        assert_eq!(parse("BDAT 86"), bdat(86, false));
        assert_eq!(parse("bdat  0  last "), bdat(0, true));
        assert_eq!(parse("BDAT 18446744073709551615 LAST"), bdat(u64::MAX, true));
        for line in [
            "BDAT",
            "BDAT LAST",
            "BDAT -1",
            "BDAT +1",
            "BDAT 1.5",
            "BDAT 0x10",
            "BDAT 18446744073709551616",
            "BDAT 10 MORE",
            "BDAT 10 LAST LAST",
            "BDAT 10\tLAST",
            "BDAT 1\u{e4}",
            "BDAT 1\0",
        ] {
            assert_eq!(parse(line), Err(CommandError::BadChunk), "{line}");
            assert_eq!(reply_to(line), "501 5.5.4", "{line}");
        }
    }

    #[test]
    fn what_is_no_command_is_unknown() {
        for line in [
            "",
            " ",
            "GET / HTTP/1.1",
            "XYZZY \0",
            "XYZZY \u{e4}",
            "MAILFROM:<a@b>",
            "XYZZY",
            "NOOPNOOPNOOP",
            "ünïcode",
        ] {
            assert_eq!(reply_to(line), "500 5.5.2", "{line}");
        }
    }

    #[test]
    fn control_and_8_bit_characters_are_refused_outside_paths() {
        for line in [&b"NO\0OP"[..], b"MA\rIL FROM:<a@b.test>", b"NOOP\r", b"MAIL\tFROM:<a@b.test>"] {
            assert_eq!(reply_to(line), "500 5.5.2", "{line:?}");
        }
        for line in [
            &b"EHLO a\0b"[..],
            b"NOOP \xff",
            b"AUTH \xc3\xa4",
            b"MAIL FROM:<a\x7f@b.test>",
            b"MAIL FROM:<a@b.test>\tSIZE=1",
            b"QUIT \x01",
        ] {
            assert_eq!(reply_to(line), "501 5.5.4", "{line:?}");
        }
        assert_eq!(reply_to(b"MAIL FROM:<\xff@b.test>"), "501 5.5.2");
    }

    #[test]
    fn any_printable_client_name_is_taken() {
        for name in ["client.test", "my_host", "[192.0.2.1]", "-", "localhost."] {
            assert_eq!(parse(&format!("EHLO {name}")), Ok(Command::Ehlo(name.to_owned())));
        }
        assert_eq!(parse("EHLO Jörgs   Rechner"), Ok(Command::Ehlo("J?rgs Rechner".to_owned())));
        assert_eq!(Command::parse(b"HELO caf\xe9"), Ok(Command::Helo("caf?".to_owned())));
        for line in ["EHLO", "HELO ", &format!("EHLO {}", "a".repeat(256))] {
            assert_eq!(reply_to(line), "501 5.5.4", "{line}");
        }
    }

    #[test]
    fn paths_keep_quoting_literals_and_the_null_sender_apart() {
        assert_eq!(mail("MAIL FROM:<>").path, ReversePath::Null);
        assert_eq!(mail(r#"MAIL FROM:<"a>b"@c.test>"#).path.to_string(), r#""a>b"@c.test"#);
        assert_eq!(mail("MAIL FROM: <a@[IPv6:2001:db8::1]>").path.to_string(), "a@[IPv6:2001:db8::1]");
        assert_eq!(rcpt("RCPT TO:<@x.test:a@b.test>").path.to_string(), "a@b.test");
        assert_eq!(rcpt("RCPT TO:<postMASTER>").path, ForwardPath::Postmaster);
        assert_eq!(reply_to("RCPT TO:<>"), "501 5.1.3");
        assert_eq!(reply_to("MAIL FROM:<a@-b.test>"), "501 5.1.7");
    }

    #[test]
    fn angle_brackets_may_be_missing_altogether() {
        let mail = mail("MAIL FROM: scanner@b.test SIZE=7");
        assert_eq!((mail.path.to_string().as_str(), mail.parameters.size), ("scanner@b.test", Some(7)));
        assert_eq!(rcpt("RCPT TO:bob@c.test.").path.to_string(), "bob@c.test");
        assert_eq!(rcpt("RCPT TO:<bob@c.test.>").path.to_string(), "bob@c.test");
        for line in [
            "MAIL FROM:<a@b.test",
            "MAIL FROM:a@b.test>",
            "MAIL FROM:<a@b.test>x",
            "MAIL FROM:A<a@b.test>",
            "MAIL FROM:\"a b\"@b.test",
            "MAIL FROM <a@b.test>",
            "MAIL FROM:",
            "MAIL",
            "RCPT FROM:<a@b.test>",
        ] {
            assert_eq!(reply_to(line), "501 5.5.4", "{line}");
        }
        assert_eq!(reply_to("RCPT TO:bob"), "501 5.1.3");
    }

    #[test]
    fn sizes_never_wrap() {
        assert_eq!(mail("MAIL FROM:<> SIZE=18446744073709551615").parameters.size, Some(u64::MAX));
        assert_eq!(reply_to("MAIL FROM:<> SIZE=18446744073709551616"), "552 5.3.4");
        assert_eq!(reply_to("MAIL FROM:<> SIZE=99999999999999999999999"), "552 5.3.4");
        for value in ["SIZE", "SIZE=", "SIZE=abc", "SIZE=-1", "SIZE=+1", "SIZE=1x"] {
            assert_eq!(reply_to(format!("MAIL FROM:<> {value}")), "501 5.5.4", "{value}");
        }
    }

    #[test]
    fn parameters_are_read_once_each() {
        let mail = mail(
            "MAIL FROM:<a@b.test> size=10 BODY=8bitmime  SMTPUTF8 RET=hdrs ENVID=a+2Bb REQUIRETLS AUTH=<>",
        );
        let expected = MailParameters {
            size: Some(10),
            body: Some(Body::EightBitMime),
            smtputf8: true,
            ret: Some(Ret::Headers),
            envelope_id: Some(EnvelopeId("a+b".to_owned())),
            require_tls: true,
            hold: None,
            by: None,
            priority: None,
            auth: true,
        };
        assert_eq!(mail.parameters, expected);
        for twice in [
            "SIZE=1 SIZE=2",
            "SMTPUTF8 SMTPUTF8",
            "REQUIRETLS REQUIRETLS",
            "BODY=7BIT BODY=7BIT",
            "AUTH=<> AUTH=<>",
            "RET=FULL ret=FULL",
        ] {
            assert_eq!(reply_to(format!("MAIL FROM:<> {twice}")), "501 5.5.4", "{twice}");
        }
        for bad in [
            "BODY=",
            "BODY",
            "SMTPUTF8=yes",
            "REQUIRETLS=yes",
            "RET",
            "RET=",
            "RET=SOME",
            "ENVID=a=b",
            "ENVID=",
            "AUTH=",
            "AUTH=+0g",
        ] {
            assert_eq!(reply_to(format!("MAIL FROM:<> {bad}")), "501 5.5.4", "{bad}");
        }
    }

    #[test]
    fn holds_times_and_priorities_follow_their_grammar() {
        let read = |text: &str| mail(&format!("MAIL FROM:<> {text}")).parameters;
        assert_eq!(read("HOLDFOR=86400").hold, Some(Hold::For(Duration::from_secs(86_400))));
        let until = date::parse_end("2026-12-31T18:00:00Z").map(Hold::Until);
        assert!(until.is_some() && read("HOLDUNTIL=2026-12-31T18:00:00Z").hold == until);
        let by = |seconds, returns, trace| Some(By { seconds, returns, trace });
        for (text, expected) in [
            ("BY=120;R", by(120, true, false)),
            ("by=+120;rt", by(120, true, true)),
            ("BY=-5;N", by(-5, false, false)),
            ("BY=0;NT", by(0, false, true)),
        ] {
            assert_eq!(read(text).by, expected, "{text}");
        }
        for (text, expected) in [("9", 9), ("-9", -9), ("0", 0)] {
            assert_eq!(read(&format!("MT-PRIORITY={text}")).priority, Some(expected));
        }
        for bad in [
            "HOLDFOR",
            "HOLDFOR=0",
            "HOLDFOR=-1",
            "HOLDFOR=1234567890",
            "HOLDUNTIL=tomorrow",
            "HOLDUNTIL=2026-12-31",
            "HOLDUNTIL=2026-12-31T18:00:00+01:00",
            "HOLDFOR=1 HOLDUNTIL=2026-12-31T18:00:00Z",
            "BY=120",
            "BY=;R",
            "BY=0;R",
            "BY=-1;R",
            "BY=1;X",
            "BY=1;TR",
            "BY=1234567890;N",
            "BY=--1;N",
            "BY=1;R BY=1;R",
            "MT-PRIORITY",
            "MT-PRIORITY=10",
            "MT-PRIORITY=-0",
            "MT-PRIORITY=+1",
            "MT-PRIORITY=x",
        ] {
            assert_eq!(reply_to(format!("MAIL FROM:<> {bad}")), "501 5.5.4", "{bad}");
        }
    }

    #[test]
    fn values_that_we_do_not_know_get_504() {
        for unknown in ["BODY=9BIT", "BODY=8BIT"] {
            assert_eq!(reply_to(format!("MAIL FROM:<> {unknown}")), "504 5.5.4", "{unknown}");
        }
    }

    #[test]
    fn unknown_parameters_get_555() {
        assert_eq!(reply_to("MAIL FROM:<> XYZZY=1"), "555 5.5.4");
        assert_eq!(reply_to("RCPT TO:<a@b.test> SIZE=1"), "555 5.5.4");
        assert_eq!(reply_to("MAIL FROM:<> =1"), "555 5.5.4");
    }

    #[test]
    fn notify_and_orcpt_follow_their_grammar() {
        let parameters =
            rcpt("RCPT TO:<a@b.test> NOTIFY=success,DELAY ORCPT=RFC822;Bob+2Bx@c.test").parameters;
        assert_eq!(parameters.notify, Some(Notify { success: true, failure: false, delay: true }));
        assert_eq!(parameters.original.unwrap().to_string(), "rfc822;Bob+x@c.test");
        for bad in [
            "NOTIFY=NEVER,SUCCESS",
            "NOTIFY=",
            "NOTIFY=DELAY,DELAY",
            "ORCPT=a@b",
            "ORCPT=rfc822;",
            "ORCPT=;a",
        ] {
            assert_eq!(reply_to(format!("RCPT TO:<a@b.test> {bad}")), "501 5.5.4", "{bad}");
        }
    }

    #[test]
    fn original_recipients_may_be_of_utf8() {
        for (written, address) in [
            (r"utf-8;\x{17E}ofie\x{2B}x@adatum.test", "žofie+x@adatum.test"),
            ("UTF-8;žofie@adatum.test", "žofie@adatum.test"),
            ("utf-8;plain@adatum.test", "plain@adatum.test"),
        ] {
            let read = rcpt(&format!("RCPT TO:<a@b.test> ORCPT={written}"));
            assert_eq!(read.parameters.original.unwrap().to_string(), format!("utf-8;{address}"));
            assert_eq!(read.utf8, !written.is_ascii(), "{written}");
        }
        for bad in [
            r"\x{}",
            r"\x{E}",
            r"\x{0D}",
            r"\x{D800}",
            r"\x{110000}",
            r"\x{1234567}",
            r"\x{e9}",
            r"\y",
            "a+2Bb",
            "a=b",
        ] {
            assert_eq!(reply_to(format!("RCPT TO:<a@b.test> ORCPT=utf-8;{bad}")), "501 5.5.4", "{bad}");
        }
        assert_eq!(reply_to("RCPT TO:<a@b.test> ORCPT=rfc822;žofie@adatum.test"), "501 5.5.4");
        let long = "a".repeat(MAX_ORCPT - "rfc822;".len());
        assert!(parse(&format!("RCPT TO:<a@b.test> ORCPT=rfc822;{long}")).is_ok());
        assert_eq!(reply_to(format!("RCPT TO:<a@b.test> ORCPT=rfc822;{long}a")), "501 5.5.4");
        assert!(parse(&format!("MAIL FROM:<> ENVID={}", "a".repeat(MAX_ENVID))).is_ok());
        assert_eq!(reply_to(format!("MAIL FROM:<> ENVID={}", "a".repeat(MAX_ENVID + 1))), "501 5.5.4");
    }

    #[test]
    fn addresses_beyond_ascii_are_told_apart() {
        assert!(mail("MAIL FROM:<jörg@b.test>").utf8);
        assert!(mail("MAIL FROM:<a@bücher.test>").utf8);
        assert!(!mail("MAIL FROM:<a@b.test> SMTPUTF8").utf8);
        assert!(mail("MAIL FROM:<jörg@bücher.test> SMTPUTF8").parameters.smtputf8);
        assert!(rcpt("RCPT TO:<a@bücher.test>").utf8);
    }

    #[test]
    fn auth_takes_a_mechanism_and_perhaps_a_response() {
        let Ok(Command::Auth(auth)) = parse("auth plain AGEAYg==") else { panic!("no AUTH") };
        assert_eq!(
            (auth.mechanism.as_str(), auth.initial.clone().unwrap().0.as_str()),
            ("PLAIN", "AGEAYg==")
        );
        assert!(!format!("{auth:?}").contains("AGEAYg"));
        assert_eq!(reply_to("AUTH"), "501 5.5.4");
        assert_eq!(reply_to("AUTH PLAIN a b"), "501 5.5.4");
    }

    #[test]
    fn commands_for_some_clients_are_known_as_such_whatever_stands_behind_them() {
        for (line, verb) in [
            ("XCLIENT ADDR=192.0.2.7", ListedVerb::XClient),
            ("xclient", ListedVerb::XClient),
            ("XCLIENT \0", ListedVerb::XClient),
            ("XCLIENT NAME=\u{e4}", ListedVerb::XClient),
            ("XFORWARD SOURCE=LOCAL", ListedVerb::XForward),
            ("XFORWARD LOGIN=x", ListedVerb::XForward),
        ] {
            let found = parse(line).map_or_else(|error| error.listed_verb(), |command| command.listed_verb());
            assert_eq!(found, Some(verb), "{line}");
        }
        assert_eq!(reply_to("XCLIENT PORT=x"), "501 5.5.4");
        assert_eq!(parse("XCLIENT PORT=x").unwrap_err().to_string(), "XCLIENT: malformed attribute PORT");
        assert_eq!(parse("NOOP").unwrap().listed_verb(), None);
    }

    #[test]
    fn etrn_names_a_domain_one_with_all_below_it_or_a_queue() {
        let node = |line: &str| match parse(line) {
            Ok(Command::Etrn(node)) => node,
            other => panic!("{other:?}"),
        };
        let domain = |name: &str| Domain::parse(name).unwrap();
        assert_eq!(node("ETRN Customer.test"), Node::Domain(domain("customer.test")));
        assert_eq!(node("etrn #customer.test "), Node::Domain(domain("customer.test")));
        let within = node("ETRN @customer.test");
        assert_eq!(within.to_string(), "@customer.test");
        assert!(within.names(&domain("customer.test")) && within.names(&domain("a.b.customer.test")));
        assert!(!within.names(&domain("notcustomer.test")) && !within.names(&domain("test")));
        assert!(!node("ETRN customer.test").names(&domain("a.customer.test")));
        for line in [
            "ETRN",
            "ETRN @",
            "ETRN #",
            "ETRN a b",
            "ETRN @@a.test",
            "ETRN -a.test",
            "ETRN \u{e4}.test",
            "ETRN a\0",
        ] {
            let error = parse(line).unwrap_err();
            assert_eq!((error.code(), error.listed_verb()), (501, Some(ListedVerb::Etrn)), "{line}");
        }
    }

    #[test]
    fn lhlo_is_known_as_a_word_of_lmtp() {
        assert_eq!(parse("lhlo client.test"), Ok(Command::Lhlo("client.test".to_owned())));
        for line in ["LHLO", "LHLO a\0"] {
            assert_eq!(parse(line).unwrap_err().listed_verb(), Some(ListedVerb::Lhlo), "{line}");
            assert_eq!(reply_to(line), "501 5.5.4", "{line}");
        }
    }

    #[test]
    fn xtext_hides_no_control_characters() {
        assert_eq!(decode_xtext("a+3Db+C3+A4").as_deref(), Some("a=bä"));
        for text in ["+0D+0A", "+", "+4", "+g0", "+4a", "a=b", "a b", "+FF", "ä", "+00"] {
            assert_eq!(decode_xtext(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_octets_make_it_panic(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Command::parse(&line);
        }

        #[test]
        fn no_text_behind_a_verb_makes_it_panic(
            verb in proptest::sample::select(&["MAIL FROM:<", "RCPT TO:<", "MAIL FROM:<> ", "RCPT TO:<a@b.c> ", "AUTH ", "EHLO ", "BDAT "][..]),
            text in "[ <>@\"\\\\.:=;,+a-cA-C0-9ä-]{0,60}",
        ) {
            if let Err(error) = parse(&format!("{verb}{text}")) {
                prop_assert!((500..556).contains(&error.code()));
            }
        }

        #[test]
        fn a_command_that_was_read_holds_no_control_characters(text in "\\PC{0,40}") {
            if let Ok(Command::Ehlo(name)) = parse(&format!("EHLO {text}")) {
                prop_assert!(!name.is_empty() && name.chars().all(|c| c == ' ' || c.is_ascii_graphic()));
            }
        }
    }
}
