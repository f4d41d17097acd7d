//! Networks of a machine as plain data, and the steps from some to others.

use super::{DefaultRoute, PodNetworks};
use crate::model::{Endpoint, Network, NetworkConfig};

/// Networks that a machine is on, or is to be on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Networks {
    /// Memberships, in the order in which the pod was connected.
    pub members: Vec<Membership>,
    pub route: DefaultRoute,
}

/// Membership of a machine in a user-defined network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Membership {
    pub network: Network,
    pub endpoint: Endpoint,
    /// Names that the other members know the machine by.
    pub names: Vec<String>,
}

impl Membership {
    /// Whether this is the same membership, maybe with other names: one with another address is another one.
    fn is_same(&self, other: &Self) -> bool {
        self.network.id == other.network.id && self.endpoint.addresses == other.endpoint.addresses
    }
}

/// Step from some networks to others. The inverse of a step is a step, too.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step<'a> {
    /// Closes the uplink: the machine has no default route then.
    CloseUplink,
    /// Leaves a network.
    Leave(&'a Membership),
    /// Changes the names on a network.
    Rename(&'a Membership),
    /// Joins a network.
    Join(&'a Membership),
    /// Opens the uplink for a default route.
    OpenUplink(&'a DefaultRoute),
}

impl Networks {
    /// Returns no networks: those of a machine that does not run yet.
    pub(super) fn none() -> Self {
        Self {
            members: Vec::new(),
            route: DefaultRoute::Nowhere,
        }
    }

    /// Returns the networks that a pod's row names. A default route that `self` has stays for as long as it can.
    pub(super) fn toward(&self, pod_networks: &PodNetworks<'_>, config: &NetworkConfig) -> Self {
        let member = |(network, endpoint): (&Network, &Endpoint)| Membership {
            network: network.clone(),
            endpoint: endpoint.clone(),
            names: pod_networks.dns_names(endpoint),
        };
        let members: Vec<Membership> = pod_networks.attachments().map(member).collect();
        let stays = match &self.route {
            DefaultRoute::Own => config.own_link,
            DefaultRoute::Network(id) => {
                let by = self.members.iter().find(|member| member.network.id == *id);
                by.is_some_and(|by| members.iter().any(|member| member.is_same(by)))
            }
            DefaultRoute::Nowhere => false,
        };
        let route = if stays {
            self.route.clone()
        } else {
            DefaultRoute::of(pod_networks, config)
        };
        Self { members, route }
    }

    fn member(&self, of: &Membership) -> Option<&Membership> {
        self.members.iter().find(|member| member.is_same(of))
    }

    /// Whether the default route is by a membership that `other` does not have.
    fn loses_route(&self, other: &Self) -> bool {
        let by = self.members.iter().find(|member| self.route.is_by(&member.network.id));
        by.is_some_and(|by| other.member(by).is_none())
    }

    /// Returns the networks that a machine keeps when a change from `self` to `wanted`, its row, fails: those of both, under
    /// the row's names, with a default route that the row permits. A guest that refuses a change gains nothing by it.
    pub(super) fn kept_of(&self, wanted: &Self) -> Self {
        let kept = wanted.members.iter().filter(|member| self.member(member).is_some());
        let members: Vec<Membership> = kept.cloned().collect();
        let is_permitted = |route: &DefaultRoute| match route {
            DefaultRoute::Own => wanted.route == DefaultRoute::Own,
            DefaultRoute::Network(id) => {
                let mut members = members.iter();
                members.any(|member| member.network.id == *id && !member.network.config.internal)
            }
            DefaultRoute::Nowhere => true,
        };
        let routes = [&self.route, &wanted.route];
        let route = routes.into_iter().find(|route| is_permitted(route));
        Self {
            route: route.cloned().unwrap_or(DefaultRoute::Nowhere),
            members,
        }
    }

    /// Returns the steps that lead to `wanted`: the default route goes first and comes last, and networks are left
    /// before others are joined.
    pub(super) fn steps<'a>(&'a self, wanted: &'a Self) -> Vec<Step<'a>> {
        let changes_route = self.route != wanted.route || self.loses_route(wanted);
        let mut steps = Vec::new();
        if changes_route && self.route != DefaultRoute::Nowhere {
            steps.push(Step::CloseUplink);
        }
        let left = self.members.iter().filter(|member| wanted.member(member).is_none());
        steps.extend(left.map(Step::Leave));
        for member in &wanted.members {
            match self.member(member) {
                None => steps.push(Step::Join(member)),
                Some(known) if known.names != member.names => steps.push(Step::Rename(member)),
                Some(_) => {}
            }
        }
        if changes_route && wanted.route != DefaultRoute::Nowhere {
            steps.push(Step::OpenUplink(&wanted.route));
        }
        steps
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::NetworkSpec;

    fn membership(id: &str, address: u8, names: &[&str]) -> Membership {
        Membership {
            network: Network {
                id: id.into(),
                name: format!("net-{id}"),
                created_ns: 1,
                config: NetworkSpec {
                    subnets: Vec::new(),
                    internal: id == "internal",
                    labels: Vec::new(),
                },
            },
            endpoint: Endpoint {
                network: id.into(),
                name: format!("net-{id}"),
                addresses: vec![[10, 89, 0, address].into()],
                aliases: Vec::new(),
            },
            names: names.iter().map(|name| (*name).into()).collect(),
        }
    }

    fn on(ids: &[&str], route: DefaultRoute) -> Networks {
        Networks {
            members: ids.iter().map(|id| membership(id, 2, &["web"])).collect(),
            route,
        }
    }

    fn by(id: &str) -> DefaultRoute {
        DefaultRoute::Network(id.into())
    }

    /// Words for steps, to compare.
    fn words(steps: &[Step<'_>]) -> Vec<String> {
        let word = |step: &Step<'_>| match step {
            Step::CloseUplink => "close".into(),
            Step::Leave(member) => format!("leave {}", member.network.id),
            Step::Rename(member) => format!("rename {}", member.network.id),
            Step::Join(member) => format!("join {}", member.network.id),
            Step::OpenUplink(DefaultRoute::Network(id)) => format!("open {id}"),
            Step::OpenUplink(route) => format!("open {route:?}"),
        };
        steps.iter().map(word).collect()
    }

    fn steps(from: &Networks, to: &Networks) -> Vec<String> {
        words(&from.steps(to))
    }

    #[test]
    fn what_is_as_wanted_needs_no_step() {
        let networks = on(&["a", "b"], by("a"));
        assert!(steps(&networks, &networks).is_empty());
        assert!(steps(&Networks::none(), &Networks::none()).is_empty());
    }

    #[test]
    fn a_start_joins_in_order_and_opens_the_uplink_last() {
        let wanted = on(&["b", "a"], by("b"));
        assert_eq!(steps(&Networks::none(), &wanted), ["join b", "join a", "open b"]);
    }

    #[test]
    fn an_own_link_is_an_uplink_without_a_network() {
        let wanted = on(&[], DefaultRoute::Own);
        assert_eq!(steps(&Networks::none(), &wanted), ["open Own"]);
        assert_eq!(steps(&wanted, &Networks::none()), ["close"]);
    }

    #[test]
    fn another_network_leaves_the_uplink_alone() {
        assert_eq!(steps(&on(&["a"], by("a")), &on(&["a", "b"], by("a"))), ["join b"]);
        assert_eq!(steps(&on(&["a", "b"], by("a")), &on(&["a"], by("a"))), ["leave b"]);
    }

    #[test]
    fn the_default_route_moves_when_its_network_goes() {
        let (from, to) = (on(&["a", "b"], by("a")), on(&["b"], by("b")));
        assert_eq!(steps(&from, &to), ["close", "leave a", "open b"]);
    }

    #[test]
    fn the_last_way_out_is_closed_before_its_network_is_left() {
        let to = on(&["internal"], DefaultRoute::Nowhere);
        assert_eq!(steps(&on(&["a", "internal"], by("a")), &to), ["close", "leave a"]);
    }

    #[test]
    fn another_address_is_another_membership() {
        let from = on(&["a"], by("a"));
        let mut to = from.clone();
        to.members[0] = membership("a", 9, &["web"]);
        assert_eq!(steps(&from, &to), ["close", "leave a", "join a", "open a"]);
        // Also beside the default route, which stays.
        let from = on(&["a", "b"], by("b"));
        let mut to = from.clone();
        to.members[0] = membership("a", 9, &["web"]);
        assert_eq!(steps(&from, &to), ["leave a", "join a"]);
    }

    #[test]
    fn another_name_is_the_same_membership() {
        let from = on(&["a", "b"], by("a"));
        let mut to = from.clone();
        to.members[1] = membership("b", 2, &["web", "db"]);
        assert_eq!(steps(&from, &to), ["rename b"]);
    }

    #[test]
    fn the_order_of_memberships_alone_changes_nothing() {
        assert!(steps(&on(&["a", "b"], by("a")), &on(&["b", "a"], by("a"))).is_empty());
    }

    #[test]
    fn a_connect_that_fails_leaves_the_network_again() {
        let (before, row) = (on(&["a"], by("a")), on(&["a", "b"], by("a")));
        assert_eq!(steps(&row, &before.kept_of(&row)), ["leave b"]);
    }

    #[test]
    fn a_disconnect_cannot_be_refused() {
        let (before, row) = (on(&["a", "b"], by("b")), on(&["b"], by("b")));
        assert!(steps(&row, &before.kept_of(&row)).is_empty());
        let (own, none) = (on(&[], DefaultRoute::Own), Networks::none());
        assert!(steps(&none, &own.kept_of(&none)).is_empty());
        // The default route moves on, even if the guest does not agree.
        let (before, row) = (on(&["a", "b"], by("a")), on(&["b"], by("b")));
        assert!(steps(&row, &before.kept_of(&row)).is_empty());
        // Nothing leads out of an internal network.
        let (before, row) = (on(&["a", "internal"], by("a")), on(&["internal"], by("internal")));
        assert_eq!(before.kept_of(&row).route, DefaultRoute::Nowhere);
    }

    #[test]
    fn a_rename_cannot_be_refused() {
        let before = on(&["a"], by("a"));
        let mut row = before.clone();
        row.members[0] = membership("a", 2, &["new"]);
        assert!(steps(&row, &before.kept_of(&row)).is_empty());
    }

    #[test]
    fn a_change_that_stopped_in_the_middle_goes_on_with_what_is_permitted() {
        let (before, row) = (on(&["a", "b"], by("a")), on(&["a", "c"], by("a")));
        // Left by one of two, and the other one is not joined.
        let middle = on(&["a"], by("a"));
        assert!(steps(&middle, &before.kept_of(&row)).is_empty());
        let closed = on(&["a"], DefaultRoute::Nowhere);
        assert_eq!(steps(&closed, &before.kept_of(&row)), ["open a"]);
    }

    /// Returns the networks toward which a machine on `from` goes, when its row names these.
    fn toward(from: &Networks, own_link: bool, ids: &[&str]) -> Networks {
        let networks: Vec<Network> = ids.iter().map(|id| membership(id, 2, &[]).network).collect();
        let config = NetworkConfig {
            mac: [2, 0, 0, 0, 0, 1],
            ports: Vec::new(),
            egress: Vec::new(),
            dns: Vec::new(),
            dns_search: Vec::new(),
            dns_options: Vec::new(),
            own_link,
            endpoints: ids.iter().map(|id| membership(id, 2, &[]).endpoint).collect(),
            bytes_per_second: None,
        };
        let pod_networks = PodNetworks {
            id: "0123456789abcdef",
            name: "Web",
            hostname: "host",
            config: Some(&config),
            networks,
        };
        from.toward(&pod_networks, &config)
    }

    #[test]
    fn the_first_network_that_leads_out_has_the_default_route() {
        let none = Networks::none();
        assert_eq!(toward(&none, false, &["internal", "b", "a"]).route, by("b"));
        assert_eq!(toward(&none, false, &["internal"]).route, DefaultRoute::Nowhere);
        assert_eq!(toward(&none, true, &["a"]).route, DefaultRoute::Own);
        assert_eq!(toward(&none, false, &[]), none);
    }

    #[test]
    fn a_default_route_in_use_stays_while_its_network_does() {
        let from = on(&["b"], by("b"));
        assert_eq!(toward(&from, false, &["a", "b"]).route, by("b"));
        assert_eq!(toward(&from, false, &["a"]).route, by("a"));
        let own = on(&["a"], DefaultRoute::Own);
        assert_eq!(toward(&own, true, &["a", "b"]).route, DefaultRoute::Own);
        assert_eq!(toward(&own, false, &["a", "b"]).route, by("a"));
        // A machine that had none gets one as soon as there is one.
        let internal = on(&["internal"], DefaultRoute::Nowhere);
        assert_eq!(toward(&internal, false, &["internal", "a"]).route, by("a"));
    }

    #[test]
    fn members_know_a_machine_by_lower_case_names() {
        let wanted = toward(&Networks::none(), false, &["a"]);
        assert_eq!(wanted.members[0].names, ["web", "0123456789ab", "host"]);
    }

    /// Applies steps as the attachments do.
    fn apply(mut networks: Networks, steps: &[Step<'_>]) -> Networks {
        for step in steps {
            match step {
                Step::CloseUplink => networks.route = DefaultRoute::Nowhere,
                Step::Leave(member) => {
                    assert!(!networks.route.is_by(&member.network.id), "left with the uplink open");
                    networks.members.retain(|known| !known.is_same(member));
                }
                Step::Rename(member) => {
                    let known = networks.members.iter_mut().find(|known| known.is_same(member));
                    known.unwrap().names.clone_from(&member.names);
                }
                Step::Join(member) => {
                    let mut known = networks.members.iter();
                    assert!(known.all(|known| known.network.id != member.network.id), "twice on one");
                    networks.members.push((*member).clone());
                }
                Step::OpenUplink(route) => {
                    assert_eq!(networks.route, DefaultRoute::Nowhere, "opened twice");
                    networks.route = (*route).clone();
                }
            }
        }
        networks
    }

    fn sorted(mut networks: Networks) -> Networks {
        networks.members.sort_by(|a, b| a.network.id.cmp(&b.network.id));
        networks
    }

    fn any_networks() -> impl Strategy<Value = Networks> {
        let member = (0..4u8, 2..4u8, proptest::bool::ANY);
        (proptest::collection::vec(member, 0..4), 0..6usize).prop_map(|(members, route)| {
            let mut networks = Networks::none();
            for (id, address, renamed) in members {
                let id = ["a", "b", "c", "d"][usize::from(id)];
                if networks.members.iter().all(|member| member.network.id != id) {
                    let names: &[&str] = if renamed { &["new"] } else { &["web"] };
                    networks.members.push(membership(id, address, names));
                }
            }
            networks.route = match route {
                0 => DefaultRoute::Own,
                1 => DefaultRoute::Nowhere,
                route => networks
                    .members
                    .get(route - 2)
                    .map_or(DefaultRoute::Nowhere, |member| by(&member.network.id)),
            };
            networks
        })
    }

    proptest! {
        #[test]
        fn steps_lead_where_they_should_and_back(from in any_networks(), to in any_networks()) {
            let there = apply(from.clone(), &from.steps(&to));
            prop_assert_eq!(sorted(there.clone()), sorted(to.clone()));
            let back = apply(there.clone(), &there.steps(&from));
            prop_assert_eq!(sorted(back), sorted(from));
        }

        #[test]
        fn a_change_that_fails_anywhere_leaves_no_more_than_the_row(
            from in any_networks(), row in any_networks(), at in 0..12usize
        ) {
            let steps = from.steps(&row);
            let middle = apply(from.clone(), &steps[..at.min(steps.len())]);
            let left = apply(middle.clone(), &middle.steps(&from.kept_of(&row)));
            for member in &left.members {
                prop_assert!(from.member(member).is_some() && row.members.contains(member));
            }
            let is_permitted = match &left.route {
                DefaultRoute::Nowhere => true,
                DefaultRoute::Own => row.route == DefaultRoute::Own,
                DefaultRoute::Network(id) => left.members.iter().any(|member| member.network.id == *id),
            };
            prop_assert!(is_permitted, "{:?} by {:?}", left.route, row);
        }
    }
}
