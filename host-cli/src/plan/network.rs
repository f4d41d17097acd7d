//! Network configuration that flags ask for.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU64;
use std::str::FromStr;

use capsid_vmm::egress::{Rule, Target};

use super::choice::{self, Choice, ChoiceError, NetworkRequest};
use super::{PlanError, egress, ports, size};
use crate::cli::NetworkArgs;
use crate::model::{Endpoint, Network, NetworkConfig, PublishedPort, is_host_address};
use crate::network::GATEWAY_MAC;

/// First bytes of a generated hardware address: locally administered, and recognizable.
const MAC_PREFIX: [u8; 2] = [0x02, 0xca];
/// Lowest rate, bytes per second: with less, one long frame would hold up all others for many seconds.
const RATE_MIN: u64 = 16 << 10;

/// Reason why network flags are refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    #[error("network {0} not found: `capsid network create {0}` makes it")]
    NotFound(String),
    #[error("{flag}: network {network} is internal, and nothing leads out of it")]
    Internal { flag: &'static str, network: String },
    #[error("invalid {flag} {address:?}: write an address of {kind}")]
    Address {
        flag: &'static str,
        address: String,
        kind: &'static str,
    },
    #[error("{flag} {address}: network {network} has no subnet of that kind")]
    NoSubnet {
        flag: &'static str,
        address: IpAddr,
        network: String,
    },
    #[error("{flag} {address} is not an address that a container can have in {subnet}")]
    NotInSubnet {
        flag: &'static str,
        address: IpAddr,
        subnet: ipnet::IpNet,
    },
    #[error("{flag} {address} is the gateway of network {network}")]
    IsGateway {
        flag: &'static str,
        address: IpAddr,
        network: String,
    },
    #[error("invalid alias {0:?}: use letters, digits, hyphens, dots and underscores")]
    Alias(String),
    #[error("{0} without a network: --network none has none")]
    Without(&'static str),
    #[error("invalid --dns {0:?}: write an address")]
    Dns(String),
    #[error("invalid --dns-search or --dns-option {0:?}")]
    DnsWord(String),
    #[error("invalid --add-host {0:?}: write NAME:ADDRESS")]
    AddHost(String),
    #[error(
        "--add-host {flag}: what the container may reach does not include this host, {address}: permit it by --egress public,{address}, or by --network host"
    )]
    HostGateway { flag: String, address: IpAddr },
    #[error("--add-host {0}: the container has no network, or this host has no address by which it is reached")]
    NoHostGateway(String),
    #[error("--mac-address {0} is the gateway's: choose another one")]
    GatewayMac(String),
    #[error("invalid --mac-address {0:?}: write six bytes as 02:ca:00:11:22:33, the first of them even")]
    Mac(String),
    #[error("invalid --network-rate {0:?}: write bytes a second as 10m, at least 16k")]
    Rate(String),
    #[error(transparent)]
    Choice(#[from] ChoiceError),
    #[error(transparent)]
    Egress(#[from] egress::EgressError),
    #[error(transparent)]
    Port(#[from] ports::PortError),
}

/// Line of `/etc/hosts`: address and name.
pub(super) type Host = (IpAddr, String);

/// Existing user-defined networks that flags choose, by the words that choose them.
pub(crate) type Found = BTreeMap<String, Network>;

/// Computes the networks of the machine of the container or pod `id`, or none; `found` are the user-defined ones.
pub(super) fn resolve(
    args: &NetworkArgs,
    choice: Option<&Choice>,
    id: &str,
    exposed: &[String],
    found: &Found,
) -> Result<Option<NetworkConfig>, NetworkError> {
    let Some(choice) = choice else {
        return given(args).map_or(Ok(None), |flag| Err(NetworkError::Without(flag)));
    };
    let networks = choice.users.iter().map(|request| find(request, found));
    let networks: Vec<&Network> = networks.collect::<Result<_, _>>()?;
    check_once(&networks)?;
    let route = route(choice, &networks, outward(args))?;
    let places = choice.users.iter().zip(&networks);
    let dns = |text: &String| text.parse().map_err(|_| NetworkError::Dns(text.clone()));
    let words = args.dns_search.iter().chain(&args.dns_option);
    if let Some(wrong) = words
        .into_iter()
        .find(|word| word.is_empty() || word.contains(char::is_whitespace))
    {
        return Err(NetworkError::DnsWord(wrong.clone()));
    }
    let ports = ports::published(&args.publish, args.publish_all, exposed, &args.expose)?;
    check_kinds(&ports, route)?;
    Ok(Some(NetworkConfig {
        mac: args
            .mac_address
            .as_deref()
            .map_or_else(|| Ok(made_up_mac(id)), parse_mac)?,
        ports,
        // Also where nothing leads out yet: the machine may be connected to a network that does.
        egress: match choice.is_hosts && args.egress.is_empty() {
            true => egress::everywhere()?,
            false => egress::rules(&args.egress)?,
        },
        dns: args.dns.iter().map(dns).collect::<Result<_, _>>()?,
        dns_search: args.dns_search.clone(),
        dns_options: args.dns_option.clone(),
        own_link: choice.own_link,
        endpoints: places
            .map(|(request, network)| join(request, network))
            .collect::<Result<_, _>>()?,
        bytes_per_second: args.network_rate.as_deref().map(parse_rate).transpose()?,
    }))
}

fn find<'a>(request: &NetworkRequest, found: &'a Found) -> Result<&'a Network, NetworkError> {
    let network = found.get(&request.network);
    network.ok_or_else(|| NetworkError::NotFound(request.network.clone()))
}

