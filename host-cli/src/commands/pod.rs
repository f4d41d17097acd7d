//! Verb `capsid pod`: pods of several containers, in podman's terms.

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::filter::{self, LabelFilter};
use super::lifecycle::{STARTS_AT_ONCE, each, rm_one, start_one};
use super::name_pattern::NamePattern;
use super::network_fields;
use super::stats::{self, Shown};
use super::{run, table};
use crate::app::{AppContext, Context};
use crate::app::{end_unasked, stop_limit};
use crate::cli::{
    PodCommand, PodCreateArgs, PodInspectArgs, PodLsArgs, PodNamesArgs, PodRmArgs, PodStatsArgs, PodStopArgs,
};
use crate::container_lock::ContainerLock;
use crate::control::{Answer, Request};
use crate::folders::Folders;
use crate::format::Template;
use crate::model::{AccelChoice, Container, Pod, PodStatus};
use crate::network::PodNetworks;
use crate::plan::{PodCreateRequest, PodSurroundings};
use crate::state::{Pending, State, StateError};
use crate::supervisor_process::SupervisorProcess;
use crate::{
    clock, create, error_text, id, install_paths, labels, names, network, plan, session, settings, shares, start,
    surroundings,
};

/// Maximum number of generated names that are tried.
const NAME_ATTEMPTS: u32 = 10;
/// Number of devices for the disks of the pod's containers: one device of its machine.
const DISK_SLOTS_DEVICES: usize = 1;

const COLUMNS: [(&str, &str); 5] = [
    ("ID", "POD ID"),
    ("Name", "NAME"),
    ("Status", "STATUS"),
    ("Created", "CREATED"),
    ("NumberOfContainers", "# OF CONTAINERS"),
];

const STATS_COLUMNS: [(&str, &str); 9] = [
    ("Pod", "POD"),
    ("ID", "CID"),
    ("Name", "NAME"),
    ("CPUPerc", "CPU %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("MemPerc", "MEM %"),
    ("NetIO", "NET IO"),
    ("BlockIO", "BLOCK IO"),
    ("PIDs", "PIDS"),
];

/// Runs a verb of pods.
pub(crate) async fn run(context: Context, command: PodCommand) -> anyhow::Result<u8> {
    match command {
        PodCommand::Create(args) => create(context, &args),
        PodCommand::Ls(args) => list(context, &args),
        PodCommand::Inspect(args) => inspect(context, &args),
        PodCommand::Start(args) => start_all(context, args).await,
        PodCommand::Stop(args) => stop(context, args).await,
        PodCommand::Rm(args) => remove(context, args).await,
        PodCommand::Stats(args) => stats(context, args).await,
    }
}

fn create(context: Context, args: &PodCreateArgs) -> anyhow::Result<u8> {
    let settings = settings::read()?;
    let (folders, state) = context.state()?;
    let choice = args.accel.or(settings.accel).unwrap_or(AccelChoice::Auto);
    let accelerator = create::choose_accelerator(choice, &folders)?;
    if let Some(kernel) = &args.kernel {
        install_paths::open_kernel(kernel)?;
    }
    let request = PodCreateRequest::parse(args.clone())?;
    let wanted = args.name.as_deref().or(args.plain_name.as_deref());
    let random = session::random(4)?;
    let id = id::new()?;
    let mut around = PodSurroundings {
        id: id.clone(),
        accelerator: AccelChoice::named(accelerator.name()),
        kernel: args.kernel.as_ref().map(std::path::absolute).transpose()?,
        host_cpus: std::thread::available_parallelism().map_or(1, usize::from),
        found: shares::look(&request.binds(), &folders)?,
        room: accelerator.disks_max(request.has_network()) - DISK_SLOTS_DEVICES,
        networks: surroundings::user_networks(&request.user_networks(), &state)?,
        host_address: network::host_address(),
    };
    // All flags are checked before anything is created.
    create::check_id_file(args.pod_id_file.as_deref())?;
    plan::pod(&request, wanted.unwrap_or("pod"), around.clone())?;
    around.found = shares::find(&request.binds(), &folders)?;
    let mut attempt = 0;
    loop {
        let name = wanted.map_or_else(|| names::generate(&random, attempt), Into::into);
        let mut config = plan::pod(&request, &name, around.clone())?;
        if let Some(network) = &mut config.network {
            network::choose_ports(&mut network.ports)?;
        }
        let mut pod = Pod::new(id.clone(), name, clock::now_ns(), config);
        match state.add_pod(&mut pod) {
            Err(StateError::PodNameTaken(_)) if wanted.is_none() && attempt < NAME_ATTEMPTS => attempt += 1,
            Err(error) => return Err(error.into()),
            Ok(()) => break,
        }
    }
    if let Some(path) = &args.pod_id_file
        && let Err(error) = run::write_id_file(path, &id)
    {
        state.remove_pod(&id)?;
        return Err(error);
    }
    println!("{id}");
    Ok(0)
}

/// Returns podman's word for a pod's status: its machine's, and whether all its containers run.
fn status(pod: &Pod, containers: &[Container]) -> &'static str {
    match pod.status {
        PodStatus::Running if containers.iter().any(|container| !container.status.is_live()) => "Degraded",
        status => status.as_str(),
    }
}

