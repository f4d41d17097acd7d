//! Verb `capsid network`.

use anyhow::{Context as _, bail};
use serde_json::{Map, Value, json};

use super::filter::{self, LabelFilter};
use super::lifecycle::confirm;
use super::{network_connect, table};
use crate::app::{AppContext, Context};
use crate::cli::{
    NetworkCommand, NetworkCreateArgs, NetworkInspectArgs, NetworkLsArgs, NetworkPruneArgs, NetworkRmArgs,
};
use crate::folders::Folders;
use crate::format::Template;
use crate::model::{DEFAULT_NETWORK, NO_NETWORK, Network, NetworkMember, NetworkSpec, Subnet, mac_words};
use crate::network::{forget, host_networks, own_link};
use crate::state::{Pending, State, StateError};
use crate::{clock, error_text, id, labels, plan};

/// Names of predefined networks, docker's included.
const RESERVED: [&str; 4] = [DEFAULT_NETWORK, "bridge", NO_NETWORK, "host"];
const COLUMNS: [(&str, &str); 4] = [
    ("ID", "NETWORK ID"),
    ("Name", "NAME"),
    ("Driver", "DRIVER"),
    ("Scope", "SCOPE"),
];

/// Runs a verb of networks.
pub(crate) async fn run(context: Context, command: NetworkCommand) -> anyhow::Result<u8> {
    match command {
        NetworkCommand::Create(args) => create(context, &args),
        NetworkCommand::Ls(args) => list(context, &args),
        NetworkCommand::Inspect(args) => inspect(context, &args),
        NetworkCommand::Connect(args) => network_connect::connect(&AppContext::open(context)?, &args).await,
        NetworkCommand::Disconnect(args) => network_connect::disconnect(&AppContext::open(context)?, &args).await,
        NetworkCommand::Rm(args) => remove(context, &args),
        NetworkCommand::Prune(args) => prune(context, &args),
    }
}

fn create(context: Context, args: &NetworkCreateArgs) -> anyhow::Result<u8> {
    if RESERVED.contains(&args.name.as_str()) {
        bail!("{} is the name of a pre-defined network: choose another one", args.name);
    }
    plan::check_name(&args.name)?;
    plan::check_labels(&args.label)?;
    let (_, state) = context.state()?;
    let host = host_networks()?;
    let id = id::new()?;
    let mut network = Network {
        id: id.clone(),
        name: args.name.clone(),
        created_ns: clock::now_ns(),
        config: NetworkSpec {
            subnets: Vec::new(),
            internal: args.internal,
            labels: args.label.clone(),
        },
    };
    state.add_network(&mut network, |others| plan::subnets(args, &id, others, &host))?;
    println!("{id}");
    Ok(0)
}

/// Line of `ls`.
#[derive(Debug)]
struct Listed {
    id: String,
    name: String,
    driver: &'static str,
    /// User-defined network; none for a predefined one.
    network: Option<Network>,
    /// Whether the network is used; always true for a predefined one.
    is_used: bool,
}

impl Listed {
    fn users(network: Network, state: &State) -> Result<Self, StateError> {
        Ok(Self {
            id: network.id.clone(),
            name: network.name.clone(),
            driver: "bridge",
            is_used: !state.members(&network.id)?.is_empty(),
            network: Some(network),
        })
    }

    /// Creates the line of a predefined network.
    fn predefined(name: &str) -> Option<Self> {
        let (name, driver) = match name {
            DEFAULT_NETWORK | "bridge" => (DEFAULT_NETWORK, "bridge"),
            NO_NETWORK => (NO_NETWORK, "null"),
            _ => return None,
        };
        Some(Self {
            id: name.into(),
            name: name.into(),
            driver,
            network: None,
            is_used: true,
        })
    }

    fn labels(&self) -> &[String] {
        self.network.as_ref().map_or(&[], |network| &network.config.labels)
    }

    /// Returns docker's fields of `--format`.
    fn row(&self, whole: bool) -> Value {
        let config = self.network.as_ref().map(|network| &network.config);
        let has_v6 = config.is_some_and(|config| config.subnets.iter().any(|subnet| subnet.gateway.is_ipv6()));
        let chars = if whole { usize::MAX } else { 12 };
        json!({
            "ID": self.id.chars().take(chars).collect::<String>(),
            "Name": self.name,
            "Driver": self.driver,
            "Scope": "local",
            "IPv6": has_v6.to_string(),
            "Internal": config.is_some_and(|config| config.internal).to_string(),
            "Label": labels::object(self.labels()),
            "Labels": self.labels().join(","),
            "CreatedAt": clock::go_words(self.network.as_ref().map_or(0, |network| network.created_ns)),
        })
    }
}

