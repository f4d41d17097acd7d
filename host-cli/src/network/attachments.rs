//! Networks that a running machine is on: its memberships with their switches, and the configuration of its device.

use std::cell::RefCell;
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
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::host::{AddressWatch, Host};
use super::{
    DefaultRoute, GATEWAY_MAC, GATEWAY_V4, GATEWAY_V6, GuestNetwork, NetworkError, PodNetworks, passt, ports, switch,
};
use crate::accelerator::{DeviceError, DeviceSocket, Sidecars};
use crate::model::{Endpoint, Network, NetworkConfig};

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
    #[error("cannot tell the machine of this host's addresses")]
    Host(#[source] DeviceError),
}

/// Networks that a machine is on, for one start of it.
#[derive(Debug)]
pub(crate) struct NetworkAttachments {
    device: DeviceSocket,
    run: PathBuf,
    route: RefCell<DefaultRoute>,
    /// Request that opens the uplink, until the device was notified.
    uplink: RefCell<Option<(Change, OwnedFd)>>,
    members: RefCell<Vec<Attachment>>,
    guest: RefCell<GuestNetwork>,
    /// Watch of the host's addresses, until the device exists and can be notified.
    watch: RefCell<Option<AddressWatch>>,
    watching: RefCell<Option<JoinHandle<()>>>,
    /// The host's addresses of which the device was last notified.
    known_addresses: RefCell<Option<Vec<IpAddr>>>,
    /// Sidecars that the machine depends on: the uplink's, and the switches, which are not children of this process.
    sidecars: Sidecars,
    /// Lock that permits one change at a time.
    changing: Mutex<()>,
}

/// State of the attachments at a moment.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// Ids of the user-defined networks.
    ids: Vec<String>,
    route: DefaultRoute,
    guest: GuestNetwork,
}

/// Endpoint on a user-defined network, attached to the machine's device.
#[derive(Debug)]
struct Attachment {
    /// Id of the network.
    id: String,
    name: String,
    slot: u8,
    segment: Segment,
    /// Device's end of the frames, until the device has it.
    frames: Option<OwnedFd>,
    /// Names that the other members know the machine by.
    names: Vec<String>,
    /// Control socket: the machine is a member for as long as it is open.
    control: Rc<UnixDatagram>,
    /// Task that watches the switch.
    watch: JoinHandle<()>,
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

impl Drop for NetworkAttachments {
    fn drop(&mut self) {
        if let Some(watching) = self.watching.get_mut() {
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
        let route = DefaultRoute::of(pod_networks, config);
        let guest = GuestNetwork::of(pod_networks, config, &route, host);
        let attachments = Self {
            device,
            run: run.into(),
            route: RefCell::new(DefaultRoute::Nowhere),
            uplink: RefCell::default(),
            members: RefCell::default(),
            guest: RefCell::new(guest.clone()),
            watch: RefCell::new(Some(watch)),
            watching: RefCell::default(),
            known_addresses: RefCell::default(),
            sidecars,
            changing: Mutex::default(),
        };
        for (network, endpoint) in pod_networks.attachments() {
            let member = attachments.join(pod_networks, config, network, endpoint)?;
            attachments.members.borrow_mut().push(member);
        }
        attachments.open_uplink(config, route, &guest, host)?;
        Ok(attachments)
    }

    /// Returns the address of the guest's resolver, which stays the same for as long as the machine runs.
    pub(super) fn resolver(&self) -> IpAddr {
        self.guest.borrow().resolver()
    }

    /// Returns the current state, which [`Self::rollback`] restores.
    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot {
            ids: self.members.borrow().iter().map(|member| member.id.clone()).collect(),
            route: self.route.borrow().clone(),
            guest: self.guest.borrow().clone(),
        }
    }

    /// Writes the networks into a container's spec.
    pub(crate) fn apply_to(&self, spec: &mut ContainerSpec) {
        self.guest.borrow().apply_to(spec);
    }

    /// Connects the device, which exists now, to all that is still pending, and keeps notifying it of the host's
    /// addresses.
    pub(crate) async fn plug(self: &Rc<Self>) -> Result<(), AttachmentsError> {
        let _turn = self.changing.lock().await;
        if let Some(watch) = self.watch.take() {
            let reported = keep_notified(Rc::downgrade(self), watch);
            self.watching.replace(Some(tokio::task::spawn_local(reported)));
        }
        self.plug_pending().await
    }

