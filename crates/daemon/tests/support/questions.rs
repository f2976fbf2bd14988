//! Questions out of pools: most of them near the border between yes and no.

use std::net::IpAddr;

use postern_admin::api::ExplainRequest;

use super::server::NOW;

const LISTENERS: [&str; 3] = ["mx", "submission", "submissions"];

/// Of every network of the configuration, its first and last address and those beside it.
const CLIENTS: [&str; 26] = [
    "192.0.2.0",
    "192.0.2.77",
    "192.0.2.255",
    "192.0.1.255",
    "192.0.3.0",
    "::ffff:192.0.2.9",
    "2001:db8:1::7",
    "2001:db8:1:ffff:ffff:ffff:ffff:ffff",
    "2001:db8:2::9",
    "2001:db8:2:1::9",
    "2001:db8:3::9",
    "2001:db8:4::9",
    "198.51.100.39",
    "198.51.100.40",
    "::ffff:198.51.100.40",
    "198.51.100.47",
    "198.51.100.48",
    "198.51.100.60",
    "198.51.100.77",
    "::ffff:198.51.100.77",
    "203.0.113.7",
    "::ffff:203.0.113.7",
    "203.0.113.8",
    "203.0.113.9",
    "127.0.0.1",
    "::1",
];

const USERS: [&str; 8] = [
    "alice@proseware.test",
    "ALICE@Proseware.Test",
    "bob@proseware.test",
    "office",
    "newsletters",
    "agency",
    "former@proseware.test",
    "stolen@proseware.test",
];

/// Fingerprints and names of certificates.
const CERTIFICATES: [(&str, &[&str]); 4] = [
    ("00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff", &[]),
    ("ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100", &[]),
    ("ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100", &["branch.proseware.test"]),
    ("ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100", &["x.test", "alice.proseware.test"]),
];

const SENDERS: [&str; 30] = [
    "",
    "<>",
    "alice@proseware.test",
    "ALICE@PROSEWARE.TEST",
    "alice+news@proseware.test",
    "\"alice\"@proseware.test",
    "@relay.test:alice@proseware.test",
    "bob@proseware.test",
    "bob+private@proseware.test",
    "bob+news@proseware.test",
    "shared@proseware.test",
    "info@proseware.test",
    "bounces@proseware.test",
    "scanner@proseware.test",
    "nobody@proseware.test",
    "root@mail.proseware.test",
    "whoever@branch.test",
    "office@quiet.test",
    "list@adatum.test",
    "list+x@adatum.test",
    "carol@adatum.test",
    "x@covers.test",
    "x@thephone-company.test",
    "x@customer.test",
    "x@never-asked.test",
    "x@blocked.test",
    "x@[192.0.2.1]",
    "j\u{f6}rg@m\u{fc}nchen.test",
    "no-domain",
    "two@@proseware.test",
];

const RECIPIENTS: [&str; 50] = [
    "postmaster",
    "PostMaster",
    "postmaster@proseware.test",
    "postmaster@mail.proseware.test",
    "postmaster@[192.0.2.25]",
    "postmaster@[IPv6:2001:db8::25]",
    "postmaster@[192.0.2.26]",
    "alice@[192.0.2.25]",
    "root@mail.proseware.test",
    "alice@mail.proseware.test",
    "alice@proseware.test",
    "Alice@PROSEWARE.TEST",
    "alice+list@proseware.test",
    "alice++@proseware.test",
    "+alice@proseware.test",
    "\"alice\"@proseware.test",
    "carol@proseware.test",
    "all@proseware.test",
    "info@proseware.test",
    "info+sub@proseware.test",
    "loop@proseware.test",
    "away@proseware.test",
    "nobody@proseware.test",
    "alice%adatum.test@proseware.test",
    "\"bob@adatum.test\"@proseware.test",
    "adatum.test!bob@proseware.test",
    "@proseware.test:bob@adatum.test",
    "@proseware.test,@branch.test:alice@proseware.test",
    "office@branch.test",
    "office+x@branch.test",
    "anybody@branch.test",
    "nobody@quiet.test",
    "anybody@customer.test",
    "bob%adatum.test@customer.test",
    "carol@asked.test",
    "dave@asked.test",
    "erin@asked.test",
    "nobody-asked@asked.test",
    "carol@listed.test",
    "Carol@Listed.Test",
    "\"two words\"@listed.test",
    "dave@listed.test",
    "postmaster@listed.test",
    "bob@adatum.test",
    "BOB@ADATUM.TEST.",
    "dave@adatum.test",
    "x@reject.test",
    "x@exception.reject.test",
    "j\u{f6}rg@m\u{fc}nchen.test",
    "@",
];

