//! The known tricks: each with a name, what it tries, and what is said.

use std::net::{IpAddr, Ipv4Addr};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use postern_smtp::{Address, Domain, Host};

use super::smuggling::{self, Sequence};

/// What the tricks are made of.
#[derive(Debug, Clone)]
pub(super) struct Ground {
    /// A sender that is not the server's.
    pub(super) sender: Address,
    /// A recipient at another host.
    pub(super) recipient: Address,
    /// Domains of the server.
    pub(super) domains: Vec<Domain>,
    /// What the server calls itself.
    pub(super) host: String,
    /// The address of the server.
    pub(super) address: IpAddr,
}

/// One trick.
#[derive(Debug, Clone)]
pub(super) struct Trick {
    pub(super) name: &'static str,
    /// The domain of the server that it names.
    pub(super) domain: Option<Domain>,
    pub(super) explanation: &'static str,
    pub(super) act: Act,
}

/// What is done.
#[derive(Debug, Clone)]
pub(super) enum Act {
    /// MAIL and RCPT.
    Envelope(Envelope),
    /// Octets in front of everything, then MAIL and RCPT.
    Proxy(Vec<u8>, Envelope),
    /// A command in the same packet as STARTTLS, to be executed under TLS.
    Injection,
    /// A command line that ends with these octets.
    LineEnd(&'static [u8]),
    /// A message that others might take for two.
    Smuggle(&'static Sequence),
}

/// A transaction up to RCPT.
#[derive(Debug, Clone)]
pub(super) struct Envelope {
    /// What comes before it.
    pub(super) prelude: Option<Prelude>,
    /// Behind `MAIL FROM:`.
    pub(super) sender: String,
    /// Behind `RCPT TO:`.
    pub(super) recipient: String,
    /// What it means when the recipient is taken.
    pub(super) means: Means,
    /// The extension without which it cannot be said.
    pub(super) needs: Option<&'static str>,
}

/// What it means when a recipient is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Means {
    /// Mail goes to the foreign recipient, as its own address says.
    Relay,
    /// Mail goes to another foreign host, which nobody here has a mailbox at: nothing may be sent there.
    RelayElsewhere,
    /// The address can be read as one of the server's own.
    LocalOrRelay,
}

/// What comes before MAIL, or between MAIL and RCPT.
#[derive(Debug, Clone)]
pub(super) enum Prelude {
    /// EHLO with another name.
    Hello(String),
    /// A command that a stranger should not be believed.
    Claim(String),
    /// A login in clear text.
    LoginInClear(String),
    /// A recipient that is the server's own, before the foreign one.
    Recipient(String),
}

impl Envelope {
    fn new(sender: impl Into<String>, recipient: impl Into<String>, means: Means) -> Self {
        Self { prelude: None, sender: sender.into(), recipient: recipient.into(), means, needs: None }
    }

    fn after(self, prelude: Prelude) -> Self {
        Self { prelude: Some(prelude), ..self }
    }

    fn needing(self, keyword: &'static str) -> Self {
        Self { needs: Some(keyword), ..self }
    }
}

impl Ground {
    /// All of them, plain ones first. Those that name a domain of the server come once for each.
    pub(super) fn tricks(&self) -> Vec<Trick> {
        let mut all = self.senders();
        all.extend(self.recipients());
        all.extend(self.foreign_spellings());
        for domain in &self.domains {
            let own = self.of_domain(domain).into_iter();
            all.extend(own.map(|trick| Trick { domain: Some(domain.clone()), ..trick }));
        }
        all.extend(self.claims());
        all.extend(self.octets());
        all
    }

    fn from(&self) -> String {
        format!("<{}>", self.sender)
    }

    fn to(&self) -> String {
        format!("<{}>", self.recipient)
    }

    /// `user` and `domain` of the foreign recipient.
    fn parts(&self) -> (String, String) {
        (self.recipient.local.to_string(), self.recipient.host.to_string())
    }

