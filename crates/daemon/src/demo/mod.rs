//! `posternd demo`: the whole way of a message, shown on loopback.
//!
//! Two real servers, each a process of its own with configuration, certificate, keys and spool in a folder: yours for
//! proseware.test, a foreign one for adatum.test. What is shown was seen to happen, or the demonstration fails.

use std::io::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use postern_runtime::name_server;
use postern_smtp::{Domain, Reply};
use tokio::signal::unix::{SignalKind, signal};

mod client;
mod process;
mod site;

use client::{Client, Credentials};
use process::Server;
use site::Site;

/// How long a message may take from one server to the other's mailbox.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a mailbox is looked into.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Arguments of `posternd demo`.
#[derive(Debug, Args)]
pub struct DemoArguments {
    /// The folder to make everything in; it must not exist. Default: a new one for temporary files.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// End when everything was shown: with 0 if all of it was seen to happen, else with 1.
    #[arg(long)]
    once: bool,
}

/// Runs the demonstration.
pub fn run(arguments: &DemoArguments) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    // The one provider of the build; installing it twice is no harm.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match runtime.block_on(show(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    // Standard error may be closed; the exit code says it too.
    let _ = writeln!(std::io::stderr(), "\nposternd demo: {error:#}");
    ExitCode::FAILURE
}

/// Prints for the person who watches; a closed standard output does not end the demonstration.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

async fn show(arguments: &DemoArguments) -> anyhow::Result<()> {
    tokio::select! {
        result = play(arguments) => result,
        // The servers are children that end with the demonstration, however it is told to end.
        signal = told_to_end() => anyhow::bail!("ended by {signal}"),
    }
}

/// SIGTERM, and SIGHUP of a terminal that was closed. SIGINT comes to the servers too, and is waited for by `play`.
async fn told_to_end() -> &'static str {
    let (Ok(mut terminate), Ok(mut hang_up)) =
        (signal(SignalKind::terminate()), signal(SignalKind::hangup()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = hang_up.recv() => "SIGHUP",
    }
}

async fn play(arguments: &DemoArguments) -> anyhow::Result<()> {
    let folder = make_folder(arguments.dir.as_deref())?;
    let ours = Site::plan(&folder, "proseware.test", "alice", 2000)?;
    let theirs = Site::plan(&folder, "adatum.test", "bob", 3000)?;
    let name_server = name_server::serve(records(&[&ours, &theirs])?).await.context("the name server")?;
    ours.write(theirs.mx.port(), name_server)?;
    theirs.write(ours.mx.port(), name_server)?;
    say(&format!("Two mail servers, in {}:", folder.display()));
    let log = |site: &Site| site.folder.join("log.jsonl");
    let our_server = Server::start(&ours.config(), &log(&ours)).await?;
    let their_server = Server::start(&theirs.config(), &log(&theirs)).await?;
    say(&format!("  yours    {:<22} mx {}  submissions {}", ours.hostname(), ours.mx, ours.submissions));
    say(&format!(
        "  foreign  {:<22} mx {}  submissions {}",
        theirs.hostname(),
        theirs.mx,
        theirs.submissions
    ));

    let stage = Stage { ours: &ours, theirs: &theirs };
    stage.out().await.context("step 1")?;
    stage.back().await.context("step 2")?;
    stage.open_relay().await.context("step 3")?;
    let their_server = stage.outage(&our_server, their_server, &log(&theirs)).await.context("step 4")?;
    stage.bounce().await.context("step 5")?;
    say("\nAll of it was seen to happen.");

    if !arguments.once {
        stage.hints()?;
        tokio::signal::ctrl_c().await.context("waiting for Ctrl-C")?;
    }
    our_server.stop().await?;
    their_server.stop().await
}

fn make_folder(wanted: Option<&Path>) -> anyhow::Result<PathBuf> {
    let folder = match wanted {
        Some(folder) => std::path::absolute(folder)?,
        None => std::env::temp_dir().join(format!("postern-demo-{:08x}", rand::random::<u32>())),
    };
    std::fs::create_dir(&folder).with_context(|| format!("making the folder {}", folder.display()))?;
    Ok(folder)
}

fn records(sites: &[&Site]) -> anyhow::Result<name_server::Records> {
    let mut records = name_server::Records::default();
    for site in sites {
        records.add(Domain::parse(site.domain)?, Domain::parse(&site.hostname())?, Ipv4Addr::LOCALHOST);
    }
    Ok(records)
}

/// The steps, each of which sends something real and waits until it was seen.
struct Stage<'a> {
    ours: &'a Site,
    theirs: &'a Site,
}

