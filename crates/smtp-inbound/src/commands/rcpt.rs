//! RCPT (RFC 5321 §4.1.1.3).

use postern_policy::directory::Resolution;
use postern_policy::relay::{Decision, Stage};
use postern_policy::standing::usage::FirstMet;
use postern_queue::Recipient;
use postern_smtp::command::{Rcpt, RcptParameters};
use postern_smtp::{Address, ForwardPath, LocalPart, Notify};

use super::data::origin;
use super::parameters;
use super::qualified::is_qualified;
use crate::replies;
use crate::session::{Context, Refusal, Transaction};

/// Adds a recipient, if mail from here may go there.
pub(crate) fn add(context: &Context, transaction: &mut Transaction, command: Rcpt) -> Result<(), Refusal> {
    transaction.tried = true;
    let Rcpt { path, utf8, parameters: wanted } = command;
    if let Some(parameter) = parameters::not_offered_to_rcpt(context, &wanted) {
        return Err(Refusal::new("unsupported-parameter", replies::unsupported_parameter(parameter)));
    }
    if utf8 && !transaction.smtputf8 {
        let stage = Stage::Rcpt(&path);
        return Err(context.refused_by_session(transaction.matter(), stage, &Decision::needs_smtputf8()));
    }
    if let ForwardPath::Address(address) = &path
        && !is_qualified(context, address.domain())
    {
        return Err(Refusal::new("unqualified-domain", replies::recipient_not_qualified(&address.host)));
    }
    let limit = context.config.smtp.max_recipients;
    if transaction.accepted >= limit && !context.is_trusted() {
        return Err(one_too_many(context, transaction, &path, limit));
    }
    let mut recipients = Vec::new();
    let rules = transaction.queue.rules();
    let decision = context.ask_with_rules(transaction.matter(), Stage::Rcpt(&path), || {
        recipients = final_recipients(context, &path, &wanted);
        if rules.is_empty() {
            return None;
        }
        let client = Some(context.peer.client);
        rules.refuse_recipient(
            &transaction.reverse_path,
            &origin(context, transaction.matter()),
            client,
            &recipients,
        )
    })?;
    meet(context, transaction, &path)?;
    let now = context.shared.clock.now();
    context.policy.take(context.peer.client, &decision, now, &mut transaction.used);
    transaction.accepted += 1;
    transaction.only = (transaction.accepted == 1).then(|| path.to_string());
    recipients.into_iter().for_each(|recipient| merge(transaction, recipient));
    Ok(())
}

/// One recipient beyond the limit is on the record; the client may try many more, which are told the same.
fn one_too_many(
    context: &Context,
    transaction: &mut Transaction,
    path: &ForwardPath,
    limit: usize,
) -> Refusal {
    if let Some(refusal) = &transaction.too_many {
        return refusal.clone();
    }
    let decision = Decision::too_many_recipients(limit);
    let refusal = context.refused_by_session(transaction.matter(), Stage::Rcpt(path), &decision);
    transaction.too_many.insert(refusal).clone()
}

/// Counts a recipient that the login has not written to before; another session may have been faster to the cap.
fn meet(context: &Context, transaction: &mut Transaction, path: &ForwardPath) -> Result<(), Refusal> {
    let (Some(login), ForwardPath::Address(address)) = (&context.login, path) else { return Ok(()) };
    let standing = &context.policy.standing;
    let met = transaction.met.get_or_insert_with(|| FirstMet::new(standing.clone(), &login.name));
    let result = met.meet(address, &login.access.limits, context.shared.clock.now());
    result.map_err(|exceeded| context.over_limit(login, transaction.matter(), Stage::Rcpt(path), exceeded))
}

/// Who gets the mail for a recipient that is accepted: aliases expanded. One that stands for several is among them if the sender
/// wants to hear of success: that it was expanded is reported, and what becomes of those behind it is not (RFC 3461 §5.2.7).
fn final_recipients(context: &Context, path: &ForwardPath, wanted: &RcptParameters) -> Vec<Recipient> {
    let given = given(context, path);
    let addresses = match context.policy.directory.resolve(path, Some(context.peer.local)) {
        Resolution::Recipients(addresses) => addresses,
        // What is not ours goes where the client said. Unknown names and loops are refused before.
        Resolution::NotLocal | Resolution::Unknown | Resolution::AliasLoop => given.iter().cloned().collect(),
    };
    let notify = wanted.notify.unwrap_or_default();
    let original = &wanted.original;
    let alias =
        given.as_ref().filter(|given| notify.success && addresses.len() > 1 && !addresses.contains(given));
    let each = Notify { success: notify.success && alias.is_none(), ..notify };
    let recipient = |address: Address| {
        let given = given.as_ref().filter(|given| **given != address).cloned();
        Recipient { given, notify: each, original: original.clone(), ..Recipient::new(address) }
    };
    let expanded = alias.map(|alias| Recipient {
        notify,
        original: original.clone(),
        expanded: true,
        ..Recipient::new(alias.clone())
    });
    addresses.into_iter().map(recipient).chain(expanded).collect()
}

/// A recipient given twice, or with its alias, gets one copy, by the parameters that came first. Mailboxes of ours come in lower case; whether case matters
/// elsewhere only their hosts know (RFC 5321 §2.4).
fn merge(transaction: &mut Transaction, recipient: Recipient) {
    if recipient.expanded {
        let is_known = transaction.recipients.iter().any(|r| r.expanded && r.address == recipient.address);
        if !is_known {
            transaction.recipients.push(recipient);
        }
        return;
    }
    if transaction.distinct.insert(recipient.address.clone()) {
        transaction.recipients.push(recipient);
    }
}

/// The recipient as an address; `<Postmaster>` is that of the host (RFC 5321 §4.5.1).
fn given(context: &Context, path: &ForwardPath) -> Option<Address> {
    match path {
        ForwardPath::Address(address) => Some(address.clone()),
        ForwardPath::Postmaster => {
            let local = LocalPart::parse("postmaster").ok()?;
            Some(Address::new(local, context.config.hostname.clone()))
        }
    }
}
