//! What the numbers of a reply mean: reply codes (RFC 5321 §4.2) and enhanced status codes (RFC 3463 and the registry of
//! RFC 5248).

use postern_smtp::EnhancedStatus;

use super::Side::{self, Nobody, Recipient, SenderDns, SenderServer, SendingUser};
use super::{Action, Again, Basis, Finding};

/// An enhanced status code of the registry, whatever its class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registered {
    /// The second number.
    pub subject: u16,
    /// The third number.
    pub detail: u16,
    /// What it means.
    pub meaning: &'static str,
    /// Whose move it is when it is for good.
    pub side: Side,
    /// What they must change.
    pub change: &'static str,
}

const fn code(
    subject: u16,
    detail: u16,
    meaning: &'static str,
    side: Side,
    change: &'static str,
) -> Registered {
    Registered { subject, detail, meaning, side, change }
}

const READ_THE_TEXT: &str = "The words of the reply say more than the code: go by them.";
const ASK_THEM: &str = "Tell the administrator of the refusing server; the sender cannot change it.";
const ADDRESS: &str = "Look for a typing error in the address, or ask the recipient for it.";
const LOGIN: &str = "Correct how the mail program or server logs in.";

/// The registry: `X.subject.detail`.
pub const REGISTERED: &[Registered] = &[
    code(0, 0, "Something is wrong, and the code does not say what.", SenderServer, READ_THE_TEXT),
    code(1, 0, "Something is wrong with an address.", SendingUser, ADDRESS),
    code(1, 1, "There is no such mailbox in the recipient's domain.", SendingUser, ADDRESS),
    code(1, 2, "The recipient's domain does not exist, or takes no mail.", SendingUser, ADDRESS),
    code(1, 3, "The recipient's address is not written as an address must be.", SendingUser, ADDRESS),
    code(
        1,
        4,
        "The address stands for several mailboxes, and the server does not know which.",
        SendingUser,
        "Ask the recipient for an address that is unambiguous.",
    ),
    code(1, 5, "The recipient's address is valid.", Nobody, "Nothing."),
    code(
        1,
        6,
        "The mailbox was there once, and left no forwarding address.",
        SendingUser,
        "Ask the recipient for the new address, and take the old one off the lists.",
    ),
    code(
        1,
        7,
        "The sender's address is not written as an address must be.",
        SenderServer,
        "Correct the sender's address in the program that made the message.",
    ),
    code(
        1,
        8,
        "The domain of the sender's address does not exist, or cannot be answered.",
        SenderDns,
        "Give the sender's domain MX or address records, or use an existing domain.",
    ),
    code(1, 9, "The message went on to a server that does not report what became of it.", Nobody, "Nothing."),
    code(
        1,
        10,
        "The recipient's domain says in the DNS that it takes no mail (null MX).",
        SendingUser,
        "Look for a typing error in the domain, or ask the recipient for another address.",
    ),
    code(2, 0, "Something is wrong with the mailbox.", Recipient, ASK_THEM),
    code(
        2,
        1,
        "The mailbox is switched off.",
        Recipient,
        "Switch the mailbox on again, or give the sender another address.",
    ),
    code(2, 2, "The mailbox is full.", Recipient, "Empty the mailbox, or raise its quota."),
    code(2, 3, "The message is longer than this mailbox takes.", SendingUser, "Send less, or a link to it."),
    code(2, 4, "The members of a mailing list could not be found.", Recipient, "Repair the list."),
    code(3, 0, "The recipient's mail system has a problem of its own.", Recipient, ASK_THEM),
    code(3, 1, "The recipient's mail system has no room left.", Recipient, "Make room on the server."),
    code(
        3,
        2,
        "The recipient's mail system takes nothing now: it is being shut down, or is under too much \
         load.",
        Recipient,
        "Start the service again, or lift what holds mail back.",
    ),
    code(3, 3, "The recipient's mail system cannot do what the message needs.", Recipient, READ_THE_TEXT),
    code(3, 4, "The message is larger than the server takes.", SendingUser, "Send less, or a link to it."),
    code(
        3,
        5,
        "The mail system is set up wrongly; often its MX points to a server that does not know the \
         domain.",
        Recipient,
        "Correct the configuration of the server that said it.",
    ),
    code(3, 6, "The message was taken with another priority than was asked for.", Nobody, "Nothing."),
    code(4, 0, "Something is wrong with the network or the route.", SenderServer, READ_THE_TEXT),
    code(
        4,
        1,
        "The recipient's mail server does not answer.",
        Recipient,
        "Bring the mail server up, and let port 25 through the firewall.",
    ),
    code(
        4,
        2,
        "The connection broke in the middle.",
        Recipient,
        "Look for a firewall or a filter that ends connections, and for timeouts.",
    ),
    code(
        4,
        3,
        "A directory or DNS server that decides the route could not answer.",
        SenderServer,
        "Look at the resolver of the server that said it.",
    ),
    code(
        4,
        4,
        "No route: the next mail server could not be found.",
        Recipient,
        "Correct the MX and address records of the recipient's domain, or the route that the sending \
         server has for it.",
    ),
    code(4, 5, "The mail system is congested.", Recipient, "Reduce the load, or allow more."),
    code(
        4,
        6,
        "The message goes round in circles.",
        Recipient,
        "Find the forwarding, alias or MX record that leads back, and end it.",
    ),
    code(
        4,
        7,
        "The message could not be delivered in the time that the sending server gives it.",
        Recipient,
        "The last answer of the recipient's server says why: have that removed, then send again.",
    ),
    code(5, 0, "The two servers did not understand each other.", SenderServer, READ_THE_TEXT),
    code(
        5,
        1,
        "A command that is not known, or not in its turn.",
        SenderServer,
        "Correct the program that sends; if it wanted to log in, it may be on the wrong port.",
    ),
    code(
        5,
        2,
        "A command that could not be read.",
        SenderServer,
        "Correct the program that sends; look for odd characters in the addresses.",
    ),
    code(5, 3, "Too many recipients at once.", SenderServer, "Send to fewer recipients in one transaction."),
    code(
        5,
        4,
        "A command with parameters that are wrong or not offered.",
        SenderServer,
        "Correct the program that sends; often it is the name in EHLO.",
    ),
    code(5, 5, "The versions of the protocol do not fit.", SenderServer, "Correct the program that sends."),
    code(5, 6, "A line of the login is too long.", SenderServer, LOGIN),
    code(6, 0, "Something is wrong with the content of the message.", SendingUser, READ_THE_TEXT),
    code(
        6,
        1,
        "The recipient's system does not take this kind of content.",
        SendingUser,
        "Send it in another form.",
    ),
    code(
        6,
        2,
        "The content would have to be converted, and may not be.",
        SendingUser,
        "Send it in another form, such as plain ASCII.",
    ),
    code(
        6,
        3,
        "The content would have to be converted, and cannot be.",
        SendingUser,
        "Send it in another form, such as plain ASCII.",
    ),
    code(
        6,
        4,
        "The content was converted, and something was lost.",
        Nobody,
        "Nothing, unless what was lost matters.",
    ),
    code(6, 5, "The conversion of the content failed.", SenderServer, "Send it in another form."),
    code(
        6,
        6,
        "Content that the message refers to cannot be fetched.",
        SenderServer,
        "Send the content itself.",
    ),
    code(6, 7, "Addresses beyond ASCII are not possible there.", SendingUser, "Use addresses in ASCII."),
    code(
        6,
        8,
        "An answer beyond ASCII would be needed, and is not allowed.",
        SenderServer,
        "Let the sending server announce SMTPUTF8.",
    ),
    code(
        6,
        9,
        "A message with header fields beyond ASCII cannot go on from there.",
        SendingUser,
        "Use addresses and a subject in ASCII.",
    ),
    code(
        6,
        10,
        "A message beyond ASCII cannot be handed to a server that does not know SMTPUTF8.",
        SendingUser,
        "Use addresses and a subject in ASCII.",
    ),
    code(7, 0, "A rule or a check of security stands in the way.", SenderServer, READ_THE_TEXT),
    code(
        7,
        1,
        "A rule of the refusing server forbids it: relaying, a block list, a filter or a right that \
         is missing.",
        SenderServer,
        READ_THE_TEXT,
    ),
    code(
        7,
        2,
        "The sender may not write to this mailing list.",
        Recipient,
        "Let the owner of the list admit the sender.",
    ),
    code(
        7,
        3,
        "The message would have to pass between two forms of security, and cannot.",
        SenderServer,
        READ_THE_TEXT,
    ),
    code(
        7,
        4,
        "A form of security that is asked for is not known there.",
        SenderServer,
        "Use a method that the server announces.",
    ),
    code(7, 5, "A cryptographic check failed for want of a key or by itself.", SenderServer, READ_THE_TEXT),
    code(
        7,
        6,
        "The cryptographic algorithm is not known there.",
        SenderServer,
        "Use an algorithm that the other side knows.",
    ),
    code(
        7,
        7,
        "The message was changed on its way, or its checksum is wrong.",
        SenderServer,
        "Find what changes the message behind the signature.",
    ),
    code(7, 8, "The user name or the password is wrong.", SenderServer, LOGIN),
    code(
        7,
        9,
        "The way of logging in is too weak for this server.",
        SenderServer,
        "Use a stronger mechanism, or an application password.",
    ),
    code(
        7,
        10,
        "This server takes nothing without TLS.",
        SenderServer,
        "Let the sending server use STARTTLS.",
    ),
    code(
        7,
        11,
        "Logging in this way needs TLS.",
        SenderServer,
        "Use STARTTLS before the login, or port 465.",
    ),
    code(7, 12, "The password has to be set once in another way first.", SenderServer, LOGIN),
    code(
        7,
        13,
        "The account that logs in is switched off.",
        SenderServer,
        "Have the account switched on, or use another.",
    ),
    code(7, 14, "The server wants a trust relationship with a third one.", SenderServer, READ_THE_TEXT),
    code(7, 15, "The server takes only messages of higher priority now.", SenderServer, "Send it later."),
    code(
        7,
        16,
        "The message is too large for its priority.",
        SendingUser,
        "Send less, or with another priority.",
    ),
    code(
        7,
        17,
        "The mailbox has a new owner since the sender knew it.",
        SendingUser,
        "Ask the recipient for the new address.",
    ),
    code(
        7,
        18,
        "The recipient's domain has a new owner since the sender knew it.",
        SendingUser,
        "Ask the recipient for the new address.",
    ),
    code(
        7,
        19,
        "Whether the mailbox still has the same owner could not be found out.",
        SenderServer,
        "Send without asking for it (Require-Recipient-Valid-Since).",
    ),
    code(
        7,
        20,
        "No DKIM signature of the message verifies.",
        SenderServer,
        "Sign with the key that the DNS has, and let nothing change the message afterwards.",
    ),
    code(
        7,
        21,
        "There is a good DKIM signature, but none that this server accepts.",
        SenderServer,
        "Sign as the domain that the server expects.",
    ),
    code(
        7,
        22,
        "There is a good DKIM signature, but not of the author's domain.",
        SenderServer,
        "Sign as the domain in the From field.",
    ),
    code(
        7,
        23,
        "SPF: the sending server may not send for this domain.",
        SenderDns,
        "Add the sending server to the SPF record of the sender's domain.",
    ),
    code(
        7,
        24,
        "SPF: the record of the sender's domain cannot be evaluated.",
        SenderDns,
        "Correct the SPF record: one record only, no more than ten lookups.",
    ),
    code(
        7,
        25,
        "The address of the sending server has no name in the DNS, or the name leads elsewhere.",
        SenderDns,
        "Give the address a PTR record whose name leads back to it.",
    ),
    code(
        7,
        26,
        "Several checks of who sent it failed: SPF, DKIM, DMARC.",
        SenderDns,
        "Publish SPF and DKIM for the sender's domain, and sign the mail.",
    ),
    code(
        7,
        27,
        "The sender's domain says that it takes no mail (null MX), so nobody could answer.",
        SenderDns,
        "Remove the null MX, or send from a domain that takes mail.",
    ),
    code(
        7,
        28,
        "Too much mail came from there in a short time.",
        SenderServer,
        "Send more slowly, and look for a stolen login.",
    ),
    code(
        7,
        29,
        "The ARC chain of a forwarded message does not verify.",
        SenderServer,
        "Correct the ARC sealing of the forwarder, or stop it.",
    ),
    code(
        7,
        30,
        "The message asks for TLS all the way (REQUIRETLS), and the next server does not offer that.",
        SendingUser,
        "Send it without the requirement, or have the recipient's server learn it.",
    ),
];

