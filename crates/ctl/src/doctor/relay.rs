//! `doctor relay`: proves from outside that a server is no open relay.
//!
//! The tricks are in `tricks.rs`, how they are played and judged in `course.rs`. Here: whom to ask, what to name as
//! local, and what the answers prove.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::Args;
use postern_config::surroundings::Surroundings;
use postern_config::units::parse_duration;
use postern_outbound::tls::ClientTls;
use postern_smtp::{Address, Domain, Host};
use serde::Serialize;

use super::client::{Lost, Opened, Target};
use super::course::{Consent, Course, Manner, is_about_addresses, open_patiently};
use super::own::{Listener, Site};
use super::report::{Answer, Finding, Outcome, Report, Server, Stage, Verdict};
use super::tricks::{Act, Ground};
use crate::Session;
use crate::failure::{Exit, Failure};
use crate::output::{self, Look};

/// For --help.
pub(super) const EXAMPLES: &str = "\
Examples:
  posternctl doctor relay
  posternctl doctor relay --source 127.0.0.9
  posternctl doctor relay mail.proseware.test --domain proseware.test
  posternctl doctor relay mail.proseware.test --send me@proseware.test --send me@adatum.test
  posternctl doctor relay --list

Without --send no message is sent to another server: each trick ends at RCPT. Ends with 0 if every trick \
was refused, with 1 if one came through or an answer proves nothing, with 4 if nobody answers.";

/// Of the example domains (RFC 2606): nobody has a mailbox there, and their null MX (RFC 7505) makes sure that nothing could
/// be delivered.
const DEFAULT_SENDER: &str = "relay-test-sender@example.org";
const DEFAULT_RECIPIENT: &str = "relay-test@example.com";
/// Between connections to a server of others.
const DEFAULT_PAUSE: Duration = Duration::from_secs(1);
/// Each domain costs some twenty tricks.
const MAX_DOMAINS: usize = 5;
/// Loopback addresses that hardly anybody has listed.
const UNTRUSTED: [&str; 2] = ["127.0.0.9", "127.9.9.9"];

/// Whom to ask, and how.
#[derive(Debug, Args)]
pub struct Options {
    /// The server, with its port if that is not 25. Without it, the listeners of the own server.
    #[arg(value_name = "HOST[:PORT]")]
    host: Option<String>,
    /// HOST speaks TLS from the first octet.
    #[arg(long, requires = "host", conflicts_with = "starttls")]
    tls: bool,
    /// Use STARTTLS where it is offered.
    #[arg(long)]
    starttls: bool,
    /// A domain whose mailboxes are at the server; may be given several times. By default those of the own configuration, or for
    /// HOST the name it calls itself and the name above that.
    #[arg(long = "domain", value_name = "DOMAIN")]
    domains: Vec<Domain>,
    /// The foreign sender.
    #[arg(long, value_name = "ADDRESS", default_value = DEFAULT_SENDER)]
    sender: Address,
    /// The foreign recipient.
    #[arg(long, value_name = "ADDRESS", default_value = DEFAULT_RECIPIENT)]
    recipient: Address,
    /// Really send messages, to a mailbox of yours. One in a domain of the server gets the messages that try to smuggle a second
    /// one; one elsewhere becomes the foreign recipient, and gets what the server should have refused. May be given twice.
    #[arg(long, value_name = "ADDRESS")]
    send: Vec<Address>,
    /// The local address to ask from.
    #[arg(long, value_name = "IP")]
    source: Option<IpAddr>,
    /// What to say in EHLO; by default the address that is asked from.
    #[arg(long, value_name = "NAME", value_parser = Host::parse)]
    helo: Option<Host>,
    /// Between connections; 1s to HOST, none to the own server.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pause: Option<Duration>,
    /// How long to wait for each answer.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse_duration)]
    timeout: Duration,
    /// Show the whole dialogue of each trick.
    #[arg(long, short)]
    verbose: bool,
    /// List the tricks and ask nobody.
    #[arg(long)]
    list: bool,
}

