//! Members of the network: nothing about them is learned from frames.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use super::membership::Join;
use crate::virtio::net::{Mac, link_local};

/// Table of all members, indexed by what frames name them by.
#[derive(Debug)]
pub(super) struct Members {
    most: usize,
    members: BTreeMap<Mac, Join>,
    by_address: BTreeMap<IpAddr, Mac>,
    by_name: BTreeMap<String, BTreeSet<Mac>>,
}

/// Reason why a pod is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum Refusal {
    #[error("the network is full: {0} pods are on it")]
    Full(usize),
    #[error("another pod on the network has the hardware address {}", .0.map(|byte| format!("{byte:02x}")).join(":"))]
    Mac(Mac),
    #[error("another pod on the network has the address {0}")]
    Address(IpAddr),
}

impl Members {
    /// Makes an empty table of at most `most` members.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            members: BTreeMap::new(),
            by_address: BTreeMap::new(),
            by_name: BTreeMap::new(),
        }
    }

    pub(super) fn add(&mut self, join: Join) -> Result<(), Refusal> {
        if self.members.len() >= self.most {
            return Err(Refusal::Full(self.most));
        }
        if self.members.contains_key(&join.mac) {
            return Err(Refusal::Mac(join.mac));
        }
        if let Some(taken) = join
            .addresses
            .iter()
            .find(|address| self.by_address.contains_key(address))
        {
            return Err(Refusal::Address(*taken));
        }
        self.by_address
            .extend(join.addresses.iter().map(|address| (*address, join.mac)));
        self.note_names(join.mac, &join.names);
        self.members.insert(join.mac, join);
        Ok(())
    }

    /// Replaces the names of a member.
    pub(super) fn rename(&mut self, mac: Mac, names: Vec<String>) {
        let Some(member) = self.members.get_mut(&mac) else {
            return;
        };
        let old = std::mem::replace(&mut member.names, names.clone());
        self.forget_names(mac, &old);
        self.note_names(mac, &names);
    }

    fn note_names(&mut self, mac: Mac, names: &[String]) {
        for name in names {
            self.by_name.entry(name.clone()).or_default().insert(mac);
        }
    }

    fn forget_names(&mut self, mac: Mac, names: &[String]) {
        for name in names {
            if let Some(bearers) = self.by_name.get_mut(name) {
                bearers.remove(&mac);
                if bearers.is_empty() {
                    self.by_name.remove(name);
                }
            }
        }
    }

    pub(super) fn remove(&mut self, mac: Mac) {
        let Some(member) = self.members.remove(&mac) else {
            return;
        };
        for address in &member.addresses {
            self.by_address.remove(address);
        }
        self.forget_names(mac, &member.names);
    }

    /// Whether the member has `address`, including its link-local address.
    pub(super) fn is_at(&self, mac: Mac, address: IpAddr) -> bool {
        self.by_address.get(&address) == Some(&mac) || self.members.contains_key(&mac) && address == link_local(mac)
    }

    /// Member that has `address`.
    pub(super) fn at(&self, address: IpAddr) -> Option<Mac> {
        let known = self.by_address.get(&address).copied();
        known.or_else(|| match address {
            IpAddr::V6(address) => hardware(address).filter(|mac| self.members.contains_key(mac)),
            IpAddr::V4(_) => None,
        })
    }

    /// Addresses of the members that have a name; `None` if nobody has it.
    pub(super) fn named(&self, name: &str) -> Option<Vec<IpAddr>> {
        let bearers = self.by_name.get(name)?.iter();
        Some(
            bearers
                .filter_map(|mac| self.members.get(mac))
                .flat_map(|member| member.addresses.iter().copied())
                .collect(),
        )
    }
}

/// Hardware address from which a link-local address was made: see [`link_local`].
fn hardware(address: Ipv6Addr) -> Option<Mac> {
    let [.., a, b, c, _, _, d, e, f] = address.octets();
    Some([a ^ 2, b, c, d, e, f]).filter(|mac| link_local(*mac) == address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn join(last: u8, addresses: &[&str], names: &[&str]) -> Join {
        Join {
            mac: [2, 0xca, 0, 0, 0, last],
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    #[test]
    fn members_are_found_by_address_and_name_until_they_go() {
        let mut members = Members::new(8);
        members
            .add(join(2, &["10.89.0.2", "fd00::2"], &["web", "www"]))
            .unwrap();
        members.add(join(3, &["10.89.0.3"], &["db", "www"])).unwrap();
        let mac = [2, 0xca, 0, 0, 0, 2];
        for address in ["10.89.0.2", "fd00::2", "fe80::ca:ff:fe00:2"] {
            let address = address.parse().unwrap();
            assert_eq!(members.at(address), Some(mac), "{address}");
            assert!(members.is_at(mac, address) && !members.is_at([2, 0xca, 0, 0, 0, 3], address));
        }
        assert_eq!(members.named("www").unwrap().len(), 3);
        members.rename(mac, vec!["www".into(), "new".into()]);
        assert_eq!(members.named("web"), None);
        assert_eq!(members.named("new").unwrap().len(), 2);
        assert_eq!(members.named("www").unwrap().len(), 3);
        members.remove(mac);
        assert_eq!(members.named("new"), None);
        assert_eq!(members.at("fe80::ca:ff:fe00:2".parse().unwrap()), None);
        assert_eq!(members.named("www"), Some(vec!["10.89.0.3".parse().unwrap()]));
        assert_eq!(members.named("web"), None);
    }

    #[test]
    fn what_one_has_another_cannot_have() {
        let mut members = Members::new(8);
        members.add(join(2, &["10.89.0.2"], &[])).unwrap();
        assert!(matches!(
            members.add(join(2, &["10.89.0.9"], &[])),
            Err(Refusal::Mac(_))
        ));
        assert!(matches!(
            members.add(join(3, &["10.89.0.2"], &[])),
            Err(Refusal::Address(_))
        ));
        members.add(join(3, &["10.89.0.3"], &[])).unwrap();
    }
}
