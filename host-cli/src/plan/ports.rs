//! Published ports, `-p`, `-P` and `--expose`: ports of the host that lead to a container's.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

use capsid_vmm::egress::Protocol;

use crate::model::PublishedPort;

/// Most ports of a pod: the sidecar listens on each with a socket of its own.
const PORTS_MAX: usize = 1024;
/// Default address on which the host listens: the user has to ask for access by others on its own network.
const DEFAULT_HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Reason why a port cannot be published.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PortError {
    #[error(
        "invalid port {0:?}: write [IP:][HOST_PORT:]PORT[/tcp|udp], ranges of ports of the same length, or a range of the host's for one PORT"
    )]
    Port(String),
    #[error("invalid port {0:?}: SCTP is not carried")]
    Sctp(String),
    /// UDP port on ::1: passt gives the guest another address for ::1, and sends the answers there.
    #[error("invalid port {0:?}: answers over UDP do not come back to ::1 (publish it at 127.0.0.1)")]
    UdpLoopback(String),
    #[error("{0} is published twice")]
    Twice(String),
    #[error("{0} ports: a pod has at most {PORTS_MAX}")]
    TooMany(usize),
}

/// Parses the ports that the flags publish. With `all`, adds those that the image and `--expose` name, each on a free
/// port of the host.
pub(crate) fn published(
    publish: &[String],
    all: bool,
    image: &[String],
    expose: &[String],
) -> Result<Vec<PublishedPort>, PortError> {
    let mut ports = Vec::new();
    for flag in publish {
        ports.extend(one(flag)?);
        check_count(ports.len())?;
    }
    let exposed = Exposed::parse(image, expose, all)?;
    if all {
        exposed.publish(&mut ports)?;
    }
    let mut seen = BTreeSet::new();
    let twice = ports
        .iter()
        .filter(|port| port.host.port() != 0 && port.host_last == 0)
        .find(|port| !seen.insert((port.host, port.protocol)));
    match twice {
        Some(port) => Err(PortError::Twice(format!(
            "{}/{}",
            port.host,
            crate::model::protocol_name(port.protocol)
        ))),
        None => Ok(ports),
    }
}

fn check_count(count: usize) -> Result<(), PortError> {
    if count > PORTS_MAX {
        return Err(PortError::TooMany(count));
    }
    Ok(())
}

/// Ranges of exposed ports, as written. An image may name thousands of ranges of 65 535 ports each, so they are
/// expanded only to be published, and then no further than [`PORTS_MAX`].
struct Exposed(Vec<(RangeInclusive<u16>, Protocol)>);

impl Exposed {
    /// Parses exposed ports. Those of an image are only information, and so are ports of SCTP: a port that is invalid
    /// or cannot be carried is an error only when all ports are published.
    fn parse(image: &[String], expose: &[String], all: bool) -> Result<Self, PortError> {
        let parse = |text: &String| {
            let (range, protocol) = split_protocol(text)?;
            let range = parse_range(range).ok_or_else(|| PortError::Port(text.clone()))?;
            Ok((range, protocol))
        };
        let mut ranges = Vec::new();
        let of_image = image.iter().map(|text| (parse(text), true));
        for (parsed, is_images) in of_image.chain(expose.iter().map(|text| (parse(text), false))) {
            match parsed {
                Err(PortError::Sctp(_)) if !all => {}
                Err(PortError::Port(_)) if is_images => {}
                parsed => ranges.push(parsed?),
            }
        }
        Ok(Self(ranges))
    }

