//! `[smtp]`: limits and timeouts of SMTP sessions.

use std::time::Duration;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::check::{at_least_one, not_zero};
use crate::protection::{Clients, Pregreet, Stress};
use crate::relay::check_network;
use crate::source::{Findings, Node};
use crate::units;

/// Limits of sessions and messages. Trusted networks are exempt from those of connections of one address and of recipients.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Smtp {
    /// Largest message in octets, announced by SIZE. 50 MiB takes what large providers send (25 to 35 MB, encoded).
    #[serde(deserialize_with = "units::size")]
    #[schemars(with = "String")]
    pub max_message_size: u64,
    /// Recipients of one transaction; more get 452 4.5.3. RFC 5321 §4.5.3.1.8 asks for at least 100.
    pub max_recipients: usize,
    /// Octets of a command line with its CRLF. RFC 5321 §4.5.3.1.4 asks for 512, extensions and SASL for more.
    pub max_command_line: usize,
    /// Octets of a line inside a message. Longer lines are refused, never cut.
    #[serde(deserialize_with = "units::size")]
    #[schemars(with = "String")]
    pub max_data_line: u64,
    /// Octets of a message's header; a larger one gets 552. It is kept in memory while the message is checked.
    #[serde(deserialize_with = "units::size")]
    #[schemars(with = "String")]
    pub max_header_size: u64,
    /// Received fields; more mean a loop and get 554 5.4.6 (RFC 5321 §6.3).
    pub max_received: usize,
    /// Errors (bad commands, refused recipients, failed logins) between two messages until 421 4.7.0 and the end of the
    /// session. Recipients refused to logins and trusted networks do not count.
    pub max_errors: u32,
    /// From this error on each one is answered later by `error_delay` times the errors beyond it.
    pub error_delay_from: u32,
    /// See `error_delay_from`.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub error_delay: Duration,
    /// The longest of these delays.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub max_error_delay: Duration,
    /// Sessions that are delayed at once, for errors or wrong passwords; the next one gets 421 4.7.0 instead: an answer that
    /// is kept back costs a place too.
    pub max_delayed: usize,
    /// Messages of one session; then 421 4.7.0 and the client connects anew.
    pub max_messages: u32,
    /// Commands of one session between two messages, without accepted MAIL and RCPT. Keeps a client from holding a session
    /// with NOOP.
    pub max_commands: u32,
    /// Sessions at once in all; more get 421 4.3.2. A tenth is kept for submission, and trusted networks may go on to
    /// twice as many.
    pub max_connections: usize,
    /// Sessions at once from one address; more get 421 4.7.0. Trusted networks are exempt.
    pub max_connections_per_address: usize,
    /// Sessions at once from one network, see `smtp.clients.ipv4_prefix`; more get 421 4.7.0. Trusted networks are exempt.
    /// A fifth of all: no network takes most of the places.
    pub max_connections_per_network: usize,
    /// Octets that the buffers of all sessions may take. From 80 % on new mail gets 452 4.3.1, from 90 % on new connections get
    /// 421 4.3.2, and at 100 % messages on their way are given up with 452 4.3.1.
    #[serde(deserialize_with = "units::size")]
    #[schemars(with = "String")]
    pub max_buffers: u64,
    /// Octets of a message that must come in a second, in the mean, after the first `timeouts.data_grace`; 0: none. No honest
    /// line is slower; whoever only holds sessions open sends an octet now and then.
    #[serde(deserialize_with = "units::size")]
    #[schemars(with = "String")]
    pub min_data_rate: u64,
    /// How much clients and networks may do.
    pub clients: Clients,
    /// Clients that talk before the greeting.
    pub pregreet: Pregreet,
    /// When nearly all places are taken.
    pub stress: Stress,
    /// How long each state may last.
    pub timeouts: Timeouts,
    /// Who is offered DSN, with which a sender can ask to be told that mail was delivered. Whoever is not must ask the next host
    /// on the way, which then says that the mail was relayed here. DELIVERBY, which ends in reports too, is offered to those of
    /// them who have a login or are in a trusted network.
    pub dsn: OfferDsn,
    /// Whether REQUIRETLS is offered, with which a sender can demand verified TLS on the whole way (RFC 8689).
    pub require_tls: OfferRequireTls,
    /// Whether BINARYMIME is offered, with which clients send attachments as the octets that they are (RFC 3030 §3).
    pub binary_mime: OfferBinaryMime,
    /// How far ahead a submitting client may set the time of its message (FUTURERELEASE); "0s": not at all. A week: for the next
    /// Monday morning, and no longer than a login that was stolen goes unnoticed.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub max_hold: Duration,
    /// The shortest time in which a login or a trusted network may have its message delivered or returned (DELIVERBY). A minute:
    /// one attempt may take as long.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub min_deliver_by: Duration,
    /// The highest priority that a login or a trusted network may give its mail (MT-PRIORITY), 0 to 9; a higher one is lowered
    /// to it. The default leaves room above for what operators bring forward.
    pub max_priority: i8,
    /// Networks whose messages may have bare LF line ends: they are rewritten to CRLF instead of refused.
    #[schemars(with = "Vec<String>")]
    pub normalise_line_ends_from: Vec<IpNet>,
    /// Networks of proxies and filters that may say by XCLIENT for whom they speak: from then on that client counts as the
    /// client everywhere, also where its address is trusted. To others there is no such command.
    #[schemars(with = "Vec<String>")]
    pub xclient_from: Vec<IpNet>,
    /// Those of `xclient_from` that are believed when they say by the attribute LOGIN that they have checked the password of a
    /// login: it counts on submission listeners as if the client had logged in here.
    #[schemars(with = "Vec<String>")]
    pub xclient_login_from: Vec<IpNet>,
    /// Networks of mail servers and filters that may say by XFORWARD where a message came from before. It stands in the log and
    /// in the history, and decides nothing. To others there is no such command.
    #[schemars(with = "Vec<String>")]
    pub xforward_from: Vec<IpNet>,
    /// Networks of servers that may ask by ETRN for the mail that waits for a domain that is relayed: a relay domain, or one with a
    /// route to its server. To others it is not offered.
    #[schemars(with = "Vec<String>")]
    pub etrn_from: Vec<IpNet>,
    /// Logins that may do the same from anywhere.
    pub etrn_logins: Vec<String>,
    /// How long it must be between two such runs for one domain; earlier ones get 458. Each looks through the queue and tries
    /// hosts that rest.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub etrn_interval: Duration,
}

