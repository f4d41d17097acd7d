//! Filters of `capsid ps --filter`.

use std::collections::HashMap;

use anyhow::bail;
use capsid_image::{Digest, Image, Store};

use super::filter::{self, LabelFilter};
use super::name_pattern::NamePattern;
use crate::folders::Folders;
use crate::health::{Health, Verdict};
use crate::model::{Container, NO_NETWORK, NetworkConfig, PublishedPort, Status, protocol_name};
use crate::state::State;

/// Minimum number of digits of an image's or network's id that identify it.
const ID_DIGITS_MIN: usize = 4;

/// Filter of containers.
#[derive(Debug)]
pub(super) enum Filter {
    Name(NamePattern),
    Id(String),
    /// Status; none for one of docker's that no container here ever has.
    Status(Option<Status>),
    Exited(i32),
    Label(LabelFilter),
    /// Containers created from the image of this name or id, or from an image built on it.
    Ancestor(String),
    /// Containers older than this one.
    Before(String),
    /// Containers newer than this one.
    Since(String),
    Publish(Ports),
    Expose(Ports),
    /// Containers with a volume of this name, or a mount from or at this path.
    Volume(String),
    Network(String),
    /// Health; none for containers without health checks.
    Health(Option<Verdict>),
    /// Tasks of swarm; no container here is one.
    IsTask(bool),
    Pod(String),
}

impl Filter {
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let (name, value) = filter::halves(text)?;
        if let Some(label) = LabelFilter::parse(name, value) {
            return Ok(Self::Label(label));
        }
        Ok(match name {
            "name" => Self::Name(NamePattern::parse(value)?),
            "id" => Self::Id(value.into()),
            "status" if matches!(value, "removing" | "dead") => Self::Status(None),
            "status" => Self::Status(Some(value.parse().map_err(anyhow::Error::msg)?)),
            "exited" => Self::Exited(value.parse()?),
            "ancestor" => Self::Ancestor(value.into()),
            "before" => Self::Before(value.into()),
            "since" => Self::Since(value.into()),
            "publish" => Self::Publish(Ports::parse(value)?),
            "expose" => Self::Expose(Ports::parse(value)?),
            "volume" => Self::Volume(value.into()),
            "network" => Self::Network(value.into()),
            "health" => Self::Health(health(value)?),
            "is-task" => Self::IsTask(filter::truth(name, value)?),
            "pod" => Self::Pod(value.into()),
            other => bail!(
                "there is no filter {other:?}: use name, id, status, exited, label, label!, ancestor, before, since, \
                 publish, expose, volume, network, health, is-task or pod"
            ),
        })
    }

    /// Whether the filter requests containers that may not run.
    pub(super) fn is_about_state(&self) -> bool {
        matches!(self, Self::Status(_) | Self::Exited(_))
    }

    /// Whether the filter needs more of images than a container's row contains.
    pub(super) fn is_about_images(&self) -> bool {
        matches!(self, Self::Ancestor(_))
    }
}

fn health(word: &str) -> anyhow::Result<Option<Verdict>> {
    if word == "none" {
        return Ok(None);
    }
    let verdicts = [Verdict::Starting, Verdict::Healthy, Verdict::Unhealthy];
    match verdicts.into_iter().find(|verdict| verdict.as_str() == word) {
        Some(verdict) => Ok(Some(verdict)),
        None => bail!("{word:?} is no health: starting, healthy, unhealthy or none"),
    }
}

/// Ports of one protocol, such as `80`, `80/udp` or `8000-8010/tcp`.
#[derive(Debug, PartialEq)]
pub(super) struct Ports {
    first: u16,
    last: u16,
    protocol: String,
}

