//! Fields of containers and images for `inspect`, as in docker.

use capsid_image::{Healthcheck, Image, ImageConfig};
use serde_json::{Map, Value, json};

use super::network_fields;
use crate::folders::Folders;
use crate::health::Health;
use crate::model::{Container, Declared, HealthCheck, NetworkConfig, ShareMount, Status, VolumeMount};
use crate::network::PodNetworks;
use crate::plan::signal_name;
use crate::{clock, labels, store_folder, volumes};

/// Returns docker's fields of an image.
pub(super) fn image(image: &Image) -> Value {
    let config = &image.config;
    let names = |is_wanted: fn(&capsid_image::Reference) -> bool| {
        let names = image.references.iter().filter(|name| is_wanted(name));
        names.map(ToString::to_string).collect::<Vec<_>>()
    };
    json!({
        "Id": image.id.to_string(),
        "RepoTags": names(|name| name.tag().is_some()),
        "RepoDigests": names(|name| name.digest().is_some()),
        "Parent": "",
        "Comment": "",
        "Created": config.created,
        "Author": "",
        "Architecture": config.platform.architecture,
        "Os": config.platform.os,
        "Variant": config.platform.variant.as_deref().unwrap_or_default(),
        "Size": image.size_bytes,
        "RootFS": { "Type": "layers", "Layers": config.diff_ids.iter().map(ToString::to_string).collect::<Vec<_>>() },
        "Config": image_config(config),
    })
}

fn image_config(config: &ImageConfig) -> Value {
    let check = &config.healthcheck;
    json!({
        "Entrypoint": list(&config.entrypoint),
        "Cmd": list(&config.cmd),
        "Env": config.env,
        "User": config.user,
        "WorkingDir": config.working_dir,
        "StopSignal": config.stop_signal.as_deref().unwrap_or_default(),
        "Labels": config.labels,
        "ExposedPorts": set(&config.exposed_ports),
        "Volumes": set(&config.volumes),
        "Healthcheck": (!check.test.is_empty()).then(|| image_check(check)),
        "Shell": list(&config.shell),
        "OnBuild": null,
    })
}

fn image_check(check: &Healthcheck) -> Value {
    json!({
        "Test": check.test,
        "Interval": check.interval_ns,
        "Timeout": check.timeout_ns,
        "StartPeriod": check.start_period_ns,
        "Retries": check.retries,
    })
}

/// Returns Go's nil for a list without entries.
fn list(words: &[String]) -> Option<&[String]> {
    (!words.is_empty()).then_some(words)
}

/// Returns a set in Go's form: a map with empty objects.
fn set<'a>(words: impl IntoIterator<Item = &'a String>) -> Map<String, Value> {
    words.into_iter().map(|word| (word.clone(), json!({}))).collect()
}

/// Returns docker's fields of volumes and bind mounts.
pub(super) fn mounts(volumes: &[VolumeMount], shares: &[ShareMount], folders: &Folders) -> Vec<Value> {
    let volumes = volumes.iter().map(|mount| describe_mount(mount, folders));
    volumes.chain(shares.iter().map(describe_share)).collect()
}

/// Returns docker's fields of a volume in a container; its source is the disk's file.
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

/// Returns docker's fields of a bind mount.
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

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Returns docker's fields of a container, with Capsid's own fields below `Capsid`.
pub(super) fn container(container: &Container, pod_networks: &PodNetworks<'_>, folders: &Folders) -> Value {
    let (spec, config, machine) = (&container.spec, &container.config, &container.pod.config);
    let words: Vec<String> = spec.args.iter().map(|bytes| text(bytes)).collect();
    let declared = declared(container);
    json!({
        "Id": container.id,
        "Created": clock::rfc3339(container.created_ns),
        "Path": words.first(),
        "Args": words.get(1..).unwrap_or_default(),
        "State": state(container, folders),
        "Image": container.image_id,
        "LogPath": config.log.keep.then(|| store_folder::log(&folders.data, &container.id)),
        "Name": format!("/{}", container.name),
        "RestartCount": container.restarts,
        "Platform": "linux",
        "HostConfig": host_config(container, &declared),
        "Config": container_config(container, &declared),
        "Mounts": mounts(&config.mounts, &config.shares, folders),
        "NetworkSettings": network_fields::settings(pod_networks, &declared.exposed_ports),
        "Capsid": {
            "Accelerator": machine.accelerator.as_str(),
            "Machine": { "Vcpus": machine.machine.vcpus, "MemoryMiB": machine.machine.memory_mib },
            "Kernel": machine.kernel,
        },
        // Field of podman: empty for a container that was created without a pod.
        "Pod": container.explicit_pod().map(|pod| pod.id.as_str()).unwrap_or_default(),
    })
}

