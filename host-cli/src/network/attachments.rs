//! Networks that a running machine is on: its memberships with their switches, and the configuration of its device.
//! They change by the [`Step`]s between two sets of networks. A change that fails leaves the machine on no network, and
//! with no default route, that its row does not name.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};

use capsid_protocol::ContainerSpec;
use capsid_vmm::egress::{Egress, is_closed};
use capsid_vmm::segments::{Change, SEGMENTS_MAX, Segment, Uplink};
use capsid_vmm::switch::membership::{self, Join};
use tokio::net::UnixDatagram;
use tokio::sync::{Mutex, MutexGuard};
use tokio::task::JoinHandle;

use super::host::{AddressWatch, Host};
use super::steps::{Membership, Networks, Step};
use super::{
    DefaultRoute, GATEWAY_MAC, GATEWAY_V4, GATEWAY_V6, GuestNetwork, NetworkError, PodNetworks, passt, ports, switch,
};
use crate::model::{NetworkConfig, PublishedPort};
use crate::process::{DeviceError, DeviceSocket, Sidecars};

/// Error when a running machine is not on the networks that it should be on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AttachmentsError {
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error("cannot connect the machine to network {name}")]
    Connect { name: String, source: DeviceError },
    #[error("cannot disconnect the machine from network {name}")]
    Disconnect { name: String, source: DeviceError },
    #[error("cannot open the machine's uplink")]
    Open(#[source] DeviceError),
    #[error("cannot close the machine's uplink")]
    Close(#[source] DeviceError),
    #[error("cannot notify the machine of this host's addresses")]
    Host(#[source] DeviceError),
}

/// Networks that a machine is on, for one start of it.
#[derive(Debug)]
pub(crate) struct NetworkAttachments {
    /// Lock of one reconciliation, for as long as its guest is asked, too.
    turn: Mutex<()>,
    /// State, locked for a change of the device.
    state: Mutex<Attachments>,
    /// Configuration of the guest, for containers that start.
    guest: RefCell<GuestNetwork>,
    /// Whether the guest has agreed to its configuration: a failed change may be half applied.
    has_agreed: Cell<bool>,
    sidecars: Sidecars,
}

/// Turn to reconcile a machine's networks: nobody else does meanwhile.
pub(crate) struct Turn<'a> {
    attachments: &'a NetworkAttachments,
    _lock: MutexGuard<'a, ()>,
}

/// State of the attachments.
#[derive(Debug)]
struct Attachments {
    device: DeviceSocket,
    run: PathBuf,
    /// Configuration that does not change while the machine runs: its hardware address, ports and egress rules.
    config: NetworkConfig,
    route: DefaultRoute,
    /// Request that opens the uplink, until the device has applied it.
    uplink: Option<(Change, OwnedFd)>,
    attached: Vec<AttachedNetwork>,
    /// Watch of the host's addresses, until the device exists and can be notified.
    watch: Option<AddressWatch>,
    /// Task that notifies the device of the host's addresses.
    watching: Option<JoinHandle<()>>,
    /// The host's addresses of which the device was last notified.
    known_addresses: Option<Vec<IpAddr>>,
    /// Sidecars that the machine depends on: the uplink's, and the switches, which are not children of this process.
    sidecars: Sidecars,
}

/// Membership with what it needs here.
#[derive(Debug)]
struct AttachedNetwork {
    membership: Membership,
    slot: u8,
    segment: Segment,
    /// Device's end of the frames, until the device has it.
    frames: Option<OwnedFd>,
    /// Control socket: the machine is a member for as long as it is open.
    control: Rc<UnixDatagram>,
    /// Task that watches the switch.
    watch: JoinHandle<()>,
}

impl Drop for AttachedNetwork {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

impl Drop for Attachments {
    fn drop(&mut self) {
        if let Some(watching) = &self.watching {
            watching.abort();
        }
    }
}

impl NetworkAttachments {
    /// Creates the attachments of a machine that is about to start: a member of all networks of the pod, with the
    /// default route by one that leads out, if any does.
    pub(super) fn new(
        pod_networks: &PodNetworks<'_>,
        config: &NetworkConfig,
        host: &Host,
        (device, watch): (DeviceSocket, AddressWatch),
        run: &Path,
        sidecars: Sidecars,
    ) -> Result<Self, NetworkError> {
        let wanted = Networks::none().toward(pod_networks, config);
        let guest = GuestNetwork::of(pod_networks, config, &wanted.route, host);
        let mut state = Attachments {
            device,
            run: run.into(),
            config: config.clone(),
            route: DefaultRoute::Nowhere,
            uplink: None,
            attached: Vec::new(),
            watch: Some(watch),
            watching: None,
            known_addresses: None,
            sidecars: sidecars.clone(),
        };
        for membership in &wanted.members {
            state.join(membership)?;
        }
        state.start_uplink(&wanted.route, &guest, host)?;
        Ok(Self {
            turn: Mutex::default(),
            state: Mutex::new(state),
            guest: RefCell::new(guest),
            has_agreed: Cell::new(true),
            sidecars,
        })
    }

    /// Returns the address of the guest's resolver, which stays the same for as long as the machine runs.
    pub(super) fn resolver(&self) -> IpAddr {
        self.guest.borrow().resolver()
    }

    /// Writes the networks into a container's spec.
    pub(crate) fn apply_to(&self, spec: &mut ContainerSpec) {
        self.guest.borrow().apply_to(spec);
    }

    /// Connects the device, which exists now, to all that is still pending, and keeps notifying it of the host's
    /// addresses.
    pub(crate) async fn plug(self: &Rc<Self>) -> Result<(), AttachmentsError> {
        let ports = {
            let mut state = self.state.lock().await;
            if let Some(watch) = state.watch.take() {
                let reported = keep_notified(Rc::downgrade(self), watch);
                state.watching = Some(tokio::task::spawn_local(reported));
            }
            state.connect_pending().await?;
            state.open_pending().await?;
            state.published()
        };
        ports::bound(ports).await;
        Ok(())
    }

    /// Waits for the turn to reconcile the networks. The row is read after that: a change of it whose command has given
    /// up is none.
    pub(crate) async fn turn(&self) -> Turn<'_> {
        Turn {
            _lock: self.turn.lock().await,
            attachments: self,
        }
    }

    /// Notifies the device of the addresses that this host has now.
    async fn notify_host(&self) -> Result<(), AttachmentsError> {
        self.state.lock().await.notify_host().await
    }
}

impl Turn<'_> {
    /// Reconciles the machine's networks and default route with its row, and then its guest by `configure`. Returns the
    /// error when the machine has no default route although a network leads out. When a step fails, or the guest does
    /// not agree, the machine keeps what it had and the row permits.
    pub(crate) async fn reconcile<E: From<AttachmentsError>>(
        self,
        pod_networks: &PodNetworks<'_>,
        config: &NetworkConfig,
        configure: impl AsyncFnOnce(&GuestNetwork) -> Result<(), E>,
    ) -> Result<Option<NetworkError>, E> {
        let Self { attachments, .. } = &self;
        let guest_before = attachments.guest.borrow().clone();
        let (before, wanted, changed) = {
            let mut state = attachments.state.lock().await;
            let before = state.networks();
            let wanted = before.toward(pod_networks, config);
            let guest_by = |route: &DefaultRoute, host: &Host| {
                let guest = GuestNetwork::of(pod_networks, config, route, host);
                guest.asking(guest_before.resolver())
            };
            let changed = state.change(&before, &wanted, guest_by).await;
            (before, wanted, changed)
        };
        let agreed = match changed {
            Ok((guest, refusal)) => {
                attachments.guest.replace(guest.clone());
                if guest == guest_before && attachments.has_agreed.get() {
                    // A rename is the business of the switches alone.
                    Ok(refusal)
                } else {
                    configure(&guest).await.map(|()| refusal)
                }
            }
            Err(error) => Err(error.into()),
        };
        attachments.has_agreed.set(agreed.is_ok());
        let ports = {
            let mut state = attachments.state.lock().await;
            if agreed.is_err() {
                let kept = before.kept_of(&wanted);
                if kept == before {
                    attachments.guest.replace(guest_before);
                }
                let guest = attachments.guest.borrow().clone();
                // If the device does not answer, the machine is broken anyway.
                let now = state.networks();
                let _ = state.take_steps(&now.steps(&kept), &guest).await;
            }
            state.published()
        };
        ports::bound(ports).await;
        agreed
    }
}

