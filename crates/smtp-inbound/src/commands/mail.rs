//! MAIL (RFC 5321 §4.1.1.2).

use std::collections::HashSet;
use std::sync::Arc;

use postern_policy::relay::Stage;
use postern_queue::Queue;
use postern_smtp::Body;
use postern_smtp::command::{Mail, MailParameters};

use super::data::not_stored;
use crate::replies;
use crate::session::{Context, Hello, Matter, Refusal, Transaction};

/// Begins a transaction, if this client may use this sender and there is room for its message.
pub(crate) fn begin(
    context: &Context,
    hello: Arc<Hello>,
    command: Mail,
    queue: Queue,
) -> Result<Transaction, Refusal> {
    let Mail { path, parameters } = command;
    if let Some(parameter) = not_announced(context, &parameters) {
        return Err(Refusal::new("unsupported-parameter", replies::unsupported_parameter(parameter)));
    }
    context.ask(Matter { hello: &hello, reverse_path: &path, recipients: 0 }, Stage::Mail)?;
    let limit = context.config.smtp.max_message_size;
    let size = parameters.size.unwrap_or(0);
    if size > limit {
        return Err(Refusal::new("message-too-large", replies::message_too_large(limit)));
    }
    queue.admits(size).map_err(|error| not_stored(&error))?;
    Ok(Transaction {
        queue,
        hello,
        reverse_path: path,
        body: parameters.body.unwrap_or_default(),
        smtputf8: parameters.smtputf8,
        recipients: Vec::new(),
        of_login: context.login.is_some(),
        met: None,
        distinct: HashSet::new(),
        accepted: 0,
        only: None,
        tried: false,
        deferred: false,
        began: context.shared.clock.now(),
        forwarded: None,
        size: 0,
    })
}

/// Extensions that we can read but do not offer: DSN, BINARYMIME (RFC 3030 §3), and AUTH where there are no logins.
fn not_announced(context: &Context, parameters: &MailParameters) -> Option<&'static str> {
    match parameters {
        MailParameters { ret: Some(_), .. } => Some("RET"),
        MailParameters { envelope_id: Some(_), .. } => Some("ENVID"),
        MailParameters { body: Some(Body::BinaryMime), .. } => Some("BODY=BINARYMIME"),
        MailParameters { auth: true, .. } if !is_offered(context, "AUTH") => Some("AUTH"),
        _ => None,
    }
}

/// Whether a parameter of MAIL or RCPT belongs to an extension that is offered: what is wrong with the value of one that is
/// not does not matter.
pub(crate) fn is_offered(context: &Context, keyword: &str) -> bool {
    match keyword {
        "RET" | "ENVID" | "NOTIFY" | "ORCPT" => false,
        "AUTH" => context.peer.listener.is_submission(),
        _ => true,
    }
}
