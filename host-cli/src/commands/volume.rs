//! Verb `capsid volume`.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;

use anyhow::bail;
use serde_json::{Value, json};

use super::filter::{self, LabelFilter};
use super::lifecycle::confirm;
use super::table;
use crate::app::Context;
use crate::cli::{VolumeCommand, VolumeCreateArgs, VolumeInspectArgs, VolumeLsArgs, VolumePruneArgs, VolumeRmArgs};
use crate::folders::Folders;
use crate::format::Template;
use crate::model::Volume;
use crate::plan::{self, size};
use crate::state::State;
use crate::volumes::{self, VolumeError, VolumesLock};
use crate::{clock, error_text, id, labels};

/// Runs a verb of volumes.
pub(crate) fn run(context: Context, command: VolumeCommand) -> anyhow::Result<u8> {
    match command {
        VolumeCommand::Create(args) => create(context, args),
        VolumeCommand::Ls(args) => list(context, &args),
        VolumeCommand::Inspect(args) => inspect(context, &args),
        VolumeCommand::Rm(args) => remove(context, &args),
        VolumeCommand::Prune(args) => prune(context, &args),
    }
}

/// Creates a volume. As in docker, an existing one is no error.
fn create(context: Context, args: VolumeCreateArgs) -> anyhow::Result<u8> {
    if let Some(name) = &args.name {
        plan::check_name(name)?;
    }
    plan::check_labels(&args.label)?;
    let (folders, state) = context.state()?;
    let anonymous = args.name.is_none();
    let name = args.name.map_or_else(id::new, Ok)?;
    let lock = VolumesLock::take(&folders.data)?;
    if state.volume(&name)?.is_none() {
        volumes::make_disk(&lock, &state, &folders.data, &name)?;
        state.add_volume(&Volume {
            name: name.clone(),
            created_ns: clock::now_ns(),
            labels: args.label,
            anonymous,
            prepared: false,
        })?;
    }
    println!("{name}");
    Ok(0)
}

fn list(context: Context, args: &VolumeLsArgs) -> anyhow::Result<u8> {
    let filters = args
        .filter
        .iter()
        .map(|text| Filter::parse(text))
        .collect::<Result<Vec<_>, _>>()?;
    let template = args.format.as_deref().map(Template::of_lines).transpose()?;
    let (folders, state) = context.state()?;
    let used = used(&state)?;
    let mut rows = Vec::new();
    for volume in state.volumes()? {
        if filter::pass(&filters, Filter::is_label, |filter| filter.takes(&volume, &used)) {
            rows.push(row(&volume, &folders));
        }
    }
    if args.quiet {
        for row in &rows {
            println!("{}", row["Name"].as_str().unwrap_or_default());
        }
        return Ok(0);
    }
    table::print_rows(
        &rows,
        template.as_ref(),
        &[("Driver", "DRIVER"), ("Name", "VOLUME NAME")],
    )?;
    Ok(0)
}

/// Returns the names of volumes that containers have.
pub(super) fn used(state: &State) -> anyhow::Result<BTreeSet<String>> {
    let containers = state.all_containers()?;
    let mounts = containers.into_iter().flat_map(|container| container.config.mounts);
    Ok(mounts.map(|mount| mount.volume).collect())
}

/// Returns docker's fields of `--format`.
fn row(volume: &Volume, folders: &Folders) -> Value {
    json!({
        "Driver": "local",
        "Label": labels::object(&volume.labels),
        "Labels": volume.labels.join(","),
        "Links": "N/A",
        "Mountpoint": volumes::disk(&folders.data, &volume.name),
        "Name": volume.name,
        "Scope": "local",
        "Size": size::human(used_bytes(volume, folders)),
    })
}

/// Returns the number of bytes that a volume's disk takes on the host; 0 where it cannot be read.
pub(super) fn used_bytes(volume: &Volume, folders: &Folders) -> u64 {
    std::fs::metadata(volumes::disk(&folders.data, &volume.name)).map_or(0, |disk| disk.blocks() * 512)
}

fn inspect(context: Context, args: &VolumeInspectArgs) -> anyhow::Result<u8> {
    let template = args.format.as_deref().map(Template::of_objects).transpose()?;
    let (folders, state) = context.state()?;
    let mut found = Vec::new();
    let mut code = 0;
    for name in &args.volumes {
        match state.volume(name)? {
            Some(volume) => found.push(whole(&volume, &state, &folders)?),
            None => {
                error_text::print(&VolumeError::Unknown(name.clone()));
                code = 1;
            }
        }
    }
    table::print_objects(&found, template.as_ref())?;
    Ok(code)
}

