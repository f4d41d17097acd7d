//! `capsid version`.

use std::path::PathBuf;

use crate::cli::VersionArgs;
use crate::{output, parts};

/// Prints the version and where the parts are.
pub(crate) fn run(args: &VersionArgs) -> anyhow::Result<u8> {
    let found = |part: Result<PathBuf, parts::PartError>| part.ok().map(|path| path.display().to_string());
    let parts = [
        ("kernel", found(parts::kernel())),
        ("agent", found(parts::agent())),
        ("vmm", found(parts::vmm())),
        ("qemu", found(parts::qemu())),
    ];
    if args.json {
        let mut object = serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"),
            "protocol": capsid_protocol::VERSION,
        });
        for (name, path) in parts {
            object[name] = path.into();
        }
        println!("{}", output::pretty_json(&object)?);
        return Ok(0);
    }
    println!(
        "capsid {} (session protocol {})",
        env!("CARGO_PKG_VERSION"),
        capsid_protocol::VERSION
    );
    for (name, path) in parts {
        println!("  {name:<7} {}", path.as_deref().unwrap_or("not found"));
    }
    Ok(0)
}
