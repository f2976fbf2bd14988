//! MAIL (RFC 5321 §4.1.1.2).

use std::collections::HashSet;
use std::sync::Arc;

use postern_policy::relay::{Decision, Stage};
use postern_policy::standing::rates::Use;
use postern_queue::Queue;
use postern_smtp::Body;
use postern_smtp::binary::converted_size;
use postern_smtp::command::Mail;

use super::data::not_stored;
use super::parameters;
use super::qualified::is_qualified;
use crate::replies;
use crate::session::{Context, Hello, Matter, Refusal, Transaction};

/// Begins a transaction, if this client may use this sender and there is room for its message.
pub(crate) fn begin(
    context: &Context,
    hello: Arc<Hello>,
    command: Mail,
    queue: Queue,
) -> Result<Transaction, Refusal> {
    let Mail { path, utf8, parameters: wanted } = command;
    if let Some(parameter) = parameters::not_offered_to_mail(context, &wanted) {
        return Err(Refusal::new("unsupported-parameter", replies::unsupported_parameter(parameter)));
    }
    let terms = parameters::terms(context, &wanted)?;
    let matter = Matter { hello: &hello, reverse_path: &path, recipients: 0 };
    if utf8 && !wanted.smtputf8 {
        return Err(context.refused_by_session(matter, Stage::Mail, &Decision::needs_smtputf8()));
    }
    context.ask(matter, Stage::Mail)?;
    if let Some(address) = path.address()
        && !is_qualified(context, address.domain())
    {
        return Err(Refusal::new("unqualified-domain", replies::sender_not_qualified(&address.host)));
    }
    let limit = context.config.smtp.max_message_size;
    let size = wanted.size.unwrap_or(0);
    if size > limit {
        return Err(Refusal::new("message-too-large", replies::message_too_large(limit)));
    }
    // What is announced is the message as it comes (RFC 3030 §3, RFC 1870 §5); stored it may be larger.
    let stored = if wanted.body == Some(Body::BinaryMime) { converted_size(size).min(limit) } else { size };
    queue.admits(stored).map_err(|error| not_stored(&error))?;
    Ok(Transaction {
        queue,
        hello,
        reverse_path: path,
        body: wanted.body.unwrap_or_default(),
        smtputf8: wanted.smtputf8,
        ret: wanted.ret,
        envelope_id: wanted.envelope_id,
        terms,
        recipients: Vec::new(),
        of_login: context.login.is_some(),
        met: None,
        used: Use::new(context.policy.standing.clone()),
        distinct: HashSet::new(),
        accepted: 0,
        too_many: None,
        held: None,
        only: None,
        tried: false,
        deferred: false,
        began: context.shared.clock.now(),
        forwarded: None,
        size: 0,
    })
}