/// Returns the declared properties of a container; for one that an earlier version created, those of its spec.
fn declared(container: &Container) -> Declared {
    container.config.declared.clone().unwrap_or_else(|| Declared {
        cmd: container.spec.args.iter().map(|bytes| text(bytes)).collect(),
        ..Declared::default()
    })
}

fn state(container: &Container, folders: &Folders) -> Value {
    let has_health = container.config.health.is_some();
    json!({
        "Status": container.status.as_str(),
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
        "Health": has_health.then(|| Health::read(&folders.data, &container.id)),
    })
}

/// Returns the network that came with the container: that of its implicit pod.
fn own_network(container: &Container) -> Option<&NetworkConfig> {
    let network = container.pod.config.network.as_ref();
    network.filter(|_| container.pod.is_implicit)
}

fn host_config(container: &Container, declared: &Declared) -> Value {
    let (spec, config) = (&container.spec, &container.config);
    let limits = &spec.limits;
    let network = own_network(container);
    let sysctls = spec
        .sysctls
        .iter()
        .map(|sysctl| (sysctl.name.clone(), json!(sysctl.value)));
    json!({
        "AutoRemove": config.remove,
        "Binds": list(&declared.binds),
        "CapAdd": list(&declared.cap_add),
        "CapDrop": list(&declared.cap_drop),
        "CpusetCpus": limits.cpuset_cpus.clone().unwrap_or_default(),
        "Dns": network.iter().flat_map(|network| &network.dns).collect::<Vec<_>>(),
        "DnsOptions": network.iter().flat_map(|network| &network.dns_options).collect::<Vec<_>>(),
        "DnsSearch": network.iter().flat_map(|network| &network.dns_search).collect::<Vec<_>>(),
        "GroupAdd": list(&spec.additional_groups),
        "Init": spec.init,
        "LogConfig": {
            "Type": if config.log.keep { "json-file" } else { "none" },
            "Config": { "max-size": config.log.max_size.to_string(), "max-file": config.log.max_files.to_string() },
        },
        "MaskedPaths": spec.masked_paths,
        "Memory": limits.memory_max_bytes.unwrap_or(0),
        "MemoryReservation": limits.memory_low_bytes.unwrap_or(0),
        "NanoCpus": limits.cpu_quota_us.map_or(0, |quota| quota * 10_000),
        "NetworkMode": match container.explicit_pod() {
            Some(pod) => format!("container:{}", pod.id),
            None => network_fields::mode(network).into(),
        },
        "PidsLimit": limits.pids_max,
        "PortBindings": network_fields::bindings(network, &[]),
        "Privileged": spec.all_devices,
        "ReadonlyPaths": spec.readonly_paths,
        "ReadonlyRootfs": spec.root.readonly,
        "RestartPolicy": { "Name": config.restart.to_string(), "MaximumRetryCount": config.restart.retries_max() },
        "SecurityOpt": list(&declared.security_opt),
        "Sysctls": sysctls.collect::<Map<String, Value>>(),
    })
}

fn container_config(container: &Container, declared: &Declared) -> Value {
    let (spec, config) = (&container.spec, &container.config);
    let published = own_network(container).into_iter().flat_map(|network| &network.ports);
    let published: Vec<String> = published.map(|port| port.container_words()).collect();
    json!({
        "Hostname": spec.hostname,
        "Domainname": "",
        "User": spec.user,
        "AttachStdin": config.stdin_once,
        "ExposedPorts": set(declared.exposed_ports.iter().chain(&published)),
        "Tty": spec.terminal.is_some(),
        "OpenStdin": spec.stdin,
        "StdinOnce": config.stdin_once,
        "Env": spec.env.iter().map(|bytes| text(bytes)).collect::<Vec<_>>(),
        "Cmd": list(&declared.cmd),
        "Healthcheck": config.health.as_ref().map(check),
        "Image": container.image,
        "Volumes": set(&declared.volumes),
        "WorkingDir": spec.cwd,
        "Entrypoint": list(&declared.entrypoint),
        "OnBuild": null,
        "Labels": labels::object(&config.labels),
        "StopSignal": signal_name(config.stop_signal),
        "StopTimeout": i64::try_from(config.stop_timeout_s).unwrap_or(-1),
    })
}

fn check(check: &HealthCheck) -> Value {
    let test = match &check.command[..] {
        [shell, flag, command] if shell == "/bin/sh" && flag == "-c" => vec!["CMD-SHELL", command.as_str()],
        words => ["CMD"].into_iter().chain(words.iter().map(String::as_str)).collect(),
    };
    json!({
        "Test": test,
        "Interval": check.interval_ns,
        "Timeout": check.timeout_ns,
        "StartPeriod": check.start_period_ns,
        "Retries": check.retries,
    })
}
