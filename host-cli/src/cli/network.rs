//! Flags of a pod's network, which a container without a pod has too.

use clap::Args;

/// It.
#[derive(Debug, Default, Args)]
pub(crate) struct NetworkArgs {
    /// default: the internet, through this host; none: a loopback and nothing else
    #[arg(long, visible_alias = "net", value_name = "NETWORK")]
    pub network: Option<String>,
    /// Publish a port of the container's, at 127.0.0.1 unless an address is given
    #[arg(short, long, value_name = "[IP:][HOST_PORT:]PORT[/udp]")]
    pub publish: Vec<String>,
    /// Publish all ports that the image exposes, each at a port of the host's that is free
    #[arg(short = 'P', long)]
    pub publish_all: bool,
    /// Another port that the image exposes
    #[arg(long, value_name = "PORT[/udp]")]
    pub expose: Vec<String>,
    /// What may be reached: none, public (the default: all but private addresses and this host), a network as 10.0.0.0/8,
    /// or a name as *.example.com; each maybe with :PORT and /tcp, /udp or /icmp
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
    /// Another line of /etc/hosts
    #[arg(long, value_name = "NAME:ADDRESS")]
    pub add_host: Vec<String>,
    /// Hardware address
    #[arg(long, value_name = "MAC")]
    pub mac_address: Option<String>,
}

impl NetworkArgs {
    /// Whether there is to be a network.
    pub(crate) fn is_wanted(&self) -> bool {
        self.network.as_deref() != Some("none")
    }
}
