//! What a guest is told of its network.

use std::fmt::Write as _;
use std::net::IpAddr;

use capsid_protocol::ContainerSpec;
use capsid_protocol::spec::{Address, Network};

use super::host::Host;
use super::{GATEWAY_V4, GATEWAY_V6, GUEST_V4, GUEST_V6, MTU, PREFIX_V4, PREFIX_V6};
use crate::state::NetworkConfig;

/// It: one or two addresses, and where names are asked for.
#[derive(Debug, Clone)]
pub(crate) struct GuestNetwork {
    /// The guest's address, its link's length, and the gateway.
    links: Vec<(IpAddr, u8, IpAddr)>,
    search: Vec<String>,
    options: Vec<String>,
}

impl GuestNetwork {
    /// An address of each kind that leads anywhere on this host; one of IPv4 when none does.
    pub(super) fn new(host: &Host, config: &NetworkConfig) -> Self {
        let mut links: Vec<(IpAddr, u8, IpAddr)> = Vec::new();
        if host.has_v4 || !host.has_v6 {
            links.push((GUEST_V4.into(), PREFIX_V4, GATEWAY_V4.into()));
        }
        if host.has_v6 {
            links.push((GUEST_V6.into(), PREFIX_V6, GATEWAY_V6.into()));
        }
        Self {
            links,
            search: config.dns_search.clone(),
            options: config.dns_options.clone(),
        }
    }

    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.links.iter().map(|(address, ..)| *address)
    }

    /// Where the guest asks for names: the gateway, which passes it on.
    pub(super) fn resolver(&self) -> IpAddr {
        self.links
            .first()
            .map_or(IpAddr::V4(GATEWAY_V4), |(.., gateway)| *gateway)
    }

    /// Tells a container of it: its interface, and the lines that docker writes into its files.
    pub(crate) fn furnish(&self, spec: &mut ContainerSpec) {
        let bytes = |address: IpAddr| match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let address = |(address, prefix, gateway): &(IpAddr, u8, IpAddr)| Address {
            address: bytes(*address),
            prefix_bits: u32::from(*prefix),
            gateway: bytes(*gateway),
        };
        spec.network = Some(Network {
            addresses: self.links.iter().map(address).collect(),
            mtu: MTU,
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
