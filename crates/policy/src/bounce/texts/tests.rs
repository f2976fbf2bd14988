#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::bounce::Side::{Nobody, Recipient, SenderDns, SenderServer, SendingUser};
use crate::bounce::explain;

/// Replies as servers write them, with names and addresses changed; the entry that each must find, and whose move it is.
const REPLIES: &[(&str, Side, &str)] = &[
    // Gmail
    (
        "gmail-unauthenticated",
        SenderDns,
        "550-5.7.26 This mail has been blocked because the sender is unauthenticated. 550-5.7.26 Gmail requires all senders to authenticate with either SPF or DKIM. 550-5.7.26 550-5.7.26 Authentication results: 550-5.7.26 DKIM = did not pass 550-5.7.26 SPF [proseware.test] with ip: [203.0.113.25] = did not pass 550-5.7.26 550 5.7.26 https://support.google.com/mail/answer/81126#authentication ffacd0b85a97d-3a4f - gsmtp",
    ),
    (
        "gmail-unauthenticated",
        SenderDns,
        "550-5.7.26 This message does not have authentication information or fails to pass authentication checks (SPF or DKIM). To best protect our users from spam, the message has been blocked.",
    ),
    (
        "gmail-dmarc",
        SenderDns,
        "550-5.7.26 Unauthenticated email from proseware.test is not accepted due to domain's DMARC policy. Please contact the administrator of proseware.test domain if this was a legitimate mail.",
    ),
    (
        "gmail-spf-hard-fail",
        SenderDns,
        "550-5.7.26 The MAIL FROM domain [proseware.test] has an SPF record with a hard fail policy (-all) but it fails to pass SPF checks with the ip: [203.0.113.25]. To best protect our users from spam and phishing, the message has been blocked.",
    ),
    (
        "gmail-spf-needed",
        SenderDns,
        "550-5.7.27 This mail has been blocked because SPF does not pass. Gmail requires all large senders to authenticate with SPF. Authentication results: SPF proseware.test with ip: 203.0.113.25 = Did not pass.",
    ),
    (
        "gmail-spf-record",
        SenderDns,
        "451 4.7.24 The SPF record of the sending domain has one or more suspicious entries. To protect our users from spam, mail sent from your IP address has been temporarily rate limited.",
    ),
    (
        "gmail-dkim-needed",
        SenderDns,
        "550-5.7.30 This mail has been blocked because DKIM does not pass. Gmail requires all large senders to authenticate with DKIM. Authentication results: DKIM = did not pass.",
    ),
    (
        "gmail-alignment",
        SenderDns,
        "421-4.7.32 Your email has been rate limited because the From: header (RFC5322) in this message isn't aligned with either the authenticated SPF or DKIM organizational domain.",
    ),
    (
        "gmail-no-dmarc",
        SenderDns,
        "421-4.7.40 Your email has been rate limited because the sending domain doesn't have a DMARC record, or the DMARC record doesn't specify a DMARC policy.",
    ),
    (
        "gmail-tls-needed",
        SenderServer,
        "421-4.7.29 Your email has been rate limited because this message wasn't sent over a TLS connection. Gmail requires all bulk email senders to use TLS/SSL for SMTP connections.",
    ),
    (
        "gmail-tls-recipient",
        SenderServer,
        "421 4.7.0 TLS required for RCPT domain, closing connection. For more information, go to Email encryption in transit.",
    ),
    (
        "gmail-rate",
        SenderServer,
        "421-4.7.28 Gmail has detected an unusual rate of unsolicited mail originating from your IP address. To protect our users from spam, mail sent from your IP address has been temporarily rate limited. - gsmtp",
    ),
    (
        "gmail-rate",
        SenderServer,
        "421-4.7.0 [203.0.113.25 15] Our system has detected an unusual rate of unsolicited mail originating from your IP address. To protect our users from spam, mail sent from your IP address has been temporarily blocked.",
    ),
    (
        "gmail-unsolicited",
        SenderServer,
        "550-5.7.1 [203.0.113.25] Gmail has detected that this message is likely unsolicited mail. To reduce the amount of spam sent to Gmail, this message has been blocked. 550 5.7.1 https://support.google.com/mail/?p=UnsolicitedMessageError - gsmtp",
    ),
    (
        "gmail-content",
        SendingUser,
        "421-4.7.0 This message is suspicious due to the nature of the content or the links within. To best protect our users from spam, the message has been blocked.",
    ),
    (
        "gmail-reputation",
        SenderServer,
        "550-5.7.1 [203.0.113.25] Our system has detected that this message is likely suspicious due to the very low reputation of the sending IP address. To best protect our users from spam, the message has been blocked.",
    ),
    (
        "gmail-reputation",
        SenderServer,
        "550-5.7.1 [203.0.113.25 19] Gmail has detected that this message is likely 550-5.7.1 suspicious due to the very low reputation of the sending domain. To best 550 5.7.1 protect our users from spam, the message has been blocked. - gsmtp",
    ),
    (
        "gmail-ptr",
        SenderDns,
        "550-5.7.25 [203.0.113.25] The IP address sending this message does not have a PTR record setup, or the corresponding forward DNS entry does not point to the sending IP. As a policy, Gmail does not accept messages from IPs with missing PTR records.",
    ),
    (
        "gmail-ipv6",
        SenderDns,
        "550-5.7.1 [2001:db8::25] Gmail has detected that this message does not meet IPv6 sending guidelines regarding PTR records and authentication. Please review https://support.google.com/mail/?p=IPv6AuthError",
    ),
    (
        "gmail-no-such-user",
        SendingUser,
        "550-5.1.1 The email account that you tried to reach does not exist. Please try 550-5.1.1 double-checking the recipient's email address for typos or 550-5.1.1 unnecessary spaces. For more information, go to 550 5.1.1 https://support.google.com/mail/?p=NoSuchUser - gsmtp",
    ),
    (
        "gmail-disabled",
        Recipient,
        "550-5.2.1 The email account that you tried to reach is inactive. For more 550-5.2.1 information, go to 550 5.2.1 https://support.google.com/mail/?p=DisabledUser - gsmtp",
    ),
    (
        "gmail-over-quota",
        Recipient,
        "552-5.2.2 The email account that you tried to reach is over quota. Please direct the recipient to https://support.google.com/mail/?p=OverQuotaPerm",
    ),
    (
        "gmail-over-quota",
        Recipient,
        "452-4.2.2 The recipient's inbox is out of storage space. Please direct the 452-4.2.2 recipient to 452 4.2.2 https://support.google.com/mail/?p=OverQuotaTemp - gsmtp",
    ),
    (
        "gmail-recipient-rate",
        Nobody,
        "450-4.2.1 The user you are trying to contact is receiving mail too quickly. Please resend your message at a later time.",
    ),
    (
        "gmail-recipient-rate",
        Nobody,
        "550-5.2.1 The user you are trying to contact is receiving mail at a rate that prevents additional messages from being delivered.",
    ),
    (
        "gmail-size",
        SendingUser,
        "552-5.3.4 Your message exceeded Google's message size limits. Please visit https://support.google.com/mail/?p=MaxSizeError",
    ),
    (
        "gmail-from-header",
        SenderServer,
        "550-5.7.1 [203.0.113.25] Messages missing a valid address in the From: header, or having no From: header, are not accepted.",
    ),
    (
        "gmail-malformed",
        SenderServer,
        "550-5.7.1 [203.0.113.25] This message is not RFC 5322 compliant because it has duplicate headers. To reduce the amount of spam sent to Gmail, this message has been blocked.",
    ),
    (
        "gmail-attachment",
        SendingUser,
        "552-5.7.0 This message was blocked because its content presents a potential security issue. Please visit https://support.google.com/mail/?p=BlockedMessage",
    ),
    (
        "gmail-domain-policy",
        Recipient,
        "550-5.7.1 The user or domain that you are sending to (or from) has a policy that prohibited the mail that you sent. Please contact your domain administrator for further details.",
    ),
    (
        "gmail-domain-policy",
        Recipient,
        "550 5.7.1 This message violates adatum.test email policy. - gcdp d2e1a72fcca58 - gsmtp",
    ),
    (
        "gmail-relay",
        SenderServer,
        "550-5.7.1 Invalid credentials for relay [203.0.113.25]. The IP address you've registered in your G Suite SMTP Relay service doesn't match domain of the account this email is being sent from.",
    ),
    (
        "gmail-relay",
        SenderServer,
        "550-5.7.0 Mail relay denied [203.0.113.25]. Invalid credentials for relay for one of the domains in: proseware.test (as obtained from HELO and MAIL FROM).",
    ),
    (
        "gmail-direct",
        SenderServer,
        "550-5.7.1 [203.0.113.25] The IP you're using to send mail is not authorized to send email directly to our servers. Please use the SMTP relay at your service provider instead.",
    ),
    (
        "gmail-login",
        SenderServer,
        "535-5.7.8 Username and Password not accepted. For more information, go to https://support.google.com/mail/?p=BadCredentials",
    ),
    (
        "gmail-application-password",
        SenderServer,
        "534-5.7.9 Application-specific password required. For more information, go to https://support.google.com/mail/?p=InvalidSecondFactor",
    ),
    (
        "gmail-relay-limit",
        Nobody,
        "550-5.4.5 Daily user sending limit exceeded. For more information on Gmail sending limits go to https://support.google.com/a/answer/166852",
    ),
    (
        "gmail-trouble",
        Nobody,
        "421-4.3.0 Temporary System Problem. Try again later. For more information, go to https://support.google.com/a/answer/3221692 - gsmtp",
    ),
    (
        "gmail-loop",
        Recipient,
        "554-5.4.6 Message exceeded 50 hops, this may indicate a mail loop. For more information, go to https://support.google.com/mail/?p=MailLoop",
    ),
    // Yahoo and AOL
    (
        "yahoo-deferred",
        SenderServer,
        "421 4.7.0 [TSS04] Messages from 203.0.113.25 temporarily deferred due to unexpected volume or user complaints - 4.16.55.1; see https://postmaster.yahooinc.com/error-codes",
    ),
    (
        "yahoo-permanently-deferred",
        SenderServer,
        "553 5.7.2 [TSS09] All messages from 203.0.113.25 will be permanently deferred; Retrying will NOT succeed. See https://postmaster.yahooinc.com/error-codes",
    ),
    (
        "yahoo-permanently-deferred",
        SenderServer,
        "553 5.7.2 [TSS11] All messages from 203.0.113.25 will be permanently deferred; Retrying will NOT succeed.",
    ),
    (
        "yahoo-ip",
        SenderServer,
        "421 4.7.1 [IPTS04] Messages from 203.0.113.25 temporarily deferred due to unusual traffic; see https://postmaster.yahooinc.com/error-codes",
    ),
    (
        "yahoo-spamhaus",
        SenderServer,
        "553 5.7.1 [BL21] Connections will not be accepted from 203.0.113.25, because the ip is in Spamhaus's list; see http://postmaster.yahoo.com/550-bl23.html",
    ),
    (
        "yahoo-spamhaus",
        SenderServer,
        "553 5.7.1 [BL23] Connections not accepted from IP addresses on Spamhaus XBL; see http://postmaster.yahoo.com/errors/550-bl23.html [550]",
    ),
    (
        "yahoo-no-such-user",
        SendingUser,
        "554 delivery error: dd This user doesn't have a yahoo.com account (bob@adatum.test) [0] - mta4127.mail.ne1.yahoo.com",
    ),
    (
        "yahoo-disabled",
        SendingUser,
        "554 30 Sorry, your message to bob@adatum.test cannot be delivered. This mailbox is disabled (554.30).",
    ),
    (
        "yahoo-disabled",
        SendingUser,
        "554 delivery error: dd Sorry your message to bob@adatum.test cannot be delivered. This account has been disabled or discontinued [#102]. - mta1330.mail.bf1.yahoo.com",
    ),
    (
        "yahoo-policy",
        SenderServer,
        "554 Message not allowed - [PH01] Email not accepted for policy reasons. Please visit https://postmaster.yahooinc.com/error-codes [120]",
    ),
    (
        "yahoo-policy",
        SenderServer,
        "554 5.7.9 Message not accepted for policy reasons. See https://postmaster.yahooinc.com/error-codes",
    ),
    (
        "yahoo-unauthenticated",
        SenderDns,
        "550 5.7.9 This mail has been blocked because the sender is unauthenticated. Yahoo requires all senders to authenticate with either SPF or DKIM.",
    ),
    (
        "yahoo-sender-domain",
        SenderDns,
        "451 Message temporarily deferred due to unresolvable RFC.5321 from domain. See https://senders.yahooinc.com/error-codes#unresolvable-from-domain",
    ),
    ("yahoo-recipient-rate", Nobody, "450 User is receiving mail too quickly"),
    // Apple and German providers
    (
        "apple-local-policy",
        SenderServer,
        "550 5.7.1 [CS01] Message rejected due to local policy. Please visit https://support.apple.com/en-us/HT204137",
    ),
    (
        "apple-reputation",
        SenderServer,
        "554 5.7.1 [HM08] Message rejected due to local policy. Please visit https://support.apple.com/en-us/HT204137",
    ),
    (
        "apple-unauthenticated",
        SenderDns,
        "554 5.7.1 [HME1] This message was blocked for failing both SPF and DKIM authentication checks. See https://support.apple.com/en-us/HT204137 for mailing best practices",
    ),
    (
        "apple-dmarc",
        SenderDns,
        "554 5.7.1 Your message was rejected due to proseware.test's DMARC policy. See https://support.apple.com/en-us/HT204137 for info",
    ),
    (
        "apple-no-such-user",
        SendingUser,
        "550 5.1.1 <bob@adatum.test>: inactive email address (in reply to RCPT TO command)",
    ),
    ("apple-no-such-user", SendingUser, "550 5.1.6 recipient no longer on server: bob@adatum.test"),
    (
        "apple-volume",
        Nobody,
        "421 4.7.1 Messages to bob@adatum.test deferred due to excessive volume. Try again later - https://support.apple.com/en-us/HT204137",
    ),
    (
        "t-online-unknown-server",
        SenderServer,
        "554 IP=203.0.113.25 - A problem occurred. (Ask your postmaster for help or to contact tosa@rx.t-online.de to clarify.) (BL)",
    ),
    (
        "gmx-policy",
        SenderServer,
        "554-Transaction failed 554-Reject due to policy restrictions. 554 For explanation visit https://postmaster.gmx.net/en/case?c=hi&i=ip&v=203.0.113.25",
    ),
    // Microsoft
    (
        "microsoft-recipient-access-denied",
        Recipient,
        "550 5.4.1 Recipient address rejected: Access denied. For more information see https://aka.ms/EXOSmtpErrors [DB5EUR01FT022.eop-EUR01.prod.protection.outlook.com]",
    ),
    (
        "microsoft-recipient-access-denied",
        Recipient,
        "550 5.4.1 Recipient address rejected: Access denied. AS(201806281) [VE1EUR02FT031.eop-EUR02.prod.protection.outlook.com]",
    ),
    (
        "microsoft-tenant-attribution",
        SenderServer,
        "550 5.7.64 TenantAttribution; Relay Access Denied [VE1EUR01FT003.eop-EUR01.prod.protection.outlook.com]",
    ),
    (
        "microsoft-banned-ip",
        SenderServer,
        "550 5.7.606 Access denied, banned sending IP [203.0.113.25]. To request removal from this list please visit https://sender.office.com/ and follow the directions. For more information please go to http://go.microsoft.com/fwlink/?LinkID=526655 AS(1410)",
    ),
    ("microsoft-banned-ip", SenderServer, "550 5.7.649 refused"),
    (
        "microsoft-banned-sender",
        SenderServer,
        "550 5.7.511 Access denied, banned sender[203.0.113.25]. To request removal from this list please forward this message to delist@microsoft.com. For more information please go to http://go.microsoft.com/fwlink/?LinkId=526653.",
    ),
    (
        "microsoft-spam-abuse",
        SenderServer,
        "550 5.7.501 Access denied, spam abuse detected from IP range [203.0.113.0/24]. For more information please go to http://go.microsoft.com/fwlink/?LinkId=526653.",
    ),
    (
        "outlook-authentication-level",
        SenderDns,
        "550 5.7.515 Access denied, sending domain PROSEWARE.TEST does not meet the required authentication level. The sender's domain in the 5322.From address doesn't meet the authentication requirements defined for the sender. Spf= Fail , Dkim= Fail , DMARC= Pass",
    ),
    (
        "microsoft-dmarc",
        SenderDns,
        "550 5.7.509 Access denied, sending domain [PROSEWARE.TEST] does not pass DMARC verification and has a DMARC policy of reject. [AM0EUR02FT039.eop-EUR02.prod.protection.outlook.com]",
    ),
    (
        "microsoft-spf",
        SenderDns,
        "550 5.7.23 The message was rejected because of Sender Policy Framework violation -> 550 5.7.1 SPF check failed",
    ),
    (
        "microsoft-client-not-authenticated",
        SenderServer,
        "530 5.7.57 SMTP; Client was not authenticated to send anonymous mail during MAIL FROM [AM6PR0732BE0065.eurprd07.prod.outlook.com]",
    ),
    (
        "microsoft-login-disabled",
        SenderServer,
        "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Tenant. Visit https://aka.ms/smtp_auth_disabled for more information. [FR0P281CA0123.DEUP281.PROD.OUTLOOK.COM]",
    ),
    (
        "microsoft-login-disabled",
        SenderServer,
        "535 5.7.139 Authentication unsuccessful, basic authentication is disabled.",
    ),
    ("exchange-send-as", SenderServer, "550 5.7.1 Client does not have permissions to send as this sender"),
    (
        "exchange-send-as",
        SenderServer,
        "550 5.7.60 SMTP; Client does not have permissions to send as this sender",
    ),
    (
        "exchange-send-as",
        SenderServer,
        "554 5.2.252 SendAsDenied; alice@proseware.test not allowed to send as bob@adatum.test; STOREDRV.Submission.Exception:SendAsDeniedException.MapiExceptionSendAsDenied; Failed to process message due to a permanent exception",
    ),
    ("exchange-client-not-authenticated", Recipient, "530 5.7.1 Client was not authenticated"),
    ("exchange-unable-to-relay", SenderServer, "550 5.7.1 Unable to relay"),
    (
        "exchange-unable-to-relay",
        SenderServer,
        "550 5.7.54 SMTP; Unable to relay recipient in non-accepted domain",
    ),
    (
        "exchange-group-authenticated",
        Recipient,
        "550 5.7.133 RESOLVER.RST.SenderNotAuthenticatedForGroup; authentication required; Delivery restriction check failed because the sender was not authenticated when sending to this group",
    ),
    (
        "exchange-group-authenticated",
        Recipient,
        "550 5.7.1 RESOLVER.RST.AuthRequired; authentication required",
    ),
    (
        "exchange-mailbox-authenticated",
        Recipient,
        "550 5.7.134 RESOLVER.RST.SenderNotAuthenticatedForMailbox; authentication required; Delivery restriction check failed because the sender was not authenticated when sending to this mailbox",
    ),
    (
        "exchange-mailbox-authenticated",
        Recipient,
        "550 5.7.12 RESOLVER.RST; sender was not authenticated by organization",
    ),
    ("exchange-sender-not-allowed", Recipient, "550 5.7.1 RESOLVER.RST.NotAuthorized; not authorized"),
    ("exchange-sender-not-allowed", Recipient, "550 5.7.124 Sender not in allowed-senders list"),
    (
        "exchange-sender-not-allowed",
        Recipient,
        "550 5.7.129 RESOLVER.RST.RestrictedToRecipientsPermission; not authorized to send to recipient because the sender isn't on the recipient's list of senders allowed to send them mail",
    ),
    (
        "exchange-recipient-not-found",
        SendingUser,
        "550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient bob@adatum.test not found by SMTP address lookup",
    ),
    ("exchange-old-address-book", SendingUser, "550 5.1.1 RESOLVER.ADR.ExRecipNotFound; not found"),
    (
        "exchange-loop",
        Recipient,
        "554 5.4.14 Hop count exceeded - possible mail loop ATTR34 [DB5EUR03FT052.eop-EUR03.prod.protection.outlook.com]",
    ),
    (
        "exchange-recipient-size",
        SendingUser,
        "550 5.2.3 RESOLVER.RST.RecipSizeLimit; message too large for this recipient",
    ),
    ("exchange-size", SendingUser, "552 5.3.4 Message size exceeds fixed maximum message size"),
    ("exchange-mailbox-full", Recipient, "554 5.2.2 STOREDRV.Deliver; mailbox full"),
    (
        "exchange-mailbox-full",
        Recipient,
        "554 5.2.2 mailbox full; STOREDRV.Deliver.Exception:QuotaExceededException.MapiExceptionShutoffQuotaExceeded; Failed to process message due to a permanent exception with message Cannot get ID from name",
    ),
    (
        "microsoft-throttled",
        Nobody,
        "451 4.7.500 Server busy. Please try again later from [203.0.113.25]. (AS77713821) [DB5EUR01FT005.eop-EUR01.prod.protection.outlook.com]",
    ),
    (
        "outlook-rate-limited",
        SenderServer,
        "451 4.7.650 The mail server [203.0.113.25] has been temporarily rate limited due to IP reputation. For e-mail delivery information, see https://postmaster.live.com (S775)",
    ),
    (
        "outlook-block-list",
        SenderServer,
        "550 5.7.1 Unfortunately, messages from [203.0.113.25] weren't sent. Please contact your Internet service provider since part of their network is on our block list (S3150). You can also refer your provider to http://mail.live.com/mail/troubleshooting.aspx#errors.",
    ),
    (
        "outlook-block-list",
        SenderServer,
        "550 5.7.1 Unfortunately, messages from [203.0.113.25] weren't sent. Please contact your Internet service provider since part of their network is on our block list (S3140).",
    ),
    (
        "outlook-no-such-user",
        SendingUser,
        "550 5.5.0 Requested action not taken: mailbox unavailable (S2017062302). [VE1EUR03FT026.eop-EUR03.prod.protection.outlook.com]",
    ),
    (
        "microsoft-customer-block-list",
        Recipient,
        "550 5.7.513 Service unavailable, Client host [203.0.113.25] blocked by adatum.test using Customer Block list (AS16012607)",
    ),
    ("microsoft-rejected-by-recipient", Recipient, "550 5.7.507 Access denied, rejected by recipient"),
    ("microsoft-helo", SenderServer, "550 5.7.506 Access Denied, Bad HELO"),
    (
        "microsoft-no-ipv6",
        SenderServer,
        "550 5.7.510 Access denied, adatum.test does not accept email over IPv6",
    ),
    (
        "microsoft-ipv6-authentication",
        SenderDns,
        "450 4.7.26 Access denied, a message sent over IPv6 [2001:db8::25] must pass either SPF or DKIM validation, this message is not signed",
    ),
    (
        "microsoft-ipv6-ptr",
        SenderDns,
        "450 4.7.25 Access denied, the sending IPv6 address [2001:db8::25] must have a reverse DNS record",
    ),
    (
        "microsoft-from-header",
        SenderServer,
        "550 5.7.512 Access denied, message must be RFC 5322 section 3.6.2 compliant",
    ),
    (
        "microsoft-tenant-threshold",
        SenderServer,
        "550 5.7.705 Service unavailable. Access denied, tenant has exceeded threshold. AS(7555)",
    ),
    (
        "microsoft-tenant-threshold",
        SenderServer,
        "550 5.7.708 Service unavailable. Access denied, traffic not accepted from this IP. For more information please go to https://go.microsoft.com/fwlink/?linkid=2103521. AS(7230)",
    ),
    (
        "microsoft-unregistered-domain",
        SenderServer,
        "550 5.7.750 Service unavailable. Client blocked from sending from unregistered domain. For more information please go to https://go.microsoft.com/fwlink/?linkid=2101521",
    ),
    ("microsoft-bad-outbound-sender", SenderServer, "550 5.1.8 Access denied, bad outbound sender AS(42004)"),
    (
        "microsoft-daily-limit",
        Nobody,
        "550 5.1.90 Your message can't be sent because you've reached your daily limit for message recipients",
    ),
    (
        "microsoft-external-forwarding",
        Recipient,
        "550 5.7.520 Access denied, Your organization does not allow external forwarding. Please contact your administrator for further assistance. AS(7555)",
    ),
    (
        "exchange-transport-rule",
        Recipient,
        "550 5.7.1 TRANSPORT.RULES.RejectMessage; the message was rejected by organization policy",
    ),
    ("exchange-content-filter", Recipient, "550 5.7.1 Message rejected as spam by Content Filtering."),
    ("exchange-expired", Recipient, "550 4.4.7 QUEUE.Expired; message expired"),
    ("exchange-expired", Recipient, "550 5.4.300 Message expired -> 421 4.4.1 Connection timed out"),
    (
        "microsoft-domain-not-found",
        SendingUser,
        "550 5.4.310 DNS domain adatum.test does not exist [Message=InfoDomainNonexistent] [LastAttemptedServerName=adatum.test]",
    ),
    (
        "outlook-domain-unreachable",
        SendingUser,
        "The mail could not be delivered to the recipient because the domain is not reachable. Please check the domain and try again (1131028832:1053:-2147467259)",
    ),
    (
        "microsoft-starttls-needed",
        Recipient,
        "450 4.7.321 starttls-not-supported: Destination mail server must support TLS to receive mail.",
    ),
    (
        "microsoft-certificate-expired",
        Recipient,
        "450 4.7.322 certificate-expired: Destination mail server's certificate is expired.",
    ),
    ("microsoft-dane", Recipient, "450 4.7.323 tlsa-invalid: The domain failed DANE validation"),
    (
        "microsoft-dane",
        Recipient,
        "450 4.7.324 dnssec-invalid: Destination domain returned invalid DNSSEC records",
    ),
    (
        "microsoft-recipient-rate",
        Nobody,
        "550 5.2.121 RESOLVER.RST.RecipientRateLimit; recipient's per hour message receive limit from specific sender exceeded.",
    ),
    ("microsoft-recipient-rate", Nobody, "432 4.3.2 STOREDRV.Deliver; recipient thread limit exceeded"),
    ("microsoft-suspicious", Nobody, "451 4.7.850 Access denied, please try again later"),
    (
        "exchange-bare-linefeeds",
        SenderServer,
        "550 5.6.11 SMTPSEND.BareLinefeedsAreIllegal; message contains bare linefeeds, which cannot be sent via DATA and receiving system does not support BDAT",
    ),
    (
        "microsoft-external-error",
        Recipient,
        "550 5.7.350 Remote server returned message denied by administrative policy -> 550 nope",
    ),
    // Ours
    (
        "postern-relay",
        SenderServer,
        "550 5.7.1 <bob@adatum.test>: relay not permitted: 198.51.100.9 is not logged in and not a trusted network; log in on port 587 or 465 (ref 4QX7-93KD)",
    ),
    (
        "postern-relay",
        SenderServer,
        "550 5.7.1 <bob@adatum.test>: relay not permitted: alice@proseware.test may not relay; (ref 4QX7-93KD)",
    ),
    (
        "postern-sender",
        SenderServer,
        "550 5.7.1 <bob@proseware.test>: sender not permitted: alice@proseware.test may not send as this address (ref 4QX7-93KD)",
    ),
    (
        "postern-sender",
        SenderServer,
        "550 5.7.1 From header not permitted: alice@proseware.test may not send as bob@proseware.test (ref 4QX7-93KD)",
    ),
    (
        "postern-login",
        SenderServer,
        "530 5.7.0 authentication required: use STARTTLS and log in here on port 587, or use TLS on port 465 (ref 4QX7-93KD)",
    ),
    (
        "postern-line-ends",
        SenderServer,
        "550 5.6.0 message has bare CR or LF characters: lines must end with CR LF (RFC 5321 section 2.3.8)",
    ),
    // Postfix
    ("relay-access-denied", SenderServer, "554 5.7.1 <bob@adatum.test>: Relay access denied"),
    ("relay-access-denied", SenderServer, "454 4.7.1 <bob@adatum.test>: Relay access denied"),
    (
        "postfix-user-unknown",
        SendingUser,
        "550 5.1.1 <bob@adatum.test>: Recipient address rejected: User unknown in virtual mailbox table",
    ),
    (
        "postfix-user-unknown",
        SendingUser,
        "550 5.1.1 <bob@adatum.test>: Recipient address rejected: User unknown in local recipient table",
    ),
    (
        "postfix-recipient-unverified",
        SendingUser,
        "550 5.1.1 <bob@adatum.test>: Recipient address rejected: undeliverable address: host mail.adatum.test[192.0.2.7] said: 550 no",
    ),
    (
        "postfix-recipient-denied",
        Recipient,
        "554 5.7.1 <bob@adatum.test>: Recipient address rejected: Access denied",
    ),
    (
        "postfix-sender-not-owned",
        SenderServer,
        "553 5.7.1 <bob@proseware.test>: Sender address rejected: not owned by user alice@proseware.test",
    ),
    (
        "postfix-sender-not-owned",
        SenderServer,
        "553 5.7.1 <alice@proseware.test>: Sender address rejected: not logged in",
    ),
    (
        "postfix-sender-domain",
        SenderDns,
        "450 4.1.8 <alice@proseware.test>: Sender address rejected: Domain not found",
    ),
    (
        "postfix-sender-denied",
        Recipient,
        "554 5.7.1 <alice@proseware.test>: Sender address rejected: Access denied",
    ),
    (
        "postfix-sender-unverified",
        SenderServer,
        "550 5.1.7 <alice@proseware.test>: Sender address rejected: undeliverable address: host mail.proseware.test[203.0.113.25] said: 550 no",
    ),
    (
        "postfix-helo",
        SenderServer,
        "504 5.5.2 <localhost>: Helo command rejected: need fully-qualified hostname",
    ),
    ("postfix-helo", SenderServer, "450 4.7.1 <mail.proseware.test>: Helo command rejected: Host not found"),
    (
        "no-reverse-name",
        SenderDns,
        "450 4.7.25 Client host rejected: cannot find your hostname, [203.0.113.25]",
    ),
    (
        "no-reverse-name",
        SenderDns,
        "550 5.7.25 Client host rejected: cannot find your reverse hostname, [203.0.113.25]",
    ),
    ("no-reverse-name", SenderDns, "550 5.7.1 Fix reverse DNS for 203.0.113.25"),
    (
        "postfix-client-denied",
        Recipient,
        "554 5.7.1 <unknown[203.0.113.25]>: Client host rejected: Access denied",
    ),
    (
        "greylisted",
        Nobody,
        "450 4.2.0 <bob@adatum.test>: Recipient address rejected: Greylisted, see http://postgrey.schweikert.ch/help/adatum.test.html",
    ),
    ("greylisted", Nobody, "451 4.7.1 Greylisting in action, please come back in 00:05:00"),
    ("postscreen-busy", Nobody, "450 4.3.2 Service currently unavailable"),
    ("postfix-loop", Recipient, "5.4.6 mail for adatum.test loops back to myself"),
    (
        "postfix-loop",
        Recipient,
        "Sorry. Although I'm listed as a best-preference MX or A for that host, it isn't in my control/locals file, so I don't treat it as local. (#5.4.6)",
    ),
    (
        "domain-not-found",
        SendingUser,
        "Host or domain name not found. Name service error for name=adatum.test type=AAAA: Host not found",
    ),
    ("domain-not-found", SendingUser, "adatum.test does not exist, or has neither MX nor address records"),
    (
        "domain-not-found",
        SendingUser,
        "550 5.1.2 <bob@adatum.test>... Host unknown (Name server: adatum.test: host not found)",
    ),
    ("domain-not-found", SendingUser, "Sorry, I couldn't find any host named adatum.test. (#5.1.2)"),
    ("no-connection", Recipient, "connect to mx.adatum.test[192.0.2.7]:25: Connection timed out"),
    ("no-connection", Recipient, "Sorry, I wasn't able to establish an SMTP connection. (#4.4.1)"),
    (
        "connection-lost",
        Recipient,
        "lost connection with mx.adatum.test[192.0.2.7] while sending end of data -- message may be sent more than once",
    ),
    ("server-certificate", Recipient, "Server certificate not verified"),
    ("tls-not-offered", Recipient, "TLS is required, but was not offered by host mx.adatum.test[192.0.2.7]"),
    ("tls-not-offered", Recipient, "TLS is required, and the host does not offer STARTTLS"),
    ("mta-sts", Recipient, "5.7.5 mx.adatum.test is not in the MTA-STS policy of adatum.test"),
    ("dane", Recipient, "4.7.5 TLSA lookup error for mx.adatum.test:25"),
    ("postfix-content", Recipient, "550 5.7.1 message content rejected"),
    ("postfix-size", SendingUser, "552 5.3.4 Message size exceeds fixed limit"),
    ("postfix-size", SendingUser, "552 sorry, that message size exceeds my databytes limit (#5.3.4)"),
    ("bare-linefeed", SenderServer, "521 5.5.2 mail.proseware.test Error: bare <LF> received"),
    // Exim
    ("exim-relay", SenderServer, "550 relay not permitted"),
    ("administrative-prohibition", SenderServer, "550 Administrative prohibition"),
    ("administrative-prohibition", SenderServer, "550 5.7.1 administrative prohibition"),
    (
        "exim-sender-verify",
        SenderServer,
        "550-Verification failed for <alice@proseware.test> 550-Called: 203.0.113.25 550-Sent: RCPT TO:<alice@proseware.test> 550 Sender verify failed",
    ),
    ("exim-unrouteable", SendingUser, "Unrouteable address"),
    ("exim-retry-timeout", Recipient, "retry timeout exceeded"),
    ("exim-mx-nowhere", Recipient, "all relevant MX records point to non-existent hosts"),
    ("null-mx", SendingUser, "an MX or SRV record indicated no SMTP service"),
    ("null-mx", SendingUser, "adatum.test does not take mail (null MX)"),
    ("null-mx", SendingUser, "Domain adatum.test does not accept mail (nullMX)"),
    ("exim-lookup", Recipient, "451 host lookup did not complete"),
    (
        "exim-black-list",
        SenderServer,
        "550 rejected because 203.0.113.25 is in a black list at bl.example.test",
    ),
    (
        "exim-black-list",
        SenderServer,
        "550 \"JunkMail rejected - mail.proseware.test [203.0.113.25]:25 is in an RBL\"",
    ),
    ("exim-helo", SenderServer, "550 Access denied - Invalid HELO name (See RFC2821 4.1.1.1)"),
    (
        "cpanel-rate",
        SenderServer,
        "Domain proseware.test has exceeded the max emails per hour (125/100 (125%)) allowed. Message discarded.",
    ),
    // Sendmail
    ("sendmail-relay", SenderServer, "550 5.7.1 <bob@adatum.test>... Relaying denied"),
    (
        "sendmail-relay",
        SenderServer,
        "550 5.7.1 <bob@adatum.test>... Relaying denied. Proper authentication required.",
    ),
    (
        "sendmail-relay-name",
        SenderDns,
        "550 5.7.1 <bob@adatum.test>... Relaying denied. IP name lookup failed [203.0.113.25]",
    ),
    (
        "sendmail-relay-name",
        SenderDns,
        "550 5.7.1 <bob@adatum.test>... Relaying denied. IP name possibly forged [203.0.113.25]",
    ),
    (
        "sendmail-sender-domain",
        SenderDns,
        "553 5.1.8 <alice@proseware.test>... Domain of sender address alice@proseware.test does not exist",
    ),
    (
        "sendmail-sender-domain",
        SenderDns,
        "451 4.1.8 Domain of sender address alice@proseware.test does not resolve",
    ),
    ("access-denied", Recipient, "550 5.7.1 Access denied"),
    ("too-many-connections", Nobody, "421 4.3.2 Connection rate limit exceeded."),
    (
        "too-many-connections",
        Nobody,
        "421 4.7.0 mx.adatum.test Error: too many connections from 203.0.113.25",
    ),
    // qmail
    (
        "qmail-rcpthosts",
        SenderServer,
        "553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)",
    ),
    (
        "qmail-cname",
        SenderServer,
        "CNAME lookup failed temporarily. (#4.4.3) I'm not going to try again; this message has been queued for days.",
    ),
    ("qmail-no-mailbox", SendingUser, "Sorry, no mailbox here by that name. (#5.1.1)"),
    ("qmail-sender-listed", Recipient, "553 sorry, your envelope sender is in my badmailfrom list (#5.7.1)"),
    ("qmail-too-long", Recipient, "I'm not going to try again; this message has been in the queue too long."),
    // Mimecast
    (
        "mimecast-anti-spoofing",
        Recipient,
        "550 Rejected by header-based Anti-Spoofing policy: alice@adatum.test - https://community.mimecast.com/docs/DOC-1369#550 [xyz.uk123]",
    ),
    ("mimecast-anti-spoofing", Recipient, "550 Rejected by header based Anti-Spoofing policy"),
    (
        "mimecast-blocked-sender",
        Recipient,
        "550 Rejected by header-based Blocked Senders - Block policy for Header From - https://community.mimecast.com/docs/DOC-1369#550",
    ),
    (
        "mimecast-blocked-sender",
        Recipient,
        "550 Rejected by header-based Manually Blocked Senders - block for manual block",
    ),
    ("mimecast-blocked-sender", Recipient, "550 Administrative prohibition envelope blocked"),
    (
        "invalid-recipient",
        SendingUser,
        "550 Invalid Recipient - https://community.mimecast.com/docs/DOC-1369#550 [abc.uk45]",
    ),
    ("invalid-recipient", SendingUser, "550 Invalid recipient: <bob@adatum.test>"),
    (
        "mimecast-security-policies",
        Recipient,
        "554 Email rejected due to security policies - https://community.mimecast.com/docs/DOC-1369#554",
    ),
    (
        "mimecast-ip-reputation",
        SenderServer,
        "550 csi.mimecast.org Poor Reputation Sender. - Local CT IP Reputation Policy (Reject)",
    ),
    (
        "mimecast-greylisting",
        Nobody,
        "451 Internal resources are temporarily unavailable - https://community.mimecast.com/docs/DOC-1369#451",
    ),
    ("mimecast-authentication", SenderDns, "550 SPF Sender Invalid - envelope rejected"),
    ("mimecast-relay", SenderServer, "451 Open relay not allowed"),
    ("mimecast-content", Recipient, "550 Message bounced due to Content Examination Policy"),
    ("mimecast-tls", SenderServer, "553 This route requires encryption (TLS)"),
    // Other gateways
    ("proofpoint-blocked", SenderServer, "554 Blocked - see https://ipcheck.proofpoint.com/?ip=203.0.113.25"),
    (
        "proofpoint-blocked",
        SenderServer,
        "550 5.7.0 Blocked - see https://support.proofpoint.com/dnsbl-lookup.cgi?ip=203.0.113.25",
    ),
    ("proofpoint-blocked", SenderServer, "550 5.7.1 Access denied - PDR0016"),
    (
        "proofpoint-blocked",
        SenderServer,
        "550 5.7.1 Service unavailable; client [203.0.113.25] blocked using prs.proofpoint.com",
    ),
    ("proofpoint-local-policy", Recipient, "550 5.7.0 Local Policy Violation"),
    (
        "barracuda-reputation",
        SenderServer,
        "554 Service unavailable; Client host [mail.proseware.test] blocked using Barracuda Reputation; http://www.barracudanetworks.com/reputation/?r=1&ip=203.0.113.25",
    ),
    (
        "barracuda-reputation",
        SenderServer,
        "554 5.7.1 Service unavailable; Client host [203.0.113.25] blocked using b.barracudacentral.org; http://www.barracudanetworks.com/reputation/?pr=1&ip=203.0.113.25",
    ),
    (
        "barracuda-recipient",
        Recipient,
        "550 permanent failure for one or more recipients (bob@adatum.test:blocked)",
    ),
    (
        "cisco-reputation",
        SenderServer,
        "554 Your access to this mail system has been rejected due to the sending MTA's poor reputation. If you believe that this failure is in error, please contact the intended recipient via alternate means.",
    ),
    ("cisco-reputation", SenderServer, "554 5.7.1 Blocked by your poor reputation SBRS -7.2"),
    (
        "trend-micro-reputation",
        SenderServer,
        "550 5.7.1 Service unavailable; Client host [203.0.113.25] blocked using Trend Micro RBL+. Please see http://www.mail-abuse.com/cgi-bin/lookup?ip_address=203.0.113.25",
    ),
    (
        "symantec-filtered",
        SenderServer,
        "553-Message filtered. Refer to the Troubleshooting page at 553-http://www.symanteccloud.com/troubleshooting for more 553 information. (#5.7.1)",
    ),
    (
        "symantec-filtered",
        SenderServer,
        "501 Connection rejected by policy [7.7] 38716, please visit www.messagelabs.com/support for more details about this error message.",
    ),
    // Lists
    (
        "spamhaus",
        SenderServer,
        "554 5.7.1 Service unavailable; Client host [203.0.113.25] blocked using zen.spamhaus.org; https://www.spamhaus.org/query/ip/203.0.113.25",
    ),
    (
        "spamhaus",
        SenderServer,
        "550 5.7.1 Service unavailable, Client host [203.0.113.25] blocked using Spamhaus. To request removal from this list see https://www.spamhaus.org/query/ip/203.0.113.25 AS(1450)",
    ),
    (
        "spamhaus-pbl",
        SenderServer,
        "554 5.7.1 Service unavailable; Client host [203.0.113.25] blocked using zen.spamhaus.org; https://www.spamhaus.org/pbl/query/PBL123456",
    ),
    (
        "spamhaus-xbl",
        SenderServer,
        "554 5.7.1 Service unavailable; Client host [203.0.113.25] blocked using xbl.spamhaus.org",
    ),
    (
        "spamhaus-sbl",
        SenderServer,
        "550 5.7.1 Mail from IP 203.0.113.25 was rejected due to listing in Spamhaus SBL. For details please see http://www.spamhaus.org/query/bl?ip=203.0.113.25",
    ),
    (
        "spamhaus-dbl",
        SenderServer,
        "550 5.7.1 Your email was rejected due to having a domain present in the Spamhaus DBL -- see https://www.spamhaus.org/dbl/",
    ),
    (
        "spamhaus-dbl",
        SenderServer,
        "554 5.7.1 Service unavailable; Sender address [alice@proseware.test] blocked using dbl.spamhaus.org; https://www.spamhaus.org/query/domain/proseware.test",
    ),
    (
        "spamhaus-open-resolver",
        Recipient,
        "554 5.7.1 Service unavailable; Client host [203.0.113.25] blocked using zen.spamhaus.org; Error: open resolver; https://check.spamhaus.org/returnc/pub/192.0.2.53/",
    ),
    (
        "spamcop",
        SenderServer,
        "554 5.7.1 Service unavailable; Client host [203.0.113.25] blocked using bl.spamcop.net; Blocked - see https://www.spamcop.net/bl.shtml?203.0.113.25",
    ),
    (
        "sorbs",
        Recipient,
        "554 5.7.1 Service unavailable; Client host [203.0.113.25] blocked using dnsbl.sorbs.net; Currently Sending Spam See: http://www.sorbs.net/lookup.shtml?203.0.113.25",
    ),
    (
        "uceprotect",
        Recipient,
        "554 5.7.1 Service unavailable; Client host [203.0.113.25] blocked using dnsbl-2.uceprotect.net; Net 203.0.113.0/24 is UCEPROTECT-Level2 listed. See: https://www.uceprotect.net/rblcheck.php?ipr=203.0.113.25",
    ),
    (
        "abusix",
        SenderServer,
        "554 5.7.1 Service unavailable; Client host [203.0.113.25] blocked using combined.mail.abusix.zone",
    ),
    (
        "mailspike",
        SenderServer,
        "554 5.7.1 Service unavailable; Client host [203.0.113.25] blocked using bl.mailspike.net",
    ),
    (
        "psbl",
        SenderServer,
        "554 5.7.1 Service unavailable; Client host [203.0.113.25] blocked using psbl.surriel.com; Listed in PSBL, see http://psbl.org/listing?ip=203.0.113.25",
    ),
    (
        "nixspam",
        Recipient,
        "554 5.7.1 Service unavailable; Client host [203.0.113.25] blocked using ix.dnsbl.manitu.net; Your e-mail service was detected by spam.over.port25.me (NiX Spam) as spamming",
    ),
    (
        "backscatterer",
        SenderServer,
        "554 5.7.1 Service unavailable; Client host [203.0.113.25] blocked using ips.backscatterer.org; Sorry 203.0.113.25 is blacklisted at http://www.backscatterer.org/?ip=203.0.113.25",
    ),
    (
        "block-list",
        SenderServer,
        "554 5.7.1 Service unavailable; Client host [203.0.113.25] blocked using bl.example.test",
    ),
    ("block-list", SenderServer, "550 your host is blacklisted"),
    // Less usual forms of the above
    (
        "no-connection",
        Recipient,
        "450 4.1.1 <bob@adatum.test>: Recipient address rejected: unverified address: connect to mx.adatum.test[192.0.2.7]:25: Connection refused",
    ),
    ("no-reverse-name", SenderDns, "550 Sender IP reverse lookup rejected"),
    ("access-denied", Recipient, "554 5.7.1 You are not allowed to connect."),
    (
        "outlook-block-list",
        SenderServer,
        "550 SC-001 (COL004-MC4F55) Unfortunately, messages from 203.0.113.25 weren't sent.",
    ),
    ("busy", Nobody, "451 4.3.0 <bob@adatum.test>: Temporary lookup failure"),
    ("busy", Nobody, "452 4.3.1 Insufficient system resources (UsedVersionBuckets[3])"),
    ("user-unknown", SendingUser, "550 #5.1.0 Address rejected."),
    (
        "spamhaus-dbl",
        SenderServer,
        "554 5.7.1 Service unavailable; Helo command [mail.proseware.test] blocked using dbl.spamhaus.org; https://www.spamhaus.org/query/domain/mail.proseware.test",
    ),
    (
        "sendmail-relay",
        SenderServer,
        "550 5.7.367 Remote server returned not permitted to relay -> 554 5.7.1 <bob@adatum.test>: Relay access denied",
    ),
    // Words of many
    ("user-unknown", SendingUser, "550 5.1.1 <bob@adatum.test>... User unknown"),
    ("user-unknown", SendingUser, "550 5.1.1 <bob@adatum.test>: no such user here"),
    (
        "user-unknown",
        SendingUser,
        "550 5.1.351 Remote server returned unknown recipient or mailbox unavailable -> 550 Unknown user bob@adatum.test",
    ),
    ("mailbox-disabled", Recipient, "550 5.2.1 <bob@adatum.test> mailbox disabled"),
    (
        "mailbox-full",
        Recipient,
        "552 5.2.2 <bob@adatum.test>: user is over quota (in reply to RCPT TO command)",
    ),
    ("mailbox-full", Recipient, "452 4.2.2 Mailbox full"),
    ("message-too-large", SendingUser, "552 5.3.4 Message too large"),
    ("message-too-large", SendingUser, "552 5.3.4 message larger than 26214400 octets"),
    ("no-space", Nobody, "452 4.3.1 Insufficient system storage"),
    ("no-space", Nobody, "452 4.3.1 not enough space for new mail, try again later"),
    ("too-many-recipients", SenderServer, "452 4.5.3 Error: too many recipients"),
    ("authentication-required", SenderServer, "550 authentication required"),
    ("authentication-required-for-relay", SenderServer, "550 Authentication is required for relay"),
    ("login-refused", SenderServer, "535 5.7.8 Error: authentication failed: UGFzc3dvcmQ6"),
    ("login-refused", SenderServer, "535 5.7.8 wrong user name or password"),
    ("tls-required", SenderServer, "530 5.7.0 Must issue a STARTTLS command first"),
    ("forwarding-denied", Recipient, "550 Forwarding Denied"),
    (
        "acl-blocked",
        SenderServer,
        "550 [ACL] Blocked. See https://reports.example/?id=4b1f&auth=alice@proseware.test",
    ),
    (
        "spf-invalid",
        SenderDns,
        "550 [SPF_INVALID] Blocked. See https://reports.example/?id=4b1f&auth=alice@proseware.test",
    ),
    (
        "spf-fail",
        SenderDns,
        "550 5.7.23 <bob@adatum.test>: Recipient address rejected: Message rejected due to: SPF fail - not authorized. Please see http://www.openspf.net/Why?s=mfrom;id=alice@proseware.test;ip=203.0.113.25;r=bob@adatum.test",
    ),
    ("spf-fail", SenderDns, "550 203.0.113.25 is not allowed to send mail from proseware.test"),
    ("spf-permerror", SenderDns, "550 5.7.24 SPF permerror: too many DNS lookups"),
    ("dmarc-reject", SenderDns, "550 5.7.1 rejected by DMARC policy for proseware.test"),
    ("dkim-bad", SenderServer, "550 5.7.20 bad DKIM signature"),
    ("dkim-bad", SenderServer, "550 DKIM signature verification failed: body hash did not verify"),
    ("spam-score", SenderServer, "550 5.7.1 Blocked by SpamAssassin"),
    ("spam-score", SenderServer, "554 5.7.1 Spam message rejected"),
    ("spam-score", SenderServer, "554 5.7.0 Reject, id=12345-01 - SPAM"),
    ("spam-score", SenderServer, "550 This message was classified as SPAM (score 15.2)"),
    ("malware", SendingUser, "550 This message contains a virus (Eicar-Test-Signature)"),
    ("malware", SendingUser, "554 5.7.0 Reject, id=12345-02 - INFECTED: Eicar-Test-Signature"),
    ("attachment", SendingUser, "554 5.7.0 Reject, id=12345-03 - BANNED: .exe"),
    ("policy", SenderServer, "550 5.7.1 Message rejected due to local policy."),
    ("sender-blocked", Recipient, "550 5.7.1 sender is blocked"),
    ("sender-unknown-domain", SenderDns, "550 sender domain does not exist"),
    (
        "dynamic-address",
        SenderDns,
        "550 5.7.1 mail from dynamically assigned addresses is not accepted, 203.0.113.25",
    ),
    ("loop", Recipient, "554 5.4.6 Too many hops"),
    ("loop", Recipient, "550 5.4.6 <bob@proseware.test>: alias leads back to itself"),
    ("rate", Nobody, "421 4.7.0 too many messages in one session: connect again"),
    ("rate", Nobody, "450 4.7.1 rate limit reached, slow down"),
    ("busy", Nobody, "451 4.3.5 Server configuration problem"),
    ("busy", Nobody, "421 4.3.2 Service not available, closing transmission channel"),
    ("expired", Recipient, "4.4.7 delivery time expired"),
    ("smtputf8", SendingUser, "SMTPUTF8 is required, but was not offered by host mx.adatum.test[192.0.2.7]"),
    ("bad-sequence", SenderServer, "554 5.5.1 SMTP protocol synchronization error"),
    ("bad-sequence", SenderServer, "503 5.5.0 improper use of SMTP command pipelining"),
];