    /// Adds the ports that are not in `ports` yet, in order, TCP before UDP.
    fn publish(mut self, ports: &mut Vec<PublishedPort>) -> Result<(), PortError> {
        let has: BTreeSet<_> = ports.iter().map(|port| (port.container, port.protocol)).collect();
        let mut added = BTreeSet::new();
        self.0
            .sort_by_key(|(range, protocol)| (*protocol, *range.start(), *range.end()));
        // The last port that was handled, of one protocol: overlapping ranges are walked once.
        let mut last: Option<(Protocol, u16)> = None;
        for (range, protocol) in self.0 {
            let from = match last {
                Some((known, port)) if known == protocol && port >= *range.start() => u32::from(port) + 1,
                _ => u32::from(*range.start()),
            };
            let rest = (from..=u32::from(*range.end())).filter_map(|port| u16::try_from(port).ok());
            for port in rest {
                last = Some((protocol, port));
                if !has.contains(&(port, protocol)) {
                    added.insert((port, protocol));
                    check_count(ports.len() + added.len())?;
                }
            }
        }
        ports.extend(added.into_iter().map(|(container, protocol)| PublishedPort {
            container,
            protocol,
            host: SocketAddr::new(DEFAULT_HOST, 0),
            host_last: 0,
        }));
        Ok(())
    }
}

/// Parses the ports of one `-p`.
fn one(flag: &str) -> Result<Vec<PublishedPort>, PortError> {
    let wrong = || PortError::Port(flag.into());
    let (text, protocol) = split_protocol(flag)?;
    let (host, container) = text
        .rsplit_once(':')
        .map_or((None, text), |(host, container)| (Some(host), container));
    let container = parse_range(container).ok_or_else(wrong)?;
    let (address, ports) = match host {
        None => (DEFAULT_HOST, None),
        Some(host) => split_host(host).ok_or_else(wrong)?,
    };
    if protocol == Protocol::Udp && address == Ipv6Addr::LOCALHOST {
        return Err(PortError::UdpLoopback(flag.into()));
    }
    let hosts: Vec<(u16, u16)> = match ports {
        None => container.clone().map(|_| (0, 0)).collect(),
        Some(ports) if ports.len() == container.len() => ports.map(|port| (port, 0)).collect(),
        // Any port of the range, as in docker.
        Some(ports) if container.len() == 1 => vec![(*ports.start(), *ports.end())],
        Some(_) => return Err(wrong()),
    };
    let publish = |(container, (host, host_last))| PublishedPort {
        container,
        protocol,
        host: SocketAddr::new(address, host),
        host_last,
    };
    Ok(container.zip(hosts).map(publish).collect())
}

/// Splits an address and the ports behind it; either may be left out.
fn split_host(text: &str) -> Option<(IpAddr, Option<RangeInclusive<u16>>)> {
    let (address, ports) = match text.rsplit_once(':') {
        None if text.is_empty() => return Some((DEFAULT_HOST, None)),
        None if text.contains('.') => (text, ""),
        None => return Some((DEFAULT_HOST, Some(parse_range(text)?))),
        Some(split) => split,
    };
    let address = address
        .strip_prefix('[')
        .and_then(|a| a.strip_suffix(']'))
        .unwrap_or(address);
    let ports = if ports.is_empty() {
        None
    } else {
        Some(parse_range(ports)?)
    };
    Some((address.parse().ok()?, ports))
}

/// Splits off the protocol, which may be in upper or lower case; without one it is TCP.
fn split_protocol(text: &str) -> Result<(&str, Protocol), PortError> {
    let Some((rest, protocol)) = text.split_once('/') else {
        return Ok((text, Protocol::Tcp));
    };
    match protocol.to_ascii_lowercase().as_str() {
        "tcp" => Ok((rest, Protocol::Tcp)),
        "udp" => Ok((rest, Protocol::Udp)),
        "sctp" => Err(PortError::Sctp(text.into())),
        _ => Err(PortError::Port(text.into())),
    }
}

fn parse_range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (parse_number(first)?, parse_number(last)?);
    (first > 0 && first <= last).then_some(first..=last)
}