impl Ports {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let protocol = protocol.to_ascii_lowercase();
        let is_protocol = matches!(protocol.as_str(), "tcp" | "udp" | "sctp");
        match (first.parse::<u16>(), last.parse::<u16>()) {
            (Ok(first), Ok(last)) if first > 0 && first <= last && is_protocol => Ok(Self { first, last, protocol }),
            _ => bail!("{text:?} are no ports: write 80, 80/udp or 8000-8010/tcp"),
        }
    }

    fn has(&self, port: u16, protocol: &str) -> bool {
        (self.first..=self.last).contains(&port) && self.protocol == protocol
    }

    /// Whether an exposed port, or range of ports, overlaps these.
    fn meets(&self, exposed: &str) -> bool {
        Self::parse(exposed).is_ok_and(|exposed| {
            exposed.protocol == self.protocol && exposed.first <= self.last && self.first <= exposed.last
        })
    }
}

/// Filters with the data that they need in addition to a container's own row.
#[derive(Debug)]
pub(super) struct Filters<'a> {
    filters: Vec<Filter>,
    folders: &'a Folders,
    /// Creation times of containers that filters name, in nanoseconds since 1970.
    made_ns: HashMap<String, i64>,
    /// Images that filters name.
    ancestors: HashMap<String, Option<Image>>,
    /// Layers of all images by id, when a filter requests ancestors.
    layers: HashMap<String, Vec<Digest>>,
}

impl<'a> Filters<'a> {
    /// Finds the objects that the filters name; a missing container is an error. The store is needed when a filter [is
    /// about images](Filter::is_about_images).
    pub(super) fn new(
        filters: Vec<Filter>,
        folders: &'a Folders,
        state: &State,
        store: Option<&Store>,
    ) -> anyhow::Result<Self> {
        let mut known = Self {
            filters: Vec::new(),
            folders,
            made_ns: HashMap::new(),
            ancestors: HashMap::new(),
            layers: HashMap::new(),
        };
        for filter in &filters {
            match filter {
                Filter::Before(name) | Filter::Since(name) => {
                    known.made_ns.insert(name.clone(), state.find(name)?.created_ns);
                }
                Filter::Ancestor(name) => {
                    // A name that is no valid one belongs to no image.
                    let image = store.and_then(|store| store.find(name).unwrap_or_default());
                    known.ancestors.insert(name.clone(), image);
                }
                _ => {}
            }
        }
        if let Some(store) = store {
            let images = store.list()?.into_iter();
            known.layers = images
                .map(|image| (image.id.to_string(), image.config.diff_ids))
                .collect();
        }
        known.filters = filters;
        Ok(known)
    }

    /// Whether a container is listed.
    pub(super) fn take(&self, container: &Container) -> bool {
        let is_label = |filter: &Filter| matches!(filter, Filter::Label(_));
        filter::pass(&self.filters, is_label, |filter| self.takes(filter, container))
    }

    fn takes(&self, filter: &Filter, container: &Container) -> bool {
        let config = &container.config;
        match filter {
            Filter::Name(pattern) => pattern.takes(&container.name),
            Filter::Id(start) => container.id.starts_with(start.as_str()),
            Filter::Status(status) => Some(container.status) == *status,
            Filter::Exited(code) => container.status == Status::Exited && i32::from(container.exit_code) == *code,
            Filter::Label(label) => label.takes(&config.labels),
            Filter::Ancestor(name) => self.is_descendant(container, name),
            Filter::Before(name) => self.made_ns.get(name).is_some_and(|at| container.created_ns < *at),
            Filter::Since(name) => self.made_ns.get(name).is_some_and(|at| container.created_ns > *at),
            Filter::Publish(ports) => self
                .published(container)
                .any(|port| ports.has(port.host.port(), protocol_name(port.protocol))),
            Filter::Expose(ports) => self.exposes(container, ports),
            Filter::Volume(wanted) => mounts(container).any(|word| word == wanted),
            Filter::Network(wanted) => is_on(container.pod.config.network.as_ref(), wanted),
            Filter::Health(wanted) => {
                let health = || Health::read(&self.folders.data, &container.id).status;
                config.health.is_some().then(health) == *wanted
            }
            Filter::IsTask(wanted) => !wanted,
            Filter::Pod(wanted) => container
                .explicit_pod()
                .is_some_and(|pod| pod.id.starts_with(wanted.as_str()) || pod.name == *wanted),
        }
    }

