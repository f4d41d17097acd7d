//! Verb `capsid stats`.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::lifecycle::ask;
use super::table;
use crate::app::Context;
use crate::cli::StatsArgs;
use crate::control::{self, Answer, Request, Usage};
use crate::folders::Folders;
use crate::format::Template;
use crate::model::Container;
use crate::plan::size;
use crate::resident::{self, Resident};
use crate::state::State;
use crate::{container_lock, output};

/// Interval of measurements, over which processor time is measured.
const INTERVAL: Duration = Duration::from_secs(1);

/// Time limit for one container's measurement, so that it does not delay the others: the guest answers within
/// milliseconds, unless the host is very busy.
const LOOK_MAX: Duration = Duration::from_secs(2);

const COLUMNS: [(&str, &str); 11] = [
    ("ID", "CONTAINER ID"),
    ("Name", "NAME"),
    ("CPUPerc", "CPU %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("MemPerc", "MEM %"),
    ("BlockIO", "BLOCK I/O"),
    ("PIDs", "PIDS"),
    ("GuestUsed", "GUEST USED"),
    ("HostResident", "HOST RESIDENT"),
    ("HostOwn", "HOST OWN"),
    ("HostShared", "HOST SHARED"),
];

/// Measurement of a container at one time.
struct Sample {
    at: Instant,
    usage: Usage,
}

/// Shows the resource usage of containers, repeatedly unless asked otherwise.
pub(crate) async fn run(context: Context, args: StatsArgs) -> anyhow::Result<u8> {
    let (folders, state) = context.state()?;
    let shown = Shown {
        template: args.format.as_deref().map(Template::of_lines).transpose()?,
        columns: &COLUMNS,
        once: args.no_stream,
    };
    show(&folders, &shown, || chosen(&state, &args)).await
}

/// Form in which usage is shown.
pub(super) struct Shown<'a> {
    pub template: Option<Template>,
    pub columns: &'a [(&'a str, &'a str)],
    pub once: bool,
}

/// Shows the usage of the containers that `choose` returns.
pub(super) async fn show(
    folders: &Folders,
    shown: &Shown<'_>,
    mut choose: impl FnMut() -> anyhow::Result<Vec<Container>>,
) -> anyhow::Result<u8> {
    let mut before = look(folders, &choose()?).await;
    loop {
        tokio::time::sleep(INTERVAL).await;
        let containers = choose()?;
        let now = look(folders, &containers).await;
        let row = |container: &Container| describe(container, before.get(&container.id), now.get(&container.id));
        let rows: Vec<Value> = containers.iter().map(row).collect();
        before = now;
        if !shown.once && output::is_terminal() {
            output::clear_screen();
        }
        table::print_rows(&rows, shown.template.as_ref(), shown.columns)?;
        if shown.once || output::has_failed() {
            return Ok(0);
        }
    }
}

fn chosen(state: &State, args: &StatsArgs) -> anyhow::Result<Vec<Container>> {
    if args.containers.is_empty() {
        let containers = state.containers()?;
        return Ok(containers
            .into_iter()
            .filter(|c| args.all || c.status.is_live())
            .collect());
    }
    Ok(args
        .containers
        .iter()
        .map(|name| state.find(name))
        .collect::<Result<_, _>>()?)
}

/// Measures the running containers, all at once. A container whose pod does not answer is left out.
async fn look(folders: &Folders, containers: &[Container]) -> HashMap<String, Sample> {
    let mut looks = JoinSet::new();
    for container in containers {
        let (id, folder) = (
            container.id.clone(),
            container_lock::folder(&folders.run, &container.id),
        );
        looks.spawn_local(async move { Some((id, timeout(LOOK_MAX, measure(&folder)).await.ok()??)) });
    }
    let mut samples = HashMap::new();
    while let Some(looked) = looks.join_next().await {
        samples.extend(looked.ok().flatten());
    }
    samples
}

/// Measures one container. Returns nothing for one that is ending.
async fn measure(folder: &Path) -> Option<Sample> {
    let mut connection = control::connect(folder).ok()?;
    match ask(&mut connection, &Request::Measure).await {
        Ok(Answer::Measured(usage)) => Some(Sample {
            at: Instant::now(),
            usage,
        }),
        _ => None,
    }
}

/// Returns docker's fields, and the host's resources that the pod takes.
fn describe(container: &Container, before: Option<&Sample>, now: Option<&Sample>) -> Value {
    let usage = now.map_or_else(Usage::default, |sample| sample.usage.clone());
    let percent = match (before, now) {
        (Some(before), Some(now)) => {
            let cpu_us = now.usage.cpu_us.saturating_sub(before.usage.cpu_us) as f64;
            cpu_us / now.at.duration_since(before.at).as_micros().max(1) as f64 * 100.0
        }
        _ => 0.0,
    };
    let memory_percent = usage.memory_bytes as f64 / usage.memory_max_bytes.max(1) as f64 * 100.0;
    let pod = container.explicit_pod().map(|pod| pod.id.as_str()).unwrap_or_default();
    let host = resident::of_pod(container.supervisor_pid).unwrap_or_default();
    let Resident {
        guest_bytes,
        own_bytes,
        shared_bytes,
    } = host;
    json!({
        "ID": container.id.chars().take(12).collect::<String>(),
        "Container": container.id,
        "Name": container.name,
        "CPUPerc": format!("{percent:.2}%"),
        "MemUsage": format!("{} / {}", size::binary(usage.memory_bytes), size::binary(usage.memory_max_bytes)),
        "MemPerc": format!("{memory_percent:.2}%"),
        "NetIO": "-- / --",
        "BlockIO": format!("{} / {}", size::human(usage.read_bytes), size::human(usage.write_bytes)),
        "PIDs": usage.pids.to_string(),
        "GuestUsed": size::binary(usage.guest_total_bytes.saturating_sub(usage.guest_available_bytes)),
        "HostResident": size::binary(guest_bytes),
        "HostOwn": size::binary(own_bytes),
        "HostShared": size::binary(shared_bytes),
        "Pod": pod.chars().take(12).collect::<String>(),
    })
}
