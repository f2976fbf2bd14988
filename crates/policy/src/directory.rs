//! Local domains, mailboxes and aliases: who is behind an address?

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use postern_config::Config;
use postern_smtp::{Address, Domain, ForwardPath, Host, LocalPart};

const POSTMASTER: &str = "postmaster";
/// What cron and other programs of the system write to.
const ROOT: &str = "root";

/// Local domains, mailboxes and aliases, compiled for look-up.
#[derive(Debug)]
pub struct Directory {
    hostname: Domain,
    domains: HashMap<Domain, LocalDomain>,
    /// Whose postmaster and root stand in for those of the host name, where that is no `[[domain]]` itself.
    first: Option<Domain>,
    /// Above the default Maildirs.
    default_maildirs: PathBuf,
}

#[derive(Debug)]
struct LocalDomain {
    /// By the folded local part.
    names: HashMap<String, Name>,
    catch_all: Option<Address>,
    /// Empty: no subaddresses.
    delimiter: String,
    maildir: Option<PathBuf>,
    /// A `[[domain]]`, not merely the host name.
    configured: bool,
}

/// What a local part stands for: an alias, a mailbox or both. The alias wins; it may name its own mailbox again.
#[derive(Debug, Default)]
struct Name {
    mailbox: Option<Address>,
    alias: Option<Vec<Address>>,
}

/// What is behind a recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// The domain is not ours.
    NotLocal,
    /// The final recipients: mailboxes of ours and, by aliases, addresses elsewhere. Without duplicates, never empty.
    Recipients(Vec<Address>),
    /// Our domain, no such mailbox.
    Unknown,
    /// An alias chain that leads back to itself.
    AliasLoop,
}

impl Directory {
    /// Compiles the tables.
    pub fn new(config: &Config) -> Self {
        let mut domains: HashMap<Domain, LocalDomain> =
            config.domains.iter().map(|domain| (domain.name.clone(), LocalDomain::new(domain))).collect();
        let host = domains.entry(config.hostname.clone()).or_insert_with(LocalDomain::of_host);
        host.add_mailbox(ROOT, &config.hostname);
        for (name, domain) in &mut domains {
            domain.add_mailbox(POSTMASTER, name);
        }
        Self {
            hostname: config.hostname.clone(),
            domains,
            first: config.domains.first().map(|domain| domain.name.clone()),
            default_maildirs: config.queue.path.join("mail"),
        }
    }

    /// Whether mail to the domain ends here: it is a `[[domain]]` or the host name.
    pub fn is_local(&self, domain: &Domain) -> bool {
        self.domains.contains_key(domain)
    }

    /// Whether the domain is a `[[domain]]`: one that its users may send from.
    pub fn is_configured(&self, domain: &Domain) -> bool {
        self.domains.get(domain).is_some_and(|local| local.configured)
    }

    /// The address without its detail: `alice@x` for `alice+news@x`. `None` where the domain is not ours or has no
    /// subaddresses, and where the address is a mailbox or alias of its own.
    pub fn without_detail(&self, address: &Address) -> Option<Address> {
        let domain = address.domain()?;
        let local = self.domains.get(domain)?;
        let folded = fold(&address.local);
        if local.names.contains_key(&folded) {
            return None;
        }
        let base = parse_content(local.base_of(&folded)?)?;
        Some(Address::new(base, domain.clone()))
    }

    /// Follows aliases to the end. `local` is the address of ours that the client connected to: a literal of it is ours.
    /// `<Postmaster>` and `postmaster@` a local domain or our host name always lead somewhere.
    pub fn resolve(&self, path: &ForwardPath, local: Option<IpAddr>) -> Resolution {
        let own_literal = |ip: &IpAddr| local.is_some_and(|local| local.to_canonical() == ip.to_canonical());
        let (domain, folded) = match path {
            ForwardPath::Postmaster => (&self.hostname, POSTMASTER.to_owned()),
            ForwardPath::Address(address) => match &address.host {
                Host::Domain(domain) => (domain, fold(&address.local)),
                Host::Literal(ip) if own_literal(ip) => (&self.hostname, fold(&address.local)),
                Host::Literal(_) => return Resolution::NotLocal,
            },
        };
        match self.lookup(domain, &folded) {
            None => Resolution::NotLocal,
            Some(found) => Expansion::new(self).run(found),
        }
    }

