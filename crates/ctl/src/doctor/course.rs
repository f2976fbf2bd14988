//! Plays the tricks to one server, a few on each connection, and judges the answers.

use std::time::{Duration, SystemTime};

use postern_outbound::tls::ClientTls;
use postern_smtp::{EnhancedStatus, Reply};

use super::client::{Client, Lost, Opened, Target};
use super::report::{Answer, Finding, Stage, Verdict};
use super::smuggling::{self, Letter, Sequence};
use super::tricks::{Act, Envelope, Ground, Means, Prelude, Trick};

/// Tricks on one connection: fewer than the errors at which servers begin to answer slowly (Postfix 10, Postern 5).
const TRICKS_PER_CONNECTION: usize = 4;
/// Before a server that does not want to talk is asked again; after the last it is left in peace.
const BACK_OFF: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];
/// Tricks in a row that end without an answer until the rest is left out.
const MAX_UNANSWERED: usize = 3;
/// Replies to octets that are no command, in front of the one that is waited for.
const MAX_JUNK: usize = 16;

/// What whoever asks agreed to.
#[derive(Debug, Clone, Default)]
pub(super) struct Consent {
    /// A mailbox at the server that test messages for smuggling may go to.
    pub(super) here: Option<String>,
    /// A mailbox at another host: whatever the server takes for it is sent.
    pub(super) elsewhere: bool,
    /// Also messages that a sound server takes.
    pub(super) may_arrive: bool,
}

/// How it is gone about.
pub(super) struct Manner {
    pub(super) consent: Consent,
    /// Between connections.
    pub(super) pause: Duration,
    /// Whether the dialogues are kept.
    pub(super) verbose: bool,
    /// For the messages that are sent.
    pub(super) now: SystemTime,
}

/// One server, asked from one address.
pub(super) struct Course<'a> {
    target: &'a Target,
    tls: &'a ClientTls,
    ground: &'a Ground,
    manner: Manner,
    open: Option<Opened>,
    /// Tricks that the open connection has seen.
    used: usize,
    /// Since the last answer.
    unanswered: usize,
}

impl<'a> Course<'a> {
    /// A course for a server that has been spoken to: `first` is that connection.
    pub(super) fn new(
        target: &'a Target,
        tls: &'a ClientTls,
        ground: &'a Ground,
        manner: Manner,
        first: Opened,
    ) -> Self {
        Self { target, tls, ground, manner, open: Some(first), used: 0, unanswered: 0 }
    }

    /// Plays all tricks.
    pub(super) async fn run(mut self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for trick in self.ground.tricks() {
            let mut dialogue = Vec::new();
            let answer = match self.unanswered >= MAX_UNANSWERED {
                true => Answer::without_reply(
                    Verdict::Doubtful,
                    None,
                    "not asked: the server does not answer any more",
                ),
                false => self.play(&trick, &mut dialogue).await,
            };
            findings.push(Finding {
                trick: trick.name,
                domain: trick.domain.map(|domain| domain.to_string()),
                explanation: trick.explanation,
                answer,
                dialogue,
            });
        }
        self.leave().await;
        findings
    }

    async fn play(&mut self, trick: &Trick, dialogue: &mut Vec<String>) -> Answer {
        match &trick.act {
            Act::Envelope(envelope) => self.twice(trick.name, envelope, dialogue).await,
            Act::Proxy(header, envelope) => {
                let played = self.proxied(header, envelope, dialogue).await;
                self.alone(played, "closed: the server ended the connection instead of taking the header")
            }
            Act::Injection => {
                let played = self.injection(dialogue).await;
                self.alone(played, "closed: the server ended the connection instead of going on")
            }
            Act::LineEnd(end) => {
                let played = self.line_end(end, dialogue).await;
                self.alone(played, "closed: the server ended the connection instead of taking the line")
            }
            Act::Smuggle(sequence) => {
                let played = self.smuggle(trick.name, sequence, dialogue).await;
                self.alone(played, "closed: the server ended the connection instead of taking the message")
            }
        }
    }

