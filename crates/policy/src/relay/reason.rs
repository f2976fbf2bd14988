//! Why a decision is as it is.

use postern_config::replies::Class;
use serde::{Deserialize, Serialize};

use super::Verdict;

/// Why. One variant a cause, so that replies, metrics and explanations can tell them apart. Records of refusals are read back
/// with it: a field that is added needs a default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Reason {
    /// The recipient is ours: not relaying.
    LocalRecipient,
    /// The recipient's domain is one that we relay for.
    RelayDomain,
    /// The client is in a trusted network.
    TrustedNetwork {
        /// The label of the network in the configuration.
        label: String,
    },
    /// The client has a grant for this sender and this recipient.
    AddressGrant {
        /// The label of the grant in the configuration.
        label: String,
    },
    /// The client's address was let in for a while.
    TemporaryGrant {
        /// The address or network.
        network: String,
        /// Why, as whoever gave it said.
        why: String,
    },
    /// A host name that may relay leads to the client's address, and back.
    HostName {
        /// The name.
        name: String,
    },
    /// The client showed a certificate that may relay.
    ClientCertificate {
        /// The label of the certificate in the configuration.
        label: String,
    },
    /// The client logged in.
    Authenticated {
        /// The login.
        login: String,
    },
    /// The login may be used from here (at AUTH).
    LoginAllowed {
        /// The login.
        login: String,
    },
    /// The sender may be used (at MAIL, and at the end of data).
    SenderAllowed,
    /// The client may speak here (when it connects).
    ConnectionAllowed,
    /// The client's address is banned for a while (421 4.7.0).
    Banned {
        /// The ban's network.
        network: String,
        /// Why, for operators.
        why: String,
        /// An operator made it; else it was for guessing passwords.
        by_hand: bool,
    },
    /// A submission port, and nobody logged in (530 5.7.0).
    NotAuthenticated,
    /// Foreign client, foreign recipient (550 5.7.1).
    NotTrustedNotLocal,
    /// The client has a grant, but not for this sender or recipient (550 5.7.1).
    GrantTooNarrow {
        /// The label of the grant.
        label: String,
        /// What it does not cover: `sender ...` or `recipient ...`.
        what: String,
    },
    /// A host name may relay, and DNS has not said whether it leads to the client's address (451 4.4.3).
    HostNameUnknown {
        /// The name.
        name: String,
    },
    /// A client with a grant sends too much at once (451 4.7.1).
    Rate {
        /// Whose rate, for operators: `the grant printer`.
        who: String,
        /// What is allowed: `100 recipients an hour`.
        limit: String,
        /// When there is room again, in seconds from now.
        resets_in: u64,
    },
    /// A login has sent to as many recipients as it may (451 4.7.1).
    Quota {
        /// The login.
        login: String,
        /// Which limit: `200 recipients an hour`.
        limit: String,
        /// How many it would have had.
        used: u64,
        /// When there is room again, in seconds from now; none where waiting does not help.
        resets_in: Option<u64>,
    },
    /// The login may use no address of this domain (550 5.7.1).
    SenderDomainNotListed {
        /// The login.
        login: String,
        /// The sender.
        sender: String,
    },
    /// The login may use addresses of the domain, but not this one (550 5.7.1).
    LoginLacksPermission {
        /// The login.
        login: String,
        /// The sender.
        sender: String,
    },
    /// The sender's domain has not been verified (550 5.7.1).
    DomainNotVerified {
        /// The domain.
        domain: String,
        /// `pending` or `failed`.
        state: String,
        /// What its DNS lacks.
        missing: String,
    },
    /// The owner of the domain has named the logins that may use it, and this is none of them (550 5.7.1).
    OwnersLock {
        /// The login, as a lock names it.
        login: String,
        /// The domain.
        domain: String,
        /// What keeps the record from being understood; none where it can be.
        problem: Option<String>,
    },
    /// DNS does not say what the decision hangs on (451 4.4.3).
    DnsTrouble {
        /// The domain.
        domain: String,
        /// What was asked for, and what came instead: `its SPF record: server failure`.
        what: String,
    },
    /// The login may use any domain that lists this server in its SPF record, and this one does not (550 5.7.1).
    SpfDoesNotCover {
        /// The login.
        login: String,
        /// The domain.
        domain: String,
        /// What its SPF record says of this server.
        result: String,
    },
    /// An address of From, Sender, Resent-From, Resent-Sender or Reply-To is not the login's, or not one of the senders of the
    /// client's grant (550 5.7.1).
    HeaderFromMismatch {
        /// The login; empty where it is about a grant.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        login: String,
        /// The label of the grant, where nobody is logged in.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        grant: Option<String>,
        /// `From`, `Sender` ...
        field: String,
        /// The address, or what is wrong with the field.
        address: String,
    },
    /// A message of a login, or of a client with a grant, without a usable From (550 5.6.0, RFC 5322 §3.6).
    HeaderFromUnusable {
        /// What is wrong.
        problem: String,
    },
    /// The header of such a message could be read in several ways: it has a NUL, or a line that is no field (550 5.6.0).
    MalformedHeader,
    /// Wrong user name or password; which of them, nobody is told (535 5.7.8).
    WrongPassword {
        /// The login, where it is one or looks like one of ours; who mistypes may have written a password.
        login: String,
        /// Why an app password that is right cannot be used, for operators: its label and what keeps it out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<String>,
    },
    /// A login was tried where none is offered: in clear (538 5.7.11), or on port 25 (503 5.5.1).
    LoginNotOffered {
        /// What is missing: `TLS` or `a submission port`.
        missing: String,
    },
    /// The login is locked (535 5.7.13 at AUTH, 550 5.7.13 later).
    LoginSuspended {
        /// The login.
        login: String,
        /// `suspended`, `quota-locked` or `disabled`.
        state: String,
        /// Why, for operators.
        why: String,
    },
    /// The login may not be used from the client's address (535 5.7.1).
    ClientAddressNotAllowed {
        /// The login.
        login: String,
        /// The address seen.
        client: String,
    },
    /// A domain of ours, no such mailbox; or the server that we relay to says so (550 5.1.1).
    UnknownRecipient,
    /// An alias that leads back to itself (550 5.4.6).
    AliasLoop,
    /// An address literal that is not ours, or another address we cannot send to (550 5.1.2).
    BadDestination,
    /// An address beyond ASCII in RCPT, after MAIL without SMTPUTF8 (553 5.6.7, RFC 6531 §3.5).
    NeedsSmtputf8,
    /// More recipients than one transaction may have (452 4.5.3, RFC 5321 §4.5.3.1.10).
    TooManyRecipients {
        /// How many it may have.
        limit: usize,
    },
    /// A route refuses the recipient (550 5.7.1).
    RecipientPolicy {
        /// The text of the route.
        text: String,
    },
    /// The client is on lists in DNS (550 5.7.1).
    Blocklisted {
        /// Its address.
        client: String,
        /// The lists that have it, as they are called.
        lists: String,
        /// What they answered.
        answers: String,
        /// What all lists together weigh.
        weight: i64,
        /// What the configuration has clients told; none where it says nothing.
        text: Option<String>,
    },
    /// A standing rule of an operator refuses the recipient or the message (550 5.7.1, or 450 4.7.1), or holds the message.
    StandingRule {
        /// Its number.
        rule: String,
        /// Why it is there, for operators.
        why: String,
        /// Its text for the client; empty where that hears nothing of it.
        text: String,
    },
    /// A standing rule of an operator refuses a sender that the header names (550 5.7.1, or 450 4.7.1).
    HeaderBlockedSender {
        /// Its number.
        rule: String,
        /// Why it is there, for operators.
        why: String,
        /// Its text for the client.
        text: String,
    },
}

