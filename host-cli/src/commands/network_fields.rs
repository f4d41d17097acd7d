//! Fields of a container's or pod's network for `inspect` and `ps`, as in docker.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Map, Value, json};

use crate::model::{DEFAULT_NETWORK, Endpoint, NO_NETWORK, Network, NetworkConfig, PublishedPort, mac_words};
use crate::network::{Link, PodNetworks, own_link};

/// Returns the name of the network that a container or pod is on; of several, the first.
pub(super) fn mode(network: Option<&NetworkConfig>) -> &str {
    network.and_then(|network| network.names().next()).unwrap_or(NO_NETWORK)
}

/// Returns the names of all networks that a container or pod is on.
pub(super) fn names(network: Option<&NetworkConfig>) -> String {
    network.map_or_else(
        || NO_NETWORK.into(),
        |network| network.names().collect::<Vec<_>>().join(","),
    )
}

/// Returns `NetworkSettings`. Capsid's own fields are `Egress`, the effective rules in the form of `--egress`, and
/// `BytesPerSecond`, the limit in each direction, null without one. As in docker, the fields of the pod's own link are
/// also outside of `Networks`. Ports that are exposed and not published have no bindings.
pub(super) fn settings(pod_networks: &PodNetworks<'_>, exposed: &[String]) -> Value {
    let Some(config) = pod_networks.config else {
        return json!({ "Ports": {}, "Networks": {}, "Egress": [], "BytesPerSecond": null });
    };
    let own = config.own_link.then(own_link);
    let egress = config.egress.iter().filter(|_| pod_networks.has_default_route());
    let mut settings = json!({
        "Ports": bindings(Some(config), exposed),
        "Networks": networks(pod_networks, config),
        "Egress": egress.map(ToString::to_string).collect::<Vec<_>>(),
        "BytesPerSecond": config.bytes_per_second,
        "MacAddress": mac_words(config.mac),
    });
    for (field, value) in link(own.as_ref()) {
        settings[field] = value;
    }
    settings
}

/// Returns docker's fields of each network that the container or pod is on, by the network's name.
fn networks(pod_networks: &PodNetworks<'_>, config: &NetworkConfig) -> Map<String, Value> {
    let mac = mac_words(config.mac);
    let mut networks = Map::new();
    if config.own_link {
        let mut fields = json!({ "MacAddress": mac });
        for (field, value) in link(Some(&own_link())) {
            fields[field] = value;
        }
        networks.insert(DEFAULT_NETWORK.into(), fields);
    }
    for (network, endpoint) in pod_networks.attachments() {
        let mut fields = place(network, endpoint);
        fields["MacAddress"] = json!(mac);
        fields["DNSNames"] = json!(endpoint.dns_names(pod_networks.name, pod_networks.id, pod_networks.hostname));
        networks.insert(endpoint.name.clone(), fields);
    }
    networks
}

/// Returns docker's fields of an endpoint on a user-defined network.
fn place(network: &Network, endpoint: &Endpoint) -> Value {
    let links = Link::on(network, endpoint, |_| !network.config.internal);
    let (v4, v6): (Vec<Link>, Vec<Link>) = links.into_iter().partition(|link| link.address.is_ipv4());
    let v6 = v6.first();
    let mut fields = json!({
        "NetworkID": network.id,
        "GlobalIPv6Address": v6.map(|link| link.address.to_string()).unwrap_or_default(),
        "GlobalIPv6PrefixLen": v6.map_or(0, |link| link.prefix_bits),
        "IPv6Gateway": v6.and_then(|link| link.gateway).map(|gateway| gateway.to_string()).unwrap_or_default(),
        "Aliases": endpoint.aliases,
    });
    for (field, value) in link(v4.first()) {
        fields[field] = value;
    }
    fields
}

