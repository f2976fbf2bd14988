//! One mail transaction: MAIL, RCPT for each recipient, DATA, the content; each recipient with a verdict of its own.
//!
//! Where the other side offers PIPELINING, everything up to DATA goes out in one write (RFC 2920 §3.1).

use std::fmt::{self, Write as _};
use std::time::{Duration, SystemTime};

use postern_queue::{DeliverBy, Envelope, Late, Recipient};
use postern_smtp::data::DotStuffer;
use postern_smtp::ehlo::Capabilities;
use postern_smtp::{Address, Body, Notify, Reply, Ret};

use crate::client::{Connection, Protocol};
use crate::content::Outgoing;
use crate::outcome::{Failure, Stage, Verdict};
use crate::wire::{Replies, Written};

/// The content is written in blocks of this size; a small message goes out in one.
const BLOCK: usize = 64 * 1024;

/// A recipient of a transaction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct To<'a> {
    pub(crate) address: &'a Address,
    /// What the envelope says of it: NOTIFY and ORCPT.
    pub(crate) details: Option<&'a Recipient>,
}

/// What is to be sent.
#[derive(Debug)]
pub(crate) struct Mail<'a> {
    pub(crate) envelope: &'a Envelope,
    pub(crate) to: Vec<To<'a>>,
    pub(crate) outgoing: &'a Outgoing<'a>,
    /// The time: what is left until the message is to be delivered is told to the next hop.
    pub(crate) now: SystemTime,
}

impl Mail<'_> {
    /// What is left until it is to be delivered, in seconds, rounded up: not above zero only if that is over.
    fn seconds_left(&self, by: DeliverBy) -> i64 {
        let seconds = |time: u64| i64::try_from(time).unwrap_or(i64::MAX);
        match by.at.duration_since(self.now) {
            Ok(left) => seconds(left.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX)),
            Err(over) => -seconds(over.duration().as_secs()),
        }
    }
}

/// What became of it.
#[derive(Debug)]
pub(crate) struct Sent {
    /// Beside the recipients; `None`: not decided, another transaction or host may be tried.
    pub(crate) verdicts: Vec<Option<Verdict>>,
    /// Why the connection is of no more use, if so.
    pub(crate) failure: Option<Failure>,
    /// The words with which the other side asked for fewer messages or connections.
    pub(crate) slow_down: Option<String>,
}

/// A transaction under way.
struct Transaction<'c, 'm> {
    connection: &'c mut Connection,
    mail: &'m Mail<'m>,
    verdicts: Vec<Option<Verdict>>,
    slow_down: Option<String>,
}

impl Connection {
    /// Sends a message to its recipients, as many as the other side takes at once.
    pub(crate) async fn transact(&mut self, mail: &Mail<'_>) -> Sent {
        let verdicts = mail.to.iter().map(|to| unsendable(self, mail, to)).collect();
        let mut transaction = Transaction { connection: self, mail, verdicts, slow_down: None };
        let failure = transaction.run().await.err();
        if let Some(reply) = failure.as_ref().and_then(Failure::closing) {
            transaction.slow_down = Some(reply.to_string());
        }
        Sent { verdicts: transaction.verdicts, failure, slow_down: transaction.slow_down }
    }
}

impl Transaction<'_, '_> {
    async fn run(&mut self) -> Result<(), Failure> {
        let open: Vec<usize> = (0..self.verdicts.len()).filter(|at| self.verdicts[*at].is_none()).collect();
        if open.is_empty() {
            return Ok(());
        }
        if self.connection.needs_reset {
            let reply = self.connection.command("RSET\r\n", Stage::Mail).await?;
            if !reply.is_success() {
                return Err(Failure::Unexpected { stage: Stage::Mail, reply });
            }
            self.connection.needs_reset = false;
        }
        self.connection.transactions += 1;
        let accepted = self.envelope(&open).await?;
        if accepted.is_empty() {
            return Ok(());
        }
        self.content(&accepted).await
    }

