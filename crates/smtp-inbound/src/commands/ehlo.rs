//! EHLO and HELO (RFC 5321 §4.1.1.1).

use postern_smtp::attributes::XForward;
use postern_smtp::command::ListedVerb;
use postern_smtp::{Reply, date};

use crate::commands::{auth, parameters};
use crate::replies;
use crate::session::{Context, Hello};

/// The largest number that LIMITS can say (RFC 9422: six digits).
const MOST_IN_LIMITS: u64 = 999_999;

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
    if parameters::offers_binary_mime(context) {
        extensions.push("BINARYMIME".to_owned());
    }
    if parameters::offers_dsn(context) {
        extensions.push("DSN".to_owned());
    }
    extensions.extend(limits(context));
    extensions.extend(demands(context));
    if context.can_start_tls() {
        extensions.push("STARTTLS".to_owned());
    }
    let mechanisms = if context.login.is_none() { auth::offered(context) } else { Vec::new() };
    if !mechanisms.is_empty() {
        let names: Vec<&str> = mechanisms.iter().map(|mechanism| mechanism.as_str()).collect();
        extensions.push(format!("AUTH {}", names.join(" ")));
    }
    extensions.extend(for_listed(context));
    replies::extended_hello(hostname, &extensions)
}

/// What a client may demand of us and of those behind us.
fn demands(context: &Context) -> Vec<String> {
    let limits = &context.config.smtp;
    let mut extensions = Vec::new();
    if parameters::offers_deliver_by(context) {
        extensions.push(format!("DELIVERBY {}", limits.min_deliver_by.as_secs()));
    }
    if parameters::offers_hold(context) {
        let latest = date::rfc3339(context.shared.clock.now() + limits.max_hold);
        extensions.push(format!("FUTURERELEASE {} {latest}", limits.max_hold.as_secs()));
    }
    if parameters::offers_priority(context) {
        extensions.push("MT-PRIORITY".to_owned());
    }
    if parameters::offers_require_tls(context) {
        extensions.push("REQUIRETLS".to_owned());
    }
    extensions
}

/// What is only for some clients.
fn for_listed(context: &Context) -> Vec<String> {
    let offered = |verb: &ListedVerb| !context.is_unknown(Some(*verb));
    let line = |verb: ListedVerb| {
        let names = match verb {
            ListedVerb::XClient => context.xclient_attributes(),
            ListedVerb::XForward => XForward::NAMES.to_vec(),
            ListedVerb::Etrn | ListedVerb::Lhlo => Vec::new(),
        };
        [&[verb.as_str()], &names[..]].concat().join(" ")
    };
    [ListedVerb::XClient, ListedVerb::XForward, ListedVerb::Etrn]
        .into_iter()
        .filter(offered)
        .map(line)
        .collect()
}

/// LIMITS (RFC 9422): what would be refused for its number alone. Recipient domains are not counted, so RCPTDOMAINMAX is
/// not among them.
fn limits(context: &Context) -> Option<String> {
    let limits =
        [("RCPTMAX", most_recipients(context)), ("MAILMAX", Some(context.config.smtp.max_messages.into()))];
    // 0 cannot be said.
    let known = limits.into_iter().filter_map(|(name, most)| Some((name, most.filter(|most| *most > 0)?)));
    let said: Vec<String> =
        known.map(|(name, most)| format!("{name}={}", most.min(MOST_IN_LIMITS))).collect();
    (!said.is_empty()).then(|| format!("LIMITS {}", said.join(" ")))
}

/// How many recipients a message of this client may have, if there is a limit: that of all clients but those in trusted
/// networks, or that of the login.
fn most_recipients(context: &Context) -> Option<u64> {
    let common = (!context.is_trusted()).then_some(context.config.smtp.max_recipients as u64);
    let login = context.login.as_ref().map(|login| u64::from(login.access.limits.per_message));
    common.into_iter().chain(login.filter(|most| *most > 0)).min()
}
