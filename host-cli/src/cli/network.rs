//! Verbs of `capsid network`, and the network flags of a pod, which a container without a pod has too.

use clap::{Args, Subcommand, ValueEnum};

/// Flags of a pod's network.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct NetworkArgs {
    /// default: the internet, through this host; host: all that this host reaches, and its own addresses but the
    /// loopback; none: a loopback and nothing else; or one of `capsid network create`, whose pods reach each other by
    /// name. Of default and those, several may be given, each also as name=NETWORK,ip=ADDRESS,alias=NAME
    #[arg(long, visible_alias = "net", value_name = "NETWORK")]
    pub network: Vec<String>,
    /// IPv4 address on that network [default: the lowest that is free]
    #[arg(long, value_name = "ADDRESS")]
    pub ip: Option<String>,
    /// IPv6 address on that network [default: the lowest that is free]
    #[arg(long, value_name = "ADDRESS")]
    pub ip6: Option<String>,
    /// Another name on that network
    #[arg(long, visible_alias = "net-alias", value_name = "NAME")]
    pub network_alias: Vec<String>,
    /// Publish a port of the container's, at 127.0.0.1 unless an address is given
    #[arg(short, long, value_name = "[IP:][HOST_PORT:]PORT[/udp]")]
    pub publish: Vec<String>,
    /// Publish all ports that the image exposes, each at a port of the host's that is free
    #[arg(short = 'P', long)]
    pub publish_all: bool,
    /// Another port that the image exposes
    #[arg(long, value_name = "PORT[/udp]")]
    pub expose: Vec<String>,
    /// Destinations that may be reached: none, public (the default: all but private addresses and this host), a network
    /// as 10.0.0.0/8, or a name as *.example.com; each maybe with :PORT and /tcp, /udp or /icmp
    #[arg(long, value_name = "RULE")]
    pub egress: Vec<String>,
    /// Resolver to ask in place of the host's
    #[arg(long, value_name = "ADDRESS")]
    pub dns: Vec<String>,
    /// Domain to look for names in
    #[arg(long, value_name = "DOMAIN")]
    pub dns_search: Vec<String>,
    /// Option of the resolver, as ndots:2
    #[arg(long, visible_alias = "dns-opt", value_name = "OPTION")]
    pub dns_option: Vec<String>,
    /// Another line of /etc/hosts; host-gateway is the address of this host, where it may be reached
    #[arg(long, value_name = "NAME:ADDRESS|host-gateway")]
    pub add_host: Vec<String>,
    /// Hardware address
    #[arg(long, value_name = "MAC")]
    pub mac_address: Option<String>,
    /// Most bytes a second, each way, as 10m
    #[arg(long, value_name = "RATE")]
    pub network_rate: Option<String>,
}

/// Verbs of `capsid network`.
#[derive(Debug, Subcommand)]
pub(crate) enum NetworkCommand {
    /// Make a network, on which containers and pods reach each other by name
    #[command(
        after_help = "Examples:\n  capsid network create shop\n  capsid run -d --network shop --name db postgres\n  \
                      capsid network create --subnet 10.20.0.0/24 --internal back"
    )]
    Create(NetworkCreateArgs),
    /// List networks
    #[command(alias = "list", after_help = "Example:\n  capsid network ls -f dangling=true")]
    Ls(NetworkLsArgs),
    /// Show all that is known of networks, and who is on them, as JSON
    #[command(after_help = "Example:\n  capsid network inspect shop")]
    Inspect(NetworkInspectArgs),
    /// Put a container or pod on one more network, while it runs too
    #[command(
        after_help = "Examples:\n  capsid network connect shop web\n  capsid network connect --ip 10.20.0.9 --alias www \
                      shop web\n  capsid network connect default web"
    )]
    Connect(NetworkConnectArgs),
    /// Take a container or pod off a network, while it runs too
    #[command(after_help = "Example:\n  capsid network disconnect shop web")]
    Disconnect(NetworkDisconnectArgs),
    /// Remove networks that no container or pod is on
    #[command(alias = "remove", after_help = "Example:\n  capsid network rm shop")]
    Rm(NetworkRmArgs),
    /// Remove all networks that no container or pod is on
    #[command(after_help = "Example:\n  capsid network prune -f")]
    Prune(NetworkPruneArgs),
}

