//! What a check must know about the machine: whether this is a container, its gateways, its addresses, its users.

use std::env;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use nix::ifaddrs::getifaddrs;
use nix::unistd::{Group, User};

/// Files that container engines leave inside: Docker, Podman, systemd for what it or LXC started, Kubernetes.
const CONTAINER_MARKS: [&str; 4] =
    ["/.dockerenv", "/run/.containerenv", "/run/systemd/container", "/var/run/secrets/kubernetes.io"];
/// What Kubernetes tells every container, whatever engine runs it.
const KUBERNETES_VARIABLE: &str = "KUBERNETES_SERVICE_HOST";
/// A route through a gateway (`RTF_GATEWAY` of the kernel).
const FLAG_GATEWAY: u32 = 2;

/// The machine, as far as checks care.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Whether this is a container.
    pub container: bool,
    /// The default gateways. Inside a container, clients from outside may all seem to come from there.
    pub gateways: Vec<IpAddr>,
    /// The addresses of its interfaces, loopback included.
    pub own: Vec<IpAddr>,
}

impl Surroundings {
    /// This machine. What cannot be read counts as absent.
    pub fn look() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let mut gateways = gateways_v4(&read("/proc/net/route"));
        gateways.extend(gateways_v6(&read("/proc/net/ipv6_route")));
        Self { container: in_container(), gateways, own: interface_addresses().unwrap_or_default() }
    }
}

/// The addresses of all interfaces as they are now, loopback included.
///
/// # Errors
/// Where the system does not say.
pub fn interface_addresses() -> io::Result<Vec<IpAddr>> {
    let address = |interface: nix::ifaddrs::InterfaceAddress| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
    };
    Ok(getifaddrs()?.filter_map(address).collect())
}

fn in_container() -> bool {
    CONTAINER_MARKS.iter().any(|path| Path::new(path).exists())
        || env::var_os(KUBERNETES_VARIABLE).is_some()
        // Only root can read it; who starts a mail server mostly is.
        || fs::read("/proc/1/environ").is_ok_and(|environment| names_container(&environment))
}

/// Whether the first process was given `container=...`, as systemd, LXC and Podman do. Variables end with NUL.
fn names_container(environment: &[u8]) -> bool {
    environment.split(|byte| *byte == 0).any(|variable| variable.starts_with(b"container="))
}

/// Whether the system knows the user. When it cannot be asked, the answer is yes: starting will tell.
pub(crate) fn user_exists(name: &str) -> bool {
    !matches!(User::from_name(name), Ok(None))
}

/// The same of a group.
pub(crate) fn group_exists(name: &str) -> bool {
    !matches!(Group::from_name(name), Ok(None))
}

/// `/proc/net/route`: interface, destination, gateway, flags, three numbers, mask; addresses in the order of the machine.
fn gateways_v4(table: &str) -> Vec<IpAddr> {
    let gateway = |line: &str| {
        let columns: Vec<&str> = line.split_ascii_whitespace().collect();
        let number = |at: usize| u32::from_str_radix(columns.get(at)?, 16).ok();
        let (destination, gateway, flags, mask) = (number(1)?, number(2)?, number(3)?, number(7)?);
        let is_default = destination == 0 && mask == 0 && flags & FLAG_GATEWAY != 0;
        is_default.then(|| IpAddr::V4(Ipv4Addr::from(gateway.to_ne_bytes())))
    };
    table.lines().filter_map(gateway).collect()
}

/// `/proc/net/ipv6_route`: destination, its length, source, its length, next hop, and numbers.
fn gateways_v6(table: &str) -> Vec<IpAddr> {
    let gateway = |line: &str| {
        let columns: Vec<&str> = line.split_ascii_whitespace().collect();
        let address = |at: usize| u128::from_str_radix(columns.get(at)?, 16).ok();
        let (destination, next_hop) = (address(0)?, address(4)?);
        let is_default = destination == 0 && columns.get(1) == Some(&"00") && next_hop != 0;
        is_default.then(|| IpAddr::V6(Ipv6Addr::from(next_hop)))
    };
    table.lines().filter_map(gateway).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn ipv4_gateways_are_found_in_the_routing_table() {
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                     eth0\t00000000\t010011AC\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                     eth0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n";
        assert_eq!(gateways_v4(table), [IpAddr::from([172, 17, 0, 1])]);
    }

    #[test]
    fn this_machine_has_addresses() {
        assert!(Surroundings::look().own.iter().any(IpAddr::is_loopback));
    }

    #[test]
    fn a_container_shows_in_the_environment_of_its_first_process() {
        assert!(names_container(b"PATH=/bin\0container=podman\0"));
        assert!(!names_container(b"PATH=/bin\0a_container=x\0"));
        assert!(!names_container(b""));
    }

    #[test]
    fn ipv6_gateways_are_found_in_the_routing_table() {
        let zero = "00000000000000000000000000000000";
        let hop = "fd000000000000000000000000000001";
        let table = format!(
            "{zero} 00 {zero} 00 {hop} 00000400 00000001 00000000 00000003 eth0\n\
             {zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200 lo\n"
        );
        assert_eq!(
            gateways_v6(&table),
            ["fd00::1".parse::<IpAddr>().ok()].into_iter().flatten().collect::<Vec<_>>()
        );
    }
}
