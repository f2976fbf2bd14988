//! The words that other mail systems are known by, for programs and people who look for them.

use postern_config::replies::{Class, Family};
use postern_policy::relay::Reason;
use postern_smtp::EnhancedStatus;

use super::refusal::{Facts, Phrase};

/// What a family says about a reason; `None` where it has no words of its own. `at_auth`: it is the answer to AUTH, which fails
/// with 535 (RFC 4954 §6); commands of an open session fail with 550.
pub(super) fn phrase(
    family: Family,
    class: Class,
    reason: &Reason,
    facts: &Facts,
    at_auth: bool,
) -> Option<Phrase> {
    // AUTH where there is none: what a client must know is how to come back, not that it may not relay.
    if matches!(reason, Reason::LoginNotOffered { .. }) {
        return None;
    }
    // Words about mail that comes too fast, or recipients that are refused, would be untrue of these, and no tag has their code.
    if matches!(reason, Reason::TooManyRecipients { .. } | Reason::NeedsSmtputf8) {
        return None;
    }
    // "Authentication failed" would be untrue of a command that comes later.
    if class == Class::Login && !at_auth && family != Family::Tagged {
        return None;
    }
    let is_about_dns = matches!(
        reason,
        Reason::SpfDoesNotCover { .. } | Reason::DomainNotVerified { .. } | Reason::OwnersLock { .. }
    );
    if let Reason::Blocklisted { lists, .. } = reason
        && family != Family::Tagged
    {
        return blocklisted(family, lists, facts).map(|phrase| phrase.with_reference(facts));
    }
    let phrase = match family {
        Family::Default => None,
        Family::Tagged => return tagged(class, is_about_dns, facts, at_auth),
        Family::Postfix if is_about_dns => None,
        Family::Postfix => postfix(class, facts),
        Family::Sendmail => sendmail(class, facts),
        Family::Exim => exim(class),
        Family::Qmail => qmail(class),
        Family::Authenticate => authenticate(class),
    };
    phrase.map(|phrase| phrase.with_reference(facts))
}

impl Phrase {
    fn new(code: u16, subject: u16, detail: u16, text: impl Into<String>) -> Self {
        let status = EnhancedStatus::new((code / 100) as u8, subject, detail);
        Self { code, status: Some(status), text: text.into() }
    }

    /// As it is known, without an enhanced code.
    fn plain(code: u16, text: impl Into<String>) -> Self {
        Self { code, status: None, text: text.into() }
    }

    fn with_reference(mut self, facts: &Facts) -> Self {
        self.text.push_str(&facts.reference());
        self
    }
}

fn postfix(class: Class, facts: &Facts) -> Option<Phrase> {
    let Facts { address, client, login, .. } = facts;
    Some(match class {
        Class::Relay => Phrase::new(554, 7, 1, format!("<{address}>: Relay access denied")),
        Class::Login => Phrase::new(535, 7, 8, "Error: authentication failed"),
        Class::Sender => {
            let text = format!("<{address}>: Sender address rejected: not owned by user {login}");
            Phrase::new(553, 7, 1, text)
        }
        Class::RecipientUnknown => {
            let text =
                format!("<{address}>: Recipient address rejected: User unknown in local recipient table");
            Phrase::new(550, 1, 1, text)
        }
        Class::Recipient => {
            Phrase::new(554, 7, 1, format!("<{address}>: Recipient address rejected: Access denied"))
        }
        Class::Rate => {
            Phrase::new(450, 7, 1, format!("Error: too much mail from {client}: {}", facts.limit()))
        }
        _ => return None,
    })
}

/// Those that name the list.
fn blocklisted(family: Family, lists: &str, facts: &Facts) -> Option<Phrase> {
    let client = &facts.client;
    match family {
        Family::Postfix => {
            let text = format!("Service unavailable; Client host [{client}] blocked using {lists}");
            Some(Phrase::new(554, 7, 1, text))
        }
        Family::Sendmail => Some(Phrase::new(550, 7, 1, format!("Rejected: {client} listed at {lists}"))),
        _ => None,
    }
}

fn sendmail(class: Class, facts: &Facts) -> Option<Phrase> {
    let Facts { address, .. } = facts;
    Some(match class {
        Class::Relay => Phrase::new(550, 7, 1, format!("<{address}>... Relaying denied")),
        Class::AuthenticationRequired => Phrase::new(530, 7, 0, "Authentication required"),
        Class::Login => Phrase::new(535, 7, 0, "authentication failed"),
        Class::RecipientUnknown => Phrase::new(550, 1, 1, format!("<{address}>... User unknown")),
        Class::Rate => Phrase::new(421, 3, 2, format!("Connection rate limit exceeded. {}", facts.limit())),
        _ => return None,
    })
}

fn exim(class: Class) -> Option<Phrase> {
    Some(match class {
        Class::Relay => Phrase::plain(550, "relay not permitted"),
        Class::Login => Phrase::plain(535, "Incorrect authentication data"),
        Class::RecipientUnknown => Phrase::plain(550, "Unrouteable address"),
        _ => return None,
    })
}

fn qmail(class: Class) -> Option<Phrase> {
    Some(match class {
        Class::Relay => {
            Phrase::plain(553, "sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)")
        }
        Class::RecipientUnknown => Phrase::plain(550, "sorry, no mailbox here by that name (#5.1.1)"),
        _ => return None,
    })
}

fn authenticate(class: Class) -> Option<Phrase> {
    let is_meant = matches!(class, Class::Relay | Class::AuthenticationRequired);
    is_meant.then(|| Phrase::plain(550, "Authentication is required for relay"))
}

/// A tag and a page. Mistyped recipients and DNS that does not answer are nobody's offence: they keep the default words.
fn tagged(class: Class, is_about_dns: bool, facts: &Facts, at_auth: bool) -> Option<Phrase> {
    let tag = match class {
        Class::Sender if is_about_dns => "SPF_INVALID",
        Class::Relay | Class::AuthenticationRequired | Class::Login => "ACL",
        Class::Sender | Class::Header | Class::Recipient => "ACL",
        Class::Rule | Class::Blocklisted => "SPAM",
        Class::Banned | Class::Suspended | Class::Rate => "ABUSE",
        Class::RecipientUnknown | Class::Dns => return None,
    };
    let text = format!("[{tag}] Blocked. See {}", facts.url());
    Some(match class {
        Class::Banned | Class::Rate => Phrase::new(421, 7, 1, text),
        _ if at_auth => Phrase::plain(535, text),
        _ => Phrase::plain(550, text),
    })
}
