//! Standing rules of the operator: what becomes of messages that arrive and match.
//!
//! A rule is a filter and an action. It counts from the moment it is durable, without a restart, until it is removed or
//! its time is over. Each new message is asked about once, when it is committed; what of a rule can be said of a recipient
//! by itself is asked at RCPT already. Where several rules match one decides: what can be taken back goes before what
//! cannot (refusal, hold, report to the sender, silence), and among equals the oldest rule.

mod file;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::{Mutex, RwLock};
use postern_runtime::Clock;
use postern_smtp::{Address, EnhancedStatus, ReversePath};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{error, info};

use crate::Queue;
use crate::envelope::{Envelope, Origin, Recipient};
use crate::filter::arriving::Arriving;
use crate::filter::{BadFilter, Filter, Matcher, RecipientPick};
use crate::message::{QueueId, Report};
use crate::metrics::Metrics;
use crate::operate::{Change, OperateError, seconds};
use crate::state::{MessageState, Phase};
use file::File;

/// Rules at most: each message is held against all of them, which takes some ten nanoseconds a rule.
pub const MAX_RULES: usize = 1000;
/// Regular expressions for headers in all rules together: each may take half a MiB of memory, and time at every message.
pub const MAX_HEADER_TESTS: usize = 100;
/// Characters of a reason at most.
pub const MAX_REASON: usize = 500;
/// Characters of a public text at most: with address and reference it must fit into a reply line (RFC 5321 §4.5.3.1.5).
pub const MAX_TEXT: usize = 200;
/// Octets of a filter as it is kept.
const MAX_FILTER: usize = 16 * 1024;
/// For so long a rule whose time is over is still listed, with what it did.
const EXPIRED_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// Seconds that a rule has at most, if it has an end: a hundred years. Later times are beyond what calendars can show.
const LONGEST: u64 = 100 * 365 * 24 * 3600;
/// How often counters are written, at most: they are worth no write for each message.
const COUNTERS_EVERY: Duration = Duration::from_secs(5);
/// Recipients that a log line names.
const NAMED: usize = 20;
/// What clients and senders read when a rule has no text for them.
const DEFAULT_TEXT: &str = "not accepted: a rule of this server";

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleAction {
    /// Keep the message in the queue until it is released.
    Hold,
    /// Refuse it in the SMTP session.
    Reject,
    /// Accept it from our own users and end it with a report to the sender; refuse it where that report would go to a
    /// stranger, or to nobody.
    Fail,
    /// Accept it and throw it away.
    Drop,
}

impl RuleAction {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Hold, Self::Reject, Self::Fail, Self::Drop];

    /// The word in requests, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Reject => "reject",
            Self::Fail => "fail",
            Self::Drop => "drop",
        }
    }
}

/// A rule that is to be added. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRule {
    /// What it does.
    pub action: RuleAction,
    /// Which messages; the default is all of them.
    pub filter: Filter,
    /// Why, for operators. Needed.
    pub reason: String,
    /// What the client or the sender reads; only `reject` and `fail` have somebody who does.
    pub text: Option<String>,
    /// `reject`: 450 instead of 550.
    pub temporary: bool,
    /// When it ends; needed by `drop`.
    pub until: Option<u64>,
}

/// A rule. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Its number; never used again.
    pub id: u64,
    /// What it does.
    pub action: RuleAction,
    /// Which messages.
    pub filter: Filter,
    /// Why, for operators.
    pub reason: String,
    /// What the client or the sender reads.
    #[serde(default)]
    pub text: Option<String>,
    /// `reject`: 450 instead of 550.
    #[serde(default)]
    pub temporary: bool,
    /// When it ends; it has no effect from then on, and is listed for another week.
    #[serde(default)]
    pub until: Option<u64>,
    /// When it was added.
    pub added: u64,
    /// By whom, as the number of a user.
    pub by: u32,
    /// Recipients refused at RCPT, and messages, that it decided about.
    #[serde(default)]
    pub hits: u64,
    /// The last of them.
    #[serde(default)]
    pub last_hit: Option<u64>,
}

/// A rule refuses a recipient or a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The rule.
    pub rule: u64,
    /// Why, for operators.
    pub reason: String,
    /// What the client reads.
    pub text: String,
    /// Whether it may come again later (450 instead of 550).
    pub is_temporary: bool,
    /// Whether the rule looks at a sender that the header names.
    pub is_about_header_sender: bool,
}

/// Fields that name whoever sent a message (RFC 5322 §3.6.2, §3.6.6), and where answers go.
const SENDER_FIELDS: [&str; 5] = ["From", "Sender", "Reply-To", "Resent-From", "Resent-Sender"];

fn looks_at_header_sender(filter: &Filter) -> bool {
    let is_sender = |name: &str| SENDER_FIELDS.iter().any(|known| name.eq_ignore_ascii_case(known));
    filter.header.as_ref().is_some_and(|header| is_sender(&header.name))
}

/// What the rule that decides would do to a message that does not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Forecast {
    /// It is not accepted.
    Refused(Refused),
    /// It is accepted, and then held, ended with a report to its sender, or thrown away.
    Accepted {
        /// The rule; its action is `hold`, `fail` or `drop`.
        rule: Box<Rule>,
        /// To whom that happens. The others get it.
        recipients: Vec<Address>,
    },
}

/// What the rules say of a message that does not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Test {
    /// All rules in force that match, by id.
    pub matching: Vec<Rule>,
    /// The one that decides.
    pub decides: Option<u64>,
    /// Whether that would be at RCPT already.
    pub at_rcpt: bool,
}

/// Rules in force.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RuleTotals {
    /// By action; one that no rule has is left out.
    pub in_force: BTreeMap<String, usize>,
    /// When the first of them ends.
    pub next_end: Option<u64>,
}

impl RuleTotals {
    /// Whether no rule is in force.
    pub fn is_empty(&self) -> bool {
        self.in_force.is_empty()
    }
}