/// Returns docker's object of a volume, if there is one of this name.
pub(super) fn find_object(state: &State, folders: &Folders, name: &str) -> anyhow::Result<Option<Value>> {
    let volume = state.volume(name)?;
    volume.map(|volume| whole(&volume, state, folders)).transpose()
}

/// Returns docker's fields of a volume, with Capsid's own fields below `Capsid`.
fn whole(volume: &Volume, state: &State, folders: &Folders) -> anyhow::Result<Value> {
    let users = state.users_of_volume(&volume.name)?;
    Ok(json!({
        "Name": volume.name,
        "CreatedAt": clock::rfc3339(volume.created_ns),
        "Driver": "local",
        "Labels": labels::object(&volume.labels),
        "Mountpoint": volumes::disk(&folders.data, &volume.name),
        "Options": null,
        "Scope": "local",
        "Capsid": {
            "Anonymous": volume.anonymous,
            "HostBytes": used_bytes(volume, folders),
            "UsedBy": users.into_iter().map(|container| container.name).collect::<Vec<_>>(),
        },
    }))
}

fn remove(context: Context, args: &VolumeRmArgs) -> anyhow::Result<u8> {
    let (folders, state) = context.state()?;
    let mut code = 0;
    for name in &args.volumes {
        match volumes::remove(&state, &folders.data, name) {
            Ok(()) => println!("{name}"),
            Err(VolumeError::Unknown(_)) if args.force => {}
            Err(error) => {
                error_text::print(&error);
                code = 1;
            }
        }
    }
    Ok(code)
}

fn prune(context: Context, args: &VolumePruneArgs) -> anyhow::Result<u8> {
    let which = if args.all { "all" } else { "anonymous" };
    let warning = format!("WARNING! This will remove {which} volumes that no container has.");
    if !args.force && !confirm(&warning)? {
        return Ok(0);
    }
    let (folders, state) = context.state()?;
    let reclaimed_bytes = remove_unused(&state, &folders, args.all)?;
    println!("Total reclaimed space: {}", size::human(reclaimed_bytes));
    Ok(0)
}

/// Removes the volumes that no container has, named ones only with `all`. Returns their size in bytes.
pub(super) fn remove_unused(state: &State, folders: &Folders, all: bool) -> anyhow::Result<u64> {
    let used = used(state)?;
    let mut reclaimed_bytes = 0;
    let mut removed = Vec::new();
    for volume in state.volumes()? {
        if used.contains(&volume.name) || (!all && !volume.anonymous) {
            continue;
        }
        let bytes = used_bytes(&volume, folders);
        // A volume that a container got meanwhile stays.
        if volumes::remove(state, &folders.data, &volume.name).is_ok() {
            reclaimed_bytes += bytes;
            removed.push(volume.name);
        }
    }
    if !removed.is_empty() {
        println!("Deleted Volumes:\n{}\n", removed.join("\n"));
    }
    Ok(reclaimed_bytes)
}

/// Filter of one `--filter` flag.
#[derive(Debug, PartialEq)]
enum Filter {
    Name(String),
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
            "dangling" => Self::Dangling(filter::truth(name, value)?),
            other => bail!("there is no filter {other:?}: use name, label, label! or dangling"),
        })
    }

    fn is_label(&self) -> bool {
        matches!(self, Self::Label(_))
    }

    fn takes(&self, volume: &Volume, used: &BTreeSet<String>) -> bool {
        match self {
            Self::Name(part) => volume.name.contains(part.as_str()),
            Self::Dangling(wanted) => used.contains(&volume.name) != *wanted,
            Self::Label(label) => label.takes(&volume.labels),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read_and_choose() {
        let volume = Volume {
            name: "data".into(),
            created_ns: 0,
            labels: vec!["tier=back".into()],
            anonymous: false,
            prepared: false,
        };
        let used = BTreeSet::from(["data".to_owned()]);
        let takes = |text: &str| Filter::parse(text).unwrap().takes(&volume, &used);
        assert!(takes("name=at") && takes("label=tier") && takes("label=tier=back") && takes("dangling=false"));
        assert!(!takes("name=x") && !takes("label=tier=front") && !takes("dangling=true"));
        for wrong in ["name", "dangling=maybe", "color=red"] {
            assert!(Filter::parse(wrong).is_err(), "{wrong}");
        }
    }
}
