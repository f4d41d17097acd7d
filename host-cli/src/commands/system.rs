//! Verb `capsid system`: all containers, images and volumes together.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context as _, bail};
use capsid_image::{Damage, Image, Removed, Store};
use serde_json::{Value, json};

use super::lifecycle::{confirm, remove_ended, start_one};
use super::{network, recover, table, volume};
use crate::app::stop_limit;
use crate::app::{AppContext, Context, open_store, unless_interrupted};
use crate::cli::{DfArgs, InfoArgs, SystemCommand, SystemPruneArgs};
use crate::control::{Answer, Request};
use crate::error_text;
use crate::folders::Folders;
use crate::format::Template;
use crate::model::{Container, RestartPolicy, Status, exit_code};
use crate::plan::size;
use crate::progress::Bars;
use crate::signals::Signals;
use crate::{clock, output, store_folder};

/// Runs a verb of the system.
pub(crate) async fn run(context: Context, command: SystemCommand) -> anyhow::Result<u8> {
    match command {
        // Opened without the state, which may be lost.
        SystemCommand::Recover => recover::run(context),
        SystemCommand::Verify => verify(context).await,
        SystemCommand::Df(args) => df(&AppContext::open(context)?, &args),
        SystemCommand::Prune(args) => prune(&AppContext::open(context)?, &args).await,
        SystemCommand::Start => start(&AppContext::open(context)?).await,
        SystemCommand::Stop => stop(&AppContext::open(context)?).await,
        SystemCommand::Info(args) => info(&AppContext::open(context)?, &args),
    }
}

/// Verifies all stored data of images, and prints a line for each damaged part.
async fn verify(context: Context) -> anyhow::Result<u8> {
    let (_, store) = context.store()?;
    let (mut signals, bars) = (Signals::listen_to_ending()?, Bars::new(true));
    let verifying = tokio::task::spawn_blocking({
        let store = store.clone();
        move || store.verify()
    });
    let damage = match unless_interrupted(&store, &mut signals, &bars, verifying).await {
        Ok(verified) => verified.context("the check broke off")??,
        Err(number) => return Ok(exit_code::of_signal(number.unsigned_abs())),
    };
    for Damage { image, part } in &damage {
        println!("{image}: damaged: {part}");
    }
    if !damage.is_empty() {
        bail!("images are damaged: `capsid pull` or `capsid load` of them puts them right, `capsid rmi` removes them");
    }
    Ok(0)
}

/// Returns the number of bytes that a file takes on disk: a scratch disk is mostly a hole.
fn disk_bytes(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.blocks() * 512)
}

/// Returns the number of bytes that a container's files take on disk, without its image.
pub(super) fn container_bytes(folders: &Folders, container: &Container) -> u64 {
    let folder = store_folder::all(&folders.data).join(&container.id);
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files.map(|file| disk_bytes(&file.path())).sum()
}

/// Object that takes space on disk.
struct Item {
    name: String,
    detail: String,
    bytes: u64,
    in_use: bool,
}

