//! Egress policy of a guest: rules, and addresses that no rule opens. Pure; the net device checks every frame, so the
//! policy in force is the one that the machine was started with, whatever happens to the host's tables.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Destinations to which a guest may start a conversation. Anything not named is denied: without rules, everything is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Egress {
    /// Rules, each of which opens some destinations.
    pub rules: Vec<Rule>,
    /// Addresses of the host itself: [`Target::Public`] and names do not open them.
    pub host: Vec<IpAddr>,
    /// Addresses that no rule opens, because what carries the frames treats them as the host's loopback.
    pub closed: Vec<IpAddr>,
}

/// Rule that opens some destinations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Destination that the rule opens.
    pub target: Target,
    /// Ports that the rule opens; any if absent. ICMP has no ports, and is only opened by rules without ports.
    pub ports: Option<Ports>,
    /// Protocol that the rule opens; any if absent.
    pub protocol: Option<Protocol>,
}

/// Destination of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Every address of the public internet: no special one (see [`is_special`]) and none of the host's.
    Public,
    /// Addresses of a network, including private ones and the host's own.
    Network(IpNet),
    /// Public addresses that the resolver returns for this name: lower case, without a dot at its end.
    Name(String),
}

/// Range of ports, including both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ports {
    /// Lowest port.
    pub first: u16,
    /// Highest port.
    pub last: u16,
}

/// Protocol to which a rule can be restricted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// Echo requests of ICMP and ICMPv6; no other message of theirs leaves a guest.
    Icmp,
}

/// Destination of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Destination {
    /// Protocol of the packet.
    pub protocol: Protocol,
    /// Destination address.
    pub address: IpAddr,
    /// Destination port; ICMP has none.
    pub port: Option<u16>,
}

impl Egress {
    /// Whether a guest may start a conversation with `destination`. `is_named` returns whether the resolver gave its
    /// address for a name.
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

    /// Whether a guest may resolve names at all: an answer is a channel to the outside as well.
    #[must_use]
    pub fn permits_names(&self) -> bool {
        let needs_names = |rule: &Rule| matches!(rule.target, Target::Public | Target::Name(_));
        self.rules.iter().any(needs_names)
    }

    /// Names to which resolving is restricted; `None` if a public rule permits any name.
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

impl Ports {
    /// Whether `port` is in the range.
    #[must_use]
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl Rule {
    fn fits(&self, destination: Destination) -> bool {
        let fits_port = |ports: Ports| destination.port.is_some_and(|port| ports.contains(port));
        self.protocol.is_none_or(|protocol| protocol == destination.protocol) && self.ports.is_none_or(fits_port)
    }
}

impl fmt::Display for Rule {
    /// Formats the rule as on the command line.
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

/// Addresses of cloud services for the machines that they run: credentials, user data, configuration. No rule opens
/// them, in whatever form of address. Each has the page that documents it.
const METADATA: [(IpAddr, &str); 14] = [
    // AWS, Google Cloud, Azure, DigitalOcean, Hetzner, IBM, OpenStack, Oracle and most others.
    (
        v4(169, 254, 169, 254),
        "docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-instance-metadata.html",
    ),
    (
        v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254]),
        "docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-instance-metadata.html",
    ),
    // Credentials of an AWS ECS task, and of an EKS pod.
    (
        v4(169, 254, 170, 2),
        "docs.aws.amazon.com/AmazonECS/latest/developerguide/task-iam-roles.html",
    ),
    (
        v4(169, 254, 170, 23),
        "docs.aws.amazon.com/eks/latest/userguide/pod-id-how-it-works.html",
    ),
    (
        v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23]),
        "docs.aws.amazon.com/eks/latest/userguide/pod-id-how-it-works.html",
    ),
    // Azure's wire server: certificates and settings of extensions. It is formally an address of the public internet.
    (
        v4(168, 63, 129, 16),
        "learn.microsoft.com/azure/virtual-network/what-is-ip-address-168-63-129-16",
    ),
    (
        v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254]),
        "cloud.google.com/compute/docs/metadata/querying-metadata",
    ),
    (
        v4(100, 100, 100, 200),
        "alibabacloud.com/help/ecs/user-guide/view-instance-metadata",
    ),
    (v4(169, 254, 0, 23), "cloud.tencent.com/document/product/213/4934"),
    // Oracle's, of its older generation.
    (
        v4(192, 0, 0, 192),
        "docs.oracle.com/iaas/compute-iaas-cloud/stcsg/retrieving-instance-metadata.html",
    ),
    (
        v4(169, 254, 42, 42),
        "cloudinit.readthedocs.io/en/latest/reference/datasources/scaleway.html",
    ),
    (
        v6([0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42]),
        "cloudinit.readthedocs.io/en/latest/reference/datasources/scaleway.html",
    ),
    (
        v6([0xfd00, 0xa9fe, 0xa9fe, 0, 0, 0, 0, 1]),
        "cloudinit.readthedocs.io/en/latest/reference/datasources/akamai.html",
    ),
    (
        v6([0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe]),
        "docs.openstack.org/nova/latest/user/metadata.html",
    ),
];

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