    /// MAIL, RCPT and DATA. Answers who was accepted, after a 354; nobody, when there is nothing to send.
    async fn envelope(&mut self, open: &[usize]) -> Result<Vec<usize>, Failure> {
        let commands = Commands::new(&self.connection.capabilities, self.mail, open);
        let pipelined = self.connection.capabilities.has("PIPELINING");
        if pipelined {
            self.send(commands.text.as_bytes(), Stage::Mail).await?;
        }
        let ask = |at: usize| (!pipelined).then(|| commands.line(at));

        let mail_reply = self.exchange(ask(0), Stage::Mail).await?;
        let refused = (!mail_reply.is_success()).then_some(mail_reply);
        if let Some(reply) = &refused {
            self.note_slow_down(reply);
            self.decide(open, reply);
            if !pipelined {
                return Ok(Vec::new());
            }
        }
        // From here on the other side holds an envelope that must be forgotten if this does not come to an end.
        self.connection.needs_reset = true;
        let mut accepted = Vec::new();
        let mut postponed = Vec::new();
        for (number, at) in open.iter().enumerate() {
            let reply = self.exchange(ask(number + 1), Stage::Rcpt).await?;
            match reply.is_success() {
                // After a refused MAIL the replies to RCPT only repeat it.
                _ if refused.is_some() => {}
                true => accepted.push(*at),
                false if is_too_many(&reply) => postponed.push((*at, reply)),
                false => self.verdicts[*at] = Some(Verdict::Reply(reply)),
            }
        }
        if accepted.is_empty() {
            // Who is one too many after nobody is not one too many.
            for (at, reply) in postponed {
                self.verdicts[at] = Some(Verdict::Later(reply));
            }
            if !pipelined {
                return Ok(accepted);
            }
        }
        let reply = self.exchange(ask(open.len() + 1), Stage::Data).await?;
        self.data_reply(reply, accepted).await
    }

    async fn data_reply(&mut self, reply: Reply, accepted: Vec<usize>) -> Result<Vec<usize>, Failure> {
        match reply.code {
            354 if accepted.is_empty() => {
                // RFC 2920 §3.1: an empty message to nobody brings both sides back in step. Its reply means nothing.
                self.send(b".\r\n", Stage::Data).await?;
                self.connection.reply(Stage::Data, self.connection.timeouts.data_end).await?;
                Ok(accepted)
            }
            354 => Ok(accepted),
            // A success without content would count as delivery.
            200..400 => Err(Failure::Unexpected { stage: Stage::Data, reply }),
            _ => {
                self.note_slow_down(&reply);
                self.decide(&accepted, &reply);
                Ok(Vec::new())
            }
        }
    }

    /// The content and what is said to it: once, or in LMTP once for each recipient that was accepted (RFC 2033 §4.2).
    async fn content(&mut self, accepted: &[usize]) -> Result<(), Failure> {
        if self.write_content().await? == Written::Interrupted {
            let reply = self.connection.reply(Stage::Content, self.connection.timeouts.command).await?;
            if !(400..600).contains(&reply.code) {
                return Err(Failure::Unexpected { stage: Stage::Content, reply });
            }
            self.decide(accepted, &reply);
            // The other side waits for the rest of a message that it has refused: there is no way on from here.
            return Err(Failure::Refused { stage: Stage::Content, reply });
        }
        let limit = self.connection.timeouts.data_end;
        match self.connection.protocol {
            Protocol::Smtp => {
                let reply = self.connection.reply(Stage::End, limit).await?;
                self.note_slow_down(&reply);
                self.decide(accepted, &reply);
            }
            Protocol::Lmtp => {
                for at in accepted {
                    let reply = self.connection.reply(Stage::End, limit).await?;
                    self.decide(&[*at], &reply);
                }
            }
        }
        // RFC 5321 §4.1.1.4: the end of data, however it is answered, clears the envelope.
        self.connection.needs_reset = false;
        Ok(())
    }

    /// Writes the content with stuffed dots and the final dot.
    async fn write_content(&mut self) -> Result<Written, Failure> {
        let outgoing = self.mail.outgoing;
        let room = usize::try_from(outgoing.len()).map_or(BLOCK, |length| length.min(BLOCK)) + 256;
        let mut out = Vec::with_capacity(room);
        let mut stuffer = DotStuffer::new();
        stuffer.push(&outgoing.signatures, &mut out);
        let mut pieces = outgoing.source.pieces();
        while let Some(piece) = pieces.next().await.map_err(Failure::Content)? {
            for block in piece.chunks(BLOCK) {
                if out.len() + block.len() > BLOCK + 256 {
                    if self.write_block(&out).await? == Written::Interrupted {
                        return Ok(Written::Interrupted);
                    }
                    out.clear();
                }
                stuffer.push(block, &mut out);
            }
        }
        stuffer.finish(&mut out);
        self.write_block(&out).await
    }