fn list(context: Context, args: &NetworkLsArgs) -> anyhow::Result<u8> {
    let filters = args
        .filter
        .iter()
        .map(|text| Filter::parse(text))
        .collect::<Result<Vec<_>, _>>()?;
    let template = args.format.as_deref().map(Template::of_lines).transpose()?;
    let (_, state) = context.state()?;
    let mut listed: Vec<Listed> = [DEFAULT_NETWORK, NO_NETWORK]
        .into_iter()
        .filter_map(Listed::predefined)
        .collect();
    for network in state.networks()? {
        listed.push(Listed::users(network, &state)?);
    }
    listed.retain(|network| filter::pass(&filters, Filter::is_label, |filter| filter.takes(network)));
    listed.sort_by(|one, other| one.name.cmp(&other.name));
    let rows: Vec<Value> = listed.iter().map(|network| network.row(args.no_trunc)).collect();
    if args.quiet {
        for row in &rows {
            println!("{}", row["ID"].as_str().unwrap_or_default());
        }
        return Ok(0);
    }
    table::print_rows(&rows, template.as_ref(), &COLUMNS)?;
    Ok(0)
}

fn inspect(context: Context, args: &NetworkInspectArgs) -> anyhow::Result<u8> {
    let template = args.format.as_deref().map(Template::of_objects).transpose()?;
    let (_, state) = context.state()?;
    let mut found = Vec::new();
    let mut code = 0;
    for name in &args.networks {
        match find(name, &state) {
            Ok(object) => found.push(object),
            Err(error) => {
                error_text::print(&error);
                code = 1;
            }
        }
    }
    table::print_objects(&found, template.as_ref())?;
    Ok(code)
}

fn find(name: &str, state: &State) -> Result<Value, StateError> {
    if let Some(listed) = Listed::predefined(name) {
        return Ok(whole_predefined(&listed));
    }
    let network = state.find_network(name)?;
    let members = state.members(&network.id)?;
    Ok(whole(&network, &members))
}

/// Returns docker's object of a network, if there is one of this name or id.
pub(super) fn find_object(state: &State, name: &str) -> anyhow::Result<Option<Value>> {
    match find(name, state) {
        Err(StateError::UnknownNetwork(_)) => Ok(None),
        found => Ok(Some(found?)),
    }
}

/// Returns docker's fields of a network.
fn whole(network: &Network, members: &[NetworkMember]) -> Value {
    let subnets = &network.config.subnets;
    let config = |subnet: &Subnet| json!({ "Subnet": subnet.network, "Gateway": subnet.gateway });
    let containers: Map<String, Value> = members
        .iter()
        .map(|member| (member.id.clone(), pod_networks(network, member)))
        .collect();
    json!({
        "Name": network.name,
        "Id": network.id,
        "Created": clock::rfc3339(network.created_ns),
        "Scope": "local",
        "Driver": "bridge",
        "EnableIPv4": subnets.iter().any(|subnet| subnet.gateway.is_ipv4()),
        "EnableIPv6": subnets.iter().any(|subnet| subnet.gateway.is_ipv6()),
        "IPAM": { "Driver": "default", "Options": {}, "Config": subnets.iter().map(config).collect::<Vec<_>>() },
        "Internal": network.config.internal,
        "Attachable": false,
        "ConfigFrom": { "Network": "" },
        "ConfigOnly": false,
        "Ingress": false,
        "Containers": containers,
        "Options": {},
        "Labels": labels::object(&network.config.labels),
    })
}

/// Returns docker's fields of a member: the address of each IP version with its prefix length.
fn pod_networks(network: &Network, member: &NetworkMember) -> Value {
    let address = |is_v4: bool| {
        let mut both = network.config.subnets.iter().zip(member.addresses());
        both.find(|(_, address)| address.is_ipv4() == is_v4)
            .map(|(subnet, address)| format!("{address}/{}", subnet.network.prefix_len()))
            .unwrap_or_default()
    };
    json!({
        "Name": member.name,
        "MacAddress": mac_words(member.config.mac),
        "IPv4Address": address(true),
        "IPv6Address": address(false),
    })
}

/// Returns docker's fields of a predefined network, without members: no pod on it shares a link with another.
fn whole_predefined(listed: &Listed) -> Value {
    let link = own_link();
    let config = match listed.driver {
        "bridge" => vec![json!({ "Subnet": link.network(), "Gateway": link.gateway })],
        _ => Vec::new(),
    };
    json!({
        "Name": listed.name,
        "Id": listed.id,
        "Created": clock::rfc3339_or_never(0),
        "Scope": "local",
        "Driver": listed.driver,
        "EnableIPv4": !config.is_empty(),
        "EnableIPv6": false,
        "IPAM": { "Driver": "default", "Options": {}, "Config": config },
        "Internal": false,
        "Attachable": false,
        "ConfigFrom": { "Network": "" },
        "ConfigOnly": false,
        "Ingress": false,
        "Containers": {},
        "Options": {},
        "Labels": {},
    })
}