impl Options {
    /// Makes the check.
    pub(super) async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        if self.list {
            session.out.answer(&list(&self.recipient), Listed::text)?;
            return Ok(Exit::Done);
        }
        let tls = ClientTls::new(None).map_err(|error| Failure::Other(error.into()))?;
        let mut report = Report {
            outcome: Outcome::Unreachable,
            sender: self.sender.to_string(),
            recipient: self.recipient.to_string(),
            notes: Vec::new(),
            servers: Vec::new(),
        };
        match &self.host {
            None => self.own(session, &tls, &mut report).await?,
            Some(host) => self.named(host, session, &tls, &mut report).await?,
        }
        let outcomes: Vec<Outcome> = report.servers.iter().map(|server| server.outcome).collect();
        report.outcome = Outcome::of_all(&outcomes);
        session.out.answer(&report, |report, look| report.text(look, self.verbose))?;
        Ok(report.outcome.exit())
    }

    async fn own(&self, session: &Session, tls: &ClientTls, report: &mut Report) -> Result<(), Failure> {
        let mut site = Site::find(session).await?;
        report.notes.append(&mut site.notes);
        let mut domains = if self.domains.is_empty() { site.domains.clone() } else { self.domains.clone() };
        if domains.is_empty() {
            domains = domains_of(&site.hostname);
        }
        if domains.len() > MAX_DOMAINS {
            let left_out = domains.split_off(MAX_DOMAINS).len();
            report.notes.push(format!("{left_out} more domains are not named: name them with --domain"));
        }
        let mail = self.mail(&domains)?;
        report.recipient = mail.foreign.to_string();
        let own = Own { site: &site, domains: &domains, mail: &mail, tls };
        for listener in &site.listeners {
            match self.where_to_ask(listener, &own).await? {
                Some(address) => {
                    let server = self.listener(listener, address, &own, session).await?;
                    report.servers.push(server);
                }
                None => report.notes.push(format!(
                    "not asked: {} {}, which --source cannot reach",
                    listener.kind, listener.address
                )),
            }
        }
        if site.listeners.is_empty() {
            report.notes.push("the server has no listener with a port of its own".to_owned());
        }
        Ok(())
    }

    /// Where a listener is asked: one for all addresses at an address of this machine that has no right to relay, since loopback
    /// often has one. `None`: nowhere.
    async fn where_to_ask(&self, listener: &Listener, own: &Own<'_>) -> Result<Option<SocketAddr>, Failure> {
        if self.source.is_none() {
            for address in listener.other_addresses(&Surroundings::look().own) {
                let right =
                    own.site.right(address.ip(), &listener.kind, &self.sender, &own.mail.foreign).await?;
                if right.is_none() {
                    return Ok(Some(address));
                }
            }
        }
        Ok(listener.reached_from(self.source))
    }

    async fn listener(
        &self,
        listener: &Listener,
        address: SocketAddr,
        own: &Own<'_>,
        session: &Session,
    ) -> Result<Server, Failure> {
        let Own { site, domains, mail, tls } = own;
        let mut server = Server::new(Some(listener.kind.clone()), address.to_string());
        let implicit_tls = listener.kind == "submissions";
        let target = self.target(address, &site.hostname, implicit_tls);
        let opened = match open_patiently(&target, tls).await {
            Ok(opened) => opened,
            Err(lost) => return Ok(lost_server(server, &lost)),
        };
        let source = opened.client.local;
        server.learn(&opened, domains);
        if let Some(doubt) = self.trusted(site, listener, source, &mail.foreign).await? {
            opened.client.quit().await;
            server.doubts.push(doubt);
            server.conclude();
            return Ok(server);
        }
        self.must_be_foreign(site, source, mail).await?;
        let mut consent = mail.consent.clone();
        // Postern takes none of these messages, so nobody is bothered by them.
        consent.here = consent.here.or_else(|| domains.first().map(|domain| format!("postmaster@{domain}")));
        let ground = mail.ground(&self.sender, domains, &site.hostname, address.ip());
        let manner = Manner {
            consent,
            pause: self.pause.unwrap_or_default(),
            verbose: self.verbose,
            now: session.now,
        };
        server.tricks = Course::new(&target, tls, &ground, manner, opened).run().await;
        for finding in &mut server.tricks {
            settle(finding, &ground, site, source, &listener.kind).await;
        }
        server.doubt_addresses();
        server.conclude();
        Ok(server)
    }

    /// Why answers to this address prove nothing about strangers, if so.
    async fn trusted(
        &self,
        site: &Site,
        listener: &Listener,
        source: IpAddr,
        foreign: &Address,
    ) -> Result<Option<String>, Failure> {
        let right = site.right(source, &listener.kind, &self.sender, foreign).await?;
        let Some((rule, fact)) = right else { return Ok(None) };
        let mut advice = "ask from another machine".to_owned();
        for candidate in UNTRUSTED.iter().filter_map(|candidate| candidate.parse::<IpAddr>().ok()) {
            let is_free = site.right(candidate, &listener.kind, &self.sender, foreign).await?.is_none();
            if is_free && source.is_loopback() && listener.address.is_ipv4() {
                advice += &format!(", or from an address that is not trusted: --source {candidate}");
                break;
            }
        }
        let whereby =
            if rule == "trusted network" { "you are in a trusted network" } else { "you may relay" };
        Ok(Some(format!(
            "{whereby}: {fact}. Nothing was tried, since what it may do proves nothing about strangers; {advice}"
        )))
    }

    /// A recipient that is ours would make everything look open.
    async fn must_be_foreign(&self, site: &Site, source: IpAddr, mail: &Mail) -> Result<(), Failure> {
        let explanation = site.explain(source, "mx", "<>", &mail.foreign.to_string()).await?;
        let reason = explanation.stages.last().map(|stage| stage.decision.reason.kind.as_str());
        match reason {
            Some("local-recipient" | "unknown-recipient" | "relay-domain") => Err(Failure::Usage(format!(
                "{} is a recipient that this server takes mail for: --recipient must be at another host",
                mail.foreign
            ))),
            _ => Ok(()),
        }
    }

    async fn named(
        &self,
        named: &str,
        session: &Session,
        tls: &ClientTls,
        report: &mut Report,
    ) -> Result<(), Failure> {
        let (host, port) = host_and_port(named)?;
        let mut server = Server::new(None, named.to_owned());
        let address = match resolve(&host, port, self.source).await {
            Ok(address) => address,
            Err(problem) => {
                server.doubts.push(problem);
                report.servers.push(server);
                return Ok(());
            }
        };
        server.address = address.to_string();
        let target = self.target(address, &host, self.tls);
        let opened = match open_patiently(&target, tls).await {
            Ok(opened) => opened,
            Err(lost) => {
                report.servers.push(lost_server(server, &lost));
                return Ok(());
            }
        };
        let mut domains = self.domains.clone();
        if domains.is_empty() {
            domains = domains_of(&opened.name);
            domains.extend(
                domains_of(&host).into_iter().filter(|domain| !domains.contains(domain)).collect::<Vec<_>>(),
            );
        }
        domains.truncate(MAX_DOMAINS);
        server.learn(&opened, &domains);
        let mail = self.mail(&domains)?;
        report.recipient = mail.foreign.to_string();
        if let Some(doubt) = self.not_its_domains(&target, tls, &domains).await {
            server.doubts.push(doubt);
        }
        let name = if opened.name.is_empty() { host.clone() } else { opened.name.clone() };
        let ground = mail.ground(&self.sender, &domains, &name, address.ip());
        let manner = Manner {
            consent: mail.consent,
            pause: self.pause.unwrap_or(DEFAULT_PAUSE),
            verbose: self.verbose,
            now: session.now,
        };
        server.tricks = Course::new(&target, tls, &ground, manner, opened).run().await;
        server.doubt_addresses();
        server.conclude();
        report.servers.push(server);
        Ok(())
    }

    /// Every mail domain has a postmaster (RFC 5321 §4.5.1). Where the server knows none, what was named as local is not.
    async fn not_its_domains(&self, target: &Target, tls: &ClientTls, domains: &[Domain]) -> Option<String> {
        let mut opened = open_patiently(target, tls).await.ok()?;
        let client = &mut opened.client;
        // Whoever refuses the sender says nothing about domains.
        let mut is_any = !client.command(&format!("MAIL FROM:<{}>", self.sender)).await.ok()?.is_success();
        for domain in domains.iter().filter(|_| !is_any).collect::<Vec<_>>() {
            is_any |= !client.command(&format!("RCPT TO:<postmaster@{domain}>")).await.ok()?.is_permanent();
        }
        opened.client.quit().await;
        (!is_any).then(|| {
            let names: Vec<String> = domains.iter().map(ToString::to_string).collect();
            format!(
                "the server does not know postmaster at {}: the tricks that need a domain of the server prove little; name \
                 one with --domain",
                names.join(" or ")
            )
        })
    }

    fn target(&self, address: SocketAddr, host: &str, implicit_tls: bool) -> Target {
        Target {
            address,
            host: host.to_owned(),
            source: self.source,
            implicit_tls,
            starttls: self.starttls,
            helo: self.helo.as_ref().map(ToString::to_string),
            patience: self.timeout,
        }
    }

    /// Who may get messages, and who is the foreign recipient.
    fn mail(&self, domains: &[Domain]) -> Result<Mail, Failure> {
        let is_here = |address: &&Address| address.domain().is_some_and(|domain| domains.contains(domain));
        let here: Vec<&Address> = self.send.iter().filter(is_here).collect();
        let elsewhere: Vec<&Address> = self.send.iter().filter(|address| !is_here(address)).collect();
        if here.len() > 1 || elsewhere.len() > 1 {
            let names: Vec<String> = domains.iter().map(ToString::to_string).collect();
            return Err(Failure::Usage(format!(
                "--send takes one address in a domain of the server ({}) and one elsewhere",
                names.join(", ")
            )));
        }
        let foreign = elsewhere.first().copied().unwrap_or(&self.recipient).clone();
        if is_here(&&foreign) || foreign.domain().is_none() {
            return Err(Failure::Usage(format!(
                "--recipient {foreign}: name an address in a domain of another host"
            )));
        }
        let consent = Consent {
            here: here.first().map(ToString::to_string),
            elsewhere: !elsewhere.is_empty(),
            may_arrive: !here.is_empty(),
        };
        Ok(Mail { foreign, consent })
    }
}

