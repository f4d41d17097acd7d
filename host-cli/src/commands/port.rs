//! Verb `capsid port`.

use anyhow::bail;

use crate::app::Context;
use crate::cli::PortArgs;
use crate::model::{PublishedPort, protocol_name};

/// Shows published ports: all of them, or the addresses of one port of the container.
pub(crate) fn run(context: Context, args: &PortArgs) -> anyhow::Result<u8> {
    let (_, state) = context.state()?;
    let container = state.find(&args.container)?;
    let ports = container
        .pod
        .config
        .network
        .map(|network| network.ports)
        .unwrap_or_default();
    let Some(wanted) = &args.port else {
        for port in &ports {
            println!("{} -> {}", port.container_words(), port.host);
        }
        return Ok(0);
    };
    let (number, protocol) = wanted.split_once('/').unwrap_or((wanted, "tcp"));
    let Some(number) = number.parse::<u16>().ok().filter(|number| *number > 0) else {
        bail!("{wanted:?} is no port: write 80 or 80/udp");
    };
    if !matches!(protocol, "tcp" | "udp" | "sctp") {
        bail!("{wanted:?} is no port: write 80 or 80/udp");
    }
    let is_wanted = |port: &&PublishedPort| port.container == number && protocol_name(port.protocol) == protocol;
    let found: Vec<&PublishedPort> = ports.iter().filter(is_wanted).collect();
    if found.is_empty() {
        bail!("no public port '{number}/{protocol}' published for {}", container.name);
    }
    for port in found {
        println!("{}", port.host);
    }
    Ok(0)
}