    /// Notifies the device of the addresses that this host has now.
    async fn notify_host(&self) -> Result<(), AttachmentsError> {
        let _turn = self.changing.lock().await;
        let host = Host::look().map_err(NetworkError::Host)?;
        let addresses = openable(&host);
        // Link-local addresses come and go with every interface, and do not count.
        if self.known_addresses.borrow().as_ref() == Some(&addresses) {
            return Ok(());
        }
        let change = Change::Host {
            addresses: addresses.clone(),
        };
        let reported = self.device.change(&change.encode(), &[]).await;
        reported.map_err(AttachmentsError::Host)?;
        self.known_addresses.replace(Some(addresses));
        Ok(())
    }

    /// Reconciles the machine's networks and default route with its row: leaves the other networks first. Returns the
    /// guest's new configuration, and the error when it has no default route although a network leads out.
    pub(crate) async fn reconcile(
        &self,
        pod_networks: &PodNetworks<'_>,
        config: &NetworkConfig,
    ) -> Result<(GuestNetwork, Option<NetworkError>), AttachmentsError> {
        let _turn = self.changing.lock().await;
        // A member with another address is another one: two commands may have come between two reconciliations.
        let is_on = |member: &Attachment| {
            let mut places = pod_networks.attachments();
            places.any(|(network, endpoint)| network.id == member.id && endpoint.addresses == member.segment.addresses)
        };
        // An uplink in use stays as it is for as long as possible.
        let stays = match &*self.route.borrow() {
            DefaultRoute::Own => config.own_link,
            DefaultRoute::Network(id) => self.members.borrow().iter().any(|m| m.id == *id && is_on(m)),
            DefaultRoute::Nowhere => false,
        };
        if !stays {
            self.close().await?;
        }
        self.leave_others(is_on).await?;
        for (network, endpoint) in pod_networks.attachments() {
            if !self.renamed(&network.id, &pod_networks.dns_names(endpoint)) {
                let member = self.join(pod_networks, config, network, endpoint)?;
                self.members.borrow_mut().push(member);
            }
        }
        let host = Host::look().map_err(NetworkError::Host)?;
        let guest_by =
            |route: &DefaultRoute| GuestNetwork::of(pod_networks, config, route, &host).asking(self.resolver());
        let mut refusal = None;
        if !stays {
            let route = DefaultRoute::of(pod_networks, config);
            let guest = guest_by(&route);
            refusal = self.open_uplink(config, route, &guest, &host).err();
        }
        self.plug_pending().await?;
        let guest = guest_by(&self.route.borrow());
        self.guest.replace(guest.clone());
        Ok((guest, refusal))
    }

    /// Takes the machine off the networks that it has joined since the snapshot: its guest could not be told of them.
    pub(crate) async fn rollback(&self, snapshot: Snapshot) -> Result<(), AttachmentsError> {
        let _turn = self.changing.lock().await;
        if *self.route.borrow() != snapshot.route {
            self.close().await?;
        }
        self.guest.replace(snapshot.guest);
        self.leave_others(|member| snapshot.ids.contains(&member.id)).await
    }

    /// Renames the machine on a network; false when it is no member there.
    fn renamed(&self, id: &str, names: &[String]) -> bool {
        let mut members = self.members.borrow_mut();
        let Some(member) = members.iter_mut().find(|member| member.id == id) else {
            return false;
        };
        if member.names != names {
            member.names = names.into();
            // A switch that cannot be notified has ended, and the machine is about to end.
            let _ = membership::rename(&*member.control, names.into());
        }
        true
    }

    /// Starts the process that carries frames out by this route, with the links of `guest`. The device is not notified
    /// yet.
    fn open_uplink(
        &self,
        config: &NetworkConfig,
        route: DefaultRoute,
        guest: &GuestNetwork,
        host: &Host,
    ) -> Result<(), NetworkError> {
        if route == DefaultRoute::Nowhere {
            return Ok(());
        }
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
        self.uplink.replace(Some((open, passt.machine.into())));
        self.known_addresses.replace(Some(openable(host)));
        self.route.replace(route);
        Ok(())
    }

