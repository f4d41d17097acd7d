//! Limits on the addresses that a registry may lead a pull to (server-side request forgery, DNS rebinding).
//!
//! A registry on the internet must not make this host connect to its own services or to those of its private networks:
//! not by a redirect, not by a token realm, and not by a name that resolves to such an address. A registry in a private
//! network may lead to private networks, and one on this host to any address.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Distance of an address. A registry may lead to addresses that are as far away as its own, or further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reach {
    /// Public: global unicast addresses.
    Public,
    /// Private networks and all other addresses that are neither public nor local.
    Private,
    /// This host, its links and its cloud's metadata services.
    Local,
}

/// Addresses of metadata services that no other rule covers: those of `vmm/src/egress.rs`, which has their sources.
const METADATA: [Ipv4Addr; 3] = [
    // Azure's wire server.
    Ipv4Addr::new(168, 63, 129, 16),
    // Alibaba Cloud.
    Ipv4Addr::new(100, 100, 100, 200),
    // Oracle, of its older generation.
    Ipv4Addr::new(192, 0, 0, 192),
];

/// Addresses of such services over IPv6.
const METADATA_V6: [Ipv6Addr; 5] = [
    // AWS: machines, and pods of EKS.
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23),
    // Google Cloud.
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    // Scaleway.
    Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42),
    // Akamai.
    Ipv6Addr::new(0xfd00, 0xa9fe, 0xa9fe, 0, 0, 0, 0, 1),
];

impl Reach {
    /// Reach of an address, after IANA's special-purpose address registries.
    pub(super) fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::of_v4(address),
            IpAddr::V6(address) => Self::of_v6(address),
        }
    }

    fn of_v4(address: Ipv4Addr) -> Self {
        let [a, b, c, _] = address.octets();
        match (a, b, c) {
            _ if METADATA.contains(&address) => Self::Local,
            // This network, loopback, link-local, multicast and reserved (with broadcast).
            (0 | 127 | 224.., ..) | (169, 254, _) => Self::Local,
            (10, ..) | (172, 16..=31, _) | (192, 168, _) | (100, 64..=127, _) => Self::Private,
            // Protocol assignments, relays, benchmarks and documentation.
            (192, 0, 0 | 2) | (192, 88, 99) | (198, 18 | 19, _) | (198, 51, 100) | (203, 0, 113) => Self::Private,
            _ => Self::Public,
        }
    }

    fn of_v6(address: Ipv6Addr) -> Self {
        let segments = address.segments();
        let embedded = |high: u16, low: u16| {
            let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
            Self::of_v4(Ipv4Addr::new(a, b, c, d))
        };
        match segments {
            _ if METADATA_V6.contains(&address) => Self::Local,
            // IPv4-mapped addresses, and NAT64, by which networks without IPv4 reach it.
            [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low),
            // 6to4.
            [0x2002, high, low, ..] => embedded(high, low),
            // Unspecified, loopback, IPv4-compatible.
            [0, 0, 0, 0, 0, 0, ..] => Self::Local,
            [0xfe80..=0xfebf | 0xff00..=0xffff, ..] => Self::Local,
            // Teredo and other protocol assignments, documentation.
            [0x2001, 0..=0x1ff | 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => Self::Private,
            [0x2000..=0x3fff, ..] => Self::Public,
            _ => Self::Private,
        }
    }
}

/// Addresses that one pull may connect to, derived from those of its registry.
///
/// The resolved addresses of a name are checked for each connection. Behind an HTTP proxy the proxy resolves names, and
/// only literal addresses are checked.
#[derive(Debug)]
pub(super) struct Scope {
    home: String,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Nearest address of the registry when it was first resolved. Later ones may not be nearer.
    nearest: Option<Reach>,
    /// Furthest address that the registry ever had, or a host that it led to and that redirected further.
    furthest: Option<Reach>,
    /// Hosts that the registry has led to, each with its furthest address. Any other name is that of a proxy, named by
    /// the user.
    foreign: HashMap<String, Option<Reach>>,
}

/// Error of a connection that is not allowed.
#[derive(Debug)]
pub(super) struct Forbidden;

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the address is not public")
    }
}

impl std::error::Error for Forbidden {}

impl Scope {
    /// Creates the scope of a registry at this host, which is not resolved yet.
    pub(super) fn new(base: &Url) -> Self {
        let reach = match literal(base) {
            Some(address) => Some(Reach::of(address)),
            None => (base.host_str() == Some("localhost")).then_some(Reach::Local),
        };
        let known = Known {
            nearest: reach,
            furthest: reach,
            ..Known::default()
        };
        Self {
            home: base.host_str().unwrap_or_default().to_owned(),
            known: Mutex::new(known),
        }
    }

