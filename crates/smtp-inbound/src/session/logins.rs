//! The steps of a login: from AUTH, over what the mechanism asks and what the check of a password or token says, to the answer.
//! What a mechanism says is in `commands/auth`.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use postern_policy::accounts::{Login, Verified};
use postern_policy::relay::{Decision, Stage};
use postern_smtp::command::Auth;
use postern_smtp::date::rfc3339;
use postern_smtp::{Reply, ReversePath};

use super::{Action, Context, Hello, Matter, Peer, Refusal, Session, State};
use crate::commands::auth::{self, Exchange, Mechanism, Proved};
use crate::replies;

/// A name and a password. Nothing prints them.
pub struct Credentials {
    /// As the client wrote it.
    pub name: String,
    /// As the client wrote it.
    pub password: Vec<u8>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

/// What came of a password check.
#[derive(Debug)]
pub enum PasswordCheck {
    /// It was checked here.
    Done(Verified),
    /// Another system has vouched for the login.
    Vouched(Login),
    /// Another system has not.
    Refused {
        /// Why, for the log, where that is known.
        why: Option<String>,
        /// Whether somebody may be guessing. Nobody is whose login is right, and has no rights here.
        is_guess: bool,
    },
    /// It could not be checked, or not soon enough.
    Unavailable {
        /// Why, for the log.
        why: String,
    },
}

impl Session {
    pub(super) fn auth(&mut self, hello: Arc<Hello>, command: &Auth) -> Action {
        // A password changed by a reload counts from the next login on.
        self.context.refresh();
        let Context { peer, policy, shared, .. } = &self.context;
        // Asked twice: only of those who are banned is anything kept.
        if let Some(ban) = policy.ban(peer.client, peer.local, true, shared.clock.now())
            && let Err(refusal) = self.context.ask_login(&hello)
        {
            let (client, listener) = (peer.client, peer.listener.as_str());
            let (network, until) = (ban.network, rfc3339(UNIX_EPOCH + Duration::from_secs(ban.until)));
            let reference = refusal.reference.map(|reference| reference.to_string());
            let limit = refusal.reason;
            tracing::info!(event = "turned-away", listener, %client, limit, %network, until, reference);
            return Action::Close(refusal.reply);
        }
        let step = auth::begin(&self.context, command);
        self.auth_step(hello, step)
    }

    pub(super) fn auth_step(&mut self, hello: Arc<Hello>, step: auth::Step) -> Action {
        match step {
            auth::Step::Challenge(reply, exchange) => {
                self.state = State::Authenticating(hello, exchange);
                Action::Reply(reply)
            }
            auth::Step::Check(credentials, mechanism) => {
                self.state = State::CheckingPassword(hello, auth::printable(&credentials.name), mechanism);
                Action::CheckPassword(credentials)
            }
            auth::Step::CheckToken(bearer, mechanism) => {
                self.state = State::CheckingPassword(hello, auth::printable(&bearer.name), mechanism);
                Action::CheckToken(bearer)
            }
            auth::Step::Refused(reply, delay) => {
                self.state = State::Greeted(hello);
                self.delayed_error(reply, delay)
            }
            auth::Step::Proved(proved) => {
                self.state = State::Greeted(Arc::clone(&hello));
                self.password_right(&hello, *proved, None)
            }
            auth::Step::Wrong { name, mechanism, why } => {
                self.state = State::Greeted(Arc::clone(&hello));
                let name = auth::printable(&name);
                self.password_wrong(&hello, Unproved { name, mechanism, why })
            }
            auth::Step::Downgraded(mechanism) => {
                self.state = State::Greeted(hello);
                let (Peer { client, listener, .. }, mechanism) = (self.context.peer, mechanism.as_str());
                let listener = listener.as_str();
                tracing::warn!(event = "login-downgraded", %client, listener, mechanism, "{}", replies::downgraded());
                self.context.shared.metrics.login("downgraded");
                self.error(replies::downgraded())
            }
            auth::Step::Refuse(reply) => {
                self.state = State::Greeted(hello);
                self.error(reply)
            }
            auth::Step::NotOffered => {
                let asked = self.context.ask_login(&hello);
                self.state = State::Greeted(hello);
                match asked {
                    // The rules say it of the same listener and the same TLS.
                    Ok(_) => self.error(replies::login_not_available()),
                    Err(refusal) => {
                        self.log_refusal("login", &refusal, "", None);
                        self.error(refusal.reply)
                    }
                }
            }
        }
    }