    /// The Maildir of a mailbox that [`Directory::resolve`] named; `None` if it is gone since.
    pub fn maildir(&self, mailbox: &Address) -> Option<PathBuf> {
        let domain = mailbox.domain()?;
        let local = self.domains.get(domain)?;
        let folded = fold(&mailbox.local);
        local.names.get(&folded)?.mailbox.as_ref()?;
        Some(match &local.maildir {
            Some(template) => expand_maildir(template, domain.as_str(), &folded),
            None => self.default_maildirs.join(domain.as_str()).join(path_component(&folded)),
        })
    }

    /// One step: what the local part is in the domain. `None`: the domain is not ours.
    fn lookup(&self, domain: &Domain, folded: &str) -> Option<Found<'_>> {
        let (key, local) = self.domains.get_key_value(domain)?;
        if !local.configured
            && let Some(stand_in) = self.host_stand_in(folded)
        {
            return Some(stand_in);
        }
        Some(local.lookup(key, folded))
    }

    /// `postmaster` and `root` of a host name that is no `[[domain]]`: those of the first `[[domain]]` that has them.
    fn host_stand_in(&self, folded: &str) -> Option<Found<'_>> {
        if folded != POSTMASTER && folded != ROOT {
            return None;
        }
        let (key, local) = self.domains.get_key_value(self.first.as_ref()?)?;
        let (folded, name) = local.names.get_key_value(folded)?;
        Some(Found::Name { domain: key, folded, name })
    }
}

impl LocalDomain {
    fn new(domain: &postern_config::domain::Domain) -> Self {
        let mut names: HashMap<String, Name> = HashMap::new();
        for mailbox in &domain.mailboxes {
            let Ok(local) = LocalPart::parse(mailbox) else {
                continue;
            };
            let address = folded_address(&local, &domain.name);
            names.entry(fold(&local)).or_default().mailbox = Some(address);
        }
        for (alias, targets) in &domain.aliases {
            let Ok(local) = LocalPart::parse(alias) else {
                continue;
            };
            let targets = targets.iter().filter_map(|target| domain.target(target).ok());
            names.entry(fold(&local)).or_default().alias.get_or_insert_default().extend(targets);
        }
        Self {
            names,
            catch_all: domain.catch_all.as_deref().and_then(|target| domain.target(target).ok()),
            delimiter: domain.subaddress_delimiter.clone(),
            maildir: domain.maildir.clone(),
            configured: true,
        }
    }

    fn of_host() -> Self {
        Self {
            names: HashMap::new(),
            catch_all: None,
            delimiter: String::new(),
            maildir: None,
            configured: false,
        }
    }

    /// Adds a mailbox that exists without being listed.
    fn add_mailbox(&mut self, local: &str, domain: &Domain) {
        if let Ok(local) = LocalPart::parse(local) {
            let name = self.names.entry(fold(&local)).or_default();
            name.mailbox = Some(folded_address(&local, domain));
        }
    }

    fn base_of<'a>(&self, folded: &'a str) -> Option<&'a str> {
        if self.delimiter.is_empty() {
            return None;
        }
        let (base, _) = folded.split_once(&self.delimiter)?;
        (!base.is_empty()).then_some(base)
    }

    /// The exact name first, then the name without its detail, then the catch-all.
    fn lookup<'a>(&'a self, domain: &'a Domain, folded: &str) -> Found<'a> {
        let exact = self.names.get_key_value(folded);
        let known = exact.or_else(|| self.names.get_key_value(self.base_of(folded)?));
        match (known, &self.catch_all) {
            (Some((folded, name)), _) => Found::Name { domain, folded, name },
            (None, Some(target)) => Found::CatchAll { domain, target },
            (None, None) => Found::Nothing,
        }
    }
}

/// What one look-up gave.
#[derive(Clone, Copy)]
enum Found<'a> {
    Name { domain: &'a Domain, folded: &'a str, name: &'a Name },
    CatchAll { domain: &'a Domain, target: &'a Address },
    Nothing,
}

/// A node of the alias graph: the domain and the name in it; `None` is the domain's catch-all.
type Node<'a> = (&'a Domain, Option<&'a str>);

/// Follows aliases with a stack of its own: chains come from files and may be long.
struct Expansion<'a> {
    directory: &'a Directory,
    stack: Vec<Step<'a>>,
    /// The nodes between the recipient and here: meeting one again is a loop.
    open: HashSet<Node<'a>>,
    /// Nodes whose targets are all in `recipients` already.
    done: HashSet<Node<'a>>,
    recipients: Vec<Address>,
    /// As addresses, not folded: elsewhere case may matter. Mailboxes of ours are in lower case already.
    seen: HashSet<&'a Address>,
}