impl Stage<'_> {
    async fn out(&self) -> anyhow::Result<()> {
        say("\n1. Out: alice logs in over TLS and writes to bob@adatum.test.");
        let reply = submit(self.ours, &self.theirs.address(), "out").await?;
        say(&format!("   our server:  {reply}"));
        let (path, message) = arrived(&self.theirs.inbox(), "demo: out").await?;
        anyhow::ensure!(message.contains("DKIM-Signature:"), "the message arrived without a signature");
        let signatures = message.matches("DKIM-Signature:").count();
        say(&format!("   in bob's mailbox, with {signatures} DKIM signatures: {}", path.display()));
        Ok(())
    }

    async fn back(&self) -> anyhow::Result<()> {
        say("\n2. In: bob answers; his server finds ours by its MX record.");
        let reply = submit(self.theirs, &self.ours.address(), "back").await?;
        say(&format!("   his server:  {reply}"));
        let (path, message) = arrived(&self.ours.inbox(), "demo: back").await?;
        anyhow::ensure!(
            message.contains("by mail.proseware.test"),
            "the message has no Received field of ours"
        );
        say(&format!("   in alice's mailbox: {}", path.display()));
        Ok(())
    }

    async fn open_relay(&self) -> anyhow::Result<()> {
        say("\n3. A stranger tries to use our server as an open relay.");
        let mut client = Client::connect(self.ours.mx, "bulk.thephone-company.test").await?;
        client.say("MAIL FROM:<offers@thephone-company.test>").await?;
        let reply = client.say("RCPT TO:<bob@adatum.test>").await?;
        anyhow::ensure!(reply.code == 550, "it was not refused: {reply}");
        say(&format!("   our server:  {reply}"));
        Ok(())
    }

    async fn outage(&self, ours: &Server, theirs: Server, log: &Path) -> anyhow::Result<Server> {
        say("\n4. An outage: adatum.test is down, alice writes all the same.");
        theirs.stop().await?;
        let reply = submit(self.ours, &self.theirs.address(), "outage").await?;
        say(&format!("   our server:  {reply}"));
        let to = self.theirs.address();
        let from_this_message = |event: &serde_json::Value| event["to"] == to.as_str();
        let deferred = ours.event("deferred", from_this_message).await?;
        say(&format!("   deferred:    {}", deferred["reply"].as_str().unwrap_or_default()));
        let theirs = Server::start(&self.theirs.config(), log).await?;
        say("   adatum.test is up again.");
        let (path, _) = arrived(&self.theirs.inbox(), "demo: outage").await?;
        say(&format!("   retried and delivered: {}", path.display()));
        Ok(theirs)
    }

    async fn bounce(&self) -> anyhow::Result<()> {
        say("\n5. A bounce: alice writes to nobody@adatum.test.");
        let reply = submit(self.ours, "nobody@adatum.test", "bounce").await?;
        say(&format!("   our server:  {reply}"));
        let (path, report) = arrived(&self.ours.inbox(), "multipart/report").await?;
        let status = report.lines().find(|line| line.starts_with("Diagnostic-Code:"));
        say(&format!("   the report:  {}", status.context("a report without a diagnostic code")?));
        say(&format!("   in alice's mailbox: {}", path.display()));
        Ok(())
    }

    fn hints(&self) -> anyhow::Result<()> {
        let ours = self.ours;
        let message = ours.folder.join("message.eml");
        let text = message_text(&ours.address(), &self.theirs.address(), "by curl", ours.domain);
        std::fs::write(&message, text.replace('\n', "\r\n"))
            .with_context(|| message.display().to_string())?;
        let config = ours.config();
        let (config, certificate) = (config.display(), ours.certificate());
        let (user, password) = (ours.address(), &ours.password);
        say(&format!(
            "
Try it yourself (Ctrl-C ends both servers; the folder stays):

  swaks --server {submission} --tls --auth PLAIN --auth-user {user} --auth-password {password} \\
        --from {user} --to bob@adatum.test
  curl --url smtps://{host}:{port} --resolve {host}:{port}:127.0.0.1 --cacert {certificate} \\
       --user {user}:{password} --mail-from {user} --mail-rcpt bob@adatum.test --upload-file {message}
  swaks --server {mx} --from x@thephone-company.test --to bob@adatum.test
  posternctl --config {config} status
  posternctl --config {config} queue list
  posternctl --config {config} policy explain --client 198.51.100.9 --from x@thephone-company.test --to bob@adatum.test
  curl http://{metrics}/metrics

posternctl is built with `cargo build --release --bin posternctl`.",
            submission = ours.submission,
            host = ours.hostname(),
            port = ours.submissions.port(),
            certificate = certificate.display(),
            mx = ours.mx,
            metrics = ours.metrics,
            message = message.display(),
        ));
        Ok(())
    }
}

/// Sends a message as the user of `site` through its own submission port.
async fn submit(site: &Site, to: &str, subject: &str) -> anyhow::Result<Reply> {
    let from = site.address();
    let who = Credentials { name: &from, password: &site.password };
    let mut client = Client::log_in(site.submissions, &site.hostname(), &site.certificate(), who).await?;
    let message = message_text(&from, to, subject, site.domain);
    let reply = client.send(&from, to, &message).await?;
    client.say("QUIT").await?;
    Ok(reply)
}

fn message_text(from: &str, to: &str, subject: &str, domain: &str) -> String {
    format!("From: <{from}>\nTo: <{to}>\nSubject: demo: {subject}\n\nHello from {domain}.\n")
}

/// Waits until a message with this text is in a mailbox.
async fn arrived(inbox: &Path, text: &str) -> anyhow::Result<(PathBuf, String)> {
    let look = async {
        loop {
            if let Some(found) = find(inbox, text) {
                return found;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, look).await;
    found.with_context(|| format!("nothing with {text:?} arrived in {}", inbox.display()))
}

fn find(inbox: &Path, text: &str) -> Option<(PathBuf, String)> {
    // The folder comes into being with its first message.
    let entries = std::fs::read_dir(inbox).ok()?;
    entries.flatten().find_map(|entry| {
        let message = std::fs::read_to_string(entry.path()).ok()?;
        message.contains(text).then(|| (entry.path(), message))
    })
}
