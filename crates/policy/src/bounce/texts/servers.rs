//! Mail servers: our own words, Postfix, Exim, Sendmail, qmail.

use super::Again::{AfterChange, ByItself, Later, Never};
use super::Side::{Nobody, Recipient, SenderDns, SenderServer, SendingUser};
use super::{Known, PTR, RECIPIENT_MX, Remedy, SENDER_MX, SPF, STARTTLS, known};

const POSTERN: &str = "Postern";
const POSTFIX: &str = "Postfix";
const EXIM: &str = "Exim";
const SENDMAIL: &str = "Sendmail";
const QMAIL: &str = "qmail";

pub(super) const KNOWN: &[Known] = &[
    known(
        "postern-relay",
        POSTERN,
        &["relay not permitted: * log in on port 587 or 465", "relay not permitted: * may not relay"],
        "The recipient's domain is foreign to this server, and the client was neither logged in nor \
         in a trusted network.",
        Remedy(
            SenderServer,
            "Set the mail program to this server's port 587 or 465 with user name and password. If the \
             server should take mail for {recipient}, its administrator adds the domain.",
            &[RECIPIENT_MX],
            AfterChange,
        ),
    ),
    known(
        "postern-sender",
        POSTERN,
        &["sender not permitted: * may not send as this address", "header not permitted: * may not send as"],
        "The login may not use this sender's address.",
        Remedy(
            SenderServer,
            "Use an address of the login, or have the administrator list this one in `send_as` of the \
             account.",
            &["posternctl account list"],
            AfterChange,
        ),
    ),
    known(
        "postern-login",
        POSTERN,
        &[
            "authentication required: use starttls and log in here",
            "authentication required: log in with auth first",
        ],
        "This port is for people who log in.",
        Remedy(SenderServer, "Switch on user name, password and TLS in the mail program.", &[], AfterChange),
    ),
    known(
        "postern-line-ends",
        POSTERN,
        &["message has bare cr or lf characters: lines must end with cr lf"],
        "Lines of the message end with CR or LF alone, which can hide a second message.",
        Remedy(
            SenderServer,
            "Correct the program that makes the message; for a known device the server can normalise the \
             lines.",
            &[],
            AfterChange,
        ),
    ),
    known(
        "relay-access-denied",
        POSTFIX,
        &["relay access denied"],
        "This server does not take mail for the recipient's domain, and does not pass it on for \
         strangers.",
        Remedy(
            SenderServer,
            "A mail program must log in on port 587 or 465. If nobody wanted to relay, the MX of \
             {recipient} points to a server that does not know the domain.",
            &[RECIPIENT_MX],
            AfterChange,
        ),
    ),
    known(
        "postfix-user-unknown",
        POSTFIX,
        &[
            "user unknown in virtual mailbox table",
            "user unknown in local recipient table",
            "user unknown in virtual alias table",
            "user unknown in relay recipient table",
        ],
        "There is no such mailbox in the recipient's domain.",
        Remedy(
            SendingUser,
            "Look for a typing error in the address, or ask the recipient for it.",
            &[],
            Never,
        ),
    ),
    known(
        "postfix-recipient-unverified",
        POSTFIX,
        &[
            "recipient address rejected: unverified address",
            "recipient address rejected: undeliverable address",
        ],
        "The server asked the next one whether the mailbox exists, and was told no, or got no answer.",
        Remedy(
            SendingUser,
            "Look for a typing error in the address; if it is right, tell the administrator of \
             {recipient}.",
            &[],
            AfterChange,
        ),
    ),
    known(
        "postfix-recipient-denied",
        POSTFIX,
        &["recipient address rejected: access denied"],
        "A rule of the recipient's server refuses mail to this address.",
        Remedy(Recipient, "Ask the administrator of {recipient} to look at the rule.", &[], AfterChange),
    ),
    known(
        "postfix-sender-not-owned",
        POSTFIX,
        &["sender address rejected: not owned by user", "sender address rejected: not logged in"],
        "The login may not use this sender's address.",
        Remedy(
            SenderServer,
            "Use the login's own address, or have the administrator grant this one; log in if there was \
             no login.",
            &[],
            AfterChange,
        ),
    ),
    known(
        "postfix-sender-domain",
        POSTFIX,
        &["sender address rejected: domain not found", "sender address rejected: malformed dns server reply"],
        "The domain of the envelope sender cannot be found in the DNS.",
        Remedy(
            SenderDns,
            "Use an existing domain as the sender, or give {sender} MX or address records.",
            &[SENDER_MX],
            AfterChange,
        ),
    ),
    known(
        "postfix-sender-denied",
        POSTFIX,
        &["sender address rejected: access denied"],
        "The recipient's server has a rule against this sender.",
        Remedy(
            Recipient,
            "Ask the administrator of {recipient} to take the sender off the rule.",
            &[],
            AfterChange,
        ),
    ),
    known(
        "postfix-sender-unverified",
        POSTFIX,
        &["sender address rejected: undeliverable address", "sender address rejected: unverified address"],
        "The server asked the sender's mail exchanger whether the sender exists, and was told no, or \
         got no answer.",
        Remedy(
            SenderServer,
            "Let the mail exchanger of {sender} accept mail to the sender's address, also from the null \
             sender.",
            &[SENDER_MX],
            AfterChange,
        ),
    ),
    known(
        "postfix-helo",
        POSTFIX,
        &["helo command rejected"],
        "The name that the sending server says in EHLO is not what the other side wants: a full name \
         that exists in the DNS.",
        Remedy(
            SenderServer,
            "Set the server's own name (`hostname`) to one that leads to {client} in the DNS.",
            &[PTR],
            AfterChange,
        ),
    ),
    known(
        "no-reverse-name",
        POSTFIX,
        &[
            "client host rejected: cannot find your hostname",
            "client host rejected: cannot find your reverse hostname",
            "cannot find your hostname",
            "cannot find your reverse hostname",
            "fix reverse dns for",
            "reverse dns lookup failed",
            "no reverse dns",
            "bad reverse dns",
            "ip reverse lookup rejected",
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
        "postfix-client-denied",
        POSTFIX,
        &["client host rejected: access denied"],
        "The recipient's server has a rule against the sending server.",
        Remedy(
            Recipient,
            "Ask the administrator of {recipient} to take the server off the rule.",
            &[],
            AfterChange,
        ),
    ),
    known(
        "greylisted",
        "any server",
        &[
            "greylisted",
            "greylisting",
            "grey-listed",
            "grey listed",
            "graylisted",
            "grey listing",
            "please try again later (grey",
        ],
        "The server takes mail from strangers at the second try only. A real server passes; a spam \
         program gives up.",
        Remedy(Nobody, "Wait: the next try comes by itself, in minutes.", &[], ByItself),
    ),
    known(
        "postscreen-busy",
        POSTFIX,
        &["service currently unavailable"],
        "The server tests the client before it talks to it, or is too busy.",
        Remedy(Nobody, "Wait: the next try passes.", &[], ByItself),
    ),
    known(
        "postfix-loop",
        POSTFIX,
        &[
            "loops back to myself",
            "loops back to this server",
            "mail loops back to me",
            "best-preference mx or a for that host, it isn't in my control/locals file",
        ],
        "The mail exchanger of the recipient's domain is this server, but it does not know the \
         domain as its own.",
        Remedy(
            Recipient,
            "Add {recipient} to the domains of the server, or correct the domain's MX.",
            &[RECIPIENT_MX],
            AfterChange,
        ),
    ),
    known(
        "domain-not-found",
        "any server",
        &[
            "host or domain name not found",
            "name service error for",
            "does not exist, or has neither mx nor address records",
            "host unknown (name server",
            "couldn't find any host named",
            "couldn't find any host by that name",
            "the domain name * does not exist",
        ],
        "The recipient's domain, or its mail server, is not in the DNS.",
        Remedy(SendingUser, "Look for a typing error behind the @.", &[RECIPIENT_MX], Never),
    ),
    known(
        "no-connection",
        "any server",
        &[
            "connection timed out",
            "recipient address rejected: unverified address: connect to",
            "connection refused",
            "network is unreachable",
            "no route to host",
            "connection failed:",
            "wasn't able to establish an smtp connection",
            "could not connect to",
        ],
        "The recipient's mail server cannot be reached on port 25.",
        Remedy(
            Recipient,
            "If other domains fail the same way, the sender's own network blocks port 25: ask its \
             provider. Otherwise the server of {recipient} is down.",
            &["nc -vz {host} 25", RECIPIENT_MX],
            Later,
        ),
    ),
    known(
        "connection-lost",
        "any server",
        &[
            "lost connection with",
            "connection lost at",
            "remote host closed connection",
            "connected to * but connection died",
            "conversation with * timed out",
        ],
        "The recipient's server ended the connection in the middle.",
        Remedy(
            Recipient,
            "If it is always at the same place, look for a firewall that inspects SMTP, or a filter that \
             takes too long.",
            &[],
            Later,
        ),
    ),
    known(
        "server-certificate",
        "any server",
        &[
            "server certificate not verified",
            "server certificate not trusted",
            "certificate verify failed",
            "certificate has expired",
        ],
        "The certificate of the next server does not verify, and this route or domain wants it to.",
        Remedy(
            Recipient,
            "The administrator of {host} installs a valid certificate for its name.",
            &[STARTTLS],
            AfterChange,
        ),
    ),
    known(
        "tls-not-offered",
        "any server",
        &[
            "tls is required, but was not offered",
            "tls is required, and the host does not offer starttls",
            "a tls session is required, but the server did not offer tls support",
        ],
        "The sender's side must use TLS to this server (a setting, MTA-STS or DANE), and the server \
         does not offer it.",
        Remedy(Recipient, "The mail server of {recipient} must offer STARTTLS.", &[STARTTLS], AfterChange),
    ),
    known(
        "mta-sts",
        "any server",
        &["mta-sts", "sts policy"],
        "The recipient's domain promises TLS by MTA-STS, and its mail server or its policy does not \
         keep it.",
        Remedy(
            Recipient,
            "The administrator of {recipient} lists every MX in the policy, and gives each a valid \
             certificate.",
            &[
                "dig +short TXT _mta-sts.{recipient}",
                "curl https://mta-sts.{recipient}/.well-known/mta-sts.txt",
                STARTTLS,
            ],
            AfterChange,
        ),
    ),
    known(
        "dane",
        "any server",
        &["tlsa", "dane failed", "dane required", "dane validation"],
        "The TLSA record of the recipient's mail server does not fit its certificate.",
        Remedy(
            Recipient,
            "The administrator of {recipient} publishes the TLSA record of the new certificate.",
            &["dig +dnssec TLSA _25._tcp.{host}", STARTTLS],
            AfterChange,
        ),
    ),
    known(
        "postfix-content",
        POSTFIX,
        &["message content rejected"],
        "A rule for headers or bodies on the recipient's server refuses this message.",
        Remedy(Recipient, "Ask the administrator of {recipient} which rule it was.", &[], AfterChange),
    ),
    known(
        "postfix-size",
        POSTFIX,
        &["message size exceeds fixed limit", "message file too big", "exceeds my databytes limit"],
        "The message is larger than the server takes; attachments grow by a third on the way.",
        Remedy(SendingUser, "Send less, or a link to it.", &[], Never),
    ),
    known(
        "bare-linefeed",
        "any server",
        &["bare <lf> received", "bare lf ", "bare linefeed", "stray newline", "smtpd: bare newline"],
        "Lines end with LF alone; since they can hide a second message, servers refuse them.",
        Remedy(
            SenderServer,
            "Correct the program that makes the message: lines end with CR LF.",
            &[],
            AfterChange,
        ),
    ),
    known(
        "exim-relay",
        EXIM,
        &["relay not permitted"],
        "This server does not take mail for the recipient's domain, and does not pass it on for \
         strangers.",
        Remedy(
            SenderServer,
            "A mail program must log in on port 587 or 465. If nobody wanted to relay, the MX of \
             {recipient} points to a server that does not know the domain.",
            &[RECIPIENT_MX],
            AfterChange,
        ),
    ),
    known(
        "administrative-prohibition",
        EXIM,
        &["administrative prohibition"],
        "A rule of the server forbids it, and the administrator gave no other words for it.",
        Remedy(
            SenderServer,
            "Check what such rules look at: login, PTR record, EHLO name, SPF, block lists. If all are \
             well, ask the administrator of {recipient}.",
            &[PTR, SPF, "dig +short {reversed}.zen.spamhaus.org"],
            AfterChange,
        ),
    ),
    known(
        "exim-sender-verify",
        EXIM,
        &[
            "sender verify failed",
            "callback setup failed while verifying",
            "could not complete sender verify",
        ],
        "The server asked the sender's mail exchanger whether the sender exists, and got no or no \
         answer.",
        Remedy(
            SenderServer,
            "Let the mail exchanger of {sender} accept mail to the sender's address, also from the null \
             sender.",
            &[SENDER_MX],
            AfterChange,
        ),
    ),
    known(
        "exim-unrouteable",
        EXIM,
        &["unrouteable address", "unroutable address"],
        "The server knows no way to this address: the domain does not exist, or the mailbox is not \
         there.",
        Remedy(SendingUser, "Look for a typing error in the address.", &[RECIPIENT_MX], Never),
    ),
    known(
        "exim-retry-timeout",
        EXIM,
        &[
            "retry timeout exceeded",
            "retry time not reached for any host after a long failure period",
            "long-term failure",
        ],
        "The recipient's mail server has not answered for days; the server stopped trying.",
        Remedy(
            Recipient,
            "See whether the mail server of {recipient} answers on port 25, and from where; then send \
             again.",
            &[RECIPIENT_MX],
            Later,
        ),
    ),
    known(
        "exim-mx-nowhere",
        EXIM,
        &[
            "all relevant mx records point to non-existent hosts",
            "no mx host of * has an address",
            "all host address lookups failed permanently",
        ],
        "The MX records of the recipient's domain name hosts that do not exist.",
        Remedy(
            Recipient,
            "The administrator of {recipient} corrects the MX records.",
            &[RECIPIENT_MX],
            AfterChange,
        ),
    ),
    known(
        "null-mx",
        "any server",
        &[
            "an mx or srv record indicated no smtp service",
            "does not take mail (null mx)",
            "does not accept mail (nullmx)",
            "domain service not available (null mx)",
            "recipient address has null mx",
        ],
        "The recipient's domain says in the DNS that it takes no mail.",
        Remedy(
            SendingUser,
            "Look for a typing error behind the @, or ask the recipient for another address.",
            &[RECIPIENT_MX],
            Never,
        ),
    ),
    known(
        "exim-lookup",
        EXIM,
        &["host lookup did not complete", "lookup of host * did not complete"],
        "The name servers of the recipient's domain did not answer.",
        Remedy(
            Recipient,
            "Look at the name servers of {recipient}.",
            &["dig NS {recipient}", RECIPIENT_MX],
            ByItself,
        ),
    ),
    known(
        "exim-black-list",
        EXIM,
        &[
            "rejected because * is in a black list",
            "is in a black list at",
            "found in one or more dns blacklists",
            "junkmail rejected",
        ],
        "The recipient's server refuses the sending server because a block list has it.",
        Remedy(
            SenderServer,
            "The reply names the list: find out there why, remove the cause, ask for removal.",
            &["dig +short {reversed}.zen.spamhaus.org", PTR],
            AfterChange,
        ),
    ),
    known(
        "exim-helo",
        EXIM,
        &["invalid helo name", "syntactically invalid helo", "helo/ehlo argument", "invalid helo"],
        "The name that the sending server says in EHLO is not a full, valid host name.",
        Remedy(
            SenderServer,
            "Set the server's own name (`hostname`) to one that leads to {client} in the DNS.",
            &[PTR],
            AfterChange,
        ),
    ),
    known(
        "cpanel-rate",
        EXIM,
        &["has exceeded the max emails per hour", "has exceeded the max defers and failures per hour"],
        "The sender's hosting provider lets this domain send only so many messages an hour.",
        Remedy(
            SenderServer,
            "Wait an hour. If it comes again, find the script or the stolen login that sends so much, or \
             ask the provider for more.",
            &[],
            Later,
        ),
    ),
    known(
        "sendmail-relay",
        SENDMAIL,
        &[
            "relaying denied",
            "relaying denied. proper authentication required",
            "we do not relay",
            "relaying not allowed",
            "not permitted to relay",
            "relay denied",
            "relaying is not allowed",
        ],
        "This server does not take mail for the recipient's domain, and does not pass it on for \
         strangers.",
        Remedy(
            SenderServer,
            "A mail program must log in on port 587 or 465. If nobody wanted to relay, the MX of \
             {recipient} points to a server that does not know the domain.",
            &[RECIPIENT_MX],
            AfterChange,
        ),
    ),
    known(
        "sendmail-relay-name",
        SENDMAIL,
        &[
            "relaying denied. ip name lookup failed",
            "relaying denied. ip name possibly forged",
            "ip name possibly forged",
        ],
        "The server would relay for a known host, but the name of the client's address cannot be \
         found or does not lead back.",
        Remedy(
            SenderDns,
            "Give {client} a PTR record that leads back to it; or let the client log in.",
            &[PTR],
            AfterChange,
        ),
    ),
    known(
        "sendmail-sender-domain",
        SENDMAIL,
        &[
            "domain of sender address * does not exist",
            "domain of sender address * does not resolve",
            "sender domain must exist",
            "sender domain must resolve",
        ],
        "The domain of the envelope sender cannot be found in the DNS.",
        Remedy(
            SenderDns,
            "Use an existing domain as the sender, or give {sender} MX or address records.",
            &[SENDER_MX],
            AfterChange,
        ),
    ),
    known(
        "access-denied",
        SENDMAIL,
        &["access denied", "you are not allowed to connect"],
        "A rule of the server refuses this client or sender.",
        Remedy(
            Recipient,
            "Check the PTR record and block lists; if they are well, ask the administrator of \
             {recipient} to look at their rules.",
            &[PTR, "dig +short {reversed}.zen.spamhaus.org"],
            AfterChange,
        ),
    ),
    known(
        "too-many-connections",
        "any server",
        &[
            "connection rate limit exceeded",
            "too many connections",
            "too many open connections",
            "too many concurrent",
            "connection limit exceeded",
        ],
        "The sending server opens more connections at a time than the other side allows.",
        Remedy(
            Nobody,
            "Wait. If it lasts, let the server open fewer connections to this domain.",
            &[],
            ByItself,
        ),
    ),
    known(
        "qmail-rcpthosts",
        QMAIL,
        &[
            "sorry, that domain isn't in my list of allowed rcpthosts",
            "isn't in my list of allowed rcpthosts",
        ],
        "This server does not take mail for the recipient's domain, and does not pass it on for \
         strangers.",
        Remedy(
            SenderServer,
            "A mail program must log in, or the administrator adds {recipient} to the server's domains; \
             if nobody wanted to relay, the MX of {recipient} is wrong.",
            &[RECIPIENT_MX],
            AfterChange,
        ),
    ),
    known(
        "qmail-cname",
        QMAIL,
        &["cname lookup failed temporarily"],
        "The sending qmail could not look the recipient's domain up; with large DNS answers an \
         unpatched one always fails.",
        Remedy(
            SenderServer,
            "Look at the resolver of the sending server; an unpatched qmail needs the patch for DNS \
             answers over 512 octets.",
            &["dig ANY {recipient}"],
            ByItself,
        ),
    ),
    known(
        "qmail-no-mailbox",
        QMAIL,
        &["sorry, no mailbox here by that name"],
        "There is no such mailbox in the recipient's domain.",
        Remedy(
            SendingUser,
            "Look for a typing error in the address, or ask the recipient for it.",
            &[],
            Never,
        ),
    ),
    known(
        "qmail-sender-listed",
        QMAIL,
        &["your envelope sender is in my badmailfrom list"],
        "The recipient's server has the sender's address on its own list.",
        Remedy(
            Recipient,
            "Ask the administrator of {recipient} to take it off badmailfrom.",
            &[],
            AfterChange,
        ),
    ),
    known(
        "qmail-too-long",
        QMAIL,
        &["this message has been in the queue too long"],
        "The message waited as long as the server lets it; the words before say what stood in the \
         way.",
        Remedy(
            Recipient,
            "See whether the mail server of {recipient} answers; then send again.",
            &[RECIPIENT_MX],
            Later,
        ),
    ),
];