fn list(context: Context, args: &PodLsArgs) -> anyhow::Result<u8> {
    let filters = args
        .filter
        .iter()
        .map(|text| Filter::parse(text))
        .collect::<Result<Vec<_>, _>>()?;
    let template = args.format.as_deref().map(Template::of_lines).transpose()?;
    let (_, state) = context.state()?;
    let mut rows = Vec::new();
    for pod in state.pods()? {
        let containers = state.containers_of(&pod.id)?;
        if filter::pass(&filters, Filter::is_label, |filter| filter.takes(&pod, &containers)) {
            rows.push(row(&pod, &containers, args.no_trunc));
        }
    }
    if args.quiet {
        for row in &rows {
            println!("{}", row["ID"].as_str().unwrap_or_default());
        }
        return Ok(0);
    }
    table::print_rows(&rows, template.as_ref(), &COLUMNS)?;
    Ok(0)
}

/// Returns podman's fields of `--format`, except for an infra container's: there is none.
fn row(pod: &Pod, containers: &[Container], whole: bool) -> Value {
    let chars = if whole { usize::MAX } else { 12 };
    let short = |id: &String| id.chars().take(chars).collect::<String>();
    json!({
        "ID": short(&pod.id),
        "Id": short(&pod.id),
        "Name": pod.name,
        "Status": status(pod, containers),
        "Created": clock::ago(pod.created_ns),
        "CreatedAt": clock::rfc3339(pod.created_ns),
        "NumberOfContainers": containers.len().to_string(),
        "ContainerIds": containers.iter().map(|container| short(&container.id)).collect::<Vec<_>>().join(","),
        "ContainerNames": containers.iter().map(|container| container.name.clone()).collect::<Vec<_>>().join(","),
        "Label": labels::object(&pod.config.labels),
        "Labels": pod.config.labels.join(","),
        "Accelerator": pod.config.accelerator.as_str(),
    })
}

fn inspect(context: Context, args: &PodInspectArgs) -> anyhow::Result<u8> {
    let template = args.format.as_deref().map(Template::of_objects).transpose()?;
    let (folders, state) = context.state()?;
    let mut found = Vec::new();
    let mut code = 0;
    for name in &args.pods {
        match state.find_pod(name) {
            Ok(pod) => found.push(whole(&pod, &state, &folders)?),
            Err(error) => {
                error_text::print(&error);
                code = 1;
            }
        }
    }
    table::print_objects(&found, template.as_ref())?;
    Ok(code)
}

/// Returns podman's fields of a pod, with Capsid's own fields below `Capsid`.
fn whole(pod: &Pod, state: &State, folders: &Folders) -> anyhow::Result<Value> {
    let containers = state.containers_of(&pod.id)?;
    let config = &pod.config;
    let mut shared = vec!["ipc", "net", "uts"];
    shared.extend(config.shares_pids.then_some("pid"));
    let describe = |container: &Container| {
        json!({
            "Id": container.id,
            "Name": container.name,
            "State": container.status.as_str(),
        })
    };
    Ok(json!({
        "Id": pod.id,
        "Name": pod.name,
        "Created": clock::rfc3339(pod.created_ns),
        "State": status(pod, &containers),
        "Hostname": config.hostname,
        "Labels": labels::object(&config.labels),
        "SharedNamespaces": shared,
        "NumContainers": containers.len(),
        "Containers": containers.iter().map(describe).collect::<Vec<_>>(),
        "memory_limit": config.limits.memory_max_bytes.unwrap_or(0),
        "cpu_quota": config.limits.cpu_quota_us.unwrap_or(0),
        "Mounts": super::inspect_fields::mounts(&config.volumes, &config.shares, folders),
        "NetworkSettings": network_fields::settings(&PodNetworks::of(pod, state)?, &[]),
        "Capsid": {
            "Accelerator": config.accelerator.as_str(),
            "Machine": { "Vcpus": config.machine.vcpus, "MemoryMiB": config.machine.memory_mib },
            "Kernel": config.kernel,
            "PidsLimit": config.limits.pids_max,
            "ShmSize": config.shm_bytes,
            "StartedAt": clock::rfc3339_or_never(pod.started_ns),
            "FinishedAt": clock::rfc3339_or_never(pod.finished_ns),
            "Error": pod.error,
            "SupervisorPid": pod.supervisor_pid,
        },
    }))
}