    /// Whether the container's image is the one of this name or id, or begins with all its layers.
    fn is_descendant(&self, container: &Container, name: &str) -> bool {
        let Some(ancestor) = self.ancestors.get(name).and_then(Option::as_ref) else {
            // An image that is not in the store any more is identified by its id.
            let start = name.trim_start_matches("sha256:");
            let id = container.image_id.trim_start_matches("sha256:");
            return start.len() >= ID_DIGITS_MIN && id.starts_with(start);
        };
        let layers = &ancestor.config.diff_ids;
        container.image_id == ancestor.id.to_string()
            || (!layers.is_empty()
                && self
                    .layers
                    .get(&container.image_id)
                    .is_some_and(|own| own.starts_with(layers)))
    }

    /// Returns the ports that are forwarded to a container now.
    fn published(&self, container: &'a Container) -> impl Iterator<Item = &'a PublishedPort> {
        let network = container.pod.config.network.as_ref();
        let network = network.filter(|_| container.status.is_live());
        network.into_iter().flat_map(|network| &network.ports)
    }

    fn exposes(&self, container: &Container, ports: &Ports) -> bool {
        let declared = container
            .config
            .declared
            .as_ref()
            .filter(|_| container.status.is_live());
        let exposed = declared.into_iter().flat_map(|declared| &declared.exposed_ports);
        exposed.into_iter().any(|port| ports.meets(port))
            || self
                .published(container)
                .any(|port| ports.has(port.container, protocol_name(port.protocol)))
    }
}

/// Returns names, sources and targets of mounts.
fn mounts(container: &Container) -> impl Iterator<Item = &String> {
    let config = &container.config;
    let volumes = config.mounts.iter().flat_map(|mount| [&mount.volume, &mount.target]);
    volumes.chain(config.shares.iter().flat_map(|share| [&share.source, &share.target]))
}

fn is_on(network: Option<&NetworkConfig>, wanted: &str) -> bool {
    let has_id = |id: &str| wanted.len() >= 12 && id.starts_with(wanted);
    network.map_or(wanted == NO_NETWORK, |network| {
        network.names().any(|name| name == wanted) || network.endpoints.iter().any(|endpoint| has_id(&endpoint.network))
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
            Ok(Filter::Status(Some(Status::Exited)))
        ));
        assert!(matches!(Filter::parse("status=dead"), Ok(Filter::Status(None))));
        assert!(matches!(
            Filter::parse("health=healthy"),
            Ok(Filter::Health(Some(Verdict::Healthy)))
        ));
        assert!(matches!(Filter::parse("health=none"), Ok(Filter::Health(None))));
        assert!(matches!(Filter::parse("label!=a=b"), Ok(Filter::Label(_))));
        for text in [
            "before=a",
            "since=a",
            "volume=/x",
            "network=n",
            "is-task=false",
            "ancestor=a:1",
            "exited=137",
        ] {
            assert!(Filter::parse(text).is_ok(), "{text}");
        }
        for text in [
            "status=gone",
            "color=red",
            "health=ill",
            "publish=x",
            "exited=x",
            "is-task=maybe",
            "name",
        ] {
            assert!(Filter::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ports_are_numbers_and_ranges() {
        let ports = |text: &str| Ports::parse(text).unwrap();
        assert!(ports("80").has(80, "tcp") && !ports("80").has(80, "udp") && ports("80/UDP").has(80, "udp"));
        assert!(ports("8000-8010").has(8010, "tcp") && !ports("8000-8010").has(8011, "tcp"));
        assert!(ports("80").meets("79-81/tcp") && !ports("80").meets("81-90/tcp") && !ports("80").meets("nothing"));
        for wrong in ["", "0", "9-8", "80/x", "-1", "65536", "1-"] {
            assert!(Ports::parse(wrong).is_err(), "{wrong}");
        }
    }
}