    /// From a sender to the foreign recipient.
    fn sent_by(&self, name: &'static str, explanation: &'static str, sender: &str) -> Trick {
        envelope(name, explanation, Envelope::new(sender, self.to(), Means::Relay))
    }

    /// From the foreign sender to a recipient.
    fn sent_to(
        &self,
        name: &'static str,
        explanation: &'static str,
        recipient: String,
        means: Means,
    ) -> Trick {
        envelope(name, explanation, Envelope::new(self.from(), recipient, means))
    }

    fn senders(&self) -> Vec<Trick> {
        let literal = format!("<postmaster@{}>", Host::Literal(self.address));
        vec![
            self.sent_by("foreign-recipient", "a stranger writes to a stranger", &self.from()),
            self.sent_by("null-sender", "the sender of reports, who needs no address", "<>"),
            self.sent_by(
                "host-sender",
                "a sender at the server itself",
                &format!("<postmaster@{}>", self.host),
            ),
            self.sent_by("literal-sender", "a sender at the address of the server", &literal),
            self.sent_by("localhost-sender", "a sender at localhost", "<root@localhost>"),
            self.sent_by("bare-sender", "a sender without a domain", "<postmaster>"),
        ]
    }

    /// Routes in the local part with no domain, or the server's own host, behind them.
    fn recipients(&self) -> Vec<Trick> {
        use Means::LocalOrRelay;
        let (user, domain) = self.parts();
        let (host, literal) = (&self.host, Host::Literal(self.address));
        let to = |name, explanation, path| self.sent_to(name, explanation, path, LocalOrRelay);
        vec![
            to("percent-bare", "user%domain without a local domain", format!("<{user}%{domain}>")),
            to("percent-host", "user%domain at the server itself", format!("<{user}%{domain}@{host}>")),
            to(
                "percent-literal",
                "user%domain at the address of the server",
                format!("<{user}%{domain}@{literal}>"),
            ),
            to("quoted-bare", "an address in quotes, without a domain", format!("<\"{}\">", self.recipient)),
            to("bang-bare", "domain!user, as UUCP wrote it", format!("<{domain}!{user}>")),
        ]
    }

    /// The foreign recipient in other words.
    fn foreign_spellings(&self) -> Vec<Trick> {
        use Means::Relay;
        let (user, domain) = self.parts();
        let to = |name, explanation, path: String| self.sent_to(name, explanation, path, Relay);
        let elsewhere =
            |name, explanation, path| self.sent_to(name, explanation, path, Means::RelayElsewhere);
        let utf8 = format!("{} SMTPUTF8", self.from());
        let international = |name, explanation, path: String| {
            envelope(name, explanation, Envelope::new(&*utf8, path, Relay).needing("SMTPUTF8"))
        };
        vec![
            to("trailing-dot", "a final dot behind the domain", format!("<{user}@{domain}.>")),
            to("mixed-case", "the domain in mixed case", format!("<{user}@{}>", mixed_case(&domain))),
            to("quoted-user", "the local part in quotes", format!("<\"{user}\"@{domain}>")),
            elsewhere(
                "quoted-specials",
                "quotes, brackets and an @ inside a quoted local part",
                format!("<\"relay \\\"test\\\"@<>,;:\\\\\"@{domain}>"),
            ),
            to("no-brackets", "no angle brackets", format!("{user}@{domain}")),
            to("spaces", "spaces around the address", format!(" < {user}@{domain} >")),
            to("nested-brackets", "angle brackets inside angle brackets", format!("<<{user}@{domain}>>")),
            to("comment", "a comment behind the domain", format!("<{user}@{domain}(postmaster)>")),
            elsewhere("foreign-literal", "another host's IPv4 address", format!("<{user}@[192.0.2.25]>")),
            elsewhere(
                "foreign-literal-6",
                "another host's IPv6 address",
                format!("<{user}@[IPv6:2001:db8::25]>"),
            ),
            to("route-foreign", "a source route through other hosts", {
                format!("<@a.{domain},@b.{domain}:{user}@{domain}>")
            }),
            international(
                "full-width-domain",
                "the domain in full-width letters, which mean the same name",
                format!("<{user}@{}>", full_width(&domain)),
            ),
            international(
                "ideographic-dot",
                "another character for the dot in the domain",
                format!("<{user}@{}>", domain.replace('.', "\u{3002}")),
            ),
        ]
    }

