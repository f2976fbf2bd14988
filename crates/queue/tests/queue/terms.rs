//! What senders demand: a time to begin, a time to end, reports of success.

use std::time::{Duration, SystemTime};

use postern_queue::operate::{Edit, RecipientPick, Requeue, Retry};
use postern_queue::{DeliverBy, Envelope, Handover, Late, Origin, Outcome, Queue, QueueId, Terms};
use postern_runtime::Clock;
use postern_smtp::Notify;

use super::World;
use crate::world::*;

const DAY: Duration = Duration::from_secs(86_400);
const BOB: &str = "bob@adatum.test";

fn with_terms(world: &World, terms: Terms) -> Envelope {
    Envelope { terms, ..envelope(world, ALICE, &[BOB]) }
}

fn by(at: SystemTime, late: Late) -> Terms {
    Terms { deliver_by: Some(DeliverBy { at, late, trace: false }), ..Terms::default() }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

/// The text of the next report, which goes to alice.
async fn next_report(world: &World, queue: &Queue) -> String {
    let held = lease(queue).await;
    assert_eq!((&held.recipients[0].address, &held.envelope.origin), (&addr(ALICE), &Origin::Own));
    let text = String::from_utf8(read(held.content()).await).unwrap();
    settle(queue, held, &delivered(world));
    text
}

fn handed_over(world: &World, handover: Handover) -> Outcome {
    Outcome::Delivered(report(world, (2, 0, 0), "250 2.0.0 Ok"), handover)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_for_later_waits_for_its_time_and_has_its_whole_lifetime_then() {
    let world = World::new();
    let queue = world.open().await;
    // Far beyond the longest wait of the schedule: a time that nobody's clock set by mistake.
    let release = world.clock.now() + 6 * DAY;
    let envelope = with_terms(&world, Terms { release: Some(release), ..Terms::default() });
    let id = accept_as(&queue, envelope).await;
    let waiting = wait_for_state(&queue, id, "deferred").await;
    assert_eq!(waiting.recipients[0].next_attempt, Some(seconds(release)));
    assert_eq!(waiting.expires, seconds(release + 5 * DAY));
    assert!(waiting.terms[0].contains("FUTURERELEASE"), "{:?}", waiting.terms);
    world.pass(5 * DAY + Duration::from_secs(60));
    drop(queue);

    let queue = world.open().await;
    let later = accept(&world, &queue, ALICE, &["carol@elsewhere.test"]).await;
    let other = lease(&queue).await;
    assert_eq!(other.id, later, "the first one is not due, and was not given up");
    settle(&queue, other, &delivered(&world));
    assert_eq!(queue.show(id).unwrap().state, "deferred");
    world.pass(DAY);
    assert_eq!(lease(&queue).await.id, id);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_lets_a_message_for_later_go_at_once() {
    let world = World::new();
    let queue = world.open().await;
    let release = Some(world.clock.now() + DAY);
    let id = accept_as(&queue, with_terms(&world, Terms { release, ..Terms::default() })).await;
    wait_for_state(&queue, id, "deferred").await;
    let found = queue.retry(&[id], Retry::default()).await.unwrap();
    assert!(found.changed == 0 && found.skipped[0].1.contains("FUTURERELEASE"), "{found:?}");
    assert_eq!(queue.show(id).unwrap().recipients[0].next_attempt, release.map(seconds));
    let named = Retry { before_release: true, ..Retry::default() };
    assert_eq!(queue.retry(&[id], named).await.unwrap().changed, 1);
    assert_eq!(lease(&queue).await.id, id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_for_later_can_be_retried_behind_its_time() {
    let world = World::new();
    let queue = world.open().await;
    let release = world.clock.now() + Duration::from_secs(60);
    let terms = Terms { release: Some(release), ..Terms::default() };
    let id = accept_as(&queue, with_terms(&world, terms)).await;
    wait_for_state(&queue, id, "deferred").await;
    let at = Some(release + Duration::from_secs(60));
    assert_eq!(queue.retry(&[id], Retry { at, ..Retry::default() }).await.unwrap().changed, 1);
    assert_eq!(queue.show(id).unwrap().recipients[0].next_attempt, at.map(seconds));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_for_later_waits_for_its_time_when_its_hold_is_ended_or_its_route_changed() {
    let world = World::new();
    let queue = world.open().await;
    let release = world.clock.now() + DAY;
    let terms = Terms { release: Some(release), ..Terms::default() };
    let id = accept_as(&queue, with_terms(&world, terms)).await;
    wait_for_state(&queue, id, "deferred").await;
    queue.hold(&[id], "looked at", None, Duration::ZERO).await.unwrap();
    assert_eq!(queue.release(&[id]).await.unwrap().changed, 1);
    let waits = queue.show(id).unwrap();
    assert_eq!(
        (waits.state.as_str(), waits.recipients[0].next_attempt),
        ("deferred", Some(seconds(release)))
    );
    queue.requeue(&[id], &RecipientPick::default(), Requeue::default()).await.unwrap();
    let carol = Edit { add: vec![addr("carol@adatum.test")], ..Edit::default() };
    assert_eq!(queue.edit(id, &carol, Duration::ZERO).await.unwrap().changed, 1);
    for recipient in queue.show(id).unwrap().recipients {
        assert_eq!(recipient.next_attempt, Some(seconds(release)), "{}", recipient.address);
    }
    world.pass(DAY);
    assert_eq!(lease(&queue).await.id, id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_to_return_returns_at_its_time_for_good() {
    let world = World::new();
    let queue = world.open().await;
    let at = world.clock.now() + Duration::from_secs(900);
    let id = accept_as(&queue, with_terms(&world, by(at, Late::Return))).await;
    assert_eq!(queue.show(id).unwrap().expires, seconds(at));
    settle(&queue, lease(&queue).await, &deferred(&world));
    wait_for_state(&queue, id, "deferred").await;
    world.pass(Duration::from_secs(901));
    let text = next_report(&world, &queue).await;
    assert!(text.contains("Action: failed\r\nStatus: 5.4.7\r\n"), "{text}");
    assert!(text.contains("450 4.7.1 Come back later") && text.contains("a time that is over"), "{text}");
    wait_for_messages(&queue, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_is_told_at_the_time_that_he_named_and_not_at_ours() {
    let world = World::with(|config| config.delay_notice = Duration::from_secs(60));
    let queue = world.open().await;
    let at = world.clock.now() + Duration::from_secs(600);
    let id = accept_as(&queue, with_terms(&world, by(at, Late::Notify))).await;
    settle(&queue, lease(&queue).await, &deferred(&world));
    wait_for_state(&queue, id, "deferred").await;
    world.pass(Duration::from_secs(310));
    settle(&queue, lease(&queue).await, &deferred(&world));
    wait_for_state(&queue, id, "deferred").await;
    assert_eq!(queue.summary().messages, 1, "no report yet");
    world.pass(Duration::from_secs(291));
    let text = next_report(&world, &queue).await;
    assert!(text.contains("Action: delayed\r\n"), "{text}");
    wait_for_messages(&queue, 1).await;
    assert_eq!(queue.show(id).unwrap().state, "deferred", "it is tried on");
}

/// The Action of the report that follows from a delivery, if there is one.
async fn told(handover: Handover, notify: Notify, terms: impl FnOnce(&World) -> Terms) -> Option<String> {
    let world = World::new();
    let queue = world.open().await;
    let mut envelope = with_terms(&world, terms(&world));
    envelope.recipients[0].notify = notify;
    let id: QueueId = accept_as(&queue, envelope).await;
    settle(&queue, lease(&queue).await, &handed_over(&world, handover));
    until(async || queue.show(id).is_none()).await;
    if queue.summary().messages == 0 {
        return None;
    }
    let text = next_report(&world, &queue).await;
    text.lines().find_map(|line| line.strip_prefix("Action: ")).map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread")]
async fn success_is_told_by_whoever_is_the_last_to_know() {
    let success = Notify { success: true, failure: false, delay: false };
    let plain = |_: &World| Terms::default();
    for (handover, action) in [
        (Handover::Final, Some("delivered")),
        (Handover::Relayed, Some("relayed")),
        (Handover::Reporting, None),
    ] {
        assert_eq!(told(handover, success, plain).await.as_deref(), action, "{handover:?}");
        assert_eq!(told(handover, Notify::default(), plain).await, None);
    }
    let soon = |trace| {
        move |world: &World| {
            let at = world.clock.now() + DAY;
            Terms { deliver_by: Some(DeliverBy { at, late: Late::Notify, trace }), ..Terms::default() }
        }
    };
    let relayed = Some("relayed".to_owned());
    assert_eq!(told(Handover::Reporting, Notify::default(), soon(true)).await, relayed, "by-trace");
    assert_eq!(told(Handover::Reporting, Notify::default(), soon(false)).await, None);
    assert_eq!(
        told(Handover::Relayed, Notify::default(), soon(false)).await,
        relayed,
        "nobody else will tell"
    );
    assert_eq!(told(Handover::Relayed, Notify::NEVER, soon(true)).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_that_was_expanded_is_reported_and_never_delivered_to() {
    let world = World::new();
    let queue = world.open().await;
    let mut envelope = envelope(&world, ALICE, &[BOB, "team@proseware.test"]);
    envelope.recipients[1].expanded = true;
    envelope.recipients[1].notify = Notify { success: true, failure: true, delay: true };
    let id = accept_as(&queue, envelope).await;
    let mut reported = false;
    let mut delivered_to_bob = false;
    for _ in 0..2 {
        let held = lease(&queue).await;
        if held.id == id {
            assert_eq!(held.recipients.len(), 1);
            assert_eq!(held.recipients[0].address, addr(BOB));
            delivered_to_bob = true;
        } else {
            let text = String::from_utf8(read(held.content()).await).unwrap();
            assert!(
                text.contains("Final-Recipient: rfc822; team@proseware.test\r\nAction: expanded"),
                "{text}"
            );
            reported = true;
        }
        settle(&queue, held, &delivered(&world));
    }
    assert!(reported && delivered_to_bob);
    wait_for_messages(&queue, 0).await;
}
