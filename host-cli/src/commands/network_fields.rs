//! docker's fields of a container's or pod's network, for `inspect` and `ps`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Value, json};

use crate::network::{Endpoint, GuestNetwork, Link, own_link};
use crate::state::{NetworkConfig, PublishedPort, mac_words};

/// Name of the network of who is on none of the user's.
pub(super) const DEFAULT: &str = "default";
/// Name of no network at all.
pub(super) const NONE: &str = "none";

/// The network that a container or pod is on, by name.
pub(super) fn mode(network: Option<&NetworkConfig>) -> &str {
    match network.map(|network| network.joined.first()) {
        None => NONE,
        Some(None) => DEFAULT,
        Some(Some(joined)) => &joined.name,
    }
}

/// `NetworkSettings`; Capsid's are `Egress`, what is in force, as `--egress` has it, and `BytesPerSecond`, the limit each
/// way, null without one. As docker's, the fields of a link stand outside of `Networks` too where the network is none of
/// the user's.
pub(super) fn settings(endpoint: &Endpoint<'_>) -> Value {
    let Some(config) = endpoint.config else {
        return json!({ "Ports": {}, "Networks": {}, "Egress": [], "BytesPerSecond": null });
    };
    let mut settings = json!({
        "Ports": bindings(Some(config)),
        "Networks": { mode(Some(config)): on_network(endpoint, config) },
        "Egress": config.egress.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "BytesPerSecond": config.bytes_per_second,
    });
    let outside = match &endpoint.network {
        None => link(Some(&own_link())),
        Some(_) => link(None),
    };
    for (field, value) in outside
        .into_iter()
        .chain([("MacAddress", json!(mac_words(config.mac)))])
    {
        settings[field] = value;
    }
    settings
}

/// docker's fields of one network that it is on.
fn on_network(endpoint: &Endpoint<'_>, config: &NetworkConfig) -> Value {
    let mac = mac_words(config.mac);
    let (Some(network), Some(joined)) = (&endpoint.network, config.joined.first()) else {
        let mut fields = json!({ "MacAddress": mac });
        for (field, value) in link(Some(&own_link())) {
            fields[field] = value;
        }
        return fields;
    };
    let guest = GuestNetwork::on(network, joined, config);
    let of_kind = |is_v4: bool| guest.links().iter().find(|link| link.address.is_ipv4() == is_v4);
    let v6 = of_kind(false);
    let mut fields = json!({
        "NetworkID": network.id,
        "MacAddress": mac,
        "GlobalIPv6Address": v6.map(|link| link.address.to_string()).unwrap_or_default(),
        "GlobalIPv6PrefixLen": v6.map_or(0, |link| link.prefix_bits),
        "IPv6Gateway": v6.and_then(|link| link.gateway).map(|gateway| gateway.to_string()).unwrap_or_default(),
        "Aliases": joined.aliases,
        "DNSNames": endpoint.dns_names(),
    });
    for (field, value) in link(of_kind(true)) {
        fields[field] = value;
    }
    fields
}

/// docker's fields of a link of IPv4; empty without one.
fn link(link: Option<&Link>) -> [(&'static str, Value); 3] {
    let words = |address: Option<IpAddr>| address.map(|address| address.to_string()).unwrap_or_default();
    [
        ("IPAddress", json!(words(link.map(|link| link.address)))),
        ("IPPrefixLen", json!(link.map_or(0, |link| link.prefix_bits))),
        ("Gateway", json!(words(link.and_then(|link| link.gateway)))),
    ]
}

/// Ports of the host's by the container's: `{"80/tcp": [{"HostIp": ..., "HostPort": ...}]}`.
pub(super) fn bindings(network: Option<&NetworkConfig>) -> Value {
    let mut bindings: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for port in network.iter().flat_map(|network| &network.ports) {
        let host = json!({ "HostIp": port.host.ip(), "HostPort": port.host.port().to_string() });
        bindings.entry(port.container_words()).or_default().push(host);
    }
    json!(bindings)
}

/// The column of `ps`: ports that follow each other are one.
pub(super) fn ports(network: Option<&NetworkConfig>) -> String {
    let mut ports: Vec<&PublishedPort> = network.iter().flat_map(|network| &network.ports).collect();
    ports.sort_unstable_by_key(|port| (port.host.ip(), port.protocol, port.host.port(), port.container));
    let follows = |one: &&PublishedPort, next: &&PublishedPort| one.is_followed_by(next);
    let range = |first: u16, last: u16| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    let words = |run: &[&PublishedPort]| {
        let (first, last) = (run.first()?, run.last()?);
        let shown = first.to_string();
        let (host, container) = shown.split_once("->")?;
        let (address, _) = host.rsplit_once(':')?;
        let (_, protocol) = container.split_once('/')?;
        let (hosts, containers) = (
            range(first.host.port(), last.host.port()),
            range(first.container, last.container),
        );
        Some(format!("{address}:{hosts}->{containers}/{protocol}"))
    };
    let runs: Vec<String> = ports.chunk_by(follows).filter_map(words).collect();
    runs.join(", ")
}

#[cfg(test)]
mod tests {
    use capsid_vmm::egress::Protocol;

    use super::*;

    #[test]
    fn ports_are_shown_as_docker_does() {
        let port = |host: &str, container, protocol| PublishedPort {
            container,
            protocol,
            host: host.parse().unwrap(),
        };
        let network = NetworkConfig {
            mac: [2, 0, 0, 0, 0, 1],
            ports: vec![
                port("127.0.0.1:8001", 81, Protocol::Tcp),
                port("127.0.0.1:8000", 80, Protocol::Tcp),
                port("127.0.0.1:53", 53, Protocol::Udp),
                port("[::1]:9000", 90, Protocol::Tcp),
            ],
            egress: Vec::new(),
            dns: Vec::new(),
            dns_search: Vec::new(),
            dns_options: Vec::new(),
            own_link: true,
            joined: Vec::new(),
            bytes_per_second: None,
        };
        assert_eq!(
            ports(Some(&network)),
            "127.0.0.1:8000-8001->80-81/tcp, 127.0.0.1:53->53/udp, [::1]:9000->90/tcp"
        );
        assert_eq!(ports(None), "");
        assert_eq!(bindings(Some(&network))["80/tcp"][0]["HostPort"], "8000");
    }
}