impl Default for Smtp {
    fn default() -> Self {
        Self {
            max_message_size: 50 * 1024 * 1024,
            max_recipients: 1000,
            max_command_line: 4096,
            max_data_line: 2 * 1024 * 1024,
            max_header_size: 512 * 1024,
            max_received: 50,
            max_errors: 20,
            error_delay_from: 5,
            error_delay: Duration::from_millis(500),
            max_error_delay: Duration::from_secs(10),
            max_delayed: 200,
            max_messages: 1000,
            max_commands: 3000,
            max_connections: 1000,
            max_connections_per_address: 50,
            max_connections_per_network: 200,
            max_buffers: 128 * 1024 * 1024,
            min_data_rate: 100,
            clients: Clients::default(),
            pregreet: Pregreet::default(),
            stress: Stress::default(),
            timeouts: Timeouts::default(),
            dsn: OfferDsn::default(),
            require_tls: OfferRequireTls::default(),
            binary_mime: OfferBinaryMime::default(),
            max_hold: Duration::from_secs(7 * 86_400),
            min_deliver_by: Duration::from_secs(60),
            max_priority: 4,
            normalise_line_ends_from: Vec::new(),
            xclient_from: Vec::new(),
            xclient_login_from: Vec::new(),
            xforward_from: Vec::new(),
            etrn_from: Vec::new(),
            etrn_logins: Vec::new(),
            etrn_interval: Duration::from_secs(60),
        }
    }
}

/// Who may ask for reports of success.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OfferDsn {
    /// Every client: what RFC 3461 expects. A report tells a stranger no more than the reply to RCPT did, except when the mail
    /// was delivered and what an alias stands for if that is one recipient. It goes to the sender's address, with the header only.
    #[default]
    Everyone,
    /// Logins and trusted networks. Strangers learn nothing of what becomes of their mail, and forged senders get no reports of
    /// success.
    Known,
    /// Nobody.
    Nobody,
}

/// Whether senders can demand verified TLS on the whole way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OfferRequireTls {
    /// No. Which hosts take the mail of a domain is learnt from DNS, and RFC 8689 §4.2.1 wants that look-up secured by DNSSEC
    /// or MTA-STS, neither of which is checked: a forged MX record leads to a host with a valid certificate for its own name.
    #[default]
    Off,
    /// Under TLS. For servers that send all such mail through smarthosts, which need no MX, and where the answers of the name
    /// servers can be trusted: a resolver on this machine that validates DNSSEC.
    On,
}

/// Whether messages with binary parts are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OfferBinaryMime {
    /// From every client. Their binary parts become base 64 while they come in, so that every next hop takes them, and DKIM
    /// signatures over the binary form break.
    #[default]
    On,
    /// No: `BODY=BINARYMIME` gets 555 5.5.4, and clients encode the parts themselves before they sign and send. For servers
    /// whose filters or archives must get every message octet for octet as it was signed.
    Off,
}