/// What is the same for all listeners of the own server.
struct Own<'a> {
    site: &'a Site,
    domains: &'a [Domain],
    mail: &'a Mail,
    tls: &'a ClientTls,
}

/// Where test mail goes.
struct Mail {
    foreign: Address,
    consent: Consent,
}

impl Mail {
    fn ground(&self, sender: &Address, domains: &[Domain], host: &str, address: IpAddr) -> Ground {
        Ground {
            sender: sender.clone(),
            recipient: self.foreign.clone(),
            domains: domains.to_vec(),
            host: host.to_owned(),
            address,
        }
    }
}

impl Server {
    fn learn(&mut self, opened: &Opened, domains: &[Domain]) {
        self.name = Some(opened.name.clone());
        self.source = Some(opened.client.local.to_string());
        self.tls = opened.client.is_secured();
        self.domains = domains.iter().map(ToString::to_string).collect();
    }

    /// A server that refuses the addresses of the test has not been asked about relaying.
    fn doubt_addresses(&mut self) {
        let plain = self.tricks.iter().find(|finding| finding.trick == "foreign-recipient");
        if let Some(reply) =
            plain.filter(|plain| is_about_addresses(&plain.answer)).and_then(|p| p.answer.reply.clone())
        {
            self.doubts.push(format!(
                "the test addresses were refused, not the relaying ({reply}): give addresses that exist with --sender and \
                 --recipient"
            ));
        }
        let untried = self.tricks.iter().filter(|finding| finding.answer.verdict == Verdict::NotTried);
        if untried.clone().any(|finding| finding.trick.starts_with("smuggle")) {
            let note = "not everything about smuggling was tried: that sends messages, so it needs --send";
            self.notes.push(note.to_owned());
        }
    }
}

