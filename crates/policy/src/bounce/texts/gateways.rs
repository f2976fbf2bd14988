//! Filters in front of mail servers, and the DNS lists that they ask.

use super::Again::{AfterChange, ByItself, Never};
use super::Side::{Nobody, Recipient, SenderDns, SenderServer, SendingUser};
use super::{DKIM, DMARC, Known, PTR, Remedy, SPF, WHO_SENDS, known};

const MIMECAST: &str = "Mimecast";
const PROOFPOINT: &str = "Proofpoint";
const SPAMHAUS: &str = "Spamhaus";

const ZEN: &str = "dig +short {reversed}.zen.spamhaus.org";

pub(super) const KNOWN: &[Known] = &[
    known(
        "mimecast-anti-spoofing",
        MIMECAST,
        &[
            "rejected by header-based anti-spoofing policy",
            "rejected by header based anti-spoofing policy",
            "anti-spoofing policy - inbound not allowed",
        ],
        "The From field has a domain of the recipient's own organisation, and the message came from \
         outside.",
        Remedy(
            Recipient,
            "The administrator of {recipient} adds an anti-spoofing exception for this sender or \
             {client}; the sender can use another domain in From.",
            &[SPF],
            AfterChange,
        ),
    ),
    known(
        "mimecast-blocked-sender",
        MIMECAST,
        &[
            "rejected by header-based blocked senders",
            "rejected by header-based manually blocked senders",
            "administrative prohibition envelope blocked",
            "envelope rejected - block policy for envelope from address",
            "envelope blocked - user entry",
            "envelope blocked - user domain entry",
        ],
        "The recipient, or their administrator, has put this sender on the list of blocked senders.",
        Remedy(
            Recipient,
            "The recipient takes the sender off \"Managed Senders\", or the administrator off the policy.",
            &[],
            AfterChange,
        ),
    ),
    known(
        "invalid-recipient",
        "Mimecast and others",
        &["invalid recipient"],
        "There is no such mailbox in the recipient's domain, or its list of mailboxes is not up to \
         date.",
        Remedy(
            SendingUser,
            "Look for a typing error in the address; if it is right, the administrator of {recipient} \
             updates the gateway's list.",
            &[],
            Never,
        ),
    ),
    known(
        "mimecast-security-policies",
        MIMECAST,
        &["email rejected due to security policies"],
        "The filter holds the message for spam, or found a signature of malware in it.",
        Remedy(
            Recipient,
            "See that links and attachments are clean; then the administrator of {recipient} permits the \
             sender.",
            &[SPF, DMARC],
            AfterChange,
        ),
    ),
    known(
        "mimecast-ip-reputation",
        MIMECAST,
        &["local ct ip reputation"],
        "Mimecast refuses the address of the sending server for its reputation.",
        Remedy(
            SenderServer,
            "Stop what earned it, then use Mimecast's form for senders; the administrator of {recipient} \
             can permit it meanwhile.",
            &[WHO_SENDS, PTR, ZEN],
            AfterChange,
        ),
    ),
    known(
        "mimecast-greylisting",
        MIMECAST,
        &["internal resources are temporarily unavailable"],
        "Mimecast takes mail from strangers at the second try only.",
        Remedy(Nobody, "Wait: the next try comes by itself.", &[], ByItself),
    ),
    known(
        "mimecast-authentication",
        MIMECAST,
        &[
            "spf sender invalid - envelope rejected",
            "dkim sender invalid - envelope rejected",
            "dmarc sender invalid - envelope rejected",
        ],
        "SPF, DKIM or DMARC of the sender's domain failed, and the recipient's organisation refuses \
         then.",
        Remedy(
            SenderDns,
            "Correct the records of {sender} and the signature; the reply says which one.",
            &[SPF, DKIM, DMARC],
            AfterChange,
        ),
    ),
    known(
        "mimecast-relay",
        MIMECAST,
        &["open relay not allowed"],
        "Neither the sender's nor the recipient's domain belongs to this Mimecast account, or the \
         server's address is not registered.",
        Remedy(
            SenderServer,
            "Register {client} as authorised outbound, or correct the MX of {recipient}.",
            &[],
            AfterChange,
        ),
    ),
    known(
        "mimecast-content",
        MIMECAST,
        &["message bounced due to content examination policy"],
        "A rule of the recipient's organisation does not take this content.",
        Remedy(Recipient, "Ask the administrator of {recipient} which rule it was.", &[], AfterChange),
    ),
    known(
        "mimecast-tls",
        MIMECAST,
        &[
            "this route requires encryption (tls)",
            "this route requires tls version",
            "this route requires high-strength ciphers",
        ],
        "The recipient's organisation takes mail under good TLS only.",
        Remedy(SenderServer, "Let the sending server use STARTTLS with TLS 1.2 or newer.", &[], AfterChange),
    ),
    known(
        "proofpoint-blocked",
        PROOFPOINT,
        &[
            "ipcheck.proofpoint.com",
            "support.proofpoint.com/dnsbl-lookup",
            "blocked using prs.proofpoint.com",
            "access denied * pdr#",
            "pdr00##",
        ],
        "Proofpoint blocks the address of the sending server for its reputation; many providers, \
         Apple too, ask Proofpoint.",
        Remedy(
            SenderServer,
            "Stop what earned it, then ask for removal at https://ipcheck.proofpoint.com with {client}.",
            &[WHO_SENDS, PTR],
            AfterChange,
        ),
    ),
    known(
        "proofpoint-local-policy",
        PROOFPOINT,
        &["local policy violation"],
        "A rule that the recipient's organisation made in its filter refuses the message.",
        Remedy(Recipient, "Ask the administrator of {recipient} which rule it was.", &[], AfterChange),
    ),
    known(
        "barracuda-reputation",
        "Barracuda",
        &[
            "blocked using barracuda reputation",
            "barracudanetworks.com/reputation",
            "blocked using b.barracudacentral.org",
            "barracudacentral.org",
        ],
        "Barracuda's list has the address of the sending server.",
        Remedy(
            SenderServer,
            "Stop what earned it, then ask for removal at \
             https://www.barracudacentral.org/rbl/removal-request.",
            &["dig +short {reversed}.b.barracudacentral.org"],
            AfterChange,
        ),
    ),
    known(
        "barracuda-recipient",
        "Barracuda",
        &["permanent failure for one or more recipients"],
        "A Barracuda filter refused the message for at least one recipient: blocked, or no such \
         mailbox.",
        Remedy(
            Recipient,
            "The brackets in the reply name the recipient and the reason; ask the administrator of \
             {recipient}.",
            &[],
            AfterChange,
        ),
    ),
    known(
        "cisco-reputation",
        "Cisco",
        &["sending mta's poor reputation", "poor reputation*sbrs", "blocked by*sbrs", "senderbase"],
        "Cisco's reputation service (Talos, formerly SenderBase) holds the address of the sending \
         server for bad.",
        Remedy(
            SenderServer,
            "Stop what earned it; look the address up at https://talosintelligence.com and dispute it \
             there.",
            &[WHO_SENDS, PTR, ZEN],
            AfterChange,
        ),
    ),
    known(
        "trend-micro-reputation",
        "Trend Micro",
        &["using trend micro", "mail-abuse.com/cgi-bin/lookup", "trendmicro.com"],
        "Trend Micro's list has the address of the sending server.",
        Remedy(
            SenderServer,
            "Stop what earned it, then ask for removal at \
             https://servicecentral.trendmicro.com/en-us/ers.",
            &[PTR],
            AfterChange,
        ),
    ),
    known(
        "symantec-filtered",
        "Symantec",
        &["message filtered. refer to the troubleshooting page", "connection rejected by policy [7.7]"],
        "Symantec's filter holds the message or the sending server for spam.",
        Remedy(
            SenderServer,
            "Look the address up at https://ipremoval.sms.symantec.com; otherwise the recipient's side \
             permits it.",
            &[PTR],
            AfterChange,
        ),
    ),
    known(
        "spamhaus",
        SPAMHAUS,
        &[
            "zen.spamhaus.org",
            "spamhaus.org/query/ip",
            "check.spamhaus.org",
            "blocked using spamhaus",
            "listed by spamhaus",
            "zen.dq.spamhaus.net",
        ],
        "A list of Spamhaus has the address of the sending server: spam came from it, it is \
         infected, or it is a home line.",
        Remedy(
            SenderServer,
            "Look {client} up at https://check.spamhaus.org: it says which list and why. Remove the \
             cause, then ask for removal there; a home line sends through a smarthost.",
            &[ZEN],
            AfterChange,
        ),
    ),
    known(
        "spamhaus-pbl",
        SPAMHAUS,
        &["spamhaus.org/pbl/query", "pbl.spamhaus.org", "spamhaus pbl", "policy block list"],
        "The address belongs to lines that should not send mail themselves: home and mobile networks \
         (Policy Block List).",
        Remedy(
            SenderServer,
            "Send through the smarthost of the provider; with a fixed address, remove it yourself at \
             https://check.spamhaus.org.",
            &[ZEN, PTR],
            AfterChange,
        ),
    ),
    known(
        "spamhaus-xbl",
        SPAMHAUS,
        &["xbl.spamhaus.org", "spamhaus xbl", "spamhaus.org/xbl"],
        "Something behind this address is infected or an open proxy (Exploits Block List).",
        Remedy(
            SenderServer,
            "Find the infected machine: nothing but the mail server may reach port 25 from this network. \
             Then ask for removal at https://check.spamhaus.org.",
            &[ZEN],
            AfterChange,
        ),
    ),
    known(
        "spamhaus-sbl",
        SPAMHAUS,
        &[
            "sbl.spamhaus.org",
            "spamhaus sbl",
            "spamhaus.org/sbl",
            "spamhaus css",
            "due to listing in spamhaus",
        ],
        "Spamhaus has seen spam come from this address or its network (Spamhaus Block List).",
        Remedy(
            SenderServer,
            "Stop the spam; look at https://check.spamhaus.org who has to ask for removal: you, or the \
             provider.",
            &[ZEN, WHO_SENDS],
            AfterChange,
        ),
    ),
    known(
        "spamhaus-dbl",
        SPAMHAUS,
        &[
            "dbl.spamhaus.org",
            "spamhaus dbl",
            "spamhaus.org/dbl",
            "due to having a domain present in the spamhaus dbl",
        ],
        "Spamhaus lists a domain: that of the sender, of the server, or one that the message links \
         to (Domain Block List).",
        Remedy(
            SenderServer,
            "Look the domains up at https://check.spamhaus.org; remove bad links, close what was broken \
             into, ask for removal.",
            &["dig +short {sender}.dbl.spamhaus.org"],
            AfterChange,
        ),
    ),
    known(
        "spamhaus-open-resolver",
        SPAMHAUS,
        &["error: open resolver", "spamhaus.org/returnc/pub", "spamhaus.org/returnc/vol", "127.255.255.25#"],
        "The recipient's server asks Spamhaus through a public resolver, gets an error, and takes it \
         for a listing. Nobody is listed.",
        Remedy(
            Recipient,
            "The administrator of {recipient} asks Spamhaus through their own resolver or with a key, \
             and ignores 127.255.255.x.",
            &[ZEN],
            AfterChange,
        ),
    ),
    known(
        "spamcop",
        "SpamCop",
        &["blocked using *spamcop.net", "bl.spamcop.net", "spamcop.net/"],
        "SpamCop has had complaints about the address of the sending server in the last day.",
        Remedy(
            SenderServer,
            "Stop what is complained about; the entry goes by itself a day after the last complaint.",
            &["dig +short {reversed}.bl.spamcop.net", WHO_SENDS],
            AfterChange,
        ),
    ),
    known(
        "sorbs",
        "SORBS",
        &["blocked using *sorbs.net", "sorbs.net", "using sorbs"],
        "The recipient's server asks SORBS, a list that ended in June 2024.",
        Remedy(
            Recipient,
            "The administrator of {recipient} takes SORBS out of their configuration.",
            &[],
            AfterChange,
        ),
    ),
    known(
        "uceprotect",
        "UCEPROTECT",
        &["blocked using *uceprotect.net", "uceprotect.net", "uceprotect"],
        "UCEPROTECT lists the address, or (levels 2 and 3) the whole network or provider it is in.",
        Remedy(
            Recipient,
            "Level 1 goes by itself after seven days without spam. Levels 2 and 3 are others' doing: ask \
             {recipient} not to refuse for them.",
            &["dig +short {reversed}.dnsbl-1.uceprotect.net"],
            AfterChange,
        ),
    ),
    known(
        "abusix",
        "Abusix",
        &["blocked using *abusix.zone", "abusix.zone", "abusix.com"],
        "Abusix lists the address of the sending server.",
        Remedy(
            SenderServer,
            "Look the address up at https://lookup.abusix.com, remove the cause, ask for removal there.",
            &[PTR],
            AfterChange,
        ),
    ),
    known(
        "mailspike",
        "Mailspike",
        &["blocked using *mailspike", "mailspike.net", "mailspike.org"],
        "Mailspike lists the address of the sending server for its reputation.",
        Remedy(
            SenderServer,
            "Look the address up at https://mailspike.org/iplookup.html, remove the cause, ask there.",
            &["dig +short {reversed}.bl.mailspike.net"],
            AfterChange,
        ),
    ),
    known(
        "psbl",
        "PSBL",
        &["blocked using *psbl.surriel.com", "psbl.surriel.com", "psbl.org"],
        "The Passive Spam Block List has seen spam of this address in a trap.",
        Remedy(
            SenderServer,
            "Stop the spam, then remove the address yourself at https://psbl.org/remove.",
            &["dig +short {reversed}.psbl.surriel.com"],
            AfterChange,
        ),
    ),
    known(
        "nixspam",
        "NiX Spam",
        &["blocked using *ix.dnsbl.manitu.net", "ix.dnsbl.manitu.net", "nixspam"],
        "The recipient's server asks NiX Spam, a list that ended in January 2025.",
        Remedy(
            Recipient,
            "The administrator of {recipient} takes the list out of their configuration.",
            &[],
            AfterChange,
        ),
    ),
    known(
        "backscatterer",
        "Backscatterer",
        &["blocked using *ips.backscatterer.org", "ips.backscatterer.org", "backscatterer.org"],
        "The list has servers that send bounces or sender verification calls to people who never \
         wrote.",
        Remedy(
            SenderServer,
            "Refuse unknown recipients at RCPT instead of bouncing later, and stop verification calls.",
            &["dig +short {reversed}.ips.backscatterer.org"],
            AfterChange,
        ),
    ),
    known(
        "block-list",
        "any server",
        &[
            "blocked using",
            "blacklisted",
            "blocklisted",
            "is listed in",
            "is listed at",
            "on our blacklist",
            "on our black list",
            "on a blacklist",
            "dnsbl",
            "in rbl",
        ],
        "A block list has the address or the domain of the sender.",
        Remedy(
            SenderServer,
            "The reply names the list: find out there why, remove the cause, ask for removal.",
            &[ZEN, PTR],
            AfterChange,
        ),
    ),
];