/// Starts each pod, and then its containers. As in docker and podman, a failed one does not prevent the next ones.
async fn start_all(context: Context, args: PodNamesArgs) -> anyhow::Result<u8> {
    let app = AppContext::open(context)?;
    let starts = Semaphore::new(STARTS_AT_ONCE);
    each(&args.pods, async |name| {
        let _turn = starts.acquire().await?;
        let pod = app.state.find_pod(name)?;
        let mut connection = start::pod(&app.folders, &pod.id)?;
        connection.writer.send(&Request::Start).await?;
        if let (Answer::Failed(failure), _) = connection.receive_within::<Answer>(run::START_MAX).await? {
            return Err(failure.into());
        }
        let mut failed = Vec::new();
        for container in app.state.containers_of(&pod.id)? {
            if let Err(error) = start_one(&app, &container.id).await {
                error_text::print(error.as_ref());
                failed.push(container.name);
            }
        }
        if !failed.is_empty() {
            bail!("not started in pod {}: {}", pod.name, failed.join(", "));
        }
        Ok(Some(name.into()))
    })
    .await
}

async fn stop(context: Context, args: PodStopArgs) -> anyhow::Result<u8> {
    let app = AppContext::open(context)?;
    each(&args.pods, async |name| {
        let pod = app.state.find_pod(name)?;
        stop_one(&app, &pod, args.timeout).await?;
        Ok(Some(name.into()))
    })
    .await
}

/// Stops a pod, if it runs. Nothing of it runs afterwards, and the caller holds its lock.
async fn stop_one(app: &AppContext, pod: &Pod, timeout_s: Option<u64>) -> anyhow::Result<ContainerLock> {
    let containers = app.state.containers_of(&pod.id)?;
    let own = containers.iter().map(|container| container.config.stop_timeout_s).max();
    let patience = timeout_s.or(own).unwrap_or_default();
    loop {
        if let Some(mut connection) = app.connect(&pod.id) {
            // However the request ended, also by a hang-up in the middle: the supervisor has ended.
            if connection.writer.send(&Request::Stop { timeout_s }).await.is_ok() {
                connection.end_within::<Answer>(stop_limit(patience)).await;
            }
        }
        // When it was started again meanwhile, the loop repeats.
        if let Some(lock) = app.lock_pod(&pod.id)? {
            // Unreachable: the supervisor's lock was removed.
            if let Some(supervisor) = SupervisorProcess::find(&pod.id) {
                end_unasked(&supervisor, timeout_s, patience);
            }
            return Ok(lock);
        }
    }
}

async fn remove(context: Context, args: PodRmArgs) -> anyhow::Result<u8> {
    let app = AppContext::open(context)?;
    each(&args.pods, async |name| {
        let pod = match app.state.find_pod(name) {
            Err(StateError::UnknownPod(_)) if args.force => return Ok(None),
            found => found?,
        };
        let lock = if args.force {
            stop_one(&app, &pod, Some(0)).await?
        } else {
            app.lock_pod(&pod.id)?
                .with_context(|| format!("pod {} is running: stop it first, or use `capsid pod rm -f`", pod.name))?
        };
        // The lock is held: none of its containers can be started.
        for container in app.state.containers_of(&pod.id)? {
            rm_one(&app, &container.id, true, true).await?;
        }
        app.state.remove_pod(&pod.id)?;
        lock.remove().context("cannot remove the pod's run folder")?;
        app.state.finish_pending(Pending::Pod, &pod.id);
        Ok(Some(name.into()))
    })
    .await
}

async fn stats(context: Context, args: PodStatsArgs) -> anyhow::Result<u8> {
    let (folders, state) = context.state()?;
    let shown = Shown {
        template: args.format.as_deref().map(Template::of_lines).transpose()?,
        columns: &STATS_COLUMNS,
        once: args.no_stream,
    };
    let choose = || {
        let pods = if args.pods.is_empty() {
            state.pods()?
        } else {
            args.pods
                .iter()
                .map(|name| state.find_pod(name))
                .collect::<Result<_, _>>()?
        };
        let mut containers = Vec::new();
        for pod in pods {
            let of_pod = state.containers_of(&pod.id)?;
            containers.extend(of_pod.into_iter().filter(|container| container.status.is_live()));
        }
        Ok(containers)
    };
    stats::show(&folders, &shown, choose).await
}

/// Filter of one `--filter` flag.
#[derive(Debug)]
enum Filter {
    Name(NamePattern),
    Id(String),
    Status(String),
    Label(LabelFilter),
}

impl Filter {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let (name, value) = filter::halves(text)?;
        if let Some(label) = LabelFilter::parse(name, value) {
            return Ok(Self::Label(label));
        }
        Ok(match name {
            "name" => Self::Name(NamePattern::parse(value)?),
            "id" => Self::Id(value.into()),
            "status" => Self::Status(value.into()),
            other => bail!("there is no filter {other:?}: use name, id, status, label or label!"),
        })
    }

    fn is_label(&self) -> bool {
        matches!(self, Self::Label(_))
    }

    fn takes(&self, pod: &Pod, containers: &[Container]) -> bool {
        match self {
            Self::Name(pattern) => pattern.takes(&pod.name),
            Self::Id(start) => pod.id.starts_with(start.as_str()),
            Self::Status(word) => status(pod, containers).eq_ignore_ascii_case(word),
            Self::Label(label) => label.takes(&pod.config.labels),
        }
    }
}
