//! Network configuration that a guest is given.

use std::fmt::Write as _;
use std::net::IpAddr;

use capsid_protocol::ContainerSpec;
use capsid_protocol::spec::{Address, Network};
use ipnet::IpNet;

use super::host::Host;
use super::{DefaultRoute, GATEWAY_V4, GATEWAY_V6, GUEST_V4, GUEST_V6, MTU, PREFIX_V4, PREFIX_V6, PodNetworks};
use crate::model::{Endpoint, Network as UserNetwork, NetworkConfig, Subnet};

/// Network configuration of a guest: its addresses and its resolver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GuestNetwork {
    links: Vec<Link>,
    /// Address that the guest asks for names, whatever networks it is on. On the own link, never a gateway of a
    /// user-defined network, so that it stays when a network goes.
    resolver: IpAddr,
    search: Vec<String>,
    options: Vec<String>,
}

/// Address of the guest, and the link that it is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Link {
    pub address: IpAddr,
    pub prefix_bits: u8,
    /// Gateway of the default route. A link without one reaches only its own members.
    pub gateway: Option<IpAddr>,
}

/// IPv4 link of a pod that is on no user-defined network.
pub(super) const OWN_V4: Link = Link {
    address: IpAddr::V4(GUEST_V4),
    prefix_bits: PREFIX_V4,
    gateway: Some(IpAddr::V4(GATEWAY_V4)),
};
/// IPv6 link of a pod that is on no user-defined network.
pub(super) const OWN_V6: Link = Link {
    address: IpAddr::V6(GUEST_V6),
    prefix_bits: PREFIX_V6,
    gateway: Some(IpAddr::V6(GATEWAY_V6)),
};

impl Link {
    /// Returns the link's network, which contains all addresses on it.
    pub(crate) fn network(&self) -> Option<IpNet> {
        IpNet::new(self.address, self.prefix_bits)
            .ok()
            .map(|network| network.trunc())
    }

    /// Returns the links of an endpoint on a user-defined network, one for each of its subnets. `leads` tells for which
    /// addresses there is a default route.
    pub(crate) fn on(network: &UserNetwork, endpoint: &Endpoint, leads: impl Fn(IpAddr) -> bool) -> Vec<Self> {
        let link = |(subnet, address): (&Subnet, &IpAddr)| Self {
            address: *address,
            prefix_bits: subnet.network.prefix_len(),
            gateway: leads(*address).then_some(subnet.gateway),
        };
        network
            .config
            .subnets
            .iter()
            .zip(&endpoint.addresses)
            .map(link)
            .collect()
    }
}

impl GuestNetwork {
    /// Creates the configuration: an address of each IP version on each network, those of the default route's network
    /// first. Only these have a gateway, and only for an IP version that this host has a default route for, or that a
    /// port is published over.
    pub(super) fn of(
        pod_networks: &PodNetworks<'_>,
        config: &NetworkConfig,
        route: &DefaultRoute,
        host: &Host,
    ) -> Self {
        let leads = |address: IpAddr| {
            let mut ports = config.ports.iter();
            let has_way = match address {
                IpAddr::V4(_) => host.way_v4.is_some() || host.way_v6.is_none(),
                IpAddr::V6(_) => host.way_v6.is_some(),
            };
            has_way || ports.any(|port| port.host.is_ipv4() == address.is_ipv4())
        };
        let mut links = Vec::new();
        if *route == DefaultRoute::Own {
            links.extend([OWN_V4, OWN_V6].into_iter().filter(|link| leads(link.address)));
        }
        let (by, beside): (Vec<_>, Vec<_>) = pod_networks
            .attachments()
            .partition(|(network, _)| route.is_by(&network.id));
        links.extend(
            by.into_iter()
                .flat_map(|(network, endpoint)| Link::on(network, endpoint, leads)),
        );
        links.extend(
            beside
                .into_iter()
                .flat_map(|(network, endpoint)| Link::on(network, endpoint, |_| false)),
        );
        // passt forwards queries only to a resolver of the same IP version.
        let asked = if config.dns.is_empty() {
            &host.resolvers
        } else {
            &config.dns
        };
        let is_answered = |link: &&Link| asked.iter().any(|to| to.is_ipv4() == link.address.is_ipv4());
        let leading = || links.iter().filter(|link| link.gateway.is_some());
        let asking = leading().find(is_answered).or_else(|| leading().next());
        let resolver = match asking.or(links.first()).map(|link| link.address) {
            Some(IpAddr::V6(_)) => IpAddr::V6(GATEWAY_V6),
            _ => IpAddr::V4(GATEWAY_V4),
        };
        Self {
            links,
            resolver,
            search: config.dns_search.clone(),
            options: config.dns_options.clone(),
        }
    }