    /// What is rude enough to be cut off: that is an answer too.
    fn alone(&mut self, played: Result<Answer, Lost>, cut_off: &str) -> Answer {
        match played {
            Ok(answer) => answer,
            Err(Lost::Dismissed(reply)) => Answer::new(Verdict::Refused, Stage::Session, &reply),
            Err(Lost::Closed | Lost::Garbled(_)) => {
                Answer::without_reply(Verdict::Refused, Some(Stage::Session), cut_off)
            }
            Err(lost) => self.unanswered(&lost),
        }
    }

    fn unanswered(&mut self, lost: &Lost) -> Answer {
        self.unanswered += 1;
        Answer::without_reply(Verdict::Doubtful, None, format!("no answer: {lost}"))
    }

    /// A server that has had enough of us breaks off: the trick is tried once more on a new connection.
    async fn twice(&mut self, name: &str, envelope: &Envelope, dialogue: &mut Vec<String>) -> Answer {
        let mut last = None;
        for _ in 0..2 {
            let mut opened = match self.connection().await {
                Ok(opened) => opened,
                Err(lost) => return self.unanswered(&lost),
            };
            if let Some(why) = inapplicable(&opened, envelope) {
                self.open = Some(opened);
                return Answer::not_tried(why);
            }
            self.used += 1;
            opened.client.take_dialogue();
            let played = self.transaction(name, &mut opened, envelope).await;
            self.keep(dialogue, &mut opened.client);
            match played {
                Ok(answer) => {
                    self.unanswered = 0;
                    // Who one claims to be stays in force on the connection.
                    match envelope.prelude {
                        None | Some(Prelude::Recipient(_)) => self.open = Some(opened),
                        Some(_) => opened.client.quit().await,
                    }
                    return answer;
                }
                Err(lost) => last = Some(lost),
            }
        }
        match last {
            Some(lost) => self.unanswered(&lost),
            None => self.unanswered(&Lost::Closed),
        }
    }

    /// The open connection, or a new one when that one has seen enough.
    async fn connection(&mut self) -> Result<Opened, Lost> {
        if self.used >= TRICKS_PER_CONNECTION {
            self.leave().await;
        }
        if let Some(mut opened) = self.open.take()
            && (self.used == 0 || opened.client.command("RSET").await.is_ok())
        {
            return Ok(opened);
        }
        self.used = 0;
        tokio::time::sleep(self.manner.pause).await;
        open_patiently(self.target, self.tls).await
    }

    /// A connection for one trick alone, on which nothing was said but EHLO. An error is no answer to the trick.
    async fn own_connection(&mut self, starttls: bool) -> Result<Opened, Answer> {
        self.leave().await;
        tokio::time::sleep(self.manner.pause).await;
        let target = Target { starttls: starttls && self.target.starttls, ..self.target.clone() };
        match open_patiently(&target, self.tls).await {
            Ok(opened) => {
                self.unanswered = 0;
                Ok(opened)
            }
            Err(lost) => Err(self.unanswered(&lost)),
        }
    }

    async fn leave(&mut self) {
        self.used = 0;
        if let Some(opened) = self.open.take() {
            opened.client.quit().await;
        }
    }

    fn keep(&self, dialogue: &mut Vec<String>, client: &mut Client) {
        if self.manner.verbose {
            dialogue.extend(client.take_dialogue());
        }
    }

    /// MAIL and RCPT, and what the answers mean.
    async fn transaction(
        &self,
        name: &str,
        opened: &mut Opened,
        envelope: &Envelope,
    ) -> Result<Answer, Lost> {
        let claim = match self.prelude(opened, envelope).await? {
            Claim::Decided(answer) => return Ok(answer),
            claim => claim,
        };
        let client = &mut opened.client;
        let mail = client.command(&format!("MAIL FROM:{}", envelope.sender)).await?;
        if !mail.is_success() {
            return Ok(claim.weigh(refusal(Stage::Mail, &mail)));
        }
        if let Some(Prelude::Recipient(recipient)) = &envelope.prelude {
            client.command(&format!("RCPT TO:{recipient}")).await?;
        }
        let rcpt = client.command(&format!("RCPT TO:{}", envelope.recipient)).await?;
        if !rcpt.is_success() {
            return Ok(claim.weigh(refusal(Stage::Rcpt, &rcpt)));
        }
        let may_send = self.manner.consent.elsewhere && envelope.means != Means::RelayElsewhere;
        match may_send && !matches!(envelope.prelude, Some(Prelude::Recipient(_))) {
            true => self.send(name, client, envelope, &rcpt).await,
            false => Ok(self.accepted(envelope.means, &rcpt)),
        }
    }

