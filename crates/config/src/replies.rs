//! `[replies]`: how refusals are worded.

use postern_smtp::EnhancedStatus;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::report::{Report, check_url};
use crate::source::{Findings, Node};

/// How refusals are worded: as a whole (`family`), and for each class of refusals by itself. What programs and people
/// already look for in replies can stay as it was.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Replies {
    /// The wording of all classes that say nothing else. Where a family has no words for a class, the default words stand.
    pub family: Family,
    /// Relaying is refused with 454 4.7.1 instead of a 550: while a server is being moved here, mail that a forgotten setting
    /// refuses waits at the sender instead of bouncing. Take it out again: spammers come back, too.
    pub migrating: bool,
    /// The page that `tagged` replies, and `{url}` where `[report]` is off, point to; `id` and `auth` are added.
    pub report_url: Option<String>,
    /// The client's address is banned for a while. Always a 421.
    pub banned: Wording,
    /// Nobody of ours is at either end: relaying.
    pub relay: Wording,
    /// A login is needed, or tried where it is not offered.
    pub authentication_required: Wording,
    /// A login that does not count: wrong password, wrong address.
    pub login: Wording,
    /// A login that is suspended, disabled or locked.
    pub suspended: Wording,
    /// The sender of the envelope is not the login's, or its domain is not in order.
    pub sender: Wording,
    /// The senders in the header are not the login's, or cannot be read.
    pub header: Wording,
    /// A domain of ours, and nobody has that name.
    pub recipient_unknown: Wording,
    /// A recipient that is refused for another reason.
    pub recipient: Wording,
    /// A standing rule of an operator.
    pub rule: Wording,
    /// The client is on lists in DNS.
    pub blocklisted: Wording,
    /// Too much: rates and quotas. Always a 4xx.
    pub rate: Wording,
    /// DNS did not say what the decision hangs on. Always a 4xx.
    pub dns: Wording,
}

/// One class of refusals.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Wording {
    /// The wording of this class.
    pub family: Option<Family>,
    /// The reply code, 4xx or 5xx; 421 also closes the connection.
    pub code: Option<u16>,
    /// The enhanced status code, such as `5.7.1`; it begins with the digit of the code. An empty text: none.
    pub status: Option<String>,
    /// Words of one's own, in ASCII, with `{address}` (the recipient, else the sender), `{client}`, `{login}`, `{cause}`, `{advice}`,
    /// `{ref}` and `{url}`.
    pub text: Option<String>,
}

/// Families of wording, by the system that is known for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// The address, the cause, what to do, the reference.
    #[default]
    Default,
    /// `554 5.7.1 <bob@adatum.test>: Relay access denied`
    Postfix,
    /// `550 5.7.1 <bob@adatum.test>... Relaying denied`
    Sendmail,
    /// `550 relay not permitted`
    Exim,
    /// `553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)`
    Qmail,
    /// `550 Authentication is required for relay`
    Authenticate,
    /// `550 [ACL] Blocked. See https://reports.example/?id=4QX7-93KD&auth=alice`, with the tags ACL, SPAM, SPF_INVALID and ABUSE; rates
    /// get 421 4.7.1.
    Tagged,
}

/// What refusals have in common, as far as wording goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// The client is banned.
    Banned,
    /// Relaying.
    Relay,
    /// A login is needed.
    AuthenticationRequired,
    /// A login does not count.
    Login,
    /// A login is suspended.
    Suspended,
    /// The sender of the envelope.
    Sender,
    /// The senders in the header.
    Header,
    /// Nobody has that name.
    RecipientUnknown,
    /// The recipient, for another reason.
    Recipient,
    /// A standing rule.
    Rule,
    /// Lists in DNS.
    Blocklisted,
    /// Too much.
    Rate,
    /// DNS did not say.
    Dns,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Banned,
        Self::Relay,
        Self::AuthenticationRequired,
        Self::Login,
        Self::Suspended,
        Self::Sender,
        Self::Header,
        Self::RecipientUnknown,
        Self::Recipient,
        Self::Rule,
        Self::Blocklisted,
        Self::Rate,
        Self::Dns,
    ];

    /// Its key in `[replies]`.
    pub fn key(self) -> &'static str {
        match self {
            Self::Banned => "banned",
            Self::Relay => "relay",
            Self::AuthenticationRequired => "authentication_required",
            Self::Login => "login",
            Self::Suspended => "suspended",
            Self::Sender => "sender",
            Self::Header => "header",
            Self::RecipientUnknown => "recipient_unknown",
            Self::Recipient => "recipient",
            Self::Rule => "rule",
            Self::Blocklisted => "blocklisted",
            Self::Rate => "rate",
            Self::Dns => "dns",
        }
    }

    /// Whether its refusals pass by themselves: a 5xx would bounce mail that only has to wait.
    pub fn is_temporary(self) -> bool {
        matches!(self, Self::Banned | Self::Rate | Self::Dns)
    }
}

/// What may stand in braces in a text of one's own.
pub const PLACEHOLDERS: [&str; 7] = ["address", "client", "login", "cause", "advice", "ref", "url"];

/// A text of one's own folds into some reply lines; more than this no log and no bounce shows.
const LONGEST_TEXT: usize = 1000;