/// Refuses a network that is chosen twice, once by its name and once by its id.
fn check_once(networks: &[&Network]) -> Result<(), ChoiceError> {
    let is_again = |(at, network): &(usize, &&Network)| networks[..*at].iter().any(|known| known.id == network.id);
    match networks.iter().enumerate().find(is_again) {
        Some((_, network)) => Err(ChoiceError::Twice(network.name.clone())),
        None => Ok(()),
    }
}

/// Finds the user-defined network that has the default route; none when the pod's own link has it, or when there is no
/// default route, in which case an outward flag is an error.
fn route<'a>(
    choice: &Choice,
    networks: &[&'a Network],
    outward: Option<&'static str>,
) -> Result<Option<&'a Network>, NetworkError> {
    let open = networks.iter().find(|network| !network.config.internal);
    match (choice.own_link, open, networks.first(), outward) {
        (false, None, Some(network), Some(flag)) => Err(NetworkError::Internal {
            flag,
            network: network.name.clone(),
        }),
        (false, Some(network), _, _) => Ok(Some(network)),
        _ => Ok(None),
    }
}

/// Checks that the network has a subnet of the same kind for each published address of the host.
fn check_kinds(ports: &[PublishedPort], route: Option<&Network>) -> Result<(), NetworkError> {
    let Some(network) = route else {
        return Ok(());
    };
    let mut addresses = ports.iter().map(|port| port.host.ip());
    match addresses.find(|address| network.config.subnet_like(*address).is_none()) {
        None => Ok(()),
        Some(address) => Err(NetworkError::NoSubnet {
            flag: "--publish",
            address,
            network: network.name.clone(),
        }),
    }
}

/// Creates an endpoint on a user-defined network from the request, before it has addresses there.
pub(crate) fn place(request: &NetworkRequest, network: &Network) -> Result<Endpoint, PlanError> {
    Ok(join(request, network)?)
}

fn join(request: &NetworkRequest, network: &Network) -> Result<Endpoint, NetworkError> {
    if let Some(wrong) = request.aliases.iter().find(|alias| !is_host_name(alias)) {
        return Err(NetworkError::Alias(wrong.clone()));
    }
    let v4 = address::<Ipv4Addr>("--ip", request.ip.as_deref(), "IPv4", network)?;
    let v6 = address::<Ipv6Addr>("--ip6", request.ip6.as_deref(), "IPv6", network)?;
    Ok(Endpoint {
        network: network.id.clone(),
        name: network.name.clone(),
        addresses: v4.into_iter().chain(v6).collect(),
        aliases: request.aliases.clone(),
    })
}

/// Parses an address that a flag asks for, which must be one that a pod can have on this network.
fn address<A: FromStr + Into<IpAddr>>(
    flag: &'static str,
    text: Option<&str>,
    kind: &'static str,
    network: &Network,
) -> Result<Option<IpAddr>, NetworkError> {
    let Some(text) = text else {
        return Ok(None);
    };
    let parsed = text.parse::<A>().map_err(|_| NetworkError::Address {
        flag,
        address: text.into(),
        kind,
    });
    let address: IpAddr = parsed?.into();
    let Some(subnet) = network.config.subnet_like(address) else {
        let network = network.name.clone();
        return Err(NetworkError::NoSubnet { flag, address, network });
    };
    if address == subnet.gateway {
        let network = network.name.clone();
        return Err(NetworkError::IsGateway { flag, address, network });
    }
    if !is_host_address(&subnet.network, address) {
        let subnet = subnet.network;
        return Err(NetworkError::NotInSubnet { flag, address, subnet });
    }
    Ok(Some(address))
}

