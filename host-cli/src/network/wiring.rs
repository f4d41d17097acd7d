//! The networks that a running machine is on: its memberships with their switches, and what its device is told of them.

use std::cell::RefCell;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};

use capsid_protocol::ContainerSpec;
use capsid_vmm::egress::is_closed;
use capsid_vmm::segments::{Change, SEGMENTS_MAX, Segment};
use capsid_vmm::switch::membership::{self, Join};
use tokio::net::UnixDatagram;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;

use super::host::{AddressWatch, Host};
use super::{Endpoint, GATEWAY_V4, GATEWAY_V6, GuestNetwork, Lead, NetworkError, switch};
use crate::accelerator::{DeviceError, DeviceSocket};
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
    #[error("cannot tell the machine of this host's addresses")]
    Host(#[source] DeviceError),
}

/// It, for one start of a machine.
#[derive(Debug)]
pub(crate) struct Wiring {
    device: DeviceSocket,
    run: PathBuf,
    lead: RefCell<Lead>,
    members: RefCell<Vec<Member>>,
    guest: RefCell<GuestNetwork>,
    /// Until the device is there to be told.
    watch: RefCell<Option<AddressWatch>>,
    watching: RefCell<Option<JoinHandle<()>>>,
    /// The host's addresses, as the device was last told of them.
    told: RefCell<Option<Vec<IpAddr>>>,
    /// Hears the name of a switch that has ended.
    ended: mpsc::UnboundedSender<String>,
    /// One change at a time.
    changing: Mutex<()>,
}

/// What it was at a moment.
#[derive(Debug)]
pub(crate) struct Standing {
    /// The users' networks'.
    ids: Vec<String>,
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
    /// That of a machine that is about to start: a member of all networks of its endpoint. `ended` hears of switches
    /// that end.
    pub(super) fn new(
        endpoint: &Endpoint<'_>,
        config: &NetworkConfig,
        (lead, guest): (Lead, GuestNetwork),
        (device, watch): (DeviceSocket, AddressWatch),
        run: &Path,
        ended: mpsc::UnboundedSender<String>,
    ) -> Result<Self, NetworkError> {
        let wiring = Self {
            device,
            run: run.into(),
            lead: RefCell::new(lead),
            members: RefCell::default(),
            guest: RefCell::new(guest),
            watch: RefCell::new(Some(watch)),
            watching: RefCell::default(),
            told: RefCell::default(),
            ended,
            changing: Mutex::default(),
        };
        for (network, joined) in endpoint.places() {
            let member = wiring.join(endpoint, config, network, joined)?;
            wiring.members.borrow_mut().push(member);
        }
        Ok(wiring)
    }

    /// Whether the machine has a way out.
    pub(crate) fn leads_out(&self) -> bool {
        *self.lead.borrow() != Lead::Nowhere
    }

    /// Where it stands, to come back to by [`Self::retreat`].
    pub(crate) fn standing(&self) -> Standing {
        Standing {
            ids: self.members.borrow().iter().map(|member| member.id.clone()).collect(),
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
        // Of the others no rule opens any.
        let open = host.addresses.into_iter().filter(|address| !is_closed(*address));
        let addresses: Vec<IpAddr> = open.collect();
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

    /// Has the machine be on the networks that its endpoint is on now: off the others first. What the guest is to be
    /// told then.
    pub(crate) async fn follow(
        &self,
        endpoint: &Endpoint<'_>,
        config: &NetworkConfig,
    ) -> Result<GuestNetwork, WiringError> {
        let _turn = self.changing.lock().await;
        // With another address it is another member: two commands may have come between two looks.
        let is_on = |member: &Member| {
            let mut places = endpoint.places();
            places.any(|(network, joined)| network.id == member.id && joined.addresses == member.segment.addresses)
        };
        self.leave_own_link(config).await?;
        self.leave_others(is_on).await?;
        for (network, joined) in endpoint.places() {
            if !self.renamed(&network.id, &endpoint.dns_names(joined)) {
                let member = self.join(endpoint, config, network, joined)?;
                self.members.borrow_mut().push(member);
            }
        }
        self.plug_pending().await?;
        let host = Host::look().map_err(NetworkError::Host)?;
        let resolver = self.guest.borrow().resolver();
        let guest = GuestNetwork::of(endpoint, config, &self.lead.borrow(), &host).asking(resolver);
        self.guest.replace(guest.clone());
        Ok(guest)
    }

    /// Takes the machine off the networks that it has come to since: its guest could not be told of them.
    pub(crate) async fn retreat(&self, standing: Standing) -> Result<(), WiringError> {
        let _turn = self.changing.lock().await;
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

    /// Closes the way out by the link of its own, if it is not to have that any more.
    async fn leave_own_link(&self, config: &NetworkConfig) -> Result<(), WiringError> {
        if !config.own_link && *self.lead.borrow() == Lead::Own {
            let closed = self.device.change(&Change::Close.encode(), &[]).await;
            closed.map_err(|source| WiringError::Disconnect {
                name: "default".into(),
                source,
            })?;
            self.lead.replace(Lead::Nowhere);
        }
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
            if self.lead.borrow().is_by(&id) {
                self.lead.replace(Lead::Nowhere);
            }
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
                return Ok(());
            };
            let change = Change::Connect { slot, segment };
            if let Err(source) = self.device.change(&change.encode(), &[frames.as_fd()]).await {
                self.members.borrow_mut().retain(|member| member.slot != slot);
                return Err(WiringError::Connect { name, source });
            }
        }
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
        let (ended, name) = (self.ended.clone(), network.name.clone());
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
                // Nobody hears it when the machine ends anyway.
                let _ = ended.send(format!("the switch of network {name}"));
            }),
        })
    }

    fn free_slot(&self) -> Option<u8> {
        let members = self.members.borrow();
        (0..SEGMENTS_MAX as u8).find(|slot| members.iter().all(|member| member.slot != *slot))
    }
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
            let _ = wiring.ended.send("the watch of this host's addresses".into());
            return;
        }
    }
}