    async fn prelude(&self, opened: &mut Opened, envelope: &Envelope) -> Result<Claim, Lost> {
        match &envelope.prelude {
            None | Some(Prelude::Recipient(_)) => Ok(Claim::None),
            Some(Prelude::Hello(name)) => {
                let reply = opened.client.command(&format!("EHLO {name}")).await?;
                match reply.is_success() {
                    true => Ok(Claim::None),
                    false => Ok(Claim::Decided(refusal(Stage::Session, &reply))),
                }
            }
            Some(Prelude::Claim(command)) => self.claim(opened, command).await,
            Some(Prelude::LoginInClear(command)) => {
                let reply = opened.client.command(command).await?;
                Ok(match reply.code {
                    235 => Claim::Believed(reply),
                    535 => {
                        Claim::Decided(Answer::new(Verdict::Tolerated, Stage::Session, &reply).meaning(
                            "the password was looked at: who listens on the way reads those of others",
                        ))
                    }
                    _ => Claim::Disbelieved,
                })
            }
        }
    }

    async fn claim(&self, opened: &mut Opened, command: &str) -> Result<Claim, Lost> {
        let reply = opened.client.command(command).await?;
        if (300..400).contains(&reply.code) {
            // A question of AUTH: nothing further is said (RFC 4954 §4).
            opened.client.command("*").await?;
            return Ok(Claim::Disbelieved);
        }
        if !reply.is_success() {
            return Ok(Claim::Disbelieved);
        }
        if reply.code == 220 {
            // XCLIENT begins the session anew.
            opened.hello(&self.target.helo_name(opened.client.local)).await?;
        }
        Ok(Claim::Believed(reply))
    }

    /// What was taken is sent, since whoever asks wants to see whether it arrives.
    async fn send(
        &self,
        name: &str,
        client: &mut Client,
        envelope: &Envelope,
        rcpt: &Reply,
    ) -> Result<Answer, Lost> {
        let data = client.command("DATA").await?;
        if data.code != 354 {
            return Ok(refusal(Stage::Data, &data));
        }
        let from = format!("<{}>", self.ground.sender);
        let to = format!("<{}>", self.ground.recipient);
        let header = smuggling::header(&from, &to, name, self.manner.now);
        let text = "If this arrives, the server relays for strangers.";
        client.say(format!("{header}\r\n{text}\r\n.\r\n").as_bytes()).await?;
        let reply = client.reply().await?;
        if !reply.is_success() {
            return Ok(refusal(Stage::Data, &reply).meaning(format!("the recipient was taken first: {rcpt}")));
        }
        let verdict = self.accepted(envelope.means, &reply).verdict;
        Ok(Answer::new(verdict, Stage::Data, &reply).meaning(format!(
            "a message was taken; if \"Postern relay test: {name}\" arrives at {}, the server relays",
            self.ground.recipient
        )))
    }

    fn accepted(&self, means: Means, reply: &Reply) -> Answer {
        match means {
            Means::Relay | Means::RelayElsewhere => {
                Answer::new(Verdict::Accepted, Stage::Rcpt, reply).meaning(
                    "the server takes mail for another host from a stranger, unless it knows the address that it was asked \
                     from; --send with a mailbox of yours at another host shows whether it passes it on",
                )
            }
            Means::LocalOrRelay => Answer::new(Verdict::AcceptedAsLocal, Stage::Rcpt, reply).meaning(
                "a catch-all mailbox, a server that refuses later, or an open relay that reads a route in the address; \
                 --send with a mailbox of yours at another host shows whether it arrives there",
            ),
        }
    }

