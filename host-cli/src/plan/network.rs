//! The network that flags ask for.

use std::net::IpAddr;

use super::PlanError;
use super::egress;
use super::ports;
use crate::cli::NetworkArgs;
use crate::state::NetworkConfig;

/// First bytes of a hardware address that nobody gave: locally administered, and known at sight.
const MAC_PREFIX: [u8; 2] = [0x02, 0xca];

/// Why there is no such network.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    #[error("--network {0} is not honoured yet: only default (or bridge) and none are")]
    Unknown(String),
    #[error("{0} without a network: --network none has none")]
    Without(&'static str),
    #[error("invalid --dns {0:?}: write an address")]
    Dns(String),
    #[error("invalid --dns-search or --dns-option {0:?}")]
    DnsWord(String),
    #[error("invalid --add-host {0:?}: write NAME:ADDRESS")]
    AddHost(String),
    #[error("--add-host {0}: a pod does not reach its host, so host-gateway has no address")]
    HostGateway(String),
    #[error("invalid --mac-address {0:?}: write six bytes as 02:ca:00:11:22:33, the first of them even")]
    Mac(String),
    #[error(transparent)]
    Egress(#[from] egress::EgressError),
    #[error(transparent)]
    Port(#[from] ports::PortError),
}

/// A line of `/etc/hosts`.
pub(super) type Host = (IpAddr, String);

/// The network of the machine of the container or pod `id`, or none.
pub(super) fn resolve(args: &NetworkArgs, id: &str, exposed: &[String]) -> Result<Option<NetworkConfig>, PlanError> {
    Ok(config(args, id, exposed)?)
}

fn config(args: &NetworkArgs, id: &str, exposed: &[String]) -> Result<Option<NetworkConfig>, NetworkError> {
    match args.network.as_deref() {
        None | Some("default" | "bridge") => {}
        Some("none") => return given(args).map_or(Ok(None), |flag| Err(NetworkError::Without(flag))),
        Some(other) => return Err(NetworkError::Unknown(other.into())),
    }
    let exposed: Vec<&String> = exposed.iter().chain(&args.expose).collect();
    let dns = |text: &String| text.parse().map_err(|_| NetworkError::Dns(text.clone()));
    let words = args.dns_search.iter().chain(&args.dns_option);
    if let Some(wrong) = words
        .into_iter()
        .find(|word| word.is_empty() || word.contains(char::is_whitespace))
    {
        return Err(NetworkError::DnsWord(wrong.clone()));
    }
    Ok(Some(NetworkConfig {
        mac: args
            .mac_address
            .as_deref()
            .map_or_else(|| Ok(made_up_mac(id)), parse_mac)?,
        ports: ports::published(&args.publish, args.publish_all, &exposed)?,
        egress: egress::rules(&args.egress)?,
        dns: args.dns.iter().map(dns).collect::<Result<_, _>>()?,
        dns_search: args.dns_search.clone(),
        dns_options: args.dns_option.clone(),
    }))
}

/// The first flag that only a network gives a meaning.
pub(super) fn given(args: &NetworkArgs) -> Option<&'static str> {
    let flags = [
        ("--publish", !args.publish.is_empty()),
        ("--publish-all", args.publish_all),
        ("--egress", !args.egress.is_empty()),
        ("--dns", !args.dns.is_empty()),
        ("--dns-search", !args.dns_search.is_empty()),
        ("--dns-option", !args.dns_option.is_empty()),
        ("--mac-address", args.mac_address.is_some()),
    ];
    flags.into_iter().find(|(_, is_given)| *is_given).map(|(flag, _)| flag)
}

/// What `--add-host` adds.
pub(super) fn hosts(args: &NetworkArgs) -> Result<Vec<Host>, PlanError> {
    Ok(args.add_host.iter().map(|flag| host(flag)).collect::<Result<_, _>>()?)
}

fn host(flag: &str) -> Result<Host, NetworkError> {
    let wrong = || NetworkError::AddHost(flag.into());
    let (name, address) = flag.split_once([':', '=']).ok_or_else(wrong)?;
    if address == "host-gateway" {
        return Err(NetworkError::HostGateway(flag.into()));
    }
    let address = address
        .strip_prefix('[')
        .and_then(|a| a.strip_suffix(']'))
        .unwrap_or(address);
    let is_legal = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if name.is_empty() || name.len() > 253 || !name.chars().all(is_legal) {
        return Err(wrong());
    }
    Ok((address.parse().map_err(|_| wrong())?, name.into()))
}

fn parse_mac(text: &str) -> Result<[u8; 6], NetworkError> {
    let wrong = || NetworkError::Mac(text.into());
    let is_hex = |part: &str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
    let byte = |part: &str| u8::from_str_radix(part, 16).ok().filter(|_| is_hex(part));
    let bytes: Option<Vec<u8>> = text.split([':', '-']).map(byte).collect();
    let mac: [u8; 6] = bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(wrong)?;
    // The lowest bit names a group.
    if mac[0] & 1 == 1 || mac == [0; 6] {
        Err(wrong())
    } else {
        Ok(mac)
    }
}

/// The same for the same id.
fn made_up_mac(id: &str) -> [u8; 6] {
    let number = u32::from_str_radix(id.get(..8).unwrap_or_default(), 16).unwrap_or(2);
    let [a, b, c, d] = number.to_be_bytes();
    [MAC_PREFIX[0], MAC_PREFIX[1], a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_there_unless_it_is_not_wanted() {
        let resolve = |network: Option<&str>| {
            let args = NetworkArgs {
                network: network.map(Into::into),
                ..NetworkArgs::default()
            };
            config(&args, "0123456789abcdef", &[])
        };
        let made = resolve(None).unwrap().unwrap();
        assert_eq!(made.mac, [0x02, 0xca, 0x01, 0x23, 0x45, 0x67]);
        assert_eq!(made, resolve(Some("bridge")).unwrap().unwrap());
        assert_eq!(resolve(Some("none")).unwrap(), None);
        for other in ["host", "container:web", "mine"] {
            assert!(matches!(resolve(Some(other)), Err(NetworkError::Unknown(_))));
        }
        let args = NetworkArgs {
            network: Some("none".into()),
            publish: vec!["80".into()],
            ..NetworkArgs::default()
        };
        assert!(matches!(
            config(&args, "", &[]),
            Err(NetworkError::Without("--publish"))
        ));
    }

    #[test]
    fn hosts_are_names_and_addresses() {
        assert_eq!(host("db:10.0.0.5").unwrap(), ("10.0.0.5".parse().unwrap(), "db".into()));
        assert_eq!(host("db=10.0.0.5").unwrap().1, "db");
        assert_eq!(host("db:[fd00::1]").unwrap(), host("db:fd00::1").unwrap());
        for wrong in ["db", ":10.0.0.5", "db:", "a b:10.0.0.5", "db:10.0.0"] {
            assert!(matches!(host(wrong), Err(NetworkError::AddHost(_))), "{wrong}");
        }
        assert!(matches!(host("a:host-gateway"), Err(NetworkError::HostGateway(_))));
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
}