#[test]
fn every_reply_finds_its_own_entry_and_no_other() {
    let wrong: Vec<String> =
        REPLIES.iter().filter_map(|(id, side, reply)| mistake(id, *side, reply)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is wrong with the entry that a reply finds: another one, another side, or none more specific than the next.
fn mistake(id: &str, side: Side, reply: &str) -> Option<String> {
    let subject = crate::bounce::reply::Reply::find(reply).subject();
    let mut found: Vec<(usize, &Known)> = matches(&subject).collect();
    found.sort_by_key(|(weight, _)| std::cmp::Reverse(*weight));
    let is_own = found.first().is_some_and(|(_, known)| known.id == id && known.side == side);
    let is_clear = found.len() < 2 || found[0].0 > found[1].0;
    let ids: Vec<(usize, &str)> = found.iter().map(|(weight, known)| (*weight, known.id)).collect();
    (!is_own || !is_clear).then(|| format!("{id}: {ids:?}: {subject}"))
}

#[test]
fn every_entry_has_a_reply_that_finds_it() {
    let with_reply: BTreeSet<&str> = REPLIES.iter().map(|(id, _, _)| *id).collect();
    let entries: BTreeSet<&str> = all().map(|known| known.id).collect();
    assert_eq!(entries.difference(&with_reply).collect::<Vec<_>>(), Vec::<&&str>::new());
    assert_eq!(all().count(), entries.len(), "an id is there twice");
    assert!(entries.len() >= 80, "{}", entries.len());
}

#[test]
fn patterns_and_sentences_are_well_formed() {
    for known in all() {
        for pattern in known.patterns {
            let letters = pattern.bytes().filter(|octet| !matches!(octet, b'*' | b'#')).count();
            assert!(letters > CODE_WEIGHT - 2, "{}: {pattern:?} matches too much", known.id);
            assert_eq!(*pattern, pattern.to_lowercase(), "{}", known.id);
            assert!(!pattern.contains("  ") && pattern.is_ascii(), "{}: {pattern:?}", known.id);
        }
        assert!(
            known.id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'),
            "{}",
            known.id
        );
        assert!(known.meaning.ends_with('.') && !known.meaning.contains('{'), "{}", known.id);
        assert!(known.change.ends_with('.'), "{}", known.id);
        assert!(!known.patterns.is_empty(), "{}", known.id);
        let text = known.checks.iter().fold(known.change.to_owned(), |text, check| text + check);
        for name in ["{sender}", "{recipient}", "{client}", "{reversed}", "{host}"] {
            assert!(!text.replace(name, "").contains(name.trim_end_matches('}')), "{}", known.id);
        }
    }
}

#[test]
fn vendor_codes_are_claimed_once() {
    for known in all() {
        for (first, last) in known.codes {
            assert!(first <= last, "{}", known.id);
            for detail in first.detail..=last.detail {
                let status = EnhancedStatus::new(first.class, first.subject, detail);
                let owners: Vec<&str> = with_code(status).map(|owner| owner.id).collect();
                assert_eq!(owners, [known.id], "{status}");
                let registered = crate::bounce::codes::registered(status);
                assert_eq!(registered, None, "{}: {status} is everybody's", known.id);
            }
        }
    }
}

#[test]
fn stars_and_digits_stand_for_what_they_say() {
    assert_eq!(weight("a*c", "xabbcx"), Some(2));
    assert_eq!(weight("c*a", "abc"), None);
    assert_eq!(weight("[bl2#]", "[bl23]"), Some(6));
    assert_eq!(weight("[bl2#]", "[bl2x] ä"), None);
    assert_eq!(weight("pdr00##", "pdr00"), None);
    assert_eq!(find("ä"), None);
}

#[test]
fn words_count_more_than_vendor_codes() {
    let known = find("550 5.7.606 user unknown");
    assert_eq!(known.map(|known| known.id), Some("user-unknown"));
    assert_eq!(find("550 5.7.606 xyzzy").map(|known| known.id), Some("microsoft-banned-ip"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_octets_are_read_without_panic(octets in proptest::collection::vec(any::<u8>(), 0..2000)) {
        explain(&octets);
    }

    #[test]
    fn any_pieces_of_bounces_are_read_without_panic(
        pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..60)
    ) {
        let bounce = explain(pieces.concat().as_bytes());
        prop_assert!(bounce.recipients.len() <= 1000);
        for told in bounce.recipients {
            let checks = told.finding.map(|finding| finding.checks).unwrap_or_default();
            prop_assert!(checks.iter().all(|check| !check.contains(['$', '`', '\n'])), "{:?}", checks);
        }
    }
}

const PIECES: &[&str] = &[
    "From: a@b.test\n",
    "Subject: x\n",
    "Content-Type: multipart/report; boundary=b\n",
    "Content-Type: text/html\n",
    "Content-Transfer-Encoding: base64\n",
    "Content-Transfer-Encoding: quoted-printable\n",
    "\n",
    "\n--b\n",
    "--b--\n",
    "Content-Type: message/delivery-status\n",
    "Content-Type: message/rfc822\n",
    "Final-Recipient: rfc822; b@c.test\n",
    "Action: failed\n",
    "Status: 5.7.1\n",
    "Diagnostic-Code: smtp; 550-5.7.1 a\n",
    " 550 5.7.1 b\n",
    "Remote-MTA: dns; $(x).test\n",
    "<b@c.test>:\n",
    "  d@e.test\n",
    "550 5.1.1 ",
    "4.4.7",
    "ä€",
    "<html>",
    "&#x41;",
    "&",
    "<style>",
    "-->",
    "<!--",
    "=\n",
    "=C3",
    "host `id`.test[192.0.2.1] said: ",
    "zen.spamhaus.org ",
    "[203.0.113.25]",
    "2001:db8::1 ",
    "(ref 4QX7-93KD) ",
    "--- Below this line is a copy of the message.\n",
    "Transcript of session follows\n",
    "<<< 550 ",
    "to=<f@g.test>, ",
    "\r\n",
    "\u{0}",
];