/// What the second number says where the third is not registered.
const SUBJECTS: [(&str, Side); 8] = [
    ("The code does not say what it is about.", SenderServer),
    ("It is about an address.", SendingUser),
    ("It is about the recipient's mailbox.", Recipient),
    ("It is about the recipient's mail system.", Recipient),
    ("It is about the network or the route to the recipient.", Recipient),
    ("It is about the commands between the two servers.", SenderServer),
    ("It is about the content of the message.", SendingUser),
    ("It is about security or a rule of the server.", SenderServer),
];

/// Reply codes of SMTP and its extensions.
const REPLIES: &[(u16, &str)] = &[
    (211, "The state of the server, or help."),
    (214, "Help."),
    (220, "The server is ready."),
    (221, "The server ends the connection, as it was asked."),
    (235, "The login is good."),
    (250, "Done."),
    (251, "The mailbox is elsewhere; the server forwards the message."),
    (252, "The server does not say whether the mailbox exists, but takes mail for it."),
    (334, "The server asks for the next line of the login."),
    (354, "The server waits for the message."),
    (421, "The server ends the connection: it is shutting down, busy, or has had enough of this client."),
    (422, "The mailbox is full at the moment, or a password must be changed first."),
    (431, "The recipient's server has no room at the moment."),
    (432, "The recipient's server takes nothing at the moment, or a password must be changed first."),
    (441, "The recipient's server does not answer."),
    (442, "The connection broke."),
    (
        450,
        "The mailbox cannot be used at the moment: locked, grey-listed, or its check is still going \
         on.",
    ),
    (451, "An error in the server at the moment, or a delay that it imposes."),
    (452, "The server has no room, or too many recipients came at once."),
    (454, "TLS or logging in is not possible at the moment."),
    (455, "The server cannot do what a parameter asks at the moment."),
    (458, "Messages for this node cannot be queued."),
    (459, "The node is not allowed."),
    (471, "A filter of the server could not finish."),
    (500, "The server does not know the command, or the line is too long."),
    (501, "The server cannot read the parameters of a command."),
    (502, "The server knows the command, but does not offer it."),
    (503, "A command came at the wrong time; often a login was expected first."),
    (504, "The server does not know the value of a parameter."),
    (510, "The recipient's address is bad."),
    (511, "The recipient's address is bad."),
    (512, "The recipient's domain cannot be found."),
    (513, "The recipient's address is of the wrong kind."),
    (521, "This host takes no mail at all."),
    (523, "The message is larger than the server takes, or TLS is needed."),
    (524, "The password has to be set in another way first."),
    (525, "The account that logs in is switched off."),
    (530, "The server wants a login or TLS first."),
    (534, "The way of logging in is too weak for this server."),
    (535, "The user name or the password is wrong."),
    (538, "Logging in this way needs TLS."),
    (541, "A rule of the recipient's server forbids it."),
    (550, "The mailbox does not exist, or a rule of the server forbids it."),
    (551, "The mailbox is elsewhere, or relaying is not allowed."),
    (552, "The mailbox is full, or the message too large."),
    (553, "The address is not allowed: its form, or who may use it."),
    (554, "The transaction failed, or the server does not want to talk to this client."),
    (555, "The server does not know a parameter of MAIL or RCPT."),
    (556, "The recipient's domain takes no mail."),
    (557, "Too many domains or recipients in one message."),
    (571, "A rule of the server forbids it."),
];

