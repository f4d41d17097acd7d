//! Choice of networks by flags, with the wanted addresses and aliases, before anything is known of those networks.

use super::PlanError;
use crate::cli::{NetworkArgs, NetworkConnectArgs};
use crate::model::{DEFAULT_NETWORK, NO_NETWORK};

/// Name of docker's host network: the container has no network of its own.
const HOST_NETWORK: &str = "host";

/// Reason why the network flags are refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChoiceError {
    #[error("--network host together with other networks: give one of them")]
    HostAndMore,
    #[error(
        "--network {0}: containers share a network in a pod: make one (`capsid pod create`), and run both in it (--pod)"
    )]
    Anothers(String),
    #[error("--network none together with other networks: it is no network at all")]
    NoneAndMore,
    #[error("--network {0} is given twice: a pod has one place on a network")]
    Twice(String),
    #[error(
        "invalid --network {0:?}: write a network, or name=NETWORK and maybe ip=ADDRESS, ip6=ADDRESS and alias=NAME, each \
         after a comma"
    )]
    Form(String),
    #[error("--network {0}: a pod has one hardware address on all its networks: give it as --mac-address")]
    Mac(String),
    #[error("{0} without a user-defined network, which `capsid network create` makes")]
    OnlyUsers(&'static str),
    #[error(
        "{0} with several networks: say of which, as --network name=shop,ip=10.20.0.9,alias=www, or by `capsid network \
         connect {0} ...` after `capsid create`"
    )]
    OfWhich(&'static str),
    #[error("{0} and the same in --network {1}: give one of them")]
    Both(&'static str, String),
    #[error("nothing is connected to {0}: name the network default, or a user-defined one")]
    Nothing(String),
}

/// Networks that flags choose.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Choice {
    /// Whether the machine has a link of its own.
    pub own_link: bool,
    /// Whether the network is as near to the host's own as a machine's can be: its link leads to everything that rules
    /// can open.
    pub is_hosts: bool,
    /// User-defined networks.
    pub users: Vec<NetworkRequest>,
}

/// Network, with the wanted addresses and aliases there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NetworkRequest {
    /// Name or id of the network.
    pub network: String,
    pub ip: Option<String>,
    pub ip6: Option<String>,
    pub aliases: Vec<String>,
}

/// Parses the user-defined network of `capsid network connect`, with the wanted address and aliases; nothing for the
/// pod's own link.
pub(crate) fn connection(args: &NetworkConnectArgs) -> Result<Option<NetworkRequest>, PlanError> {
    let request = NetworkRequest {
        network: args.network.clone(),
        ip: args.ip.clone(),
        ip6: args.ip6.clone(),
        aliases: args.alias.clone(),
    };
    match (user_network(&args.network)?, request.first_want("--alias")) {
        (Some(_), _) => Ok(Some(request)),
        (None, None) => Ok(None),
        (None, Some(flag)) => Err(ChoiceError::OnlyUsers(flag).into()),
    }
}

/// Parses a word of `capsid network` as the name of a user-defined network, which containers can be on; nothing for a
/// pod's own link.
pub(crate) fn user_network(word: &str) -> Result<Option<&str>, PlanError> {
    match word {
        NO_NETWORK | HOST_NETWORK => Err(ChoiceError::Nothing(word.into()).into()),
        word => Ok(Some(word).filter(|word| !is_default(word))),
    }
}

/// Parses the flags into a choice; nothing when there is no network at all.
pub(super) fn choice(args: &NetworkArgs) -> Result<Option<Choice>, ChoiceError> {
    let requests: Vec<NetworkRequest> = args
        .network
        .iter()
        .map(|text| request(text))
        .collect::<Result<_, _>>()?;
    if requests.iter().any(|request| request.network == NO_NETWORK) {
        return match requests.len() {
            1 => Ok(None),
            _ => Err(ChoiceError::NoneAndMore),
        };
    }
    let is_hosts = requests.iter().any(|request| request.network == HOST_NETWORK);
    if is_hosts && requests.len() > 1 {
        return Err(ChoiceError::HostAndMore);
    }
    let mut choice = Choice {
        own_link: requests.is_empty(),
        is_hosts,
        users: Vec::new(),
    };
    for request in requests {
        let is_known = choice.users.iter().any(|known| known.network == request.network);
        if is_known || (choice.own_link && is_default(&request.network)) {
            return Err(ChoiceError::Twice(request.network));
        }
        match is_default(&request.network) || is_hosts {
            true => choice.own_link = true,
            false => choice.users.push(request),
        }
    }
    spread(args, &mut choice.users)?;
    Ok(Some(choice))
}