/// Why the rules were not changed.
#[derive(Debug, thiserror::Error)]
pub enum RuleError {
    /// The filter cannot be read, or asks for what is not known when a message arrives.
    #[error(transparent)]
    Filter(#[from] BadFilter),
    /// Something else about the rule makes no sense; the text says what would.
    #[error("{0}")]
    Bad(String),
    /// There are as many as there may be.
    #[error("{0}")]
    TooMany(String),
    /// There is no such rule.
    #[error("there is no rule {0}: see `posternctl rule list`")]
    Unknown(u64),
    /// The file of the rules could not be written; the former rules are in force.
    #[error("the rules could not be written: {0}")]
    Store(String),
}

/// All rules of one queue.
#[derive(Debug)]
pub struct Rules {
    file: File,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    /// By id, those whose time is over included.
    standing: RwLock<Arc<[Arc<Standing>]>>,
    /// The next id. One change at a time: held while the file is written.
    changing: Mutex<u64>,
    /// Why the file may not be written over.
    locked: Option<String>,
    /// Counters have changed since they were written.
    is_dirty: AtomicBool,
    hit: Notify,
    changed: Notify,
    /// Messages that the rules were asked about and that are not yet in the queue.
    judged: Mutex<TaskTracker>,
}

/// A rule, compiled.
#[derive(Debug)]
struct Standing {
    /// Without its counters.
    rule: Rule,
    matcher: Matcher,
    /// The recipients that `fail` and `drop` end.
    pick: RecipientPick,
    /// A time beyond what the clock can hold never comes.
    end: Option<SystemTime>,
    hits: AtomicU64,
    /// 0: never.
    last_hit: AtomicU64,
    /// Whether its end is in the log.
    end_told: AtomicBool,
}

/// What a rule means for one message. In this order one goes before the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Effect {
    Refuse,
    Hold,
    Fail,
    Drop,
}

/// What becomes of a message that is about to be queued.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is queued with this encoded state; empty: nothing has happened yet.
    Queued(Vec<u8>),
    /// It is accepted and not kept.
    Dropped,
    /// It is not accepted.
    Refused(Refused),
}

impl Queue {
    /// The standing rules.
    pub fn rules(&self) -> &Rules {
        &self.inner.rules
    }

    /// Waits until what the standing rules have let through is in the queue: a message that is not there after it is held
    /// against the rules that were in force before it. What the disk has not taken within `queue.commit_timeout` is not
    /// waited for: its client was told to come again.
    pub async fn rules_settled(&self) {
        let patience = self.inner.surroundings.schedule().commit_timeout;
        // Whoever was too late is not in the queue.
        let _ = timeout(patience, self.rules().settled()).await;
    }

    /// Does to messages that are queued already what a rule does to new ones. Returns `None` for a rule that refuses (what
    /// is queued was accepted), and for one that is not there any more.
    ///
    /// # Errors
    /// [`OperateError`].
    pub async fn apply_rule(
        &self,
        id: u64,
        ids: &[QueueId],
        wait: Duration,
    ) -> Result<Option<Change>, OperateError> {
        let Some(standing) = self.rules().find(id) else {
            return Ok(None);
        };
        let Standing { rule, pick, .. } = &*standing;
        let change = match rule.action {
            RuleAction::Reject => return Ok(None),
            RuleAction::Hold => self.hold(ids, &held_reason(rule), None, wait).await?,
            RuleAction::Fail => self.fail(ids, pick, public_text(rule), wait).await?,
            RuleAction::Drop => self.remove(ids, pick, &rule.reason, wait).await?,
        };
        self.rules().applied(id, change.changed as u64);
        Ok(Some(change))
    }

    /// How many messages each rule holds, also rules that were removed since. Blocking, as [`Queue::list`].
    ///
    /// # Errors
    /// [`BadFilter`].
    pub fn held_by_rules(&self) -> Result<BTreeMap<u64, usize>, BadFilter> {
        let filter = Filter { state: Some("held".to_owned()), ..Filter::default() };
        let matcher = Matcher::new(&filter, self.inner.clock.now())?;
        let mut held = BTreeMap::new();
        self.inner.scan(&matcher, QueueId(0), |found| {
            if let Some(rule) = found.state.held.as_deref().and_then(rule_of) {
                *held.entry(rule).or_insert(0) += 1;
            }
            true
        })?;
        Ok(held)
    }
}

impl Rules {
    /// Reads the rules of a spool directory. Blocking. What cannot be read is set aside, and [`Rules::problem`] says so.
    pub(crate) fn open(directory: &Path, clock: Arc<dyn Clock>, metrics: Metrics) -> Self {
        let now = clock.now();
        let file = File::new(directory);
        let kept = file.read(seconds(now), Standing::new);
        for standing in &kept.rules {
            standing.end_told.store(!standing.is_in_force(now), Ordering::Relaxed);
        }
        Self {
            file,
            clock,
            metrics,
            standing: RwLock::new(kept.rules.into_iter().map(Arc::new).collect()),
            changing: Mutex::new(kept.next_id),
            locked: kept.locked,
            is_dirty: AtomicBool::new(false),
            hit: Notify::new(),
            changed: Notify::new(),
            judged: Mutex::new(TaskTracker::new()),
        }
    }

    /// All rules by id, those whose time was over within the last week included.
    pub fn list(&self) -> Vec<Rule> {
        self.kept(self.clock.now()).iter().map(|standing| standing.view()).collect()
    }

    /// Whether there is none: then nothing need be asked.
    pub fn is_empty(&self) -> bool {
        self.standing.read().is_empty()
    }

    /// What keeps rules from being in force, if anything does.
    pub fn problem(&self) -> Option<String> {
        self.locked.clone().or_else(|| self.file.problem())
    }

    /// How many are in force.
    pub fn totals(&self) -> RuleTotals {
        let now = self.clock.now();
        let mut totals = RuleTotals::default();
        for standing in self.standing().iter().filter(|standing| standing.is_in_force(now)) {
            *totals.in_force.entry(standing.rule.action.as_str().to_owned()).or_insert(0) += 1;
            totals.next_end = totals.next_end.into_iter().chain(standing.rule.until).min();
        }
        totals
    }

    /// Looks whether a rule could be added.
    ///
    /// # Errors
    /// As [`Rules::add`].
    pub fn check(&self, new: &NewRule) -> Result<(), RuleError> {
        let now = self.clock.now();
        let standing = Standing::new(checked(new.clone(), 0, 0, now)?)?;
        check_room(&self.kept(now), &standing)
    }

    /// Adds a rule: it is durable, and in force, when this returns. Blocking.
    ///
    /// # Errors
    /// [`RuleError`]; nothing has changed then.
    pub fn add(&self, new: NewRule, by: u32) -> Result<Rule, RuleError> {
        let mut next_id = self.changing.lock();
        let now = self.clock.now();
        let standing = Standing::new(checked(new, *next_id, by, now)?)?;
        let mut rules = self.kept(now);
        check_room(&rules, &standing)?;
        let rule = standing.view();
        rules.push(Arc::new(standing));
        // Also when the write fails: nobody can say what of it a crash would leave.
        *next_id += 1;
        self.put_in_force(*next_id, rules)?;
        Ok(rule)
    }