/// Returns docker's fields of an IPv4 link; empty values without one.
fn link(link: Option<&Link>) -> [(&'static str, Value); 3] {
    let words = |address: Option<IpAddr>| address.map(|address| address.to_string()).unwrap_or_default();
    [
        ("IPAddress", json!(words(link.map(|link| link.address)))),
        ("IPPrefixLen", json!(link.map_or(0, |link| link.prefix_bits))),
        ("Gateway", json!(words(link.and_then(|link| link.gateway)))),
    ]
}

/// Returns the host's ports by the container's: `{"80/tcp": [{"HostIp": ..., "HostPort": ...}]}`, and null for ports
/// that are only exposed.
pub(super) fn bindings(network: Option<&NetworkConfig>, exposed: &[String]) -> Value {
    let mut bindings: BTreeMap<String, Option<Vec<Value>>> = BTreeMap::new();
    bindings.extend(exposed.iter().map(|port| (port.clone(), None)));
    for port in network.iter().flat_map(|network| &network.ports) {
        let host = json!({ "HostIp": port.host.ip(), "HostPort": port.host.port().to_string() });
        bindings
            .entry(port.container_words())
            .or_default()
            .get_or_insert_default()
            .push(host);
    }
    json!(bindings)
}

/// Formats the column of `ps`: consecutive ports as one range, then ports that are only exposed.
pub(super) fn ports(network: Option<&NetworkConfig>, exposed: &[String]) -> String {
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
    let runs = ports.chunk_by(follows).filter_map(words);
    let is_published = |name: &String| ports.iter().any(|port| port.container_words() == *name);
    let exposed = exposed.iter().filter(|name| !is_published(name)).cloned();
    runs.chain(exposed).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use capsid_vmm::egress::Protocol;

    use super::*;
    use crate::model::{NetworkSpec, Subnet};

    fn config(endpoints: Vec<Endpoint>) -> NetworkConfig {
        NetworkConfig {
            mac: [2, 0, 0, 0, 0, 1],
            ports: Vec::new(),
            egress: Vec::new(),
            dns: Vec::new(),
            dns_search: Vec::new(),
            dns_options: Vec::new(),
            own_link: endpoints.is_empty(),
            endpoints,
            bytes_per_second: None,
        }
    }

    #[test]
    fn every_network_is_shown() {
        let network = |name: &str, subnet: &str, gateway: &str, internal| Network {
            id: name.repeat(8),
            name: name.into(),
            created_ns: 0,
            config: NetworkSpec {
                subnets: vec![Subnet {
                    network: subnet.parse().unwrap(),
                    gateway: gateway.parse().unwrap(),
                }],
                internal,
                labels: Vec::new(),
            },
        };
        let networks = vec![
            network("back", "10.89.0.0/24", "10.89.0.1", true),
            network("front", "fd12::/64", "fd12::1", false),
        ];
        let place = |network: &Network, address: &str| Endpoint {
            addresses: vec![address.parse().unwrap()],
            ..Endpoint::anywhere(network)
        };
        let config = config(vec![place(&networks[0], "10.89.0.2"), place(&networks[1], "fd12::2")]);
        let pod_networks = PodNetworks {
            id: "0123456789abcdef",
            name: "web",
            hostname: "web",
            config: Some(&config),
            networks,
        };
        let shown = settings(&pod_networks, &[]);
        let (back, front) = (&shown["Networks"]["back"], &shown["Networks"]["front"]);
        assert_eq!(
            (&back["IPAddress"], &back["IPPrefixLen"]),
            (&json!("10.89.0.2"), &json!(24))
        );
        assert_eq!(
            (&back["Gateway"], &front["IPv6Gateway"]),
            (&json!(""), &json!("fd12::1"))
        );
        assert_eq!(
            (&front["GlobalIPv6Address"], &front["IPAddress"]),
            (&json!("fd12::2"), &json!(""))
        );
        assert_eq!(
            (&back["NetworkID"], &back["MacAddress"]),
            (&json!("back".repeat(8)), &json!("02:00:00:00:00:01"))
        );
        assert_eq!(front["DNSNames"], json!(["web", "0123456789ab"]));
        assert_eq!(shown["IPAddress"], "");
        assert_eq!(
            (mode(Some(&config)), names(Some(&config))),
            ("back", "back,front".into())
        );
        assert_eq!((mode(None), names(None)), ("none", "none".into()));
    }

    #[test]
    fn ports_are_shown_as_docker_does() {
        let port = |host: &str, container, protocol| PublishedPort {
            container,
            protocol,
            host: host.parse().unwrap(),
            host_last: 0,
        };
        let network = NetworkConfig {
            ports: vec![
                port("127.0.0.1:8001", 81, Protocol::Tcp),
                port("127.0.0.1:8000", 80, Protocol::Tcp),
                port("127.0.0.1:53", 53, Protocol::Udp),
                port("[::1]:9000", 90, Protocol::Tcp),
            ],
            ..config(Vec::new())
        };
        assert_eq!(
            ports(Some(&network), &["80/tcp".into(), "99/udp".into()]),
            "127.0.0.1:8000-8001->80-81/tcp, 127.0.0.1:53->53/udp, [::1]:9000->90/tcp, 99/udp"
        );
        assert_eq!(ports(None, &[]), "");
        let bindings = bindings(Some(&network), &["80/tcp".into(), "99/udp".into()]);
        assert_eq!(
            (&bindings["80/tcp"][0]["HostPort"], &bindings["99/udp"]),
            (&json!("8000"), &json!(null))
        );
    }
}
