//! MAIL (RFC 5321 §4.1.1.2).

use std::collections::HashSet;
use std::sync::Arc;

use postern_policy::relay::{Decision, Stage};
use postern_queue::Queue;
use postern_smtp::command::Mail;

use super::data::not_stored;
use super::parameters;
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
    let limit = context.config.smtp.max_message_size;
    let size = wanted.size.unwrap_or(0);
    if size > limit {
        return Err(Refusal::new("message-too-large", replies::message_too_large(limit)));
    }
    queue.admits(size).map_err(|error| not_stored(&error))?;
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
        distinct: HashSet::new(),
        accepted: 0,
        too_many: None,
        held: None,
        only: None,
        tried: false,
        deferred: false,
        began: context.shared.clock.now(),
        size: 0,
    })
}