    /// Those that name a domain of the server.
    fn of_domain(&self, local: &Domain) -> Vec<Trick> {
        let mut all = self.routes_through(local);
        all.extend(self.looking_like(local));
        let ours = format!("<postmaster@{local}>");
        let plain = || Envelope::new(self.from(), self.to(), Means::Relay);
        all.extend([
            self.sent_by("local-sender", "a sender in a domain of the server", &ours),
            envelope(
                "auth-parameter",
                "MAIL says that somebody local has logged in elsewhere (RFC 4954 section 5)",
                Envelope::new(format!("{} AUTH=postmaster@{local}", self.from()), self.to(), Means::Relay)
                    .needing("AUTH"),
            ),
            envelope(
                "second-recipient",
                "a foreign recipient behind one of the server's own",
                plain().after(Prelude::Recipient(ours.clone())),
            ),
            envelope(
                "local-helo",
                "a client that calls itself by a domain of the server",
                plain().after(Prelude::Hello(local.to_string())),
            ),
            envelope(
                "orcpt-local",
                "an original recipient of the server behind a foreign one (RFC 3461)",
                Envelope::new(
                    self.from(),
                    format!("{} NOTIFY=NEVER ORCPT=rfc822;postmaster@{local}", self.to()),
                    Means::Relay,
                )
                .needing("DSN"),
            ),
        ]);
        all
    }

    fn routes_through(&self, local: &Domain) -> Vec<Trick> {
        use Means::{LocalOrRelay, Relay};
        let (user, domain) = self.parts();
        let own = |name, explanation, path| self.sent_to(name, explanation, path, LocalOrRelay);
        let abroad = |name, explanation, path| self.sent_to(name, explanation, path, Relay);
        vec![
            own("percent", "user%domain at a local domain", format!("<{user}%{domain}@{local}>")),
            own("quoted-at", "an address in quotes at a local domain", {
                format!("<\"{}\"@{local}>", self.recipient)
            }),
            own("double-at", "two @, the local domain last", format!("<{user}@{domain}@{local}>")),
            abroad(
                "double-at-foreign",
                "two @, the foreign domain last",
                format!("<{user}@{local}@{domain}>"),
            ),
            abroad("route", "a source route through the server", format!("<@{local}:{user}@{domain}>")),
            abroad("route-two", "a source route through the server and another host", {
                format!("<@{local},@{domain}:{user}@{domain}>")
            }),
            own("route-percent", "a source route with user%domain at its end", {
                format!("<@{local}:{user}%{domain}@{local}>")
            }),
            own("bang-at-local", "domain!user at a local domain", format!("<{domain}!{user}@{local}>")),
            own("bang-through-local", "local!domain!user", format!("<{local}!{domain}!{user}>")),
            abroad("bang-foreign", "local!user at a foreign domain", format!("<{local}!{user}@{domain}>")),
            own("two-paths", "two paths in one command", format!("<postmaster@{local}>,<{user}@{domain}>")),
            own("colon-at-local", "user:domain at a local domain", format!("<{user}:{domain}@{local}>")),
            own("nul-in-domain", "NUL between the foreign domain and the local one", {
                format!("<{user}@{domain}\0@{local}>")
            }),
        ]
    }

    /// Foreign domains that a careless comparison takes for the local one.
    fn looking_like(&self, local: &Domain) -> Vec<Trick> {
        let (user, domain) = self.parts();
        let to = |name, explanation, path| self.sent_to(name, explanation, path, Means::RelayElsewhere);
        let mut all = vec![
            to("ends-alike", "a domain that ends with the local one's name", format!("<{user}@x{local}>")),
            to(
                "begins-alike",
                "a domain that begins with the local one",
                format!("<{user}@{local}.{domain}>"),
            ),
        ];
        if let Some(alike) = look_alike(local.as_str()) {
            let path = Envelope::new(
                format!("{} SMTPUTF8", self.from()),
                format!("<{user}@{alike}>"),
                Means::RelayElsewhere,
            );
            all.push(envelope(
                "looks-alike",
                "the local domain with a Cyrillic letter in it, which is another domain",
                path.needing("SMTPUTF8"),
            ));
        }
        all
    }