/// What is known of codes alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meaning {
    /// What the first digit says.
    pub class: &'static str,
    /// What the reply code says.
    pub reply: Option<&'static str>,
    /// What the enhanced code says; its subject only, if the code is not registered.
    pub status: Option<&'static str>,
    /// Whether the enhanced code is registered.
    pub is_registered: bool,
}

impl Meaning {
    /// What the codes mean; `None` if they are none at all.
    pub fn of(reply: Option<u16>, status: Option<EnhancedStatus>) -> Option<Self> {
        let class = status.map(|status| u16::from(status.class)).or(reply.map(|reply| reply / 100))?;
        let registered = status.and_then(registered);
        let subject =
            |status: EnhancedStatus| SUBJECTS.get(usize::from(status.subject)).map(|(words, _)| *words);
        Some(Self {
            class: class_in_words(class)?,
            reply: reply
                .and_then(|reply| REPLIES.iter().find(|(code, _)| *code == reply))
                .map(|(_, words)| *words),
            status: registered.map(|code| code.meaning).or_else(|| status.and_then(subject)),
            is_registered: registered.is_some(),
        })
    }

    /// Whether anything beyond the class is known.
    pub fn is_recognised(&self) -> bool {
        self.reply.is_some() || self.status.is_some()
    }
}