enum Step<'a> {
    Visit { from: Node<'a>, target: &'a Address },
    Leave(Node<'a>),
}

impl<'a> Expansion<'a> {
    fn new(directory: &'a Directory) -> Self {
        Self {
            directory,
            stack: Vec::new(),
            open: HashSet::new(),
            done: HashSet::new(),
            recipients: Vec::new(),
            seen: HashSet::new(),
        }
    }

    fn run(mut self, start: Found<'a>) -> Resolution {
        if self.enter(None, start).is_err() {
            return Resolution::AliasLoop;
        }
        while let Some(step) = self.stack.pop() {
            let entered = match step {
                Step::Leave(node) => {
                    self.open.remove(&node);
                    self.done.insert(node);
                    Ok(())
                }
                Step::Visit { from, target } => self.visit(from, target),
            };
            if entered.is_err() {
                return Resolution::AliasLoop;
            }
        }
        match self.recipients.is_empty() {
            true => Resolution::Unknown,
            false => Resolution::Recipients(self.recipients),
        }
    }

    fn visit(&mut self, from: Node<'a>, target: &'a Address) -> Result<(), Loop> {
        let found = target.domain().and_then(|domain| self.directory.lookup(domain, &fold(&target.local)));
        match found {
            Some(found) => self.enter(Some(from), found),
            None => {
                self.deliver(target);
                Ok(())
            }
        }
    }

    fn enter(&mut self, from: Option<Node<'a>>, found: Found<'a>) -> Result<(), Loop> {
        match found {
            Found::Nothing => Ok(()),
            Found::CatchAll { domain, target } => {
                self.open_node((domain, None), std::slice::from_ref(target))
            }
            Found::Name { domain, folded, name } => {
                let node = (domain, Some(folded));
                match (&name.mailbox, &name.alias) {
                    (Some(mailbox), None) => self.deliver(mailbox),
                    // An alias that names itself keeps a copy in the mailbox of that name.
                    (Some(mailbox), Some(_)) if from == Some(node) => self.deliver(mailbox),
                    (_, Some(targets)) => return self.open_node(node, targets),
                    (None, None) => {}
                }
                Ok(())
            }
        }
    }

    fn open_node(&mut self, node: Node<'a>, targets: &'a [Address]) -> Result<(), Loop> {
        if self.done.contains(&node) {
            return Ok(());
        }
        if !self.open.insert(node) {
            return Err(Loop);
        }
        self.stack.push(Step::Leave(node));
        self.stack.extend(targets.iter().rev().map(|target| Step::Visit { from: node, target }));
        Ok(())
    }

    fn deliver(&mut self, address: &'a Address) {
        if self.seen.insert(address) {
            self.recipients.push(address.clone());
        }
    }
}

/// An alias chain came back to where it was.
struct Loop;

/// Local parts of ours are compared without case (RFC 5321 §2.4 leaves that to the host that owns them).
fn fold(local: &LocalPart) -> String {
    local.folded()
}

/// A mailbox is always named in lower case, however it was written.
fn folded_address(local: &LocalPart, domain: &Domain) -> Address {
    let folded = parse_content(&fold(local));
    Address::new(folded.unwrap_or_else(|| local.clone()), domain.clone())
}

/// A local part from its content, quoted where that is needed.
fn parse_content(content: &str) -> Option<LocalPart> {
    let quoted = format!("\"{}\"", content.replace('\\', "\\\\").replace('"', "\\\""));
    LocalPart::parse(content).or_else(|_| LocalPart::parse(&quoted)).ok()
}

/// The Maildir that a template of the configuration names: `{domain}` and `{local}` are replaced. Whatever a local part
/// holds, the path stays below the template's directory. Give the local part in lower case.
pub fn expand_maildir(template: &Path, domain: &str, folded: &str) -> PathBuf {
    // The domain first: a local part is encoded, so it cannot hold "{domain}", but the order should not matter.
    let text = template.to_string_lossy().replace("{domain}", domain);
    text.replace("{local}", &path_component(folded)).into()
}