    /// What a password check said.
    pub fn password_checked(&mut self, check: PasswordCheck) -> Action {
        let State::CheckingPassword(hello, name, mechanism) =
            std::mem::replace(&mut self.state, State::Connected)
        else {
            return self.error(replies::bad_sequence("no password was asked for"));
        };
        self.state = State::Greeted(Arc::clone(&hello));
        match check {
            PasswordCheck::Done(Verified::Right { login, app }) => {
                self.password_right(&hello, Proved { login, mechanism }, app.as_deref())
            }
            PasswordCheck::Done(Verified::Wrong) => {
                self.password_wrong(&hello, Unproved { name, mechanism, why: None })
            }
            PasswordCheck::Done(Verified::Unusable { app, why, .. }) => {
                self.password_unusable(&hello, &name, mechanism, &AppPassword { label: app, why })
            }
            PasswordCheck::Vouched(login) => self.password_right(&hello, Proved { login, mechanism }, None),
            PasswordCheck::Refused { why, is_guess: true } => {
                self.password_wrong(&hello, Unproved { name, mechanism, why })
            }
            PasswordCheck::Refused { why, is_guess: false } => {
                self.login_without_rights(&hello, Unproved { name, mechanism, why })
            }
            PasswordCheck::Unavailable { why } => {
                let Peer { client, listener, .. } = self.context.peer;
                let (listener, shown) = (listener.as_str(), self.context.policy.login_to_note(&name));
                tracing::error!(event = "login-not-checked", %client, listener, login = shown, why, "no password check");
                self.context.shared.metrics.login("unavailable");
                Action::Reply(replies::login_not_available())
            }
        }
    }

    /// What a token check said. A token that is not taken is answered with a challenge that says why, and only behind the client's
    /// next line with 535 (RFC 7628 §3.2.3); it is counted at once, for a client can go away between the two.
    pub fn token_checked(&mut self, check: PasswordCheck) -> Action {
        let (why, is_guess) = match check {
            PasswordCheck::Refused { why, is_guess } => (why, is_guess),
            other => return self.password_checked(other),
        };
        let State::CheckingPassword(hello, name, mechanism) =
            std::mem::replace(&mut self.state, State::Connected)
        else {
            return self.error(replies::bad_sequence("no token was asked for"));
        };
        let unproved = Unproved { name, mechanism, why };
        let (reply, delay) = match is_guess {
            true => self.note_wrong(&hello, unproved),
            false => self.note_without_rights(&hello, unproved),
        };
        let Some(oauth) = &self.context.config.auth.oauth else {
            self.state = State::Greeted(hello);
            return self.delayed_error(reply, delay);
        };
        let challenge = STANDARD.encode(auth::bearer::refusal(mechanism, oauth));
        self.state = State::Authenticating(hello, Exchange::Refused(Box::new((reply, delay))));
        Action::Reply(replies::auth_challenge(&challenge))
    }

    /// Who has the right password may still not use the login now, or from here. `app` is the label of an app password.
    fn password_right(&mut self, hello: &Hello, proved: Proved, app: Option<&str>) -> Action {
        let Peer { client, listener, .. } = self.context.peer;
        let Proved { login, mechanism } = proved;
        let (name, listener, mechanism) = (login.name.clone(), listener.as_str(), mechanism.as_str());
        self.context.login = Some(login);
        match self.context.ask_login(hello) {
            Ok(_) => {
                tracing::info!(
                    event = "login",
                    %client,
                    listener,
                    login = name,
                    mechanism,
                    app_password = app,
                    "logged in"
                );
                self.context.shared.metrics.login("ok");
                Action::Reply(replies::logged_in())
            }
            Err(refusal) => {
                self.context.shared.metrics.login("refused");
                self.log_refusal("login", &refusal, "", None);
                self.context.login = None;
                self.error(refusal.reply)
            }
        }
    }

    /// A wrong password or proof. The guess is counted, and whoever guesses too much is banned.
    fn password_wrong(&mut self, hello: &Hello, unproved: Unproved) -> Action {
        let (reply, delay) = self.note_wrong(hello, unproved);
        self.delayed_error(reply, delay)
    }