/// A server that cannot be asked. One that answers and does not want to talk has proved nothing.
fn lost_server(mut server: Server, lost: &Lost) -> Server {
    server.outcome = match lost {
        Lost::Io(_) | Lost::Silent(_) => Outcome::Unreachable,
        Lost::Closed | Lost::Garbled(_) | Lost::Dismissed(_) => Outcome::Doubtful,
    };
    server.doubts.push(lost.to_string());
    server
}

/// The own rules know what an address that was taken as local means.
async fn settle(finding: &mut Finding, ground: &Ground, site: &Site, source: IpAddr, listener: &str) {
    if finding.answer.verdict != Verdict::AcceptedAsLocal {
        return;
    }
    let tricks = ground.tricks();
    let same = |trick: &&super::tricks::Trick| {
        trick.name == finding.trick && trick.domain.as_ref().map(ToString::to_string) == finding.domain
    };
    let Some(Act::Envelope(envelope)) = tricks.iter().find(same).map(|trick| &trick.act) else { return };
    let Some(mailboxes) = site.local_mailboxes(source, listener, &envelope.recipient).await else { return };
    let foreign = ground.recipient.folded();
    if mailboxes.is_empty() || mailboxes.iter().any(|mailbox| mailbox.to_lowercase() == foreign) {
        return;
    }
    let meaning = format!("a recipient of this server: it goes to {}", mailboxes.join(", "));
    let reply = finding.answer.reply.take();
    finding.answer =
        Answer { verdict: Verdict::Local, stage: Some(Stage::Rcpt), reply, meaning: Some(meaning) };
}

