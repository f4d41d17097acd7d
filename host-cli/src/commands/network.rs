//! docker's fields of a network, for `inspect`, `ps` and `port`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::network::link_v4;
use crate::state::{NetworkConfig, PublishedPort, mac_words};

/// Name of the one network that there is.
const DEFAULT: &str = "default";

/// What a container says of its network.
pub(super) fn mode(network: Option<&NetworkConfig>) -> &'static str {
    network.map_or("none", |_| DEFAULT)
}

/// `NetworkSettings`; `Egress` is Capsid's: what is in force, as `--egress` has it.
pub(super) fn settings(network: Option<&NetworkConfig>) -> Value {
    let Some(network) = network else {
        return json!({ "Ports": {}, "Networks": {}, "Egress": [] });
    };
    let (address, prefix_bits, gateway) = link_v4();
    let mac = mac_words(network.mac);
    json!({
        "Ports": bindings(Some(network)),
        "IPAddress": address,
        "IPPrefixLen": prefix_bits,
        "Gateway": gateway,
        "MacAddress": mac,
        "Networks": {
            DEFAULT: { "IPAddress": address, "IPPrefixLen": prefix_bits, "Gateway": gateway, "MacAddress": mac },
        },
        "Egress": network.egress.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
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
        };
        assert_eq!(
            ports(Some(&network)),
            "127.0.0.1:8000-8001->80-81/tcp, 127.0.0.1:53->53/udp, [::1]:9000->90/tcp"
        );
        assert_eq!(ports(None), "");
        assert_eq!(bindings(Some(&network))["80/tcp"][0]["HostPort"], "8000");
    }
}