/// Whether a word is one of docker's two names for the default network.
fn is_default(word: &str) -> bool {
    [DEFAULT_NETWORK, "bridge"].contains(&word)
}

/// Parses one `--network`.
fn request(text: &str) -> Result<NetworkRequest, ChoiceError> {
    let request = if text.contains('=') {
        long_form(text)?
    } else {
        NetworkRequest {
            network: text.into(),
            ..NetworkRequest::default()
        }
    };
    match (request.network.as_str(), request.first_want("--network-alias")) {
        (name, _) if name.contains(':') => Err(ChoiceError::Anothers(name.into())),
        (name, Some(flag)) if is_default(name) || [NO_NETWORK, HOST_NETWORK].contains(&name) => {
            Err(ChoiceError::OnlyUsers(flag))
        }
        _ => Ok(request),
    }
}

/// Parses docker's `name=shop,ip=10.20.0.9,alias=www`.
fn long_form(text: &str) -> Result<NetworkRequest, ChoiceError> {
    let wrong = || ChoiceError::Form(text.into());
    let mut request = NetworkRequest::default();
    let mut name = None;
    for field in text.split(',') {
        let (key, value) = field.split_once('=').ok_or_else(wrong)?;
        let place = match key.trim() {
            "name" => &mut name,
            "ip" => &mut request.ip,
            "ip6" => &mut request.ip6,
            "alias" => {
                request.aliases.push(value.trim().into());
                continue;
            }
            "mac-address" => return Err(ChoiceError::Mac(text.into())),
            _ => return Err(wrong()),
        };
        if place.replace(value.trim().into()).is_some() {
            return Err(wrong());
        }
    }
    request.network = name.filter(|name| !name.is_empty()).ok_or_else(wrong)?;
    Ok(request)
}

/// Assigns the addresses and aliases of flags beside `--network` to the only user-defined network.
fn spread(args: &NetworkArgs, users: &mut [NetworkRequest]) -> Result<(), ChoiceError> {
    let Some(flag) = place(args) else {
        return Ok(());
    };
    let only = match users {
        [] => return Err(ChoiceError::OnlyUsers(flag)),
        [only] => only,
        _ => return Err(ChoiceError::OfWhich(flag)),
    };
    for (flag, wanted, place) in [("--ip", &args.ip, &mut only.ip), ("--ip6", &args.ip6, &mut only.ip6)] {
        if wanted.is_some() && place.is_some() {
            return Err(ChoiceError::Both(flag, only.network.clone()));
        }
        *place = place.take().or_else(|| wanted.clone());
    }
    only.aliases.extend(args.network_alias.iter().cloned());
    Ok(())
}

/// Finds the first flag that has a meaning only with a user-defined network.
pub(super) fn place(args: &NetworkArgs) -> Option<&'static str> {
    let request = NetworkRequest {
        network: String::new(),
        ip: args.ip.clone(),
        ip6: args.ip6.clone(),
        aliases: args.network_alias.clone(),
    };
    request.first_want("--network-alias")
}

