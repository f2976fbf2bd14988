//! kill -9 at random moments, again and again on one spool: what was acknowledged is never lost.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::harness::{Client, Daemon, Mail, NextHop, Random, Script, Setup, eventually, say};

const WRITERS: usize = 4;
/// Deliveries at once: the most that one kill may repeat.
const DELIVERIES: usize = 8;
const LOCAL: &str = "alice@proseware.test";
const REMOTE: &str = "carol@adatum.test";
const CLIENTS: Ipv4Addr = Ipv4Addr::new(127, 66, 0, 1);

/// A message that a client has sent.
struct Sent {
    id: String,
    recipients: Vec<&'static str>,
    /// Whether the client read the 250. Otherwise the daemon was killed before, and both outcomes are right.
    acknowledged: bool,
}

#[test]
fn nothing_acknowledged_is_lost_by_kills() {
    let rounds = setting("POSTERN_CRASH_ROUNDS").unwrap_or(100);
    let seed = setting("POSTERN_SEED").unwrap_or_else(clock_seed);
    say(&format!("crash: {rounds} rounds, seed {seed} (POSTERN_CRASH_ROUNDS, POSTERN_SEED)"));
    let mut random = Random::new(seed);
    let mut hop = NextHop::start(Script::default());
    let mut daemon = setup(&hop).prepare();
    let mut sent = Vec::new();
    let mut table = String::from("round   start ms   alive ms   acknowledged   in doubt   next hop\n");
    for round in 0..rounds {
        // Now and then the next hop is away, so that messages pile up and are killed while they wait.
        let away = random.below(4) == 0;
        if away {
            hop.go_down()
        }
        let begin = Instant::now();
        daemon.start();
        let start = begin.elapsed();
        let alive = Duration::from_millis(30 + random.below(300));
        let new = run_until_killed(&mut daemon, round, alive, &mut random);
        let acknowledged = new.iter().filter(|sent| sent.acknowledged).count();
        let _ = writeln!(
            table,
            "{round:>5} {:>10} {:>10} {acknowledged:>14} {:>10}   {}",
            start.as_millis(),
            alive.as_millis(),
            new.len() - acknowledged,
            if away { "away" } else { "there" }
        );
        sent.extend(new);
        if away {
            hop.come_up()
        }
    }
    daemon.start();
    let waiting = wait_for_deliveries(&daemon);
    say(&table);
    judge(&sent, &arrivals(&daemon, &hop), &waiting, rounds);
}

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} should be a number, not {text:?}")))
}

fn clock_seed() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64
}

fn setup(hop: &NextHop) -> Setup {
    let sending = format!("[outbound]\nmax_deliveries = {DELIVERIES}");
    // Small segments and a small inline limit, so that rolling them and files of their own are killed as well.
    let spool = "[queue]\nsegment_size = \"1MiB\"\ninline_limit = \"32KiB\"\nindex_interval = \"100ms\"\nlifetime = \"1h\"";
    Setup::new().trust("127.66.0.0/16").next_hop("adatum.test", hop).with(&sending).with(spool)
}

/// Lets the clients send until the daemon is killed under them.
fn run_until_killed(daemon: &mut Daemon, round: u64, alive: Duration, random: &mut Random) -> Vec<Sent> {
    let address = daemon.mx();
    let seeds: Vec<u64> = (0..WRITERS).map(|_| random.below(u64::MAX)).collect();
    let killed = AtomicBool::new(false);
    thread::scope(|scope| {
        let writers: Vec<_> = seeds
            .into_iter()
            .enumerate()
            .map(|(writer, seed)| {
                let killed = &killed;
                scope.spawn(move || write(address, &format!("{round}-{writer}"), Random::new(seed), killed))
            })
            .collect();
        // Not waiting for a fact: the moment of the kill is the random part of the test.
        thread::sleep(alive);
        daemon.kill();
        killed.store(true, Ordering::Relaxed);
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
    })
}

/// One client: message after message until the connection breaks.
fn write(address: SocketAddr, name: &str, mut random: Random, killed: &AtomicBool) -> Vec<Sent> {
    let mut sent = Vec::new();
    let mut number = 0;
    let mut send_all = || -> io::Result<()> {
        let mut client = Client::open_from(CLIENTS, address);
        require(client.try_reply()?.code == 220)?;
        command(&mut client, "EHLO client.test")?;
        loop {
            let id = format!("{name}-{number}");
            number += 1;
            let recipients = match random.below(3) {
                0 => vec![LOCAL],
                1 => vec![REMOTE],
                _ => vec![LOCAL, REMOTE],
            };
            command(&mut client, "MAIL FROM:<robot@proseware.test>")?;
            for recipient in &recipients {
                command(&mut client, &format!("RCPT TO:<{recipient}>"))?;
            }
            client.try_send(b"DATA\r\n")?;
            require(client.try_reply()?.code == 354)?;
            let length = if random.below(20) == 0 { 300_000 } else { 500 + random.below(40_000) };
            sent.push(Sent { recipients, acknowledged: false, id: id.clone() });
            client.try_send(format!("{}.\r\n", content(&id, length as usize)).as_bytes())?;
            require(client.try_reply()?.code == 250)?;
            sent.last_mut().unwrap().acknowledged = true;
        }
    };
    let error = send_all().unwrap_err();
    // Until the kill nothing may go wrong. The kill is noted just after it happened, so this waits for the note.
    eventually(&format!("a kill as the reason of {error}"), || killed.load(Ordering::Relaxed).then_some(()));
    sent
}

