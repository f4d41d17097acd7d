//! Verb `capsid ps`.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::ps_filter::{Filter, Filters};
use super::{network_fields, system, table};
use crate::app::{Context, open_store};
use crate::cli::PsArgs;
use crate::folders::Folders;
use crate::format::Template;
use crate::health::{Health, Verdict};
use crate::model::{Container, Status};
use crate::plan::size;
use crate::{clock, labels};

/// Width of a command, as in docker.
const COMMAND_CHARS_MAX: usize = 20;
/// Width of a mount's name, as in docker.
const MOUNT_CHARS_MAX: usize = 15;
/// Columns: docker's, and the accelerator, which `STATUS` does not contain.
const COLUMNS: [(&str, &str); 8] = [
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("RunningFor", "CREATED"),
    ("Status", "STATUS"),
    ("Accelerator", "ACCEL"),
    ("Ports", "PORTS"),
    ("Names", "NAMES"),
];
/// Columns of podman, added with `--pod`.
const POD_COLUMNS: [(&str, &str); 2] = [("Pod", "POD ID"), ("PodName", "PODNAME")];
/// Column of docker, added with `--size`.
const SIZE: (&str, &str) = ("Size", "SIZE");

/// Lists containers, the newest first.
pub(crate) fn run(context: Context, args: &PsArgs) -> anyhow::Result<u8> {
    let filters = args
        .filter
        .iter()
        .map(|text| Filter::parse(text))
        .collect::<Result<Vec<_>, _>>()?;
    let template = args.format.as_deref().map(Template::of_lines).transpose()?;
    let (folders, state) = context.state()?;
    let last = if args.latest { Some(1) } else { args.last };
    // A filter by status requests containers with that status.
    let all = args.all || last.is_some() || filters.iter().any(Filter::is_about_state);
    let wants_sizes = args.size || template.as_ref().is_some_and(|template| template.names(SIZE.0));
    let wants_images = wants_sizes || filters.iter().any(Filter::is_about_images);
    let store = wants_images.then(|| open_store(&folders)).transpose()?;
    let filters = Filters::new(filters, &folders, &state, store.as_ref())?;
    let containers: Vec<Container> = state
        .containers()?
        .into_iter()
        .filter(|container| all || container.status.is_live())
        .filter(|container| filters.take(container))
        .take(last.unwrap_or(usize::MAX))
        .collect();
    let mut listing = Listing {
        folders: &folders,
        whole: args.no_trunc,
        image_bytes: HashMap::new(),
    };
    if let Some(store) = store.filter(|_| wants_sizes) {
        let images = store.list()?.into_iter();
        listing.image_bytes = images.map(|image| (image.id.to_string(), image.size_bytes)).collect();
    }
    let rows: Vec<Value> = containers.iter().map(|container| listing.row(container)).collect();
    if args.quiet {
        for row in &rows {
            println!("{}", row["ID"].as_str().unwrap_or_default());
        }
        return Ok(0);
    }
    let mut columns = COLUMNS.to_vec();
    columns.extend(args.size.then_some(SIZE));
    columns.extend(POD_COLUMNS.iter().filter(|_| args.pod));
    table::print_rows(&rows, template.as_ref(), &columns)?;
    Ok(0)
}

/// Data for rows in addition to the containers.
struct Listing<'a> {
    folders: &'a Folders,
    /// Whether ids, commands and names are shown in full.
    whole: bool,
    /// Size of images in bytes by id, when sizes are requested.
    image_bytes: HashMap<String, u64>,
}

impl Listing<'_> {
    /// Returns docker's fields of `--format`.
    fn row(&self, container: &Container) -> Value {
        let config = &container.config;
        let pod = container.explicit_pod();
        let network = container.pod.config.network.as_ref();
        let exposed = config.declared.as_ref().map(|declared| &declared.exposed_ports[..]);
        let ports = || network_fields::ports(network, exposed.unwrap_or_default());
        json!({
            "ID": self.id(&container.id),
            "Image": container.image,
            "Command": format!("\"{}\"", self.command(container)),
            "CreatedAt": clock::go_words(container.created_ns),
            "RunningFor": clock::ago(container.created_ns),
            "Status": status(container, self.folders),
            "State": container.status.as_str(),
            "Ports": container.status.is_live().then(ports).unwrap_or_default(),
            "Networks": network_fields::names(network),
            "Names": container.name,
            "Label": labels::object(&config.labels),
            "Labels": config.labels.join(","),
            "Mounts": self.mounts(container),
            "LocalVolumes": config.mounts.len().to_string(),
            "Size": self.size(container),
            "Platform": "linux",
            "Accelerator": container.pod.config.accelerator.as_str(),
            "Pod": pod.map(|pod| self.id(&pod.id)).unwrap_or_default(),
            "PodName": pod.map(|pod| pod.name.as_str()).unwrap_or_default(),
        })
    }

    fn id(&self, id: &str) -> String {
        id.chars().take(if self.whole { usize::MAX } else { 12 }).collect()
    }

    fn shortened(&self, text: String, chars_max: usize) -> String {
        if self.whole || text.chars().count() <= chars_max {
            return text;
        }
        format!("{}…", text.chars().take(chars_max - 1).collect::<String>())
    }

    fn command(&self, container: &Container) -> String {
        let words = container.spec.args.iter().map(|word| String::from_utf8_lossy(word));
        let command = words.collect::<Vec<_>>().join(" ").replace(char::is_control, " ");
        self.shortened(command, COMMAND_CHARS_MAX)
    }

    /// Formats names of volumes, and sources of bind mounts.
    fn mounts(&self, container: &Container) -> String {
        let volumes = container.config.mounts.iter().map(|mount| mount.volume.clone());
        let shares = container.config.shares.iter().map(|share| share.source.clone());
        let shown = volumes.chain(shares).map(|name| self.shortened(name, MOUNT_CHARS_MAX));
        shown.collect::<Vec<_>>().join(",")
    }

    /// Formats a container's size on the host's disk, alone and together with its image.
    fn size(&self, container: &Container) -> String {
        let Some(image_bytes) = self.image_bytes.get(&container.image_id) else {
            return size::human(0);
        };
        let own_bytes = system::container_bytes(self.folders, container);
        let virtual_bytes = own_bytes.saturating_add(*image_bytes);
        format!("{} (virtual {})", size::human(own_bytes), size::human(virtual_bytes))
    }
}

/// Formats a container's status as docker does.
fn status(container: &Container, folders: &Folders) -> String {
    let up = || {
        format!(
            "Up {}",
            clock::duration_words(clock::seconds_since(container.started_ns))
        )
    };
    let ended = || format!("({}) {}", container.exit_code, clock::ago(container.finished_ns));
    match container.status {
        Status::Created => "Created".into(),
        Status::Running if container.config.health.is_some() => {
            let health = match Health::read(&folders.data, &container.id).status {
                Verdict::Starting => "health: starting",
                verdict => verdict.as_str(),
            };
            format!("{} ({health})", up())
        }
        Status::Running => up(),
        Status::Paused => format!("{} (Paused)", up()),
        Status::Restarting => format!("Restarting {}", ended()),
        Status::Exited => format!("Exited {}", ended()),
    }
}