impl Attachments {
    /// Returns the networks that the machine is on now.
    fn networks(&self) -> Networks {
        Networks {
            members: self.attached.iter().map(|one| one.membership.clone()).collect(),
            route: self.route.clone(),
        }
    }

    /// Returns the published ports that passt has to open; none without an uplink.
    fn published(&self) -> Vec<PublishedPort> {
        match self.route {
            DefaultRoute::Nowhere => Vec::new(),
            _ => self.config.ports.clone(),
        }
    }

    /// Moves the machine to the networks of its row. Returns the guest's new configuration, and the error of an uplink
    /// that does not open: the machine is on its networks then, without a default route.
    async fn change(
        &mut self,
        before: &Networks,
        wanted: &Networks,
        guest_by: impl Fn(&DefaultRoute, &Host) -> GuestNetwork,
    ) -> Result<(GuestNetwork, Option<NetworkError>), AttachmentsError> {
        let host = Host::look().map_err(NetworkError::Host)?;
        let guest = guest_by(&wanted.route, &host);
        let refusal = self.take_steps(&before.steps(wanted), &guest).await?;
        Ok((guest_by(&self.route, &host), refusal))
    }

    /// Takes steps, one after the other. Returns the error of an uplink that does not open.
    async fn take_steps(
        &mut self,
        steps: &[Step<'_>],
        guest: &GuestNetwork,
    ) -> Result<Option<NetworkError>, AttachmentsError> {
        let host = Host::look().map_err(NetworkError::Host)?;
        let mut refusal = None;
        for step in steps {
            match step {
                Step::CloseUplink => self.close_uplink().await?,
                Step::Leave(membership) => self.leave(membership).await?,
                Step::Rename(membership) => self.rename(membership),
                Step::Join(membership) => {
                    self.join(membership)?;
                    self.connect_pending().await?;
                }
                Step::OpenUplink(route) => match self.start_uplink(route, guest, &host) {
                    Ok(()) => self.open_pending().await?,
                    Err(error) => refusal = Some(error),
                },
            }
        }
        Ok(refusal)
    }

    async fn notify_host(&mut self) -> Result<(), AttachmentsError> {
        let host = Host::look().map_err(NetworkError::Host)?;
        let addresses = openable(&host);
        // Link-local addresses come and go with every interface, and do not count.
        if self.known_addresses.as_ref() == Some(&addresses) {
            return Ok(());
        }
        let change = Change::Host {
            addresses: addresses.clone(),
        };
        let reported = self.device.change(&change.encode(), &[]).await;
        reported.map_err(AttachmentsError::Host)?;
        self.known_addresses = Some(addresses);
        Ok(())
    }

    /// Changes the names of the machine on a network.
    fn rename(&mut self, to: &Membership) {
        let mut attached = self.attached.iter_mut();
        if let Some(one) = attached.find(|one| one.membership.network.id == to.network.id) {
            one.membership.names.clone_from(&to.names);
            // A switch that cannot be notified has ended, and the machine is about to end.
            let _ = membership::rename(&*one.control, to.names.clone());
        }
    }

    /// Starts the process that carries frames out by this route, with the links of `guest`. The device is not notified
    /// yet.
    fn start_uplink(&mut self, route: &DefaultRoute, guest: &GuestNetwork, host: &Host) -> Result<(), NetworkError> {
        if *route == DefaultRoute::Nowhere {
            return Ok(());
        }
        let config = &self.config;
        ports::check(&config.ports)?;
        check_kinds(config, guest)?;
        let passt = passt::start(config, host, guest)?;
        self.sidecars.come(passt.sidecar);
        let leading = guest.links().iter().filter(|link| link.gateway.is_some());
        let gateway_v4 = guest.gateways().find_map(|gateway| match gateway {
            IpAddr::V4(gateway) => Some(gateway),
            IpAddr::V6(_) => None,
        });
        let open = Change::Open(Uplink {
            hardware: GATEWAY_MAC,
            addresses: leading.map(|link| link.address).collect(),
            egress: Egress {
                rules: config.egress.clone(),
                host: openable(host),
                closed: guest.gateways().chain([GATEWAY_V4.into(), GATEWAY_V6.into()]).collect(),
            },
            published: ports::published(&config.ports),
            loopback_alias: gateway_v4.filter(|_| !passt.tracks_udp),
        });
        self.uplink = Some((open, passt.machine.into()));
        self.known_addresses = Some(openable(host));
        self.route = route.clone();
        Ok(())
    }

    async fn close_uplink(&mut self) -> Result<(), AttachmentsError> {
        // The sidecar ends first: if it ended by itself, the machine would end too.
        self.sidecars.end(passt::NAME).await;
        let closed = self.device.change(&Change::Close.encode(), &[]).await;
        closed.map_err(AttachmentsError::Close)?;
        self.route = DefaultRoute::Nowhere;
        Ok(())
    }

    /// Connects the device to the uplink whose process was started.
    async fn open_pending(&mut self) -> Result<(), AttachmentsError> {
        let Some((open, socket)) = self.uplink.take() else {
            return Ok(());
        };
        let opened = self.device.change(&open.encode(), &[socket.as_fd()]).await;
        if opened.is_err() {
            self.sidecars.end(passt::NAME).await;
            self.route = DefaultRoute::Nowhere;
        }
        opened.map_err(AttachmentsError::Open)
    }

    async fn leave(&mut self, membership: &Membership) -> Result<(), AttachmentsError> {
        let id = &membership.network.id;
        let Some(at) = self.attached.iter().position(|one| one.membership.network.id == *id) else {
            return Ok(());
        };
        // The switch forgets the machine in any case, whatever the device does.
        let slot = self.attached.remove(at).slot;
        let reported = self.device.change(&Change::Disconnect { slot }.encode(), &[]).await;
        reported.map_err(|source| AttachmentsError::Disconnect {
            name: membership.network.name.clone(),
            source,
        })
    }

    /// Connects the device to the joined networks. A network that the device refuses is left again.
    async fn connect_pending(&mut self) -> Result<(), AttachmentsError> {
        while let Some(at) = self.attached.iter().position(|one| one.frames.is_some()) {
            let one = &mut self.attached[at];
            let Some(frames) = one.frames.take() else { continue };
            let (slot, segment) = (one.slot, one.segment.clone());
            let connected = self
                .device
                .change(&Change::Connect { slot, segment }.encode(), &[frames.as_fd()])
                .await;
            if let Err(source) = connected {
                let name = self.attached.remove(at).membership.network.name.clone();
                return Err(AttachmentsError::Connect { name, source });
            }
        }
        Ok(())
    }

    /// Makes the machine a member of a network. The device is not notified yet.
    fn join(&mut self, membership: &Membership) -> Result<(), NetworkError> {
        let (network, endpoint) = (&membership.network, &membership.endpoint);
        let slot = self
            .free_slot()
            .ok_or_else(|| NetworkError::TooMany(network.name.clone()))?;
        let gateways: Vec<IpAddr> = network.config.subnets.iter().map(|subnet| subnet.gateway).collect();
        let request = Join {
            mac: self.config.mac,
            addresses: endpoint.addresses.clone(),
            names: membership.names.clone(),
        };
        let resolvers = [IpAddr::V4(GATEWAY_V4), IpAddr::V6(GATEWAY_V6)];
        let answering = gateways.iter().copied().chain(resolvers).collect();
        let joined = switch::join(&switch::folder(&self.run, &network.id), answering, &request);
        let joined = joined.map_err(|source| NetworkError::Join {
            name: network.name.clone(),
            source,
        })?;
        let (sidecars, name) = (self.sidecars.clone(), network.name.clone());
        let control = Rc::new(joined.control);
        let watched = Rc::clone(&control);
        self.attached.push(AttachedNetwork {
            membership: membership.clone(),
            slot,
            segment: Segment {
                addresses: endpoint.addresses.clone(),
                networks: network.config.subnets.iter().map(|subnet| subnet.network).collect(),
                gateways,
            },
            frames: Some(joined.frames.into()),
            control,
            watch: tokio::task::spawn_local(async move {
                // The switch sends nothing on it: the call returns when the switch ends.
                let _: io::Result<usize> = watched.recv(&mut [0]).await;
                sidecars.notify_end(format!("the switch of network {name}"));
            }),
        });
        Ok(())
    }

    fn free_slot(&self) -> Option<u8> {
        (0..SEGMENTS_MAX as u8).find(|slot| self.attached.iter().all(|one| one.slot != *slot))
    }
}

/// Returns the host's addresses that an egress rule could open.
fn openable(host: &Host) -> Vec<IpAddr> {
    let addresses = host.addresses.iter().copied();
    addresses.filter(|address| !is_closed(*address)).collect()
}

/// Checks that each port is published over an IP version by which the guest has a default route, for its answers.
fn check_kinds(config: &NetworkConfig, guest: &GuestNetwork) -> Result<(), NetworkError> {
    let unled = config.ports.iter().find(|port| !guest.leads(port.host.is_ipv4()));
    unled.map_or(Ok(()), |port| {
        Err(NetworkError::Kind {
            address: port.host,
            kind: if port.host.is_ipv4() { "IPv4" } else { "IPv6" },
        })
    })
}

/// Notifies a machine's device whenever this host's addresses change. Ends a machine that cannot be notified: it might
/// reach what it may not.
async fn keep_notified(attachments: Weak<NetworkAttachments>, watch: AddressWatch) {
    loop {
        let heard = watch.changed().await;
        let Some(attachments) = attachments.upgrade() else {
            return;
        };
        if heard.is_err() || attachments.notify_host().await.is_err() {
            let name = "the watch of this host's addresses";
            return attachments.sidecars.notify_end(name.into());
        }
    }
}
