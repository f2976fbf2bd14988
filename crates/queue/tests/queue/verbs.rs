//! The verbs that change messages: in flight or not, over a restart, and read back.

use std::future::Future;
use std::time::{Duration, SystemTime};

use postern_queue::operate::{Edit, InFlight, OperateError, RecipientPick, Requeue, Retry, Sort};
use postern_queue::{Change, Feedback, Filter, MessageView, Queue, QueueId};
use postern_runtime::Clock;
use postern_smtp::ReversePath;

use super::World;
use crate::world::*;

const BOB: &str = "bob@adatum.test";
const CAROL: &str = "carol@adatum.test";
const NOW: Duration = Duration::ZERO;
const PATIENCE: Duration = Duration::from_secs(60);

fn in_flight(id: QueueId, recipients: usize, open: usize, delivered: usize) -> Vec<InFlight> {
    vec![InFlight { id: id.to_string(), recipients, open, delivered }]
}

fn everybody() -> RecipientPick {
    RecipientPick::default()
}

fn only(address: &str) -> RecipientPick {
    RecipientPick::new(&Filter { rcpt: Some(address.to_owned()), ..Filter::default() }).unwrap()
}

fn states(queue: &Queue, id: QueueId) -> Vec<(String, String)> {
    let view = queue.show(id).unwrap();
    view.recipients.into_iter().map(|recipient| (recipient.address, recipient.state)).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(address, state)| ((*address).to_owned(), (*state).to_owned())).collect()
}

