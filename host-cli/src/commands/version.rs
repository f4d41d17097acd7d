//! Verb `capsid version`.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::cli::VersionArgs;
use crate::format::Template;
use crate::{install_paths, output};

/// Prints the version and the locations of the parts.
pub(crate) fn run(args: &VersionArgs) -> anyhow::Result<u8> {
    if let Some(text) = &args.format {
        output::rendered(&Template::of_objects(text)?.render(&versions())?);
        return Ok(0);
    }
    let found = |part: Result<PathBuf, install_paths::PartError>| part.ok().map(|path| path.display().to_string());
    let parts = [
        ("kernel", found(install_paths::kernel())),
        ("agent", found(install_paths::agent())),
        ("vmm", found(install_paths::vmm())),
        ("qemu", found(install_paths::qemu())),
    ];
    if args.json {
        let mut object = json!({
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

/// Returns docker's fields; client and server are one program.
fn versions() -> Value {
    let version = env!("CARGO_PKG_VERSION");
    let arch = capsid_image::Platform::host().architecture;
    json!({
        "Client": { "Version": version, "Os": "linux", "Arch": arch },
        "Server": { "Platform": { "Name": "Capsid" }, "Version": version, "Os": "linux", "Arch": arch },
    })
}
