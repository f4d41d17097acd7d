//! The networks that a running machine is on: its memberships with their switches, and what its device is told of them.

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
use super::{Endpoint, GATEWAY_MAC, GATEWAY_V4, GATEWAY_V6, GuestNetwork, Lead, NetworkError, passt, ports, switch};
use crate::accelerator::{DeviceError, DeviceSocket, Helpers};
use crate::state::{Joined, Network, NetworkConfig};

/// Why a running machine is not on the networks that it should be on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WiringError {
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error("cannot connect the machine to network {name}")]
    Connect { name: String, source: DeviceError },
    #[error("cannot disconnect the machine from network {name}")]
    Disconnect { name: String, source: DeviceError },
    #[error("cannot open the machine's way out")]
    Open(#[source] DeviceError),
    #[error("cannot close the machine's way out")]
    Close(#[source] DeviceError),
    #[error("cannot tell the machine of this host's addresses")]
    Host(#[source] DeviceError),
}

/// It, for one start of a machine.
#[derive(Debug)]
pub(crate) struct Wiring {
    device: DeviceSocket,
    run: PathBuf,
    lead: RefCell<Lead>,
    /// What opens the way out, until the device was told.
    uplink: RefCell<Option<(Change, OwnedFd)>>,
    members: RefCell<Vec<Member>>,
    guest: RefCell<GuestNetwork>,
    /// Until the device is there to be told.
    watch: RefCell<Option<AddressWatch>>,
    watching: RefCell<Option<JoinHandle<()>>>,
    /// The host's addresses, as the device was last told of them.
    told: RefCell<Option<Vec<IpAddr>>>,
    /// The way out's helper among them, and the switches, which are not ours.
    helpers: Helpers,
    /// One change at a time.
    changing: Mutex<()>,
}

/// What it was at a moment.
#[derive(Debug)]
pub(crate) struct Standing {
    /// The users' networks'.
    ids: Vec<String>,
    lead: Lead,
    guest: GuestNetwork,
}

/// A place on a user's network.
#[derive(Debug)]
struct Member {
    /// The network's.
    id: String,
    name: String,
    slot: u8,
    segment: Segment,
    /// The device's end of the frames, until it has it.
    frames: Option<OwnedFd>,
    /// That the others know it by.
    names: Vec<String>,
    /// It is one for as long as this is open.
    control: Rc<UnixDatagram>,
    /// Watches the switch.
    watch: JoinHandle<()>,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

impl Drop for Wiring {
    fn drop(&mut self) {
        if let Some(watching) = self.watching.get_mut() {
            watching.abort();
        }
    }
}

impl Wiring {
    /// That of a machine that is about to start: a member of all networks of its endpoint, one of which leads out if any
    /// does.
    pub(super) fn new(
        endpoint: &Endpoint<'_>,
        config: &NetworkConfig,
        host: &Host,
        (device, watch): (DeviceSocket, AddressWatch),
        run: &Path,
        helpers: Helpers,
    ) -> Result<Self, NetworkError> {
        let lead = Lead::of(endpoint, config);
        let guest = GuestNetwork::of(endpoint, config, &lead, host);
        let wiring = Self {
            device,
            run: run.into(),
            lead: RefCell::new(Lead::Nowhere),
            uplink: RefCell::default(),
            members: RefCell::default(),
            guest: RefCell::new(guest.clone()),
            watch: RefCell::new(Some(watch)),
            watching: RefCell::default(),
            told: RefCell::default(),
            helpers,
            changing: Mutex::default(),
        };
        for (network, joined) in endpoint.places() {
            let member = wiring.join(endpoint, config, network, joined)?;
            wiring.members.borrow_mut().push(member);
        }
        wiring.lead_out(config, lead, &guest, host)?;
        Ok(wiring)
    }

    /// Where the guest asks for names, for as long as the machine runs.
    pub(super) fn resolver(&self) -> IpAddr {
        self.guest.borrow().resolver()
    }

    /// Where it stands, to come back to by [`Self::retreat`].
    pub(crate) fn standing(&self) -> Standing {
        Standing {
            ids: self.members.borrow().iter().map(|member| member.id.clone()).collect(),
            lead: self.lead.borrow().clone(),
            guest: self.guest.borrow().clone(),
        }
    }

    /// Tells a container of its networks.
    pub(crate) fn furnish(&self, spec: &mut ContainerSpec) {
        self.guest.borrow().furnish(spec);
    }

    /// Connects the device, which is there now, to what it is not connected to yet, and keeps it told of the host's
    /// addresses.
    pub(crate) async fn plug(self: &Rc<Self>) -> Result<(), WiringError> {
        let _turn = self.changing.lock().await;
        if let Some(watch) = self.watch.take() {
            let told = keep_told(Rc::downgrade(self), watch);
            self.watching.replace(Some(tokio::task::spawn_local(told)));
        }
        self.plug_pending().await
    }

    /// Tells the device which addresses this host has now.
    async fn tell_host(&self) -> Result<(), WiringError> {
        let _turn = self.changing.lock().await;
        let host = Host::look().map_err(NetworkError::Host)?;
        let addresses = openable(&host);
        // Those of links alone come and go with every interface.
        if self.told.borrow().as_ref() == Some(&addresses) {
            return Ok(());
        }
        let change = Change::Host {
            addresses: addresses.clone(),
        };
        let told = self.device.change(&change.encode(), &[]).await;
        told.map_err(WiringError::Host)?;
        self.told.replace(Some(addresses));
        Ok(())
    }

    /// Has the machine be on the networks that its endpoint is on now, and its way out be by one of them: off the others
    /// first. What the guest is to be told then, and why it has no way out although a network leads there.
    pub(crate) async fn follow(
        &self,
        endpoint: &Endpoint<'_>,
        config: &NetworkConfig,
    ) -> Result<(GuestNetwork, Option<NetworkError>), WiringError> {
        let _turn = self.changing.lock().await;
        // With another address it is another member: two commands may have come between two looks.
        let is_on = |member: &Member| {
            let mut places = endpoint.places();
            places.any(|(network, joined)| network.id == member.id && joined.addresses == member.segment.addresses)
        };
        // What goes out goes on as it does, as long as it can.
        let stays = match &*self.lead.borrow() {
            Lead::Own => config.own_link,
            Lead::Network(id) => self.members.borrow().iter().any(|m| m.id == *id && is_on(m)),
            Lead::Nowhere => false,
        };
        if !stays {
            self.close().await?;
        }
        self.leave_others(is_on).await?;
        for (network, joined) in endpoint.places() {
            if !self.renamed(&network.id, &endpoint.dns_names(joined)) {
                let member = self.join(endpoint, config, network, joined)?;
                self.members.borrow_mut().push(member);
            }
        }
        let host = Host::look().map_err(NetworkError::Host)?;
        let guest_by = |lead: &Lead| GuestNetwork::of(endpoint, config, lead, &host).asking(self.resolver());
        let mut refusal = None;
        if !stays {
            let lead = Lead::of(endpoint, config);
            let guest = guest_by(&lead);
            refusal = self.lead_out(config, lead, &guest, &host).err();
        }
        self.plug_pending().await?;
        let guest = guest_by(&self.lead.borrow());
        self.guest.replace(guest.clone());
        Ok((guest, refusal))
    }

    /// Takes the machine off the networks that it has come to since: its guest could not be told of them.
    pub(crate) async fn retreat(&self, standing: Standing) -> Result<(), WiringError> {
        let _turn = self.changing.lock().await;
        if *self.lead.borrow() != standing.lead {
            self.close().await?;
        }
        self.guest.replace(standing.guest);
        self.leave_others(|member| standing.ids.contains(&member.id)).await
    }

    /// Has the machine bear these names on a network, if it is a member there.
    fn renamed(&self, id: &str, names: &[String]) -> bool {
        let mut members = self.members.borrow_mut();
        let Some(member) = members.iter_mut().find(|member| member.id == id) else {
            return false;
        };
        if member.names != names {
            member.names = names.into();
            // A switch that does not hear it has ended, and the machine is about to.
            let _ = membership::rename(&*member.control, names.into());
        }
        true
    }

    /// Starts what carries frames out by this network, for a guest that is told so; its device does not know yet.
    fn lead_out(
        &self,
        config: &NetworkConfig,
        lead: Lead,
        guest: &GuestNetwork,
        host: &Host,
    ) -> Result<(), NetworkError> {
        if lead == Lead::Nowhere {
            return Ok(());
        }
        ports::check(&config.ports)?;
        check_kinds(config, guest)?;
        let passt = passt::start(config, host, guest)?;
        self.helpers.come(passt.helper);
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
        self.told.replace(Some(openable(host)));
        self.lead.replace(lead);
        Ok(())
    }

    /// Closes the way out, if there is one.
    async fn close(&self) -> Result<(), WiringError> {
        if *self.lead.borrow() == Lead::Nowhere {
            return Ok(());
        }
        // First: its own end would be the machine's.
        self.helpers.end(passt::NAME).await;
        let closed = self.device.change(&Change::Close.encode(), &[]).await;
        closed.map_err(WiringError::Close)?;
        self.lead.replace(Lead::Nowhere);
        Ok(())
    }

    /// Takes the machine off the networks that it is not to be on.
    async fn leave_others(&self, is_on: impl Fn(&Member) -> bool) -> Result<(), WiringError> {
        loop {
            let gone = {
                let members = self.members.borrow();
                let gone = members.iter().find(|member| !is_on(member));
                gone.map(|member| (member.id.clone(), member.name.clone(), member.slot))
            };
            let Some((id, name, slot)) = gone else {
                return Ok(());
            };
            let told = self.device.change(&Change::Disconnect { slot }.encode(), &[]).await;
            told.map_err(|source| WiringError::Disconnect { name, source })?;
            self.members.borrow_mut().retain(|member| member.id != id);
        }
    }

    /// One that the device refuses is not a member's place.
    async fn plug_pending(&self) -> Result<(), WiringError> {
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
                return Err(WiringError::Connect { name, source });
            }
        }
    }

    async fn open_pending(&self) -> Result<(), WiringError> {
        let Some((open, socket)) = self.uplink.take() else {
            return Ok(());
        };
        let opened = self.device.change(&open.encode(), &[socket.as_fd()]).await;
        if opened.is_err() {
            self.helpers.end(passt::NAME).await;
            self.lead.replace(Lead::Nowhere);
        }
        opened.map_err(WiringError::Open)
    }

    /// Makes the machine a member of a network; its device does not know yet.
    fn join(
        &self,
        endpoint: &Endpoint<'_>,
        config: &NetworkConfig,
        network: &Network,
        joined: &Joined,
    ) -> Result<Member, NetworkError> {
        let slot = self
            .free_slot()
            .ok_or_else(|| NetworkError::TooMany(network.name.clone()))?;
        let gateways: Vec<IpAddr> = network.config.subnets.iter().map(|subnet| subnet.gateway).collect();
        let wish = Join {
            mac: config.mac,
            addresses: joined.addresses.clone(),
            names: endpoint.dns_names(joined),
        };
        let resolvers = [IpAddr::V4(GATEWAY_V4), IpAddr::V6(GATEWAY_V6)];
        let answering = gateways.iter().copied().chain(resolvers).collect();
        let membership = switch::join(&switch::folder(&self.run, &network.id), answering, &wish);
        let membership = membership.map_err(|source| NetworkError::Join {
            name: network.name.clone(),
            source,
        })?;
        let (helpers, name) = (self.helpers.clone(), network.name.clone());
        let control = Rc::new(membership.control);
        let watched = Rc::clone(&control);
        Ok(Member {
            id: network.id.clone(),
            name: network.name.clone(),
            slot,
            segment: Segment {
                addresses: joined.addresses.clone(),
                networks: network.config.subnets.iter().map(|subnet| subnet.network).collect(),
                gateways,
            },
            frames: Some(membership.frames.into()),
            names: wish.names,
            control,
            watch: tokio::task::spawn_local(async move {
                // Nothing is said on it.
                let _: io::Result<usize> = watched.recv(&mut [0]).await;
                helpers.tell_end(format!("the switch of network {name}"));
            }),
        })
    }

    fn free_slot(&self) -> Option<u8> {
        let members = self.members.borrow();
        (0..SEGMENTS_MAX as u8).find(|slot| members.iter().all(|member| member.slot != *slot))
    }
}

/// The host's addresses that a rule could open.
fn openable(host: &Host) -> Vec<IpAddr> {
    let addresses = host.addresses.iter().copied();
    addresses.filter(|address| !is_closed(*address)).collect()
}

/// What is published over a kind of network is answered over the same.
fn check_kinds(config: &NetworkConfig, guest: &GuestNetwork) -> Result<(), NetworkError> {
    let unled = config.ports.iter().find(|port| !guest.leads(port.host.is_ipv4()));
    unled.map_or(Ok(()), |port| {
        Err(NetworkError::Kind {
            address: port.host,
            kind: if port.host.is_ipv4() { "IPv4" } else { "IPv6" },
        })
    })
}

/// Tells a machine's device whenever this host's addresses change. A machine that cannot be told ends: it might reach what
/// it may not.
async fn keep_told(wiring: Weak<Wiring>, watch: AddressWatch) {
    loop {
        let heard = watch.changed().await;
        let Some(wiring) = wiring.upgrade() else {
            return;
        };
        if heard.is_err() || wiring.tell_host().await.is_err() {
            wiring.helpers.tell_end("the watch of this host's addresses".into());
            return;
        }
    }
}