impl Reason {
    /// The words of all of them.
    pub const WORDS: [&str; 40] = [
        "local-recipient",
        "relay-domain",
        "trusted-network",
        "address-grant",
        "temporary-grant",
        "host-name",
        "client-certificate",
        "authenticated",
        "login-allowed",
        "sender-allowed",
        "connection-allowed",
        "banned",
        "not-authenticated",
        "not-trusted-not-local",
        "grant-too-narrow",
        "host-name-unknown",
        "rate",
        "quota",
        "sender-domain-not-listed",
        "login-lacks-permission",
        "domain-not-verified",
        "owners-lock",
        "dns-trouble",
        "spf-does-not-cover",
        "header-from-mismatch",
        "header-from-unusable",
        "malformed-header",
        "wrong-password",
        "login-not-offered",
        "login-suspended",
        "client-address-not-allowed",
        "unknown-recipient",
        "alias-loop",
        "bad-destination",
        "needs-smtputf8",
        "too-many-recipients",
        "recipient-policy",
        "blocklisted",
        "standing-rule",
        "header-blocked-sender",
    ];

    /// The word in logs, metrics and JSON.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::LocalRecipient => "local-recipient",
            Self::RelayDomain => "relay-domain",
            Self::TrustedNetwork { .. } => "trusted-network",
            Self::AddressGrant { .. } => "address-grant",
            Self::TemporaryGrant { .. } => "temporary-grant",
            Self::HostName { .. } => "host-name",
            Self::ClientCertificate { .. } => "client-certificate",
            Self::Authenticated { .. } => "authenticated",
            Self::LoginAllowed { .. } => "login-allowed",
            Self::SenderAllowed => "sender-allowed",
            Self::ConnectionAllowed => "connection-allowed",
            Self::Banned { .. } => "banned",
            Self::NotAuthenticated => "not-authenticated",
            Self::NotTrustedNotLocal => "not-trusted-not-local",
            Self::GrantTooNarrow { .. } => "grant-too-narrow",
            Self::HostNameUnknown { .. } => "host-name-unknown",
            Self::Rate { .. } => "rate",
            Self::Quota { .. } => "quota",
            Self::SenderDomainNotListed { .. } => "sender-domain-not-listed",
            Self::LoginLacksPermission { .. } => "login-lacks-permission",
            Self::DomainNotVerified { .. } => "domain-not-verified",
            Self::OwnersLock { .. } => "owners-lock",
            Self::DnsTrouble { .. } => "dns-trouble",
            Self::SpfDoesNotCover { .. } => "spf-does-not-cover",
            Self::HeaderFromMismatch { .. } => "header-from-mismatch",
            Self::HeaderFromUnusable { .. } => "header-from-unusable",
            Self::MalformedHeader => "malformed-header",
            Self::WrongPassword { .. } => "wrong-password",
            Self::LoginNotOffered { .. } => "login-not-offered",
            Self::LoginSuspended { .. } => "login-suspended",
            Self::ClientAddressNotAllowed { .. } => "client-address-not-allowed",
            Self::UnknownRecipient => "unknown-recipient",
            Self::AliasLoop => "alias-loop",
            Self::BadDestination => "bad-destination",
            Self::NeedsSmtputf8 => "needs-smtputf8",
            Self::TooManyRecipients { .. } => "too-many-recipients",
            Self::RecipientPolicy { .. } => "recipient-policy",
            Self::Blocklisted { .. } => "blocklisted",
            Self::StandingRule { .. } => "standing-rule",
            Self::HeaderBlockedSender { .. } => "header-blocked-sender",
        }
    }

    /// What follows from it: yes, no, or later. (Standing rules say it themselves.)
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::LocalRecipient
            | Self::RelayDomain
            | Self::TrustedNetwork { .. }
            | Self::AddressGrant { .. }
            | Self::TemporaryGrant { .. }
            | Self::HostName { .. }
            | Self::ClientCertificate { .. }
            | Self::Authenticated { .. }
            | Self::LoginAllowed { .. }
            | Self::SenderAllowed
            | Self::ConnectionAllowed => Verdict::Accept,
            Self::Banned { .. }
            | Self::TooManyRecipients { .. }
            | Self::HostNameUnknown { .. }
            | Self::Rate { .. }
            | Self::Quota { .. }
            | Self::DnsTrouble { .. } => Verdict::Defer,
            Self::NotAuthenticated
            | Self::NotTrustedNotLocal
            | Self::GrantTooNarrow { .. }
            | Self::SenderDomainNotListed { .. }
            | Self::LoginLacksPermission { .. }
            | Self::DomainNotVerified { .. }
            | Self::OwnersLock { .. }
            | Self::SpfDoesNotCover { .. }
            | Self::HeaderFromMismatch { .. }
            | Self::HeaderFromUnusable { .. }
            | Self::MalformedHeader
            | Self::WrongPassword { .. }
            | Self::LoginNotOffered { .. }
            | Self::LoginSuspended { .. }
            | Self::ClientAddressNotAllowed { .. }
            | Self::UnknownRecipient
            | Self::AliasLoop
            | Self::BadDestination
            | Self::NeedsSmtputf8
            | Self::RecipientPolicy { .. }
            | Self::Blocklisted { .. }
            | Self::StandingRule { .. }
            | Self::HeaderBlockedSender { .. } => Verdict::Reject,
        }
    }

    /// How a refusal for it is worded; `None` for what is allowed.
    pub fn class(&self) -> Option<Class> {
        Some(match self {
            Self::LocalRecipient
            | Self::RelayDomain
            | Self::TrustedNetwork { .. }
            | Self::AddressGrant { .. }
            | Self::TemporaryGrant { .. }
            | Self::HostName { .. }
            | Self::ClientCertificate { .. }
            | Self::Authenticated { .. }
            | Self::LoginAllowed { .. }
            | Self::SenderAllowed
            | Self::ConnectionAllowed => return None,
            Self::Banned { .. } => Class::Banned,
            Self::NotTrustedNotLocal | Self::GrantTooNarrow { .. } => Class::Relay,
            Self::NotAuthenticated | Self::LoginNotOffered { .. } => Class::AuthenticationRequired,
            Self::WrongPassword { .. } | Self::ClientAddressNotAllowed { .. } => Class::Login,
            Self::LoginSuspended { .. } => Class::Suspended,
            Self::SenderDomainNotListed { .. }
            | Self::LoginLacksPermission { .. }
            | Self::DomainNotVerified { .. }
            | Self::OwnersLock { .. }
            | Self::SpfDoesNotCover { .. } => Class::Sender,
            Self::HeaderFromMismatch { .. } | Self::HeaderFromUnusable { .. } | Self::MalformedHeader => {
                Class::Header
            }
            Self::UnknownRecipient => Class::RecipientUnknown,
            Self::AliasLoop | Self::BadDestination | Self::NeedsSmtputf8 | Self::RecipientPolicy { .. } => {
                Class::Recipient
            }
            Self::Blocklisted { .. } => Class::Blocklisted,
            Self::StandingRule { .. } | Self::HeaderBlockedSender { .. } => Class::Rule,
            Self::Rate { .. } | Self::Quota { .. } | Self::TooManyRecipients { .. } => Class::Rate,
            Self::DnsTrouble { .. } | Self::HostNameUnknown { .. } => Class::Dns,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn the_words_are_those_of_the_variants() {
        // Records name variants by the same words; what such a variant needs beside its word shows that it is one.
        for word in Reason::WORDS {
            let read = serde_json::from_value::<Reason>(serde_json::json!({ "kind": word }));
            match read {
                Ok(reason) => assert_eq!(reason.as_str(), word),
                Err(error) => assert!(error.to_string().starts_with("missing field"), "{word}: {error}"),
            }
        }
        let unknown = serde_json::from_value::<Reason>(serde_json::json!({ "kind": "x" })).unwrap_err();
        let all = unknown.to_string().matches('`').count() / 2 - 1;
        assert_eq!(all, Reason::WORDS.len(), "{unknown}");
    }
}
