//! Requests about a running container, each answered once: usage, processes, limits, freezing, the addresses of its
//! network device.

use std::sync::Arc;

use capsid_protocol::message::agent_message::Kind as Report;
use capsid_protocol::message::host_message::Kind as Intent;
use capsid_protocol::spec::Network;
use capsid_protocol::{ConfigureNetwork, Done, FailedStep, Freeze, List, Measure, Update};
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

/// Request of the host, answered once.
#[derive(Debug)]
pub(crate) enum SessionRequest {
    /// Stops or resumes the processes of a container.
    Freeze(Freeze),
    /// Resource usage of a container, or of the guest.
    Measure(Measure),
    /// Process list of a container.
    List(List),
    /// Change of a container's limits.
    Update(Update),
    /// Change of the addresses of a container or of the pod.
    ConfigureNetwork(ConfigureNetwork),
}

impl SessionRequest {
    /// Converts a message of the host; `None` for one that is no request.
    pub(crate) fn of(intent: Intent) -> Option<Self> {
        match intent {
            Intent::Freeze(freeze) => Some(Self::Freeze(freeze)),
            Intent::Measure(measure) => Some(Self::Measure(measure)),
            Intent::List(list) => Some(Self::List(list)),
            Intent::Update(update) => Some(Self::Update(update)),
            Intent::ConfigureNetwork(configure) => Some(Self::ConfigureNetwork(configure)),
            Intent::Hello(_)
            | Intent::Create(_)
            | Intent::Start(_)
            | Intent::Signal(_)
            | Intent::Resize(_)
            | Intent::Shutdown(_)
            | Intent::Ping(_)
            | Intent::KeepFree(_) => None,
        }
    }

    /// Returns the id of the container that the request is about; empty for the guest or the pod.
    fn container(&self) -> &str {
        match self {
            Self::Freeze(freeze) => &freeze.container,
            Self::Measure(measure) => &measure.container,
            Self::List(list) => &list.container,
            Self::Update(update) => &update.container,
            Self::ConfigureNetwork(request) => &request.container,
        }
    }

    /// Creates the response to a failed request.
    pub(crate) fn failure(&self, error: &RequestError) -> Report {
        Report::Failed(failure::failed(self.container(), error.step(), error))
    }

    /// Performs the request on the containers that `find` knows, or on the pod that `configure_network` changes.
    /// Returns the response. Arguments of processes are read by `readers`.
    pub(crate) fn perform(
        &self,
        find: impl FnOnce(&str) -> Option<Arc<Container>>,
        configure_network: impl FnOnce(&Network) -> Result<(), NetworkError>,
        readers: &Arc<ArgumentReaders>,
    ) -> Report {
        let id = self.container();
        let result = match self {
            Self::Measure(_) if id.is_empty() => Ok(Report::Measured(cgroup::measure_guest())),
            Self::ConfigureNetwork(ConfigureNetwork { network, .. }) if id.is_empty() => configure_network(network)
                .map(|()| Report::Done(Done {}))
                .map_err(RequestError::Network),
            _ => find(id)
                .ok_or_else(|| RequestError::NotRunning(id.to_owned()))
                .and_then(|container| self.perform_on(&container, readers)),
        };
        result.unwrap_or_else(|error| self.failure(&error))
    }

    /// Performs the request on its container.
    fn perform_on(&self, container: &Container, readers: &Arc<ArgumentReaders>) -> Result<Report, RequestError> {
        let not_running = || RequestError::NotRunning(container.lifecycle.id.clone());
        match self {
            Self::Freeze(freeze) => {
                container.lifecycle.running().ok_or_else(not_running)?;
                let froze = container.with_cgroup(|cgroup| cgroup.freeze(freeze.frozen));
                froze.ok_or_else(not_running)?.map_err(RequestError::Cgroup)?;
                Ok(Report::Done(Done {}))
            }
            Self::Update(update) => {
                let updated = container.with_cgroup(|cgroup| cgroup.update(&update.limits));
                updated.ok_or_else(not_running)?.map_err(RequestError::Cgroup)?;
                Ok(Report::Done(Done {}))
            }
            Self::ConfigureNetwork(request) => {
                let place = container.network().ok_or_else(not_running)?;
                network::configure_network(place, request.network.clone()).map_err(|error| match error {
                    // Ended meanwhile.
                    NetworkError::Enter(Errno::SRCH) => not_running(),
                    error => RequestError::Network(error),
                })?;
                Ok(Report::Done(Done {}))
            }
            Self::List(_) => {
                // Read without the lock: a process can make the reading of its arguments take a moment.
                let pids = container.with_cgroup(Cgroup::processes).ok_or_else(not_running)?;
                Ok(Report::Listed(processes::list(pids, readers)))
            }
            Self::Measure(_) => {
                let measured = container.with_cgroup(Cgroup::measure).ok_or_else(not_running)?;
                Ok(Report::Measured(measured))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn perform(request: &SessionRequest, container: Option<Container>) -> Report {
        request.perform(|_| container.map(Arc::new), |_| Ok(()), &Arc::default())
    }

    fn without_a_process() -> Container {
        Container::new(capsid_protocol::ContainerSpec {
            id: "c".into(),
            ..Default::default()
        })
    }

    #[test]
    fn an_unknown_container_is_said_to_be_that() {
        let request = SessionRequest::Freeze(Freeze {
            container: "c".into(),
            frozen: true,
        });
        let Report::Failed(failed) = perform(&request, None) else {
            panic!("not failed");
        };
        assert_eq!(failed.step(), FailedStep::Spec);
        assert_eq!(
            (failed.container.as_str(), failed.message.as_str()),
            ("c", "container c is not running")
        );
    }

    #[test]
    fn a_container_that_has_not_begun_is_not_running() {
        let container = || "c".to_owned();
        let requests = [
            SessionRequest::Freeze(Freeze {
                container: container(),
                frozen: true,
            }),
            SessionRequest::Measure(Measure { container: container() }),
            SessionRequest::List(List { container: container() }),
            SessionRequest::Update(Update {
                container: container(),
                ..Update::default()
            }),
            SessionRequest::ConfigureNetwork(ConfigureNetwork {
                container: container(),
                ..ConfigureNetwork::default()
            }),
        ];
        for request in requests {
            let Report::Failed(failed) = perform(&request, Some(without_a_process())) else {
                panic!("{request:?} has not failed");
            };
            assert_eq!(failed.message, "container c is not running");
        }
    }

    #[test]
    fn a_pods_network_needs_no_container() {
        let request = SessionRequest::ConfigureNetwork(ConfigureNetwork::default());
        assert_eq!(perform(&request, None), Report::Done(Done {}));
    }
}