/// Parses the number of a port: digits alone, without the sign that Rust's parser accepts.
pub(crate) fn parse_number(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(publish: &[&str]) -> String {
        let flags: Vec<String> = publish.iter().map(|&flag| flag.into()).collect();
        match published(&flags, false, &[], &[]) {
            Ok(ports) => ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn ports_are_dockers() {
        for (flag, expected) in [
            ("80", "127.0.0.1:0->80/tcp"),
            ("8080:80", "127.0.0.1:8080->80/tcp"),
            (":80", "127.0.0.1:0->80/tcp"),
            ("53:53/udp", "127.0.0.1:53->53/udp"),
            ("0.0.0.0:8080:80", "0.0.0.0:8080->80/tcp"),
            ("192.0.2.1::80", "192.0.2.1:0->80/tcp"),
            ("[::1]:8080:80/tcp", "[::1]:8080->80/tcp"),
            ("[::]::80", "[::]:0->80/tcp"),
            ("8000-8001:80-81", "127.0.0.1:8000->80/tcp 127.0.0.1:8001->81/tcp"),
            ("80-81", "127.0.0.1:0->80/tcp 127.0.0.1:0->81/tcp"),
            ("8000-8010:80", "127.0.0.1:8000-8010->80/tcp"),
            ("80:80/TCP", "127.0.0.1:80->80/tcp"),
            ("53/Udp", "127.0.0.1:0->53/udp"),
        ] {
            assert_eq!(shown(&[flag]), expected, "{flag}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for flag in [
            "",
            "0",
            "65536",
            "80:0",
            "+80:80",
            "80:+80",
            "80-+81",
            "a:80",
            "8000-8002:80-81",
            "81-80",
            "80/x",
            "1.2.3:80:80",
            "host:80:80",
            "::1:80:80:",
        ] {
            assert!(shown(&[flag]).starts_with("invalid port"), "{flag}: {}", shown(&[flag]));
        }
        assert!(shown(&["80/sctp"]).contains("SCTP"));
        assert!(shown(&["80:80", "80:81"]).contains("127.0.0.1:80/tcp is published twice"));
        assert_eq!(
            shown(&["80:80", "80:80/udp"]),
            "127.0.0.1:80->80/tcp 127.0.0.1:80->80/udp"
        );
        assert!(shown(&["1-2000"]).contains("at most"));
    }

    #[test]
    fn what_an_image_exposes_is_published_when_asked_for() {
        let exposed: Vec<String> = ["80/tcp", "53/udp", "9000-9001"].map(Into::into).to_vec();
        let ports = |all| {
            let ports = published(&["8080:80".into()], all, &exposed, &[]).unwrap();
            ports
                .iter()
                .map(PublishedPort::container_words)
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(ports(false), "80/tcp");
        assert_eq!(ports(true), "80/tcp 53/udp 9000/tcp 9001/tcp");
    }

    #[test]
    fn exposed_ports_that_cannot_be_carried_stop_only_their_publishing() {
        let image = ["90/sctp", "91/TCP", "nonsense/x", "0"].map(String::from);
        assert_eq!(published(&[], false, &image, &["92/SCTP".into()]).unwrap(), []);
        assert!(matches!(published(&[], true, &image, &[]), Err(PortError::Sctp(_))));
        assert_eq!(published(&[], true, &image[1..], &[]).unwrap().len(), 1);
        assert!(published(&[], false, &[], &["nonsense".into()]).is_err());
    }

    #[test]
    fn ranges_that_an_image_exposes_are_not_expanded() {
        let exposed: Vec<String> = (1..4000).map(|first| format!("{first}-65535/udp")).collect();
        let start = std::time::Instant::now();
        assert_eq!(published(&[], false, &exposed, &[]).unwrap(), []);
        let refused = published(&[], true, &exposed, &[]).unwrap_err();
        assert!(matches!(refused, PortError::TooMany(1025)), "{refused}");
        assert!(
            start.elapsed() < std::time::Duration::from_millis(500),
            "{:?}",
            start.elapsed()
        );
        let overlapping: Vec<String> = ["10-12", "11-13/tcp", "10-10", "65535", "65534-65535"]
            .map(Into::into)
            .to_vec();
        let ports = published(&["11".into()], true, &overlapping, &[]).unwrap();
        let containers: Vec<u16> = ports.iter().map(|port| port.container).collect();
        assert_eq!(containers, [11, 10, 12, 13, 65534, 65535]);
    }
}
