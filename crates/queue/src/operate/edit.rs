//! The verbs that change where a message goes and when: its envelope, its priority, its route, or all of it anew by the
//! configuration in force.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use postern_smtp::{Address, Notify, ReversePath};

use super::OperateError;
use super::change::{Applied, Change, Seen, Verb, picked, unfinished};
use super::verbs::{NOTHING_WAITS, Retry, begin_anew, make_due};
use crate::Queue;
use crate::edits::{MAX_ADDED, MAX_ROUTE};
use crate::entry::Work;
use crate::envelope::{Envelope, Recipient, checked_priority};
use crate::events::EventKind;
use crate::filter::RecipientPick;
use crate::message::QueueId;
use crate::messages::{Context, Refusal};
use crate::state::{Ending, EndingKind};

/// Changes of one envelope: all of them are made, or none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edit {
    /// Another MAIL FROM. Reports go there from now on.
    pub sender: Option<ReversePath>,
    /// More recipients. A local alias is followed.
    pub add: Vec<Address>,
    /// Recipients that end without a word to anybody.
    pub remove: Vec<Address>,
    /// Recipients that have the message already, whoever gave it to them. Nobody is told.
    pub mark_delivered: Vec<Address>,
    /// Another priority: one of [`super::PRIORITIES`].
    pub priority: Option<i8>,
}

impl Edit {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// How messages are rewritten anew.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Requeue {
    /// The messages become due over so long.
    pub spread: Duration,
    /// The back-off of the recipients begins anew, as if they had not been tried.
    pub reset_backoff: bool,
}

impl Queue {
    /// Changes the envelope of a message. An attempt under way goes on with the envelope it began with; `wait` is as for
    /// [`Queue::fail`].
    ///
    /// # Errors
    /// [`OperateError`]; [`OperateError::Bad`] when nothing is to be changed, or for a priority that there is not.
    pub async fn edit(&self, id: QueueId, edit: &Edit, wait: Duration) -> Result<Change, OperateError> {
        if edit.is_empty() {
            let text = "nothing to change: name a sender, a recipient or a priority";
            return Err(OperateError::Bad(text.to_owned()));
        }
        edit.priority.map(checked_priority).transpose().map_err(OperateError::Bad)?;
        let ending = |kind, text| Ending { kind, report: self.administrative(text) };
        let verb = ChangeEnvelope {
            edit,
            removed: ending(EndingKind::Dropped, "removed by an administrator"),
            delivered: ending(EndingKind::Delivered, "marked as delivered by an administrator"),
        };
        Ok(self.change(&[id], wait, &verb).await)
    }

    /// Gives messages another priority. What waits in line is moved forward, or back, by the difference; what is being
    /// delivered has it from the next attempt on; `wait` is as for [`Queue::fail`].
    ///
    /// # Errors
    /// [`OperateError`]; [`OperateError::Bad`] for a priority that there is not.
    pub async fn prioritise(
        &self,
        ids: &[QueueId],
        priority: i8,
        wait: Duration,
    ) -> Result<Change, OperateError> {
        let priority = checked_priority(priority).map_err(OperateError::Bad)?;
        let verb = Prioritise { priority, told: format!("priority {priority}") };
        Ok(self.change(ids, wait, &verb).await)
    }

    /// Sends the recipients that are picked another way, or, without a route, again as the configuration says. They become
    /// due over `spread`, unless they are held. Recipients of our own domains are left alone: no route takes mail away from
    /// a mailbox. What is being delivered goes the old way, and the new one from the next attempt on.
    ///
    /// # Errors
    /// [`OperateError`]; [`OperateError::Bad`] for a route that makes no sense, with those that do.
    pub async fn reroute(
        &self,
        ids: &[QueueId],
        pick: &RecipientPick,
        via: Option<&str>,
        spread: Duration,
    ) -> Result<Change, OperateError> {
        let checked = via.map(|via| self.checked_route(via)).transpose().map_err(OperateError::Bad)?;
        let verb = Reroute { pick, via: checked.map(Arc::from), spread };
        Ok(self.change(ids, Duration::ZERO, &verb).await)
    }

    /// A route as it is kept.
    ///
    /// # Errors
    /// What is wrong with it, and what would be right.
    pub fn checked_route(&self, via: &str) -> Result<String, String> {
        if via.chars().count() > MAX_ROUTE || via.chars().any(char::is_control) {
            return Err(format!("a route is one line of at most {MAX_ROUTE} characters"));
        }
        self.inner.surroundings.checked_route(via)
    }

