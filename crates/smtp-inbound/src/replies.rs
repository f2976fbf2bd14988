//! Every text that a client reads. Codes and enhanced codes stand beside the words, so that one look shows a whole reply.
//! What a refusal by the policy says, and how `[replies]` changes it, is in `refusal`; the words of other systems in
//! `families`.

use std::time::Duration;

use postern_config::LoginPorts;
use postern_queue::{AcceptError, QueueId};
use postern_smtp::binary::Unconvertible;
use postern_smtp::command::{CommandError, Node};
use postern_smtp::{Domain, EnhancedStatus, Host, Reply};

use crate::clients::{Deed, Scope};

mod families;
mod refusal;

pub use refusal::{Refused, refused};

/// What to do about a missing login, in words (RFC 6409 §3.1, RFC 8314 §3.3).
fn log_in(ports: &LoginPorts) -> String {
    match ports.words() {
        Some(ports) => format!("log in on port {ports}"),
        None => "this server takes no logins".to_owned(),
    }
}

fn reply(code: u16, subject: u16, detail: u16, text: impl AsRef<str>) -> Reply {
    let class = if code < 300 {
        2
    } else if code < 500 {
        4
    } else {
        5
    };
    Reply::new(code, EnhancedStatus::new(class, subject, detail), text)
}

/// The first words of a session.
pub fn greeting(hostname: &Domain, lmtp: bool) -> Reply {
    let protocol = if lmtp { "LMTP" } else { "ESMTP" };
    Reply::plain(220, format!("{hostname} {protocol} Postern"))
}

/// EHLO and HELO where LMTP is spoken (RFC 2033 §4.1).
pub fn lmtp_is_spoken() -> Reply {
    reply(500, 5, 1, "LMTP is spoken here: say LHLO")
}

/// HELO was taken.
pub fn hello(hostname: &Domain) -> Reply {
    Reply::plain(250, hostname.as_str())
}

/// EHLO was taken: the extensions follow the name, one a line.
pub fn extended_hello(hostname: &Domain, extensions: &[String]) -> Reply {
    Reply::plain(250, format!("{hostname}\n{}", extensions.join("\n")))
}

/// RSET, NOOP.
pub fn ok() -> Reply {
    reply(250, 0, 0, "Ok")
}

/// MAIL was taken.
pub fn sender_ok() -> Reply {
    reply(250, 1, 0, "Ok")
}

/// MAIL was taken, with a lower priority than was asked for (RFC 6710 §4.1).
pub fn priority_lowered(priority: i8) -> Reply {
    reply(250, 3, 6, format!("Ok, with priority {priority}"))
}

/// HOLDFOR or HOLDUNTIL is too far ahead (RFC 4865 §4).
pub fn held_too_long(most: Duration) -> Reply {
    reply(501, 5, 4, format!("mail is held for {} seconds at most", most.as_secs()))
}

/// BY leaves too little time (RFC 2852 §4).
pub fn too_urgent(shortest: Duration) -> Reply {
    reply(555, 5, 4, format!("mail is returned after {} seconds, not sooner", shortest.as_secs()))
}

/// RCPT was taken.
pub fn recipient_ok() -> Reply {
    reply(250, 1, 5, "Ok")
}

/// RCPT at a submission listener names a host without its domain (RFC 6409 §4.2).
pub fn recipient_not_qualified(host: &Host) -> Reply {
    reply(554, 1, 2, format!("{host} is no whole domain name: write it to its end"))
}

/// MAIL likewise.
pub fn sender_not_qualified(host: &Host) -> Reply {
    reply(554, 1, 8, format!("{host} is no whole domain name: write it to its end"))
}

/// Go on with the message.
pub fn send_message() -> Reply {
    Reply::plain(354, "End data with <CR><LF>.<CR><LF>")
}

/// A chunk that is not the last came in (RFC 3030 §2).
pub fn chunk_received(octets: u64) -> Reply {
    reply(250, 0, 0, format!("Ok: {octets} octets received"))
}

/// The message is durable.
pub fn queued(id: QueueId) -> Reply {
    reply(250, 0, 0, format!("Ok: queued as {id}"))
}

/// QUIT.
pub fn bye() -> Reply {
    reply(221, 0, 0, "Bye")
}