    async fn write_block(&mut self, block: &[u8]) -> Result<Written, Failure> {
        let limit = self.connection.timeouts.data_block;
        self.connection.send(block, Replies::Early, Stage::Content, limit).await
    }

    /// Sends the command, unless it is out already, and waits for its reply.
    async fn exchange(&mut self, command: Option<&str>, stage: Stage) -> Result<Reply, Failure> {
        if let Some(command) = command {
            self.send(command.as_bytes(), stage).await?;
        }
        self.connection.reply(stage, self.connection.timeouts.command).await
    }

    async fn send(&mut self, data: &[u8], stage: Stage) -> Result<(), Failure> {
        let limit: Duration = self.connection.timeouts.command;
        // Interrupted or not: what the other side said is read next.
        self.connection.send(data, Replies::Expected, stage, limit).await.map(|_| ())
    }

    fn decide(&mut self, recipients: &[usize], reply: &Reply) {
        for at in recipients {
            self.verdicts[*at] = Some(Verdict::Reply(reply.clone()));
        }
    }

    /// A temporary refusal for reasons of policy, of the sender or the message as a whole, is how providers throttle. At
    /// RCPT it is greylisting, which is no request to slow down.
    fn note_slow_down(&mut self, reply: &Reply) {
        if reply.status.is_some_and(|status| (status.class, status.subject) == (4, 7)) {
            self.slow_down = Some(reply.to_string());
        }
    }
}

/// The command lines of a transaction: MAIL, one RCPT for each recipient, DATA.
struct Commands {
    text: String,
    /// Where each line ends.
    ends: Vec<usize>,
}

impl Commands {
    fn new(capabilities: &Capabilities, mail: &Mail<'_>, open: &[usize]) -> Self {
        let mut commands = Self { text: String::new(), ends: Vec::with_capacity(open.len() + 2) };
        mail_command(&mut commands.text, capabilities, mail);
        commands.end_line();
        for at in open {
            rcpt_command(&mut commands.text, capabilities, &mail.to[*at]);
            commands.end_line();
        }
        commands.text.push_str("DATA");
        commands.end_line();
        commands
    }

    fn end_line(&mut self) {
        self.text.push_str("\r\n");
        self.ends.push(self.text.len());
    }

    fn line(&self, number: usize) -> &str {
        let start = number.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.text[start..self.ends[number]]
    }
}

fn put(out: &mut String, text: fmt::Arguments<'_>) {
    // A String takes everything.
    let _ = out.write_fmt(text);
}

fn mail_command(out: &mut String, capabilities: &Capabilities, mail: &Mail<'_>) {
    let envelope = mail.envelope;
    put(out, format_args!("MAIL FROM:<{}>", envelope.reverse_path));
    if capabilities.has("SIZE") {
        put(out, format_args!(" SIZE={}", mail.outgoing.len()));
    }
    // RFC 6152 §3; without the keyword the octets are sent as they are: a changed body would break its signatures.
    if (envelope.body == Body::EightBitMime || mail.outgoing.eight_bit) && capabilities.has("8BITMIME") {
        out.push_str(" BODY=8BITMIME");
    }
    if envelope.smtputf8 && capabilities.has("SMTPUTF8") {
        out.push_str(" SMTPUTF8");
    }
    if envelope.terms.require_tls && capabilities.has("REQUIRETLS") {
        out.push_str(" REQUIRETLS");
    }
    if let Some(by) = envelope.terms.deliver_by.filter(|_| capabilities.has("DELIVERBY")) {
        // RFC 2852 §4: at most nine digits.
        let left = mail.seconds_left(by).clamp(-999_999_999, 999_999_999);
        let mode = if by.late == Late::Return { 'R' } else { 'N' };
        put(out, format_args!(" BY={left};{mode}{}", if by.trace { "T" } else { "" }));
    }
    if let Some(priority) = envelope.terms.priority.filter(|_| capabilities.has("MT-PRIORITY")) {
        put(out, format_args!(" MT-PRIORITY={priority}"));
    }
    if capabilities.has("DSN") {
        match envelope.ret {
            Some(Ret::Full) => out.push_str(" RET=FULL"),
            Some(Ret::Headers) => out.push_str(" RET=HDRS"),
            None => {}
        }
        if let Some(id) = &envelope.envelope_id {
            put(out, format_args!(" ENVID={}", xtext(&id.0)));
        }
    }
}