    /// Closes the uplink, if there is one.
    async fn close(&self) -> Result<(), AttachmentsError> {
        if *self.route.borrow() == DefaultRoute::Nowhere {
            return Ok(());
        }
        // The sidecar ends first: if it ended by itself, the machine would end too.
        self.sidecars.end(passt::NAME).await;
        let closed = self.device.change(&Change::Close.encode(), &[]).await;
        closed.map_err(AttachmentsError::Close)?;
        self.route.replace(DefaultRoute::Nowhere);
        Ok(())
    }

    /// Takes the machine off the networks that it should not be on.
    async fn leave_others(&self, is_on: impl Fn(&Attachment) -> bool) -> Result<(), AttachmentsError> {
        loop {
            let gone = {
                let members = self.members.borrow();
                let gone = members.iter().find(|member| !is_on(member));
                gone.map(|member| (member.id.clone(), member.name.clone(), member.slot))
            };
            let Some((id, name, slot)) = gone else {
                return Ok(());
            };
            let reported = self.device.change(&Change::Disconnect { slot }.encode(), &[]).await;
            reported.map_err(|source| AttachmentsError::Disconnect { name, source })?;
            self.members.borrow_mut().retain(|member| member.id != id);
        }
    }

    /// Connects the device to the joined networks, then to the uplink. A network that the device refuses is left again.
    async fn plug_pending(&self) -> Result<(), AttachmentsError> {
        loop {
            let pending = {
                let mut members = self.members.borrow_mut();
                members.iter_mut().find_map(|member| {
                    let frames = member.frames.take()?;
                    Some((member.name.clone(), member.slot, member.segment.clone(), frames))
                })
            };
            let Some((name, slot, segment, frames)) = pending else {
                return self.open_pending().await;
            };
            let change = Change::Connect { slot, segment };
            if let Err(source) = self.device.change(&change.encode(), &[frames.as_fd()]).await {
                self.members.borrow_mut().retain(|member| member.slot != slot);
                return Err(AttachmentsError::Connect { name, source });
            }
        }
    }

    async fn open_pending(&self) -> Result<(), AttachmentsError> {
        let Some((open, socket)) = self.uplink.take() else {
            return Ok(());
        };
        let opened = self.device.change(&open.encode(), &[socket.as_fd()]).await;
        if opened.is_err() {
            self.sidecars.end(passt::NAME).await;
            self.route.replace(DefaultRoute::Nowhere);
        }
        opened.map_err(AttachmentsError::Open)
    }

    /// Makes the machine a member of a network. The device is not notified yet.
    fn join(
        &self,
        pod_networks: &PodNetworks<'_>,
        config: &NetworkConfig,
        network: &Network,
        endpoint: &Endpoint,
    ) -> Result<Attachment, NetworkError> {
        let slot = self
            .free_slot()
            .ok_or_else(|| NetworkError::TooMany(network.name.clone()))?;
        let gateways: Vec<IpAddr> = network.config.subnets.iter().map(|subnet| subnet.gateway).collect();
        let request = Join {
            mac: config.mac,
            addresses: endpoint.addresses.clone(),
            names: pod_networks.dns_names(endpoint),
        };
        let resolvers = [IpAddr::V4(GATEWAY_V4), IpAddr::V6(GATEWAY_V6)];
        let answering = gateways.iter().copied().chain(resolvers).collect();
        let membership = switch::join(&switch::folder(&self.run, &network.id), answering, &request);
        let membership = membership.map_err(|source| NetworkError::Join {
            name: network.name.clone(),
            source,
        })?;
        let (sidecars, name) = (self.sidecars.clone(), network.name.clone());
        let control = Rc::new(membership.control);
        let watched = Rc::clone(&control);
        Ok(Attachment {
            id: network.id.clone(),
            name: network.name.clone(),
            slot,
            segment: Segment {
                addresses: endpoint.addresses.clone(),
                networks: network.config.subnets.iter().map(|subnet| subnet.network).collect(),
                gateways,
            },
            frames: Some(membership.frames.into()),
            names: request.names,
            control,
            watch: tokio::task::spawn_local(async move {
                // The switch sends nothing on it: the call returns when the switch ends.
                let _: io::Result<usize> = watched.recv(&mut [0]).await;
                sidecars.notify_end(format!("the switch of network {name}"));
            }),
        })
    }

    fn free_slot(&self) -> Option<u8> {
        let members = self.members.borrow();
        (0..SEGMENTS_MAX as u8).find(|slot| members.iter().all(|member| member.slot != *slot))
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
            attachments
                .sidecars
                .notify_end("the watch of this host's addresses".into());
            return;
        }
    }
}