    /// Removes rules, or none of them if one is unknown. Messages that they hold stay held. Blocking.
    ///
    /// # Errors
    /// [`RuleError::Unknown`], [`RuleError::Store`].
    pub fn remove(&self, ids: &[u64]) -> Result<Vec<Rule>, RuleError> {
        let next_id = self.changing.lock();
        let standing = self.standing();
        if let Some(unknown) = ids.iter().find(|id| standing.iter().all(|s| s.rule.id != **id)) {
            return Err(RuleError::Unknown(*unknown));
        }
        let (removed, kept): (Vec<_>, Vec<_>) =
            standing.iter().cloned().partition(|standing| ids.contains(&standing.rule.id));
        if !removed.is_empty() {
            self.put_in_force(*next_id, kept)?;
        }
        Ok(removed.iter().map(|standing| standing.view()).collect())
    }

    /// Whether a rule refuses a recipient. `recipients` are those that one RCPT stands for: more than one behind an alias,
    /// which is refused when a rule names one of them. Counts.
    pub fn refuse_recipient(
        &self,
        sender: &ReversePath,
        origin: &Origin,
        client: Option<IpAddr>,
        recipients: &[Recipient],
    ) -> Option<Refused> {
        let refused = self.would_refuse_recipient(sender, origin, client, recipients)?;
        self.applied(refused.rule, 1);
        Some(refused)
    }

    /// As [`Rules::refuse_recipient`], for a question: nothing is counted.
    pub fn would_refuse_recipient(
        &self,
        sender: &ReversePath,
        origin: &Origin,
        client: Option<IpAddr>,
        recipients: &[Recipient],
    ) -> Option<Refused> {
        let arriving = Arriving::recipients(sender, origin, client, recipients);
        self.at_rcpt(&arriving).map(|standing| standing.refused())
    }

    /// What becomes of a message that does not exist, if its recipients are accepted; `None`: the rules do nothing to it.
    /// Without a header, rules that look at the content are left out. Nothing is counted.
    pub fn forecast(&self, envelope: &Envelope, header: Option<&[u8]>) -> Option<Forecast> {
        let content = || header.unwrap_or_default().to_vec();
        let is_asked = |standing: &Standing| header.is_some() || !standing.matcher.looks_at_content();
        let (standing, effect) = self.decide_by(&Arriving::message(envelope, &content), is_asked)?;
        let is_ended = |recipient: &&Recipient| effect == Effect::Hold || standing.pick.is_named(recipient);
        Some(match effect {
            Effect::Refuse => Forecast::Refused(standing.refused()),
            Effect::Hold | Effect::Fail | Effect::Drop => Forecast::Accepted {
                rule: Box::new(standing.view()),
                recipients: envelope.recipients.iter().filter(is_ended).map(|r| r.address.clone()).collect(),
            },
        })
    }

    /// What the rules say of a message that does not exist. Nothing is counted.
    pub fn test(&self, envelope: &Envelope, header: &[u8]) -> Test {
        let (header, now) = (|| header.to_vec(), self.clock.now());
        let arriving = Arriving::message(envelope, &header);
        let Envelope { reverse_path, origin, client, recipients, .. } = envelope;
        let at_rcpt = recipients.iter().find_map(|recipient| {
            let recipient = std::slice::from_ref(recipient);
            self.at_rcpt(&Arriving::recipients(reverse_path, origin, *client, recipient))
        });
        let decides = at_rcpt.clone().or_else(|| self.decide(&arriving).map(|(standing, _)| standing));
        let standing = self.standing();
        let matching = standing.iter().filter(|s| s.is_in_force(now) && s.matcher.takes(&arriving));
        Test {
            matching: matching.map(|standing| standing.view()).collect(),
            decides: decides.map(|standing| standing.rule.id),
            at_rcpt: at_rcpt.is_some(),
        }
    }

    /// Kept with a message from before the rules are asked about it until it is in the queue, or will not be.
    pub(crate) fn asks(&self) -> TaskTrackerToken {
        self.judged.lock().token()
    }

    /// Waits for all messages about which the rules were asked so far.
    async fn settled(&self) {
        let later = TaskTracker::new();
        // Whoever waits for those that come later waits for these too.
        let _earlier = later.token();
        let earlier = std::mem::replace(&mut *self.judged.lock(), later);
        earlier.close();
        earlier.wait().await;
    }

    /// Holds a message against the rules that is about to be queued. `header` is asked for if a rule looks at it.
    /// Recipients that a rule drops are taken out of the envelope.
    pub(crate) fn apply(&self, id: QueueId, envelope: &mut Envelope, header: &dyn Fn() -> Vec<u8>) -> Fate {
        if self.is_empty() {
            return Fate::Queued(Vec::new());
        }
        let decided = self.decide(&Arriving::message(envelope, header));
        let Some((standing, effect)) = decided else {
            return Fate::Queued(Vec::new());
        };
        self.applied(standing.rule.id, 1);
        if effect != Effect::Refuse {
            log(id, &standing.rule, effect, envelope);
        }
        match effect {
            Effect::Refuse => Fate::Refused(standing.refused()),
            Effect::Hold => Fate::Queued(standing.held(envelope)),
            Effect::Fail => Fate::Queued(standing.failed(envelope, self.clock.now())),
            Effect::Drop => {
                envelope.recipients.retain(|recipient| !standing.pick.is_named(recipient));
                if envelope.recipients.is_empty() { Fate::Dropped } else { Fate::Queued(Vec::new()) }
            }
        }
    }

    /// Brings the gauge up to date.
    pub(crate) fn update_metrics(&self) {
        let totals = self.totals();
        for action in RuleAction::ALL {
            let rules = totals.in_force.get(action.as_str()).copied().unwrap_or(0);
            self.metrics.rules(action.as_str(), rules);
        }
    }