/// VRFY: who exists is told at RCPT only (RFC 5321 §3.5.3).
pub fn cannot_verify() -> Reply {
    reply(252, 5, 0, "Cannot verify, but will take a message for it and try")
}

/// EXPN.
pub fn not_implemented() -> Reply {
    reply(502, 5, 1, "Command not implemented")
}

/// HELP: the commands that can be used now.
pub fn help(lmtp: bool, can_start_tls: bool, can_log_in: bool) -> Reply {
    let hello = if lmtp { "LHLO" } else { "EHLO HELO" };
    let starttls = if can_start_tls { " STARTTLS" } else { "" };
    let auth = if can_log_in { " AUTH" } else { "" };
    let text = format!(
        "{hello} MAIL RCPT DATA BDAT RSET NOOP QUIT VRFY HELP{starttls}{auth}\nRFC 5321 says what they do"
    );
    reply(214, 0, 0, text)
}

/// STARTTLS was taken.
pub fn ready_for_tls() -> Reply {
    reply(220, 0, 0, "Ready to start TLS")
}

/// XCLIENT: LOGIN from a host that is not believed, or where no logins are taken.
pub fn login_not_believed() -> Reply {
    reply(501, 5, 4, "XCLIENT: attribute LOGIN is not taken here")
}

/// XCLIENT: LOGIN names nobody. Whoever may say it may know that.
pub fn no_such_login() -> Reply {
    reply(550, 7, 8, "XCLIENT: attribute LOGIN names no login of this server")
}

/// ETRN: nothing waits (RFC 1985 §5.3, as the following).
pub fn nothing_waits(node: &Node) -> Reply {
    reply(251, 0, 0, format!("Ok: no messages wait for {node}"))
}

/// ETRN: everything that waits is being tried already.
pub fn node_under_way(node: &Node) -> Reply {
    reply(252, 0, 0, format!("Ok: messages for {node} are on their way"))
}

/// ETRN: so many messages are tried now.
pub fn node_started(node: &Node, messages: usize) -> Reply {
    reply(253, 0, 0, format!("Ok: {messages} messages for {node} started"))
}

/// ETRN: how many are tried is not known yet.
pub fn node_goes_on(node: &Node) -> Reply {
    reply(250, 0, 0, format!("Ok: queuing for {node} started"))
}

/// ETRN: the queue cannot be run now.
pub fn node_not_now(node: &Node) -> Reply {
    reply(458, 3, 2, format!("cannot run the queue for {node} now, try again later"))
}

/// ETRN: it was asked for a short while ago.
pub fn node_too_soon(node: &Node, interval: Duration) -> Reply {
    let seconds = interval.as_secs_f32().ceil();
    reply(458, 7, 0, format!("the queue for {node} is run once in {seconds} s: try again later"))
}

/// ETRN: mail for the domain does not wait here for its server.
pub fn node_not_relayed(node: &Node) -> Reply {
    // The code looks transient, and is not.
    Reply::new(
        459,
        EnhancedStatus::new(4, 7, 1),
        format!("{node} not allowed: this server does not relay for it"),
    )
}

/// STARTTLS where there is no certificate (RFC 3207 §4).
pub fn tls_not_available() -> Reply {
    reply(454, 7, 0, "TLS not available")
}

/// STARTTLS under TLS.
pub fn already_secured() -> Reply {
    reply(503, 5, 1, "TLS is already active")
}

/// A line that is no command.
pub fn bad_command(error: &CommandError) -> Reply {
    Reply::new(error.code(), error.status(), error.to_string())
}

/// A command line that ends with LF instead of CRLF.
pub fn bare_line_end() -> Reply {
    reply(500, 5, 2, "lines end with <CR><LF>")
}

/// A command line over the limit.
pub fn line_too_long(limit: usize) -> Reply {
    reply(500, 5, 2, format!("line longer than {limit} octets"))
}

/// A line of an AUTH exchange over the limit (RFC 4954 §4).
pub fn auth_line_too_long(limit: usize) -> Reply {
    reply(500, 5, 6, format!("authentication exchange line longer than {limit} octets"))
}

/// A command that is known, at the wrong time.
pub fn bad_sequence(wanted: &str) -> Reply {
    reply(503, 5, 1, format!("bad sequence of commands: {wanted}"))
}