    /// The same without the answer: what that is, and how long it waits.
    fn note_wrong(&mut self, hello: &Hello, unproved: Unproved) -> (Reply, Duration) {
        let Peer { client, local, listener, .. } = self.context.peer;
        let Unproved { name, mechanism, why } = unproved;
        let guess = self.context.policy.note_guess(&name, client, local, self.context.shared.clock.now());
        let failures = guess.failed.failures;
        let shown = self.context.policy.login_to_note(&name);
        let refusal = self.context.refuse_password(hello, &shown, None);
        tracing::warn!(
            event = "login-failed",
            %client,
            listener = listener.as_str(),
            login = shown,
            mechanism = mechanism.as_str(),
            why,
            failures,
            reference = refusal.reference.map(|reference| reference.to_string()),
            "wrong password or user name"
        );
        if let Some(ban) = guess.ban {
            let until = rfc3339(UNIX_EPOCH + Duration::from_secs(ban.until));
            tracing::warn!(event = "banned", network = %ban.network, until, failures, "{}", ban.why);
        }
        self.context.shared.metrics.login("wrong");
        (refusal.reply, guess.failed.delay)
    }

    /// An app password that is right and cannot be used now, or not from here: nobody guesses. The client is told what it would
    /// be told of a wrong one; the log has another event, so that nothing that reads it bans whole offices for an old telephone.
    fn password_unusable(
        &mut self,
        hello: &Hello,
        name: &str,
        mechanism: Mechanism,
        app: &AppPassword,
    ) -> Action {
        let Peer { client, local, listener, .. } = self.context.peer;
        let mistake = self.context.policy.note_mistake(client, local, self.context.shared.clock.now());
        let refusal = self.context.refuse_password(hello, name, Some(&app.why));
        tracing::warn!(
            event = "app-password-refused",
            %client,
            listener = listener.as_str(),
            login = name,
            mechanism = mechanism.as_str(),
            app_password = app.label,
            why = app.why,
            reference = refusal.reference.map(|reference| reference.to_string()),
            "an app password that cannot be used"
        );
        self.context.shared.metrics.login("refused");
        self.delayed_error(refusal.reply, mistake.failed.delay)
    }

    /// A login that another system has vouched for and that may do nothing here: nobody guesses. The client is told what it would
    /// be told of a wrong password.
    fn login_without_rights(&mut self, hello: &Hello, unproved: Unproved) -> Action {
        let (reply, delay) = self.note_without_rights(hello, unproved);
        self.delayed_error(reply, delay)
    }

    /// The same without the answer.
    fn note_without_rights(&mut self, hello: &Hello, unproved: Unproved) -> (Reply, Duration) {
        let Peer { client, local, listener, .. } = self.context.peer;
        let Unproved { name, mechanism, why } = unproved;
        let mistake = self.context.policy.note_mistake(client, local, self.context.shared.clock.now());
        let shown = self.context.policy.login_to_note(&name);
        let refusal = self.context.refuse_password(hello, &shown, None);
        tracing::warn!(
            event = "login-without-rights",
            %client,
            listener = listener.as_str(),
            login = shown,
            mechanism = mechanism.as_str(),
            why,
            reference = refusal.reference.map(|reference| reference.to_string()),
            "a login that may do nothing here now"
        );
        self.context.shared.metrics.login("refused");
        (refusal.reply, mistake.failed.delay)
    }

    /// Refuses a wrong login, after a while.
    fn delayed_error(&mut self, reply: Reply, delay: Duration) -> Action {
        match self.error(reply) {
            Action::Reply(reply) if !delay.is_zero() => Action::Delayed(reply, delay),
            Action::Delayed(reply, other) => Action::Delayed(reply, other.max(delay)),
            action => action,
        }
    }

    /// Ends an AUTH exchange whose line was unusable; says whether there was one.
    pub(super) fn forget_exchange(&mut self) -> bool {
        let State::Authenticating(hello, _) = &self.state else { return false };
        self.state = State::Greeted(Arc::clone(hello));
        true
    }
}

impl Context {
    /// Asks about AUTH: of whoever has the right password, or whether it is offered at all.
    fn ask_login(&self, hello: &Hello) -> Result<Decision, Refusal> {
        self.ask(Matter { hello, reverse_path: &ReversePath::Null, recipients: 0 }, Stage::Login)
    }

    /// A name that is none, or not its password.
    fn refuse_password(&self, hello: &Hello, name: &str, why: Option<&str>) -> Refusal {
        let matter = Matter { hello, reverse_path: &ReversePath::Null, recipients: 0 };
        self.refusal(&self.question(matter, Stage::Login), &Decision::wrong_password(name, why))
    }
}

/// Somebody who has not shown to be who they say.
#[derive(Debug)]
struct Unproved {
    /// Fit for a log.
    name: String,
    mechanism: Mechanism,
    /// Why, for the log.
    why: Option<String>,
}

/// An app password that cannot be used.
#[derive(Debug)]
struct AppPassword {
    label: String,
    /// For the log.
    why: String,
}
