//! Gmail, Yahoo and AOL, Apple, and German providers with words of their own.

use super::Again::{AfterChange, ByItself, Later, Never};
use super::Side::{Nobody, Recipient, SenderDns, SenderServer, SendingUser};
use super::{DKIM, DMARC, Known, PTR, Remedy, SENDER_MX, SPF, WHO_SENDS, known, shared};

const GMAIL: &str = "Gmail";
const YAHOO: &str = "Yahoo and AOL";
const APPLE: &str = "Apple iCloud";

pub(super) const KNOWN: &[Known] = &[
    known(
        "gmail-unauthenticated",
        GMAIL,
        &[
            "requires all senders to authenticate with either spf or dkim",
            "this mail has been rate limited because it is unauthenticated",
            "does not have authentication information or fails to pass authentication checks",
            "fails to pass authentication checks (spf or dkim)",
        ],
        "Gmail takes no mail of a domain that passes neither SPF nor DKIM.",
        Remedy(
            SenderDns,
            "Publish an SPF record for {sender} that names the sending server, and sign the mail with \
             DKIM.",
            &[SPF, DKIM],
            AfterChange,
        ),
    )
    .with_shared_codes(&[shared(5, 7, 26), shared(4, 7, 26)]),
    known(
        "gmail-dmarc",
        GMAIL,
        &["unauthenticated email from * is not accepted due to domain's dmarc policy"],
        "The domain in the From field asks by DMARC to refuse mail that it did not authorise, and \
         this mail passed neither SPF nor DKIM for that domain.",
        Remedy(
            SenderDns,
            "Sign as {sender} and name the sending server in its SPF record; a forwarder or list must \
             put its own domain into From.",
            &[DMARC, SPF, DKIM],
            AfterChange,
        ),
    ),
    known(
        "gmail-spf-hard-fail",
        GMAIL,
        &[
            "has an spf record with a hard fail policy (-all) but it fails to pass spf checks",
            "fails to pass spf checks for an spf record with a hard fail policy",
        ],
        "The SPF record of the sender's domain forbids the server that sent.",
        Remedy(
            SenderDns,
            "Add {client} to the SPF record of {sender}, or send through a server that it names.",
            &[SPF],
            AfterChange,
        ),
    ),
    known(
        "gmail-spf-needed",
        GMAIL,
        &[
            "because spf does not pass. gmail requires all * senders to authenticate with spf",
            "rate limited because spf authentication didn't pass",
        ],
        "Gmail wants SPF to pass for who sends much, and it did not.",
        Remedy(SenderDns, "Add {client} to the SPF record of {sender}.", &[SPF], AfterChange),
    )
    .with_shared_codes(&[shared(5, 7, 27), shared(4, 7, 27)]),
    known(
        "gmail-spf-record",
        GMAIL,
        &["spf record of the sending domain has one or more suspicious entries"],
        "The SPF record of the sender's domain lets in far too many addresses.",
        Remedy(
            SenderDns,
            "Name only the servers that send for {sender} in its SPF record.",
            &[SPF],
            AfterChange,
        ),
    ),
    known(
        "gmail-dkim-needed",
        GMAIL,
        &[
            "because dkim does not pass. gmail requires all * senders to authenticate with dkim",
            "rate limited because dkim authentication didn't pass",
        ],
        "Gmail wants a DKIM signature from who sends much, and none verified.",
        Remedy(
            SenderDns,
            "Publish a DKIM key for {sender}, and sign its mail with it.",
            &[DKIM, "posternctl dkim generate --domain {sender} --selector 2026a"],
            AfterChange,
        ),
    )
    .with_shared_codes(&[shared(5, 7, 30), shared(4, 7, 30)]),
    known(
        "gmail-alignment",
        GMAIL,
        &["isn't aligned with either the authenticated spf or dkim organizational domain"],
        "SPF or DKIM may pass, but not for the domain in the From field.",
        Remedy(SenderDns, "Sign as {sender}, the domain in the From field.", &[DKIM, DMARC], AfterChange),
    ),
    known(
        "gmail-no-dmarc",
        GMAIL,
        &["domain doesn't have a dmarc record, or the dmarc record doesn't specify"],
        "Gmail wants a DMARC record from who sends much.",
        Remedy(
            SenderDns,
            "Publish a TXT record at _dmarc.{sender}; v=DMARC1; p=none is enough.",
            &[DMARC],
            AfterChange,
        ),
    ),
    known(
        "gmail-tls-needed",
        GMAIL,
        &["this message wasn't sent over a tls connection", "senders to use tls/ssl for smtp"],
        "Gmail wants TLS from who sends much, and the message came in clear.",
        Remedy(SenderServer, "Let the sending server use STARTTLS towards Gmail.", &[], AfterChange),
    )
    .with_shared_codes(&[shared(5, 7, 29), shared(4, 7, 29)]),
    known(
        "gmail-tls-recipient",
        GMAIL,
        &["tls required for rcpt domain, closing connection"],
        "The recipient's organisation takes mail under TLS only.",
        Remedy(SenderServer, "Let the sending server use STARTTLS.", &[], AfterChange),
    ),
    known(
        "gmail-rate",
        GMAIL,
        &[
            "gmail has detected an unusual rate of",
            "detected an unusual rate of unsolicited mail",
            "there is an unusual rate of unsolicited mail originating from your",
        ],
        "Much more mail than usual came from this address or domain, and Gmail holds it for unwanted.",
        Remedy(
            SenderServer,
            "Find what sends so much (a stolen login, a script, forwarded spam), stop it, and send \
             slowly for some days. https://postmaster.google.com shows the reputation.",
            &[WHO_SENDS],
            ByItself,
        ),
    )
    .with_shared_codes(&[shared(4, 7, 28), shared(5, 7, 28)]),
    known(
        "gmail-unsolicited",
        GMAIL,
        &["detected that this message is likely unsolicited mail"],
        "Gmail holds this message for spam: its content, its links, or what came from there before.",
        Remedy(
            SenderServer,
            "Check SPF, DKIM and DMARC of {sender} and the PTR record first; then what the message links \
             to, and whether people asked for it.",
            &[SPF, DMARC, PTR],
            AfterChange,
        ),
    ),
    known(
        "gmail-content",
        GMAIL,
        &["suspicious due to the nature of the content or the links within"],
        "Gmail holds the content or a link of this message for dangerous.",
        Remedy(SendingUser, "Remove the links and attachments, or say it in other words.", &[], AfterChange),
    ),
    known(
        "gmail-reputation",
        GMAIL,
        &["due to the very low reputation of the sending"],
        "Gmail has seen so much spam from this address or domain that it takes nothing now.",
        Remedy(
            SenderServer,
            "Stop what earned it, then send little, wanted and signed mail until the reputation comes \
             back; https://postmaster.google.com shows it.",
            &[WHO_SENDS],
            AfterChange,
        ),
    ),
    known(
        "gmail-ptr",
        GMAIL,
        &[
            "ip address sending this message does not have a ptr record",
            "sending ip does not match the ip address of the hostname specified in the pointer (ptr) \
             record",
            "sending ip address for this message doesn't have a ptr record",
        ],
        "The address of the sending server has no PTR record, or its name does not lead back to it.",
        Remedy(
            SenderDns,
            "Have whoever provides {client} set its PTR record to the server's name, and give that name \
             this address.",
            &[PTR],
            AfterChange,
        ),
    ),
    known(
        "gmail-ipv6",
        GMAIL,
        &["does not meet ipv6 sending guidelines regarding ptr records and authentication"],
        "Over IPv6 Gmail wants a PTR record, and SPF or DKIM that passes.",
        Remedy(
            SenderDns,
            "Give {client} a PTR record that leads back to it and name it in the SPF record of {sender}, \
             or send over IPv4.",
            &[PTR, SPF],
            AfterChange,
        ),
    ),
    known(
        "gmail-no-such-user",
        GMAIL,
        &["the email account that you tried to reach does not exist"],
        "There is no such mailbox at Gmail or in that Google Workspace.",
        Remedy(
            SendingUser,
            "Look for a typing error in the address, or ask the recipient for it.",
            &[],
            Never,
        ),
    ),
    known(
        "gmail-disabled",
        GMAIL,
        &[
            "the email account that you tried to reach is disabled",
            "the email account that you tried to reach is inactive",
        ],
        "The mailbox exists, and is switched off.",
        Remedy(
            Recipient,
            "The recipient has to open the account again, or gives another address.",
            &[],
            AfterChange,
        ),
    ),
    known(
        "gmail-over-quota",
        GMAIL,
        &[
            "the email account that you tried to reach is over quota",
            "the recipient's inbox is out of storage space",
        ],
        "The recipient's storage at Google is full.",
        Remedy(Recipient, "The recipient has to make room. Tell them another way.", &[], AfterChange),
    ),
    known(
        "gmail-recipient-rate",
        GMAIL,
        &[
            "the user you are trying to contact is receiving mail too quickly",
            "is receiving mail at a rate that prevents additional messages from being delivered",
        ],
        "The recipient is getting more mail than Gmail allows at a time.",
        Remedy(
            Nobody,
            "Wait. If it is our mail that floods the mailbox, find the program that sends it.",
            &[WHO_SENDS],
            ByItself,
        ),
    ),
    known(
        "gmail-size",
        GMAIL,
        &["exceeded google's message size limits", "exceeds google's message size limit"],
        "The message is larger than Gmail takes; attachments grow by a third on the way.",
        Remedy(SendingUser, "Send less, or a link to it.", &[], Never),
    ),
    known(
        "gmail-from-header",
        GMAIL,
        &[
            "missing a valid address in the from: header",
            "messages with multiple addresses in from: header are not accepted",
        ],
        "The From field has no usable address, or more than one.",
        Remedy(
            SenderServer,
            "Let the program that makes the message write one address into From.",
            &[],
            AfterChange,
        ),
    ),
    known(
        "gmail-malformed",
        GMAIL,
        &[
            "this message is not rfc 5322 compliant",
            "messages missing a valid message-id: header are not accepted",
        ],
        "The header of the message is not as it must be: fields twice, or Message-ID missing.",
        Remedy(SenderServer, "Correct the program that makes the message.", &[], AfterChange),
    ),
    known(
        "gmail-attachment",
        GMAIL,
        &[
            "blocked because its content presents a potential security issue",
            "our system detected an illegal attachment",
        ],
        "Gmail takes no programs, scripts or locked archives as attachments.",
        Remedy(SendingUser, "Send a link to the file instead.", &[], Never),
    ),
    known(
        "gmail-domain-policy",
        GMAIL,
        &[
            "sending to (or from) has a policy that prohibited the mail that you sent",
            "this message violates * email policy",
        ],
        "The administrator of the recipient's Google Workspace has a rule against this message.",
        Remedy(Recipient, "Ask the administrator of {recipient} to look at the rule.", &[], AfterChange),
    ),
    known(
        "gmail-relay",
        GMAIL,
        &["invalid credentials for relay", "mail relay denied"],
        "Google's relay for Workspace customers does not know this server or this sender's domain.",
        Remedy(
            SenderServer,
            "Register {client} in the relay settings of the Workspace, or log in; the domain in EHLO or \
             MAIL must belong to it.",
            &[],
            AfterChange,
        ),
    ),
    known(
        "gmail-direct",
        GMAIL,
        &["is not authorized to send email directly to our servers"],
        "Gmail takes no mail from this kind of address: a home line, or a network without a good \
         name.",
        Remedy(SenderServer, "Send through the smarthost of the provider.", &[PTR], AfterChange),
    ),
    known(
        "gmail-login",
        GMAIL,
        &["username and password not accepted"],
        "Google's smarthost does not accept the login.",
        Remedy(
            SenderServer,
            "Correct the user name; the password must be an application password.",
            &[],
            AfterChange,
        ),
    ),
    known(
        "gmail-application-password",
        GMAIL,
        &["application-specific password required"],
        "The account has two-step verification: its own password does not work for SMTP.",
        Remedy(
            SenderServer,
            "Make an application password for the account, and log in with that.",
            &[],
            AfterChange,
        ),
    ),
    known(
        "gmail-relay-limit",
        GMAIL,
        &[
            "daily user sending limit exceeded",
            "daily user sending quota exceeded",
            "daily smtp relay limit exceeded",
        ],
        "The account has sent all that Google lets it send in a day.",
        Remedy(
            Nobody,
            "Wait a day. If it was not you, the login is stolen: change its password.",
            &[WHO_SENDS],
            Later,
        ),
    ),
    known(
        "gmail-trouble",
        GMAIL,
        &["temporary system problem. try again later", "server busy, try again later*gsmtp"],
        "Google has a problem of its own at the moment.",
        Remedy(Nobody, "Wait.", &[], ByItself),
    ),
    known(
        "gmail-loop",
        GMAIL,
        &["message exceeded 50 hops"],
        "The message went round in circles between forwarding addresses.",
        Remedy(Recipient, "Find the forwarding that leads back, and end it.", &[], AfterChange),
    ),
    known(
        "yahoo-deferred",
        YAHOO,
        &[
            "messages from * temporarily deferred due to unexpected volume or user complaints",
            "messages from * temporarily deferred due to user complaints",
            "[tss04]",
        ],
        "Yahoo slows this address down: too much mail at once, or its users complained about it.",
        Remedy(
            SenderServer,
            "Send slowly for some days, stop what is complained about, and see that SPF, DKIM and DMARC \
             of {sender} pass.",
            &[WHO_SENDS, SPF, DMARC],
            ByItself,
        ),
    ),
    known(
        "yahoo-permanently-deferred",
        YAHOO,
        &["all messages from * will be permanently deferred", "[tss09]", "[tss11]"],
        "Yahoo takes nothing from this address any more, because of what came from it.",
        Remedy(
            SenderServer,
            "Stop what earned it, then ask for a review at https://senders.yahooinc.com/contact.",
            &[WHO_SENDS, PTR],
            AfterChange,
        ),
    ),
    known(
        "yahoo-ip",
        YAHOO,
        &["[ipts04]"],
        "Yahoo holds mail of this address back because of its reputation.",
        Remedy(
            SenderServer,
            "Send slowly; if it lasts, ask at https://senders.yahooinc.com/contact.",
            &[PTR],
            ByItself,
        ),
    ),
    known(
        "yahoo-spamhaus",
        YAHOO,
        &[
            "connections will not be accepted from *, because the ip is in spamhaus's list",
            "connections not accepted from ip addresses on spamhaus xbl",
            "[bl2#]",
        ],
        "Yahoo refuses this address because Spamhaus lists it.",
        Remedy(
            SenderServer,
            "Find out why at https://check.spamhaus.org, remove the cause, then ask for removal there.",
            &["dig +short {reversed}.zen.spamhaus.org"],
            AfterChange,
        ),
    ),
    known(
        "yahoo-no-such-user",
        YAHOO,
        &[
            "delivery error: dd this user doesn't have a * account",
            "requested mail action aborted, mailbox not found",
        ],
        "There is no such mailbox at Yahoo.",
        Remedy(
            SendingUser,
            "Look for a typing error in the address, or ask the recipient for it.",
            &[],
            Never,
        ),
    ),
    known(
        "yahoo-disabled",
        YAHOO,
        &[
            "cannot be delivered. this mailbox is disabled",
            "cannot be delivered. this account has been disabled or discontinued",
            "delivery error: dd * is no longer valid",
        ],
        "The mailbox was there, and is closed.",
        Remedy(
            SendingUser,
            "Ask the recipient for the new address, and take the old one off the lists.",
            &[],
            Never,
        ),
    ),
    known(
        "yahoo-policy",
        YAHOO,
        &[
            "[ph01] email not accepted for policy reasons",
            "message not accepted for policy reasons",
            "[ph01]",
        ],
        "Yahoo holds the content for phishing, or the sender's domain refuses it by DMARC.",
        Remedy(
            SenderServer,
            "See that SPF or DKIM passes for {sender}, the domain in From; then look at the links in the \
             message.",
            &[DMARC, SPF, DKIM],
            AfterChange,
        ),
    ),
    known(
        "yahoo-unauthenticated",
        YAHOO,
        &["yahoo requires all senders to authenticate with either spf or dkim"],
        "Yahoo takes no mail of a domain that passes neither SPF nor DKIM.",
        Remedy(
            SenderDns,
            "Publish an SPF record for {sender} that names the sending server, and sign the mail with \
             DKIM.",
            &[SPF, DKIM],
            AfterChange,
        ),
    ),
    known(
        "yahoo-sender-domain",
        YAHOO,
        &["temporarily deferred due to unresolvable rfc.5321 from domain"],
        "The domain of the envelope sender cannot be found in the DNS.",
        Remedy(
            SenderDns,
            "Give {sender} MX or address records, and look at its name servers.",
            &[SENDER_MX],
            AfterChange,
        ),
    ),
    known(
        "yahoo-recipient-rate",
        YAHOO,
        &["450 user is receiving mail too quickly"],
        "The recipient is getting more mail than Yahoo allows at a time.",
        Remedy(Nobody, "Wait.", &[], ByItself),
    ),
    known(
        "apple-local-policy",
        APPLE,
        &["[cs01] message rejected due to local policy", "[cs01]"],
        "Apple holds the content of the message for spam: its words, its links or its sender's \
         domain.",
        Remedy(
            SenderServer,
            "See that SPF, DKIM and DMARC of {sender} pass, look at the links; then write to \
             icloudadmin@apple.com.",
            &[SPF, DMARC],
            AfterChange,
        ),
    ),
    known(
        "apple-reputation",
        APPLE,
        &["[hm08] message rejected due to local policy", "[hm08]", "[hm07]"],
        "Apple does not trust the sending server: its address or its domain has a bad or no \
         reputation there.",
        Remedy(
            SenderServer,
            "Check the PTR record and block lists, send slowly; then write to icloudadmin@apple.com with \
             this text.",
            &[PTR, "dig +short {reversed}.zen.spamhaus.org"],
            AfterChange,
        ),
    ),
    known(
        "apple-unauthenticated",
        APPLE,
        &["blocked for failing both spf and dkim authentication checks", "[hme1]"],
        "Apple takes no mail that passes neither SPF nor DKIM.",
        Remedy(
            SenderDns,
            "Publish an SPF record for {sender} that names the sending server, and sign the mail with \
             DKIM.",
            &[SPF, DKIM],
            AfterChange,
        ),
    ),
    known(
        "apple-dmarc",
        APPLE,
        &["your message was rejected due to * dmarc policy. see https://support.apple.com"],
        "The domain in the From field asks by DMARC to refuse mail that it did not authorise.",
        Remedy(
            SenderDns,
            "Let SPF or DKIM pass for {sender}, the domain in From.",
            &[DMARC, SPF, DKIM],
            AfterChange,
        ),
    ),
    known(
        "apple-no-such-user",
        APPLE,
        &[
            "inactive email address (in reply",
            ": inactive email address",
            "unknown or illegal alias",
            "recipient no longer on server",
        ],
        "There is no such mailbox at Apple any more.",
        Remedy(SendingUser, "Ask the recipient for the address.", &[], Never),
    ),
    known(
        "apple-volume",
        APPLE,
        &["deferred due to excessive volume"],
        "The recipient is getting more mail than Apple allows at a time.",
        Remedy(Nobody, "Wait.", &[], ByItself),
    ),
    known(
        "t-online-unknown-server",
        "T-Online",
        &["tosa@rx.t-online.de", "a problem occurred. (ask your postmaster for help or to contact"],
        "T-Online takes no mail from servers that it does not know.",
        Remedy(
            SenderServer,
            "Have a PTR record that leads back and an imprint at the server's domain, then write to \
             tosa@rx.t-online.de.",
            &[PTR],
            AfterChange,
        ),
    ),
    known(
        "gmx-policy",
        "GMX, WEB.DE and IONOS",
        &["nemesis esmtp service not available", "transaction failed reject due to policy restrictions"],
        "GMX, WEB.DE or IONOS refuses this server: its address, its PTR record or the From field.",
        Remedy(
            SenderServer,
            "Follow the link in the reply; usual causes are a missing or generic PTR record and a listed \
             address.",
            &[PTR],
            AfterChange,
        ),
    ),
];