/// A parameter or value of an extension that was not announced.
pub fn unsupported_parameter(parameter: &str) -> Reply {
    reply(555, 5, 4, format!("parameter {parameter} is not supported"))
}

/// The message came before 354: its lines must not be read as commands.
pub fn spoke_too_early() -> Reply {
    reply(503, 5, 1, "data sent before the reply to DATA")
}

/// The first line of an HTTP request.
pub fn not_http() -> Reply {
    reply(421, 7, 0, "SMTP is spoken here, not HTTP")
}

/// DATA after nothing but refused recipients.
pub fn no_valid_recipients() -> Reply {
    reply(554, 5, 1, "no valid recipients")
}

/// DATA after refused recipients, of which some may be accepted later.
pub fn no_valid_recipients_now() -> Reply {
    reply(451, 5, 1, "no valid recipients now, try again later")
}

/// By SIZE, or while it came in.
pub fn message_too_large(limit: u64) -> Reply {
    reply(552, 3, 4, format!("message larger than {limit} octets"))
}

/// As it came it was not.
pub fn converted_message_too_large(limit: u64) -> Reply {
    reply(552, 3, 4, format!("message larger than {limit} octets with its binary parts in base64"))
}

/// A message with BODY=BINARYMIME from which no other can be made that every server takes (RFC 3463 §3.7: 5.6.2, conversion
/// prohibited).
pub fn not_convertible(error: &Unconvertible) -> Reply {
    let text = format!("BINARYMIME message cannot be converted: {error}");
    match error {
        Unconvertible::HeaderTooLarge(_) => reply(552, 3, 4, text),
        Unconvertible::Signed => reply(550, 6, 2, text),
        Unconvertible::TooDeep | Unconvertible::NoBoundary | Unconvertible::UnclearEncoding => {
            reply(550, 6, 0, text)
        }
    }
}

/// The header alone is over its limit.
pub fn header_too_large(limit: u64) -> Reply {
    reply(552, 3, 4, format!("message header larger than {limit} octets"))
}

/// RFC 5321 §2.3.8 knows CRLF only; what others take for a line end could hide a second message.
pub fn bare_line_end_in_message() -> Reply {
    reply(
        550,
        6,
        0,
        "message has bare CR or LF characters: lines must end with CR LF (RFC 5321 section 2.3.8)",
    )
}

/// The same with BODY=BINARYMIME, where parts may have any octets.
pub fn bare_line_end_outside_binary_parts() -> Reply {
    reply(
        550,
        6,
        0,
        "message has bare CR or LF characters in a part that is not labelled binary: BINARYMIME needs \
         Content-Transfer-Encoding: binary there (RFC 3030 section 3)",
    )
}

/// A line inside a message over the limit.
pub fn long_line_in_message(limit: u64) -> Reply {
    reply(550, 6, 0, format!("message has a line longer than {limit} octets"))
}

/// Too many Received fields (RFC 5321 §6.3).
pub fn routing_loop(received: usize) -> Reply {
    reply(554, 4, 6, format!("routing loop: message has {received} Received fields"))
}

/// The spool did not take the message.
pub fn not_stored(error: &AcceptError) -> Reply {
    match error {
        AcceptError::NoSpace(_) => reply(452, 3, 1, "not enough space for new mail, try again later"),
        AcceptError::Full(_) => reply(452, 3, 1, "too many messages are waiting, try again later"),
        // A session answers with the reference of the refusal: see `refused`.
        AcceptError::Rule(refused) if refused.is_temporary => reply(450, 7, 1, &refused.text),
        AcceptError::Rule(refused) => reply(550, 7, 1, &refused.text),
        AcceptError::Timeout | AcceptError::Store(_) => {
            reply(451, 3, 0, "message could not be stored, try again later")
        }
    }
}

/// MAIL while the queue is being loaded, for longer than a client can wait (RFC 3463 §3.4: 4.3.2, not accepting messages).
pub fn queue_is_loading() -> Reply {
    reply(451, 3, 2, "the queue is being loaded, try again later")
}

/// What of AUTH.
pub fn auth_challenge(challenge: &str) -> Reply {
    Reply::plain(334, challenge)
}

/// The password was right.
pub fn logged_in() -> Reply {
    reply(235, 7, 0, "Authentication successful")
}

/// The password could not be checked (RFC 4954 §6).
pub fn login_not_available() -> Reply {
    reply(454, 7, 0, "authentication is not possible now, try again later")
}