    /// Writes counters now and then, and says when the time of a rule is over, until `closing`.
    pub(crate) async fn keep(self: Arc<Self>, closing: CancellationToken) {
        loop {
            let next_end = self.tell_ends();
            let end = async {
                match next_end {
                    Some(end) => self.clock.until(end).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = closing.cancelled() => break,
                () = self.changed.notified() => continue,
                () = end => continue,
                () = self.hit.notified() => {}
            }
            // What comes meanwhile is in the same write.
            tokio::select! {
                () = closing.cancelled() => break,
                () = tokio::time::sleep(COUNTERS_EVERY) => {}
            }
            self.clone().save_counters().await;
        }
        self.save_counters().await;
    }

    async fn save_counters(self: Arc<Self>) {
        let save = move || {
            let next_id = self.changing.lock();
            if !self.is_dirty.swap(false, Ordering::AcqRel) {
                return;
            }
            if let Err(error) = self.write(*next_id, &self.kept(self.clock.now())) {
                self.is_dirty.store(true, Ordering::Release);
                error!(event = "rules-not-written", %error, "counters of rules are not written");
            }
        };
        if tokio::task::spawn_blocking(save).await.is_err() {
            error!(event = "rules-not-written", "writing the counters of rules failed");
        }
    }

    /// Says of which rules the time is over; returns when it is over for the next one.
    fn tell_ends(&self) -> Option<SystemTime> {
        let now = self.clock.now();
        let mut next: Option<SystemTime> = None;
        for standing in self.standing().iter() {
            let Some(end) = standing.end else {
                continue;
            };
            if now < end {
                next = Some(next.map_or(end, |next| next.min(end)));
            } else if !standing.end_told.swap(true, Ordering::Relaxed) {
                let Rule { id, action, reason, hits, .. } = standing.view();
                info!(event = "rule-expired", rule = id, action = action.as_str(), reason, hits);
            }
        }
        next
    }

    fn standing(&self) -> Arc<[Arc<Standing>]> {
        self.standing.read().clone()
    }

    fn find(&self, id: u64) -> Option<Arc<Standing>> {
        self.standing().iter().find(|standing| standing.rule.id == id).cloned()
    }

    /// Those that are in force, or were so lately.
    fn kept(&self, now: SystemTime) -> Vec<Arc<Standing>> {
        let is_kept = |standing: &&Arc<Standing>| {
            let until = standing.end.and_then(|end| end.checked_add(EXPIRED_KEPT));
            until.is_none_or(|until| now < until)
        };
        self.standing().iter().filter(is_kept).cloned().collect()
    }

    /// Writes the rules, then has them count.
    fn put_in_force(&self, next_id: u64, rules: Vec<Arc<Standing>>) -> Result<(), RuleError> {
        if let Err(error) = self.write(next_id, &rules) {
            // The file may be the new one all the same: it should say what is in force. Its error would be the same.
            let _ = self.write(next_id, &self.standing());
            return Err(RuleError::Store(error));
        }
        *self.standing.write() = rules.into();
        self.changed.notify_one();
        Ok(())
    }

    fn write(&self, next_id: u64, rules: &[Arc<Standing>]) -> Result<(), String> {
        if let Some(locked) = &self.locked {
            return Err(locked.clone());
        }
        let rules = rules.iter().map(|standing| standing.view()).collect();
        self.file.write(next_id, rules).map_err(|error| error.to_string())
    }

    /// The rule that refuses recipients.
    fn at_rcpt(&self, arriving: &Arriving<'_>) -> Option<Arc<Standing>> {
        if self.is_empty() {
            return None;
        }
        let now = self.clock.now();
        let refuses = |standing: &&Arc<Standing>| {
            effect(standing.rule.action, arriving) == Some(Effect::Refuse)
                && standing.is_in_force(now)
                && standing.matcher.is_about_recipients()
                && standing.matcher.takes(arriving)
        };
        self.standing().iter().find(refuses).cloned()
    }

    /// The rule that decides about a message, and how.
    fn decide(&self, arriving: &Arriving<'_>) -> Option<(Arc<Standing>, Effect)> {
        self.decide_by(arriving, |_| true)
    }

    /// The same, by those of the rules only that are asked.
    fn decide_by(
        &self,
        arriving: &Arriving<'_>,
        is_asked: impl Fn(&Standing) -> bool,
    ) -> Option<(Arc<Standing>, Effect)> {
        let now = self.clock.now();
        let mut decided: Option<(&Arc<Standing>, Effect)> = None;
        let rules = self.standing();
        for standing in rules.iter() {
            let Some(effect) = effect(standing.rule.action, arriving) else {
                continue;
            };
            let goes_before = decided.is_none_or(|(_, former)| effect < former);
            let holds = || standing.is_in_force(now) && standing.matcher.takes(arriving);
            if goes_before && is_asked(standing) && holds() {
                decided = Some((standing, effect));
            }
        }
        decided.map(|(standing, effect)| (standing.clone(), effect))
    }

    /// Counts what a rule did.
    fn applied(&self, id: u64, hits: u64) {
        let Some(standing) = self.find(id).filter(|_| hits > 0) else {
            return;
        };
        standing.hits.fetch_add(hits, Ordering::Relaxed);
        standing.last_hit.store(seconds(self.clock.now()), Ordering::Relaxed);
        self.metrics.rule_hits(standing.rule.action.as_str(), hits);
        self.is_dirty.store(true, Ordering::Release);
        self.hit.notify_one();
    }
}

impl Standing {
    fn new(rule: Rule) -> Result<Self, RuleError> {
        Ok(Self {
            matcher: Matcher::for_arrivals(&rule.filter)?,
            pick: RecipientPick::new(&rule.filter)?,
            end: rule.until.and_then(time),
            hits: AtomicU64::new(rule.hits),
            last_hit: AtomicU64::new(rule.last_hit.unwrap_or(0)),
            end_told: AtomicBool::new(false),
            rule,
        })
    }

    fn is_in_force(&self, now: SystemTime) -> bool {
        self.end.is_none_or(|end| now < end)
    }

    fn view(&self) -> Rule {
        let last_hit = self.last_hit.load(Ordering::Relaxed);
        Rule {
            hits: self.hits.load(Ordering::Relaxed),
            last_hit: (last_hit > 0).then_some(last_hit),
            ..self.rule.clone()
        }
    }

    fn refused(&self) -> Refused {
        Refused {
            rule: self.rule.id,
            reason: self.rule.reason.clone(),
            text: public_text(&self.rule).to_owned(),
            is_temporary: self.rule.temporary,
            is_about_header_sender: looks_at_header_sender(&self.rule.filter),
        }
    }

    /// The state of a message that is held from the beginning.
    fn held(&self, envelope: &Envelope) -> Vec<u8> {
        let held = Some(held_reason(&self.rule));
        MessageState { held, ..MessageState::of(envelope) }.encode()
    }

