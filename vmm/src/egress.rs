//! What a guest may reach through its network: rules, and addresses that no rule opens. Pure; the net device asks for
//! every frame, so that what is in force is what the machine was started with, whatever happens to the host's tables.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// What a guest may begin to speak to. Nothing that is not named: without rules, nothing at all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Egress {
    /// Each of them opens something.
    pub rules: Vec<Rule>,
    /// Addresses of the host's own: [`Target::Public`] and names do not reach them.
    pub host: Vec<IpAddr>,
    /// Addresses that no rule opens: what carries the frames takes them for the host's loopback.
    pub closed: Vec<IpAddr>,
}

/// One thing that is opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Where to.
    pub target: Target,
    /// Any when absent; ICMP has none, and is only reached by rules without.
    pub ports: Option<Ports>,
    /// Any when absent.
    pub protocol: Option<Protocol>,
}

/// Where a rule leads to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Every address of the public internet: none that is special (see [`is_special`]) or the host's.
    Public,
    /// These addresses, also private ones and the host's own.
    Network(IpNet),
    /// Public addresses that the resolver gives for this name: lower case, without a dot at its end.
    Name(String),
}

/// A range of ports, both ends in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ports {
    /// The lowest.
    pub first: u16,
    /// The highest.
    pub last: u16,
}

/// What a rule may be narrowed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// Echo requests of ICMP and ICMPv6; nothing else of them leaves a guest.
    Icmp,
}

/// Where a packet goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Destination {
    /// Its protocol.
    pub protocol: Protocol,
    /// Its address.
    pub address: IpAddr,
    /// Its port; ICMP has none.
    pub port: Option<u16>,
}

impl Egress {
    /// Whether a guest may begin to speak to `destination`. `is_named` tells whether the resolver gave its address for a
    /// name.
    pub fn permits(&self, destination: Destination, is_named: impl Fn(&str) -> bool) -> bool {
        let address = destination.address.to_canonical();
        if is_closed(address) || self.closed.contains(&address) {
            return false;
        }
        let is_public = || !is_special(address) && !self.host.contains(&address);
        self.rules.iter().any(|rule| {
            rule.fits(destination)
                && match &rule.target {
                    Target::Public => is_public(),
                    Target::Network(network) => network.contains(&address),
                    Target::Name(name) => is_public() && is_named(name),
                }
        })
    }

    /// Whether a guest may ask for names at all: an answer is a way out too.
    #[must_use]
    pub fn permits_names(&self) -> bool {
        let needs_names = |rule: &Rule| matches!(rule.target, Target::Public | Target::Name(_));
        self.rules.iter().any(needs_names)
    }

    /// The names that alone may be asked for; any when there is a rule that needs none of them.
    #[must_use]
    pub fn only_names(&self) -> Option<Vec<&str>> {
        let names = self.rules.iter().filter_map(|rule| match &rule.target {
            Target::Public => None,
            Target::Name(name) => Some(name.as_str()),
            Target::Network(_) => Some(""),
        });
        let names: Vec<&str> = names.collect();
        (names.len() == self.rules.len()).then(|| names.into_iter().filter(|name| !name.is_empty()).collect())
    }
}

impl Rule {
    fn fits(&self, destination: Destination) -> bool {
        let fits_port = |ports: Ports| {
            destination
                .port
                .is_some_and(|port| (ports.first..=ports.last).contains(&port))
        };
        self.protocol.is_none_or(|protocol| protocol == destination.protocol) && self.ports.is_none_or(fits_port)
    }
}

impl fmt::Display for Rule {
    /// As the command line has it.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.target, self.ports) {
            (Target::Public, _) => formatter.write_str("public")?,
            (Target::Name(name), _) => formatter.write_str(name)?,
            // Without brackets the last colon would be part of the address.
            (Target::Network(network @ IpNet::V6(_)), Some(_)) => write!(formatter, "[{network}]")?,
            (Target::Network(network), _) => write!(formatter, "{network}")?,
        }
        match self.ports {
            Some(Ports { first, last }) if first == last => write!(formatter, ":{first}")?,
            Some(Ports { first, last }) => write!(formatter, ":{first}-{last}")?,
            None => {}
        }
        match self.protocol {
            Some(Protocol::Tcp) => formatter.write_str("/tcp"),
            Some(Protocol::Udp) => formatter.write_str("/udp"),
            Some(Protocol::Icmp) => formatter.write_str("/icmp"),
            None => Ok(()),
        }
    }
}

