//! Hosts that speak for others: XCLIENT and XFORWARD (Postfix's XCLIENT_README and XFORWARD_README). To hosts that the
//! configuration does not list there are no such commands. And servers that ask for their mail: ETRN (RFC 1985).

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use postern_policy::accounts::Login;
use postern_queue::Turned;
use postern_smtp::Reply;
use postern_smtp::attributes::{Protocol, Told, XClient, XForward};
use postern_smtp::command::{CommandError, ListedVerb, Node};

use super::{Action, Context, Hello, Outcome, Peer, Session, State};
use crate::commands::etrn;
use crate::replies;

/// A client whose address is not known. No network that means somebody holds it, so it has the rights of a stranger, and all such
/// clients share one allowance.
const NOWHERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

impl Context {
    /// Whether the command does not exist for whoever sends it.
    pub fn is_unknown(&self, verb: Option<ListedVerb>) -> bool {
        let smtp = &self.config.smtp;
        match verb {
            None => false,
            Some(ListedVerb::XClient) => !smtp.takes_xclient(self.host),
            Some(ListedVerb::Lhlo) => !self.speaks_lmtp(),
            Some(ListedVerb::XForward) => !smtp.takes_xforward(self.host),
            Some(ListedVerb::Etrn) => {
                !smtp.takes_etrn(self.peer.client, self.login.as_ref().map(|login| login.name.as_str()))
            }
        }
    }

    /// What XCLIENT may say.
    pub fn xclient_attributes(&self) -> Vec<&'static str> {
        let takes_login = self.takes_xclient_login();
        XClient::NAMES.into_iter().filter(|name| takes_login || *name != "LOGIN").collect()
    }

    /// A login gives the right to relay, so it is believed of those only that are listed for it, and only where people log in.
    fn takes_xclient_login(&self) -> bool {
        self.peer.listener.is_submission() && self.config.smtp.takes_xclient_login(self.host)
    }
}

impl Session {
    /// A command that is no command for this client. ETRN is a word that everybody knows.
    pub(super) fn unknown_command(&mut self, verb: Option<ListedVerb>) -> Action {
        self.no_command(match verb {
            Some(ListedVerb::Etrn) => replies::not_implemented(),
            _ => replies::bad_command(&CommandError::Unknown),
        })
    }

    /// Has what waits for a domain delivered, if it is one that we relay for.
    pub(super) fn etrn(&mut self, node: Node) -> Action {
        self.context.refresh();
        match etrn::begin(&self.context, node) {
            Ok(run) => Action::RunQueue(Box::new(run)),
            Err(reply) => self.error(reply),
        }
    }

    /// What came of a run of the queue.
    pub fn ran(&mut self, node: &Node, outcome: Outcome) -> Action {
        let (reply, started) = match outcome {
            Outcome::Done(Turned { started: 0, under_way: 0 }) => (replies::nothing_waits(node), 0),
            Outcome::Done(Turned { started: 0, .. }) => (replies::node_under_way(node), 0),
            Outcome::Done(Turned { started, .. }) => (replies::node_started(node, started), started),
            Outcome::GoesOn => (replies::node_goes_on(node), 0),
            Outcome::TooSoon => (replies::node_too_soon(node, self.context.config.smtp.etrn_interval), 0),
            Outcome::Failed => (replies::node_not_now(node), 0),
        };
        let Context { peer, login, .. } = &self.context;
        tracing::info!(
            event = "etrn",
            client = %peer,
            listener = peer.listener.as_str(),
            login = login.as_ref().map(|login| login.name.as_str()),
            node = %node,
            started,
            "{reply}"
        );
        // Whoever asks too often is not shut out for it: it is the mail's server.
        Action::Reply(reply)
    }

    /// The session begins anew with the client that is named. What is not said stays; the name of the client decides nothing:
    /// rules about names look them up.
    pub(super) fn xclient(&mut self, hello: &Hello, said: XClient) -> Action {
        self.context.refresh();
        let login = match self.login_told(&said) {
            Ok(login) => login,
            Err(reply) => return self.error(reply),
        };
        let peer = Peer {
            client: told_address(said.address.as_ref(), self.context.peer.client),
            local: told_address(said.destination.as_ref(), self.context.peer.local),
            is_local: self.context.peer.is_local && said.address.is_none(),
            ..self.context.peer
        };
        self.log_xclient(&said, peer, login.as_ref());
        // Certificate and channel bindings are those of the host, not of its client.
        let mut session = Self::new(Arc::clone(&self.context.shared), peer, self.context.tls);
        session.context.host = self.context.host;
        session.context.login = login;
        if let Some(name) = said.helo.as_ref().and_then(Told::value) {
            let said = said.protocol.as_ref().and_then(Told::value);
            let extended = said.map_or(hello.extended, |protocol| *protocol == Protocol::Esmtp);
            session.state = State::Greeted(Arc::new(Hello { name: name.clone(), extended }));
        }
        // No client gets more commands by being handed over again and again.
        session.commands = self.commands;
        let greeting = session.greeting();
        Action::HandOver(Box::new(session), greeting)
    }

    /// The login that the client has, if the host is believed. It is asked for its rights with each MAIL.
    fn login_told(&self, said: &XClient) -> Result<Option<Login>, Reply> {
        let Some(name) = said.login.as_ref().and_then(Told::value) else { return Ok(None) };
        if !self.context.takes_xclient_login() {
            return Err(replies::login_not_believed());
        }
        self.context.policy.accounts.login(name).map(Some).ok_or_else(replies::no_such_login)
    }

    fn log_xclient(&self, said: &XClient, peer: Peer, login: Option<&Login>) {
        tracing::info!(
            event = "xclient",
            client = %peer,
            host = %self.context.host,
            listener = peer.listener.as_str(),
            name = said.name.as_ref().and_then(Told::value),
            port = said.port.as_ref().and_then(Told::value),
            helo = said.helo.as_ref().and_then(Told::value),
            login = login.map(|login| login.name.as_str()),
            "a listed host speaks for a client"
        );
    }

    /// Notes where the next message came from.
    pub(super) fn xforward(&mut self, said: XForward) -> Action {
        self.forwarded.get_or_insert_default().add(said);
        Action::Reply(replies::ok())
    }
}

fn told_address(told: Option<&Told<IpAddr>>, known: IpAddr) -> IpAddr {
    match told {
        None => known,
        Some(Told::Value(address)) => *address,
        Some(Told::Unavailable) => NOWHERE,
    }
}