    /// Who one is, said by oneself.
    fn claims(&self) -> Vec<Trick> {
        let plain = || Envelope::new(self.from(), self.to(), Means::Relay);
        let claim = |name, explanation, command: &str| {
            envelope(name, explanation, plain().after(Prelude::Claim(command.to_owned())))
        };
        let somebody = self.domains.first().map_or(self.host.clone(), ToString::to_string);
        let login =
            |user: &str, password: &str| BASE64_STANDARD.encode(format!("\0{user}@{somebody}\0{password}"));
        vec![
            envelope("localhost-helo", "a client that calls itself localhost", {
                plain().after(Prelude::Hello("localhost".to_owned()))
            }),
            claim(
                "xclient-address",
                "XCLIENT: the connection is said to come from 127.0.0.1",
                "XCLIENT NAME=localhost ADDR=127.0.0.1",
            ),
            claim(
                "xclient-login",
                "XCLIENT: somebody is said to have logged in",
                &format!("XCLIENT LOGIN=postmaster@{somebody}"),
            ),
            claim(
                "xforward",
                "XFORWARD: the message is said to come from 127.0.0.1",
                "XFORWARD NAME=localhost ADDR=127.0.0.1 SOURCE=LOCAL",
            ),
            claim(
                "auth-anonymous",
                "AUTH ANONYMOUS",
                &format!("AUTH ANONYMOUS {}", BASE64_STANDARD.encode("relay")),
            ),
            claim(
                "auth-empty-password",
                "AUTH with an empty password",
                &format!("AUTH PLAIN {}", login("postmaster", "")),
            ),
            envelope("auth-in-clear", "AUTH before TLS, with a made-up login", {
                plain()
                    .after(Prelude::LoginInClear(format!("AUTH PLAIN {}", login("relay-test", "relay-test"))))
            }),
        ]
    }

    /// Octets that are no lines.
    fn octets(&self) -> Vec<Trick> {
        let plain = || Envelope::new(self.from(), self.to(), Means::Relay);
        let plainly = |name, explanation, act| Trick { name, domain: None, explanation, act };
        let mut all = vec![
            plainly(
                "proxy-v1",
                "a PROXY header of version 1: the connection is said to come from 127.0.0.1",
                Act::Proxy(b"PROXY TCP4 127.0.0.1 127.0.0.1 40025 25\r\n".to_vec(), plain()),
            ),
            plainly(
                "proxy-v2",
                "a PROXY header of version 2: the connection is said to come from 127.0.0.1",
                Act::Proxy(proxy_v2(), plain()),
            ),
            plainly(
                "starttls-injection",
                "a command in the same packet as STARTTLS, executed under TLS",
                Act::Injection,
            ),
            plainly("bare-lf-command", "a command line that ends with LF alone", Act::LineEnd(b"\n")),
            plainly("bare-cr-command", "a command line that ends with CR alone", Act::LineEnd(b"\r")),
        ];
        let smuggle = |sequence: &'static Sequence| {
            plainly(
                sequence.name,
                "a second message inside a first one, behind what is no end of data",
                Act::Smuggle(sequence),
            )
        };
        all.extend(smuggling::SEQUENCES.iter().map(smuggle));
        all
    }
}

fn envelope(name: &'static str, explanation: &'static str, envelope: Envelope) -> Trick {
    Trick { name, domain: None, explanation, act: Act::Envelope(envelope) }
}

fn mixed_case(domain: &str) -> String {
    let upper_every_other = |(at, c): (usize, char)| if at % 2 == 0 { c.to_ascii_uppercase() } else { c };
    domain.chars().enumerate().map(upper_every_other).collect()
}

