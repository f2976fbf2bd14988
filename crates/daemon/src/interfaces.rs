//! The addresses of this machine, as the system knows them now.

use std::net::IpAddr;

use postern_config::surroundings::interface_addresses;

/// Those of all interfaces. None where the system does not say; that is logged.
pub fn addresses() -> Vec<IpAddr> {
    interface_addresses().unwrap_or_else(|error| {
        tracing::warn!(event = "interfaces-unknown", %error, "the addresses of this machine are not known");
        Vec::new()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_among_them() {
        assert!(addresses().iter().any(IpAddr::is_loopback), "{:?}", addresses());
    }
}