/// How long a client may be silent in each state (RFC 5321 §4.5.3.2.7 asks servers for 5 minutes).
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// From the greeting to EHLO. Shorter than the rest: idle scanners hold sessions here.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub greeting: Duration,
    /// For the next command.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub command: Duration,
    /// For a command line, from its first octet to its end, however it drips in.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub command_line: Duration,
    /// For the TLS handshake.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub handshake: Duration,
    /// For the next piece of a message (RFC 5321 §4.5.3.2.5 gives clients 3 minutes a block).
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub data_block: Duration,
    /// For a whole message, however slowly it drips in.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub data_total: Duration,
    /// How long a message may come as slowly as it likes, before `smtp.min_data_rate` counts.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub data_grace: Duration,
    /// For the client to take a reply.
    #[serde(deserialize_with = "units::duration")]
    #[schemars(with = "String")]
    pub write: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            greeting: Duration::from_secs(60),
            command: Duration::from_secs(300),
            command_line: Duration::from_secs(60),
            handshake: Duration::from_secs(30),
            data_block: Duration::from_secs(180),
            data_total: Duration::from_secs(3600),
            data_grace: Duration::from_secs(60),
            write: Duration::from_secs(60),
        }
    }
}

/// RFC 5321 §4.5.3.1.4.
const SHORTEST_COMMAND_LINE: usize = 512;
/// RFC 5322 §2.1.1 and the CRLF.
const SHORTEST_DATA_LINE: u64 = 1000;
/// A client that waits for longer has given up, and the server only holds its place.
const LONGEST_DELAY: Duration = Duration::from_secs(60);
/// The queue counts the times of a message from its acceptance in 32 bits of milliseconds: 49 days, and its lifetime comes behind
/// the hold.
const LONGEST_HOLD: Duration = Duration::from_secs(30 * 86_400);
/// One session has a few times 64 KiB; less than some of them would let nobody in.
const SMALLEST_BUFFERS: u64 = 1024 * 1024;

impl Smtp {
    pub(crate) fn check(&self, node: &Node<'_>, findings: &mut Findings<'_>) {
        for (key, value) in [
            ("max_message_size", self.max_message_size),
            ("max_recipients", self.max_recipients as u64),
            ("max_header_size", self.max_header_size),
            ("max_received", self.max_received as u64),
            ("max_errors", self.max_errors.into()),
            ("max_messages", self.max_messages.into()),
            ("max_commands", self.max_commands.into()),
            ("max_connections", self.max_connections as u64),
            ("max_connections_per_address", self.max_connections_per_address as u64),
            ("max_connections_per_network", self.max_connections_per_network as u64),
            ("max_delayed", self.max_delayed as u64),
        ] {
            at_least_one(node, key, value, findings);
        }
        if self.max_command_line < SHORTEST_COMMAND_LINE {
            let help = format!("set {SHORTEST_COMMAND_LINE} or more (RFC 5321 §4.5.3.1.4)");
            findings.error(&node.key("max_command_line"), "command lines of that length are too short", help);
        }
        if self.max_data_line < SHORTEST_DATA_LINE {
            let help = format!("set \"{SHORTEST_DATA_LINE}B\" or more (RFC 5322 §2.1.1)");
            findings.error(&node.key("max_data_line"), "lines of that length are too short", help);
        }
        if self.max_buffers < SMALLEST_BUFFERS {
            let message = "buffers of that size do not hold the message of one session";
            findings.error(&node.key("max_buffers"), message, "set \"1MiB\" or more; 128MiB is usual");
        }
        if self.max_error_delay > LONGEST_DELAY {
            let message = format!("`max_error_delay` is longer than {} s", LONGEST_DELAY.as_secs());
            findings.error(&node.key("max_error_delay"), message, "each delay holds a place; 10s is usual");
        }
        if self.max_hold > LONGEST_HOLD {
            let help = "set \"30d\" or less, or \"0s\" for none";
            findings.error(&node.key("max_hold"), "mail cannot be held for so long", help);
        }
        if !(0..=9).contains(&self.max_priority) {
            let message = format!("{} is no priority that could be the highest", self.max_priority);
            findings.error(&node.key("max_priority"), message, "set 0 to 9 (RFC 6710)");
        }
        self.clients.check(&node.key("clients"), findings);
        self.pregreet.check(&node.key("pregreet"), findings);
        self.stress.check(&node.key("stress"), findings);
        self.timeouts.check(&node.key("timeouts"), findings);
        for (node, network) in node.each("normalise_line_ends_from", &self.normalise_line_ends_from) {
            check_network(&node, *network, findings);
        }
        self.check_peers(node, findings);
    }
}

impl Timeouts {
    fn check(&self, node: &Node<'_>, findings: &mut Findings<'_>) {
        for (key, value) in [
            ("greeting", self.greeting),
            ("command", self.command),
            ("command_line", self.command_line),
            ("handshake", self.handshake),
            ("data_block", self.data_block),
            ("data_total", self.data_total),
            ("data_grace", self.data_grace),
            ("write", self.write),
        ] {
            not_zero(node, key, value, findings);
        }
    }
}