/// Objects of one kind.
struct UsageKind {
    name: &'static str,
    /// Headers of a list: the object's name, and its detail.
    columns: [&'static str; 2],
    items: Vec<Item>,
}

impl UsageKind {
    fn row(&self) -> Value {
        let all: u64 = self.items.iter().map(|item| item.bytes).sum();
        let unused: u64 = self
            .items
            .iter()
            .filter(|item| !item.in_use)
            .map(|item| item.bytes)
            .sum();
        let percent = (unused * 100).checked_div(all);
        let reclaimable = match percent {
            Some(percent) => format!("{} ({percent}%)", size::human(unused)),
            None => size::human(unused),
        };
        json!({
            "Type": self.name,
            "TotalCount": self.items.len().to_string(),
            "Active": self.items.iter().filter(|item| item.in_use).count().to_string(),
            "Size": size::human(all),
            "Reclaimable": reclaimable,
        })
    }
}

fn kinds(app: &AppContext) -> anyhow::Result<[UsageKind; 3]> {
    let store = open_store(&app.folders)?;
    let containers = app.state.containers()?;
    let has_users = |image: &Image| containers.iter().any(|user| user.image_id == image.id.to_string());
    let images = store.list()?.into_iter().map(|image| Item {
        name: image
            .references
            .first()
            .map_or_else(|| "<none>".into(), ToString::to_string),
        detail: image
            .id
            .to_string()
            .trim_start_matches("sha256:")
            .chars()
            .take(12)
            .collect(),
        bytes: image.size_bytes,
        in_use: has_users(&image),
    });
    let used = volume::used(&app.state)?;
    let volumes = app.state.volumes()?.into_iter().map(|volume| Item {
        bytes: volume::used_bytes(&volume, &app.folders),
        in_use: used.contains(&volume.name),
        detail: clock::ago(volume.created_ns),
        name: volume.name,
    });
    let held = containers.iter().map(|container| Item {
        name: container.name.clone(),
        detail: container.status.as_str().into(),
        bytes: container_bytes(&app.folders, container),
        in_use: container.status.is_live(),
    });
    Ok([
        UsageKind {
            name: "Images",
            columns: ["IMAGE", "IMAGE ID"],
            items: images.collect(),
        },
        UsageKind {
            name: "Containers",
            columns: ["NAMES", "STATUS"],
            items: held.collect(),
        },
        UsageKind {
            name: "Local Volumes",
            columns: ["VOLUME NAME", "CREATED"],
            items: volumes.collect(),
        },
    ])
}

fn df(app: &AppContext, args: &DfArgs) -> anyhow::Result<u8> {
    const COLUMNS: [(&str, &str); 5] = [
        ("Type", "TYPE"),
        ("TotalCount", "TOTAL"),
        ("Active", "ACTIVE"),
        ("Size", "SIZE"),
        ("Reclaimable", "RECLAIMABLE"),
    ];
    let template = args.format.as_deref().map(Template::of_lines).transpose()?;
    let kinds = kinds(app)?;
    if !args.verbose || template.is_some() {
        let rows: Vec<Value> = kinds.iter().map(UsageKind::row).collect();
        table::print_rows(&rows, template.as_ref(), &COLUMNS)?;
        return Ok(0);
    }
    for kind in kinds {
        println!("{} space usage:\n", kind.name);
        let rows = kind.items.into_iter().map(|item| {
            let in_use = if item.in_use { "yes" } else { "no" };
            [item.name, item.detail, size::human(item.bytes), in_use.into()]
        });
        table::print([kind.columns[0], kind.columns[1], "SIZE", "IN USE"], rows);
        println!();
    }
    Ok(0)
}

async fn prune(app: &AppContext, args: &SystemPruneArgs) -> anyhow::Result<u8> {
    let mut warning = String::from(
        "WARNING! This will remove:\n  - all stopped containers\n  - all networks not used by at least one container\n",
    );
    if args.volumes {
        warning.push_str("  - all anonymous volumes not used by at least one container\n");
    }
    warning.push_str(if args.all {
        "  - all images without at least one container associated to them\n"
    } else {
        "  - all dangling images\n"
    });
    if !args.force && !confirm(&warning)? {
        return Ok(0);
    }
    let mut reclaimed = remove_ended(app, |container| container_bytes(&app.folders, container)).await?;
    network::remove_unused(&app.state, &app.folders)?;
    if args.volumes {
        reclaimed += volume::remove_unused(&app.state, &app.folders, false)?;
    }
    reclaimed += remove_images(app, &open_store(&app.folders)?, args.all)?;
    println!("Total reclaimed space: {}", size::human(reclaimed));
    Ok(0)
}

/// Removes images that no container was created from. Returns their size in bytes.
fn remove_images(app: &AppContext, store: &Store, all: bool) -> anyhow::Result<u64> {
    let mut reclaimed = 0;
    let mut lines = Vec::new();
    for image in store.list()? {
        let id = image.id.to_string();
        if (!all && !image.references.is_empty()) || !app.state.users_of_image(&id)?.is_empty() {
            continue;
        }
        match store.remove(&id, true) {
            Ok(removed) => {
                reclaimed += image.size_bytes;
                lines.extend(removed.iter().map(|removed| match removed {
                    Removed::Untagged(reference) => format!("untagged: {reference}"),
                    Removed::Deleted(digest) => format!("deleted: {digest}"),
                }));
            }
            // Pulled again or used meanwhile: the image stays.
            Err(error) => error_text::print(&error),
        }
    }
    if !lines.is_empty() {
        println!("Deleted Images:\n{}\n", lines.join("\n"));
    }
    Ok(reclaimed)
}

/// Whether the container is started with the system, as by docker's daemon at its start.
fn is_to_start(container: &Container) -> bool {
    if container.status != Status::Exited || container.started_ns == 0 {
        return false;
    }
    match container.config.restart {
        RestartPolicy::No => false,
        RestartPolicy::Always => true,
        RestartPolicy::UnlessStopped => !container.config.was_stopped,
        RestartPolicy::OnFailure { .. } => container.exit_code != 0 && !container.config.was_stopped,
    }
}

async fn start(app: &AppContext) -> anyhow::Result<u8> {
    let mut code = 0;
    // The oldest first: the newer ones may need it.
    for container in app.state.containers()?.into_iter().rev().filter(is_to_start) {
        match start_one(app, &container.id).await {
            Ok(()) => println!("{}", container.name),
            Err(error) => {
                error_text::print(error.context(format!("cannot start {}", container.name)).as_ref());
                code = 1;
            }
        }
    }
    Ok(code)
}

async fn stop(app: &AppContext) -> anyhow::Result<u8> {
    let mut asked = Vec::new();
    for container in app.state.containers()? {
        if let Some(connection) = app.connect(&container.id)
            && connection.writer.send(&Request::HostStops).await.is_ok()
        {
            asked.push((container, connection));
        }
    }
    // All stop at once, and each is waited for: a hang-up means that it has ended, too.
    for (container, mut connection) in asked {
        let limit = stop_limit(container.config.stop_timeout_s);
        connection.end_within::<Answer>(limit).await;
        println!("{}", container.name);
    }
    Ok(0)
}

fn info(app: &AppContext, args: &InfoArgs) -> anyhow::Result<u8> {
    let containers = app.state.containers()?;
    let count = |wanted: &[Status]| containers.iter().filter(|c| wanted.contains(&c.status)).count();
    let info = json!({
        "Containers": containers.len(),
        "ContainersRunning": count(&[Status::Running, Status::Restarting]),
        "ContainersPaused": count(&[Status::Paused]),
        "ContainersStopped": count(&[Status::Created, Status::Exited]),
        "Images": open_store(&app.folders)?.list()?.len(),
        "Volumes": app.state.volumes()?.len(),
        "ServerVersion": env!("CARGO_PKG_VERSION"),
        "OSType": "linux",
        "Architecture": std::env::consts::ARCH,
        "NCPU": std::thread::available_parallelism().map_or(1, usize::from),
        "MemTotal": crate::doctor::memory_bytes(),
        "CapsidRootDir": app.folders.data,
        "CapsidRunDir": app.folders.run,
    });
    let template = match (&args.format, args.json) {
        (Some(text), _) => Some(Template::of_objects(text)?),
        (None, true) => Some(Template::of_objects("json")?),
        (None, false) => None,
    };
    if let Some(template) = template {
        output::rendered(&template.render(&info)?);
        return Ok(0);
    }
    let Some(fields) = info.as_object() else { return Ok(0) };
    for (name, value) in fields {
        println!(
            "{name}: {}",
            value
                .as_str()
                .map_or_else(|| output::escape_json(&value.to_string()), output::line)
        );
    }
    Ok(0)
}