    /// Rewrites what waits anew by the configuration in force: aliases are followed again from the address that the client
    /// named, routes that were chosen by hand are forgotten. Whoever has the message already, or was given up, stays so. The
    /// messages become due, unless they are held.
    ///
    /// # Errors
    /// [`OperateError`].
    pub async fn requeue(
        &self,
        ids: &[QueueId],
        pick: &RecipientPick,
        how: Requeue,
    ) -> Result<Change, OperateError> {
        let report = self.administrative("replaced when the message was rewritten");
        let replaced = Ending { kind: EndingKind::Replaced, report };
        Ok(self.change(ids, Duration::ZERO, &Rewrite { pick, how, replaced }).await)
    }
}

struct ChangeEnvelope<'a> {
    edit: &'a Edit,
    removed: Ending,
    delivered: Ending,
}

impl ChangeEnvelope<'_> {
    /// The recipients to be added, aliases followed, each once.
    fn added(&self, work: &Work, cx: &Context<'_>) -> Result<Vec<Recipient>, Refusal> {
        let mut added: Vec<Recipient> = Vec::new();
        for given in &self.edit.add {
            let finals = cx.surroundings.final_recipients(given);
            if finals.is_empty() {
                return Err(format!("<{given}> does not exist here").into());
            }
            for address in finals {
                if waiting_at(work, &address).next().is_some() {
                    return Err(format!("<{address}> is a recipient already").into());
                }
                if added.iter().all(|other| other.address.folded() != address.folded()) {
                    added.push(recipient(address, given, None));
                }
            }
        }
        has_room(work, added.len())?;
        Ok(added)
    }
}

impl Verb for ChangeEnvelope<'_> {
    fn apply(&self, work: &mut Work, cx: &Context<'_>) -> Result<Applied, Refusal> {
        is_readable(work)?;
        let Edit { sender, remove, mark_delivered, .. } = self.edit;
        let added = self.added(work, cx)?;
        let removed = all_waiting_at(work, remove)?;
        let delivered = all_waiting_at(work, mark_delivered)?;
        if removed.iter().any(|index| delivered.contains(index)) {
            return Err("a recipient cannot be removed and marked as delivered".into());
        }
        let sender = sender.as_ref().filter(|sender| **sender != work.envelope.reverse_path);
        let priority = self.edit.priority.filter(|priority| *priority != work.envelope.priority);
        let mut about: Vec<usize> = [&removed[..], &delivered].concat();
        let is_changed = sender.is_some() || priority.is_some();
        if is_changed {
            // Also for those that are being delivered under the old one.
            about = unfinished(work);
        }
        if about.is_empty() && added.is_empty() {
            let reason = if is_changed { NOTHING_WAITS } else { "nothing to change: it is so already" };
            return Err(reason.into());
        }
        if let Some(sender) = sender {
            work.set_sender(sender.clone());
        }
        if let Some(priority) = priority {
            work.set_priority(priority);
        }
        for recipient in added {
            about.push(add(work, recipient, cx));
        }
        removed.iter().for_each(|index| work.end(*index, self.removed.clone()));
        delivered.iter().for_each(|index| work.end(*index, self.delivered.clone()));
        let recipients = work.state.recipients.len();
        let ended = [removed, delivered].concat();
        Ok(Applied { ready: work.ready(), ended, recipients, ..Applied::about(work, &about) })
    }

    fn told(&self) -> (EventKind, &str) {
        (EventKind::Edited, "the envelope was changed")
    }

    fn is_there(&self, applied: &Applied, now: Option<Seen<'_>>) -> bool {
        now.is_none_or(|now| {
            let has_sender =
                self.edit.sender.as_ref().is_none_or(|sender| now.envelope.reverse_path == *sender);
            let has_priority = self.edit.priority.is_none_or(|priority| now.envelope.priority == priority);
            has_sender && has_priority && has_recipients(applied, now) && applied.has_ended(now)
        })
    }
}

struct Prioritise {
    priority: i8,
    told: String,
}

impl Verb for Prioritise {
    fn apply(&self, work: &mut Work, _: &Context<'_>) -> Result<Applied, Refusal> {
        let unfinished = unfinished(work);
        if unfinished.is_empty() {
            return Err(NOTHING_WAITS.into());
        }
        if work.envelope.priority == self.priority {
            return Err("has this priority already".into());
        }
        work.set_priority(self.priority);
        Ok(Applied::about(work, &unfinished))
    }

    fn told(&self) -> (EventKind, &str) {
        (EventKind::Edited, &self.told)
    }

    fn is_there(&self, _: &Applied, now: Option<Seen<'_>>) -> bool {
        now.is_none_or(|now| now.envelope.priority == self.priority)
    }
}

struct Reroute<'a> {
    pick: &'a RecipientPick,
    via: Option<Arc<str>>,
    spread: Duration,
}

