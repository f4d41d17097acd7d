//! `capsid port`.

use anyhow::bail;

use super::Context;
use crate::cli::PortArgs;

/// Shows what is published: nothing, as long as containers have no network of their own to publish from. docker prints
/// nothing for such a container too, and complains about a port that is asked for by number.
pub(crate) fn run(context: Context, args: &PortArgs) -> anyhow::Result<u8> {
    let (_, state) = context.state()?;
    let container = state.find(&args.container)?;
    if let Some(port) = &args.port {
        let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
        match number.parse::<u16>() {
            Ok(number) if number > 0 && matches!(protocol, "tcp" | "udp" | "sctp") => {
                bail!("no public port '{number}/{protocol}' published for {}", container.name)
            }
            _ => bail!("{port:?} is no port: write 80 or 80/udp"),
        }
    }
    Ok(0)
}