    /// Returns the same configuration with another resolver.
    pub(super) fn asking(self, resolver: IpAddr) -> Self {
        Self { resolver, ..self }
    }

    /// All links of the guest, those of the default route first.
    pub(crate) fn links(&self) -> &[Link] {
        &self.links
    }

    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.links.iter().map(|link| link.address)
    }

    pub(super) fn gateways(&self) -> impl Iterator<Item = IpAddr> {
        self.links.iter().filter_map(|link| link.gateway)
    }

    /// Whether the guest has a default route for this IP version.
    pub(super) fn leads(&self, is_v4: bool) -> bool {
        self.gateways().any(|gateway| gateway.is_ipv4() == is_v4)
    }

    pub(super) fn resolver(&self) -> IpAddr {
        self.resolver
    }

    /// Returns the guest's interface in the form that the agent reads.
    pub(crate) fn interface(&self) -> Network {
        let bytes = |address: IpAddr| match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let address = |link: &Link| Address {
            address: bytes(link.address),
            prefix_bits: u32::from(link.prefix_bits),
            gateway: link.gateway.map(bytes).unwrap_or_default(),
        };
        Network {
            addresses: self.links.iter().map(address).collect(),
            mtu: MTU,
            resolvers: vec![bytes(self.resolver)],
        }
    }

    /// Writes the network into a container's spec: its interface, and the lines that docker writes into its files.
    pub(crate) fn apply_to(&self, spec: &mut ContainerSpec) {
        spec.network = Some(self.interface());
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
    use crate::model::{NetworkSpec, PublishedPort};
    use capsid_vmm::egress::Protocol;

    /// Host with IPv4 alone.
    fn host() -> Host {
        Host {
            addresses: Vec::new(),
            way_v4: Some("eth0".into()),
            way_v6: None,
            resolvers: Vec::new(),
        }
    }

    fn network(id: &str, subnets: &[(&str, &str)], internal: bool) -> UserNetwork {
        let subnet = |(network, gateway): &(&str, &str)| Subnet {
            network: network.parse().unwrap(),
            gateway: gateway.parse().unwrap(),
        };
        UserNetwork {
            id: id.into(),
            name: id.into(),
            created_ns: 0,
            config: NetworkSpec {
                subnets: subnets.iter().map(subnet).collect(),
                internal,
                labels: Vec::new(),
            },
        }
    }

    fn endpoint(id: &str, addresses: &[&str]) -> Endpoint {
        Endpoint {
            network: id.into(),
            name: id.into(),
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            aliases: Vec::new(),
        }
    }

    fn config(own_link: bool, endpoints: Vec<Endpoint>) -> NetworkConfig {
        NetworkConfig {
            mac: [2, 0, 0, 0, 0, 1],
            ports: Vec::new(),
            egress: Vec::new(),
            dns: Vec::new(),
            dns_search: vec!["a.example".into()],
            dns_options: Vec::new(),
            own_link,
            endpoints,
            bytes_per_second: None,
        }
    }

    /// Default route and guest configuration of a pod on these networks.
    fn made(config: &NetworkConfig, networks: Vec<UserNetwork>) -> (DefaultRoute, GuestNetwork) {
        let pod_networks = PodNetworks {
            id: "1",
            name: "web",
            hostname: "web",
            config: Some(config),
            networks,
        };
        let route = DefaultRoute::of(&pod_networks, config);
        let guest = GuestNetwork::of(&pod_networks, config, &route, &host());
        (route, guest)
    }

    #[test]
    fn an_internal_network_leads_nowhere_but_names_are_asked_for() {
        let config = config(false, vec![endpoint("mine", &["10.89.0.2", "fd12::2"])]);
        let subnets = [("10.89.0.0/24", "10.89.0.1"), ("fd12::/64", "fd12::1")];
        let (route, guest) = made(&config, vec![network("mine", &subnets, false)]);
        assert_eq!(route, DefaultRoute::Network("mine".into()));
        // The host has no IPv6.
        let gateways: Vec<_> = guest.links().iter().map(|link| link.gateway).collect();
        assert_eq!(gateways, [Some("10.89.0.1".parse().unwrap()), None]);
        assert_eq!(guest.links()[0].prefix_bits, 24);
        assert_eq!(guest.hosts("web"), "10.89.0.2\tweb\nfd12::2\tweb\n");
        let (route, guest) = made(&config, vec![network("mine", &subnets, true)]);
        assert_eq!((route, guest.gateways().count()), (DefaultRoute::Nowhere, 0));
        assert_eq!(guest.resolv_conf(), "nameserver 100.96.0.1\nsearch a.example\n");
        let mut spec = ContainerSpec::default();
        guest.apply_to(&mut spec);
        let interface = spec.network.unwrap();
        assert!(interface.addresses[0].gateway.is_empty());
        assert_eq!(interface.resolvers, [[100, 96, 0, 1]]);
    }

    #[test]
    fn the_first_network_that_leads_out_comes_first() {
        let two = || {
            vec![
                network("back", &[("10.90.0.0/24", "10.90.0.1")], true),
                network("front", &[("10.89.0.0/24", "10.89.0.1")], false),
            ]
        };
        let places = || vec![endpoint("back", &["10.90.0.2"]), endpoint("front", &["10.89.0.2"])];
        let (route, guest) = made(&config(false, places()), two());
        assert!(route.is_by("front"));
        let addresses = |guest: &GuestNetwork| {
            guest
                .links()
                .iter()
                .map(|link| link.address.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(addresses(&guest), ["10.89.0.2", "10.90.0.2"]);
        let (route, guest) = made(&config(true, places()), two());
        assert_eq!(route, DefaultRoute::Own);
        assert_eq!(addresses(&guest), ["100.96.0.2", "10.90.0.2", "10.89.0.2"]);
        assert_eq!(guest.gateways().count(), 1);
        let (route, guest) = made(&config(false, Vec::new()), Vec::new());
        assert_eq!((route, guest.links().len()), (DefaultRoute::Nowhere, 0));
        assert_eq!(guest.resolver(), IpAddr::V4(GATEWAY_V4));
    }

    #[test]
    fn what_is_published_leads_the_way_that_it_is_reached_by() {
        let mut config = config(true, Vec::new());
        let kinds = |config: &NetworkConfig| {
            let (_, guest) = made(config, Vec::new());
            guest.gateways().map(|gateway| gateway.is_ipv4()).collect::<Vec<_>>()
        };
        assert_eq!(kinds(&config), [true]);
        config.ports.push(PublishedPort {
            container: 80,
            protocol: Protocol::Tcp,
            host: "[::1]:80".parse().unwrap(),
            host_last: 0,
        });
        assert_eq!(kinds(&config), [true, false]);
        // Names are asked for over an IP version by which there is a resolver.
        assert_eq!(made(&config, Vec::new()).1.resolver(), IpAddr::V4(GATEWAY_V4));
        config.dns.push("2001:db8::53".parse().unwrap());
        assert_eq!(made(&config, Vec::new()).1.resolver(), IpAddr::V6(GATEWAY_V6));
    }

    #[test]
    fn names_of_a_network_of_ipv6_are_asked_for_over_ipv6() {
        let config = config(false, vec![endpoint("mine", &["fd12::2"])]);
        let (_, guest) = made(&config, vec![network("mine", &[("fd12::/64", "fd12::1")], false)]);
        assert_eq!(guest.resolver(), IpAddr::V6(GATEWAY_V6));
    }
}