    /// Says the header before the greeting is read, then tries to relay.
    async fn proxied(
        &mut self,
        header: &[u8],
        envelope: &Envelope,
        dialogue: &mut Vec<String>,
    ) -> Result<Answer, Lost> {
        self.leave().await;
        tokio::time::sleep(self.manner.pause).await;
        let mut client = match self.target.connect_in_clear().await {
            Ok(client) => client,
            Err(lost) => return Ok(self.unanswered(&lost)),
        };
        let played = self.behind_header(&mut client, header, envelope).await;
        self.keep(dialogue, &mut client);
        played
    }

    async fn behind_header(
        &self,
        client: &mut Client,
        header: &[u8],
        envelope: &Envelope,
    ) -> Result<Answer, Lost> {
        client.say(header).await?;
        if self.target.implicit_tls {
            client.handshake(self.tls).await?;
        }
        // The line end closes what a server that does not know the header takes for the beginning of a line.
        let helo = self.target.helo_name(client.local);
        client.say(format!("\r\nEHLO {helo}\r\n").as_bytes()).await?;
        let mut refused = None;
        for _ in 0..MAX_JUNK {
            let reply = client.reply().await?;
            match reply.code {
                250 => {
                    let claim = refused.map_or(Claim::None, |_: Reply| Claim::Disbelieved);
                    return self.short_transaction(client, envelope, claim).await;
                }
                220 => {}
                _ => refused = Some(reply),
            }
        }
        Err(Lost::Garbled("no answer to EHLO".to_owned()))
    }

    async fn short_transaction(
        &self,
        client: &mut Client,
        envelope: &Envelope,
        claim: Claim,
    ) -> Result<Answer, Lost> {
        let mail = client.command(&format!("MAIL FROM:{}", envelope.sender)).await?;
        if !mail.is_success() {
            return Ok(claim.weigh(refusal(Stage::Mail, &mail)));
        }
        let rcpt = client.command(&format!("RCPT TO:{}", envelope.recipient)).await?;
        client.say(b"QUIT\r\n").await?;
        match rcpt.is_success() {
            true => Ok(self.accepted(envelope.means, &rcpt)),
            false => Ok(claim.weigh(refusal(Stage::Rcpt, &rcpt))),
        }
    }

    /// CVE-2011-0411: what was sent in clear behind STARTTLS must not be executed under TLS (RFC 3207 §4.2).
    async fn injection(&mut self, dialogue: &mut Vec<String>) -> Result<Answer, Lost> {
        if self.target.implicit_tls {
            return Ok(Answer::not_tried("TLS is there from the beginning"));
        }
        let mut opened = match self.own_connection(false).await {
            Ok(opened) => opened,
            Err(answer) => return Ok(answer),
        };
        if !opened.capabilities.has("STARTTLS") {
            opened.client.quit().await;
            return Ok(Answer::not_tried("the server does not offer STARTTLS"));
        }
        let played = injected(&mut opened.client, self.tls).await;
        self.keep(dialogue, &mut opened.client);
        played
    }

    async fn line_end(&mut self, end: &[u8], dialogue: &mut Vec<String>) -> Result<Answer, Lost> {
        let mut opened = match self.own_connection(false).await {
            Ok(opened) => opened,
            Err(answer) => return Ok(answer),
        };
        let played = bare_line_end(&mut opened.client, end).await;
        self.keep(dialogue, &mut opened.client);
        played
    }

    async fn smuggle(
        &mut self,
        name: &str,
        sequence: &Sequence,
        dialogue: &mut Vec<String>,
    ) -> Result<Answer, Lost> {
        let Some(recipient) = self.manner.consent.here.clone() else {
            return Ok(Answer::not_tried("needs a message: --send with a mailbox of yours at this server"));
        };
        if sequence.may_arrive && !self.manner.consent.may_arrive {
            let why =
                "a sound server may deliver this message: --send with a mailbox of yours at this server";
            return Ok(Answer::not_tried(why));
        }
        let mut opened = match self.own_connection(true).await {
            Ok(opened) => opened,
            Err(answer) => return Ok(answer),
        };
        let (sender, recipient) = (format!("<{}>", self.ground.sender), format!("<{recipient}>"));
        let header = smuggling::header(&sender, &recipient, name, self.manner.now);
        let letter = Letter { sender: &sender, recipient: &recipient, header: &header };
        let played = smuggling::smuggle(&mut opened.client, sequence, &letter).await;
        self.keep(dialogue, &mut opened.client);
        played
    }
}