fn rcpt_command(out: &mut String, capabilities: &Capabilities, to: &To<'_>) {
    put(out, format_args!("RCPT TO:<{}>", to.address));
    let Some(details) = to.details.filter(|_| capabilities.has("DSN")) else { return };
    if details.notify != Notify::default() {
        out.push_str(" NOTIFY=");
        out.push_str(&notify(details.notify));
    }
    if let Some(original) = &details.original {
        let address = match original.kind.as_str() {
            "utf-8" => utf8_address(&original.address),
            _ => xtext(&original.address),
        };
        put(out, format_args!(" ORCPT={};{address}", original.kind));
    }
}

/// The NOTIFY value. Who gets SUCCESS reports it, and our queue does not (RFC 3461 §5.2.1).
fn notify(notify: Notify) -> String {
    let Notify { success, failure, delay } = notify;
    let wanted = [("SUCCESS", success), ("FAILURE", failure), ("DELAY", delay)];
    let words: Vec<&str> = wanted.into_iter().filter(|(_, wanted)| *wanted).map(|(word, _)| word).collect();
    if words.is_empty() { "NEVER".to_owned() } else { words.join(",") }
}

/// An address of the type `utf-8` in ASCII (RFC 6533 §3), which every host can take.
fn utf8_address(address: &str) -> String {
    let mut encoded = String::with_capacity(address.len());
    for character in address.chars() {
        match character {
            '+' | '=' | '\\' => put(&mut encoded, format_args!("\\x{{{:02X}}}", u32::from(character))),
            '!'..='~' => encoded.push(character),
            _ => put(&mut encoded, format_args!("\\x{{{:02X}}}", u32::from(character))),
        }
    }
    encoded
}

/// RFC 3461 §4.
fn xtext(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'+' | b'=' => put(&mut encoded, format_args!("+{byte:02X}")),
            b'!'..=b'~' => encoded.push(char::from(byte)),
            _ => put(&mut encoded, format_args!("+{byte:02X}")),
        }
    }
    encoded
}

/// What can be known to fail before a word is said.
fn unsendable(connection: &Connection, mail: &Mail<'_>, to: &To<'_>) -> Option<Verdict> {
    let capabilities = &connection.capabilities;
    let size = mail.outgoing.len();
    if let Some(limit) = capabilities.size_limit().filter(|limit| size > *limit) {
        let text = format!("message of {size} octets is larger than the {limit} that the host takes");
        return Some(Verdict::never(3, 4, text));
    }
    if mail.envelope.body == Body::BinaryMime {
        return Some(Verdict::never(6, 3, "the message is BINARYMIME and cannot be converted"));
    }
    if connection.protocol == Protocol::Smtp
        && let Some(verdict) = too_late(capabilities, mail)
    {
        return Some(verdict);
    }
    let utf8_sender = mail.envelope.reverse_path.address().is_some_and(Address::needs_utf8);
    let needs_utf8 = to.address.needs_utf8() || utf8_sender || mail.outgoing.utf8_header;
    if needs_utf8 && !capabilities.has("SMTPUTF8") {
        return Some(Verdict::never(6, 7, "the message needs SMTPUTF8, and the host does not offer it"));
    }
    None
}

/// A message that its sender wants back after a time must not go where nobody would return it (RFC 2852 §4.1).
fn too_late(capabilities: &Capabilities, mail: &Mail<'_>) -> Option<Verdict> {
    let by = mail.envelope.terms.deliver_by.filter(|by| by.late == Late::Return)?;
    let left = mail.seconds_left(by);
    let Some(shortest) = capabilities.shortest_deliver_by() else {
        let text = "the message is to return after a time, and the host does not offer DELIVERBY";
        return Some(Verdict::never(3, 3, text));
    };
    let is_too_late = left < i64::try_from(shortest).unwrap_or(i64::MAX).max(1);
    let text =
        || format!("{left} seconds are left to deliver the message, and the host wants {shortest} at least");
    is_too_late.then(|| Verdict::never(4, 7, text()))
}

