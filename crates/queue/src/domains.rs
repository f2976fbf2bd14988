//! The domains that waiting messages go to, each stored once: a message keeps a number. So a queue of a million messages
//! is counted by domain without reading any of them.

use std::collections::HashMap;
use std::sync::Arc;

/// The number of a domain, while a message uses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DomainNumber(u32);

impl DomainNumber {
    /// Of no domain, or of several.
    pub(crate) const NONE: Self = Self(u32::MAX);
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Domains {
    named: Vec<Named>,
    numbers: HashMap<Arc<str>, u32>,
    /// Numbers that nobody uses.
    free: Vec<u32>,
}

#[derive(Debug)]
struct Named {
    name: Arc<str>,
    users: usize,
}

impl Domains {
    /// The number of a domain, for one more message.
    pub(crate) fn take(&mut self, name: &str) -> DomainNumber {
        if let Some(number) = self.numbers.get(name).copied() {
            if let Some(named) = self.named.get_mut(number as usize) {
                named.users += 1;
            }
            return DomainNumber(number);
        }
        let name: Arc<str> = name.into();
        let named = Named { name: name.clone(), users: 1 };
        let number = match self.free.pop() {
            Some(number) => {
                self.named[number as usize] = named;
                number
            }
            None => {
                self.named.push(named);
                self.named.len() as u32 - 1
            }
        };
        self.numbers.insert(name, number);
        DomainNumber(number)
    }

    /// A message does not use it any more.
    pub(crate) fn give_back(&mut self, number: DomainNumber) {
        let Some(named) = self.named.get_mut(number.0 as usize) else {
            return;
        };
        named.users -= 1;
        if named.users == 0 {
            self.numbers.remove(&named.name);
            self.free.push(number.0);
        }
    }

    /// Its name.
    pub(crate) fn name(&self, number: DomainNumber) -> Option<&str> {
        self.named.get(number.0 as usize).map(|named| &*named.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_has_one_number_as_long_as_it_is_used() {
        let mut domains = Domains::default();
        let adatum = domains.take("adatum.test");
        let other = domains.take("thephone-company.test");
        assert_eq!(domains.take("adatum.test"), adatum);
        domains.give_back(adatum);
        assert_eq!(domains.name(adatum), Some("adatum.test"));
        domains.give_back(adatum);
        let third = domains.take("proseware.test");
        assert_eq!((third, domains.name(third)), (adatum, Some("proseware.test")), "the number is free");
        assert_eq!(domains.name(other), Some("thephone-company.test"));
        assert_ne!(domains.take("adatum.test"), adatum);
    }

    #[test]
    fn no_domain_has_no_name() {
        let mut domains = Domains::default();
        domains.give_back(DomainNumber::NONE);
        assert_eq!(domains.name(DomainNumber::NONE), None);
    }
}
