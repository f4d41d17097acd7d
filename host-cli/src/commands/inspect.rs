//! `capsid inspect` and `capsid image inspect`.

use anyhow::anyhow;
use capsid_image::{Image, Store};
use serde_json::{Value, json};

use super::network_fields;
use super::{Context, open_store, table};
use crate::cli::{ContainerInspectArgs, InspectArgs};
use crate::folders::Folders;
use crate::format::Template;
use crate::health::Health;
use crate::network::Endpoint;
use crate::state::{Container, ShareMount, State, StateError, Status, VolumeMount};
use crate::{clock, error_text, labels, store_folder, volumes};

/// Prints what is known of the images, in docker's field names; those not found are told after the others.
pub(crate) fn images(context: Context, args: &InspectArgs) -> anyhow::Result<u8> {
    let template = args.format.as_deref().map(Template::of_objects).transpose()?;
    let (_, store) = context.store()?;
    let mut found = Vec::new();
    let mut code = 0;
    for name in &args.images {
        match find_image(&store, name)? {
            Some(image) => found.push(image),
            None => {
                error_text::tell(anyhow!("no such image: {name}").as_ref());
                code = 1;
            }
        }
    }
    table::print_objects(&found, template.as_ref())?;
    Ok(code)
}

/// Prints what is known of containers, or of images where there is no container of that name, as docker does.
pub(crate) fn containers(context: Context, args: &ContainerInspectArgs) -> anyhow::Result<u8> {
    let template = args.format.as_deref().map(Template::of_objects).transpose()?;
    let (folders, state) = context.state()?;
    let store = open_store(&folders)?;
    let mut found = Vec::new();
    let mut code = 0;
    for name in &args.names {
        match find(&state, &store, &folders, name)? {
            Some(object) => found.push(object),
            None => {
                error_text::tell(anyhow!("no such object: {name}").as_ref());
                code = 1;
            }
        }
    }
    table::print_objects(&found, template.as_ref())?;
    Ok(code)
}

fn find(state: &State, store: &Store, folders: &Folders, name: &str) -> anyhow::Result<Option<Value>> {
    match state.find(name) {
        Ok(container) => {
            let endpoint = Endpoint::of_container(&container, state)?;
            Ok(Some(describe_container(&container, &endpoint, folders)))
        }
        Err(StateError::Unknown(_)) => find_image(store, name),
        Err(error) => Err(error.into()),
    }
}

fn find_image(store: &Store, name: &str) -> anyhow::Result<Option<Value>> {
    Ok(store.find(name)?.map(|image| describe_image(&image)))
}

fn describe_image(image: &Image) -> Value {
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

/// docker's fields of volumes and bind mounts.
pub(super) fn mounts(volumes: &[VolumeMount], shares: &[ShareMount], folders: &Folders) -> Vec<Value> {
    let volumes = volumes.iter().map(|mount| describe_mount(mount, folders));
    volumes.chain(shares.iter().map(describe_share)).collect()
}

/// docker's fields of a volume in a container; its source is the disk's file.
fn describe_mount(mount: &VolumeMount, folders: &Folders) -> Value {
    json!({
        "Type": "volume",
        "Name": mount.volume,
        "Source": volumes::disk(&folders.data, &mount.volume),
        "Destination": mount.target,
        "Driver": "local",
        "Mode": if mount.readonly { "ro" } else { "rw" },
        "RW": !mount.readonly,
        "Propagation": "",
    })
}

/// docker's fields of a bind mount.
fn describe_share(share: &ShareMount) -> Value {
    json!({
        "Type": "bind",
        "Source": share.source,
        "Destination": share.target,
        "Mode": if share.readonly { "ro" } else { "" },
        "RW": !share.readonly,
        "Propagation": "rprivate",
    })
}

/// docker's fields, and what only Capsid has below `Capsid`.
fn describe_container(container: &Container, endpoint: &Endpoint<'_>, folders: &Folders) -> Value {
    let (spec, config) = (&container.spec, &container.config);
    let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
    let words: Vec<String> = spec.args.iter().map(text).collect();
    let limits = &spec.limits;
    json!({
        "Id": container.id,
        "Created": clock::rfc3339(container.created_ns),
        "Path": words.first(),
        "Args": words.get(1..).unwrap_or_default(),
        "State": {
            "Status": container.status.word(),
            "Running": container.status.is_live(),
            "Paused": container.status == Status::Paused,
            "Restarting": container.status == Status::Restarting,
            "OOMKilled": container.oom_killed,
            "Dead": false,
            "Pid": container.supervisor_pid,
            "ExitCode": container.exit_code,
            "Error": container.error,
            "StartedAt": clock::rfc3339_or_never(container.started_ns),
            "FinishedAt": clock::rfc3339_or_never(container.finished_ns),
            "Health": config.health.is_some().then(|| Health::read(&folders.data, &container.id)),
        },
        "Image": container.image_id,
        "LogPath": config.log.keep.then(|| store_folder::log(&folders.data, &container.id)),
        "Name": format!("/{}", container.name),
        "RestartCount": container.restarts,
        "Platform": "linux",
        "HostConfig": {
            "AutoRemove": config.remove,
            "RestartPolicy": { "Name": config.restart.to_string(), "MaximumRetryCount": config.restart.retries_max() },
            "LogConfig": {
                "Type": if config.log.keep { "json-file" } else { "none" },
                "Config": { "max-size": config.log.max_size.to_string(), "max-file": config.log.max_files.to_string() },
            },
            "Memory": limits.memory_max_bytes.unwrap_or(0),
            "NanoCpus": limits.cpu_quota_us.map_or(0, |quota| quota * 10_000),
            "CpusetCpus": limits.cpuset_cpus.clone().unwrap_or_default(),
            "PidsLimit": limits.pids_max,
            "ReadonlyRootfs": spec.root.readonly,
            "Privileged": spec.all_devices,
            "Init": spec.init,
            "NetworkMode": match &container.pod {
                Some(pod) => format!("container:{pod}"),
                None => network_fields::mode(config.network.as_ref()).into(),
            },
            "PortBindings": network_fields::bindings(config.network.as_ref()),
            "Dns": config.network.iter().flat_map(|network| &network.dns).collect::<Vec<_>>(),
        },
        "Config": {
            "Hostname": spec.hostname,
            "User": spec.user,
            "AttachStdin": config.stdin_once,
            "Tty": spec.terminal.is_some(),
            "OpenStdin": spec.stdin,
            "StdinOnce": config.stdin_once,
            "Env": spec.env.iter().map(text).collect::<Vec<_>>(),
            "Cmd": words,
            "Image": container.image,
            "WorkingDir": spec.cwd,
            "Labels": labels::object(&config.labels),
            "StopSignal": config.stop_signal.to_string(),
            "StopTimeout": i64::try_from(config.stop_timeout_s).unwrap_or(-1),
        },
        "Mounts": mounts(&config.mounts, &config.shares, folders),
        "NetworkSettings": network_fields::settings(endpoint),
        "Capsid": {
            "Accelerator": config.accelerator.word(),
            "Machine": { "Vcpus": config.machine.vcpus, "MemoryMiB": config.machine.memory_mib },
            "Kernel": config.kernel,
        },
        // podman's field: without a pod it is empty.
        "Pod": container.pod.as_deref().unwrap_or_default(),
    })
}
