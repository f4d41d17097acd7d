//! Requests about a running container, each answered once: usage, processes, limits, freezing, the addresses of its
//! network device.

use std::sync::Arc;

use capsid_protocol::message::agent_message::Kind as Report;
use capsid_protocol::message::host_message::Kind as Intent;
use capsid_protocol::spec::Network;
use capsid_protocol::{ConfigureNetwork, FailedStep, Frozen, Measured, NetworkConfigured, Request, Updated};
use rustix::io::Errno;

use crate::arguments::ArgumentReaders;
use crate::cgroup::{self, Cgroup, CgroupError};
use crate::container::Container;
use crate::network::{self, NetworkError};
use crate::{failure, processes};

/// Error of a request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    /// The container is unknown, has ended, or has not begun.
    #[error("container {0} is not running")]
    NotRunning(String),
    /// The cgroup refuses the request.
    #[error(transparent)]
    Cgroup(CgroupError),
    /// The network device cannot be changed.
    #[error("cannot change the container's addresses")]
    Network(#[source] NetworkError),
    /// Too many requests wait for an answer.
    #[error("too many requests wait for their answers")]
    TooMany,
}

impl RequestError {
    fn step(&self) -> FailedStep {
        match self {
            Self::NotRunning(_) => FailedStep::Spec,
            Self::Cgroup(_) => FailedStep::Cgroup,
            Self::Network(_) => FailedStep::Namespace,
            Self::TooMany => FailedStep::Unknown,
        }
    }
}

/// Returns the kind of an intent's request and the container it names; `None` for intents without an answer.
fn kind_of(intent: &Intent) -> Option<(Request, &str)> {
    match intent {
        Intent::Freeze(freeze) => Some((Request::Freeze, &freeze.container)),
        Intent::Measure(measure) => Some((Request::Measure, &measure.container)),
        Intent::List(list) => Some((Request::List, &list.container)),
        Intent::Update(update) => Some((Request::Update, &update.container)),
        Intent::ConfigureNetwork(request) => Some((Request::ConfigureNetwork, &request.container)),
        _ => None,
    }
}

/// Returns the report that a request failed.
pub(crate) fn failure(intent: &Intent, error: &RequestError) -> Option<Report> {
    let (request, id) = kind_of(intent)?;
    let mut failed = failure::failed(id, error.step(), error);
    failed.request = request as i32;
    Some(Report::Failed(failed))
}

/// Performs the request `intent` on the containers that `find` knows, or on the pod that `configure_network` changes.
/// Returns the answer. Arguments of processes are read by `readers`.
pub(crate) fn answer(
    intent: &Intent,
    find: impl FnOnce(&str) -> Option<Arc<Container>>,
    configure_network: impl FnOnce(&Network) -> Result<(), NetworkError>,
    readers: &Arc<ArgumentReaders>,
) -> Option<Report> {
    let (_, id) = kind_of(intent)?;
    let result = match intent {
        Intent::Measure(_) if id.is_empty() => Ok(Report::Measured(cgroup::measure_guest())),
        Intent::ConfigureNetwork(ConfigureNetwork { network, .. }) if id.is_empty() => configure_network(network)
            .map(|()| Report::NetworkConfigured(NetworkConfigured::default()))
            .map_err(RequestError::Network),
        _ => find(id)
            .ok_or_else(|| RequestError::NotRunning(id.to_owned()))
            .and_then(|container| act(intent, &container, readers)),
    };
    match result {
        Ok(report) => Some(report),
        Err(error) => failure(intent, &error),
    }
}

/// Performs a request on its container.
fn act(intent: &Intent, container: &Container, readers: &Arc<ArgumentReaders>) -> Result<Report, RequestError> {
    let id = &container.lifecycle.id;
    let not_running = || RequestError::NotRunning(id.clone());
    match intent {
        Intent::Freeze(freeze) => {
            container.lifecycle.running().ok_or_else(not_running)?;
            let froze = container.with_cgroup(|cgroup| cgroup.freeze(freeze.frozen));
            froze.ok_or_else(not_running)?.map_err(RequestError::Cgroup)?;
            Ok(Report::Frozen(Frozen {
                container: id.clone(),
                frozen: freeze.frozen,
            }))
        }
        Intent::Update(update) => {
            let updated = container.with_cgroup(|cgroup| cgroup.update(&update.limits));
            updated.ok_or_else(not_running)?.map_err(RequestError::Cgroup)?;
            Ok(Report::Updated(Updated { container: id.clone() }))
        }
        Intent::ConfigureNetwork(request) => {
            let place = container.network().ok_or_else(not_running)?;
            network::configure_network(place, request.network.clone()).map_err(|error| match error {
                // Ended meanwhile.
                NetworkError::Enter(Errno::SRCH) => not_running(),
                error => RequestError::Network(error),
            })?;
            Ok(Report::NetworkConfigured(NetworkConfigured { container: id.clone() }))
        }
        Intent::List(_) => {
            // Read without the lock: a process can make the reading of its arguments take a moment.
            let pids = container.with_cgroup(Cgroup::processes).ok_or_else(not_running)?;
            Ok(Report::Listed(processes::list(id, pids, readers)))
        }
        _ => {
            let measured = container.with_cgroup(Cgroup::measure).ok_or_else(not_running)?;
            Ok(Report::Measured(Measured {
                container: id.clone(),
                ..measured
            }))
        }
    }
}

#[cfg(test)]
mod tests {
    use capsid_protocol::message::Shutdown;
    use capsid_protocol::{Freeze, List};

    use super::*;

    #[test]
    fn an_unknown_container_is_said_to_be_that() {
        let intent = Intent::Freeze(Freeze {
            container: "c".into(),
            frozen: true,
        });
        let Some(Report::Failed(failed)) = answer(&intent, |_| None, |_| Ok(()), &Arc::default()) else {
            panic!("not failed");
        };
        assert_eq!((failed.request(), failed.step()), (Request::Freeze, FailedStep::Spec));
        assert_eq!(
            (failed.container.as_str(), failed.message.as_str()),
            ("c", "container c is not running")
        );
    }

    #[test]
    fn a_container_without_cgroup_is_not_running() {
        let container = Arc::new(Container::new(capsid_protocol::ContainerSpec {
            id: "c".into(),
            ..Default::default()
        }));
        let intent = Intent::List(List { container: "c".into() });
        assert!(matches!(
            answer(&intent, |_| Some(container), |_| Ok(()), &Arc::default()),
            Some(Report::Failed(_))
        ));
    }

    #[test]
    fn a_container_without_a_process_has_no_network() {
        let container = Arc::new(Container::new(capsid_protocol::ContainerSpec {
            id: "c".into(),
            ..Default::default()
        }));
        let intent = Intent::ConfigureNetwork(ConfigureNetwork {
            container: "c".into(),
            ..Default::default()
        });
        let Some(Report::Failed(failed)) = answer(&intent, |_| Some(container), |_| Ok(()), &Arc::default()) else {
            panic!("not failed");
        };
        assert_eq!(
            (failed.request(), failed.step()),
            (Request::ConfigureNetwork, FailedStep::Spec)
        );
    }

    #[test]
    fn what_is_no_request_has_no_answer() {
        assert_eq!(
            answer(&Intent::Shutdown(Shutdown {}), |_| None, |_| Ok(()), &Arc::default()),
            None
        );
    }
}