fn class_in_words(class: u16) -> Option<&'static str> {
    Some(match class {
        2 => "done: this is no error",
        3 => "go on: this is no error",
        4 => "not now: the server that has the message tries again by itself",
        5 => "refused for good: it is not tried again, and the sender gets a bounce",
        _ => return None,
    })
}

/// The entry of the registry.
pub fn registered(status: EnhancedStatus) -> Option<&'static Registered> {
    REGISTERED.iter().find(|code| (code.subject, code.detail) == (status.subject, status.detail))
}

/// What codes mean where the words are not known.
pub(super) fn finding(
    reply: Option<u16>,
    status: Option<EnhancedStatus>,
    action: Option<Action>,
) -> Option<Finding> {
    let meaning = Meaning::of(reply, status)?;
    let registered = status.and_then(registered);
    let class = status.map_or_else(|| reply.unwrap_or_default() / 100, |status| u16::from(status.class));
    let subject = status.and_then(|status| SUBJECTS.get(usize::from(status.subject)));
    let side = registered.map(|code| code.side).or(subject.map(|(_, side)| *side)).unwrap_or(SenderServer);
    // X.0.0 says no more than its class.
    let is_telling = status.is_some_and(|status| status.subject != 0) && meaning.status.is_some();
    let change = registered.map_or(READ_THE_TEXT, |code| code.change);
    let (side, change, again) = match class {
        2 | 3 => (Nobody, "Nothing.".to_owned(), Again::NotNeeded),
        // The server that had it has given up: waiting is over.
        4 if action == Some(Action::Failed) => (side, change.to_owned(), Again::Later),
        4 => (Nobody, format!("Wait. If it goes on for a day: {change}"), Again::ByItself),
        _ => (side, change.to_owned(), Again::AfterChange),
    };
    Some(Finding {
        id: match (status, reply) {
            (Some(status), _) => format!("code-{status}"),
            (None, code) => format!("code-{}", code.unwrap_or_default()),
        },
        basis: if is_telling { Basis::Code } else { Basis::Class },
        system: "any server",
        meaning: meaning.status.or(meaning.reply).unwrap_or(meaning.class),
        side,
        change,
        checks: Vec::new(),
        again,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn every_registered_code_is_there_once_and_says_something() {
        // RFC 3463, 3886, 4468, 4954, 5248, 6531, 6710, 7293, 7372, 7505, 8689 and the registry.
        let expected: usize = [1, 11, 5, 7, 8, 7, 11, 31].iter().sum();
        assert_eq!(REGISTERED.len(), expected);
        for (at, code) in REGISTERED.iter().enumerate() {
            let same = |other: &&Registered| (other.subject, other.detail) == (code.subject, code.detail);
            assert_eq!(REGISTERED.iter().position(|other| same(&other)), Some(at), "{code:?}");
            assert!(code.meaning.ends_with('.') && code.change.ends_with('.'), "{code:?}");
        }
    }

    #[test]
    fn every_detail_up_to_the_last_of_its_subject_is_there() {
        for (subject, last) in [(0, 0), (1, 10), (2, 4), (3, 6), (4, 7), (5, 6), (6, 10), (7, 30)] {
            for detail in 0..=last {
                assert!(
                    registered(EnhancedStatus::new(5, subject, detail)).is_some(),
                    "X.{subject}.{detail}"
                );
            }
            assert!(registered(EnhancedStatus::new(5, subject, last + 1)).is_none());
        }
    }

    #[test]
    fn a_code_that_is_not_registered_is_told_by_class_and_subject() {
        let meaning = Meaning::of(None, Some(EnhancedStatus::new(4, 7, 999))).unwrap();
        assert!(!meaning.is_registered && meaning.is_recognised());
        assert!(meaning.class.starts_with("not now") && meaning.status.unwrap().contains("security"));
        let unknown = Meaning::of(None, Some(EnhancedStatus::new(5, 99, 1))).unwrap();
        assert!(!unknown.is_recognised());
        assert_eq!(Meaning::of(None, None), None);
        assert_eq!(Meaning::of(Some(700), None), None);
    }

    #[test]
    fn codes_for_now_ask_for_nothing_but_patience() {
        let unreachable = |action| finding(Some(451), Some(EnhancedStatus::new(4, 4, 1)), action).unwrap();
        let late = unreachable(Some(Action::Delayed));
        assert_eq!((late.side, late.again), (Nobody, Again::ByItself));
        let given_up = unreachable(Some(Action::Failed));
        assert_eq!((given_up.side, given_up.again), (Recipient, Again::Later));
        let done = finding(Some(250), None, None).unwrap();
        assert_eq!((done.side, done.again, done.basis), (Nobody, Again::NotNeeded, Basis::Class));
    }

    #[test]
    fn x_0_0_is_no_recognition() {
        assert_eq!(finding(Some(554), Some(EnhancedStatus::new(5, 0, 0)), None).unwrap().basis, Basis::Class);
        assert_eq!(finding(None, Some(EnhancedStatus::new(5, 1, 1)), None).unwrap().basis, Basis::Code);
    }

    #[test]
    fn reply_codes_are_in_order_and_of_a_known_class() {
        assert!(REPLIES.windows(2).all(|pair| pair[0].0 < pair[1].0));
        for (code, words) in REPLIES {
            assert!(class_in_words(code / 100).is_some() && words.ends_with('.'), "{code}");
        }
    }
}
