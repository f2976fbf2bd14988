//! docs/smtp.md says which extensions are offered where; EHLO says it too.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use postern_config::ListenerKind;
use postern_queue::Turned;
use postern_smtp::Domain;
use postern_smtp::command::Node;
use postern_smtp_inbound::Shared;
use postern_smtp_inbound::session::{Action, Ahead, Outcome, Peer, Session};
use postern_smtp_inbound::tls::Protection;
use support::Server;

/// What the documentation says is offered if the configuration wants it.
const CONFIG: &str = r#"
    hostname = "mail.proseware.test"
    [smtp]
    xclient_from = ["203.0.113.5/32"]
    xforward_from = ["203.0.113.5/32"]
    etrn_from = ["203.0.113.5/32"]
    require_tls = "on"
    [[domain]]
    name = "proseware.test"
    mailboxes = ["alice"]
"#;

/// Another mail system, which is listed for what is only for such.
const LISTED: &str = "203.0.113.5";
const STRANGER: &str = "198.51.100.9";

const TLS: Protection = Protection { version: "TLSv1.3", cipher: "TLS_AES_256_GCM_SHA384" };

/// Every place where EHLO can be said, and whether under TLS.
const PLACES: [(ListenerKind, Option<Protection>); 7] = [
    (ListenerKind::Lmtp, None),
    (ListenerKind::Lmtp, Some(TLS)),
    (ListenerKind::Mx, None),
    (ListenerKind::Mx, Some(TLS)),
    (ListenerKind::Submission, None),
    (ListenerKind::Submission, Some(TLS)),
    (ListenerKind::Submissions, Some(TLS)),
];

#[tokio::test]
async fn the_documentation_lists_the_extensions_of_every_listener() {
    let Server { shared, registry: _registry, directory: _directory } = Server::new(CONFIG);
    let shared = Arc::new(shared);
    let documented = documented();
    for ((listener, tls), client) in PLACES.into_iter().flat_map(|place| [(place, STRANGER), (place, LISTED)])
    {
        let expected: BTreeSet<String> = documented
            .iter()
            .filter(|(_, place)| is_offered(place, listener, tls.is_some(), client == LISTED))
            .map(|(keyword, _)| keyword.clone())
            .collect();
        let offered = offered(&shared, listener, tls, client);
        assert_eq!(offered, expected, "{} {tls:?} {client}", listener.as_str());
    }
}

/// The keywords in the answer to EHLO.
fn offered(
    shared: &Arc<Shared>,
    listener: ListenerKind,
    tls: Option<Protection>,
    client: &str,
) -> BTreeSet<String> {
    let peer = Peer {
        listener,
        client: client.parse().unwrap(),
        local: "192.0.2.25".parse().unwrap(),
        is_local: false,
    };
    let hello: &[u8] = if listener == ListenerKind::Lmtp { b"LHLO client.test" } else { b"EHLO client.test" };
    let mut session = Session::new(Arc::clone(shared), peer, tls);
    let Action::Reply(reply) = session.line(hello, Ahead::Nothing) else { panic!("no reply to EHLO") };
    let mut wire = Vec::new();
    reply.write_to(&mut wire);
    let text = String::from_utf8(wire).unwrap();
    text.lines().skip(1).map(|line| line[4..].split(' ').next().unwrap().to_owned()).collect()
}

/// Keyword and place of each row of the table.
fn documented() -> Vec<(String, String)> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/smtp.md");
    let text = std::fs::read_to_string(page).unwrap();
    let section = text.split("## Extensions that the server offers").nth(1).unwrap();
    let section = section.split("\n##").next().unwrap();
    let rows = section.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split('|');
        let keyword = cells.next()?.split([' ', '`']).next()?;
        Some((keyword.to_owned(), cells.next()?.trim().to_owned()))
    });
    let rows: Vec<_> = rows.collect();
    assert!(rows.len() >= 7, "only {rows:?} found");
    rows
}

/// What the words of the documentation mean.
fn is_offered(place: &str, listener: ListenerKind, tls: bool, listed: bool) -> bool {
    match place.split(';').next().unwrap() {
        "everywhere" => true,
        "in clear, when there is a certificate" => !tls,
        "under TLS" => tls,
        // This client is in no trusted network.
        "submission listeners" | "submission listeners, and to trusted networks" => listener.is_submission(),
        "submission listeners, under TLS" => listener.is_submission() && tls,
        "to listed clients" => listed,
        other => panic!("{other:?} in docs/smtp.md: say here what it means"),
    }
}

#[tokio::test]
async fn what_became_of_a_run_of_the_queue_is_told() {
    let Server { shared, registry: _registry, directory: _directory } = Server::new(CONFIG);
    let peer = Peer {
        listener: ListenerKind::Mx,
        client: "203.0.113.5".parse().unwrap(),
        local: "192.0.2.25".parse().unwrap(),
        is_local: false,
    };
    let mut session = Session::new(Arc::new(shared), peer, None);
    let node = Node::Domain(Domain::parse("customer.test").unwrap());
    let under_way = Turned { started: 0, under_way: 2 };
    for (outcome, said) in [
        (Outcome::Done(under_way), "252 2.0.0 Ok: messages for customer.test are on their way"),
        (Outcome::GoesOn, "250 2.0.0 Ok: queuing for customer.test started"),
        (Outcome::TooSoon, "458 4.7.0 the queue for customer.test is run once in 60 s: try again later"),
        (Outcome::Failed, "458 4.3.2 cannot run the queue for customer.test now, try again later"),
    ] {
        let Action::Reply(reply) = session.ran(&node, outcome) else { panic!("no reply to {outcome:?}") };
        assert_eq!(reply.to_string(), said);
    }
}