/// Asks for a verb on a task of its own and lets it begin to wait.
async fn waits<F>(
    queue: &Queue,
    id: QueueId,
    verb: impl FnOnce(Queue) -> F,
    is_begun: impl Fn(&MessageView) -> bool,
) -> tokio::task::JoinHandle<Change>
where
    F: Future<Output = Change> + Send + 'static,
{
    let task = tokio::spawn(verb(queue.clone()));
    until(async || queue.show(id).is_some_and(|view| is_begun(&view))).await;
    task
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_in_flight_is_held_at_once_and_its_attempt_counts() {
    let world = World::new();
    let queue = world.open().await;
    let id = accept(&world, &queue, ALICE, &[BOB]).await;
    let attempt = lease(&queue).await;
    let change = queue.hold(&[id], "looks odd", None, NOW).await.unwrap();
    assert_eq!(change, Change { in_flight: in_flight(id, 1, 1, 0), ..changed(1, 1) });
    let view = queue.show(id).unwrap();
    assert_eq!((view.state.as_str(), view.held.as_deref()), ("active", Some("looks odd")));
    settle(&queue, attempt, &deferred(&world));
    let view = wait_for_state(&queue, id, "held").await;
    assert_eq!((view.recipients[0].attempts, view.recipients[0].status.as_deref()), (1, Some("4.7.1")));
    world.pass(Duration::from_secs(4 * 3600));
    assert!(queue.lease_for(&to("adatum.test")).is_none());

    // One whose attempt ends with delivery is not held any more, and that is said.
    let id = accept(&world, &queue, ALICE, &[CAROL]).await;
    let attempt = lease(&queue).await;
    let hold = |queue: Queue| async move { queue.hold(&[id], "late", None, PATIENCE).await.unwrap() };
    let waiting = waits(&queue, id, hold, |view| view.held.is_some()).await;
    settle(&queue, attempt, &delivered(&world));
    let change = in_time(waiting).await.unwrap();
    let skipped = vec![(id.to_string(), "delivered meanwhile".to_owned())];
    assert_eq!(change, Change { skipped, in_flight: in_flight(id, 1, 0, 1), ..changed(1, 0) });
    assert!(queue.show(id).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_dropped_in_flight_goes_when_its_attempt_has_ended() {
    let world = World::new();
    let queue = world.open().await;
    let id = accept(&world, &queue, ALICE, &[BOB, "dave@elsewhere.test"]).await;
    let attempt = lease(&queue).await;
    let change = queue.remove(&[id], &everybody(), "spam", NOW).await.unwrap();
    assert_eq!(change, Change { in_flight: in_flight(id, 1, 1, 0), ..changed(1, 1) });
    // What is not in hand is not tried any more, and nobody calls the message gone before it is.
    assert!(
        queue.lease_for(&to("elsewhere.test")).is_none() && queue.lease_for(&to("adatum.test")).is_none()
    );
    assert!(queue.show(id).unwrap().held.unwrap().contains("to be removed"));
    assert_eq!(queue.remove(&[id], &everybody(), "spam", NOW).await.unwrap().skipped[0].1, "ended");
    settle(&queue, attempt, &deferred(&world));
    wait_for_messages(&queue, 0).await;
    drop(queue);
    assert_eq!(world.open_and_tell().await.1.messages, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_dropped_in_flight_is_gone_after_a_crash() {
    let world = World::new();
    let queue = world.open().await;
    let id = accept(&world, &queue, ALICE, &[BOB]).await;
    let attempt = lease(&queue).await;
    assert_eq!(queue.remove(&[id], &everybody(), "spam", NOW).await.unwrap().changed, 1);
    drop(queue);
    let queue = world.open().await;
    assert!(queue.lease_for(&to("adatum.test")).is_none());
    wait_for_messages(&queue, 0).await;
    drop(attempt);
}

#[tokio::test(flavor = "multi_thread")]
async fn fail_ends_at_once_what_waits_and_the_rest_when_its_attempt_has_ended() {
    let world = World::new();
    let queue = world.open().await;
    let id = accept(&world, &queue, ALICE, &[BOB, CAROL, "dave@elsewhere.test"]).await;
    let attempt = lease(&queue).await;
    let (open, other) =
        if attempt.recipients.len() == 2 { (2, "elsewhere.test") } else { (1, "adatum.test") };
    let fail =
        |queue: Queue| async move { queue.fail(&[id], &everybody(), "moved", PATIENCE).await.unwrap() };
    let waiting = waits(&queue, id, fail, |view| view.recipients.iter().any(|r| r.ending.is_some())).await;
    assert!(queue.lease_for(&to(other)).is_none());
    let ended = queue.show(id).unwrap().recipients.iter().filter(|r| r.state == "failed").count();
    assert_eq!(ended, 3 - open);
    // One of those in hand has it, the other one is refused for now.
    let outcomes: Vec<_> = attempt.recipients.iter().map(|r| r.index).collect();
    let outcome = |at: usize| if at == 0 { delivered(&world) } else { deferred(&world) };
    let outcomes = outcomes.into_iter().enumerate().map(|(at, index)| (index, outcome(at))).collect();
    queue.settle(attempt, outcomes, Feedback::Reached);
    let change = in_time(waiting).await.unwrap();
    assert_eq!(change, Change { in_flight: in_flight(id, open, 0, 1), ..changed(1, 1) });
    let report = lease(&queue).await;
    let text = String::from_utf8(read(report.content()).await).unwrap();
    assert_eq!(text.matches("Diagnostic-Code: X-Postern; moved\r\n").count(), 2, "{text}");
    assert!(!text.contains(&format!("Final-Recipient: rfc822; {BOB}")), "{text}");
    settle(&queue, report, &delivered(&world));
    wait_for_messages(&queue, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fail_wanted_of_a_recipient_in_hand_survives_a_crash() {
    let world = World::new();
    let queue = world.open().await;
    let id = accept(&world, &queue, ALICE, &[BOB]).await;
    let attempt = lease(&queue).await;
    assert_eq!(queue.fail(&[id], &everybody(), "moved", NOW).await.unwrap().changed, 1);
    let view = queue.show(id).unwrap();
    assert_eq!((view.state.as_str(), view.recipients[0].ending.as_deref()), ("active", Some("failed")));
    assert!(queue.transfer(id).is_none(), "it belongs here until that is done");
    drop(queue);
    let queue = world.open().await;
    let report = lease(&queue).await;
    assert_ne!(report.id, id, "the message itself is not tried again");
    assert!(String::from_utf8(read(report.content()).await).unwrap().contains("X-Postern; moved"));
    drop(attempt);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_other_side_refuses_meanwhile_is_told_in_its_own_words() {
    let world = World::new();
    let queue = world.open().await;
    let id = accept(&world, &queue, ALICE, &[BOB]).await;
    let attempt = lease(&queue).await;
    queue.fail(&[id], &everybody(), "moved", NOW).await.unwrap();
    settle(&queue, attempt, &failed(&world));
    let report = lease(&queue).await;
    assert!(String::from_utf8(read(report.content()).await).unwrap().contains("550 5.1.1 No such user"));
    settle(&queue, report, &delivered(&world));
    wait_for_messages(&queue, 0).await;

    // A recipient that was dropped is not spoken of.
    let id = accept(&world, &queue, ALICE, &[BOB, CAROL]).await;
    let attempt = lease(&queue).await;
    queue.remove(&[id], &only(BOB), "spam", NOW).await.unwrap();
    let outcomes = vec![(0, failed(&world)), (1, delivered(&world))];
    queue.settle(attempt, outcomes, Feedback::Reached);
    wait_for_messages(&queue, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_ends_by_itself_over_a_restart_too() {
    let world = World::new();
    let queue = world.open().await;
    let until_time = world.clock.now() + Duration::from_secs(3600);
    let (first, second) =
        (accept(&world, &queue, ALICE, &[BOB]).await, accept(&world, &queue, ALICE, &[CAROL]).await);
    let held = queue.hold(&[first, second], "until noon", Some(until_time), NOW).await.unwrap();
    assert_eq!(held, changed(2, 2));
    let seconds = until_time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    assert_eq!(queue.show(first).unwrap().held_until, Some(seconds));
    // The end can be changed, and taken away.
    assert_eq!(queue.hold(&[second], "", None, NOW).await.unwrap(), changed(1, 1));
    assert_eq!(queue.show(second).unwrap().held.as_deref(), Some("until noon"));
    let again = queue.hold(&[second], "", None, NOW).await.unwrap();
    assert_eq!(again.skipped[0].1, "already held");
    let late = queue.hold(&[second], "", Some(world.clock.now()), NOW).await;
    assert!(matches!(late, Err(OperateError::Bad(_))));
    drop(queue);

    let queue = world.open().await;
    world.pass(Duration::from_secs(3599));
    assert_eq!(queue.summary().held, 2);
    world.pass(Duration::from_secs(1));
    let attempt = lease(&queue).await;
    assert_eq!(attempt.id, first);
    let view = queue.show(first).unwrap();
    assert_eq!((view.held, view.held_until), (None, None));
    assert_eq!(queue.summary().held, 1);
    settle(&queue, attempt, &delivered(&world));
    wait_for_messages(&queue, 1).await;
    drop(queue);
    // One that ended while nobody looked ends at the start.
    let queue = world.open().await;
    let until_time = world.clock.now() + Duration::from_secs(60);
    assert_eq!(queue.hold(&[second], "", Some(until_time), NOW).await.unwrap(), changed(1, 1));
    drop(queue);
    world.pass(Duration::from_secs(61));
    assert_eq!(lease(&world.open().await).await.id, second);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timed_hold_does_not_outlive_the_message() {
    let world = World::with(|schedule| schedule.lifetime = Duration::from_secs(600));
    let queue = world.open().await;
    let id = accept(&world, &queue, ALICE, &[BOB]).await;
    let until_time = world.clock.now() + Duration::from_secs(3600);
    assert_eq!(queue.hold(&[id], "", Some(until_time), NOW).await.unwrap(), changed(1, 1));
    world.pass(Duration::from_secs(600));
    let report = lease(&queue).await;
    assert!(String::from_utf8(read(report.content()).await).unwrap().contains("Status: 4.4.7"));
}

/// A message that waits for its next attempt.
async fn deferred_message(world: &World, queue: &Queue) -> QueueId {
    let id = accept(world, queue, ALICE, &[BOB]).await;
    settle(queue, lease(queue).await, &deferred(world));
    wait_for_state(queue, id, "deferred").await;
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_takes_place_at_the_time_that_was_asked_for() {
    let world = World::new();
    let queue = world.open().await;
    let id = deferred_message(&world, &queue).await;
    // Also later than the schedule has it.
    let at = world.clock.now() + Duration::from_secs(1800);
    let retry = Retry { at: Some(at), ..Retry::default() };
    assert_eq!(queue.retry(&[id], retry).await.unwrap(), changed(1, 1));
    world.pass(Duration::from_secs(1799));
    assert!(queue.lease_for(&to("adatum.test")).is_none());
    world.pass(Duration::from_secs(1));
    let attempt = lease(&queue).await;
    let busy = queue.retry(&[id], Retry::default()).await.unwrap();
    assert_eq!(busy.skipped, [(id.to_string(), "in-flight".to_owned())]);
    settle(&queue, attempt, &deferred(&world));
    wait_for_state(&queue, id, "deferred").await;

    let at = world.clock.now() + Duration::from_secs(5 * 3600);
    let far = queue.retry(&[id], Retry { at: Some(at), ..Retry::default() }).await;
    assert!(matches!(far, Err(OperateError::Bad(text)) if text.contains("240 minutes")));
    queue.hold(&[id], "x", None, NOW).await.unwrap();
    assert_eq!(queue.retry(&[id], Retry::default()).await.unwrap().skipped[0].1, "held");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_is_spread_and_never_later_than_the_schedule() {
    let world = World::new();
    let queue = world.open().await;
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(deferred_message(&world, &queue).await);
    }
    let next = |queue: &Queue| -> Vec<u64> {
        ids.iter().map(|id| queue.show(*id).unwrap().recipients[0].next_attempt.unwrap()).collect()
    };
    let before = next(&queue);
    let retry = Retry { spread: Duration::from_secs(120), ..Retry::default() };
    assert_eq!(queue.retry(&ids, retry).await.unwrap(), changed(20, 20));
    let after = next(&queue);
    let now = world.clock.now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    assert!(after.iter().zip(&before).all(|(after, before)| after < before && *after <= now + 120));
    let distinct: std::collections::BTreeSet<u64> = after.into_iter().collect();
    assert!(distinct.len() > 3, "{distinct:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_back_off_begins_anew_when_that_is_asked_for() {
    let world = World::new();
    let queue = world.open().await;
    let id = deferred_message(&world, &queue).await;
    let wait = |queue: &Queue| queue.show(id).unwrap().recipients[0].next_attempt.unwrap();
    let seconds = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    for expected in [450, 675] {
        queue.retry(&[id], Retry::default()).await.unwrap();
        settle(&queue, lease(&queue).await, &deferred(&world));
        wait_for_state(&queue, id, "deferred").await;
        assert_eq!(wait(&queue), seconds(world.clock.now()) + expected);
    }
    let anew = Retry { reset_backoff: true, ..Retry::default() };
    assert_eq!(queue.retry(&[id], anew).await.unwrap(), changed(1, 1));
    drop(queue);
    let queue = world.open().await;
    let attempt = lease(&queue).await;
    assert_eq!(attempt.recipients[0].attempts, 3, "they are still known");
    settle(&queue, attempt, &deferred(&world));
    wait_for_state(&queue, id, "deferred").await;
    assert_eq!(wait(&queue), seconds(world.clock.now()) + 300, "as after the first attempt");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_by_the_next_attempt_knows_of_rests() {
    let world = World::new();
    let queue = world.open().await;
    let rests = accept(&world, &queue, ALICE, &[BOB]).await;
    let attempt = lease(&queue).await;
    queue.settle(attempt, Vec::new(), Feedback::Unreachable("refused".to_owned()));
    wait_for_state(&queue, rests, "ready").await;
    let due = accept(&world, &queue, ALICE, &["x@elsewhere.test"]).await;
    let held = accept(&world, &queue, ALICE, &["y@elsewhere.test"]).await;
    queue.hold(&[held], "x", None, NOW).await.unwrap();
    let list = queue.list(&Filter::default(), Sort::Next, None, 10).unwrap();
    let ids: Vec<String> = list.messages.into_iter().map(|view| view.id).collect();
    assert_eq!(ids, [due, rests, held].map(|id| id.to_string()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envelope_is_edited_and_stays_so() {
    let world = World::new();
    let queue = world.open().await;
    let id = accept(&world, &queue, ALICE, &[BOB, CAROL]).await;
    let edit = Edit {
        sender: Some(ReversePath::parse("list@proseware.test").unwrap()),
        add: vec![addr("team@proseware.test"), addr("dave@elsewhere.test")],
        remove: vec![addr("Bob@adatum.test")],
        mark_delivered: vec![addr(CAROL)],
        priority: None,
    };
    assert_eq!(queue.edit(id, &edit, NOW).await.unwrap(), changed(1, 1));
    let expected = pairs(&[
        (BOB, "failed"),
        (CAROL, "delivered"),
        (ALICE, "ready"),
        ("bill@proseware.test", "ready"),
        ("dave@elsewhere.test", "ready"),
    ]);
    assert_eq!(states(&queue, id), expected);
    let transfer = queue.transfer(id).unwrap();
    drop(queue);

    let queue = world.open().await;
    let view = queue.show(id).unwrap();
    assert_eq!(view.sender, "list@proseware.test");
    assert_eq!(view.recipients[2].given.as_deref(), Some("team@proseware.test"));
    assert_eq!(states(&queue, id), expected);
    assert_eq!(queue.transfer(id).unwrap(), transfer);
    assert!(queue.lease_for(&to("adatum.test")).is_none());
    let attempt = in_time(queue.lease()).await;
    assert_eq!(attempt.envelope.reverse_path.to_string(), "list@proseware.test");

    let none = queue.edit(id, &Edit::default(), NOW).await;
    assert!(matches!(none, Err(OperateError::Bad(_))));
    for (edit, says) in [
        (Edit { add: vec![addr("dave@elsewhere.test")], ..Edit::default() }, "is a recipient already"),
        (Edit { add: vec![addr("gone@proseware.test")], ..Edit::default() }, "does not exist here"),
        (Edit { remove: vec![addr(BOB)], ..Edit::default() }, "is no recipient that waits"),
        (Edit { mark_delivered: vec![addr("x@y.test")], ..Edit::default() }, "is no recipient that waits"),
        (Edit { sender: edit.sender.clone(), ..Edit::default() }, "it is so already"),
    ] {
        let change = queue.edit(id, &edit, NOW).await.unwrap();
        assert!(change.changed == 0 && change.skipped[0].1.contains(says), "{change:?}");
    }
    assert_eq!(queue.edit(QueueId(1), &edit, NOW).await.unwrap().skipped[0].1, "gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_changed_where_part_of_an_edit_is_wrong() {
    let world = World::new();
    let queue = world.open().await;
    let id = accept(&world, &queue, ALICE, &[BOB]).await;
    let before = queue.show(id).unwrap();
    let wrong = Edit {
        sender: Some(ReversePath::Null),
        add: vec![addr(CAROL)],
        remove: vec![addr("x@y.test")],
        ..Edit::default()
    };
    assert_eq!(queue.edit(id, &wrong, NOW).await.unwrap().changed, 0);
    assert_eq!(queue.show(id).unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recipient_in_hand_is_removed_or_marked_when_its_attempt_has_ended() {
    let world = World::new();
    let queue = world.open().await;
    let id = accept(&world, &queue, ALICE, &[BOB, CAROL]).await;
    let attempt = lease(&queue).await;
    let edit = Edit { remove: vec![addr(BOB)], mark_delivered: vec![addr(CAROL)], ..Edit::default() };
    let change = queue.edit(id, &edit, NOW).await.unwrap();
    assert_eq!(change, Change { in_flight: in_flight(id, 2, 2, 0), ..changed(1, 1) });
    settle(&queue, attempt, &deferred(&world));
    wait_for_messages(&queue, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_go_to_the_sender_of_now() {
    let world = World::new();
    let queue = world.open().await;
    let id = accept(&world, &queue, ALICE, &[BOB]).await;
    let edit = Edit { sender: Some(ReversePath::parse("bill@proseware.test").unwrap()), ..Edit::default() };
    queue.edit(id, &edit, NOW).await.unwrap();
    settle(&queue, lease(&queue).await, &failed(&world));
    let report = lease(&queue).await;
    assert_eq!(report.recipients[0].address.to_string(), "bill@proseware.test");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_by_hand_takes_what_waits_another_way() {
    let world = World::new();
    let queue = world.open().await;
    let id = accept(&world, &queue, ALICE, &[BOB, "x@elsewhere.test", "bill@proseware.test"]).await;
    // The old way rests: what stands in line there must not stay.
    let attempt = lease(&queue).await;
    let other = attempt.destination.clone();
    queue.settle(attempt, Vec::new(), Feedback::Unreachable("refused".to_owned()));
    wait_for_state(&queue, id, "ready").await;
    let via = Some("smarthost relay.test");
    let change = queue.reroute(&[id], &everybody(), via, NOW).await.unwrap();
    assert_eq!(change, changed(1, 1));
    let shown = |queue: &Queue| -> Vec<String> {
        queue.show(id).unwrap().recipients.into_iter().map(|recipient| recipient.destination).collect()
    };
    let expected = ["smarthost relay.test", "smarthost relay.test", "proseware.test"];
    assert_eq!(shown(&queue), expected);
    assert_eq!(queue.reroute(&[id], &everybody(), via, NOW).await.unwrap().changed, 0);
    let wrong = queue.reroute(&[id], &everybody(), Some("by hand"), NOW).await;
    assert!(matches!(wrong, Err(OperateError::Bad(text)) if text.contains("write smarthost HOST")));
    let local = queue.reroute(&[id], &only("bill@proseware.test"), None, NOW).await.unwrap();
    assert!(local.skipped[0].1.contains("our own domains"));
    let attempt = queue.lease_for(&to("smarthost relay.test")).unwrap();
    assert_eq!(attempt.recipients.len(), 2);
    settle(&queue, attempt, &deferred(&world));
    let is_deferred = |view: MessageView| view.recipients[0].state == "deferred";
    until(async || queue.show(id).is_some_and(is_deferred)).await;
    let transfer = queue.transfer(id).unwrap();
    assert_eq!(transfer.recipients[0].via.as_deref(), via);
    drop(queue);

    let queue = world.open().await;
    assert_eq!(shown(&queue), expected);
    assert_eq!(queue.transfer(id).unwrap(), transfer);
    let to_smarthost = Filter { destination: Some("relay.test".to_owned()), ..Filter::default() };
    let pick = RecipientPick::new(&to_smarthost).unwrap();
    assert_eq!(queue.reroute(&[id], &pick, None, NOW).await.unwrap(), changed(1, 1));
    assert_eq!(shown(&queue), ["adatum.test", "elsewhere.test", "proseware.test"]);
    assert!(queue.lease_for(&to("smarthost relay.test")).is_none());
    let attempt = in_time(async {
        loop {
            if let Some(attempt) = queue.lease_for(&other) {
                return attempt;
            }
            tokio::task::yield_now().await;
        }
    });
    assert_eq!(attempt.await.id, id, "and is due at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_message_keeps_its_route_and_the_end_of_its_hold() {
    let (here, there) = (World::new(), World::new());
    let queue = here.open().await;
    let id = accept(&here, &queue, ALICE, &[BOB]).await;
    let until_time = here.clock.now() + Duration::from_secs(60);
    queue.reroute(&[id], &everybody(), Some("smarthost relay.test"), NOW).await.unwrap();
    queue.edit(id, &Edit { add: vec![addr(CAROL)], ..Edit::default() }, NOW).await.unwrap();
    queue.hold(&[id], "moves", Some(until_time), NOW).await.unwrap();
    let transfer = queue.transfer(id).unwrap();
    let other = there.open().await;
    let (mut incoming, envelope) = other.incoming_transfer(&transfer).unwrap();
    incoming.write(read(queue.content(id).unwrap()).await.into()).await.unwrap();
    incoming.commit(envelope, Vec::new()).await.unwrap();
    assert_eq!(other.show(id).unwrap(), queue.show(id).unwrap());
    there.pass(Duration::from_secs(60));
    let mut ways = [lease(&other).await.destination, lease(&other).await.destination];
    ways.sort();
    assert_eq!(ways, [to("adatum.test"), to("smarthost relay.test")]);
}

/// A message to info@proseware.test, which was ALICE then, and to BOB.
async fn message_to_an_alias(world: &World, queue: &Queue) -> QueueId {
    let mut envelope = envelope(world, "eve@client.test", &[ALICE, BOB]);
    envelope.recipients[0].given = Some(addr("info@proseware.test"));
    accept_as(queue, envelope).await
}

#[tokio::test(flavor = "multi_thread")]
async fn aliases_are_followed_again_when_a_message_is_requeued() {
    let world = World::new();
    let queue = world.open().await;
    let id = message_to_an_alias(&world, &queue).await;
    let info = |list: &[&str]| {
        *world.surroundings.info.lock().unwrap() = list.iter().map(|text| addr(text)).collect();
    };
    let requeue = async || queue.requeue(&[id], &everybody(), Requeue::default()).await.unwrap();
    info(&["bill@proseware.test", "partner@elsewhere.test"]);
    assert_eq!(requeue().await, changed(1, 1));
    let replaced = pairs(&[
        (ALICE, "failed"),
        (BOB, "ready"),
        ("bill@proseware.test", "ready"),
        ("partner@elsewhere.test", "ready"),
    ]);
    assert_eq!(states(&queue, id), replaced);
    let view = queue.show(id).unwrap();
    assert_eq!(view.recipients[0].text.as_deref(), Some("replaced when the message was rewritten"));
    assert_eq!(view.recipients[2].given.as_deref(), Some("info@proseware.test"));
    // Back again: whoever was replaced is meant again, and nobody gets two copies.
    info(&[ALICE]);
    assert_eq!(requeue().await, changed(1, 1));
    let back = pairs(&[
        (ALICE, "ready"),
        (BOB, "ready"),
        ("bill@proseware.test", "failed"),
        ("partner@elsewhere.test", "failed"),
    ]);
    assert_eq!(states(&queue, id), back);
    drop(queue);
    let queue = world.open().await;
    assert_eq!(states(&queue, id), back);
    for _ in 0..2 {
        settle(&queue, lease(&queue).await, &delivered(&world));
    }
    wait_for_messages(&queue, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_the_message_or_was_given_up_stays_so_when_it_is_requeued() {
    let world = World::new();
    let queue = world.open().await;
    let id = message_to_an_alias(&world, &queue).await;
    let mut attempts = [lease(&queue).await, lease(&queue).await];
    attempts.sort_by_key(|attempt| attempt.recipients[0].index);
    let [alice, bob] = attempts;
    settle(&queue, alice, &failed(&world));
    settle(&queue, bob, &deferred(&world));
    let done = pairs(&[(ALICE, "failed"), (BOB, "deferred")]);
    until(async || states(&queue, id) == done).await;
    queue.reroute(&[id], &only(BOB), Some("smarthost relay.test"), Duration::from_secs(600)).await.unwrap();
    let how = Requeue { reset_backoff: true, ..Requeue::default() };
    assert_eq!(queue.requeue(&[id], &everybody(), how).await.unwrap(), changed(1, 1));
    assert_eq!(states(&queue, id), pairs(&[(ALICE, "failed"), (BOB, "ready")]));
    assert_eq!(queue.show(id).unwrap().recipients[1].destination, "adatum.test");

    let gone = accept(&world, &queue, "eve@client.test", &["gone@proseware.test"]).await;
    let change = queue.requeue(&[gone], &everybody(), Requeue::default()).await.unwrap();
    assert!(change.skipped[0].1.contains("does not exist any more"), "{change:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_is_named_narrows_what_is_ended() {
    let world = World::new();
    let queue = world.open().await;
    let id = accept(&world, &queue, ALICE, &[BOB, "x@elsewhere.test"]).await;
    let there = Filter { destination: Some("adatum.test".to_owned()), ..Filter::default() };
    let pick = RecipientPick::new(&there).unwrap();
    assert_eq!(queue.remove(&[id], &pick, "spam", NOW).await.unwrap(), changed(1, 1));
    assert_eq!(states(&queue, id), pairs(&[(BOB, "failed"), ("x@elsewhere.test", "ready")]));
}

/// The messages of a destination in the order they are served.
async fn served(world: &World, queue: &Queue, count: usize) -> Vec<QueueId> {
    let mut order = Vec::new();
    for left in (0..count).rev() {
        let attempt = lease(queue).await;
        order.push(attempt.id);
        settle(queue, attempt, &delivered(world));
        wait_for_messages(queue, left).await;
    }
    order
}

#[tokio::test(flavor = "multi_thread")]
async fn another_priority_moves_what_waits_in_line_cold_or_not_and_over_a_restart() {
    for (memory, restarts) in [(memory(), false), (0, false), (memory(), true), (0, true)] {
        let world = World::with(|config| config.memory = memory);
        let mut queue = world.open().await;
        let mut ids = Vec::new();
        for _ in 0..5 {
            ids.push(accept(&world, &queue, ALICE, &[BOB]).await);
        }
        assert_eq!(queue.prioritise(&[ids[3], ids[4]], 5, NOW).await.unwrap(), changed(2, 2));
        assert_eq!(queue.prioritise(&ids[..1], -2, NOW).await.unwrap(), changed(1, 1));
        assert_eq!(queue.prioritise(&ids[3..4], 9, NOW).await.unwrap(), changed(1, 1));
        assert_eq!(queue.prioritise(&ids[4..], 0, NOW).await.unwrap(), changed(1, 1), "and back");
        if restarts {
            drop(queue);
            queue = world.open().await;
        }
        let shown: Vec<i8> = ids.iter().map(|id| queue.show(*id).unwrap().priority).collect();
        assert_eq!(shown, [-2, 0, 0, 9, 0]);
        assert_eq!(queue.transfer(ids[3]).unwrap().priority, 9, "it goes along to another machine");
        let above = |least| Filter { min_priority: Some(least), ..Filter::default() };
        assert_eq!(queue.select(&above(0)).unwrap(), [ids[3]]);
        let below = Filter { max_priority: Some(0), ..Filter::default() };
        assert_eq!(queue.select(&below).unwrap(), [ids[0]]);
        assert_eq!(served(&world, &queue, 5).await, [ids[3], ids[1], ids[2], ids[4], ids[0]]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_its_time_or_is_in_hand_has_its_priority_from_the_next_attempt_on() {
    let world = World::new();
    let queue = world.open().await;
    let first = accept(&world, &queue, ALICE, &[BOB]).await;
    let second = accept(&world, &queue, ALICE, &[BOB]).await;
    settle(&queue, lease(&queue).await, &deferred(&world));
    wait_for_state(&queue, first, "deferred").await;
    assert_eq!(queue.prioritise(&[first], -1, NOW).await.unwrap(), changed(1, 1));
    let attempt = lease(&queue).await;
    assert_eq!(attempt.id, second);
    let change = queue.prioritise(&[second], 9, NOW).await.unwrap();
    assert_eq!(change, Change { in_flight: in_flight(second, 1, 1, 0), ..changed(1, 1) });
    settle(&queue, attempt, &deferred(&world));
    wait_for_state(&queue, second, "deferred").await;
    world.pass(Duration::from_secs(3600));
    queue.retry(&[first, second], Retry::default()).await.unwrap();
    assert_eq!(served(&world, &queue, 2).await, [second, first]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_priority_is_changed_together_with_the_rest_of_an_envelope() {
    let world = World::new();
    let queue = world.open().await;
    let first = accept(&world, &queue, ALICE, &[BOB]).await;
    let id = accept(&world, &queue, ALICE, &[BOB]).await;
    let edit = Edit { add: vec![addr(CAROL)], priority: Some(3), ..Edit::default() };
    assert_eq!(queue.edit(id, &edit, NOW).await.unwrap(), changed(1, 1));
    let mut recipients = 0;
    while recipients < 2 {
        let attempt = lease(&queue).await;
        assert_eq!((attempt.id, attempt.envelope.priority), (id, 3), "all of it comes before the other one");
        recipients += attempt.recipients.len();
        settle(&queue, attempt, &delivered(&world));
    }
    let again = Edit { priority: Some(0), ..Edit::default() };
    assert!(queue.edit(first, &again, NOW).await.unwrap().skipped[0].1.contains("so already"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_priority_that_there_is_not_or_is_so_already_changes_nothing() {
    let world = World::new();
    let queue = world.open().await;
    let id = accept(&world, &queue, ALICE, &[BOB]).await;
    for wrong in [i8::MIN, -10, 10, i8::MAX] {
        let edit = Edit { priority: Some(wrong), ..Edit::default() };
        for refused in [queue.prioritise(&[id], wrong, NOW).await, queue.edit(id, &edit, NOW).await] {
            assert!(matches!(refused, Err(OperateError::Bad(text)) if text.contains("is not -9 to 9")));
        }
    }
    let change = queue.prioritise(&[id, QueueId(1)], 0, NOW).await.unwrap();
    let skipped = [(id, "has this priority already"), (QueueId(1), "gone")];
    assert_eq!(change.skipped, skipped.map(|(id, why)| (id.to_string(), why.to_owned())));
    assert_eq!((change.changed, queue.show(id).unwrap().priority), (0, 0));
}
