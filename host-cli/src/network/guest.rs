//! What a guest is told of its network.

use std::fmt::Write as _;
use std::net::IpAddr;

use capsid_protocol::ContainerSpec;
use capsid_protocol::spec::{Address, Network};
use ipnet::IpNet;

use super::host::Host;
use super::{GATEWAY_V4, GATEWAY_V6, GUEST_V4, GUEST_V6, MTU, PREFIX_V4, PREFIX_V6};
use crate::state::{Joined, Network as UserNetwork, NetworkConfig, Subnet};

/// It: one or two addresses, and where names are asked for.
#[derive(Debug, Clone)]
pub(crate) struct GuestNetwork {
    links: Vec<Link>,
    /// Where the guest asks for names: the gateway, which passes it on.
    resolver: IpAddr,
    search: Vec<String>,
    options: Vec<String>,
}

/// An address of the guest's, and the link that it is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Link {
    pub address: IpAddr,
    pub prefix_bits: u8,
    /// The way to everywhere; a link without one leads to whom it connects.
    pub gateway: Option<IpAddr>,
}

/// The link of IPv4 of a pod that is on no network of the user's.
pub(super) const OWN_V4: Link = Link {
    address: IpAddr::V4(GUEST_V4),
    prefix_bits: PREFIX_V4,
    gateway: Some(IpAddr::V4(GATEWAY_V4)),
};
/// The same of IPv6.
pub(super) const OWN_V6: Link = Link {
    address: IpAddr::V6(GUEST_V6),
    prefix_bits: PREFIX_V6,
    gateway: Some(IpAddr::V6(GATEWAY_V6)),
};

impl Link {
    /// All addresses on it.
    pub(crate) fn network(&self) -> Option<IpNet> {
        IpNet::new(self.address, self.prefix_bits)
            .ok()
            .map(|network| network.trunc())
    }
}

impl GuestNetwork {
    /// An address of each kind that leads anywhere on this host; one of IPv4 when none does.
    pub(super) fn new(host: &Host, config: &NetworkConfig) -> Self {
        let mut links = Vec::new();
        if host.has_v4 || !host.has_v6 {
            links.push(OWN_V4);
        }
        if host.has_v6 {
            links.push(OWN_V6);
        }
        let gateway = links.first().and_then(|link| link.gateway);
        Self::with(links, gateway, config)
    }

    /// An address of each subnet of a user's network.
    pub(crate) fn on(network: &UserNetwork, joined: &Joined, config: &NetworkConfig) -> Self {
        let subnets = &network.config.subnets;
        let link = |(subnet, address): (&Subnet, &IpAddr)| Link {
            address: *address,
            prefix_bits: subnet.network.prefix_len(),
            gateway: (!network.config.internal).then_some(subnet.gateway),
        };
        let links = subnets.iter().zip(&joined.addresses).map(link).collect();
        Self::with(links, subnets.first().map(|subnet| subnet.gateway), config)
    }

    /// The same without the ways that this host does not have itself: programs would wait for answers.
    pub(super) fn that_leads_where(mut self, host: &Host) -> Self {
        for link in &mut self.links {
            let leads = if link.address.is_ipv4() {
                host.has_v4 || !host.has_v6
            } else {
                host.has_v6
            };
            link.gateway = link.gateway.filter(|_| leads);
        }
        // The network's switch answers at every gateway, but only this one passes on what it does not know.
        let leading = self.gateways().next();
        self.resolver = leading.unwrap_or(self.resolver);
        self
    }

    fn with(links: Vec<Link>, resolver: Option<IpAddr>, config: &NetworkConfig) -> Self {
        Self {
            links,
            resolver: resolver.unwrap_or(IpAddr::V4(GATEWAY_V4)),
            search: config.dns_search.clone(),
            options: config.dns_options.clone(),
        }
    }

    /// One of each kind that it has, IPv4 first.
    pub(crate) fn links(&self) -> &[Link] {
        &self.links
    }

    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.links.iter().map(|link| link.address)
    }

    pub(super) fn gateways(&self) -> impl Iterator<Item = IpAddr> {
        self.links.iter().filter_map(|link| link.gateway)
    }

    pub(super) fn resolver(&self) -> IpAddr {
        self.resolver
    }

    /// Tells a container of it: its interface, and the lines that docker writes into its files.
    pub(crate) fn furnish(&self, spec: &mut ContainerSpec) {
        let bytes = |address: IpAddr| match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let address = |link: &Link| Address {
            address: bytes(link.address),
            prefix_bits: u32::from(link.prefix_bits),
            gateway: link.gateway.map(bytes).unwrap_or_default(),
        };
        spec.network = Some(Network {
            addresses: self.links.iter().map(address).collect(),
            mtu: MTU,
            resolvers: Vec::new(),
        });
        for file in &mut spec.files {
            match file.path.as_str() {
                "/etc/hosts" => file.content.extend(self.hosts(&spec.hostname).into_bytes()),
                "/etc/resolv.conf" => file.content = self.resolv_conf().into_bytes(),
                _ => {}
            }
        }
    }

    fn hosts(&self, hostname: &str) -> String {
        self.addresses()
            .map(|address| format!("{address}\t{hostname}\n"))
            .collect()
    }

    fn resolv_conf(&self) -> String {
        let mut text = format!("nameserver {}\n", self.resolver());
        for (word, values) in [("search", &self.search), ("options", &self.options)] {
            if !values.is_empty() {
                // Writing to a string cannot fail.
                let _ = writeln!(text, "{word} {}", values.join(" "));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::NetworkSpec;

    #[test]
    fn an_internal_network_leads_nowhere_but_answers_names() {
        let subnet = |network: &str, gateway: &str| Subnet {
            network: network.parse().unwrap(),
            gateway: gateway.parse().unwrap(),
        };
        let mut network = UserNetwork {
            id: String::new(),
            name: "mine".into(),
            created_ns: 0,
            config: NetworkSpec {
                subnets: vec![subnet("10.89.0.0/24", "10.89.0.1"), subnet("fd12::/64", "fd12::1")],
                internal: false,
                labels: Vec::new(),
            },
        };
        let joined = Joined {
            network: String::new(),
            name: "mine".into(),
            addresses: vec!["10.89.0.2".parse().unwrap(), "fd12::2".parse().unwrap()],
            aliases: Vec::new(),
        };
        let config = NetworkConfig {
            mac: [2, 0, 0, 0, 0, 1],
            ports: Vec::new(),
            egress: Vec::new(),
            dns: Vec::new(),
            dns_search: vec!["a.example".into()],
            dns_options: Vec::new(),
            own_link: false,
            joined: Vec::new(),
            bytes_per_second: None,
        };
        let made = |network: &UserNetwork| GuestNetwork::on(network, &joined, &config);
        let gateways = |network: &UserNetwork| made(network).links.iter().map(|link| link.gateway).collect::<Vec<_>>();
        assert_eq!(made(&network).links[0].prefix_bits, 24);
        assert_eq!(
            gateways(&network),
            network
                .config
                .subnets
                .iter()
                .map(|s| Some(s.gateway))
                .collect::<Vec<_>>()
        );
        assert_eq!(made(&network).hosts("web"), "10.89.0.2\tweb\nfd12::2\tweb\n");
        network.config.internal = true;
        assert_eq!(gateways(&network), [None, None]);
        assert_eq!(made(&network).resolv_conf(), "nameserver 10.89.0.1\nsearch a.example\n");
        let mut spec = ContainerSpec::default();
        made(&network).furnish(&mut spec);
        assert!(spec.network.unwrap().addresses[0].gateway.is_empty());
    }
}