/// Finds the first flag that concerns destinations outside of a network.
fn outward(args: &NetworkArgs) -> Option<&'static str> {
    first(&[
        ("--publish", !args.publish.is_empty()),
        ("--publish-all", args.publish_all),
        ("--egress", !args.egress.is_empty()),
        ("--dns", !args.dns.is_empty()),
    ])
}

fn first(flags: &[(&'static str, bool)]) -> Option<&'static str> {
    flags.iter().find(|(_, is_given)| *is_given).map(|(flag, _)| *flag)
}

/// Finds the first flag that has a meaning only with a network.
pub(super) fn given(args: &NetworkArgs) -> Option<&'static str> {
    let others = [
        ("--dns-search", !args.dns_search.is_empty()),
        ("--dns-option", !args.dns_option.is_empty()),
        ("--mac-address", args.mac_address.is_some()),
        ("--network-rate", args.network_rate.is_some()),
    ];
    outward(args).or_else(|| first(&others)).or_else(|| choice::place(args))
}

/// Returns the host names that `--add-host` adds to a container on this network; `gateway` is the address at which
/// others reach this host.
pub(super) fn hosts(
    args: &NetworkArgs,
    network: Option<&NetworkConfig>,
    gateway: Option<IpAddr>,
) -> Result<Vec<Host>, PlanError> {
    let gateway = network.zip(gateway);
    let hosts = args.add_host.iter().map(|flag| host(flag, gateway));
    Ok(hosts.collect::<Result<_, _>>()?)
}

/// Returns the address that `host-gateway` stands for, where a rule opens it.
fn host_gateway(flag: &str, gateway: Option<(&NetworkConfig, IpAddr)>) -> Result<IpAddr, NetworkError> {
    let (network, address) = gateway.ok_or_else(|| NetworkError::NoHostGateway(flag.into()))?;
    let opens = |rule: &Rule| matches!(&rule.target, Target::Network(network) if network.contains(&address));
    if network.egress.iter().any(opens) {
        return Ok(address);
    }
    Err(NetworkError::HostGateway {
        flag: flag.into(),
        address,
    })
}

fn host(flag: &str, gateway: Option<(&NetworkConfig, IpAddr)>) -> Result<Host, NetworkError> {
    let wrong = || NetworkError::AddHost(flag.into());
    let (name, address) = flag.split_once([':', '=']).ok_or_else(wrong)?;
    if !is_host_name(name) {
        return Err(wrong());
    }
    if address == "host-gateway" {
        return Ok((host_gateway(flag, gateway)?, name.into()));
    }
    let address = address
        .strip_prefix('[')
        .and_then(|a| a.strip_suffix(']'))
        .unwrap_or(address);
    Ok((address.parse().map_err(|_| wrong())?, name.into()))
}

fn is_host_name(name: &str) -> bool {
    let is_legal = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    (1..=253).contains(&name.len()) && name.chars().all(is_legal)
}

fn parse_mac(text: &str) -> Result<[u8; 6], NetworkError> {
    let wrong = || NetworkError::Mac(text.into());
    let is_hex = |part: &str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
    let byte = |part: &str| u8::from_str_radix(part, 16).ok().filter(|_| is_hex(part));
    let bytes: Option<Vec<u8>> = text.split([':', '-']).map(byte).collect();
    let mac: [u8; 6] = bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(wrong)?;
    // The lowest bit marks a group address.
    if mac[0] & 1 == 1 || mac == [0; 6] {
        return Err(wrong());
    }
    if mac == GATEWAY_MAC {
        return Err(NetworkError::GatewayMac(text.into()));
    }
    Ok(mac)
}

fn parse_rate(text: &str) -> Result<NonZeroU64, NetworkError> {
    let bytes = size::parse(text).ok().filter(|bytes| *bytes >= RATE_MIN);
    bytes
        .and_then(NonZeroU64::new)
        .ok_or_else(|| NetworkError::Rate(text.into()))
}

/// Generates a hardware address, always the same for the same id.
fn made_up_mac(id: &str) -> [u8; 6] {
    let number = u32::from_str_radix(id.get(..8).unwrap_or_default(), 16).unwrap_or(2);
    let [a, b, c, d] = number.to_be_bytes();
    [MAC_PREFIX[0], MAC_PREFIX[1], a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{NetworkSpec, Subnet};

    fn on(network: &str) -> NetworkArgs {
        NetworkArgs {
            network: vec![network.into()],
            ..NetworkArgs::default()
        }
    }

    fn mine(internal: bool) -> Network {
        let subnet = |network: &str, gateway: &str| Subnet {
            network: network.parse().unwrap(),
            gateway: gateway.parse().unwrap(),
        };
        Network {
            id: "5".repeat(64),
            name: "mine".into(),
            created_ns: 0,
            config: NetworkSpec {
                subnets: vec![subnet("10.89.0.0/24", "10.89.0.1"), subnet("fd12::/64", "fd12::1")],
                internal,
                labels: Vec::new(),
            },
        }
    }

    /// Returns `network` under the name `mine`.
    fn found(network: Network) -> Found {
        Found::from([("mine".to_owned(), network)])
    }

    /// Parses the choice of networks, and computes what it comes to.
    fn config(
        args: &NetworkArgs,
        id: &str,
        exposed: &[String],
        found: &Found,
    ) -> Result<Option<NetworkConfig>, NetworkError> {
        resolve(args, choice::choice(args)?.as_ref(), id, exposed, found)
    }

    #[test]
    fn a_network_is_there_unless_it_is_not_wanted() {
        let resolve = |args: &NetworkArgs| config(args, "0123456789abcdef", &[], &Found::new());
        let made = resolve(&NetworkArgs::default()).unwrap().unwrap();
        assert_eq!(made.mac, [0x02, 0xca, 0x01, 0x23, 0x45, 0x67]);
        assert_eq!(made, resolve(&on("bridge")).unwrap().unwrap());
        assert_eq!(resolve(&on("none")).unwrap(), None);
        let reported = resolve(&on("mine")).unwrap_err().to_string();
        assert!(reported.starts_with("network mine not found") && reported.contains("capsid network create mine"));
        let args = NetworkArgs {
            publish: vec!["80".into()],
            ..on("none")
        };
        assert!(matches!(resolve(&args), Err(NetworkError::Without("--publish"))));
    }

    #[test]
    fn a_place_on_a_users_network_is_what_flags_ask_for() {
        let args = NetworkArgs {
            ip: Some("10.89.0.9".into()),
            network_alias: vec!["db".into()],
            publish: vec!["80".into()],
            ..on("mine")
        };
        let made = config(&args, "", &[], &found(mine(false))).unwrap().unwrap();
        assert_eq!((made.ports.len(), made.egress.len(), made.own_link), (1, 1, false));
        let [endpoint] = <[Endpoint; 1]>::try_from(made.endpoints).unwrap();
        assert_eq!((endpoint.network, endpoint.name), ("5".repeat(64), "mine".to_owned()));
        assert_eq!(endpoint.addresses, ["10.89.0.9".parse::<IpAddr>().unwrap()]);
        assert_eq!(endpoint.aliases, ["db"]);
        // An internal network leads nowhere, but a network that is connected later may.
        let closed = config(&on("mine"), "", &[], &found(mine(true))).unwrap().unwrap();
        assert_eq!(closed.egress, made.egress);
    }

    #[test]
    fn several_networks_are_joined_in_their_order_and_one_that_leads_out_is_enough() {
        let twin = |name: &str, internal| Network {
            id: name.repeat(32),
            name: name.into(),
            ..mine(internal)
        };
        let mut only_v4 = twin("ab", false);
        only_v4.config.subnets.pop();
        let all = Found::from([
            ("mine".to_owned(), mine(true)),
            ("ab".to_owned(), only_v4),
            ("5".to_owned(), mine(true)),
        ]);
        let args = |networks: &[&str], port: &str| NetworkArgs {
            network: networks.iter().map(|&network| network.into()).collect(),
            publish: vec![port.into()],
            ..NetworkArgs::default()
        };
        let config = |networks: &[&str], port: &str| config(&args(networks, port), "", &[], &all);
        let made = config(&["mine", "ab"], "80").unwrap().unwrap();
        assert_eq!(
            (made.names().collect::<Vec<_>>(), made.own_link),
            (vec!["mine", "ab"], false)
        );
        let made = config(&["mine", "default"], "[::1]:80:80").unwrap().unwrap();
        assert_eq!(made.names().collect::<Vec<_>>(), ["default", "mine"]);
        for (networks, port, words) in [
            (&["mine"][..], "80", "network mine is internal"),
            (&["mine", "ab"], "[::1]:80:80", "network ab has no subnet"),
            (&["mine", "5"], "80", "mine is given twice"),
            (&["ab", "other"], "80", "network other not found"),
        ] {
            let reported = config(networks, port).unwrap_err().to_string();
            assert!(reported.contains(words), "{reported}");
        }
    }

    #[test]
    fn a_place_that_is_not_possible_is_refused() {
        let reported = |args: NetworkArgs, network: Network| {
            let error = config(&args, "", &[], &found(network)).unwrap_err();
            error.to_string()
        };
        let ip = |address: &str| NetworkArgs {
            ip: Some(address.into()),
            ..on("mine")
        };
        for (address, words) in [
            ("10.89.0.1", "is the gateway of network mine"),
            ("10.89.0.255", "can have in 10.89.0.0/24"),
            ("10.9.0.2", "can have in 10.89.0.0/24"),
            ("fd12::2", "write an address of IPv4"),
        ] {
            let reported = reported(ip(address), mine(false));
            assert!(reported.contains(words), "{words}: {reported}");
        }
        let mut only_v6 = mine(false);
        only_v6.config.subnets.remove(0);
        assert!(reported(ip("10.89.0.2"), only_v6).contains("no subnet of that kind"));
        let alias = NetworkArgs {
            network_alias: vec!["a b".into()],
            ..on("mine")
        };
        assert!(reported(alias, mine(false)).contains("invalid alias"));
        let publish = NetworkArgs {
            publish_all: true,
            ..on("mine")
        };
        assert!(reported(publish, mine(true)).starts_with("--publish-all: network mine is internal"));
        let without = NetworkArgs {
            ip6: Some("fd12::2".into()),
            ..NetworkArgs::default()
        };
        assert!(reported(without, mine(false)).starts_with("--ip6 without a user-defined network"));
    }

    #[test]
    fn hosts_are_names_and_addresses() {
        let host = |flag: &str| host(flag, None);
        assert_eq!(host("db:10.0.0.5").unwrap(), ("10.0.0.5".parse().unwrap(), "db".into()));
        assert_eq!(host("db=10.0.0.5").unwrap().1, "db");
        assert_eq!(host("db:[fd00::1]").unwrap(), host("db:fd00::1").unwrap());
        for wrong in ["db", ":10.0.0.5", "db:", "a b:10.0.0.5", "db:10.0.0"] {
            assert!(matches!(host(wrong), Err(NetworkError::AddHost(_))), "{wrong}");
        }
        assert!(matches!(host("a:host-gateway"), Err(NetworkError::NoHostGateway(_))));
    }

    #[test]
    fn host_gateway_is_this_host_where_rules_open_it() {
        let reported = |network: &str, egress: &[&str]| {
            let args = NetworkArgs {
                network: vec![network.into()],
                egress: egress.iter().map(|&rule| rule.into()).collect(),
                add_host: vec!["db:host-gateway".into()],
                ..NetworkArgs::default()
            };
            let network = config(&args, &"0a".repeat(32), &[], &Found::new()).unwrap();
            hosts(&args, network.as_ref(), Some([192, 168, 7, 7].into())).map_err(|error| error.to_string())
        };
        let expected = Ok(vec![([192, 168, 7, 7].into(), "db".to_owned())]);
        assert_eq!(reported("host", &[]), expected);
        assert_eq!(reported("default", &["public,192.168.7.7:5432/tcp"]), expected);
        assert!(
            reported("default", &[])
                .unwrap_err()
                .contains("--egress public,192.168.7.7")
        );
        assert!(reported("host", &["10.0.0.0/8"]).is_err());
        assert!(reported("none", &[]).unwrap_err().contains("no network"));
    }

    #[test]
    fn hardware_addresses_are_one_machines() {
        assert_eq!(parse_mac("02-CA-00-11-22-ff").unwrap(), [2, 0xca, 0, 0x11, 0x22, 0xff]);
        for wrong in [
            "",
            "02:ca:00:11:22",
            "03:00:00:00:00:01",
            "00:00:00:00:00:00",
            "2:0:0:0:0:1",
            "02:ca:00:11:22:+1",
        ] {
            assert!(parse_mac(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn rates_are_sizes_that_are_not_too_small() {
        let limited = |rate: &str, network: &str| NetworkArgs {
            network_rate: Some(rate.into()),
            ..on(network)
        };
        let made = config(&limited("10m", "default"), "", &[], &Found::new())
            .unwrap()
            .unwrap();
        assert_eq!(made.bytes_per_second, NonZeroU64::new(10 << 20));
        assert_eq!(parse_rate("16k").unwrap().get(), RATE_MIN);
        for wrong in ["", "0", "16383", "fast", "-1m"] {
            assert!(matches!(parse_rate(wrong), Err(NetworkError::Rate(_))), "{wrong}");
        }
        let without = config(&limited("10m", "none"), "", &[], &Found::new());
        assert!(matches!(without, Err(NetworkError::Without("--network-rate"))));
        let endpoint = config(&limited("10m", "mine"), "", &[], &found(mine(true))).unwrap();
        assert!(endpoint.unwrap().bytes_per_second.is_some());
    }
}