/// Driver that carries a network's frames.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum NetworkDriver {
    /// One link on this host
    #[default]
    Bridge,
}

/// Flags of `capsid network create`.
#[derive(Debug, Default, Args)]
pub(crate) struct NetworkCreateArgs {
    /// Name of the network
    pub name: String,
    /// Network for its addresses: one of IPv4, one of IPv6, or both [default: a free /24 of 10.89.0.0 and on]
    #[arg(long, value_name = "NETWORK")]
    pub subnet: Vec<String>,
    /// The address in a subnet that is no container's [default: the first]
    #[arg(long, value_name = "ADDRESS")]
    pub gateway: Vec<String>,
    /// Nothing leads out of it
    #[arg(long)]
    pub internal: bool,
    /// Addresses of IPv6 as well as of IPv4
    #[arg(long)]
    pub ipv6: bool,
    /// Label
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub label: Vec<String>,
    /// Driver that carries its frames
    #[arg(short, long, value_enum, default_value = "bridge")]
    pub driver: NetworkDriver,
}

/// Flags of `capsid network ls`.
#[derive(Debug, Args)]
pub(crate) struct NetworkLsArgs {
    /// Only ids
    #[arg(short, long)]
    pub quiet: bool,
    /// Whole ids
    #[arg(long)]
    pub no_trunc: bool,
    /// Only those with name=, id=, driver=, label=, dangling=true|false
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub filter: Vec<String>,
    /// A line each, as '{{.Name}} {{.Internal}}'; json; or 'table ' and columns
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
}

/// Flags of `capsid network inspect`.
#[derive(Debug, Args)]
pub(crate) struct NetworkInspectArgs {
    /// Names or ids
    #[arg(required = true, value_name = "NETWORK")]
    pub networks: Vec<String>,
    /// A line each, as '{{.IPAM.Config}}'
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
}

/// Flags of `capsid network connect`.
#[derive(Debug, Default, Args)]
pub(crate) struct NetworkConnectArgs {
    /// IPv4 address on the network [default: the lowest that is free]
    #[arg(long, value_name = "ADDRESS")]
    pub ip: Option<String>,
    /// IPv6 address on the network [default: the lowest that is free]
    #[arg(long, value_name = "ADDRESS")]
    pub ip6: Option<String>,
    /// Another name on the network
    #[arg(long, value_name = "NAME")]
    pub alias: Vec<String>,
    /// Name or id; default is the internet, through this host
    pub network: String,
    /// Name or id of a container without a pod, or of a pod
    #[arg(value_name = "CONTAINER|POD")]
    pub name: String,
}

/// Flags of `capsid network disconnect`.
#[derive(Debug, Args)]
pub(crate) struct NetworkDisconnectArgs {
    /// Accepted and ignored: what runs is always taken off at once
    #[arg(short, long)]
    pub force: bool,
    /// Name or id; default is the internet, through this host
    pub network: String,
    /// Name or id of a container without a pod, or of a pod
    #[arg(value_name = "CONTAINER|POD")]
    pub name: String,
}

/// Flags of `capsid network rm`.
#[derive(Debug, Args)]
pub(crate) struct NetworkRmArgs {
    /// Names or ids
    #[arg(required = true, value_name = "NETWORK")]
    pub networks: Vec<String>,
    /// No error for those that are not there
    #[arg(short, long)]
    pub force: bool,
}

/// Flags of `capsid network prune`.
#[derive(Debug, Args)]
pub(crate) struct NetworkPruneArgs {
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
}