/// A local part as one component of a path: whatever could leave the directory or hide in it is percent-encoded.
/// Two local parts never give the same component.
fn path_component(folded: &str) -> String {
    if folded.is_empty() {
        return "%".to_owned();
    }
    let mut component = String::with_capacity(folded.len());
    for (at, c) in folded.char_indices() {
        if c.is_alphanumeric() || "-_+=".contains(c) || (c == '.' && at > 0) {
            component.push(c);
            continue;
        }
        for byte in c.encode_utf8(&mut [0; 4]).bytes() {
            // Writing to a string cannot fail.
            let _ = write!(component, "%{byte:02X}");
        }
    }
    component
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    const CONFIG: &str = r#"
        hostname = "mail.proseware.test"
        [queue]
        path = "/spool"
        [[domain]]
        name = "proseware.test"
        mailboxes = ["Alice", "bob", "carol+private"]
        [domain.aliases]
        info = ["alice", "BOB@proseware.test"]
        sales = ["info", "alice@proseware.test", "partner@adatum.test"]
        bob = ["bob", "archive@adatum.test"]
        root = ["alice"]
        gone = ["nobody"]
        one = ["two"]
        two = ["three@branch.test"]
        me = ["me"]
        [[domain]]
        name = "branch.test"
        mailboxes = ["desk"]
        catch_all = "desk"
        subaddress_delimiter = "-"
        maildir = "/srv/{domain}/{local}/Maildir"
        [domain.aliases]
        three = ["one@proseware.test"]
    "#;

    fn directory(text: &str) -> Directory {
        Directory::new(&toml::from_str(text).unwrap())
    }

    fn resolve(text: &str) -> Resolution {
        directory(CONFIG).resolve(&ForwardPath::parse(text).unwrap(), Some("192.0.2.25".parse().unwrap()))
    }

    fn recipients(text: &str) -> Vec<String> {
        match resolve(text) {
            Resolution::Recipients(list) => list.iter().map(Address::to_string).collect(),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn mailboxes_are_found_in_any_case() {
        assert_eq!(recipients("aLiCe@PROSEWARE.test"), ["alice@proseware.test"]);
    }

    #[test]
    fn unknown_and_foreign_recipients_are_told_apart() {
        assert_eq!(resolve("nobody@proseware.test"), Resolution::Unknown);
        assert_eq!(resolve("alice@adatum.test"), Resolution::NotLocal);
        assert_eq!(resolve("alice@sub.proseware.test"), Resolution::NotLocal);
        assert_eq!(resolve("alice@mail.proseware.test"), Resolution::Unknown);
    }

    #[test]
    fn aliases_are_followed_and_duplicates_merged() {
        assert_eq!(
            recipients("sales@proseware.test"),
            ["alice@proseware.test", "bob@proseware.test", "archive@adatum.test", "partner@adatum.test"]
        );
    }

    #[test]
    fn an_alias_that_names_itself_keeps_a_copy() {
        assert_eq!(recipients("bob@proseware.test"), ["bob@proseware.test", "archive@adatum.test"]);
    }

    #[test]
    fn alias_loops_are_found_over_domains_too() {
        assert_eq!(resolve("one@proseware.test"), Resolution::AliasLoop);
        assert_eq!(resolve("three@branch.test"), Resolution::AliasLoop);
        assert_eq!(resolve("me@proseware.test"), Resolution::AliasLoop);
    }

    #[test]
    fn an_alias_to_nobody_is_unknown() {
        assert_eq!(resolve("gone@proseware.test"), Resolution::Unknown);
    }

    #[test]
    fn a_catch_all_that_leads_nowhere_is_a_loop() {
        let directory =
            directory("hostname = \"h.test\"\n[[domain]]\nname = \"proseware.test\"\ncatch_all = \"nobody\"");
        let path = ForwardPath::parse("x@proseware.test").unwrap();
        assert_eq!(directory.resolve(&path, None), Resolution::AliasLoop);
    }

    #[test]
    fn subaddresses_reach_their_mailbox_by_the_delimiter_of_the_domain() {
        assert_eq!(recipients("alice+news+x@proseware.test"), ["alice@proseware.test"]);
        assert_eq!(recipients("info+x@proseware.test").len(), 3);
        assert_eq!(resolve("alice-news@proseware.test"), Resolution::Unknown);
        assert_eq!(resolve("+news@proseware.test"), Resolution::Unknown);
        assert_eq!(recipients("desk-x@branch.test"), ["desk@branch.test"]);
    }

    #[test]
    fn a_name_with_the_delimiter_in_it_is_found_exactly() {
        assert_eq!(recipients("carol+private@proseware.test"), ["carol+private@proseware.test"]);
        assert_eq!(resolve("carol@proseware.test"), Resolution::Unknown);
    }

    #[test]
    fn catch_all_takes_what_nobody_else_has() {
        assert_eq!(recipients("whoever@branch.test"), ["desk@branch.test"]);
    }

    #[test]
    fn postmaster_always_leads_somewhere() {
        assert_eq!(recipients("postMASTER"), ["postmaster@proseware.test"]);
        assert_eq!(recipients("Postmaster@branch.test"), ["postmaster@branch.test"]);
        assert_eq!(recipients("postmaster@mail.proseware.test"), ["postmaster@proseware.test"]);
        assert_eq!(recipients("postmaster@[192.0.2.25]"), ["postmaster@proseware.test"]);
        assert_eq!(resolve("postmaster@[192.0.2.26]"), Resolution::NotLocal);
        assert_eq!(resolve("alice@[192.0.2.25]"), Resolution::Unknown);
    }

    #[test]
    fn root_of_the_host_follows_the_alias_of_the_first_domain() {
        assert_eq!(recipients("root@mail.proseware.test"), ["alice@proseware.test"]);
    }

    #[test]
    fn a_host_without_domains_still_has_postmaster_and_root() {
        let directory = directory("hostname = \"relay.proseware.test\"");
        for (text, mailbox) in [
            ("postmaster", "postmaster"),
            ("root@relay.proseware.test", "root"),
            ("ROOT@relay.proseware.test", "root"),
        ] {
            let resolution = directory.resolve(&ForwardPath::parse(text).unwrap(), None);
            let address = Address::parse(&format!("{mailbox}@relay.proseware.test")).unwrap();
            assert_eq!(resolution, Resolution::Recipients(vec![address.clone()]));
            assert_eq!(
                directory.maildir(&address).unwrap(),
                Path::new("/var/spool/postern/mail/relay.proseware.test").join(mailbox)
            );
        }
    }

    #[test]
    fn a_literal_of_ours_is_known_behind_an_ipv4_mapped_socket() {
        let path = ForwardPath::parse("postmaster@[192.0.2.25]").unwrap();
        let mapped = Some("::ffff:192.0.2.25".parse().unwrap());
        assert!(matches!(directory(CONFIG).resolve(&path, mapped), Resolution::Recipients(_)));
    }

    #[test]
    fn maildirs_follow_the_template_of_the_domain() {
        let directory = directory(CONFIG);
        let maildir = |text| directory.maildir(&Address::parse(text).unwrap());
        assert_eq!(maildir("alice@proseware.test").unwrap(), Path::new("/spool/mail/proseware.test/alice"));
        assert_eq!(maildir("desk@branch.test").unwrap(), Path::new("/srv/branch.test/desk/Maildir"));
        assert_eq!(maildir("info@proseware.test"), None);
        assert_eq!(maildir("alice@adatum.test"), None);
    }

    #[test]
    fn a_local_part_cannot_leave_its_directory() {
        for (local, component) in [
            ("..", "%2E."),
            (".", "%2E"),
            ("../../etc", "%2E.%2F..%2Fetc"),
            ("a/b", "a%2Fb"),
            ("a\0b", "a%00b"),
            ("a%2fb", "a%252fb"),
            ("", "%"),
            ("{domain}", "%7Bdomain%7D"),
            ("é", "é"),
        ] {
            assert_eq!(path_component(local), component);
        }
    }

    #[test]
    fn long_alias_chains_and_large_tables_resolve() {
        let mut text = String::from(
            "hostname = \"h.test\"\n[[domain]]\nname = \"proseware.test\"\nmailboxes = [\"end\"]\n[domain.aliases]\n",
        );
        for n in 0..20_000 {
            let _ = writeln!(text, "n{n} = [\"n{}\"]", n + 1);
        }
        text.push_str("n20000 = [\"end\"]\nall = [");
        (0..20_000).for_each(|n| text.push_str(&format!("\"n{n}\",")));
        text.push_str("]\n");
        let directory = directory(&text);
        let path = ForwardPath::parse("all@proseware.test").unwrap();
        let end = Address::parse("end@proseware.test").unwrap();
        assert_eq!(directory.resolve(&path, None), Resolution::Recipients(vec![end]));
    }
}