/// A name and the name above it, as long as that is no top-level domain.
fn domains_of(name: &str) -> Vec<Domain> {
    // Addresses look like names: no top-level domain is a number (RFC 1123 §2.1).
    let is_address = name.parse::<IpAddr>().is_ok();
    let Some(name) = Domain::parse(name).ok().filter(|_| !is_address) else { return Vec::new() };
    let above = name.as_str().split_once('.').map(|(_, above)| above).filter(|above| above.contains('.'));
    let above = above.and_then(|above| Domain::parse(above).ok());
    // A single label is no domain that mail is for.
    let name = Some(name).filter(|name| name.as_str().contains('.'));
    above.into_iter().chain(name).collect()
}

/// `host`, `host:25`, `192.0.2.1:25`, `2001:db8::1`, `[2001:db8::1]:25`.
fn host_and_port(text: &str) -> Result<(String, u16), Failure> {
    const SMTP: u16 = 25;
    if let Ok(ip) = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return Ok((ip.to_string(), SMTP));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok((address.ip().to_string(), address.port()));
    }
    let usage = || Failure::Usage(format!("{text:?}: write HOST or HOST:PORT"));
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().map_err(|_| usage())?),
        None => (text, SMTP),
    };
    Domain::parse_tolerant(host).map_err(|_| usage())?;
    Ok((host.to_owned(), port))
}

/// The first address of the family that we ask from.
async fn resolve(host: &str, port: u16, source: Option<IpAddr>) -> Result<SocketAddr, String> {
    let found = tokio::net::lookup_host((host, port)).await.map_err(|error| format!("{host}: {error}"))?;
    let fits = |address: &SocketAddr| source.is_none_or(|source| source.is_ipv4() == address.is_ipv4());
    let found: Vec<SocketAddr> = found.collect();
    let first = found.iter().find(|address| fits(address));
    first.copied().ok_or_else(|| format!("{host} has no address of the family of --source"))
}

/// The answer to --list.
#[derive(Debug, Serialize)]
struct Listed {
    tricks: Vec<ListedTrick>,
}

