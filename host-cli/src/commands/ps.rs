//! `capsid ps`.

use std::collections::HashMap;

use anyhow::bail;
use serde_json::{Value, json};

use super::filter;
use super::name_pattern::NamePattern;
use super::{Context, network_fields, table};
use crate::cli::{AccelChoice, PsArgs};
use crate::folders::Folders;
use crate::format::Template;
use crate::health::{Health, Verdict};
use crate::state::{Container, NO_NETWORK, NetworkConfig, Pod, Status};
use crate::{clock, labels};

/// docker's width of a command.
const COMMAND_CHARS_MAX: usize = 20;
const COLUMNS: [(&str, &str); 7] = [
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("RunningFor", "CREATED"),
    ("Status", "STATUS"),
    ("Ports", "PORTS"),
    ("Names", "NAMES"),
];
/// podman's, behind them with `--pod`.
const POD_COLUMNS: [(&str, &str); 2] = [("Pod", "POD ID"), ("PodName", "PODNAME")];

/// Lists containers, the newest first.
pub(crate) fn run(context: Context, args: &PsArgs) -> anyhow::Result<u8> {
    let filters = args
        .filter
        .iter()
        .map(|text| Filter::parse(text))
        .collect::<Result<Vec<_>, _>>()?;
    let template = args.format.as_deref().map(Template::of_lines).transpose()?;
    let (folders, state) = context.state()?;
    let pods: HashMap<String, Pod> = state.pods()?.into_iter().map(|pod| (pod.id.clone(), pod)).collect();
    let last = if args.latest { Some(1) } else { args.last };
    // A filter by state asks for containers in that state.
    let all = args.all || last.is_some() || filters.iter().any(Filter::is_about_state);
    let containers: Vec<Container> = state
        .containers()?
        .into_iter()
        .filter(|container| all || container.status.is_live())
        .filter(|container| passes(&filters, container, &pods))
        .take(last.unwrap_or(usize::MAX))
        .collect();
    let rows: Vec<Value> = containers
        .iter()
        .map(|container| describe(container, &pods, args.no_trunc, &folders))
        .collect();
    if args.quiet {
        for row in &rows {
            println!("{}", row["ID"].as_str().unwrap_or_default());
        }
        return Ok(0);
    }
    let more = if args.pod { &POD_COLUMNS[..] } else { &[] };
    table::print_rows(&rows, template.as_ref(), &[&COLUMNS[..], more].concat())?;
    Ok(0)
}

/// docker's fields of `--format`.
fn describe(container: &Container, pods: &HashMap<String, Pod>, whole: bool, folders: &Folders) -> Value {
    let words: Vec<String> = container
        .spec
        .args
        .iter()
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    let command = words.join(" ").replace(char::is_control, " ");
    let shown = if !whole && command.chars().count() > COMMAND_CHARS_MAX {
        format!("{}…", command.chars().take(COMMAND_CHARS_MAX - 1).collect::<String>())
    } else {
        command
    };
    let short = |id: &str| -> String {
        if whole {
            id.into()
        } else {
            id.chars().take(12).collect()
        }
    };
    let pod = container.pod.as_deref().and_then(|id| pods.get(id));
    let network = network(container, pods);
    let ports = network.filter(|_| container.status.is_live());
    json!({
        "ID": short(&container.id),
        "Image": container.image,
        "Command": format!("\"{shown}\""),
        "CreatedAt": clock::go_words(container.created_ns),
        "RunningFor": clock::ago(container.created_ns),
        "Status": status(container, folders),
        "State": container.status.word(),
        "Ports": network_fields::ports(ports),
        "Networks": network_fields::names(network),
        "Names": container.name,
        "Label": labels::object(&container.config.labels),
        "Labels": container.config.labels.join(","),
        "Accelerator": container.config.accelerator.word(),
        "Pod": pod.map(|pod| short(&pod.id)).unwrap_or_default(),
        "PodName": pod.map(|pod| pod.name.as_str()).unwrap_or_default(),
    })
}

/// A container's, or its pod's.
fn network<'a>(container: &'a Container, pods: &'a HashMap<String, Pod>) -> Option<&'a NetworkConfig> {
    let pod = container.pod.as_deref().and_then(|id| pods.get(id));
    pod.map_or(container.config.network.as_ref(), |pod| pod.config.network.as_ref())
}