/// Lines of a header that name senders, well and badly.
const FIELDS: [&str; 26] = [
    "From: alice@proseware.test",
    "FROM: Alice <ALICE@proseware.test>",
    "From: \"bob@adatum.test\" <alice@proseware.test>",
    "From : alice@proseware.test",
    "From: bob@proseware.test",
    "From: shared@proseware.test, alice@proseware.test",
    "From: alice@proseware.test, bob@adatum.test",
    "From: friends: alice@proseware.test, whoever@branch.test;",
    "From: undisclosed-recipients:;",
    "From: =?utf-8?q?Alice?= <alice@proseware.test>",
    "From: =?utf-8?q?alice=40proseware=2Etest?=",
    "From: <>",
    "From:",
    "From: alice@proseware.test (comment",
    "From: x@covers.test",
    "From: x@thephone-company.test",
    "From: office@quiet.test",
    "Sender: alice@proseware.test",
    "Sender: carol@adatum.test",
    "Resent-From: alice@proseware.test",
    "Resent-From: carol@adatum.test",
    "Reply-To: alice@proseware.test",
    "Reply-To: carol@adatum.test",
    "Reply-To:",
    "Subject: From: carol@adatum.test",
    "From x Sat Nov 21 18:05:25 2026",
];

/// An endless list of them (SplitMix64 behind a seed).
pub struct Questions(u64);

impl Questions {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> ExplainRequest {
        let client: IpAddr = self.one_of(&CLIENTS).parse().unwrap();
        let listener = self.one_of(&LISTENERS);
        // Logins mostly where they are taken: elsewhere the first command ends it.
        let user = (self.below(5) < if listener == "mx" { 1 } else { 4 }).then(|| self.one_of(&USERS));
        let tls = self.below(10) < if user.is_some() { 9 } else { 3 };
        let from = match user {
            // What a login may use is more interesting than what it may not.
            Some(user) if self.below(3) == 0 && user.contains('@') => user,
            _ => self.one_of(&SENDERS),
        };
        let to = self.one_of(&RECIPIENTS);
        let local = if client.to_canonical().is_ipv4() { "192.0.2.25" } else { "2001:db8::25" };
        let message = (self.below(3) > 0).then(|| self.message());
        let is_secure = tls || listener == "submissions";
        let certificate = (is_secure && self.below(4) == 0).then(|| self.one_of(&CERTIFICATES));
        let smtputf8 = self.below(4) > 0;
        ExplainRequest {
            smtputf8,
            listener: Some(listener.to_owned()),
            helo: Some("client.test".to_owned()),
            tls,
            user: user.map(str::to_owned),
            message,
            local: Some(local.parse().unwrap()),
            at: Some(NOW),
            certificate: certificate.map(|(sha256, _)| sha256.to_owned()),
            certificate_names: certificate
                .iter()
                .flat_map(|(_, names)| names.iter().map(|&name| name.to_owned()))
                .collect(),
            ..ExplainRequest::new(client, from, to)
        }
    }

    /// A header of some fields, mostly with one good From, and no body.
    fn message(&mut self) -> String {
        let mut fields = Vec::new();
        if self.below(4) > 0 {
            fields.push(FIELDS[0]);
        }
        for _ in 0..self.below(3) {
            fields.push(self.one_of(&FIELDS));
        }
        format!("{}\r\n\r\n", fields.join("\r\n"))
    }

    fn one_of<T: Copy>(&mut self, pool: &[T]) -> T {
        pool[self.below(pool.len() as u64) as usize]
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}
