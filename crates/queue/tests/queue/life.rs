//! Messages from their acceptance to their end.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use postern_config as config;
use postern_queue::operate::{Cursor, GroupBy, HeaderPattern, RecipientPick, Retry, ShapeBy, Sort};
use postern_queue::transfer::TransferError;
use postern_queue::{
    AcceptError, Change, Feedback, Filter, MessageView, Origin, Outcome, Queue, QueueId, Recovery,
};
use postern_runtime::Clock;
use postern_smtp::{Notify, ReversePath};

use super::World;
use crate::world::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_accepted_message_is_leased_and_ends_with_its_delivery() {
    let world = World::new();
    let queue = world.open().await;
    let id = accept(&world, &queue, ALICE, &["bob@adatum.test"]).await;
    let held = lease(&queue).await;
    assert_eq!((held.id, held.destination.clone()), (id, to("adatum.test")));
    assert_eq!(held.recipients[0].address, addr("bob@adatum.test"));
    assert_eq!(read(held.content()).await, [HEADER, BODY].concat());
    assert_eq!(queue.summary().active, 1);
    assert!(queue.lease_for(&to("adatum.test")).is_none());
    settle(&queue, held, &delivered(&world));
    wait_for_messages(&queue, 0).await;
    assert_eq!(queue.summary().octets, 0);
    queue.close().await;
    drop(queue);
    assert_eq!(world.open_and_tell().await.1.messages, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_message_is_read_back_as_it_came() {
    let world = World::with(|config| config.inline_limit = 1000);
    let queue = world.open().await;
    let line = b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcd\r\n";
    let mut incoming = queue.incoming().unwrap();
    let mut expected = HEADER.to_vec();
    for _ in 0..20_000 {
        incoming.write(Bytes::from_static(line)).await.unwrap();
        expected.extend_from_slice(line);
    }
    let id = incoming.commit(envelope(&world, ALICE, &["bob@adatum.test"]), HEADER.to_vec()).await.unwrap();
    assert!(read(queue.content(id).unwrap()).await == expected);
    drop(queue);
    let queue = world.open().await;
    assert_eq!(queue.show(id).unwrap().size, expected.len() as u64);
    assert!(read(queue.content(id).unwrap()).await == expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn states_survive_a_crash_and_leases_do_not() {
    let world = World::new();
    let queue = world.open().await;
    let first = accept(&world, &queue, ALICE, &["bob@adatum.test"]).await;
    settle(&queue, lease(&queue).await, &deferred(&world));
    let before = wait_for_state(&queue, first, "deferred").await;
    let second = accept(&world, &queue, ALICE, &["carol@elsewhere.test"]).await;
    let lost = lease(&queue).await;
    assert_eq!(lost.id, second);
    std::mem::forget(lost);
    drop(queue);

    let (queue, recovery) = world.open_and_tell().await;
    assert_eq!((recovery.messages, recovery.damaged), (2, 0));
    assert_eq!(queue.show(first).unwrap(), before);
    assert_eq!(queue.show(second).unwrap().state, "ready");
    assert_eq!(lease(&queue).await.id, second);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_crash_only_recipients_without_delivery_are_tried() {
    let world = World::new();
    let queue = world.open().await;
    let id = accept(&world, &queue, ALICE, &["a@adatum.test", "b@adatum.test", "c@elsewhere.test"]).await;
    let held = lease(&queue).await;
    assert_eq!(held.recipients.len(), 2, "one lease for each destination");
    queue.settle(held, vec![(0, delivered(&world)), (1, deferred(&world))], Feedback::Reached);
    until(async || queue.show(id).unwrap().recipients[0].state == "delivered").await;
    // What is shown is in memory; that it is durable shows when the slot is free and the message moves on.
    let other = lease(&queue).await;
    settle(&queue, other, &deferred(&world));
    wait_for_state(&queue, id, "deferred").await;
    drop(queue);

    let queue = world.open().await;
    let states: Vec<String> = queue.show(id).unwrap().recipients.into_iter().map(|r| r.state).collect();
    assert_eq!(states, ["delivered", "deferred", "deferred"]);
    world.pass(Duration::from_secs(300));
    let mut tried = Vec::new();
    for _ in 0..2 {
        let held = lease(&queue).await;
        tried.extend(held.recipients.iter().map(|recipient| recipient.index));
        settle(&queue, held, &delivered(&world));
    }
    tried.sort_unstable();
    assert_eq!(tried, [1, 2]);
    wait_for_messages(&queue, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_recipients_of_one_destination_are_leased_in_parts() {
    let world = World::new();
    let queue = world.open().await;
    let id = accept(&world, &queue, ALICE, &["a@adatum.test", "b@adatum.test", "c@adatum.test"]).await;
    let first = lease(&queue).await;
    let second = lease(&queue).await;
    assert_eq!((first.recipients.len(), second.recipients.len()), (2, 1));
    assert_eq!(first.id, second.id);
    settle(&queue, first, &delivered(&world));
    settle(&queue, second, &deferred(&world));
    let view = wait_for_state(&queue, id, "deferred").await;
    assert_eq!(view.recipients[2].attempts, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deferred_recipient_comes_back_at_its_time_and_not_before() {
    let world = World::new();
    let queue = world.open().await;
    let id = accept(&world, &queue, ALICE, &["bob@adatum.test"]).await;
    settle(&queue, lease(&queue).await, &deferred(&world));
    let view = wait_for_state(&queue, id, "deferred").await;
    let recipient = &view.recipients[0];
    assert_eq!(recipient.next_attempt, Some(view.received + 300));
    assert_eq!(recipient.status.as_deref(), Some("4.7.1"));
    assert_eq!(recipient.text.as_deref(), Some("450 4.7.1 Come back later"));
    assert_eq!(recipient.tls.as_deref(), Some("TLSv1.3 verified"));
    world.pass(Duration::from_secs(299));
    assert!(queue.lease_for(&to("adatum.test")).is_none());
    world.pass(Duration::from_secs(1));
    let held = lease(&queue).await;
    assert_eq!(held.recipients[0].attempts, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wished_interval_is_granted_once() {
    let world = World::new();
    let queue = world.open().await;
    let id = accept(&world, &queue, ALICE, &["bob@adatum.test"]).await;
    let wish =
        Outcome::Deferred(report(&world, (4, 7, 1), "450 in 60 seconds"), Some(Duration::from_secs(60)));
    settle(&queue, lease(&queue).await, &wish);
    let view = wait_for_state(&queue, id, "deferred").await;
    assert_eq!(view.recipients[0].next_attempt, Some(view.received + 60));
    world.pass(Duration::from_secs(60));
    settle(&queue, lease(&queue).await, &wish);
    let view = wait_for_state(&queue, id, "deferred").await;
    assert_eq!(view.recipients[0].next_attempt, Some(view.received + 60 + 450));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resting_destination_keeps_its_messages_ready_and_delays_no_other() {
    let world = World::new();
    let queue = world.open().await;
    let mut accepting = tokio::task::JoinSet::new();
    for _ in 0..10_000 {
        let (queue, envelope) = (queue.clone(), envelope(&world, ALICE, &["bob@dead.test"]));
        accepting.spawn(async move { accept_as(&queue, envelope).await });
    }
    in_time(accepting.join_all()).await;
    let mut attempts = Vec::new();
    for _ in 0..5 {
        attempts.push(lease(&queue).await);
    }
    for held in attempts {
        queue.settle(
            held,
            vec![(0, deferred(&world))],
            Feedback::Unreachable("connection refused".to_owned()),
        );
    }
    until(async || queue.summary().deferred == 5).await;
    assert!(queue.lease_for(&to("dead.test")).is_none());
    let fresh = accept(&world, &queue, ALICE, &["carol@alive.test"]).await;
    let held = lease(&queue).await;
    assert_eq!(held.id, fresh);
    settle(&queue, held, &delivered(&world));
    let view = queue
        .list(&Filter { state: Some("ready".to_owned()), ..Filter::default() }, Sort::Age, None, 1)
        .unwrap()
        .messages;
    assert_eq!(view[0].recipients[0].attempts, 0);
    assert_eq!(view[0].recipients[0].next_attempt, Some(view[0].received + 60));
    world.pass(Duration::from_secs(60));
    let probe = lease(&queue).await;
    assert_eq!(probe.destination, to("dead.test"));
    assert!(queue.lease_for(&to("dead.test")).is_none(), "one probe");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_gets_the_next_message_of_its_destination() {
    let world = World::new();
    let queue = world.open().await;
    for _ in 0..3 {
        accept(&world, &queue, ALICE, &["bob@adatum.test"]).await;
    }
    let mut held = lease(&queue).await;
    for _ in 0..2 {
        settle(&queue, held, &delivered(&world));
        let mut next = None;
        // Where nothing stays in memory it is read first.
        until(async || {
            next = queue.lease_for(&to("adatum.test"));
            next.is_some()
        })
        .await;
        held = next.unwrap();
    }
    settle(&queue, held, &delivered(&world));
    wait_for_messages(&queue, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recipient_whose_route_changed_goes_the_new_way() {
    let world = World::new();
    let queue = world.open().await;
    accept(&world, &queue, ALICE, &["bob@adatum.test"]).await;
    world.surroundings.rerouted.store(true, Ordering::Relaxed);
    assert_eq!(lease(&queue).await.destination, to("smarthost"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_recipient_is_reported_to_the_sender() {
    let world = World::new();
    let queue = world.open().await;
    let id = accept(&world, &queue, ALICE, &["bob@adatum.test", "carol@adatum.test"]).await;
    settle(&queue, lease(&queue).await, &failed(&world));
    let report = lease(&queue).await;
    assert_ne!(report.id, id);
    assert_eq!(report.envelope.reverse_path, ReversePath::Null);
    assert_eq!(report.envelope.origin, Origin::Own);
    assert_eq!(report.recipients[0].address, addr(ALICE));
    let text = String::from_utf8(read(report.content()).await).unwrap();
    for words in [
        "To: <alice@proseware.test>\r\n",
        "From: Mail Delivery System <MAILER-DAEMON@mail.proseware.test>\r\n",
        "Final-Recipient: rfc822; bob@adatum.test\r\n",
        "Final-Recipient: rfc822; carol@adatum.test\r\n",
        "Status: 5.1.1\r\n",
        "Diagnostic-Code: smtp; 550 5.1.1 No such user\r\n",
        "Received: by mail.proseware.test\r\n",
        "Hello Bob\r\n",
    ] {
        assert!(text.contains(words), "{words} in {text}");
    }
    assert!(queue.show(id).is_none(), "report and end are one change");
    settle(&queue, report, &failed(&world));
    wait_for_messages(&queue, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_null_sender_gets_no_report() {
    let world = World::new();
    let queue = world.open().await;
    accept(&world, &queue, "", &["bob@adatum.test"]).await;
    settle(&queue, lease(&queue).await, &failed(&world));
    wait_for_messages(&queue, 0).await;
    accept(&world, &queue, "", &["bob@adatum.test"]).await;
    world.pass(Duration::from_secs(86_400));
    wait_for_messages(&queue, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn notify_never_is_honoured() {
    let world = World::new();
    let queue = world.open().await;
    let mut silent = envelope(&world, ALICE, &["bob@adatum.test", "carol@adatum.test"]);
    silent.recipients[0].notify = Notify::NEVER;
    silent.recipients[1].notify = Notify { success: false, failure: false, delay: true };
    accept_as(&queue, silent).await;
    settle(&queue, lease(&queue).await, &failed(&world));
    wait_for_messages(&queue, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_success_is_reported_to_a_sender_who_asked() {
    let world = World::new();
    let queue = world.open().await;
    let mut curious = envelope(&world, ALICE, &["bob@adatum.test"]);
    curious.recipients[0].notify = Notify { success: true, failure: true, delay: true };
    accept_as(&queue, curious).await;
    settle(&queue, lease(&queue).await, &delivered(&world));
    let report = lease(&queue).await;
    let text = String::from_utf8(read(report.content()).await).unwrap();
    assert!(text.contains("Action: relayed\r\nStatus: 2.0.0\r\n"), "{text}");
    settle(&queue, report, &delivered(&world));
    wait_for_messages(&queue, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_follow_aliases() {
    let world = World::new();
    let queue = world.open().await;
    accept(&world, &queue, "team@proseware.test", &["bob@adatum.test"]).await;
    settle(&queue, lease(&queue).await, &failed(&world));
    let report = lease(&queue).await;
    let recipients: Vec<String> = report.recipients.iter().map(|r| r.address.to_string()).collect();
    assert_eq!(recipients, [ALICE, "bill@proseware.test"]);
    settle(&queue, report, &delivered(&world));
    wait_for_messages(&queue, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postmaster_hears_of_mail_of_ours_that_fails_and_whose_sender_nobody_reads() {
    let world = World::new();
    let queue = world.open().await;
    accept(&world, &queue, "gone@proseware.test", &["bob@adatum.test"]).await;
    settle(&queue, lease(&queue).await, &failed(&world));
    let report = lease(&queue).await;
    assert_eq!(report.envelope.reverse_path, ReversePath::Null);
    assert_eq!(report.recipients[0].address, addr("postmaster@proseware.test"));
    let text = String::from_utf8(read(report.content()).await).unwrap();
    for part in ["To: <postmaster@proseware.test>", "Nobody reads gone@proseware.test", "bob@adatum.test"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(text.contains("text/rfc822-headers") && !text.contains("message/rfc822\r\n"), "{text}");
    settle(&queue, report, &failed(&world));
    wait_for_messages(&queue, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn made_up_senders_of_outsiders_are_no_matter_for_postmaster() {
    let world = World::new();
    let queue = world.open().await;
    let mut forged = envelope(&world, "gone@proseware.test", &["bob@adatum.test"]);
    forged.origin = Origin::Outsider;
    accept_as(&queue, forged).await;
    settle(&queue, lease(&queue).await, &failed(&world));
    wait_for_messages(&queue, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owed_report_is_written_after_a_restart() {
    let world = World::new();
    let queue = world.open().await;
    world.surroundings.reports_fail.store(true, Ordering::Relaxed);
    let id = accept(&world, &queue, ALICE, &["bob@adatum.test"]).await;
    settle(&queue, lease(&queue).await, &failed(&world));
    until(async || queue.show(id).unwrap().recipients[0].state == "failed").await;
    queue.close().await;
    drop(queue);

    world.surroundings.reports_fail.store(false, Ordering::Relaxed);
    let queue = world.open().await;
    let report = lease(&queue).await;
    assert_eq!(report.envelope.reverse_path, ReversePath::Null);
    assert!(queue.show(id).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_cannot_be_written_is_tried_again_and_never_restarts_delivery() {
    let world = World::new();
    let queue = world.open().await;
    world.surroundings.reports_fail.store(true, Ordering::Relaxed);
    let id = accept(&world, &queue, ALICE, &["bob@adatum.test"]).await;
    settle(&queue, lease(&queue).await, &failed(&world));
    until(async || queue.show(id).unwrap().recipients[0].state == "failed").await;
    for _ in 0..3 {
        world.pass(Duration::from_secs(60));
        assert!(queue.lease_for(&to("adatum.test")).is_none());
    }
    world.surroundings.reports_fail.store(false, Ordering::Relaxed);
    let mut report = None;
    until(async || {
        world.pass(Duration::from_secs(60));
        report = queue.lease_for(&to("proseware.test"));
        report.is_some()
    })
    .await;
    assert_eq!(report.unwrap().recipients[0].address, addr(ALICE));
}

#[tokio::test(flavor = "multi_thread")]
async fn time_runs_out_in_every_state() {
    let world = World::with(|config| config.delay_notice = Duration::ZERO);
    let queue = world.open().await;
    let mut expected = Vec::new();

    let deferred_id = accept(&world, &queue, ALICE, &["deferred@adatum.test"]).await;
    settle(&queue, lease(&queue).await, &deferred(&world));
    wait_for_state(&queue, deferred_id, "deferred").await;
    expected.push("deferred@adatum.test");

    let held_id = accept(&world, &queue, ALICE, &["held@adatum.test"]).await;
    assert_eq!(queue.hold(&[held_id], "looks odd", None, Duration::ZERO).await.unwrap(), changed(1, 1));
    expected.push("held@adatum.test");

    accept(&world, &queue, ALICE, &["first@dead.test"]).await;
    let probe = lease(&queue).await;
    accept(&world, &queue, ALICE, &["ready@dead.test"]).await;
    queue.settle(probe, vec![(0, deferred(&world))], Feedback::Unreachable("no route".to_owned()));
    expected.extend(["first@dead.test", "ready@dead.test"]);

    accept(&world, &queue, ALICE, &["active@elsewhere.test"]).await;
    let active = lease(&queue).await;
    assert_eq!(active.recipients[0].address, addr("active@elsewhere.test"));
    expected.push("active@elsewhere.test");

    world.pass(Duration::from_secs(5 * 86_400));
    // Four end by themselves: four reports, and the message in hand.
    until(async || {
        queue.list(&Filter { dsn: true, ..Filter::default() }, Sort::Age, None, 10).unwrap().messages.len()
            == 4
    })
    .await;
    wait_for_messages(&queue, 5).await;
    settle(&queue, active, &deferred(&world));
    let mut told = String::new();
    for _ in 0..5 {
        let report = lease(&queue).await;
        let text = String::from_utf8(read(report.content()).await).unwrap();
        assert!(text.contains("Status: 4.4.7\r\n"), "{text}");
        told.push_str(&text);
        settle(&queue, report, &delivered(&world));
    }
    for recipient in expected {
        assert!(told.contains(&format!("Final-Recipient: rfc822; {recipient}\r\n")), "{recipient}");
    }
    assert!(told.contains("450 4.7.1 Come back later"), "the last evidence");
    assert!(told.contains("looks odd"), "the reason of the hold");
    wait_for_messages(&queue, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delay_is_told_once_even_over_a_restart() {
    let world = World::new();
    let queue = world.open().await;
    let id = accept(&world, &queue, ALICE, &["bob@adatum.test"]).await;
    accept(&world, &queue, "", &["bob@adatum.test"]).await;
    settle(&queue, lease(&queue).await, &deferred(&world));
    settle(&queue, lease(&queue).await, &deferred(&world));
    wait_for_state(&queue, id, "deferred").await;
    world.pass(Duration::from_secs(4 * 3600));
    let mut notice = None;
    until(async || {
        notice = queue.lease_for(&to("proseware.test"));
        notice.is_some()
    })
    .await;
    let notice = notice.unwrap();
    let text = String::from_utf8(read(notice.content()).await).unwrap();
    assert!(text.contains("Action: delayed\r\n") && text.contains("Will-Retry-Until: "), "{text}");
    settle(&queue, notice, &delivered(&world));
    wait_for_messages(&queue, 2).await;
    drop(queue);

    let queue = world.open().await;
    for _ in 0..10 {
        world.pass(Duration::from_secs(3600));
    }
    let held = [lease(&queue).await, lease(&queue).await];
    assert!(held.iter().all(|held| held.destination == to("adatum.test")));
    assert_eq!(queue.summary().messages, 2, "no second notice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_survives_a_restart_and_ends_by_release() {
    let world = World::new();
    let queue = world.open().await;
    let id = accept(&world, &queue, ALICE, &["bob@adatum.test"]).await;
    assert_eq!(queue.hold(&[id], "wait for Carol", None, Duration::ZERO).await.unwrap(), changed(1, 1));
    assert!(queue.lease_for(&to("adatum.test")).is_none());
    let again = queue.hold(&[id], "again", None, Duration::ZERO).await.unwrap();
    assert_eq!((again.changed, again.skipped), (0, vec![(id.to_string(), "already held".to_owned())]));
    drop(queue);

    let queue = world.open().await;
    let view = queue.show(id).unwrap();
    assert_eq!((view.state.as_str(), view.held.as_deref()), ("held", Some("wait for Carol")));
    assert!(queue.lease_for(&to("adatum.test")).is_none());
    assert_eq!(queue.release(&queue.select(&Filter::default()).unwrap()).await.unwrap(), changed(1, 1));
    assert_eq!(lease(&queue).await.id, id);
}

#[tokio::test(flavor = "multi_thread")]
async fn three_attempts_without_an_outcome_hold_the_message() {
    let world = World::new();
    let queue = world.open().await;
    let id = accept(&world, &queue, ALICE, &["bob@adatum.test"]).await;
    for _ in 0..2 {
        drop(lease(&queue).await);
        wait_for_state(&queue, id, "deferred").await;
        world.pass(Duration::from_secs(60));
    }
    drop(queue);
    let queue = world.open().await;
    drop(lease(&queue).await);
    let view = wait_for_state(&queue, id, "held").await;
    assert!(view.held.unwrap().contains("3 delivery attempts ended without an outcome"));
    assert_eq!(queue.release(&[id]).await.unwrap(), changed(1, 1));
    settle(&queue, lease(&queue).await, &delivered(&world));
    wait_for_messages(&queue, 0).await;
}

const STALL_LIMIT: Duration = Duration::from_secs(30 * 60);

/// Its lease was ended because it made no progress: the message waits for its next attempt.
async fn wait_for_strike(world: &World, queue: &Queue, id: QueueId) {
    until(async || queue.show(id).is_some_and(|view| matches!(view.state.as_str(), "deferred" | "held")))
        .await;
    world.pass(Duration::from_secs(60));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_without_progress_is_told_to_end() {
    let world = World::new();
    let queue = world.open().await;
    let id = accept(&world, &queue, ALICE, &["bob@adatum.test"]).await;
    let other = accept(&world, &queue, ALICE, &["carol@elsewhere.test"]).await;
    let (busy, idle) = (lease(&queue).await, lease(&queue).await);
    assert_eq!((busy.id, idle.id), (id, other));
    for _ in 0..3 {
        world.pass(STALL_LIMIT / 3);
        busy.progress().step("connected");
    }
    in_time(idle.stop().cancelled()).await;
    assert!(!busy.stop().is_cancelled(), "it gets on");
    let seen = queue.show(id).unwrap().attempt.unwrap();
    assert_eq!(
        (seen.step.as_str(), seen.recipients, seen.destination.as_str()),
        ("connected", 1, "adatum.test")
    );
    assert_eq!(queue.summary().oldest_attempt, Some(seen));
    settle(&queue, busy, &delivered(&world));
    queue.abandon(idle, Vec::new());
    wait_for_messages(&queue, 1).await;
    wait_for_strike(&world, &queue, other).await;
    assert_eq!(lease(&queue).await.id, other);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_does_not_end_when_it_is_told_loses_its_lease() {
    let world = World::new();
    let queue = world.open().await;
    let id = accept(&world, &queue, ALICE, &["bob@adatum.test"]).await;
    let mut wedged = Vec::new();
    for _ in 0..3 {
        let held = lease(&queue).await;
        held.progress().step("content sent");
        for _ in 0..2 {
            assert_eq!(queue.show(id).unwrap().state, "active");
            world.pass(STALL_LIMIT);
            in_time(held.stop().cancelled()).await;
        }
        wait_for_strike(&world, &queue, id).await;
        wedged.push(held);
    }
    let before = queue.show(id).unwrap();
    let reason = before.held.clone().unwrap();
    assert!(reason.contains("3 delivery attempts ended without an outcome"), "{reason}");
    assert!(reason.contains("\"content sent\""), "{reason}");
    // Whatever comes from them now is too late.
    settle(&queue, wedged.remove(0), &delivered(&world));
    queue.abandon(wedged.remove(0), vec![(0, failed(&world))]);
    drop(wedged);
    assert_eq!(queue.show(id).unwrap(), before);
    assert_eq!(queue.release(&[id]).await.unwrap(), changed(1, 1));
    settle(&queue, lease(&queue).await, &delivered(&world));
    wait_for_messages(&queue, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wedged_attempt_gives_its_slot_to_the_next_message() {
    let world = World::with_sending(
        |_| {},
        config::Outbound { initial_per_destination: 1, ..config::Outbound::default() },
    );
    let queue = world.open().await;
    accept(&world, &queue, ALICE, &["bob@adatum.test"]).await;
    let second = accept(&world, &queue, ALICE, &["bob@adatum.test"]).await;
    let wedged = lease(&queue).await;
    assert!(queue.lease_for(&to("adatum.test")).is_none());
    world.pass(STALL_LIMIT);
    in_time(wedged.stop().cancelled()).await;
    assert!(queue.lease_for(&to("adatum.test")).is_none(), "it has time to end by itself");
    world.pass(STALL_LIMIT);
    assert_eq!(lease(&queue).await.id, second);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_of_an_attempt_that_was_cut_short_counts() {
    let world = World::new();
    let queue = world.open().await;
    let id = accept(&world, &queue, ALICE, &["a@adatum.test", "b@adatum.test"]).await;
    queue.abandon(lease(&queue).await, vec![(0, delivered(&world)), (7, failed(&world))]);
    wait_for_strike(&world, &queue, id).await;
    let states: Vec<String> = queue.show(id).unwrap().recipients.into_iter().map(|r| r.state).collect();
    assert_eq!(states[0], "delivered");
    let held = lease(&queue).await;
    assert_eq!(held.recipients.iter().map(|r| (r.index, r.attempts)).collect::<Vec<_>>(), [(1, 0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn recipients_that_were_not_tried_stay_due() {
    let world = World::new();
    let queue = world.open().await;
    let id = accept(&world, &queue, ALICE, &["a@adatum.test", "b@adatum.test"]).await;
    queue.settle(lease(&queue).await, vec![(0, delivered(&world))], Feedback::Reached);
    let held = lease(&queue).await;
    assert_eq!(held.recipients.iter().map(|r| (r.index, r.attempts)).collect::<Vec<_>>(), [(1, 0)]);
    // Nobody was tried and nothing was learnt: it must not come back at once.
    queue.settle(held, Vec::new(), Feedback::Nothing);
    wait_for_state(&queue, id, "deferred").await;
    world.pass(Duration::from_secs(60));
    assert_eq!(lease(&queue).await.id, id);
}

#[tokio::test(flavor = "multi_thread")]
async fn retrying_ends_deferrals_and_rests() {
    let world = World::new();
    let queue = world.open().await;
    let id = accept(&world, &queue, ALICE, &["bob@adatum.test"]).await;
    let held = lease(&queue).await;
    queue.settle(held, vec![(0, deferred(&world))], Feedback::Unreachable("refused".to_owned()));
    wait_for_state(&queue, id, "deferred").await;
    let waits = queue.retry(&[id], Retry::default()).await.unwrap();
    assert_eq!(waits, Change { resting: 1, ..changed(1, 1) }, "it is due, and its destination rests");
    assert!(queue.lease_for(&to("adatum.test")).is_none());
    let at_once = Retry { ignore_breaker: true, ..Retry::default() };
    assert_eq!(queue.retry(&[id], at_once).await.unwrap(), changed(1, 1));
    let held = lease(&queue).await;
    assert_eq!((held.id, held.recipients[0].attempts), (id, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_by_hand_tells_the_sender_and_removing_tells_nobody() {
    let world = World::new();
    let queue = world.open().await;
    let failed = accept(&world, &queue, ALICE, &["bob@adatum.test"]).await;
    let removed = accept(&world, &queue, ALICE, &["carol@elsewhere.test"]).await;
    assert_eq!(
        queue.remove(&[removed], &RecipientPick::default(), "spam", Duration::ZERO).await.unwrap(),
        changed(1, 1)
    );
    assert!(queue.show(removed).is_none());
    assert_eq!(
        queue
            .fail(&[failed], &RecipientPick::default(), "the list was closed", Duration::ZERO)
            .await
            .unwrap(),
        changed(1, 1)
    );
    let report = lease(&queue).await;
    let text = String::from_utf8(read(report.content()).await).unwrap();
    assert!(text.contains("Diagnostic-Code: X-Postern; the list was closed\r\n"), "{text}");
    settle(&queue, report, &delivered(&world));
    wait_for_messages(&queue, 0).await;
    drop(queue);
    assert_eq!(world.open_and_tell().await.1.messages, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recipient_that_is_named_ends_without_the_others_of_its_message() {
    let world = World::new();
    let queue = world.open().await;
    let id = accept(&world, &queue, ALICE, &["a@adatum.test", "b@adatum.test", "c@adatum.test"]).await;
    let only = |address: &str| Filter { rcpt: Some(address.to_owned()), ..Filter::default() };
    let pick = RecipientPick::new(&only("a@adatum.test")).unwrap();
    assert_eq!(queue.remove(&[id], &pick, "spam", Duration::ZERO).await.unwrap(), changed(1, 1));
    let pick = RecipientPick::new(&only("b@adatum.test")).unwrap();
    assert_eq!(queue.fail(&[id], &pick, "moved", Duration::ZERO).await.unwrap(), changed(1, 1));
    let states = |view: MessageView| view.recipients.into_iter().map(|r| r.state).collect::<Vec<_>>();
    assert_eq!(states(queue.show(id).unwrap()), ["failed", "failed", "ready"]);
    let (mut delivery, mut report) = (lease(&queue).await, lease(&queue).await);
    if delivery.id != id {
        std::mem::swap(&mut delivery, &mut report);
    }
    assert_eq!(delivery.recipients[0].address.to_string(), "c@adatum.test");
    let text = String::from_utf8(read(report.content()).await).unwrap();
    assert!(text.contains("b@adatum.test") && !text.contains("<a@adatum.test>"), "{text}");
    assert!(text.contains("an administrator of this server"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_filter_finds_lists_and_counts() {
    let world = World::new();
    let queue = world.open().await;
    let old = accept(&world, &queue, ALICE, &["bob@adatum.test"]).await;
    settle(&queue, lease(&queue).await, &deferred(&world));
    wait_for_state(&queue, old, "deferred").await;
    world.pass(Duration::from_secs(100));
    let mut own = envelope(&world, "", &["Bob@adatum.test", "carol@elsewhere.test"]);
    own.origin = Origin::Own;
    own.client = None;
    own.message_id = Some("2@proseware.test".to_owned());
    let new = accept_as(&queue, own).await;

    let find = |filter: Filter| -> Vec<String> {
        queue.list(&filter, Sort::Age, None, 10).unwrap().messages.into_iter().map(|view| view.id).collect()
    };
    let some = |text: &str| Some(text.to_owned());
    let (old, new) = (old.to_string(), new.to_string());
    for (filter, expected) in [
        (Filter::default(), vec![&old, &new]),
        (Filter { ids: vec![new.to_lowercase()], ..Filter::default() }, vec![&new]),
        (Filter { sender: some("ALICE@proseware.test"), ..Filter::default() }, vec![&old]),
        (Filter { sender: some("@proseware.test"), ..Filter::default() }, vec![&old]),
        (Filter { sender: some("<>"), ..Filter::default() }, vec![&new]),
        (Filter { rcpt: some("bob@adatum.test"), ..Filter::default() }, vec![&old, &new]),
        (Filter { rcpt_domain: some("elsewhere.test"), ..Filter::default() }, vec![&new]),
        (Filter { account: some("alice"), ..Filter::default() }, vec![&old]),
        (Filter { client_ip: some("192.0.2.7"), ..Filter::default() }, vec![&old]),
        (Filter { state: some("deferred"), ..Filter::default() }, vec![&old]),
        (Filter { state: some("held"), ..Filter::default() }, vec![]),
        (Filter { code: some("4.7."), ..Filter::default() }, vec![&old]),
        (Filter { code: some("450"), ..Filter::default() }, vec![&old]),
        (Filter { older: Some(99), ..Filter::default() }, vec![&old]),
        (Filter { newer: Some(99), ..Filter::default() }, vec![&new]),
        (Filter { min_size: Some(1_000_000), ..Filter::default() }, vec![]),
        (Filter { max_size: Some(1_000_000), ..Filter::default() }, vec![&old, &new]),
        (Filter { min_attempts: Some(0), ..Filter::default() }, vec![&old]),
        (Filter { dsn: true, ..Filter::default() }, vec![&new]),
        (Filter { message_id: some("2@proseware.test"), ..Filter::default() }, vec![&new]),
    ] {
        assert_eq!(find(filter.clone()).iter().collect::<Vec<_>>(), expected, "{filter:?}");
    }
    let next = queue.list(&Filter::default(), Sort::Next, None, 1).unwrap().messages;
    assert_eq!(next[0].id, new, "it is ready");
    let tried = queue.list(&Filter::default(), Sort::Attempts, None, 1).unwrap().messages;
    assert_eq!(tried[0].id, old);

    let domains = queue.count(&Filter::default(), GroupBy::Domain).unwrap();
    let counted: Vec<(&str, usize)> =
        domains.iter().map(|group| (group.key.as_str(), group.messages)).collect();
    assert_eq!(counted, [("adatum.test", 2), ("elsewhere.test", 1)]);
    for filter in [
        Filter { ids: vec!["nonsense".to_owned()], ..Filter::default() },
        Filter { state: some("lost"), ..Filter::default() },
        Filter { rcpt: some("nobody"), ..Filter::default() },
        Filter { client_ip: some("here"), ..Filter::default() },
    ] {
        assert!(queue.list(&filter, Sort::Age, None, 1).is_err(), "{filter:?}");
        assert!(queue.select(&filter).is_err(), "{filter:?}");
    }
    let summary = queue.summary();
    assert_eq!((summary.messages, summary.ready, summary.deferred), (2, 1, 1));
    assert_eq!(summary.oldest, Some(100));
    assert_eq!(summary.store_error, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_or_disk_takes_no_more() {
    let world = World::with(|config| config.max_messages = 1);
    let queue = world.open().await;
    let receiving = queue.incoming().unwrap();
    assert!(matches!(queue.admits(0), Err(AcceptError::Full(1))));
    assert!(matches!(queue.incoming(), Err(AcceptError::Full(1))));
    drop(receiving);
    accept(&world, &queue, ALICE, &["bob@adatum.test"]).await;
    assert!(matches!(queue.admits(0), Err(AcceptError::Full(1))));

    let world = World::with(|config| config.min_free_space = u64::MAX);
    let queue = world.open().await;
    assert!(matches!(queue.admits(0), Err(AcceptError::NoSpace(_))));
    let world = World::new();
    let queue = world.open().await;
    assert!(queue.admits(0).is_ok());
    assert!(matches!(queue.admits(u64::MAX), Err(AcceptError::NoSpace(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_committed_leaves_nothing_behind() {
    let world = World::with(|config| config.inline_limit = 10);
    let queue = world.open().await;
    let mut incoming = queue.incoming().unwrap();
    incoming.write(Bytes::from_static(BODY)).await.unwrap();
    drop(incoming);
    assert_eq!(queue.summary().messages, 0);
    queue.close().await;
    drop(queue);
    assert_eq!(world.open_and_tell().await.1, Recovery::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_queue_hands_out_nothing_and_has_written_everything() {
    let world = World::new();
    let queue = world.open().await;
    let id = accept(&world, &queue, ALICE, &["bob@adatum.test"]).await;
    accept(&world, &queue, ALICE, &["bob@adatum.test"]).await;
    let (held, kept) = (lease(&queue).await, lease(&queue).await);
    assert_eq!(held.id, id);
    settle(&queue, held, &delivered(&world));
    in_time(queue.close()).await;
    assert!(queue.lease_for(&to("adatum.test")).is_none());
    drop(kept);
    drop(queue);
    let (queue, recovery) = world.open_and_tell().await;
    assert_eq!(recovery.messages, 1);
    let views = queue.list(&Filter::default(), Sort::Age, None, 10).unwrap().messages;
    assert_eq!(views[0].state, "ready", "stopping is no strike");
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_are_negated_repeated_and_read_from_replies_and_headers() {
    let world = World::new();
    let queue = world.open().await;
    let old = accept(&world, &queue, ALICE, &["bob@adatum.test"]).await;
    settle(&queue, lease(&queue).await, &deferred(&world));
    wait_for_state(&queue, old, "deferred").await;
    let mut incoming = queue.incoming().unwrap();
    incoming.write(Bytes::from_static(b"Subject: Your\r\n invoice\r\n\r\nSubject: hello\r\n")).await.unwrap();
    let new =
        incoming.commit(envelope(&world, "", &["carol@elsewhere.test"]), HEADER.to_vec()).await.unwrap();

    let find = |filter: &Filter| queue.select(filter).unwrap();
    let some = |text: &str| Some(text.to_owned());
    let header = |pattern: &str| Filter {
        header: Some(HeaderPattern { name: "subject".to_owned(), pattern: pattern.to_owned() }),
        ..Filter::default()
    };
    let not = |filter: Filter| Filter { not: vec![filter], ..Filter::default() };
    let sender = Filter { sender: some(ALICE), ..Filter::default() };
    for (filter, expected) in [
        (not(sender.clone()), vec![new]),
        (not(not(sender.clone())), vec![old]),
        (Filter { also: vec![Filter { dsn: true, ..Filter::default() }], ..sender.clone() }, vec![]),
        (not(Filter { ids: vec![old.to_string()], ..Filter::default() }), vec![new]),
        (Filter { error: some("(?i)come BACK"), ..Filter::default() }, vec![old]),
        (Filter { error: some("^Come"), ..Filter::default() }, vec![]),
        (header("^hello"), vec![old]),
        (header("Your +invoice$"), vec![new]),
        (not(header("hello")), vec![new]),
        (Filter { not: vec![sender], ..header("hello") }, vec![]),
        (Filter { destination: some("Adatum.test"), ..Filter::default() }, vec![old]),
        (Filter { max_attempts: Some(1), ..Filter::default() }, vec![new]),
        (Filter { next_within: Some(5), ..Filter::default() }, vec![new]),
        (Filter { next_beyond: Some(5), ..Filter::default() }, vec![old]),
        (
            Filter { ids: vec![new.to_string(), old.to_string(), old.to_string()], ..Filter::default() },
            vec![old, new],
        ),
    ] {
        assert_eq!(find(&filter), expected, "{filter:?}");
    }
    assert!(queue.select(&Filter { error: some("("), ..Filter::default() }).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_counted_by_all_they_have_in_common() {
    let world = World::new();
    let queue = world.open().await;
    let id = accept(&world, &queue, ALICE, &["bob@adatum.test"]).await;
    queue.settle(lease(&queue).await, vec![(0, deferred(&world))], Feedback::Unreachable("down".to_owned()));
    wait_for_state(&queue, id, "deferred").await;
    world.pass(Duration::from_secs(600));
    accept(&world, &queue, "", &["carol@elsewhere.test", "dave@adatum.test"]).await;
    let count = |by| {
        let groups = queue.count(&Filter::default(), by).unwrap();
        groups.into_iter().map(|group| (group.key, group.messages)).collect::<Vec<_>>()
    };
    let two = |a: &str, b: &str| vec![(a.to_owned(), 1), (b.to_owned(), 1)];
    assert_eq!(count(GroupBy::SenderDomain), two("<>", "proseware.test"));
    assert_eq!(count(GroupBy::Client), [("192.0.2.7".to_owned(), 2)]);
    assert_eq!(
        count(GroupBy::Destination),
        [("adatum.test".to_owned(), 2), ("elsewhere.test".to_owned(), 1)]
    );

    let shape = queue.shape(&Filter::default(), ShapeBy::Recipient, &[300, 900], 1).unwrap();
    assert_eq!((shape.total.clone(), shape.omitted), (vec![1, 1, 0], 1));
    assert_eq!((shape.rows[0].key.as_str(), shape.rows[0].messages.clone()), ("adatum.test", vec![1, 1, 0]));
    let shape = queue.shape(&Filter::default(), ShapeBy::Sender, &[300], 10).unwrap();
    assert_eq!(shape.rows.iter().map(|row| row.key.as_str()).collect::<Vec<_>>(), ["<>", "proseware.test"]);
    for buckets in [&[][..], &[5, 5], &[6, 5]] {
        assert!(queue.shape(&Filter::default(), ShapeBy::Sender, buckets, 10).is_err(), "{buckets:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_by_age_costs_a_page_and_pages_miss_and_repeat_nothing() {
    const MESSAGES: usize = 1200;
    let world = World::new();
    let queue = world.open().await;
    let mut accepting = tokio::task::JoinSet::new();
    for number in 0..MESSAGES {
        let (queue, envelope) =
            (queue.clone(), envelope(&world, ALICE, &[&format!("r{}@adatum.test", number % 7)]));
        accepting.spawn(async move { accept_as(&queue, envelope).await });
    }
    let mut ids = in_time(accepting.join_all()).await;
    ids.sort_unstable();
    for sort in [Sort::Age, Sort::Size] {
        let mut found = Vec::new();
        let mut cursor = None;
        loop {
            let page = queue.list(&Filter::default(), sort, cursor, 500).unwrap();
            if sort == Sort::Age {
                assert!(page.examined <= 501, "{} for a page", page.examined);
            }
            found.extend(page.messages.into_iter().map(|message| message.id.parse::<QueueId>().unwrap()));
            cursor = page.next.map(|next| next.to_string().parse().unwrap());
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(found, ids, "{sort:?}");
    }
    let first = queue.list(&Filter::default(), Sort::Age, None, 10).unwrap();
    assert_eq!((first.messages.len(), first.examined), (10, 11));
    assert!("nonsense".parse::<Cursor>().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_can_wait_for_the_end_of_an_attempt() {
    let world = World::new();
    let queue = world.open().await;
    let wait = Duration::from_secs(60);
    for ends_with in [deferred(&world), delivered(&world)] {
        let id = accept(&world, &queue, ALICE, &["bob@adatum.test"]).await;
        let held = lease(&queue).await;
        let waiting = {
            let queue = queue.clone();
            tokio::spawn(async move {
                queue.remove(&[id], &RecipientPick::default(), "spam", wait).await.unwrap()
            })
        };
        // It may begin to wait before or after this: both must do.
        settle(&queue, held, &ends_with);
        let change = in_time(waiting).await.unwrap();
        let is_delivered = matches!(ends_with, Outcome::Delivered(..));
        assert_eq!((change.changed, change.skipped.len()), if is_delivered { (0, 1) } else { (1, 0) });
        wait_for_messages(&queue, 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_moves_to_another_queue_with_all_that_happened_to_it() {
    let (here, there) = (World::new(), World::new());
    let queue = here.open().await;
    let id = accept(&here, &queue, ALICE, &["bob@adatum.test", "carol@elsewhere.test"]).await;
    let held = lease(&queue).await;
    assert!(queue.transfer(id).is_none(), "it is being delivered");
    settle(&queue, held, &delivered(&here));
    until(async || {
        queue.transfer(id).is_some_and(|transfer| transfer.recipients.iter().any(|r| r.attempts > 0))
    })
    .await;
    assert_eq!(queue.hold(&[id], "moves", None, Duration::from_secs(60)).await.unwrap(), changed(1, 1));
    let transfer = queue.transfer(id).unwrap();
    let content = read(queue.content(id).unwrap()).await;
    let shown = queue.show(id).unwrap();

    let other = there.open().await;
    let (mut incoming, envelope) = other.incoming_transfer(&transfer).unwrap();
    incoming.write(content.clone().into()).await.unwrap();
    assert_eq!(incoming.commit(envelope, Vec::new()).await.unwrap(), id);
    assert_eq!(other.show(id).unwrap(), shown);
    assert!(matches!(other.incoming_transfer(&transfer), Err(TransferError::Present)));
    drop(other);

    let other = there.open().await;
    assert_eq!(other.show(id).unwrap(), shown);
    assert_eq!(other.transfer(id).unwrap(), transfer);
    assert_eq!(read(other.content(id).unwrap()).await, content);
    assert_eq!(other.release(&[id]).await.unwrap(), changed(1, 1));
    let held = lease(&other).await;
    assert_eq!((held.id, held.recipients.len()), (id, 1), "one of the two was done");
}

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A deferred message, and the queue closed.
async fn deferred_and_closed(world: &World) -> QueueId {
    let queue = world.open().await;
    let id = accept(world, &queue, ALICE, &["bob@adatum.test"]).await;
    let leased = lease(&queue).await;
    queue.settle(leased, vec![(0, deferred(world))], Feedback::Reached);
    until(async || queue.summary().deferred == 1).await;
    queue.close().await;
    id
}

#[tokio::test]
async fn a_clock_put_back_between_two_starts_neither_loses_nor_delays_mail() {
    let world = World::new();
    let id = deferred_and_closed(&world).await;
    world.clock.set(world.clock.now() - DAY);
    let queue = world.open().await;
    assert_eq!(queue.summary().messages, 1);
    let later = accept(&world, &queue, ALICE, &["carol@adatum.test"]).await;
    assert!(later > id);
    // Not a day and five minutes: the longest interval of the schedule at most.
    world.pass(world.surroundings.schedule.retry.cap);
    let mut leased = vec![lease(&queue).await, lease(&queue).await];
    leased.sort_by_key(|lease| lease.id);
    assert_eq!(leased.iter().map(|lease| lease.id).collect::<Vec<_>>(), [id, later]);
    for lease in leased {
        queue.settle(lease, vec![(0, delivered(&world))], Feedback::Reached);
    }
    until(async || queue.summary().messages == 0).await;
    queue.close().await;
}

#[tokio::test]
async fn a_clock_put_forward_between_two_starts_loses_no_mail() {
    let world = World::new();
    let id = deferred_and_closed(&world).await;
    world.clock.set(world.clock.now() + 365 * DAY);
    let queue = world.open().await;
    // Its time is over, as far as anybody can tell: then its sender is told.
    until(async || queue.show(id).is_none()).await;
    let leased = lease(&queue).await;
    assert!(leased.id > id && leased.envelope.reverse_path == ReversePath::Null);
    assert_eq!(leased.envelope.recipients[0].address.to_string(), ALICE);
    let text = String::from_utf8(read(leased.content()).await).unwrap();
    assert!(text.contains("bob@adatum.test") && text.contains("4.4.7"), "{text}");
    queue.settle(leased, vec![(0, delivered(&world))], Feedback::Reached);
    queue.close().await;
}

#[tokio::test]
async fn a_clock_that_jumps_while_the_queue_runs_loses_no_mail() {
    for (name, jump) in [("back", None), ("forward", Some(365 * DAY))] {
        let world = World::new();
        let queue = world.open().await;
        let id = accept(&world, &queue, ALICE, &["bob@adatum.test"]).await;
        let leased = lease(&queue).await;
        queue.settle(leased, vec![(0, deferred(&world))], Feedback::Reached);
        until(async || queue.summary().deferred == 1).await;
        let now = world.clock.now();
        world.clock.set(jump.map_or(now - DAY, |jump| now + jump));
        let later = accept(&world, &queue, ALICE, &["carol@adatum.test"]).await;
        assert!(later > id, "{name}");
        world.pass(Duration::from_secs(600));
        assert!(queue.show(id).is_some(), "{name}: not given up for a jump");
        if jump.is_none() {
            world.pass(world.surroundings.schedule.retry.cap);
        }
        // A notice of delay may be among them.
        let mut delivered_ids = Vec::new();
        while ![id, later].iter().all(|id| delivered_ids.contains(id)) {
            let leased = lease(&queue).await;
            assert!(!delivered_ids.contains(&leased.id), "{name}: twice");
            delivered_ids.push(leased.id);
            queue.settle(leased, vec![(0, delivered(&world))], Feedback::Reached);
        }
        until(async || queue.show(id).is_none() && queue.show(later).is_none()).await;
        queue.close().await;
    }
}