/// "Too many recipients": the rest is sent in another transaction (RFC 5321 §4.5.3.1.10, which knows 552 for it too).
fn is_too_many(reply: &Reply) -> bool {
    matches!(reply.code, 452 | 552)
        && reply.status.is_none_or(|status| (status.subject, status.detail) == (5, 3))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use bytes::Bytes;
    use postern_smtp::{EnvelopeId, OriginalRecipient, ReversePath};

    use super::*;
    use crate::content::Source;
    use crate::route::Endpoint;
    use crate::testing::{Server, dial, envelope, tls};

    const GREET: [&str; 3] = ["220 hi\r\n", "EHLO", "250-hi\r\n250 PIPELINING\r\n"];
    const PLAIN: [&str; 3] = ["220 hi\r\n", "EHLO", "250 hi\r\n"];
    const TEXT: &str = "Subject: x\r\n\r\nhello\r\n";

    struct Outcome {
        verdicts: Vec<String>,
        failure: Option<Failure>,
        slow_down: Option<String>,
        lines: Vec<String>,
    }

    async fn send(server: Server, to: &[&str], text: &str, change: impl FnOnce(&mut Envelope)) -> Outcome {
        send_over(Protocol::Smtp, server, to, text, change).await
    }

    async fn send_over(
        protocol: Protocol,
        server: Server,
        to: &[&str],
        text: &str,
        change: impl FnOnce(&mut Envelope),
    ) -> Outcome {
        let tls = tls();
        let mut envelope = envelope("alice@proseware.test", to);
        change(&mut envelope);
        let target = server.target("mx.adatum.test");
        let mut connection =
            Connection::open(&target, &crate::client::Dial { protocol, ..dial(&tls) }).await.unwrap();
        let source = Source::Whole(Bytes::copy_from_slice(text.as_bytes()));
        let outgoing = Outgoing::new(source, Vec::new(), envelope.smtputf8).await.unwrap();
        let to = envelope.recipients.iter().map(|r| To { address: &r.address, details: Some(r) }).collect();
        let mail = Mail { envelope: &envelope, to, outgoing: &outgoing, now: SystemTime::UNIX_EPOCH };
        let sent = connection.transact(&mail).await;
        drop(connection);
        let verdicts = sent.verdicts.iter().map(|verdict| match verdict {
            None => "open".to_owned(),
            Some(Verdict::Reply(reply)) => reply.code.to_string(),
            Some(Verdict::Later(reply)) => format!("later {}", reply.code),
            Some(Verdict::Ours { status, .. }) => status.to_string(),
        });
        let verdicts = verdicts.collect();
        Outcome { verdicts, failure: sent.failure, slow_down: sent.slow_down, lines: server.finished().await }
    }

    #[tokio::test]
    async fn a_pipelined_transaction_is_one_write_and_one_more() {
        let script =
            [&GREET[..], &["DATA", "250 ok\r\n250 ok\r\n354 go\r\n", ".", "250 queued\r\n"]].concat();
        let outcome = send(Server::start(&script).await, &["bob@adatum.test"], TEXT, |_| {}).await;
        assert_eq!(outcome.verdicts, ["250"]);
        assert!(outcome.failure.is_none());
        assert_eq!(
            outcome.lines[1..],
            [
                "MAIL FROM:<alice@proseware.test>",
                "RCPT TO:<bob@adatum.test>",
                "DATA",
                "Subject: x",
                "",
                "hello",
                "."
            ]
        );
    }

    #[tokio::test]
    async fn without_pipelining_every_command_waits_for_its_reply() {
        let commands = [
            "MAIL",
            "250 ok\r\n",
            "RCPT",
            "250 ok\r\n",
            "RCPT",
            "550 no\r\n",
            "DATA",
            "354 go\r\n",
            ".",
            "250 ok\r\n",
        ];
        let script = [&PLAIN[..], &commands].concat();
        let to = ["bob@adatum.test", "eve@adatum.test"];
        let outcome = send(Server::start(&script).await, &to, TEXT, |_| {}).await;
        assert_eq!(outcome.verdicts, ["250", "550"]);
    }

    #[tokio::test]
    async fn replies_in_single_octets_are_understood() {
        let script = [&GREET[..], &["DATA", "slow 250 ok\r\n450-a\r\n450 b\r\n354 go\r\n", "."]].concat();
        let script = [&script[..], &["slow 250-one\r\n250 two\r\n"]].concat();
        let recipients = &["bob@adatum.test"];
        // The first RCPT reply is the 450: nobody is accepted, the message to nobody is ended with a dot.
        let outcome = send(Server::start(&script).await, recipients, TEXT, |_| {}).await;
        assert_eq!(outcome.verdicts, ["450"]);
        assert_eq!(outcome.lines.last().unwrap(), ".");
        assert!(!outcome.lines.contains(&"hello".to_owned()));
    }

    #[tokio::test]
    async fn each_recipient_has_its_own_verdict() {
        let replies = "250 ok\r\n250 ok\r\n550 5.1.1 unknown\r\n451 4.7.1 greylisted\r\n354 go\r\n";
        let script = [&GREET[..], &["DATA", replies, ".", "250 queued\r\n"]].concat();
        let to = ["a@adatum.test", "b@adatum.test", "c@adatum.test"];
        let outcome = send(Server::start(&script).await, &to, TEXT, |_| {}).await;
        assert_eq!(outcome.verdicts, ["250", "550", "451"]);
        assert!(outcome.slow_down.is_none(), "greylisting is no throttling");
    }

    #[tokio::test]
    async fn a_refused_sender_is_the_verdict_for_all() {
        for (script, expected) in [
            (vec!["DATA", "550 5.7.1 no\r\n503 what\r\n503 what\r\n503 what\r\n"], "550"),
            (vec!["DATA", "450 4.7.1 slow\r\n250 ok\r\n250 ok\r\n354 go\r\n", ".", "554 none\r\n"], "450"),
        ] {
            let script = [&GREET[..], &script].concat();
            let to = ["a@adatum.test", "b@adatum.test"];
            let outcome = send(Server::start(&script).await, &to, TEXT, |_| {}).await;
            assert_eq!(outcome.verdicts, [expected, expected]);
            assert!(outcome.failure.is_none());
            assert_eq!(outcome.slow_down.is_some(), expected == "450");
        }
    }

    #[tokio::test]
    async fn a_closing_server_leaves_the_rest_undecided() {
        let script = [&GREET[..], &["DATA", "250 ok\r\n550 no\r\n421 4.7.0 slow down\r\n", "close"]].concat();
        let to = ["a@adatum.test", "b@adatum.test"];
        let outcome = send(Server::start(&script).await, &to, TEXT, |_| {}).await;
        assert_eq!(outcome.verdicts, ["550", "open"]);
        assert!(outcome.failure.unwrap().closing().is_some());
        assert_eq!(outcome.slow_down.as_deref(), Some("421 4.7.0 slow down"));
    }

    #[tokio::test]
    async fn a_connection_lost_after_the_dot_says_so() {
        let script = [&GREET[..], &["DATA", "250 ok\r\n250 ok\r\n354 go\r\n", ".", "close"]].concat();
        let outcome = send(Server::start(&script).await, &["a@adatum.test"], TEXT, |_| {}).await;
        assert_eq!(outcome.verdicts, ["open"]);
        assert_eq!(outcome.failure.unwrap().stage(), Stage::End);
    }

    #[tokio::test]
    async fn a_refusal_in_the_midst_of_data_is_the_verdict() {
        let script =
            [&GREET[..], &["DATA", "250 ok\r\n250 ok\r\n354 go\r\n", "stop 552 5.3.4 too big\r\n"]].concat();
        let big = format!("Subject: x\r\n\r\n{}", "x\r\n".repeat(4 * 1024 * 1024));
        let outcome = send(Server::start(&script).await, &["a@adatum.test"], &big, |_| {}).await;
        assert_eq!(outcome.verdicts, ["552"]);
        assert_eq!(outcome.failure.unwrap().stage(), Stage::Content);
    }

    #[tokio::test]
    async fn a_success_where_content_is_asked_for_is_no_delivery() {
        let script = [&GREET[..], &["DATA", "250 ok\r\n250 ok\r\n250 done\r\n"]].concat();
        let outcome = send(Server::start(&script).await, &["a@adatum.test"], TEXT, |_| {}).await;
        assert_eq!(outcome.verdicts, ["open"]);
        assert!(matches!(outcome.failure, Some(Failure::Unexpected { .. })));
    }

    #[tokio::test]
    async fn one_recipient_too_many_is_left_for_the_next_transaction() {
        let replies = "250 ok\r\n250 ok\r\n452 4.5.3 too many\r\n354 go\r\n";
        let script = [&GREET[..], &["DATA", replies, ".", "250 queued\r\n"]].concat();
        let to = ["a@adatum.test", "b@adatum.test"];
        let outcome = send(Server::start(&script).await, &to, TEXT, |_| {}).await;
        assert_eq!(outcome.verdicts, ["250", "open"]);
        let replies = "250 ok\r\n552 too many\r\n452 too many\r\n503 none\r\n";
        let outcome =
            send(Server::start(&[&GREET[..], &["DATA", replies]].concat()).await, &to, TEXT, |_| {}).await;
        assert_eq!(outcome.verdicts, ["later 552", "later 452"]);
    }

    #[tokio::test]
    async fn lmtp_answers_for_each_recipient() {
        let hello = ["220 hi\r\n", "LHLO", "250-hi\r\n250 PIPELINING\r\n"];
        let replies = "250 ok\r\n250 ok\r\n550 no\r\n250 ok\r\n354 go\r\n";
        let script = [&hello[..], &["DATA", replies, ".", "250 ok\r\n452 4.2.2 full\r\n"]].concat();
        let to = ["a@adatum.test", "b@adatum.test", "c@adatum.test"];
        let outcome = send_over(Protocol::Lmtp, Server::start(&script).await, &to, TEXT, |_| {}).await;
        assert_eq!(outcome.verdicts, ["250", "550", "452"]);
    }

    #[tokio::test]
    async fn parameters_are_sent_where_they_are_understood() {
        let hello = [
            "220 hi\r\n",
            "EHLO",
            "250-hi\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250-8BITMIME\r\n250-DSN\r\n250 SMTPUTF8\r\n",
        ];
        let script =
            [&hello[..], &["DATA", "250 ok\r\n250 ok\r\n354 go\r\n", ".", "250 queued\r\n"]].concat();
        let outcome =
            send(Server::start(&script).await, &["bob@adatum.test"], "A: b\r\n\r\nü\r\n", |envelope| {
                envelope.smtputf8 = true;
                envelope.ret = Some(Ret::Headers);
                envelope.envelope_id = Some(EnvelopeId("a+b c".to_owned()));
                envelope.recipients[0].notify = Notify { success: true, failure: true, delay: false };
                envelope.recipients[0].original = Some(OriginalRecipient {
                    kind: "rfc822".to_owned(),
                    address: "b=b@adatum.test".to_owned(),
                });
            })
            .await;
        assert_eq!(outcome.verdicts, ["250"]);
        let mail = "MAIL FROM:<alice@proseware.test> SIZE=12 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=a+2Bb+20c";
        assert_eq!(outcome.lines[1], mail);
        assert_eq!(
            outcome.lines[2],
            "RCPT TO:<bob@adatum.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;b+3Db@adatum.test"
        );
    }

    #[test]
    fn reports_are_asked_for_in_the_words_of_the_standard() {
        let said = |success, failure, delay| notify(Notify { success, failure, delay });
        assert_eq!(said(true, true, true), "SUCCESS,FAILURE,DELAY");
        assert_eq!(said(false, false, true), "DELAY");
        assert_eq!(said(false, false, false), "NEVER");
        assert_eq!(utf8_address("žofie+x@adatum.test"), "\\x{17E}ofie\\x{2B}x@adatum.test");
    }

    fn deliver_by(seconds: u64, late: Late, trace: bool) -> Option<DeliverBy> {
        Some(DeliverBy { at: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds), late, trace })
    }

    #[tokio::test]
    async fn demands_go_where_they_are_offered() {
        let offers = "250-hi\r\n250-PIPELINING\r\n250-DELIVERBY 10\r\n250-MT-PRIORITY\r\n250 REQUIRETLS\r\n";
        let script =
            ["220 hi\r\n", "EHLO", offers, "DATA", "250 ok\r\n250 ok\r\n354 go\r\n", ".", "250 ok\r\n"];
        let outcome = send(Server::start(&script).await, &["bob@adatum.test"], TEXT, |envelope| {
            envelope.terms.require_tls = true;
            envelope.terms.deliver_by = deliver_by(90, Late::Return, true);
            envelope.terms.priority = Some(-3);
        });
        let expected = "MAIL FROM:<alice@proseware.test> REQUIRETLS BY=90;RT MT-PRIORITY=-3";
        assert_eq!(outcome.await.lines[1], expected);
    }

    #[tokio::test]
    async fn what_is_to_return_goes_only_where_it_would() {
        let offers = ["220 hi\r\n", "EHLO", "250-hi\r\n250 DELIVERBY 100\r\n"];
        for (script, expected) in [(&GREET[..], "5.3.3"), (&offers[..], "5.4.7")] {
            let outcome = send(Server::start(script).await, &["bob@adatum.test"], TEXT, |envelope| {
                envelope.terms.deliver_by = deliver_by(90, Late::Return, false);
            });
            assert_eq!(outcome.await.verdicts, [expected]);
        }
        let answers = ["DATA", "250 ok\r\n250 ok\r\n354 go\r\n", ".", "250 queued\r\n"];
        let script = [&GREET[..], &answers].concat();
        let outcome = send(Server::start(&script).await, &["bob@adatum.test"], TEXT, |envelope| {
            envelope.terms.deliver_by = deliver_by(90, Late::Notify, false);
        });
        assert_eq!(outcome.await.verdicts, ["250"]);
    }

    #[tokio::test]
    async fn what_the_server_cannot_take_is_not_tried() {
        let small = ["220 hi\r\n", "EHLO", "250-hi\r\n250 SIZE 10\r\n"];
        let outcome = send(Server::start(&small).await, &["bob@adatum.test"], TEXT, |_| {}).await;
        assert_eq!(outcome.verdicts, ["5.3.4"]);
        assert_eq!(outcome.lines.len(), 1);
        let outcome = send(Server::start(&GREET).await, &["bob@adatum.test"], TEXT, |envelope| {
            envelope.body = Body::BinaryMime;
        });
        assert_eq!(outcome.await.verdicts, ["5.6.3"]);
    }

    #[tokio::test]
    async fn a_server_without_smtputf8_gets_what_is_ascii_all_the_same() {
        let script =
            [&GREET[..], &["DATA", "250 ok\r\n250 ok\r\n354 go\r\n", ".", "250 queued\r\n"]].concat();
        let to = ["bob@adatum.test", "bjørn@adatum.test"];
        let outcome =
            send(Server::start(&script).await, &to, TEXT, |envelope| envelope.smtputf8 = true).await;
        assert_eq!(outcome.verdicts, ["250", "5.6.7"]);
        let header = "Subject: ü\r\n\r\n";
        let outcome =
            send(Server::start(&GREET).await, &to, header, |envelope| envelope.smtputf8 = true).await;
        assert_eq!(outcome.verdicts, ["5.6.7", "5.6.7"]);
        let outcome = send(Server::start(&GREET).await, &to[..1], TEXT, |envelope| {
            envelope.reverse_path = ReversePath::parse("jörg@proseware.test").unwrap();
        });
        assert_eq!(outcome.await.verdicts, ["5.6.7"]);
    }

    #[tokio::test]
    async fn an_unfinished_transaction_is_reset_before_the_next() {
        let refusal = ["DATA", "250 ok\r\n550 no\r\n503 none\r\n", "RSET", "250 ok\r\n"];
        let script =
            [&GREET[..], &refusal, &["DATA", "250 ok\r\n250 ok\r\n354 go\r\n", ".", "250 queued\r\n"]]
                .concat();
        let server = Server::start(&script).await;
        let tls = tls();
        let mut connection = Connection::open(&server.target("mx.adatum.test"), &dial(&tls)).await.unwrap();
        assert!(matches!(connection.endpoint, Endpoint::Tcp(_)));
        let envelope = envelope("alice@proseware.test", &["bob@adatum.test"]);
        let outgoing =
            Outgoing::new(Source::Whole(Bytes::from_static(b"")), Vec::new(), false).await.unwrap();
        for expected in [550, 250] {
            let to = vec![To { address: &envelope.recipients[0].address, details: None }];
            let sent = connection
                .transact(&Mail { envelope: &envelope, to, outgoing: &outgoing, now: SystemTime::UNIX_EPOCH })
                .await;
            assert!(matches!(&sent.verdicts[0], Some(Verdict::Reply(reply)) if reply.code == expected));
        }
        assert!(!connection.needs_reset);
    }
}