/// Amazon's metadata service over IPv6; over IPv4 it is a link-local address, as everybody's.
const METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// Whether no rule opens it: what these addresses mean is the host's own loopback, its link, everybody, nobody, or the
/// metadata service of a cloud.
#[must_use]
pub fn is_closed(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            address.is_loopback()
                || address.is_link_local()
                || address.is_multicast()
                || address.is_broadcast()
                || address.octets()[0] == 0
        }
        IpAddr::V6(address) => {
            address.is_loopback()
                || address.is_unspecified()
                || address.is_multicast()
                || address.is_unicast_link_local()
                || address == METADATA
        }
    }
}

/// Whether it is none of the public internet's (IANA's registries of special-purpose addresses, RFC 6890): private,
/// shared, for tests of benchmarks, or one that embeds an IPv4 address, which may be any of these.
#[must_use]
pub fn is_special(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_closed(IpAddr::V4(address)) || is_private(address),
        IpAddr::V6(address) => {
            let segments = address.segments();
            let embeds_ipv4 = match segments {
                // IPv4-compatible, -mapped and -translated.
                [0, 0, 0, 0, 0 | 0xffff, 0 | 0xffff, ..] => true,
                // NAT64: RFC 6052 and RFC 8215.
                [0x64, 0xff9b, ..] => true,
                // Teredo, 6to4.
                [0x2001, 0, ..] | [0x2002, ..] => true,
                _ => false,
            };
            // Discard-only; unique-local and site-local; ORCHID.
            let is_special = matches!(segments, [0x100, 0, 0, 0, ..] | [0x2001, 0x20..=0x2f, ..])
                || segments[0] & 0xfe00 == 0xfc00
                || segments[0] & 0xffc0 == 0xfec0;
            embeds_ipv4 || is_special || is_closed(IpAddr::V6(address))
        }
    }
}

