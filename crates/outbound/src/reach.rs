//! Whether mail gets out at all: many providers block port 25, and the only sign is that every connection times out.

use std::collections::HashSet;
use std::io;

use parking_lot::Mutex;
use postern_queue::Destination;

use crate::outcome::Failure;

/// So many destinations that only time out, and none that answers, are no accident.
const SUSPICIOUS: usize = 6;

/// What was learnt since the last connection to an MX host succeeded.
#[derive(Debug, Default)]
pub(crate) struct Reach {
    timed_out: Mutex<HashSet<Destination>>,
}

/// A change of what is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// The port seems to be blocked.
    Blocked,
    /// It is not, or not any more.
    Open,
}

impl Reach {
    /// Whether the port seems to be blocked.
    pub(crate) fn is_blocked(&self) -> bool {
        self.timed_out.lock().len() >= SUSPICIOUS
    }

    /// Takes in how a connection to an MX host went. A refusal comes from somewhere, so it too is a sign of life.
    pub(crate) fn connection(&self, destination: &Destination, failure: Option<&Failure>) -> Option<Change> {
        let mut timed_out = self.timed_out.lock();
        let was_blocked = timed_out.len() >= SUSPICIOUS;
        match failure {
            Some(Failure::Unreachable { source, .. }) if source.kind() == io::ErrorKind::TimedOut => {
                if !was_blocked {
                    timed_out.insert(destination.clone());
                }
            }
            _ => timed_out.clear(),
        }
        match (was_blocked, timed_out.len() >= SUSPICIOUS) {
            (false, true) => Some(Change::Blocked),
            (true, false) => Some(Change::Open),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_many_destinations_that_time_out_are_a_blocked_port() {
        let reach = Reach::default();
        let destination = |number: usize| Destination(format!("mx {number}.test").into());
        let unreachable = |kind: io::ErrorKind| Failure::Unreachable {
            target: "mx.test (192.0.2.7:25)".to_owned(),
            source: kind.into(),
        };
        let timeout = unreachable(io::ErrorKind::TimedOut);
        let refused = unreachable(io::ErrorKind::ConnectionRefused);
        for number in 1..SUSPICIOUS {
            assert_eq!(reach.connection(&destination(number), Some(&timeout)), None);
            assert_eq!(reach.connection(&destination(1), Some(&timeout)), None);
        }
        assert_eq!(reach.connection(&destination(0), Some(&timeout)), Some(Change::Blocked));
        assert!(reach.is_blocked());
        assert_eq!(reach.connection(&destination(99), Some(&timeout)), None);
        assert_eq!(reach.connection(&destination(1), Some(&refused)), Some(Change::Open));
        assert_eq!(reach.connection(&destination(1), None), None);
        assert!(!reach.is_blocked());
    }
}