impl Verb for Reroute<'_> {
    fn apply(&self, work: &mut Work, cx: &Context<'_>) -> Result<Applied, Refusal> {
        let mut picked = picked(work, self.pick, cx);
        if picked.is_empty() {
            return Err(NOTHING_WAITS.into());
        }
        picked.retain(|index| !cx.surroundings.is_local(&work.envelope.recipients[*index].address));
        if picked.is_empty() {
            return Err("only recipients of our own domains wait".into());
        }
        if picked.iter().all(|index| work.envelope.recipients[*index].via == self.via) {
            return Err("has this route already".into());
        }
        for index in &picked {
            work.set_route(*index, self.via.clone());
        }
        let how = Retry { spread: self.spread, ..Retry::default() };
        Ok(due_again(work, &picked, &how, cx.now))
    }

    fn told(&self) -> (EventKind, &str) {
        (EventKind::Edited, "another route")
    }

    fn is_there(&self, applied: &Applied, now: Option<Seen<'_>>) -> bool {
        now.is_none_or(|now| has_route(applied, now, self.via.as_ref()))
    }
}

struct Rewrite<'a> {
    pick: &'a RecipientPick,
    how: Requeue,
    replaced: Ending,
}

/// What rewriting does to the recipients of one message.
#[derive(Debug, Default)]
struct Plan {
    /// Those that stay, by index.
    kept: Vec<usize>,
    /// Those that others take the place of.
    replaced: Vec<usize>,
    /// Those that were replaced once and are meant again.
    revived: Vec<usize>,
    added: Vec<Recipient>,
}

impl Plan {
    /// Follows the aliases of the waiting recipients again.
    fn new(work: &Work, picked: &[usize], cx: &Context<'_>) -> Result<Self, Refusal> {
        let recipients = &work.envelope.recipients;
        let mut by_source: BTreeMap<String, (&Address, Vec<usize>)> = BTreeMap::new();
        for index in picked {
            let source = source(&recipients[*index]);
            by_source.entry(source.folded()).or_insert_with(|| (source, Vec::new())).1.push(*index);
        }
        let mut plan = Self::default();
        let mut gone = Vec::new();
        let mut wanted: BTreeMap<String, (Address, &Recipient, &Address)> = BTreeMap::new();
        let mut open: Vec<usize> = Vec::new();
        for (source, indices) in by_source.values() {
            let finals = cx.surroundings.final_recipients(source);
            if finals.is_empty() {
                // The next attempt says so to the sender.
                gone.push(*source);
                plan.kept.extend(indices);
                continue;
            }
            open.extend(indices);
            for address in finals {
                let like = &recipients[indices[0]];
                wanted.entry(address.folded()).or_insert((address, like, source));
            }
        }
        if let (true, Some(first)) = (open.is_empty(), gone.first()) {
            return Err(format!("<{first}> does not exist any more").into());
        }
        let (kept, replaced): (Vec<usize>, Vec<usize>) =
            open.into_iter().partition(|index| wanted.contains_key(&recipients[*index].address.folded()));
        plan.kept.extend(kept);
        plan.replaced = replaced;
        for (folded, (address, like, source)) in wanted {
            plan.want(work, &folded, recipient(address, source, Some(like)));
        }
        has_room(work, plan.added.len())?;
        Ok(plan)
    }

    /// Sees to it that an address gets the message, unless it has it, waits for it, or was given up.
    fn want(&mut self, work: &Work, folded: &str, recipient: Recipient) {
        let recipients = &work.envelope.recipients;
        let is_known = |index: &usize| recipients[*index].address.folded() == folded;
        let known: Vec<usize> = (0..recipients.len()).filter(is_known).collect();
        match known.first() {
            None => self.added.push(recipient),
            Some(first) if known.iter().all(|index| work.state.recipients[*index].replaced) => {
                self.revived.push(*first);
            }
            Some(_) => {}
        }
    }
}