impl Replies {
    /// How a class is worded.
    pub fn wording(&self, class: Class) -> &Wording {
        match class {
            Class::Banned => &self.banned,
            Class::Relay => &self.relay,
            Class::AuthenticationRequired => &self.authentication_required,
            Class::Login => &self.login,
            Class::Suspended => &self.suspended,
            Class::Sender => &self.sender,
            Class::Header => &self.header,
            Class::RecipientUnknown => &self.recipient_unknown,
            Class::Recipient => &self.recipient,
            Class::Rule => &self.rule,
            Class::Blocklisted => &self.blocklisted,
            Class::Rate => &self.rate,
            Class::Dns => &self.dns,
        }
    }

    /// The family of a class.
    pub fn family(&self, class: Class) -> Family {
        self.wording(class).family.unwrap_or(self.family)
    }

    pub(crate) fn check(&self, report: &Report, node: &Node<'_>, findings: &mut Findings<'_>) {
        if let Some(url) = &self.report_url {
            check_url(&node.key("report_url"), url, findings);
        }
        let has_url = self.report_url.is_some() || report.base().is_some();
        if self.family == Family::Tagged && !has_url {
            needs_url(&node.key("family"), "`tagged` replies point to a page", findings);
        }
        for class in Class::ALL {
            self.wording(class).check(class, has_url, &node.key(class.key()), findings);
        }
    }
}

fn needs_url(at: &Node<'_>, what: &str, findings: &mut Findings<'_>) {
    let help = "set replies.report_url = \"https://...\", or switch [report] on";
    findings.error(at, format!("{what}, and none is configured"), help);
}

impl Wording {
    fn check(&self, class: Class, has_url: bool, node: &Node<'_>, findings: &mut Findings<'_>) {
        if self.family == Some(Family::Tagged) && !has_url {
            needs_url(&node.key("family"), "`tagged` replies point to a page", findings);
        }
        if let Some(code) = self.code {
            check_code(code, class, &node.key("code"), findings);
        }
        if let Some(status) = self.status.as_deref().filter(|status| !status.is_empty()) {
            self.check_status(status, &node.key("status"), findings);
        }
        if let Some(text) = &self.text {
            check_text(text, has_url, &node.key("text"), findings);
        }
    }

    fn check_status(&self, status: &str, at: &Node<'_>, findings: &mut Findings<'_>) {
        let help = "write three numbers such as \"5.7.1\", the first as the first digit of `code` (RFC 2034)";
        let Ok(read) = status.parse::<EnhancedStatus>() else {
            return findings.error(at, format!("{status:?} is not an enhanced status code"), help);
        };
        match self.code {
            None => findings.error(at, "`status` needs `code`", "they must fit: write both"),
            Some(code) if u16::from(read.class) != code / 100 => {
                findings.error(at, format!("{status} does not fit the code {code}"), help);
            }
            Some(_) => {}
        }
    }
}

fn check_code(code: u16, class: Class, at: &Node<'_>, findings: &mut Findings<'_>) {
    if !(400..600).contains(&code) {
        let help = "a refusal is 4xx (later) or 5xx (never): any other code would tell the client to go on";
        findings.error(at, format!("{code} is no code of a refusal"), help);
    } else if class.is_temporary() && code >= 500 {
        let help = "write 450, 451 or 421: this passes by itself, and a 5xx would have the mail returned";
        findings.error(at, format!("{code} would refuse for good"), help);
    } else if class == Class::Banned && code != 421 {
        let help = "write 421, or leave it out: the connection ends (RFC 5321 section 3.8)";
        findings.error(at, format!("{code} would not say that the connection ends"), help);
    }
}

fn check_text(text: &str, has_url: bool, at: &Node<'_>, findings: &mut Findings<'_>) {
    if text.trim().is_empty() {
        findings.error(at, "the text is empty", "leave it out for the words of the family");
    }
    if !text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
        let help =
            "replies are one line of ASCII; long ones are folded by themselves (RFC 5321 section 4.5.3.1.5)";
        findings.error(at, "the text has line ends or characters beyond ASCII", help);
    }
    if text.len() > LONGEST_TEXT {
        findings.error(at, format!("the text is longer than {LONGEST_TEXT} octets"), "shorten it");
    }
    for name in placeholders(text) {
        if !PLACEHOLDERS.contains(&name) {
            let known = PLACEHOLDERS.map(|name| format!("{{{name}}}")).join(", ");
            findings.error(at, format!("there is no {{{name}}}"), format!("there are {known}"));
        } else if name == "url" && !has_url {
            needs_url(at, "{url} is the address of a page", findings);
        }
    }
}

/// What stands in braces. A brace without its partner counts as the start of a name that goes to the end.
fn placeholders(text: &str) -> impl Iterator<Item = &str> {
    text.split('{').skip(1).map(|rest| rest.split('}').next().unwrap_or(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_name_placeholders() {
        let names: Vec<&str> = placeholders("<{address}>: {cause}{ and {").collect();
        assert_eq!(names, ["address", "cause", " and ", ""]);
    }

    #[test]
    fn every_class_has_a_wording_of_its_own() {
        for class in Class::ALL {
            let text = format!("[{}]\ntext = \"{}\"\n", class.key(), class.key());
            let replies: Replies = toml::from_str(&text).unwrap_or_default();
            assert_eq!(replies.wording(class).text.as_deref(), Some(class.key()));
        }
    }
}
