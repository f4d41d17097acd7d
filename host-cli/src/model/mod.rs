//! Plain data of containers, pods, networks and volumes, and pure arithmetic on it: what rows, requests and plans are made of.
//! Imports no sibling.

mod container;
pub(crate) mod exit_code;
mod machine;
mod network;
mod pod;
mod restart;
mod subnet;
mod user_network;
mod volume;

pub(crate) use container::{Container, ContainerConfig, Declared, Exit, HealthCheck, LogOptions, Status};
pub(crate) use machine::{AccelChoice, MachineSize};
pub(crate) use network::{DEFAULT_NETWORK, NO_NETWORK, NetworkConfig, PublishedPort, mac_words, protocol_name};
pub(crate) use pod::{Pod, PodConfig, PodLimits, PodStatus};
pub(crate) use restart::RestartPolicy;
pub(crate) use subnet::{SubnetError, free_address, is_host_address};
pub(crate) use user_network::{ConnectTarget, Endpoint, Network, NetworkMember, NetworkSpec, Subnet};
pub(crate) use volume::{ShareMount, Volume, VolumeMount};