fn remove(context: Context, args: &NetworkRmArgs) -> anyhow::Result<u8> {
    let (folders, state) = context.state()?;
    let mut code = 0;
    for name in &args.networks {
        match remove_one(name, &state, &folders) {
            Ok(()) => println!("{name}"),
            Err(error) if args.force && is_unknown(&error) => {}
            Err(error) => {
                error_text::print(error.as_ref());
                code = 1;
            }
        }
    }
    Ok(code)
}

fn remove_one(name: &str, state: &State, folders: &Folders) -> anyhow::Result<()> {
    if RESERVED.contains(&name) {
        bail!("{name} is a pre-defined network and cannot be removed");
    }
    let network = state.find_network(name)?;
    state.remove_network(&network)?;
    forget(&folders.run, &network.id).context("cannot remove the network's run folder")?;
    state.finish_pending(Pending::Network, &network.id);
    Ok(())
}

fn is_unknown(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<StateError>(), Some(StateError::UnknownNetwork(_)))
}

fn prune(context: Context, args: &NetworkPruneArgs) -> anyhow::Result<u8> {
    let warning = "WARNING! This will remove all custom networks not used by at least one container.";
    if !args.force && !confirm(warning)? {
        return Ok(0);
    }
    let (folders, state) = context.state()?;
    remove_unused(&state, &folders)?;
    Ok(0)
}

/// Removes networks without members.
pub(super) fn remove_unused(state: &State, folders: &Folders) -> anyhow::Result<()> {
    let mut removed = Vec::new();
    for network in state.networks()? {
        match state.remove_network(&network) {
            Ok(()) => {
                removed.push(network.name);
                // A folder that remains is recorded: the next command removes it.
                if forget(&folders.run, &network.id).is_ok() {
                    state.finish_pending(Pending::Network, &network.id);
                }
            }
            Err(StateError::NetworkUsed { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if !removed.is_empty() {
        println!("Deleted Networks:\n{}\n", removed.join("\n"));
    }
    Ok(())
}

/// Filter of one `--filter` flag.
#[derive(Debug, PartialEq)]
enum Filter {
    Name(String),
    Id(String),
    Driver(String),
    Label(LabelFilter),
    Dangling(bool),
}

impl Filter {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let (name, value) = filter::halves(text)?;
        if let Some(label) = LabelFilter::parse(name, value) {
            return Ok(Self::Label(label));
        }
        Ok(match name {
            "name" => Self::Name(value.into()),
            "id" => Self::Id(value.into()),
            "driver" => Self::Driver(value.into()),
            "dangling" => Self::Dangling(filter::truth(name, value)?),
            other => bail!("there is no filter {other:?}: use name, id, driver, label, label! or dangling"),
        })
    }

    fn is_label(&self) -> bool {
        matches!(self, Self::Label(_))
    }

    fn takes(&self, network: &Listed) -> bool {
        match self {
            Self::Name(part) => network.name.contains(part.as_str()),
            Self::Id(part) => network.id.contains(part.as_str()),
            Self::Driver(driver) => network.driver == driver,
            Self::Label(label) => label.takes(network.labels()),
            Self::Dangling(wanted) => network.is_used != *wanted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read_and_choose() {
        let network = Listed {
            id: "0123456789abcdef".into(),
            name: "shop".into(),
            driver: "bridge",
            network: Some(Network {
                id: "0123456789abcdef".into(),
                name: "shop".into(),
                created_ns: 0,
                config: NetworkSpec {
                    subnets: Vec::new(),
                    internal: false,
                    labels: vec!["tier=back".into()],
                },
            }),
            is_used: true,
        };
        let takes = |text: &str| Filter::parse(text).unwrap().takes(&network);
        for text in ["name=ho", "id=0123", "driver=bridge", "label=tier", "dangling=false"] {
            assert!(takes(text), "{text}");
        }
        for text in ["name=x", "id=ff", "driver=null", "label=tier=front", "dangling=true"] {
            assert!(!takes(text), "{text}");
        }
        for wrong in ["name", "dangling=maybe", "color=red"] {
            assert!(Filter::parse(wrong).is_err(), "{wrong}");
        }
        let row = network.row(false);
        assert_eq!(
            (&row["ID"], &row["Labels"]),
            (&json!("0123456789ab"), &json!("tier=back"))
        );
    }
}