/// Full-width forms of letters and digits, which IDNA maps to the usual ones (UTS 46).
fn full_width(domain: &str) -> String {
    let wide = |c: char| match c {
        '!'..='~' if c != '.' => char::from_u32(u32::from(c) + 0xfee0).unwrap_or(c),
        _ => c,
    };
    domain.chars().map(wide).collect()
}

/// The name with its first letter that looks the same in Cyrillic replaced; `None` where it has none.
fn look_alike(domain: &str) -> Option<String> {
    const ALIKE: [(char, char); 5] = [('o', 'о'), ('e', 'е'), ('a', 'а'), ('p', 'р'), ('c', 'с')];
    let (latin, cyrillic) = ALIKE.into_iter().find(|(latin, _)| domain.contains(*latin))?;
    Some(domain.replacen(latin, &cyrillic.to_string(), 1))
}

/// A header of the PROXY protocol, version 2: a TCP connection over IPv4 from loopback to loopback.
fn proxy_v2() -> Vec<u8> {
    const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
    const PROXY: u8 = 0x21;
    const TCP_OVER_V4: u8 = 0x11;
    let loopback = Ipv4Addr::LOCALHOST.octets();
    let ports = [40025_u16.to_be_bytes(), 25_u16.to_be_bytes()].concat();
    [SIGNATURE, &[PROXY, TCP_OVER_V4], &12_u16.to_be_bytes(), &loopback, &loopback, &ports].concat()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::collections::HashSet;

    use super::*;

    fn ground(domains: &[&str]) -> Ground {
        Ground {
            sender: "relay-test-sender@example.org".parse().unwrap(),
            recipient: "relay-test@example.com".parse().unwrap(),
            domains: domains.iter().map(|domain| domain.parse().unwrap()).collect(),
            host: "mail.proseware.test".to_owned(),
            address: "192.0.2.1".parse().unwrap(),
        }
    }

    #[test]
    fn names_are_unique_and_everything_is_explained() {
        let tricks = ground(&["proseware.test"]).tricks();
        let names: HashSet<&str> = tricks.iter().map(|trick| trick.name).collect();
        assert_eq!(names.len(), tricks.len());
        assert!(tricks.len() > 60, "{}", tricks.len());
        assert!(tricks.iter().all(|trick| trick.explanation.len() > 10));
    }

    #[test]
    fn every_domain_of_the_server_is_named() {
        let tricks = ground(&["proseware.test", "adatum.test"]).tricks();
        let percents: Vec<String> = tricks
            .iter()
            .filter(|trick| trick.name == "percent")
            .filter_map(|trick| match &trick.act {
                Act::Envelope(envelope) => Some(envelope.recipient.clone()),
                _ => None,
            })
            .collect();
        assert_eq!(
            percents,
            ["<relay-test%example.com@proseware.test>", "<relay-test%example.com@adatum.test>"]
        );
        assert!(ground(&[]).tricks().iter().all(|trick| trick.name != "percent"));
    }

    #[test]
    fn a_trick_that_may_send_goes_to_the_named_recipient_only() {
        for trick in ground(&["proseware.test"]).tricks() {
            let Act::Envelope(envelope) = trick.act else { continue };
            if envelope.means != Means::RelayElsewhere {
                let said = envelope.recipient.to_lowercase();
                assert!(said.contains("relay-test") || said.contains("ｅ"), "{}: {said}", trick.name);
            }
        }
    }

    #[test]
    fn spellings_are_what_they_say() {
        assert_eq!(mixed_case("example.com"), "ExAmPlE.CoM");
        assert_eq!(Domain::parse(&full_width("example.com")).unwrap().as_str(), "example.com");
        let alike = look_alike("proseware.test").unwrap();
        assert_ne!(Domain::parse(&alike).unwrap().as_str(), "proseware.test");
        assert_eq!(look_alike("x.de").as_deref(), Some("x.dе"));
        assert_eq!(look_alike("xyz.tv"), None);
        assert_eq!(proxy_v2().len(), 28);
    }
}