/// docker's words, and whether the pod is emulated.
fn status(container: &Container, folders: &Folders) -> String {
    let up = || {
        format!(
            "Up {}",
            clock::duration_words(clock::seconds_since(container.started_ns))
        )
    };
    let ended = || format!("({}) {}", container.exit_code, clock::ago(container.finished_ns));
    let emulated = if container.config.accelerator == AccelChoice::Emulate {
        " (emulated)"
    } else {
        ""
    };
    match container.status {
        Status::Created => "Created".into(),
        Status::Running if container.config.health.is_some() => {
            let health = match Health::read(&folders.data, &container.id).status {
                Verdict::Starting => "health: starting",
                verdict => verdict.word(),
            };
            format!("{} ({health}){emulated}", up())
        }
        Status::Running => format!("{}{emulated}", up()),
        Status::Paused => format!("{} (Paused){emulated}", up()),
        Status::Restarting => format!("Restarting {}", ended()),
        Status::Exited => format!("Exited {}", ended()),
    }
}

/// One `--filter`.
#[derive(Debug)]
enum Filter {
    Name(NamePattern),
    Id(String),
    Status(Status),
    Exited(u8),
    Label(String),
    Ancestor(String),
    Pod(String),
    Network(String),
}

impl Filter {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let (name, value) = filter::halves(text)?;
        Ok(match name {
            "name" => Self::Name(NamePattern::parse(value)?),
            "id" => Self::Id(value.into()),
            "status" => Self::Status(value.parse().map_err(anyhow::Error::msg)?),
            "exited" => Self::Exited(value.parse()?),
            "label" => Self::Label(value.into()),
            "ancestor" => Self::Ancestor(value.into()),
            "pod" => Self::Pod(value.into()),
            "network" => Self::Network(value.into()),
            other => {
                bail!("there is no filter {other:?}: use name, id, status, exited, label, ancestor, pod or network")
            }
        })
    }

    fn is_about_state(&self) -> bool {
        matches!(self, Self::Status(_) | Self::Exited(_))
    }

    /// What is being asked: filters of one kind are alternatives.
    fn kind(&self) -> std::mem::Discriminant<Self> {
        std::mem::discriminant(self)
    }

    fn takes(&self, container: &Container, pods: &HashMap<String, Pod>) -> bool {
        match self {
            Self::Name(pattern) => pattern.takes(&container.name),
            Self::Id(start) => container.id.starts_with(start.as_str()),
            Self::Status(status) => container.status == *status,
            Self::Exited(code) => container.status == Status::Exited && container.exit_code == *code,
            Self::Label(wanted) => labels::are_chosen(&container.config.labels, wanted),
            Self::Pod(wanted) => container.pod.as_ref().is_some_and(|id| {
                id.starts_with(wanted.as_str()) || pods.get(id).is_some_and(|pod| pod.name == *wanted)
            }),
            Self::Network(wanted) => {
                let network = network(container, pods);
                let has_id = |id: &str| wanted.len() >= 12 && id.starts_with(wanted.as_str());
                let is_on = |network: &NetworkConfig| {
                    network.names().any(|name| name == wanted)
                        || network.joined.iter().any(|joined| has_id(&joined.network))
                };
                network.map_or(wanted == NO_NETWORK, is_on)
            }
            Self::Ancestor(image) => {
                let hex = container.image_id.trim_start_matches("sha256:");
                container.image == *image
                    || container.image.split(':').next() == Some(image.as_str())
                    || (image.len() >= 4 && hex.starts_with(image.trim_start_matches("sha256:")))
            }
        }
    }
}

/// Every kind of filter that was given is met by one of its kind; labels all.
fn passes(filters: &[Filter], container: &Container, pods: &HashMap<String, Pod>) -> bool {
    filters.iter().all(|filter| {
        let alternatives = filters.iter().filter(|other| other.kind() == filter.kind());
        match filter {
            Filter::Label(_) => filter.takes(container, pods),
            _ => alternatives.into_iter().any(|other| other.takes(container, pods)),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read() {
        assert!(matches!(Filter::parse("name=/web"), Ok(Filter::Name(_))));
        assert!(matches!(
            Filter::parse("status=exited"),
            Ok(Filter::Status(Status::Exited))
        ));
        assert!(Filter::parse("status=gone").is_err());
        assert!(Filter::parse("color=red").is_err());
    }
}