    /// Allows connections to a host that the registry named, unless the URL has a literal address that is forbidden.
    pub(super) fn admit(&self, url: &Url) -> Result<(), Forbidden> {
        let mut known = self.known();
        let reach = literal(url).map(Reach::of);
        if reach.is_some_and(|reach| reach > known.limit()) {
            return Err(Forbidden);
        }
        let host = url.host_str().unwrap_or_default().to_owned();
        known.foreign.entry(host).or_insert(reach);
        Ok(())
    }

    /// Records that a host named by the registry redirects to another one. It may lead no nearer than its own address.
    pub(super) fn leads_on(&self, url: &Url) {
        let mut known = self.known();
        let host = url.host_str().unwrap_or_default();
        let reach = known.foreign.get(host).copied().flatten().unwrap_or(Reach::Public);
        known.furthest = Some(known.limit().min(reach));
    }

    /// Addresses of a name that may be connected to.
    fn filter(&self, name: &str, addresses: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, Forbidden> {
        let mut known = self.known();
        let reaches = || addresses.iter().map(|address| Reach::of(address.ip()));
        let (nearest, furthest) = (reaches().max(), reaches().min());
        let limit = if name == self.home {
            known.furthest = further(known.furthest, furthest);
            *known.nearest.get_or_insert(nearest.unwrap_or(Reach::Public))
        } else {
            let limit = known.limit();
            let Some(reach) = known.foreign.get_mut(name) else {
                return Ok(addresses);
            };
            *reach = further(*reach, furthest);
            limit
        };
        let allowed: Vec<_> = addresses
            .into_iter()
            .filter(|address| Reach::of(address.ip()) <= limit)
            .collect();
        if allowed.is_empty() {
            Err(Forbidden)
        } else {
            Ok(allowed)
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Nearest distance that the registry may lead to. A registry that a proxy resolved, and not this host, counts as
    /// public.
    fn limit(&self) -> Reach {
        self.furthest.unwrap_or(Reach::Public)
    }
}

/// Further one of two distances, either of which may be unknown.
fn further(one: Option<Reach>, other: Option<Reach>) -> Option<Reach> {
    one.into_iter().chain(other).min()
}

/// Literal IP address in a URL; `None` if the URL has a host name.
fn literal(url: &Url) -> Option<IpAddr> {
    let host = url.host_str()?;
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// Name resolution of an HTTP client within a [`Scope`].
#[derive(Debug, Clone)]
pub(super) struct Resolver(pub Arc<Scope>);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let scope = Arc::clone(&self.0);
        Box::pin(async move {
            // The client inserts the port.
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed = scope.filter(name.as_str(), found.collect())?;
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scope(url: &str) -> Scope {
        Scope::new(&url.parse().unwrap())
    }

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        let address = |text: &&str| SocketAddr::new(text.parse().unwrap(), 0);
        texts.iter().map(address).collect()
    }

    fn admits(scope: &Scope, url: &str) -> bool {
        scope.admit(&url.parse().unwrap()).is_ok()
    }

    /// Addresses in the list of `vmm/src/egress.rs`, which no rule opens to a guest.
    fn closed_to_guests() -> Vec<IpAddr> {
        let text = include_str!("../../../vmm/src/egress.rs");
        let (_, list) = text.split_once("const METADATA: ").unwrap();
        let (list, _) = list.split_once("\n];").unwrap();
        let words = |inner: &str| inner.split(", ").map(str::to_owned).collect::<Vec<_>>();
        let number = |word: &str| match word.strip_prefix("0x") {
            Some(digits) => u16::from_str_radix(digits, 16).unwrap(),
            None => word.parse().unwrap(),
        };
        let v4 = list
            .split("v4(")
            .skip(1)
            .map(|rest| words(rest.split_once(')').unwrap().0).join(".").parse().unwrap());
        let v6 = list.split("v6([").skip(1).map(|rest| {
            let segments: Vec<u16> = words(rest.split_once(']').unwrap().0)
                .iter()
                .map(|word| number(word))
                .collect();
            IpAddr::V6(Ipv6Addr::from(<[u16; 8]>::try_from(segments).unwrap()))
        });
        v4.chain(v6).collect()
    }

    #[test]
    fn no_registry_but_one_on_this_host_leads_to_a_metadata_service() {
        let listed = closed_to_guests();
        assert_eq!(listed.len(), 14);
        for address in listed {
            assert_eq!(Reach::of(address), Reach::Local, "{address}");
        }
    }

    #[test]
    fn special_addresses_are_not_public() {
        for (reach, texts) in [
            (
                Reach::Public,
                "1.1.1.1 100.63.0.1 172.32.0.1 192.0.1.1 223.255.255.255 2606:4700::1111",
            ),
            (
                Reach::Public,
                "::ffff:1.1.1.1 64:ff9b::101:101 2002:101:101::1 2001:200::1",
            ),
            (
                Reach::Private,
                "10.0.0.1 172.16.0.1 172.31.255.255 192.168.0.1 100.64.0.1 198.18.0.1 203.0.113.1",
            ),
            (
                Reach::Private,
                "fc00::1 fd12::1 fec0::1 2001:db8::1 2001::1 64:ff9b:1::1 ::ffff:10.0.0.1 100::1",
            ),
            (
                Reach::Local,
                "127.0.0.1 127.255.255.255 0.0.0.0 0.1.2.3 169.254.169.254 224.0.0.1 255.255.255.255",
            ),
            (
                Reach::Local,
                "168.63.129.16 100.100.100.200 fd00:ec2::254 ::1 :: fe80::1 ff02::1 ::127.0.0.1",
            ),
            (
                Reach::Local,
                "::ffff:127.0.0.1 ::ffff:169.254.169.254 64:ff9b::7f00:1 2002:7f00:1::1",
            ),
        ] {
            for text in texts.split(' ') {
                assert_eq!(Reach::of(text.parse().unwrap()), reach, "{text}");
            }
        }
    }

    #[test]
    fn written_addresses_are_no_nearer_than_the_registry() {
        for (base, admitted, refused) in [
            (
                "https://1.1.1.1",
                "https://8.8.8.8 https://cdn.example",
                "https://10.0.0.1 https://127.0.0.1 https://2130706433 https://0x7f.1 https://[::1] https://[::ffff:10.0.0.1]",
            ),
            (
                "https://registry.example",
                "https://8.8.8.8",
                "https://10.0.0.1 https://169.254.169.254 https://0",
            ),
            (
                "http://10.0.0.1",
                "http://192.168.0.1 http://8.8.8.8",
                "http://127.0.0.1 http://169.254.169.254",
            ),
            (
                "http://127.0.0.1:5000",
                "http://127.0.0.1:5001 http://10.0.0.1 http://8.8.8.8",
                "",
            ),
            ("http://localhost:5000", "http://127.0.0.1:5001 http://10.0.0.1", ""),
        ] {
            let scope = scope(base);
            for url in admitted.split_whitespace() {
                assert!(admits(&scope, url), "{base} -> {url}");
            }
            for url in refused.split_whitespace() {
                assert!(!admits(&scope, url), "{base} -> {url}");
            }
        }
    }

    #[test]
    fn names_resolve_no_nearer_than_the_registry() {
        let scope = scope("https://registry.example");
        assert!(scope.filter("registry.example", addresses(&["1.1.1.1"])).is_ok());
        assert!(admits(&scope, "https://cdn.example"));
        let mixed = scope.filter("cdn.example", addresses(&["127.0.0.1", "8.8.8.8", "fe80::1"]));
        assert_eq!(mixed.unwrap(), addresses(&["8.8.8.8"]));
        assert!(scope.filter("cdn.example", addresses(&["10.0.0.1", "::1"])).is_err());
        // Rebinding: the registry's own name resolves to this host later.
        assert!(scope.filter("registry.example", addresses(&["127.0.0.1"])).is_err());
        // A proxy that the user named.
        assert!(scope.filter("proxy.internal", addresses(&["10.0.0.1"])).is_ok());
    }

    #[test]
    fn a_private_registry_leads_into_private_networks_until_it_is_public() {
        let scope = scope("https://registry.internal");
        assert!(scope.filter("registry.internal", addresses(&["10.0.0.1"])).is_ok());
        assert!(admits(&scope, "https://store.internal"));
        assert!(scope.filter("store.internal", addresses(&["10.0.0.2"])).is_ok());
        assert!(scope.filter("store.internal", addresses(&["127.0.0.1"])).is_err());
        assert!(
            scope
                .filter("registry.internal", addresses(&["10.0.0.1", "1.1.1.1"]))
                .is_ok()
        );
        assert!(scope.filter("store.internal", addresses(&["10.0.0.2"])).is_err());
    }

    #[test]
    fn a_public_host_on_the_way_leads_to_public_ones() {
        let scope = scope("http://127.0.0.1:5000");
        assert!(admits(&scope, "https://cdn.example"));
        assert!(scope.filter("cdn.example", addresses(&["1.1.1.1"])).is_ok());
        scope.leads_on(&"https://cdn.example".parse().unwrap());
        assert!(!admits(&scope, "http://127.0.0.1:5001"));
    }

    proptest! {
        #[test]
        fn mapped_addresses_reach_as_far_as_their_originals(bits: u32) {
            let address = Ipv4Addr::from(bits);
            prop_assert_eq!(Reach::of(address.to_ipv6_mapped().into()), Reach::of(address.into()));
        }
    }
}