impl Verb for Rewrite<'_> {
    fn apply(&self, work: &mut Work, cx: &Context<'_>) -> Result<Applied, Refusal> {
        is_readable(work)?;
        let picked = picked(work, self.pick, cx);
        if picked.is_empty() {
            return Err(NOTHING_WAITS.into());
        }
        let Plan { kept, replaced, revived, added } = Plan::new(work, &picked, cx)?;
        for index in kept.iter().chain(&revived) {
            work.set_route(*index, None);
        }
        let release = Some(work.envelope.starts()).filter(|starts| *starts > cx.now);
        for index in &revived {
            let recipient = &mut work.state.recipients[*index];
            recipient.replaced = false;
            recipient.wait_until(release);
        }
        replaced.iter().for_each(|index| work.end(*index, self.replaced.clone()));
        let mut due: Vec<usize> = [kept, revived].concat();
        due.extend(added.into_iter().map(|recipient| add(work, recipient, cx)));
        if self.how.reset_backoff {
            begin_anew(work, &due);
        }
        let how = Retry { spread: self.how.spread, ..Retry::default() };
        let applied = due_again(work, &due, &how, cx.now);
        let about = Applied::about(work, &[&due[..], &replaced].concat()).about;
        work.dirty = true;
        Ok(Applied { about, ended: replaced, recipients: work.state.recipients.len(), ..applied })
    }

    fn told(&self) -> (EventKind, &str) {
        (EventKind::Edited, "rewritten anew")
    }

    fn is_there(&self, applied: &Applied, now: Option<Seen<'_>>) -> bool {
        now.is_none_or(|now| {
            has_recipients(applied, now) && applied.has_ended(now) && has_route(applied, now, None)
        })
    }
}

/// The address that the client named. A literal in it was that of the listener: nothing follows from it now.
fn source(recipient: &Recipient) -> &Address {
    let given = recipient.given.as_ref().filter(|given| given.domain().is_some());
    given.unwrap_or(&recipient.address)
}

/// A new recipient; like another one, what the sender wants to hear of it.
fn recipient(address: Address, given: &Address, like: Option<&Recipient>) -> Recipient {
    Recipient {
        given: Some(given.clone()).filter(|given| *given != address),
        notify: like.map_or_else(Notify::default, |like| like.notify),
        original: like.and_then(|like| like.original.clone()),
        ..Recipient::new(address)
    }
}

/// Adds a recipient, who waits with the others for the time that the sender has set. Answers its index.
fn add(work: &mut Work, recipient: Recipient, cx: &Context<'_>) -> usize {
    let index = work.add_recipient(recipient);
    let starts = work.envelope.starts();
    if starts > cx.now {
        work.wait(index, starts, cx);
    }
    index
}

/// Has recipients tried again, unless they are held, or wait for the time that their sender has set (FUTURERELEASE).
fn due_again(work: &mut Work, indices: &[usize], how: &Retry, now: SystemTime) -> Applied {
    if work.state.held.is_none() && work.envelope.starts() <= now {
        make_due(work, indices, how, now);
    }
    // All that are ready: they stand in the line of a destination that may not be theirs any more.
    Applied { ready: work.ready(), ..Applied::about(work, indices) }
}

/// What cannot be read must not be written over.
fn is_readable(work: &Work) -> Result<(), Refusal> {
    let is_unreadable = work.envelope.recipients.is_empty();
    if is_unreadable { Err("its envelope cannot be read".into()) } else { Ok(()) }
}

fn has_room(work: &Work, more: usize) -> Result<(), Refusal> {
    if work.state.edits.added.len() + more > MAX_ADDED {
        return Err(Cow::Owned(format!("at most {MAX_ADDED} recipients can be added to a message")));
    }
    Ok(())
}

/// The recipients with this address that are not done.
fn waiting_at<'a>(work: &'a Work, address: &Address) -> impl Iterator<Item = usize> + use<'a> {
    let folded = address.folded();
    let Work { envelope, state, .. } = work;
    let recipients: &'a Envelope = envelope;
    let recipients = recipients.recipients.iter().zip(&state.recipients).enumerate();
    let waits = move |(known, state): (&Recipient, &crate::state::RecipientState)| {
        state.phase.is_waiting() && known.address.folded() == folded
    };
    recipients.filter(move |(_, pair)| waits(*pair)).map(|(index, _)| index)
}

/// The same for several addresses; each must be there.
fn all_waiting_at(work: &Work, addresses: &[Address]) -> Result<Vec<usize>, Refusal> {
    let mut found = Vec::new();
    for address in addresses {
        let before = found.len();
        found.extend(waiting_at(work, address));
        if found.len() == before {
            return Err(format!("<{address}> is no recipient that waits").into());
        }
    }
    Ok(found)
}

/// Whether the recipients that were added are there.
fn has_recipients(applied: &Applied, now: Seen<'_>) -> bool {
    now.state.recipients.len() >= applied.recipients && now.envelope.recipients.len() >= applied.recipients
}

/// Whether the recipients that still wait have this route.
fn has_route(applied: &Applied, now: Seen<'_>, via: Option<&Arc<str>>) -> bool {
    applied.about.iter().filter(|(index, _)| !applied.ended.contains(index)).all(|(index, _)| {
        let waits = now.state.recipients.get(*index).is_some_and(|recipient| recipient.phase.is_waiting());
        !waits || now.envelope.recipients.get(*index).is_some_and(|r| r.via.as_ref() == via)
    })
}