fn command(client: &mut Client, line: &str) -> io::Result<()> {
    client.try_send(format!("{line}\r\n").as_bytes())?;
    let reply = client.try_reply()?;
    assert_eq!(reply.code, 250, "{line}: {}", reply.text());
    Ok(())
}

fn require(holds: bool) -> io::Result<()> {
    if holds { Ok(()) } else { Err(io::Error::other("another reply than expected")) }
}

/// The message of an id: what arrives is compared with it.
fn content(id: &str, length: usize) -> String {
    let line = format!("{id} 0123456789 abcdefghijklmnopqrstuvwxyz\r\n");
    let body = line.repeat(length / line.len() + 1);
    format!(
        "From: <robot@proseware.test>\r\nMessage-ID: <{id}@crash.test>\r\nX-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Waits until the queue is empty or does not change any more; answers the Message-IDs that are still in it.
fn wait_for_deliveries(daemon: &Daemon) -> Vec<String> {
    let deadline = Instant::now() + Duration::from_secs(120);
    eventually_until(deadline, || daemon.ask(&["status"])["queue"]["messages"] == 0);
    let list = daemon.ask(&["queue", "list", "--limit", "100000"]);
    let messages = list["messages"].as_array().unwrap();
    messages.iter().filter_map(|message| message["message_id"].as_str().map(str::to_owned)).collect()
}

/// Looks until it holds or the time is over: then the judgement says what is missing.
fn eventually_until(deadline: Instant, mut holds: impl FnMut() -> bool) {
    while !holds() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(50));
    }
}

/// How often each message arrived where.
type Arrivals = HashMap<(String, &'static str), usize>;

fn arrivals(daemon: &Daemon, hop: &NextHop) -> Arrivals {
    let local = daemon.maildir(LOCAL).messages().into_iter().map(|mail| (mail, LOCAL));
    let remote = hop.received().into_iter().map(|received| (received.mail, REMOTE));
    let mut arrivals = Arrivals::new();
    for (mail, recipient) in local.chain(remote) {
        *arrivals.entry((whole(&mail), recipient)).or_default() += 1;
    }
    arrivals
}

/// The id of a message whose content is what was sent.
fn whole(mail: &Mail) -> String {
    let id = mail.field("Message-ID").trim_matches(['<', '>']).replace("@crash.test", "");
    let length: usize = mail.field("X-Length").parse().unwrap();
    let line = format!("{id} 0123456789 abcdefghijklmnopqrstuvwxyz\r\n");
    let expected = line.repeat(length / line.len());
    assert!(mail.body() == expected.as_bytes(), "wrong content in {id}");
    id
}

fn judge(sent: &[Sent], arrivals: &Arrivals, waiting: &[String], rounds: u64) {
    let mut lost = Vec::new();
    let mut in_doubt_arrived = 0;
    for message in sent {
        for recipient in &message.recipients {
            let arrived = arrivals.contains_key(&(message.id.clone(), *recipient));
            let waits = waiting.contains(&format!("{}@crash.test", message.id));
            if message.acknowledged && !arrived && !waits {
                lost.push(format!("{} for {recipient}", message.id));
            }
            in_doubt_arrived += usize::from(!message.acknowledged && arrived);
        }
    }
    let acknowledged = sent.iter().filter(|message| message.acknowledged).count();
    let duplicates: usize = arrivals.values().map(|count| count - 1).sum();
    say(&format!(
        "acknowledged {acknowledged}, lost {}, still waiting {}, duplicates {duplicates} in {rounds} kills with at most \
         {DELIVERIES} deliveries in flight, in doubt and delivered all the same {in_doubt_arrived}",
        lost.len(),
        waiting.len(),
    ));
    assert!(acknowledged > 0, "no message was ever acknowledged");
    assert!(lost.is_empty(), "lost: {lost:?}");
    assert!(duplicates <= rounds as usize * DELIVERIES, "{duplicates} duplicates");
}
