//! EHLO and HELO (RFC 5321 §4.1.1.1).

use postern_smtp::Reply;

use crate::replies;
use crate::session::{Context, Hello};

/// The reply, with what this client may use now.
pub(crate) fn greet(context: &Context, hello: &Hello) -> Reply {
    let hostname = &context.config.hostname;
    if !hello.extended {
        return replies::hello(hostname);
    }
    let mut extensions = vec![
        "PIPELINING".to_owned(),
        format!("SIZE {}", context.config.smtp.max_message_size),
        "8BITMIME".to_owned(),
        "SMTPUTF8".to_owned(),
        "ENHANCEDSTATUSCODES".to_owned(),
        "CHUNKING".to_owned(),
    ];
    if context.tls.is_none() && context.shared.tls.load().is_some() {
        extensions.push("STARTTLS".to_owned());
    }
    // Never in clear text and never on port 25: a password that is not asked for is not sent.
    if context.tls.is_some() && context.peer.listener.is_submission() && context.login.is_none() {
        extensions.push("AUTH PLAIN LOGIN".to_owned());
    }
    replies::extended_hello(hostname, &extensions)
}
