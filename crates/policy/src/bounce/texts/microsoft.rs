//! Microsoft 365, Outlook.com, and Exchange on one's own premises.

use super::Again::{AfterChange, ByItself, Later, Never};
use super::Side::{Nobody, Recipient, SenderDns, SenderServer, SendingUser};
use super::{
    DKIM, DMARC, Known, PTR, RECIPIENT_MX, Remedy, SPF, STARTTLS, WHO_SENDS, known, one, shared, span,
};

const M365: &str = "Microsoft 365";
const OUTLOOK: &str = "Outlook.com";
const EXCHANGE: &str = "Exchange";

pub(super) const KNOWN: &[Known] = &[
    known(
        "microsoft-recipient-access-denied",
        M365,
        &[
            "5.4.1 recipient address rejected: access denied",
            "5.7.504 recipient address rejected: access denied",
        ],
        "Microsoft 365 does not know this recipient: no such mailbox, or the domain is not set up \
         there (or not yet).",
        Remedy(
            Recipient,
            "First look for a typing error. If the address is right, the administrator of {recipient} \
             must create the mailbox, finish setting up the domain, or correct its MX.",
            &[RECIPIENT_MX],
            AfterChange,
        ),
    ),
    known(
        "microsoft-tenant-attribution",
        M365,
        &["5.7.64 tenantattribution; relay access denied", "tenantattribution"],
        "Microsoft 365 does not know the server as one of this organisation: no connector fits its \
         address or certificate.",
        Remedy(
            SenderServer,
            "In Microsoft 365, correct the inbound connector: its address must be {client}, or its \
             certificate that of the server.",
            &[],
            AfterChange,
        ),
    ),
    known(
        "microsoft-banned-ip",
        M365,
        &["access denied, banned sending ip"],
        "Microsoft has banned the address of the sending server.",
        Remedy(
            SenderServer,
            "Stop what earned it, then ask for removal at https://sender.office.com with the address \
             {client}.",
            &[WHO_SENDS, PTR],
            AfterChange,
        ),
    )
    .with_codes(&[span(5, 7, 606, 649)]),
    known(
        "microsoft-banned-sender",
        M365,
        &["access denied, banned sender"],
        "Microsoft has banned the sending server or sender, and wants to hear from its administrator.",
        Remedy(
            SenderServer,
            "Stop what earned it, then send the whole reply to delist@microsoft.com.",
            &[WHO_SENDS],
            AfterChange,
        ),
    )
    .with_codes(&[one(5, 7, 511)]),
    known(
        "microsoft-spam-abuse",
        M365,
        &["access denied, spam abuse detected"],
        "Microsoft has banned this account because it sent spam.",
        Remedy(
            SenderServer,
            "Change the account's password, look for rules that somebody else made, then ask Microsoft's \
             support to lift the ban.",
            &[WHO_SENDS],
            AfterChange,
        ),
    )
    .with_codes(&[span(5, 7, 501, 503)]),
    known(
        "outlook-authentication-level",
        OUTLOOK,
        &[
            "sending domain * does not meet the required authentication level",
            "doesn't meet the required authentication level",
        ],
        "Outlook.com wants SPF, DKIM and DMARC from who sends much, and at least one of them did not \
         pass.",
        Remedy(
            SenderDns,
            "Let SPF and DKIM pass for {sender}, and publish a DMARC record. The end of the reply says \
             which one failed.",
            &[SPF, DKIM, DMARC],
            AfterChange,
        ),
    )
    .with_codes(&[one(5, 7, 515)]),
    known(
        "microsoft-dmarc",
        M365,
        &[
            "sending domain * does not pass dmarc verification",
            "does not pass dmarc verification and has a dmarc policy of reject",
        ],
        "The domain in the From field asks by DMARC to refuse mail that it did not authorise, and \
         this mail passed neither SPF nor DKIM for that domain.",
        Remedy(
            SenderDns,
            "Sign as {sender}, and name the sending server in its SPF record.",
            &[DMARC, SPF, DKIM],
            AfterChange,
        ),
    )
    .with_codes(&[one(5, 7, 509)]),
    known(
        "microsoft-spf",
        M365,
        &["the message was rejected because of sender policy framework violation"],
        "The SPF record of the sender's domain does not allow the server that sent.",
        Remedy(SenderDns, "Add the sending server to the SPF record of {sender}.", &[SPF], AfterChange),
    ),
    known(
        "microsoft-client-not-authenticated",
        M365,
        &[
            "client was not authenticated to send anonymous mail during mail from",
            "client not authenticated to send mail",
        ],
        "A device or program sends through Microsoft 365 without logging in.",
        Remedy(
            SenderServer,
            "Let it log in at smtp.office365.com on port 587, or give it a connector of its own.",
            &[],
            AfterChange,
        ),
    )
    .with_codes(&[one(5, 7, 57)]),
    known(
        "microsoft-login-disabled",
        M365,
        &[
            "smtpclientauthentication is disabled",
            "authentication unsuccessful, basic authentication is disabled",
        ],
        "Microsoft 365 has SMTP logins switched off for this account or organisation.",
        Remedy(
            SenderServer,
            "The administrator in Microsoft 365 allows authenticated SMTP for the mailbox, or the \
             program uses OAuth.",
            &[],
            AfterChange,
        ),
    )
    .with_codes(&[one(5, 7, 139)]),
    known(
        "exchange-send-as",
        EXCHANGE,
        &["client does not have permissions to send as this sender", "sendasdenied"],
        "The login may not send as the address in From or in the envelope.",
        Remedy(
            SenderServer,
            "Grant the login \"Send As\" for that mailbox, or let the program use the login's own \
             address.",
            &[],
            AfterChange,
        ),
    )
    .with_codes(&[one(5, 7, 60), one(5, 2, 252)]),
    known(
        "exchange-client-not-authenticated",
        EXCHANGE,
        &["5.7.1 client was not authenticated"],
        "This Exchange server takes no mail from outside without a login: its receive connector does \
         not allow anonymous clients.",
        Remedy(
            Recipient,
            "If this is the domain's mail exchanger, allow anonymous users on its receive connector; a \
             program of their own must log in.",
            &[RECIPIENT_MX],
            AfterChange,
        ),
    ),
    known(
        "exchange-unable-to-relay",
        EXCHANGE,
        &["unable to relay"],
        "This server does not take mail for the recipient's domain, and does not pass it on for \
         strangers.",
        Remedy(
            SenderServer,
            "A program of one's own must log in or use a relay connector. A stranger's mail came here \
             because the MX of {recipient} is wrong, or the domain is no accepted domain.",
            &[RECIPIENT_MX],
            AfterChange,
        ),
    ),
    known(
        "exchange-group-authenticated",
        EXCHANGE,
        &[
            "sender not authenticated for group",
            "resolver.rst.sendernotauthenticatedforgroup",
            "resolver.rst.authrequired; authentication required",
            "resolver.rst.senderauthenticationrequired",
        ],
        "The group takes mail from inside its organisation only.",
        Remedy(
            Recipient,
            "The owner of the group allows senders from outside, or the sender asks a member to pass it \
             on.",
            &[],
            AfterChange,
        ),
    )
    .with_codes(&[one(5, 7, 133)]),
    known(
        "exchange-mailbox-authenticated",
        EXCHANGE,
        &[
            "sender was not authenticated for mailbox",
            "resolver.rst.sendernotauthenticatedformailbox",
            "sender was not authenticated by organization",
            "sender was not authenticated for public folder",
        ],
        "The mailbox takes mail from inside its organisation only.",
        Remedy(
            Recipient,
            "The administrator of {recipient} allows senders from outside for it.",
            &[],
            AfterChange,
        ),
    )
    .with_codes(&[span(5, 7, 134, 136)])
    .with_shared_codes(&[shared(5, 7, 12), shared(5, 7, 13)]),
    known(
        "exchange-sender-not-allowed",
        EXCHANGE,
        &[
            "sender not in allowed-senders list",
            "resolver.rst.restrictedtorecipientspermission",
            "resolver.rst.notauthorized",
        ],
        "The group or mailbox takes mail from certain senders only, and this one is not on its list.",
        Remedy(Recipient, "The owner of the group or mailbox admits the sender.", &[], AfterChange),
    )
    .with_codes(&[one(5, 7, 124), one(5, 7, 129)]),
    known(
        "exchange-recipient-not-found",
        EXCHANGE,
        &[
            "resolver.adr.recipientnotfound",
            "recipient not found by smtp address lookup",
            "resolver.adr.recipnotfound",
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
        "exchange-old-address-book",
        EXCHANGE,
        &["resolver.adr.exrecipnotfound"],
        "The mail program used an old internal address from its auto-complete list; the mailbox was \
         moved or made anew.",
        Remedy(
            SendingUser,
            "Delete the suggestion for this recipient in the mail program, and type the address in full.",
            &[],
            AfterChange,
        ),
    ),
    known(
        "exchange-loop",
        EXCHANGE,
        &["hop count exceeded - possible mail loop", "5.4.14 hop count exceeded", "resolver.fwd.loop"],
        "The message went round in circles between two mail systems.",
        Remedy(
            Recipient,
            "The administrator of {recipient} finds the forwarding, connector or MX that leads back, and \
             ends it.",
            &[RECIPIENT_MX],
            AfterChange,
        ),
    )
    .with_codes(&[one(5, 4, 14)]),
    known(
        "exchange-recipient-size",
        EXCHANGE,
        &["resolver.rst.recipsizelimit", "message too large for this recipient"],
        "The message is larger than this recipient may get.",
        Remedy(SendingUser, "Send less, or a link to it.", &[], Never),
    ),
    known(
        "exchange-size",
        EXCHANGE,
        &[
            "message size exceeds fixed maximum message size",
            "resolver.rst.sendsizelimit",
            "smtpsend.overadvertisedsizelimit",
        ],
        "The message is larger than the server takes; attachments grow by a third on the way.",
        Remedy(SendingUser, "Send less, or a link to it.", &[], Never),
    ),
    known(
        "exchange-mailbox-full",
        EXCHANGE,
        &[
            "storedrv.deliver; mailbox full",
            "storedrv.deliver.exception:quotaexceededexception",
            "mapiexceptionshutoffquotaexceeded",
        ],
        "The recipient's mailbox is full.",
        Remedy(
            Recipient,
            "The recipient makes room, or the administrator raises the quota.",
            &[],
            AfterChange,
        ),
    ),
    known(
        "microsoft-throttled",
        M365,
        &["server busy. please try again later from"],
        "Microsoft slows this address down until it knows it better.",
        Remedy(
            Nobody,
            "Wait; new servers go through this for some days. If it lasts, look for what sends so much.",
            &[WHO_SENDS, PTR],
            ByItself,
        ),
    )
    .with_codes(&[span(4, 7, 500, 649), span(4, 7, 651, 699)]),
    known(
        "outlook-rate-limited",
        OUTLOOK,
        &["has been temporarily rate limited due to ip reputation"],
        "Outlook.com slows this address down because of its reputation.",
        Remedy(
            SenderServer,
            "Send slowly, stop what earned it, and watch the address at \
             https://sendersupport.olc.protection.outlook.com/snds.",
            &[WHO_SENDS, PTR],
            ByItself,
        ),
    )
    .with_codes(&[one(4, 7, 650)]),
    known(
        "outlook-block-list",
        OUTLOOK,
        &[
            "since part of their network is on our block list",
            "unfortunately, messages from * weren't sent",
            "is on our block list (s3140)",
            "is on our block list (s3150)",
            "(s3140)",
            "(s3150)",
        ],
        "Outlook.com blocks the address, or the whole network it is in.",
        Remedy(
            SenderServer,
            "Ask for removal at https://olcsupport.office.com with {client}; if the network is meant, \
             its provider has to, or another address is needed.",
            &[PTR],
            AfterChange,
        ),
    ),
    known(
        "outlook-no-such-user",
        OUTLOOK,
        &["requested action not taken: mailbox unavailable"],
        "There is no such mailbox at Outlook.com or Hotmail, or it is switched off.",
        Remedy(
            SendingUser,
            "Look for a typing error in the address, or ask the recipient for it.",
            &[],
            Never,
        ),
    ),
    known(
        "microsoft-customer-block-list",
        M365,
        &["blocked by * using customer block list", "using customer block list"],
        "The recipient's organisation itself has blocked the address of the sending server.",
        Remedy(
            Recipient,
            "Ask the administrator of {recipient} to take {client} off their own list.",
            &[],
            AfterChange,
        ),
    )
    .with_codes(&[one(5, 7, 513)]),
    known(
        "microsoft-rejected-by-recipient",
        M365,
        &["access denied, rejected by recipient"],
        "The recipient's organisation has blocked this server or sender.",
        Remedy(Recipient, "Ask the administrator of {recipient} to allow it.", &[], AfterChange),
    )
    .with_codes(&[one(5, 7, 507)]),
    known(
        "microsoft-helo",
        M365,
        &["access denied, bad helo"],
        "The sending server greets with the name of the server it speaks to.",
        Remedy(SenderServer, "Let the sending server say its own full name in EHLO.", &[PTR], AfterChange),
    )
    .with_codes(&[one(5, 7, 506)]),
    known(
        "microsoft-no-ipv6",
        M365,
        &["does not accept email over ipv6"],
        "The recipient's organisation takes no mail over IPv6.",
        Remedy(SenderServer, "Send to this domain over IPv4.", &[RECIPIENT_MX], AfterChange),
    )
    .with_codes(&[one(5, 7, 510)]),
    known(
        "microsoft-ipv6-authentication",
        M365,
        &["a message sent over ipv6 * must pass either spf or dkim validation"],
        "Over IPv6 Microsoft wants SPF or DKIM to pass.",
        Remedy(
            SenderDns,
            "Name {client} in the SPF record of {sender} and sign the mail, or send over IPv4.",
            &[SPF, DKIM],
            AfterChange,
        ),
    ),
    known(
        "microsoft-ipv6-ptr",
        M365,
        &["the sending ipv6 address * must have a reverse dns record"],
        "Over IPv6 Microsoft wants a PTR record.",
        Remedy(
            SenderDns,
            "Give {client} a PTR record that leads back to it, or send over IPv4.",
            &[PTR],
            AfterChange,
        ),
    ),
    known(
        "microsoft-from-header",
        M365,
        &["message must be rfc 5322 section 3.6.2 compliant"],
        "The From field has no valid address.",
        Remedy(
            SenderServer,
            "Let the program that makes the message write one address into From.",
            &[],
            AfterChange,
        ),
    )
    .with_codes(&[one(5, 7, 512)]),
    known(
        "microsoft-tenant-threshold",
        M365,
        &["access denied, tenant has exceeded threshold", "access denied, traffic not accepted from this ip"],
        "Microsoft has stopped the sending of this organisation: its traffic looked like spam, or it \
         is new.",
        Remedy(
            SenderServer,
            "Close stolen accounts and open relays, register the domains that send, then ask Microsoft's \
             support.",
            &[],
            AfterChange,
        ),
    )
    .with_codes(&[span(5, 7, 700, 749)]),
    known(
        "microsoft-unregistered-domain",
        M365,
        &["client blocked from sending from unregistered domain"],
        "Mail goes out through Microsoft 365 from a domain that the organisation has not registered \
         there.",
        Remedy(
            SenderServer,
            "Add and verify {sender} in Microsoft 365, or send from a domain that is.",
            &[],
            AfterChange,
        ),
    )
    .with_codes(&[one(5, 7, 750)]),
    known(
        "microsoft-bad-outbound-sender",
        M365,
        &["access denied, bad outbound sender"],
        "Microsoft 365 has blocked the sending account, most often because it was taken over and \
         sent spam.",
        Remedy(
            SenderServer,
            "Change the account's password, look for rules that somebody else made, then take it off \
             \"Restricted users\".",
            &[],
            AfterChange,
        ),
    ),
    known(
        "microsoft-daily-limit",
        M365,
        &["you've reached your daily limit for message recipients", "submission quota exceeded"],
        "The account has sent all that Microsoft lets it send in a day.",
        Remedy(
            Nobody,
            "Wait a day. If it was not you, the login is stolen: change its password.",
            &[],
            Later,
        ),
    )
    .with_codes(&[one(5, 1, 90)]),
    known(
        "microsoft-external-forwarding",
        M365,
        &["your organization does not allow external forwarding"],
        "A mailbox forwards to the outside, and its organisation forbids that.",
        Remedy(
            Recipient,
            "The administrator of the forwarding organisation allows it in the outbound spam policy, or \
             the forwarding ends.",
            &[],
            AfterChange,
        ),
    )
    .with_codes(&[one(5, 7, 520)]),
    known(
        "exchange-transport-rule",
        EXCHANGE,
        &["transport.rules.rejectmessage"],
        "A mail flow rule of the organisation refuses this message.",
        Remedy(
            Recipient,
            "Ask the administrator who made the rule; the end of the reply may say what it is about.",
            &[],
            AfterChange,
        ),
    )
    .with_codes(&[span(5, 7, 900, 999)]),
    known(
        "exchange-content-filter",
        EXCHANGE,
        &["message rejected as spam by content filtering", "message rejected due to content restrictions"],
        "The content filter of the recipient's Exchange holds it for spam.",
        Remedy(
            Recipient,
            "Ask the administrator of {recipient} to allow the sender; meanwhile say it in other words.",
            &[SPF, DMARC],
            AfterChange,
        ),
    ),
    known(
        "exchange-expired",
        EXCHANGE,
        &[
            "queue.expired; message expired",
            "storedrv.deliver; message expired",
            "5.4.300 message expired",
            "message expired, connection reset",
        ],
        "The message waited as long as the server lets it, and the next server never took it.",
        Remedy(
            Recipient,
            "The last error in the bounce says why; most often the mail server of {recipient} does not \
             answer.",
            &[RECIPIENT_MX],
            Later,
        ),
    )
    .with_codes(&[one(5, 4, 300)]),
    known(
        "microsoft-domain-not-found",
        M365,
        &["dns domain * does not exist", "smtpsend.dns.nonexistentdomain"],
        "The recipient's domain is not in the DNS.",
        Remedy(SendingUser, "Look for a typing error behind the @.", &[RECIPIENT_MX], Never),
    )
    .with_codes(&[one(5, 4, 310)]),
    known(
        "outlook-domain-unreachable",
        OUTLOOK,
        &["could not be delivered to the recipient because the domain is not reachable"],
        "The recipient's domain has no mail server that answers.",
        Remedy(
            SendingUser,
            "Look for a typing error behind the @; if there is none, tell the recipient another way.",
            &[RECIPIENT_MX],
            Later,
        ),
    ),
    known(
        "microsoft-starttls-needed",
        M365,
        &[
            "starttls-not-supported: destination mail server must support tls to receive mail",
            "starttls is required to send mail",
        ],
        "Microsoft 365 must use TLS to this server (DANE, MTA-STS or a connector), and the server \
         does not offer it.",
        Remedy(
            Recipient,
            "The mail server of {recipient} must offer STARTTLS with a valid certificate.",
            &[STARTTLS],
            AfterChange,
        ),
    )
    .with_codes(&[one(4, 7, 321), one(5, 7, 321), one(4, 4, 317), one(5, 4, 317)]),
    known(
        "microsoft-certificate-expired",
        M365,
        &["certificate-expired: destination mail server's certificate is expired"],
        "The certificate of the recipient's mail server has expired.",
        Remedy(Recipient, "Renew the certificate of {host}.", &[STARTTLS], AfterChange),
    )
    .with_codes(&[one(4, 7, 322), one(5, 7, 322)]),
    known(
        "microsoft-dane",
        M365,
        &[
            "tlsa-invalid: the domain failed dane validation",
            "dnssec-invalid: destination domain returned invalid dnssec records",
            "certificate-host-mismatch: remote certificate must have a common name or subject \
             alternative name matching the hostname (dane)",
        ],
        "The TLSA record of the recipient's mail server does not fit its certificate, or DNSSEC of \
         its domain is broken.",
        Remedy(
            Recipient,
            "The administrator of {recipient} corrects the TLSA record after the change of certificate, \
             or repairs DNSSEC.",
            &["dig +dnssec TLSA _25._tcp.{host}", STARTTLS],
            AfterChange,
        ),
    )
    .with_codes(&[span(4, 7, 323, 325), span(5, 7, 323, 325)]),
    known(
        "microsoft-recipient-rate",
        M365,
        &[
            "recipient's per hour message receive limit",
            "storedrv.deliver; recipient thread limit exceeded",
            "the recipient has exceeded their limit for",
        ],
        "The recipient is getting more mail than Microsoft allows at a time.",
        Remedy(
            Nobody,
            "Wait. If it is our mail that floods the mailbox, find the program that sends it.",
            &[WHO_SENDS],
            Later,
        ),
    )
    .with_codes(&[span(5, 2, 121, 122)]),
    known(
        "microsoft-suspicious",
        M365,
        &["access denied, please try again later"],
        "Microsoft looks at this address more closely, and takes nothing from it meanwhile.",
        Remedy(Nobody, "Wait some hours. If it lasts, look for what sends so much.", &[WHO_SENDS], ByItself),
    )
    .with_codes(&[span(4, 7, 850, 899)]),
    known(
        "exchange-bare-linefeeds",
        EXCHANGE,
        &["smtpsend.barelinefeedsareillegal", "message contains bare linefeeds"],
        "Lines of the message end with LF alone, and the next server does not take that.",
        Remedy(
            SenderServer,
            "Correct the program that makes the message: lines end with CR LF.",
            &[],
            AfterChange,
        ),
    )
    .with_codes(&[one(5, 6, 11)]),
    known(
        "microsoft-external-error",
        M365,
        &["remote server returned message denied by administrative policy"],
        "A server behind Microsoft 365 refused the message; its own words stand behind the arrow.",
        Remedy(Recipient, "Go by the words behind the arrow.", &[], AfterChange),
    )
    .with_codes(&[one(5, 0, 350), one(5, 1, 351), span(5, 7, 350, 351)]),
];