/// What became of a claim in front of MAIL.
enum Claim {
    /// Nothing was claimed.
    None,
    /// The server took it.
    Believed(Reply),
    /// The server did not.
    Disbelieved,
    /// The trick is over.
    Decided(Answer),
}

impl Claim {
    /// A claim that was believed is not harmless because this one recipient was refused.
    fn weigh(self, answer: Answer) -> Answer {
        match self {
            Self::Believed(reply) => Answer::new(Verdict::Doubtful, Stage::Session, &reply).meaning(format!(
                "the server believed the claim, and refused the recipient all the same: {}",
                answer.reply.unwrap_or_default()
            )),
            Self::None | Self::Disbelieved | Self::Decided(_) => answer,
        }
    }
}

/// Why it makes no sense on this connection.
fn inapplicable(opened: &Opened, envelope: &Envelope) -> Option<String> {
    if let Some(keyword) = envelope.needs
        && !opened.capabilities.has(keyword)
    {
        return Some(format!("the server does not offer {keyword}"));
    }
    let in_clear = matches!(envelope.prelude, Some(Prelude::LoginInClear(_)));
    (in_clear && opened.client.is_secured()).then(|| "the connection is under TLS".to_owned())
}

/// 4yz is no final answer, unless it says that it is about relaying: some servers answer so while they are set up.
fn refusal(stage: Stage, reply: &Reply) -> Answer {
    if reply.is_permanent() || names_policy(reply) {
        return Answer::new(Verdict::Refused, stage, reply);
    }
    Answer::new(Verdict::Doubtful, stage, reply)
        .meaning("not refused for good: a server that puts strangers off at first may take it later; ask again in a while")
}

/// X.7.1: delivery not authorised (RFC 3463 §3.8); and the words of servers without enhanced codes.
fn names_policy(reply: &Reply) -> bool {
    reply.status.is_some_and(|status| (status.subject, status.detail) == (7, 1))
        || reply.text().to_ascii_lowercase().contains("relay")
}

/// Whether a refusal is about the test addresses and not about relaying: it says nothing then.
pub(super) fn is_about_addresses(answer: &Answer) -> bool {
    const WORDS: [&str; 5] =
        ["sender verify", "sender address rejected", "domain not found", "nullmx", "does not accept mail"];
    let Some(reply) = answer.reply.as_ref().filter(|_| answer.verdict == Verdict::Refused) else {
        return false;
    };
    let about = |status: EnhancedStatus| {
        // X.1.2, X.1.8: no such domain; X.1.7: a bad sender; X.1.10, X.7.27: null MX (RFC 7505 §4).
        matches!((status.subject, status.detail), (1, 2 | 7 | 8 | 10) | (7, 27))
    };
    let lower = reply.to_ascii_lowercase();
    let status = reply.split(' ').nth(1).and_then(|word| word.parse().ok());
    status.is_some_and(about) || WORDS.iter().any(|word| lower.contains(word))
}

/// A connection, also from a server that wants to be left in peace for a moment.
pub(super) async fn open_patiently(target: &Target, tls: &ClientTls) -> Result<Opened, Lost> {
    for pause in BACK_OFF {
        match target.open(tls).await {
            Err(Lost::Dismissed(reply)) if !reply.is_permanent() => {}
            Err(Lost::Closed) => {}
            result => return result,
        }
        tokio::time::sleep(pause).await;
    }
    target.open(tls).await
}

