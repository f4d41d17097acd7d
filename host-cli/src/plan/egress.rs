//! Egress rules, `--egress`: the destinations that a pod may reach.

use std::net::IpAddr;

use capsid_vmm::egress::{Ports, Protocol, Rule, Target, is_closed};
use ipnet::IpNet;

/// Most rules of a pod: as many fit into one message to the machine's device (`capsid_vmm::segments`), whatever they
/// are.
const RULES_MAX: usize = 256;

/// Reason why an egress rule is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EgressError {
    #[error(
        "invalid --egress {0:?}: write none, public, an address, a network as 10.0.0.0/8, or a name, and maybe :PORT or :FIRST-LAST, and /tcp, /udp or /icmp"
    )]
    Rule(String),
    #[error("--egress none together with other rules: it is nothing at all")]
    NoneAndMore,
    #[error("--egress {0}: ICMP has no ports")]
    IcmpPorts(String),
    #[error("--egress {0}: no rule opens loopback, link-local, multicast or metadata addresses")]
    Closed(String),
    #[error("{0} rules of --egress: a pod has at most {RULES_MAX}")]
    TooMany(usize),
}

/// Parses the rules of the flags; without any flags, the public internet.
pub(crate) fn rules(flags: &[String]) -> Result<Vec<Rule>, EgressError> {
    let words: Vec<&str> = flags.iter().flat_map(|flag| flag.split(',')).map(str::trim).collect();
    match words[..] {
        [] => Ok(vec![rule("public")?]),
        ["none"] => Ok(Vec::new()),
        _ if words.contains(&"none") => Err(EgressError::NoneAndMore),
        _ if words.len() > RULES_MAX => Err(EgressError::TooMany(words.len())),
        _ => words.into_iter().map(rule).collect(),
    }
}

/// Returns the rules for everything that rules can open.
pub(crate) fn everywhere() -> Result<Vec<Rule>, EgressError> {
    ["0.0.0.0/0", "::/0"].into_iter().map(rule).collect()
}

fn rule(word: &str) -> Result<Rule, EgressError> {
    let wrong = || EgressError::Rule(word.into());
    let (rest, protocol) = match word.rsplit_once('/') {
        Some((rest, "tcp")) => (rest, Some(Protocol::Tcp)),
        Some((rest, "udp")) => (rest, Some(Protocol::Udp)),
        Some((rest, "icmp")) => (rest, Some(Protocol::Icmp)),
        _ => (word, None),
    };
    let (target, ports) = split_ports(rest).ok_or_else(wrong)?;
    let target = self::target(target).ok_or_else(wrong)?;
    if protocol == Some(Protocol::Icmp) && ports.is_some() {
        return Err(EgressError::IcmpPorts(word.into()));
    }
    if let Target::Network(network) = &target
        && is_all_closed(network)
    {
        return Err(EgressError::Closed(word.into()));
    }
    Ok(Rule {
        target,
        ports,
        protocol,
    })
}

/// Whether no address of a network can be opened. The largest closed networks are 224.0.0.0/4 and ff00::/8; a wider
/// network also contains other addresses, whatever its ends are.
fn is_all_closed(network: &IpNet) -> bool {
    let widest = if network.max_prefix_len() == 32 { 4 } else { 8 };
    network.prefix_len() >= widest && is_closed(network.network()) && is_closed(network.broadcast())
}

/// Splits a rule into the destination and the ports behind it. An IPv6 address contains colons: with ports it is
/// written in brackets.
fn split_ports(text: &str) -> Option<(&str, Option<Ports>)> {
    if let Some(inner) = text.strip_prefix('[') {
        let (target, rest) = inner.split_once(']')?;
        return match rest.strip_prefix(':') {
            Some(ports) => Some((target, Some(self::ports(ports)?))),
            None => rest.is_empty().then_some((target, None)),
        };
    }
    match text.split_once(':') {
        Some((target, ports)) if !ports.contains(':') => Some((target, Some(self::ports(ports)?))),
        _ => Some((text, None)),
    }
}

fn ports(text: &str) -> Option<Ports> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first > 0 && first <= last).then_some(Ports { first, last })
}

fn target(text: &str) -> Option<Target> {
    if text == "public" {
        return Some(Target::Public);
    }
    if let Ok(network) = text.parse::<IpNet>() {
        return Some(Target::Network(network.trunc()));
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(Target::Network(address.into()));
    }
    let name = text.trim_end_matches('.').to_ascii_lowercase();
    let labels = name.strip_prefix("*.").unwrap_or(&name);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    // A name that ends in a number is an invalid address (RFC 3696, section 2).
    let is_number = labels.rsplit('.').next()?.bytes().all(|b| b.is_ascii_digit());
    let is_name = name.len() <= 253 && labels.split('.').all(is_label) && !is_number;
    is_name.then_some(Target::Name(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(flags: &[&str]) -> String {
        let flags: Vec<String> = flags.iter().map(|&flag| flag.into()).collect();
        match rules(&flags) {
            Ok(rules) => rules.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn rules_are_read_as_they_are_shown() {
        assert_eq!(shown(&[]), "public");
        assert_eq!(shown(&["none"]), "");
        for word in [
            "public",
            "public:443/tcp",
            "10.0.0.0/8",
            "10.0.0.0/8:80-90/tcp",
            "203.0.113.5/32:53/udp",
            "fd12::/16",
            "[fd12::/16]:5432",
            "10.0.0.0/8/icmp",
            "example.com",
            "*.example.com:443",
            "0.0.0.0/0",
            "::/0",
        ] {
            assert_eq!(shown(&[word]), word);
        }
        assert_eq!(
            shown(&["10.1.2.3/8,Example.COM.:443", "1.2.3.4"]),
            "10.0.0.0/8 example.com:443 1.2.3.4/32"
        );
        assert_eq!(shown(&["[2001:db8::1]:80"]), "[2001:db8::1/128]:80");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for word in [
            "",
            "a b",
            "10.0.0.0/33",
            "1.2.3.4.5",
            "1.2.3",
            "example.com:0",
            "example.com:9-8",
            "example.com:99999",
            "example.com:http",
            "[fd12::/16",
            "[fd12::/16]80",
            "a..b",
            "*.",
            "public/sctp",
            "*",
        ] {
            assert!(
                shown(&[word]).starts_with("invalid --egress"),
                "{word}: {}",
                shown(&[word])
            );
        }
        assert!(shown(&["none", "public"]).contains("together"));
        assert!(shown(&["1.2.3.4"; 257]).starts_with("257 rules") && shown(&["1.2.3.4"; 256]).starts_with("1.2.3.4"));
        assert!(shown(&["public:7/icmp"]).contains("no ports"));
        for word in [
            "127.0.0.1",
            "127.0.0.0/8",
            "169.254.169.254",
            "::1",
            "fe80::/64",
            "224.0.0.0/4",
            "fd00:ec2::254",
        ] {
            assert!(shown(&[word]).contains("no rule opens"), "{word}: {}", shown(&[word]));
        }
    }
}