    /// The state of a message of which some recipients, or all, failed before they were tried.
    fn failed(&self, envelope: &Envelope, now: SystemTime) -> Vec<u8> {
        let report = Report {
            // Delivery not authorised (RFC 3463 §3.8).
            status: EnhancedStatus::new(5, 7, 1),
            text: public_text(&self.rule).to_owned(),
            is_reply: false,
            host: None,
            tls: None,
            at: now,
        };
        let mut state = MessageState::of(envelope);
        for (recipient, state) in envelope.recipients.iter().zip(&mut state.recipients) {
            if !recipient.expanded && self.pick.is_named(recipient) {
                state.phase = Phase::Failed { expired: false, report_owed: recipient.notify.failure };
                state.last = Some(report.clone());
            }
        }
        state.encode()
    }
}

/// What an action means for a message: nobody can refuse a report of our own, and a report about a message of a stranger,
/// or about a report, is one that nobody asked for (RFC 5321 §6.1, RFC 3834).
fn effect(action: RuleAction, arriving: &Arriving<'_>) -> Option<Effect> {
    match action {
        RuleAction::Hold => Some(Effect::Hold),
        RuleAction::Drop => Some(Effect::Drop),
        RuleAction::Reject | RuleAction::Fail if arriving.is_own() => None,
        RuleAction::Fail if arriving.is_from_a_user() => Some(Effect::Fail),
        RuleAction::Reject | RuleAction::Fail => Some(Effect::Refuse),
    }
}

fn log(id: QueueId, rule: &Rule, effect: Effect, envelope: &Envelope) {
    let action = match effect {
        Effect::Refuse => "refused",
        Effect::Hold => "held",
        Effect::Fail => "failed",
        Effect::Drop => "dropped",
    };
    let to: Vec<String> = envelope.recipients.iter().take(NAMED).map(|r| r.address.to_string()).collect();
    info!(
        event = "rule-applied",
        id = %id,
        rule = rule.id,
        action,
        from = %envelope.reverse_path,
        to = to.join(","),
        recipients = envelope.recipients.len(),
        reason = rule.reason,
    );
}

/// A rule that makes sense.
fn checked(new: NewRule, id: u64, by: u32, now: SystemTime) -> Result<Rule, RuleError> {
    let NewRule { action, filter, reason, text, temporary, until } = new;
    let bad = |text: &str| Err(RuleError::Bad(text.to_owned()));
    let reason = one_line("reason", &reason, MAX_REASON)?;
    let text = text.map(|text| one_line("text", &text, MAX_TEXT)).transpose()?;
    if temporary && action != RuleAction::Reject {
        return bad("only `reject` can be temporary");
    }
    if text.is_some() && !matches!(action, RuleAction::Reject | RuleAction::Fail) {
        return bad("a text is for whoever is refused or gets a report: only `reject` and `fail` have one");
    }
    if until.is_some_and(|until| until <= seconds(now)) {
        return bad("the rule would be over before it begins");
    }
    if until.is_some_and(|until| until - seconds(now) > LONGEST) {
        return bad("a rule ends within a hundred years, or has no end");
    }
    if action == RuleAction::Drop && (until.is_none() || filter == Filter::default()) {
        return bad(
            "`drop` loses mail without a trace for the sender: it needs a filter, and an end within which \
             somebody looks at it again (--for, --until)",
        );
    }
    let length = serde_json::to_vec(&filter).map_or(usize::MAX, |filter| filter.len());
    if length > MAX_FILTER {
        return Err(RuleError::Bad(format!("the filter of a rule has at most {MAX_FILTER} octets")));
    }
    let added = seconds(now);
    Ok(Rule { id, action, filter, reason, text, temporary, until, added, by, hits: 0, last_hit: None })
}

fn one_line(what: &str, text: &str, most: usize) -> Result<String, RuleError> {
    let text = text.trim();
    if text.is_empty() || text.chars().any(char::is_control) || text.chars().count() > most {
        return Err(RuleError::Bad(format!("the {what} of a rule is one line of at most {most} characters")));
    }
    Ok(text.to_owned())
}

fn check_room(rules: &[Arc<Standing>], new: &Standing) -> Result<(), RuleError> {
    if rules.len() >= MAX_RULES {
        return Err(RuleError::TooMany(format!("there are {MAX_RULES} rules: remove some first")));
    }
    let tests: usize = rules.iter().map(|standing| standing.matcher.header_tests()).sum();
    if tests + new.matcher.header_tests() > MAX_HEADER_TESTS {
        let text = format!("all rules together look at headers in at most {MAX_HEADER_TESTS} ways");
        return Err(RuleError::TooMany(text));
    }
    Ok(())
}

/// Why a message is held, as operators see it.
fn held_reason(rule: &Rule) -> String {
    format!("rule {}: {}", rule.id, rule.reason)
}

/// The rule that holds a message, by the reason of the hold.
pub(crate) fn rule_of(held: &str) -> Option<u64> {
    held.strip_prefix("rule ")?.split_once(": ")?.0.parse().ok()
}

fn public_text(rule: &Rule) -> &str {
    rule.text.as_deref().unwrap_or(DEFAULT_TEXT)
}

/// None: beyond what the clock can hold.
fn time(seconds: u64) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::filter::HeaderPattern;
    use crate::incoming::AcceptError;
    use crate::messages::tests::{TestSurroundings, envelope};
    use bytes::Bytes;
    use postern_runtime::ManualClock;

    const NOW: u64 = 1_795_284_325;

