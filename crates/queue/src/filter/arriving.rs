//! Which messages that arrive: the same grammar, as far as a message that is not in the queue yet has the facts.

use std::cell::OnceCell;
use std::net::IpAddr;
use std::time::SystemTime;

use postern_smtp::{Address, Domain, ReversePath};

use super::{BadFilter, Conditions, EnvelopeFacts, Filter, Matcher, Pattern, account, unfolded};
use crate::envelope::{Envelope, Origin, Recipient};

/// A message on its way in. What costs something to find out is found out once, and only if a condition asks.
pub(crate) struct Arriving<'a> {
    sender: &'a ReversePath,
    origin: &'a Origin,
    client: Option<IpAddr>,
    recipients: &'a [Recipient],
    content: Option<Content<'a>>,
    folded_sender: OnceCell<String>,
    named: OnceCell<Named<'a>>,
    fields: OnceCell<Vec<(String, String)>>,
}

/// What is known only at the end of a message.
struct Content<'a> {
    size: u64,
    message_id: Option<&'a str>,
    header: &'a dyn Fn() -> Vec<u8>,
}

/// Who is named as recipient, in order, to be looked up: a message may have thousands, and so may there be conditions.
#[derive(Default)]
struct Named<'a> {
    /// In lower case.
    addresses: Vec<String>,
    domains: Vec<&'a str>,
}

impl<'a> Arriving<'a> {
    /// Before the content is known: `recipients` are those that one RCPT stands for.
    pub(crate) fn recipients(
        sender: &'a ReversePath,
        origin: &'a Origin,
        client: Option<IpAddr>,
        recipients: &'a [Recipient],
    ) -> Self {
        Self {
            sender,
            origin,
            client,
            recipients,
            content: None,
            folded_sender: OnceCell::new(),
            named: OnceCell::new(),
            fields: OnceCell::new(),
        }
    }

    /// A message that is complete; `header` is asked for when a condition looks at it.
    pub(crate) fn message(envelope: &'a Envelope, header: &'a dyn Fn() -> Vec<u8>) -> Self {
        let Envelope { reverse_path, origin, client, recipients, size, message_id, .. } = envelope;
        let content = Content { size: *size, message_id: message_id.as_deref(), header };
        Self { content: Some(content), ..Self::recipients(reverse_path, origin, *client, recipients) }
    }

    /// Whether this server wrote it.
    pub(crate) fn is_own(&self) -> bool {
        *self.origin == Origin::Own
    }

    /// Whether a report about it would go to one of our own users.
    pub(crate) fn is_from_a_user(&self) -> bool {
        matches!(self.origin, Origin::Login(_) | Origin::TrustedNetwork(_) | Origin::Granted(_))
            && self.sender.address().is_some()
    }

    fn named(&self) -> &Named<'a> {
        self.named.get_or_init(|| {
            let mut named = Named::default();
            let addresses = self.recipients.iter().flat_map(|r| [Some(&r.address), r.given.as_ref()]);
            for address in addresses.flatten() {
                named.addresses.push(address.folded());
                named.domains.extend(address.domain().map(Domain::as_str));
            }
            named.addresses.sort_unstable();
            named.domains.sort_unstable();
            named.domains.dedup();
            named
        })
    }

    fn fields(&self) -> &[(String, String)] {
        self.fields.get_or_init(|| {
            let Some(content) = &self.content else {
                return Vec::new();
            };
            let header = (content.header)();
            let header = String::from_utf8_lossy(&header);
            unfolded(&header).into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
        })
    }

    fn size(&self) -> u64 {
        self.content.as_ref().map_or(0, |content| content.size)
    }
}

impl EnvelopeFacts for Arriving<'_> {
    fn is_sender(&self, pattern: &Pattern) -> bool {
        match (pattern, self.sender.address()) {
            (Pattern::Null, sender) => sender.is_none(),
            (Pattern::Domain(domain), Some(sender)) => sender.domain() == Some(domain),
            (Pattern::Address(folded), Some(sender)) => {
                self.folded_sender.get_or_init(|| Address::folded(sender)) == folded
            }
            (_, None) => false,
        }
    }

    fn has_recipient(&self, pattern: &Pattern) -> bool {
        match pattern {
            Pattern::Null => false,
            Pattern::Domain(domain) => self.named().domains.binary_search(&domain.as_str()).is_ok(),
            Pattern::Address(folded) => self.named().addresses.binary_search(folded).is_ok(),
        }
    }

    fn account(&self) -> Option<&str> {
        account(self.origin)
    }

    fn client(&self) -> Option<IpAddr> {
        self.client
    }

    fn has_null_sender(&self) -> bool {
        self.sender.address().is_none()
    }

    fn message_id(&self) -> Option<&str> {
        self.content.as_ref().and_then(|content| content.message_id)
    }
}

