//! Which recipients of relay domains exist, as the servers said that their mail goes to.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use postern_smtp::{Address, Domain};

/// An answer is kept at least so long: the command that it was asked for is decided with it.
const SHORTEST: Duration = Duration::from_secs(10);

/// What a server said of a recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// It takes mail for it.
    Exists {
        /// The server.
        host: String,
    },
    /// It refuses it for good (5yz).
    Unknown {
        /// The server.
        host: String,
        /// Its words.
        reply: String,
    },
    /// Nothing that could be relied on: why not.
    Nothing(String),
}

/// The answers that are kept.
#[derive(Debug, Default)]
pub struct CalledForward {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// By folded address.
    answers: HashMap<String, Kept>,
    /// The addresses with the number of their answer, the oldest first. An answer that was replaced is still there once.
    order: VecDeque<(u64, String)>,
    next: u64,
    /// Domains whose server did not answer.
    down: HashMap<Domain, (SystemTime, String)>,
}

#[derive(Debug)]
struct Kept {
    said: Said,
    until: SystemTime,
    number: u64,
}

impl CalledForward {
    /// What is known now. `None`: nobody has been asked.
    pub fn find(&self, recipient: &Address, now: SystemTime) -> Option<Said> {
        let table = self.table.lock();
        if let Some(kept) = table.answers.get(&recipient.folded()).filter(|kept| now < kept.until) {
            return Some(kept.said.clone());
        }
        let (until, why) = table.down.get(recipient.domain()?)?;
        (now < *until).then(|| Said::Nothing(why.clone()))
    }

    /// Keeps an answer for a while. Beyond `most` the oldest go.
    pub fn learn(&self, recipient: &Address, said: Said, ttl: Duration, most: usize, now: SystemTime) {
        let (key, until) = (recipient.folded(), now + ttl.max(SHORTEST));
        let mut table = self.table.lock();
        table.next += 1;
        let number = table.next;
        table.answers.insert(key.clone(), Kept { said, until, number });
        table.order.push_back((number, key));
        table.shrink(most.max(1));
    }

    /// The server of the domain cannot be asked: for a while nobody tries.
    pub fn is_down(&self, domain: &Domain, why: String, ttl: Duration, now: SystemTime) {
        self.table.lock().down.insert(domain.clone(), (now + ttl.max(SHORTEST), why));
    }

    /// The server of the domain has answered.
    pub fn is_up(&self, domain: &Domain) {
        self.table.lock().down.remove(domain);
    }

    /// How many answers are kept, those that are too old by now included.
    pub fn len(&self) -> usize {
        self.table.lock().answers.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Table {
    fn shrink(&mut self, most: usize) {
        while self.answers.len() > most
            && let Some((number, key)) = self.order.pop_front()
        {
            if self.answers.get(&key).is_some_and(|kept| kept.number == number) {
                self.answers.remove(&key);
            }
        }
        // One that is asked about again and again must not leave more behind than all the others together.
        if self.order.len() > 2 * self.answers.len() + 16 {
            let answers = &self.answers;
            self.order.retain(|(number, key)| answers.get(key).is_some_and(|kept| kept.number == *number));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;
    const HOUR: Duration = Duration::from_secs(3600);

    fn address(text: &str) -> Address {
        Address::parse(text).unwrap()
    }

    fn exists() -> Said {
        Said::Exists { host: "mx.customer.test".to_owned() }
    }

    #[test]
    fn an_answer_counts_for_its_time_in_any_case() {
        let known = CalledForward::default();
        assert_eq!(known.find(&address("carol@customer.test"), NOW), None);
        known.learn(&address("Carol@customer.test"), exists(), HOUR, 10, NOW);
        assert_eq!(known.find(&address("carol@CUSTOMER.test"), NOW), Some(exists()));
        assert_eq!(known.find(&address("carol@customer.test"), NOW + HOUR), None);
        assert_eq!(known.find(&address("dave@customer.test"), NOW), None);
    }

    #[test]
    fn the_question_that_asked_finds_its_answer() {
        let known = CalledForward::default();
        known.learn(&address("carol@customer.test"), exists(), Duration::ZERO, 0, NOW);
        assert_eq!(known.find(&address("carol@customer.test"), NOW), Some(exists()));
    }

    #[test]
    fn a_server_that_is_down_is_so_for_all_of_its_domain() {
        let known = CalledForward::default();
        let carol = address("carol@customer.test");
        known.learn(&carol, exists(), HOUR, 10, NOW);
        known.is_down(carol.domain().unwrap(), "timeout".to_owned(), HOUR, NOW);
        assert_eq!(known.find(&carol, NOW), Some(exists()));
        let dave = address("dave@customer.test");
        assert_eq!(known.find(&dave, NOW), Some(Said::Nothing("timeout".to_owned())));
        assert_eq!(known.find(&dave, NOW + HOUR), None);
        assert_eq!(known.find(&address("erin@adatum.test"), NOW), None);
        known.is_up(carol.domain().unwrap());
        assert_eq!(known.find(&dave, NOW), None);
    }

    #[test]
    fn there_are_never_more_answers_than_allowed_and_the_oldest_go() {
        let known = CalledForward::default();
        for number in 0..100 {
            known.learn(&address(&format!("u{number}@customer.test")), exists(), HOUR, 10, NOW);
            known.learn(&address("often@customer.test"), exists(), HOUR, 10, NOW);
        }
        assert_eq!(known.len(), 10);
        assert_eq!(known.find(&address("u99@customer.test"), NOW), Some(exists()));
        assert_eq!(known.find(&address("often@customer.test"), NOW), Some(exists()));
        assert_eq!(known.find(&address("u0@customer.test"), NOW), None);
        assert!(known.table.lock().order.len() <= 2 * 10 + 16);
    }
}