fn is_private(address: Ipv4Addr) -> bool {
    match address.octets() {
        // Shared address space, RFC 6598.
        [100, 64..=127, ..] => true,
        // Protocol assignments; benchmarks, RFC 2544; reserved.
        [192, 0, 0, _] | [198, 18..=19, ..] | [240..=255, ..] => true,
        _ => address.is_private(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(protocol: Protocol, address: &str, port: u16) -> Destination {
        Destination {
            protocol,
            address: address.parse().expect("an address"),
            port: (protocol != Protocol::Icmp).then_some(port),
        }
    }

    fn rule(target: Target, ports: Option<(u16, u16)>, protocol: Option<Protocol>) -> Rule {
        Rule {
            target,
            ports: ports.map(|(first, last)| Ports { first, last }),
            protocol,
        }
    }

    fn network(text: &str) -> Target {
        Target::Network(text.parse().expect("a network"))
    }

    fn egress(rules: Vec<Rule>) -> Egress {
        Egress {
            rules,
            host: vec!["198.51.100.7".parse().expect("an address")],
            closed: vec!["198.51.100.8".parse().expect("an address")],
        }
    }

    fn permits(egress: &Egress, address: &str) -> bool {
        egress.permits(to(Protocol::Tcp, address, 80), |_| false)
    }

    #[test]
    fn public_is_what_is_not_special() {
        let public = egress(vec![rule(Target::Public, None, None)]);
        for address in [
            "1.1.1.1",
            "203.0.113.9",
            "172.32.0.1",
            "100.128.0.1",
            "2606:4700::1111",
            "2001:db8::1",
        ] {
            assert!(permits(&public, address), "{address}");
        }
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "198.51.100.7",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:0:1.1.1.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2002:7f00:1::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!permits(&public, address), "{address}");
        }
    }

    #[test]
    fn a_network_opens_also_what_is_private_or_the_hosts() {
        let rules = ["10.1.0.0/16", "198.51.100.7/32", "fd12::/16", "0.0.0.0/0", "::/0"];
        let opened = egress(rules[..3].iter().map(|text| rule(network(text), None, None)).collect());
        assert!(permits(&opened, "10.1.255.1") && permits(&opened, "198.51.100.7") && permits(&opened, "fd12::1"));
        assert!(permits(&opened, "::ffff:10.1.0.1"), "the same address in other clothes");
        assert!(!permits(&opened, "10.2.0.1") && !permits(&opened, "1.1.1.1"));
        let all = egress(rules.iter().map(|text| rule(network(text), None, None)).collect());
        for address in [
            "127.0.0.1",
            "169.254.169.254",
            "fd00:ec2::254",
            "fe80::1",
            "::1",
            "::ffff:127.0.0.1",
            "198.51.100.8",
        ] {
            assert!(!permits(&all, address), "{address}");
        }
    }

    #[test]
    fn ports_and_protocols_narrow() {
        let web = egress(vec![
            rule(network("10.0.0.0/8"), Some((80, 81)), Some(Protocol::Tcp)),
            rule(network("10.9.0.0/16"), Some((53, 53)), None),
            rule(network("10.8.0.0/16"), None, Some(Protocol::Icmp)),
        ]);
        let permits = |protocol, address, port| web.permits(to(protocol, address, port), |_| false);
        assert!(permits(Protocol::Tcp, "10.0.0.1", 80) && permits(Protocol::Tcp, "10.0.0.1", 81));
        assert!(!permits(Protocol::Tcp, "10.0.0.1", 79) && !permits(Protocol::Tcp, "10.0.0.1", 82));
        assert!(!permits(Protocol::Udp, "10.0.0.1", 80) && !permits(Protocol::Icmp, "10.0.0.1", 0));
        assert!(permits(Protocol::Udp, "10.9.0.1", 53) && permits(Protocol::Tcp, "10.9.0.1", 53));
        assert!(
            !permits(Protocol::Icmp, "10.9.0.1", 0),
            "a rule with ports opens no ICMP"
        );
        assert!(permits(Protocol::Icmp, "10.8.0.1", 0) && !permits(Protocol::Tcp, "10.8.0.1", 443));
    }

    #[test]
    fn names_open_public_addresses_that_they_have() {
        let named = egress(vec![rule(Target::Name("a.test".into()), Some((443, 443)), None)]);
        let permits = |address, port| named.permits(to(Protocol::Tcp, address, port), |name| name == "a.test");
        assert!(permits("1.2.3.4", 443) && !permits("1.2.3.4", 80));
        assert!(!permits("10.0.0.1", 443) && !permits("198.51.100.7", 443) && !permits("127.0.0.1", 443));
        assert!(!named.permits(to(Protocol::Tcp, "1.2.3.4", 443), |_| false));
    }

    #[test]
    fn names_are_asked_for_only_where_they_open_something() {
        let names = |rules: Vec<Rule>| {
            let egress = egress(rules);
            let only = egress.only_names().map(|names| names.join(","));
            (egress.permits_names(), only)
        };
        let name = || rule(Target::Name("a.test".into()), None, None);
        assert_eq!(names(vec![]), (false, Some(String::new())));
        assert_eq!(
            names(vec![rule(network("10.0.0.0/8"), None, None)]),
            (false, Some(String::new()))
        );
        assert_eq!(names(vec![name()]), (true, Some("a.test".into())));
        assert_eq!(
            names(vec![name(), rule(network("10.0.0.0/8"), None, None)]),
            (true, Some("a.test".into()))
        );
        assert_eq!(names(vec![name(), rule(Target::Public, None, None)]), (true, None));
    }

    #[test]
    fn rules_are_shown_as_they_are_typed() {
        let shown = |target, ports, protocol| rule(target, ports, protocol).to_string();
        assert_eq!(shown(Target::Public, None, None), "public");
        assert_eq!(
            shown(network("10.0.0.0/8"), Some((80, 90)), Some(Protocol::Tcp)),
            "10.0.0.0/8:80-90/tcp"
        );
        assert_eq!(shown(network("fd12::/16"), Some((80, 80)), None), "[fd12::/16]:80");
        assert_eq!(
            shown(network("fd12::/16"), None, Some(Protocol::Icmp)),
            "fd12::/16/icmp"
        );
        assert_eq!(
            shown(Target::Name("a.test".into()), Some((443, 443)), None),
            "a.test:443"
        );
    }
}