impl Matcher {
    /// Reads a filter for messages that arrive.
    ///
    /// # Errors
    /// [`BadFilter`]: as [`Matcher::new`], and for conditions on what only a queued message has.
    pub(crate) fn for_arrivals(filter: &Filter) -> Result<Self, BadFilter> {
        // Nothing that is left is about the time.
        let matcher = Self::new(filter, SystemTime::UNIX_EPOCH)?;
        all_known_at_arrival(filter)?;
        Ok(matcher)
    }

    /// Whether the message is one of those.
    pub(crate) fn takes(&self, arriving: &Arriving<'_>) -> bool {
        self.conditions.takes(arriving) && (self.headers.is_empty() || self.matches_fields(arriving.fields()))
    }

    /// Whether it can be said of each recipient by itself when RCPT names it: nothing of the content counts, and not which
    /// recipients a message has together.
    pub(crate) fn is_about_recipients(&self) -> bool {
        !self.looks_at_content()
            && self.conditions.recipients_wanted() <= 1
            && self.conditions.negations() <= 1
    }

    /// Whether something is asked that is known only at the end of a message.
    pub(crate) fn looks_at_content(&self) -> bool {
        !self.headers.is_empty() || self.conditions.looks_at_content()
    }

    /// Regular expressions for the header.
    pub(crate) fn header_tests(&self) -> usize {
        self.headers.len()
    }
}

impl Conditions {
    fn takes(&self, arriving: &Arriving<'_>) -> bool {
        (self.min_size..=self.max_size).contains(&arriving.size())
            && self.matches_envelope(arriving)
            && self.also.iter().all(|also| also.takes(arriving))
            && !self.not.iter().any(|not| not.takes(arriving))
    }

    fn looks_at_content(&self) -> bool {
        let has_size = self.min_size > 0 || self.max_size < u64::MAX;
        has_size
            || self.message_id.is_some()
            || self.also.iter().chain(&self.not).any(Conditions::looks_at_content)
    }

    /// Conditions that a recipient must fulfil, each maybe another one.
    fn recipients_wanted(&self) -> usize {
        let own = usize::from(self.rcpt.is_some()) + usize::from(self.rcpt_domain.is_some());
        own + self.also.iter().map(Conditions::recipients_wanted).sum::<usize>()
    }

    /// How deep negations are nested: one inside another is a condition that must hold again.
    fn negations(&self) -> usize {
        let not = self.not.iter().map(|not| 1 + not.negations());
        not.chain(self.also.iter().map(Conditions::negations)).max().unwrap_or(0)
    }
}