async fn injected(client: &mut Client, tls: &ClientTls) -> Result<Answer, Lost> {
    client.say(b"STARTTLS\r\nNOOP\r\n").await?;
    let ready = client.reply().await?;
    if ready.code != 220 {
        return Ok(Answer::new(Verdict::Refused, Stage::Session, &ready));
    }
    client.handshake(tls).await?;
    // The answer to what is said now, or, before it, to what was sent ahead.
    let reply = client.command("QUIT").await?;
    Ok(match reply.code {
        221 => {
            let meaning = "thrown away: what was sent ahead of the handshake was not executed";
            Answer::without_reply(Verdict::Refused, Some(Stage::Session), meaning)
        }
        _ => Answer::new(Verdict::Accepted, Stage::Session, &reply).meaning(
            "what was sent in clear is executed under TLS: who sits on the way can put commands in front of a client's own",
        ),
    })
}

/// Two commands with this between them, and how many the server sees: NOOP is known and NOPE is not, so the replies tell.
async fn bare_line_end(client: &mut Client, end: &[u8]) -> Result<Answer, Lost> {
    client.say(&[b"NOOP".as_slice(), end, b"NOPE\r\nQUIT\r\n"].concat()).await?;
    let first = client.reply().await?;
    let second = match client.reply().await {
        Ok(second) => second,
        Err(Lost::Closed) if !first.is_success() => {
            return Ok(Answer::new(Verdict::Refused, Stage::Session, &first));
        }
        Err(lost) => return Err(lost),
    };
    if first.is_success() && !second.is_success() {
        return Ok(Answer::new(Verdict::Tolerated, Stage::Session, &first).meaning(
            "the command was executed. That relays nothing by itself; a server that also ends messages so lets mail be \
             smuggled in: see the tricks whose name begins with smuggle",
        ));
    }
    if first.is_success() {
        let meaning = "no line end: what stands behind it was taken for an argument";
        return Ok(Answer::without_reply(Verdict::Refused, Some(Stage::Session), meaning));
    }
    Ok(Answer::new(Verdict::Refused, Stage::Session, &first))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(code: u16, status: Option<(u8, u16, u16)>, text: &str) -> Reply {
        let status = status.map(|(class, subject, detail)| EnhancedStatus::new(class, subject, detail));
        Reply { code, status, lines: vec![text.to_owned()] }
    }

    #[test]
    fn a_temporary_refusal_proves_something_only_if_it_is_about_relaying() {
        let verdict = |reply: Reply| refusal(Stage::Rcpt, &reply).verdict;
        assert_eq!(verdict(reply(550, None, "no")), Verdict::Refused);
        assert_eq!(verdict(reply(454, Some((4, 7, 1)), "Relay access denied")), Verdict::Refused);
        assert_eq!(verdict(reply(454, None, "relaying denied")), Verdict::Refused);
        assert_eq!(verdict(reply(451, Some((4, 7, 0)), "greylisted")), Verdict::Doubtful);
    }

    #[test]
    fn a_refusal_of_the_test_addresses_is_no_refusal_to_relay() {
        let about =
            |code, status, text| is_about_addresses(&refusal(Stage::Rcpt, &reply(code, status, text)));
        assert!(about(550, Some((5, 1, 8)), "<a@example.org>: Sender address rejected: Domain not found"));
        assert!(about(550, None, "Sender verify failed"));
        assert!(about(556, Some((5, 1, 10)), "Domain example.com does not accept mail (nullMX)"));
        assert!(!about(554, Some((5, 7, 1)), "Relay access denied"));
        assert!(!about(451, Some((4, 1, 8)), "later"));
    }

    #[test]
    fn a_claim_that_was_believed_is_not_forgotten() {
        let refused = refusal(Stage::Rcpt, &reply(550, None, "no relay"));
        let weighed = Claim::Believed(reply(220, None, "ready")).weigh(refused.clone());
        assert_eq!(weighed.verdict, Verdict::Doubtful);
        assert!(weighed.meaning.is_some_and(|meaning| meaning.contains("no relay")));
        assert_eq!(Claim::Disbelieved.weigh(refused).verdict, Verdict::Refused);
    }
}