const fn v6([a, b, c, d, e, f, g, h]: [u16; 8]) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, f, g, h))
}

/// Whether an address is that of a cloud's service for its machines, also in an IPv6 form.
#[must_use]
pub fn is_metadata(address: IpAddr) -> bool {
    let is_listed = |address: IpAddr| METADATA.iter().any(|(listed, _)| *listed == address);
    match address {
        IpAddr::V4(_) => is_listed(address),
        IpAddr::V6(v6) => is_listed(address) || embedded(v6).any(|v4| is_listed(IpAddr::V4(v4))),
    }
}

/// Whether no rule opens the address: it stands for the host's own loopback, its link, everybody, nobody, or the
/// metadata service of a cloud.
#[must_use]
pub fn is_closed(address: IpAddr) -> bool {
    is_metadata(address)
        || match address {
            IpAddr::V4(address) => is_closed_v4(address),
            IpAddr::V6(address) => {
                address.is_loopback()
                    || address.is_unspecified()
                    || address.is_multicast()
                    || address.is_unicast_link_local()
                    || embedded(address).any(is_closed_v4)
            }
        }
}

fn is_closed_v4(address: Ipv4Addr) -> bool {
    address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast()
        || address.octets()[0] == 0
}

/// IPv4 addresses that a router or a translator on the path may derive from an IPv6 address. A network's own prefix for
/// NAT64 or 6rd cannot be known.
fn embedded(address: Ipv6Addr) -> impl Iterator<Item = Ipv4Addr> {
    let bytes = address.octets();
    let at = |places: [usize; 4]| Some(Ipv4Addr::from(places.map(|place| bytes[place])));
    let last = || at([12, 13, 14, 15]);
    let found = match address.segments() {
        // IPv4-compatible, -mapped and -translated (RFC 4291, RFC 2765), and the well-known prefix of NAT64 (RFC 6052).
        [0, 0, 0, 0, 0 | 0xffff, 0 | 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => [last(), None, None, None],
        // NAT64's prefix for local use (RFC 8215), which may be cut at each of the lengths of RFC 6052, section 2.2.
        // Zeros are no address here, but the rest of a longer prefix.
        [0x64, 0xff9b, 1, ..] => [at([6, 7, 9, 10]), at([7, 9, 10, 11]), at([9, 10, 11, 12]), last()]
            .map(|found| found.filter(|v4| v4.octets()[0] != 0)),
        // 6to4 (RFC 3056).
        [0x2002, ..] => [at([2, 3, 4, 5]), None, None, None],
        // Teredo's server, and its client, whose bits are inverted (RFC 4380).
        [0x2001, 0, ..] => {
            let client = last().map(|client| Ipv4Addr::from_bits(!client.to_bits()));
            [at([4, 5, 6, 7]), client, None, None]
        }
        // ISATAP (RFC 5214).
        [_, _, _, _, 0 | 0x200, 0x5efe, ..] => [last(), None, None, None],
        _ => [None; 4],
    };
    found.into_iter().flatten()
}

/// Whether the address is not of the public internet (IANA's registries of special-purpose addresses, RFC 6890):
/// private, shared, for benchmark tests, or one that embeds an IPv4 address, which may be any of these.
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
            "168.63.129.16",
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
    fn no_rule_opens_metadata_in_any_form() {
        let all = ["0.0.0.0/0", "::/0", "168.63.129.16/32", "fd00::/8"];
        let mut rules: Vec<Rule> = all.iter().map(|text| rule(network(text), None, None)).collect();
        rules.push(rule(Target::Public, None, None));
        rules.push(rule(Target::Name("metadata.test".into()), None, None));
        let all = egress(rules);
        let opens = |protocol, address: &str| all.permits(to(protocol, address, 80), |_| true);
        for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Icmp] {
            for (address, source) in METADATA {
                assert!(!opens(protocol, &address.to_string()), "{address}: {source}");
            }
            // 168.63.129.16 and 127.0.0.1, as translators and tunnels write them.
            for address in [
                "::ffff:168.63.129.16",
                "::168.63.129.16",
                "::ffff:0:168.63.129.16",
                "64:ff9b::168.63.129.16",
                "64:ff9b:1::168.63.129.16",
                "64:ff9b:1:a83f:81:1000::",
                "64:ff9b:1:a8:3f:8110::",
                "64:ff9b:1:0:a8:3f81:1000::",
                "2002:a83f:8110::1",
                "2001:0:a83f:8110::1",
                "2001:0:102:304::57c0:7eef",
                "2001:db8::5efe:a83f:8110",
                "64:ff9b::127.0.0.1",
                "2002:7f00:1::1",
                "2002:a9fe:a9fe::1",
                "64:ff9b::169.254.169.254",
            ] {
                assert!(!opens(protocol, address), "{address}");
            }
            for address in [
                "168.63.129.17",
                "64:ff9b::1.1.1.1",
                "64:ff9b:1::1.1.1.1",
                "2002:101:101::1",
                "2001:db8::a83f:8110",
            ] {
                assert!(opens(protocol, address), "{address}");
            }
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