/// Refuses what a message that is not queued yet does not have.
fn all_known_at_arrival(filter: &Filter) -> Result<(), BadFilter> {
    // Every field is named, so that a new one is decided about here.
    let Filter {
        ids,
        destination,
        state,
        code,
        error,
        older,
        newer,
        next_within,
        next_beyond,
        min_attempts,
        max_attempts,
        min_priority,
        max_priority,
        held_by,
        also,
        not,
        sender: _,
        rcpt: _,
        rcpt_domain: _,
        account: _,
        client_ip: _,
        header: _,
        min_size: _,
        max_size: _,
        dsn: _,
        message_id: _,
    } = filter;
    let unknown = [
        ("a queue id", !ids.is_empty(), "it is new"),
        ("a destination", destination.is_some(), "that is found when it is delivered: name its recipients"),
        ("a state", state.is_some(), "it is not queued yet"),
        ("a hold", held_by.is_some(), "it is not queued yet"),
        ("a code", code.is_some(), "nobody has answered yet"),
        ("an error", error.is_some(), "nobody has answered yet"),
        ("an age", older.is_some() || newer.is_some(), "it has just come"),
        ("a next attempt", next_within.is_some() || next_beyond.is_some(), "it was never tried"),
        ("attempts", min_attempts.is_some() || max_attempts.is_some(), "it was never tried"),
        (
            "a priority",
            min_priority.is_some() || max_priority.is_some(),
            "that follows from its header: name that",
        ),
    ];
    if let Some((what, _, why)) = unknown.into_iter().find(|(_, is_asked, _)| *is_asked) {
        return Err(BadFilter(format!(
            "{what} cannot be a condition of a rule, which looks at a message when it comes: {why}. Rules know sender, \
             recipients, account, client address, size, Message-ID and header"
        )));
    }
    also.iter().chain(not).try_for_each(all_known_at_arrival)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::filter::HeaderPattern;
    use crate::messages::tests::envelope;

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    fn not(filter: Filter) -> Filter {
        Filter { not: vec![filter], ..Filter::default() }
    }

    fn header(pattern: &str) -> Filter {
        let header = HeaderPattern { name: "Subject".to_owned(), pattern: pattern.to_owned() };
        Filter { header: Some(header), ..Filter::default() }
    }

    /// From alice, by her login, to r0 and r1, of 100 octets.
    fn arriving() -> Envelope {
        let mut envelope = Envelope {
            origin: Origin::Login("alice".to_owned()),
            client: Some("192.0.2.7".parse().unwrap()),
            message_id: some("1@proseware.test"),
            ..envelope(2)
        };
        envelope.recipients[0].given = Some(Address::parse("Info@Proseware.Test").unwrap());
        envelope
    }

    fn takes(filter: &Filter) -> bool {
        let envelope = arriving();
        let header = || b"Received: x\r\nSUBJECT: Win\r\n a prize\r\n\r\nSubject: no\r\n".to_vec();
        Matcher::for_arrivals(filter).unwrap().takes(&Arriving::message(&envelope, &header))
    }

    #[test]
    fn every_fact_of_an_arriving_message_can_be_asked_for() {
        let any = Filter::default;
        for (filter, expected) in [
            (any(), true),
            (Filter { sender: some("Alice@proseware.test"), ..any() }, true),
            (Filter { sender: some("@proseware.test"), ..any() }, true),
            (Filter { sender: some("@adatum.test"), ..any() }, false),
            (Filter { sender: some("<>"), ..any() }, false),
            (Filter { dsn: true, ..any() }, false),
            (Filter { rcpt: some("r1@adatum.test"), ..any() }, true),
            (Filter { rcpt: some("info@proseware.test"), ..any() }, true),
            (Filter { rcpt: some("r2@adatum.test"), ..any() }, false),
            (Filter { rcpt_domain: some("adatum.test"), ..any() }, true),
            (Filter { rcpt_domain: some("client.test"), ..any() }, false),
            (Filter { account: some("alice"), ..any() }, true),
            (Filter { account: some("bob"), ..any() }, false),
            (Filter { client_ip: some("192.0.2.0/24"), ..any() }, true),
            (Filter { client_ip: some("::ffff:192.0.2.7"), ..any() }, true),
            (Filter { client_ip: some("192.0.2.8"), ..any() }, false),
            (Filter { min_size: Some(100), ..any() }, true),
            (Filter { max_size: Some(99), ..any() }, false),
            (Filter { message_id: some("1@proseware.test"), ..any() }, true),
            (header("^Win +a prize$"), true),
            (header("no"), false),
            (not(header("no")), true),
            (not(Filter { account: some("alice"), ..any() }), false),
            (Filter { sender: some("@proseware.test"), ..not(Filter { dsn: true, ..any() }) }, true),
        ] {
            assert_eq!(takes(&filter), expected, "{filter:?}");
        }
    }

    #[test]
    fn what_only_a_queued_message_has_is_no_condition() {
        let any = Filter::default;
        for filter in [
            Filter { ids: vec!["0000000000007".to_owned()], ..any() },
            Filter { destination: some("mx adatum.test"), ..any() },
            Filter { state: some("held"), ..any() },
            Filter { code: some("4.7"), ..any() },
            Filter { error: some("x"), ..any() },
            Filter { older: Some(1), ..any() },
            Filter { newer: Some(1), ..any() },
            Filter { next_within: Some(1), ..any() },
            Filter { next_beyond: Some(1), ..any() },
            Filter { min_attempts: Some(1), ..any() },
            Filter { max_attempts: Some(1), ..any() },
            Filter { min_priority: Some(1), ..any() },
            Filter { max_priority: Some(1), ..any() },
            Filter { held_by: Some(1), ..any() },
        ] {
            for filter in [filter.clone(), not(filter)] {
                let error = Matcher::for_arrivals(&filter).unwrap_err();
                assert!(error.0.contains("cannot be a condition of a rule"), "{filter:?}: {error}");
            }
        }
        assert!(Matcher::for_arrivals(&Filter { sender: some("nobody"), ..any() }).is_err());
    }

    #[test]
    fn what_needs_the_content_or_several_recipients_waits_for_the_end() {
        let any = Filter::default;
        let rcpt = |text: &str| Filter { rcpt: some(text), ..any() };
        for (filter, expected) in [
            (any(), true),
            (Filter { sender: some("<>"), rcpt_domain: some("adatum.test"), ..any() }, true),
            (Filter { rcpt_domain: some("adatum.test"), ..not(rcpt("bob@adatum.test")) }, true),
            (Filter { also: vec![rcpt("b@adatum.test")], ..rcpt("a@adatum.test") }, false),
            (not(not(rcpt("a@adatum.test"))), false),
            (header("x"), false),
            (Filter { min_size: Some(1), ..any() }, false),
            (not(Filter { message_id: some("x"), ..any() }), false),
        ] {
            let matcher = Matcher::for_arrivals(&filter).unwrap();
            assert_eq!(matcher.is_about_recipients(), expected, "{filter:?}");
        }
    }
}