impl NetworkRequest {
    /// Returns the flag for the first property that is wanted beside the network itself.
    fn first_want(&self, alias_flag: &'static str) -> Option<&'static str> {
        let wants = [
            ("--ip", self.ip.is_some()),
            ("--ip6", self.ip6.is_some()),
            (alias_flag, !self.aliases.is_empty()),
        ];
        wants.iter().find(|(_, is_wanted)| *is_wanted).map(|(flag, _)| *flag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(networks: &[&str]) -> NetworkArgs {
        NetworkArgs {
            network: networks.iter().map(|&network| network.into()).collect(),
            ..NetworkArgs::default()
        }
    }

    fn reported(args: &NetworkArgs) -> String {
        choice(args).unwrap_err().to_string()
    }

    #[test]
    fn networks_are_chosen_in_their_order() {
        let names = |networks: &[&str]| {
            let choice = choice(&on(networks)).unwrap().unwrap();
            let users: Vec<String> = choice.users.into_iter().map(|request| request.network).collect();
            (choice.own_link, users.join(" "))
        };
        assert_eq!(names(&[]), (true, String::new()));
        assert_eq!(names(&["bridge"]), (true, String::new()));
        assert_eq!(names(&["b", "a"]), (false, "b a".into()));
        assert_eq!(names(&["b", "default", "name=a"]), (true, "b a".into()));
        assert_eq!(choice(&on(&["none"])).unwrap(), None);
        let hosts = choice(&on(&["host"])).unwrap().unwrap();
        assert!(hosts.own_link && hosts.is_hosts && hosts.users.is_empty());
        assert!(choice(&on(&[])).unwrap().is_some());
    }

    #[test]
    fn what_is_wanted_of_a_network_is_said_with_it_or_beside_it() {
        let long = choice(&on(&["name=shop,ip=10.20.0.9,alias=www,ip6=fd12::9,alias=web", "b"])).unwrap();
        let request = NetworkRequest {
            network: "shop".into(),
            ip: Some("10.20.0.9".into()),
            ip6: Some("fd12::9".into()),
            aliases: vec!["www".into(), "web".into()],
        };
        assert_eq!(long.unwrap().users[0], request);
        let beside = NetworkArgs {
            ip: Some("10.20.0.9".into()),
            network_alias: vec!["web".into()],
            ..on(&["default", "name=shop,ip6=fd12::9,alias=www"])
        };
        assert_eq!(choice(&beside).unwrap().unwrap().users, [request]);
        let of_which = NetworkArgs {
            ip: Some("10.20.0.9".into()),
            ..on(&["a", "b"])
        };
        assert!(reported(&of_which).contains("capsid network connect --ip"));
        let both = NetworkArgs {
            ip6: Some("fd12::9".into()),
            ..on(&["name=a,ip6=fd12::8"])
        };
        assert!(reported(&both).starts_with("--ip6 and the same in --network a"));
    }

    #[test]
    fn choices_without_a_sense_are_refused() {
        for (networks, words) in [
            (&["host", "shop"][..], "--network host together with other networks"),
            (&["container:web"], "capsid pod create"),
            (&["none", "a"], "no network at all"),
            (&["a", "none"], "no network at all"),
            (&["a", "b", "a"], "--network a is given twice"),
            (&["bridge", "default"], "given twice"),
            (&["name=a", "a"], "given twice"),
            (&["ip=10.20.0.9"], "invalid --network"),
            (&["name=,ip=10.20.0.9"], "invalid --network"),
            (&["name=a,name=b"], "invalid --network"),
            (&["name=a,color=red"], "invalid --network"),
            (&["name=a,ip"], "invalid --network"),
            (&["name=a,mac-address=02:ca:00:11:22:33"], "--mac-address"),
            (&["name=default,alias=www"], "--network-alias without"),
            (&["name=none,ip=10.20.0.9"], "--ip without"),
        ] {
            let reported = reported(&on(networks));
            assert!(reported.contains(words), "{networks:?}: {reported}");
        }
    }

    #[test]
    fn a_connection_is_to_a_network_of_the_users_or_the_own_link() {
        let connect = |network: &str, alias: &[&str]| {
            connection(&NetworkConnectArgs {
                network: network.into(),
                alias: alias.iter().map(|&alias| alias.into()).collect(),
                ..NetworkConnectArgs::default()
            })
        };
        assert_eq!(connect("shop", &["www"]).unwrap().unwrap().aliases, ["www"]);
        assert_eq!(connect("bridge", &[]).unwrap(), None);
        for (network, words) in [
            ("default", "--alias without"),
            ("none", "connected to none"),
            ("host", "host"),
        ] {
            let reported = connect(network, &["www"]).unwrap_err().to_string();
            assert!(reported.contains(words), "{reported}");
        }
    }
}