/// AUTH twice (RFC 4954 §4).
pub fn already_logged_in() -> Reply {
    reply(503, 5, 1, "already authenticated")
}

/// RFC 4954 §4.
pub fn unknown_mechanism(known: &[&str]) -> Reply {
    let known = match known {
        [] => "none is offered here".to_owned(),
        [only] => format!("{only} is known"),
        [rest @ .., last] => format!("{} and {last} are known", rest.join(", ")),
    };
    reply(504, 5, 4, format!("unknown authentication mechanism: {known}"))
}

/// SCRAM: the client names a kind of channel binding that the session does not have.
pub fn unknown_channel_binding() -> Reply {
    reply(501, 5, 4, "channel binding not available: tls-exporter and tls-server-end-point are")
}

/// SCRAM: the client can do channel binding, and has not heard that we can (RFC 5802 §6).
pub fn downgraded() -> Reply {
    reply(
        535,
        7,
        0,
        "channel binding is offered here and you did not see it: somebody may have changed the offer",
    )
}

/// Not base 64, or not what the mechanism sends.
pub fn bad_auth_response() -> Reply {
    reply(501, 5, 2, "malformed authentication response")
}

/// The client sent `*` (RFC 4954 §4).
pub fn auth_cancelled() -> Reply {
    reply(501, 7, 0, "authentication cancelled")
}

/// The limit of all sessions.
pub fn too_many_connections() -> Reply {
    reply(421, 3, 2, "too many connections, try again later")
}

/// No memory for the buffers of one more session.
pub fn no_room_for_sessions() -> Reply {
    reply(421, 3, 2, "no memory for more connections, try again later")
}

/// No memory for the buffers of one more message.
pub fn no_room_for_mail() -> Reply {
    reply(452, 3, 1, "no memory for new mail, try again later")
}

/// The limit of connections at once of one client.
pub(crate) fn too_many_connections_from(scope: Scope) -> Reply {
    reply(421, 7, 0, format!("too many connections from your {}", whose(scope)))
}

/// A limit of what one client does in a time.
pub(crate) fn too_much_lately(deed: Deed, scope: Scope) -> Reply {
    let whose = whose(scope);
    reply(
        421,
        7,
        0,
        match deed {
            Deed::Connection => format!("too many new connections from your {whose}, try again in a minute"),
            Deed::Error => format!("too many errors from your {whose} within an hour, try again later"),
            Deed::UnknownRecipient => {
                format!("too many unknown recipients from your {whose} within an hour, try again later")
            }
        },
    )
}

fn whose(scope: Scope) -> &'static str {
    match scope {
        Scope::Address => "address",
        Scope::Network => "network",
    }
}

/// A proxy does not say whose connection it hands on. Its clients come again when it does.
pub fn no_proxy_header() -> Reply {
    reply(421, 3, 5, "PROXY protocol header expected")
}

/// The client talked before the greeting (RFC 5321 §3.1; 554 instead of the greeting: §4.3.2).
pub fn talked_before_greeting() -> Reply {
    reply(554, 5, 1, "you talked before the greeting (RFC 5321 section 3.1)")
}

/// The limit of errors.
pub fn too_many_errors() -> Reply {
    reply(421, 7, 0, "too many errors")
}

/// The limit of messages in one session.
pub fn too_many_messages() -> Reply {
    reply(421, 7, 0, "too many messages in one session: connect again")
}

/// The limit of commands without a message.
pub fn too_many_commands() -> Reply {
    reply(421, 7, 0, "too many commands without a message")
}

/// Silence.
pub fn timed_out() -> Reply {
    reply(421, 4, 2, "timeout, closing connection")
}

/// The daemon stops.
pub fn shutting_down() -> Reply {
    reply(421, 3, 2, "service is shutting down, try again later")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_of_ours_is_always_a_deferral() {
        for (error, text) in [
            (AcceptError::NoSpace("1 MiB".to_owned()), "452 4.3.1"),
            (AcceptError::Full(7), "452 4.3.1"),
            (AcceptError::Timeout, "451 4.3.0"),
            (AcceptError::Store(postern_queue::StoreError::Closed), "451 4.3.0"),
        ] {
            assert!(not_stored(&error).to_string().starts_with(text), "{error}");
        }
    }
}
