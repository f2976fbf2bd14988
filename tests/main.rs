//! Black-box tests: the two programs on loopback, spoken to in SMTP, with DNS and next hops of the tests' own.
//!
//! | module | what is shown |
//! |---|---|
//! | [`abuse`] | floods, early talkers and slow clients, and who gets through |
//! | [`inbound`] | wrong, hostile and slow clients |
//! | [`chunking`] | messages in chunks, up to the next hop |
//! | [`binary_parts`] | messages with binary parts, up to the next hop |
//! | [`relay`] | who may send what to whom: the six cases, tables of answers, explanations |
//! | [`queue`] | retries, reports, the operator's verbs, a full disk |
//! | [`queue_verbs`] | messages that are changed while they are being delivered, edited, sent another way |
//! | [`notifications`] | what senders ask to be told, and are |
//! | [`parameters`] | what senders demand of every server on the way |
//! | [`history`] | what became of messages, and what happens to them |
//! | [`rules`] | standing rules: what becomes of mail that arrives and matches |
//! | [`relay_grants`] | who may relay without a login: grants for a while, host names, certificates, relay domains |
//! | [`store`] | the spool itself: checks, room, backups, what was set aside |
//! | [`tls_server`] | TLS of the server: names, renewal, tickets, ends of certificates, STARTTLS |
//! | [`outbound`] | MX, TLS, smarthosts, LMTP, signatures, failing next hops |
//! | [`blocklists`] | lists of clients in DNS |
//! | [`domains`] | senders where DNS has a say: SPF, locks, verified domains |
//! | [`logins`] | states, limits and passwords of logins; who guesses at them |
//! | [`login_sources`] | logins that Dovecot knows |
//! | `login_databases` | logins that a directory or a database knows, with the features of these back ends |
//! | [`login_tokens`] | tokens of an identity provider, right and wrong ones |
//! | [`sasl`] | SCRAM, client certificates, password hashes of other systems |
//! | [`admin`] | metrics, reload, explanations, accounts, the configuration check |
//! | [`explain`] | codes and bounces of other systems, explained |
//! | [`refusals`] | how refusals are worded, what is kept of them, the page for the sender |
//! | [`advice`] | what a refused client and its administrator are told to do |
//! | [`crash`] | kill -9 again and again: nothing acknowledged is lost |
//! | [`start`] | what works while the queue is still being loaded |
//! | [`loss`] | read-only disks, two daemons, segments of the spool that somebody removed |
//! | [`peers`] | other people's clients and servers, where they are installed |
//! | [`lmtp_sockets`] | mail that is handed over on UNIX sockets, by Postfix too, and whose these sockets are |
//! | [`mail_systems`] | hosts that speak for their clients, ETRN, LMTP |
//! | [`troubles`] | what an operator reads while something is wrong |
//! | [`checklist`] | the steps of `posternctl doctor`, and the bundle for support |
//! | [`doctor`] | its check for open relays, against us, Postfix, Exim and servers that are wrong |
//! | [`docs`] | every example in the documentation loads |
//! | [`manual`] | the manual pages say what --help says |
//! | [`tidy`] | the crates depend on lower lines only |
//!
//! Environment: `POSTERN_CRASH_ROUNDS` and `POSTERN_SEED` for [`crash`], `POSTERN_REQUIRE_PEERS=1` makes a missing peer
//! a failure, `POSTERN_PEERS_DIR` is where `node_modules/nodemailer` and `exim` are.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod abuse;
mod admin;
mod advice;
mod binary_parts;
mod blocklists;
mod checklist;
mod chunking;
mod crash;
mod differences;
mod docs;
mod doctor;
mod domains;
mod explain;
mod harness;
mod history;
mod inbound;
mod lmtp_sockets;
#[cfg(any(feature = "ldap", feature = "sqlite", feature = "postgres"))]
mod login_databases;
mod login_sources;
mod login_tokens;
mod logins;
mod loss;
mod mail_systems;
mod manual;
mod notifications;
mod outbound;
mod parameters;
mod peers;
mod queue;
mod queue_verbs;
mod refusals;
mod relay;
mod relay_grants;
mod rules;
mod sasl;
mod start;
mod store;
mod tidy;
mod tls_server;
mod troubles;