    /// A queue in a directory, and its clock.
    fn open(path: &Path) -> (Queue, ManualClock) {
        let config = postern_config::Queue {
            path: path.join("spool"),
            segment_size: 1024 * 1024,
            min_free_space: 0,
            inline_limit: 1024,
            ..postern_config::Queue::default()
        };
        let surroundings = TestSurroundings { schedule: Arc::new(config.clone()) };
        let metrics = crate::metrics::Metrics::register(&prometheus::Registry::new()).unwrap();
        let clock = ManualClock::new(UNIX_EPOCH + Duration::from_secs(NOW));
        let queue = Queue::open(&config, Arc::new(surroundings), Arc::new(clock.clone()), metrics).unwrap().0;
        (queue, clock)
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    fn new(action: RuleAction, filter: Filter) -> NewRule {
        let until = (action == RuleAction::Drop).then_some(NOW + 3600);
        NewRule { action, filter, reason: "why".to_owned(), text: None, temporary: false, until }
    }

    fn from(sender: &str) -> Filter {
        Filter { sender: some(sender), ..Filter::default() }
    }

    fn rcpt(address: &str) -> Filter {
        Filter { rcpt: some(address), ..Filter::default() }
    }

    fn subject(pattern: &str) -> Filter {
        let header = HeaderPattern { name: "Subject".to_owned(), pattern: pattern.to_owned() };
        Filter { header: Some(header), ..Filter::default() }
    }

    /// From alice, with two recipients.
    fn message(origin: Origin) -> Envelope {
        Envelope { origin, received: UNIX_EPOCH + Duration::from_secs(NOW), ..envelope(2) }
    }

    fn login() -> Envelope {
        message(Origin::Login("alice".to_owned()))
    }

    async fn send(queue: &Queue, envelope: Envelope) -> Result<QueueId, AcceptError> {
        send_with(queue, envelope, "Subject: x\r\n\r\nbody\r\n").await
    }

    async fn send_with(queue: &Queue, envelope: Envelope, content: &str) -> Result<QueueId, AcceptError> {
        let mut incoming = queue.incoming()?;
        incoming.write(Bytes::from(content.to_owned())).await?;
        incoming.commit(envelope, b"Received: here\r\n".to_vec()).await
    }

    fn refusing(result: Result<QueueId, AcceptError>) -> u64 {
        match result {
            Err(AcceptError::Rule(refused)) => refused.rule,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until no message is in the queue but these many.
    async fn wait_for(queue: &Queue, messages: usize) {
        while queue.summary().messages != messages {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_held_message_names_its_rule_and_stays_released() {
        let dir = tempfile::tempdir().unwrap();
        let (queue, _) = open(dir.path());
        let rule = queue.rules().add(new(RuleAction::Hold, from("@proseware.test")), 7).unwrap();
        assert_eq!((rule.id, rule.by, rule.added, rule.hits), (1, 7, NOW, 0));
        let id = send(&queue, login()).await.unwrap();
        assert_eq!(queue.show(id).unwrap().held.as_deref(), Some("rule 1: why"));
        assert_eq!(queue.held_by_rules().unwrap(), BTreeMap::from([(1, 1)]));
        let by = |rule| Filter { held_by: Some(rule), ..Filter::default() };
        assert_eq!(queue.select(&by(1)).unwrap(), [id]);
        assert_eq!(queue.select(&by(2)).unwrap(), []);
        assert_eq!(queue.release(&[id]).await.unwrap().changed, 1);
        queue.close().await;
        drop(queue);

        let (queue, _) = open(dir.path());
        assert!(queue.show(id).unwrap().held.is_none());
        let [rule] = queue.rules().list().try_into().unwrap();
        assert_eq!((rule.hits, rule.last_hit), (1, Some(NOW)));
        let held = send(&queue, login()).await.unwrap();
        assert!(queue.rules().remove(&[1]).unwrap()[0].hits == 2 && queue.rules().is_empty());
        assert!(queue.show(held).unwrap().held.is_some());
        assert!(send(&queue, login()).await.is_ok());
        assert_eq!(queue.summary().held, 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_failed_is_reported_to_users_and_refused_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let (queue, _) = open(dir.path());
        let text = some("Bob has left");
        let rule = NewRule { text, ..new(RuleAction::Fail, rcpt("r0@adatum.test")) };
        queue.rules().add(rule, 0).unwrap();
        // One recipient of two: the other one waits, and the report goes to alice.
        let id = send(&queue, login()).await.unwrap();
        wait_for(&queue, 2).await;
        let view = queue.show(id).unwrap();
        let states: Vec<&str> = view.recipients.iter().map(|r| r.state.as_str()).collect();
        assert_eq!(states, ["failed", "ready"]);
        assert_eq!(view.recipients[0].text.as_deref(), Some("Bob has left"));
        let reports = queue.select(&Filter { dsn: true, ..Filter::default() }).unwrap();
        assert_eq!(queue.show(reports[0]).unwrap().recipients[0].address, "alice@proseware.test");
        assert_eq!(refusing(send(&queue, message(Origin::Outsider)).await), 1);
        let null = Envelope { reverse_path: ReversePath::Null, ..login() };
        assert_eq!(refusing(send(&queue, null).await), 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_dropped_is_accepted_and_gone() {
        let dir = tempfile::tempdir().unwrap();
        let (queue, _) = open(dir.path());
        queue.rules().add(new(RuleAction::Drop, rcpt("r0@adatum.test")), 0).unwrap();
        let id = send(&queue, login()).await.unwrap();
        let recipients = queue.show(id).unwrap().recipients;
        assert_eq!(recipients.len(), 1);
        assert_eq!(recipients[0].address, "r1@adatum.test");
        let gone = Envelope { recipients: envelope(1).recipients, ..login() };
        let gone = send(&queue, gone).await.unwrap();
        assert!(queue.show(gone).is_none());
        assert_eq!(queue.rules().list()[0].hits, 2);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_can_be_taken_back_goes_before_what_cannot() {
        let dir = tempfile::tempdir().unwrap();
        let (queue, _) = open(dir.path());
        let rules = queue.rules();
        for action in [RuleAction::Drop, RuleAction::Fail, RuleAction::Hold, RuleAction::Hold] {
            rules.add(new(action, from("@proseware.test")), 0).unwrap();
        }
        let test = rules.test(&login(), b"");
        assert_eq!((test.decides, test.at_rcpt, test.matching.len()), (Some(3), false, 4));
        rules.add(new(RuleAction::Reject, from("alice@proseware.test")), 0).unwrap();
        assert_eq!(refusing(send(&queue, login()).await), 5);
        assert_eq!(rules.test(&login(), b"").decides, Some(5));
        assert_eq!(rules.test(&message(Origin::Outsider), b"").decides, Some(2));
        rules.remove(&[5]).unwrap();
        let id = send(&queue, login()).await.unwrap();
        assert_eq!(queue.show(id).unwrap().held.as_deref(), Some("rule 3: why"));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn each_recipient_is_refused_by_itself_where_that_can_be_said() {
        let dir = tempfile::tempdir().unwrap();
        let (queue, _) = open(dir.path());
        let rules = queue.rules();
        let recipients = envelope(2).recipients;
        let asked = |recipients: &[Recipient]| {
            let sender = ReversePath::parse("alice@proseware.test").unwrap();
            rules.refuse_recipient(&sender, &Origin::Outsider, None, recipients).map(|refused| refused.rule)
        };
        assert_eq!(asked(&recipients), None);
        let but_r1 = Filter { not: vec![rcpt("r1@adatum.test")], ..from("@proseware.test") };
        rules.add(new(RuleAction::Reject, but_r1), 0).unwrap();
        assert_eq!((asked(&recipients[..1]), asked(&recipients[1..])), (Some(1), None));
        // What is refused there, and what passes there, is so at the end of the message too.
        let of = |recipients: &[Recipient]| Envelope { recipients: recipients.to_vec(), ..login() };
        assert_eq!(refusing(send(&queue, of(&recipients[..1])).await), 1);
        assert!(send(&queue, of(&recipients[1..])).await.is_ok());
        rules.remove(&[1]).unwrap();
        let temporary = NewRule { temporary: true, ..new(RuleAction::Reject, subject("x")) };
        rules.add(temporary, 0).unwrap();
        assert_eq!(asked(&recipients), None);
        assert!(matches!(send(&queue, login()).await, Err(AcceptError::Rule(r)) if r.is_temporary));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn headers_are_looked_at_wherever_the_content_is() {
        let dir = tempfile::tempdir().unwrap();
        let (queue, _) = open(dir.path());
        queue.rules().add(new(RuleAction::Hold, subject("^Win$")), 0).unwrap();
        let long = "z".repeat(5000);
        for (content, is_held) in [
            ("Subject: Win\r\n\r\nx\r\n".to_owned(), true),
            ("X: 1\r\nsubject: Win\r\n\r\n".to_owned() + &long, true),
            (format!("X: {long}\r\nSubject: Win\r\n\r\n{long}"), true),
            ("X: 1\r\n\r\nSubject: Win\r\n".to_owned() + &long, false),
            ("\r\nSubject: Win\r\n".to_owned(), false),
            (String::new(), false),
        ] {
            let id = send_with(&queue, login(), &content).await.unwrap();
            assert_eq!(queue.show(id).unwrap().held.is_some(), is_held, "{content}");
        }
        // Our own fields are part of the header, as for `queue list`.
        let own = HeaderPattern { name: "Received".to_owned(), pattern: "^here$".to_owned() };
        let filter = Filter { header: Some(own), ..Filter::default() };
        queue.rules().add(new(RuleAction::Reject, filter), 0).unwrap();
        assert_eq!(refusing(send(&queue, login()).await), 2);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn reports_of_our_own_are_held_or_dropped_and_never_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (queue, _) = open(dir.path());
        let rules = queue.rules();
        let null = || Filter { dsn: true, ..Filter::default() };
        rules.add(new(RuleAction::Reject, null()), 0).unwrap();
        rules.add(new(RuleAction::Fail, null()), 0).unwrap();
        rules.add(new(RuleAction::Hold, null()), 0).unwrap();
        let id = send(&queue, login()).await.unwrap();
        queue.fail(&[id], &RecipientPick::default(), "test", Duration::ZERO).await.unwrap();
        while queue.summary().held != 1 {
            tokio::task::yield_now().await;
        }
        wait_for(&queue, 1).await;
        let report = queue.select(&null()).unwrap()[0];
        assert_eq!(queue.show(report).unwrap().held.as_deref(), Some("rule 3: why"));
        rules.remove(&[3]).unwrap();
        rules.add(new(RuleAction::Drop, null()), 0).unwrap();
        let id = send(&queue, login()).await.unwrap();
        queue.fail(&[id], &RecipientPick::default(), "test", Duration::ZERO).await.unwrap();
        while rules.list().iter().all(|rule| rule.action != RuleAction::Drop || rule.hits == 0) {
            tokio::task::yield_now().await;
        }
        wait_for(&queue, 1).await;
        queue.close().await;
        // The hold of the report was durable with it.
        drop(queue);
        let (queue, _) = open(dir.path());
        assert!(queue.show(report).unwrap().held.is_some());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_rule_ends_by_the_clock_and_is_listed_for_a_week() {
        let dir = tempfile::tempdir().unwrap();
        let (queue, clock) = open(dir.path());
        let rules = queue.rules();
        let ends = |until| NewRule { until: Some(until), ..new(RuleAction::Reject, from("@proseware.test")) };
        rules.add(ends(NOW + 60), 0).unwrap();
        assert_eq!(rules.totals().next_end, Some(NOW + 60));
        assert_eq!(refusing(send(&queue, login()).await), 1);
        clock.advance(Duration::from_secs(60));
        assert!(send(&queue, login()).await.is_ok());
        assert!(rules.totals().is_empty() && rules.list().len() == 1);
        assert!(rules.test(&login(), b"").matching.is_empty());
        assert!(matches!(rules.add(ends(NOW + 60), 0), Err(RuleError::Bad(_))));
        clock.advance(EXPIRED_KEPT);
        assert_eq!(rules.add(new(RuleAction::Hold, from("<>")), 0).unwrap().id, 2);
        assert_eq!(rules.list().len(), 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn numbers_are_not_used_again() {
        let dir = tempfile::tempdir().unwrap();
        for id in 1..4 {
            let (queue, _) = open(dir.path());
            assert_eq!(queue.rules().add(new(RuleAction::Hold, from("<>")), 0).unwrap().id, id);
            queue.rules().remove(&[id]).unwrap();
            assert!(matches!(queue.rules().remove(&[id]), Err(RuleError::Unknown(unknown)) if unknown == id));
            queue.close().await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_cannot_be_written_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let (queue, _) = open(dir.path());
        queue.rules().add(new(RuleAction::Hold, from("<>")), 0).unwrap();
        // A directory in the way of the new file.
        let obstacle = dir.path().join("spool/rules.json.new");
        std::fs::create_dir(&obstacle).unwrap();
        let error = queue.rules().add(new(RuleAction::Reject, from("@proseware.test")), 0).unwrap_err();
        assert!(matches!(error, RuleError::Store(_)), "{error}");
        assert!(matches!(queue.rules().remove(&[1]), Err(RuleError::Store(_))));
        assert!(send(&queue, login()).await.is_ok());
        assert_eq!(queue.rules().list().len(), 1);
        std::fs::remove_dir(&obstacle).unwrap();
        assert_eq!(queue.rules().add(new(RuleAction::Reject, from("@proseware.test")), 0).unwrap().id, 3);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_makes_no_sense_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (queue, _) = open(dir.path());
        let rules = queue.rules();
        let hold = || new(RuleAction::Hold, from("<>"));
        let drop = || new(RuleAction::Drop, from("<>"));
        for (bad, says) in [
            (NewRule { reason: " ".to_owned(), ..hold() }, "reason"),
            (NewRule { reason: "a\nb".to_owned(), ..hold() }, "one line"),
            (NewRule { reason: "x".repeat(MAX_REASON + 1), ..hold() }, "at most 500"),
            (NewRule { text: some("x"), ..hold() }, "only `reject` and `fail`"),
            (NewRule { text: some("a\r\n250 Ok"), ..new(RuleAction::Reject, from("<>")) }, "one line"),
            (NewRule { temporary: true, ..hold() }, "only `reject`"),
            (NewRule { until: Some(NOW), ..hold() }, "before it begins"),
            (NewRule { until: Some(u64::MAX), ..hold() }, "has no end"),
            (NewRule { until: None, ..drop() }, "needs a filter, and an end"),
            (NewRule { filter: Filter::default(), ..drop() }, "needs a filter, and an end"),
            (new(RuleAction::Hold, from("nobody")), "address"),
            (new(RuleAction::Hold, subject("(")), "regular expression"),
            (new(RuleAction::Hold, Filter { min_attempts: Some(1), ..Filter::default() }), "attempts"),
            (
                new(RuleAction::Hold, Filter { account: some(&"x".repeat(MAX_FILTER)), ..from("<>") }),
                "octets",
            ),
        ] {
            let error = rules.check(&bad).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
            assert_eq!(rules.add(bad, 0).unwrap_err().to_string(), error);
        }
        assert!(rules.is_empty() && !dir.path().join("spool/rules.json").exists());
    }

    #[test]
    fn there_is_room_for_so_many_rules_and_header_tests() {
        let rule = |id, filter| {
            let rule = checked(new(RuleAction::Hold, filter), id, 0, UNIX_EPOCH).unwrap();
            Arc::new(Standing::new(rule).unwrap())
        };
        let many = vec![rule(1, from("<>")); MAX_RULES];
        assert!(check_room(&many[1..], &many[0]).is_ok());
        assert!(matches!(check_room(&many, &many[0]), Err(RuleError::TooMany(_))));
        let tests = vec![rule(1, subject("x")); MAX_HEADER_TESTS];
        assert!(check_room(&tests, &many[0]).is_ok());
        assert!(matches!(check_room(&tests, &tests[0]), Err(RuleError::TooMany(_))));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_rule_is_applied_to_what_is_queued() {
        let dir = tempfile::tempdir().unwrap();
        let (queue, _) = open(dir.path());
        let id = send(&queue, login()).await.unwrap();
        let apply = async |action| {
            let rule = queue.rules().add(new(action, rcpt("r0@adatum.test")), 0).unwrap();
            let change = queue.apply_rule(rule.id, &[id], Duration::ZERO).await.unwrap();
            queue.rules().remove(&[rule.id]).unwrap();
            change.map(|change| change.changed)
        };
        assert_eq!(apply(RuleAction::Reject).await, None);
        assert_eq!(apply(RuleAction::Hold).await, Some(1));
        assert_eq!(queue.show(id).unwrap().held.as_deref(), Some("rule 2: why"));
        assert_eq!(apply(RuleAction::Hold).await, Some(0));
        assert_eq!(apply(RuleAction::Drop).await, Some(1));
        assert_eq!(queue.apply_rule(99, &[id], Duration::ZERO).await.unwrap(), None);
        let recipients = queue.show(id).unwrap().recipients;
        let states: Vec<&str> = recipients.iter().map(|r| r.state.as_str()).collect();
        assert_eq!(states, ["failed", "held"]);
    }

    #[test]
    fn the_rule_of_a_hold_is_read_from_its_reason() {
        for (held, rule) in [
            ("rule 7: why", Some(7)),
            ("rule 7", None),
            ("rule x: why", None),
            ("by hand", None),
            ("rule 7: rule 8: why", Some(7)),
        ] {
            assert_eq!(rule_of(held), rule, "{held}");
        }
    }

    #[test]
    fn a_header_is_read_once_and_only_for_rules_that_look_at_it() {
        let standing = |filter| {
            Standing::new(checked(new(RuleAction::Hold, filter), 1, 0, UNIX_EPOCH).unwrap()).unwrap()
        };
        let message = login();
        let asked = std::cell::Cell::new(0);
        let header = || {
            asked.set(asked.get() + 1);
            b"Subject: x\r\n\r\n".to_vec()
        };
        let arriving = Arriving::message(&message, &header);
        let elsewhere = Filter { sender: some("@client.test"), ..subject("x") };
        for filter in [rcpt("x@adatum.test"), from("x@client.test"), elsewhere] {
            assert!(!standing(filter).matcher.takes(&arriving));
        }
        assert_eq!(asked.get(), 0);
        let rules = [subject("x"), subject("^x$"), Filter { not: vec![subject("y")], ..Filter::default() }];
        assert!(rules.into_iter().all(|filter| standing(filter).matcher.takes(&arriving)));
        assert_eq!(asked.get(), 1);
    }

    #[tokio::test]
    async fn what_becomes_of_a_message_can_be_told_before() {
        let directory = tempfile::tempdir().unwrap();
        let (queue, _clock) = open(directory.path());
        let rules = queue.rules();
        let mut message = envelope(2);
        message.origin = Origin::Login("alice@proseware.test".to_owned());
        let forecast = |header: Option<&[u8]>| rules.forecast(&message, header);
        assert_eq!(forecast(Some(b"Subject: x\r\n\r\n")), None);
        let new = |action: RuleAction, filter: Filter| NewRule {
            action,
            filter,
            reason: "a test".to_owned(),
            text: None,
            temporary: false,
            until: Some(NOW + 60),
        };
        let first = || Filter { rcpt: Some("r0@adatum.test".to_owned()), ..Filter::default() };
        let ended = |header: Option<&[u8]>| match forecast(header).unwrap() {
            Forecast::Accepted { rule, recipients } => {
                (rule.action, recipients.iter().map(ToString::to_string).collect::<Vec<_>>())
            }
            Forecast::Refused(refused) => panic!("{refused:?}"),
        };
        rules.add(new(RuleAction::Drop, first()), 0).unwrap();
        assert_eq!(ended(None), (RuleAction::Drop, vec!["r0@adatum.test".to_owned()]));
        rules.add(new(RuleAction::Hold, first()), 0).unwrap();
        assert_eq!(ended(None).0, RuleAction::Hold);
        assert_eq!(ended(None).1.len(), 2, "a message is held whole");
        // What the header decides is not known without one.
        let header = HeaderPattern { name: "From".to_owned(), pattern: "boss".to_owned() };
        let from_boss = Filter { header: Some(header), ..Filter::default() };
        rules.add(new(RuleAction::Reject, from_boss), 0).unwrap();
        assert_eq!(ended(None).0, RuleAction::Hold);
        assert_eq!(ended(Some(b"From: alice@proseware.test\r\n\r\n")).0, RuleAction::Hold);
        let refused = forecast(Some(b"From: boss@proseware.test\r\n\r\n"));
        assert!(
            matches!(&refused, Some(Forecast::Refused(refused)) if refused.is_about_header_sender),
            "{refused:?}"
        );
        // Nothing of it is counted.
        assert!(rules.list().iter().all(|rule| rule.hits == 0));
    }
}