#[derive(Debug, Serialize)]
struct ListedTrick {
    trick: &'static str,
    explanation: &'static str,
}

impl Listed {
    fn text(&self, _look: Look) -> String {
        output::pairs(
            "",
            self.tricks.iter().map(|listed| (listed.trick, Some(listed.explanation.to_owned()))),
        )
    }
}

/// The tricks with what they try.
fn list(recipient: &Address) -> Listed {
    let ground = Ground {
        sender: recipient.clone(),
        recipient: recipient.clone(),
        domains: Domain::parse("proseware.test").into_iter().collect(),
        host: "mail.proseware.test".to_owned(),
        address: IpAddr::from([192, 0, 2, 1]),
    };
    let tricks = ground.tricks().into_iter();
    Listed { tricks: tricks.map(|t| ListedTrick { trick: t.name, explanation: t.explanation }).collect() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn options(arguments: &[&str]) -> Options {
        Line::try_parse_from([&["x"], arguments].concat()).unwrap().options
    }

    fn domain(name: &str) -> Domain {
        name.parse().unwrap()
    }

    #[test]
    fn hosts_are_read_with_and_without_port() {
        let read = |text: &str| host_and_port(text).ok();
        assert_eq!(read("mx.adatum.test"), Some(("mx.adatum.test".to_owned(), 25)));
        assert_eq!(read("mx.adatum.test:2525"), Some(("mx.adatum.test".to_owned(), 2525)));
        assert_eq!(read("192.0.2.1:26"), Some(("192.0.2.1".to_owned(), 26)));
        assert_eq!(read("2001:db8::1"), Some(("2001:db8::1".to_owned(), 25)));
        assert_eq!(read("[2001:db8::1]"), Some(("2001:db8::1".to_owned(), 25)));
        assert_eq!(read("[2001:db8::1]:26"), Some(("2001:db8::1".to_owned(), 26)));
        assert_eq!(read("mx.adatum.test:smtp"), None);
        assert_eq!(read("a b"), None);
    }

    #[test]
    fn the_domain_of_a_host_is_guessed() {
        assert_eq!(
            domains_of("mail.proseware.test"),
            [domain("proseware.test"), domain("mail.proseware.test")]
        );
        assert_eq!(domains_of("proseware.test"), [domain("proseware.test")]);
        assert_eq!(domains_of("localhost"), []);
        assert_eq!(domains_of("[192.0.2.1]"), []);
        assert_eq!(domains_of("192.0.2.1"), []);
    }

    #[test]
    fn mail_is_sent_only_to_who_was_named() {
        let ours = [domain("proseware.test")];
        let mail = options(&["h"]).mail(&ours).unwrap();
        assert_eq!(mail.foreign.to_string(), DEFAULT_RECIPIENT);
        assert!(!mail.consent.elsewhere && mail.consent.here.is_none() && !mail.consent.may_arrive);
        let both = ["h", "--send", "me@proseware.test", "--send", "me@adatum.test"];
        let mail = options(&both).mail(&ours).unwrap();
        assert_eq!(mail.foreign.to_string(), "me@adatum.test");
        assert!(mail.consent.elsewhere && mail.consent.may_arrive);
        assert_eq!(mail.consent.here.as_deref(), Some("me@proseware.test"));
    }

    #[test]
    fn a_recipient_of_the_server_is_no_foreign_one() {
        let ours = [domain("proseware.test")];
        assert!(options(&["h", "--recipient", "a@proseware.test"]).mail(&ours).is_err());
        assert!(options(&["h", "--recipient", "a@[192.0.2.1]"]).mail(&ours).is_err());
        assert!(options(&["h", "--send", "a@b.test", "--send", "c@b.test"]).mail(&ours).is_err());
    }

    #[test]
    fn options_for_another_host_need_one() {
        assert!(Line::try_parse_from(["x", "--tls"]).is_err());
        assert!(Line::try_parse_from(["x", "h", "--tls", "--starttls"]).is_err());
        assert!(Line::try_parse_from(["x", "h", "--sender", "nobody"]).is_err());
    }
}
