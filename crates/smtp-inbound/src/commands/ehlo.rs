//! EHLO and HELO (RFC 5321 §4.1.1.1).

use postern_smtp::Reply;

use crate::commands::auth;
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
    ];
    if context.tls.is_none() && context.shared.tls.load().is_some() {
        extensions.push("STARTTLS".to_owned());
    }
    let mechanisms = if context.login.is_none() { auth::offered(context) } else { Vec::new() };
    if !mechanisms.is_empty() {
        let names: Vec<&str> = mechanisms.iter().map(|mechanism| mechanism.as_str()).collect();
        extensions.push(format!("AUTH {}", names.join(" ")));
    }
    replies::extended_hello(hostname, &extensions)
}
