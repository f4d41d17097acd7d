//! `capsid image inspect`.

use anyhow::anyhow;
use capsid_image::Image;
use serde_json::{Value, json};

use super::Context;
use crate::cli::InspectArgs;

/// Prints what is known of the images, in docker's field names; those not found are told after the others.
pub(crate) fn run(context: Context, args: &InspectArgs) -> anyhow::Result<u8> {
    let (_, store) = context.store()?;
    let mut found = Vec::new();
    let mut code = 0;
    for name in &args.images {
        match store.find(name)? {
            Some(image) => found.push(describe(&image)),
            None => {
                eprintln!("capsid: {}", super::describe(&anyhow!("no such image: {name}")));
                code = 1;
            }
        }
    }
    println!("{}", serde_json::to_string_pretty(&found)?);
    Ok(code)
}

fn describe(image: &Image) -> Value {
    let config = &image.config;
    json!({
        "Id": image.id.to_string(),
        "RepoTags": image.references.iter().filter(|r| r.tag().is_some()).map(ToString::to_string).collect::<Vec<_>>(),
        "RepoDigests": image.references.iter().filter(|r| r.digest().is_some()).map(ToString::to_string).collect::<Vec<_>>(),
        "Created": config.created,
        "Architecture": config.platform.architecture,
        "Os": config.platform.os,
        "Variant": config.platform.variant,
        "Size": image.size_bytes,
        "RootFS": { "Type": "layers", "Layers": config.diff_ids.iter().map(ToString::to_string).collect::<Vec<_>>() },
        "Config": {
            "Entrypoint": config.entrypoint,
            "Cmd": config.cmd,
            "Env": config.env,
            "User": config.user,
            "WorkingDir": config.working_dir,
            "StopSignal": config.stop_signal,
            "Labels": config.labels,
            "ExposedPorts": config.exposed_ports,
            "Volumes": config.volumes,
        },
    })
}
