//! Thread that carries all frames of the switch.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rustix::fs::FlockOperation;
use rustix::net::SocketFlags;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::forward::{Forward, Gateway, forward};
use super::members::Members;
use super::membership::{self, Answer, Join, Received};
use super::port::Port;
use crate::config::SwitchConfig;
use crate::limits::{SWITCH_BYTES_PER_TURN, SWITCH_KNOCKING_MAX};
use crate::virtio::net::Mac;

/// Interval at which a switch without members checks whether it may end, in milliseconds.
const END_PATIENCE_MS: i32 = 50;
const FOREVER_MS: i32 = -1;
/// Fixed cost of a frame in bytes, added to its length: examining the shortest frame takes longer than copying it.
const FRAME_COST_BYTES: usize = 2048;

/// Source of an event, as the 64 bits that epoll stores for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Listener,
    /// Supervisor that has not sent its request yet.
    Knocking(RawFd),
    Control(Mac),
    Frames(Mac),
}

impl Token {
    fn to_bits(self) -> u64 {
        let mac = |mac: Mac| mac.iter().fold(0, |bits, byte| bits << 8 | u64::from(*byte));
        match self {
            Self::Listener => 0,
            Self::Knocking(fd) => 1 << 56 | u64::from(fd.cast_unsigned()),
            Self::Control(address) => 2 << 56 | mac(address),
            Self::Frames(address) => 3 << 56 | mac(address),
        }
    }

    fn from_bits(bits: u64) -> Self {
        let [kind, _, mac @ ..] = bits.to_be_bytes();
        match kind {
            0 => Self::Listener,
            1 => Self::Knocking((bits as u32).cast_signed()),
            2 => Self::Control(mac),
            _ => Self::Frames(mac),
        }
    }
}

/// Switch that is ready to run.
#[derive(Debug)]
pub(super) struct Fabric {
    epoll: Epoll,
    listener: OwnedFd,
    lock: OwnedFd,
    gateway: Gateway,
    knocking: BTreeMap<RawFd, OwnedFd>,
    members: Members,
    ports: BTreeMap<Mac, Port>,
    /// Members that may have more frames than one turn carries.
    unfinished: BTreeSet<Mac>,
}

impl Fabric {
    pub(super) fn new(config: &SwitchConfig, members_max: usize, listener: OwnedFd, lock: OwnedFd) -> io::Result<Self> {
        let fabric = Self {
            epoll: Epoll::new()?,
            listener,
            lock,
            gateway: Gateway {
                mac: config.gateway_mac,
                addresses: config.gateways.clone(),
            },
            knocking: BTreeMap::new(),
            members: Members::new(members_max),
            ports: BTreeMap::new(),
            unfinished: BTreeSet::new(),
        };
        fabric.watch(fabric.listener.as_raw_fd(), EventSet::IN, Token::Listener)?;
        Ok(fabric)
    }

    /// Carries frames until the last member has gone.
    pub(super) fn run(mut self) -> io::Result<()> {
        let mut events = [EpollEvent::default(); 64];
        loop {
            let patience = match (self.unfinished.is_empty(), self.is_deserted()) {
                (false, _) => 0,
                (true, false) => FOREVER_MS,
                (true, true) if self.may_end() => return Ok(()),
                (true, true) => END_PATIENCE_MS,
            };
            let ready = match self.epoll.wait(patience, &mut events) {
                Ok(ready) => ready,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            // Each sender has one turn, whatever the number of its events.
            let mut senders = std::mem::take(&mut self.unfinished);
            for event in &events[..ready] {
                self.handle(Token::from_bits(event.data()), &mut senders);
            }
            senders.into_iter().for_each(|mac| self.carry(mac));
        }
    }

    fn is_deserted(&self) -> bool {
        self.ports.is_empty() && self.knocking.is_empty()
    }

    /// Whether the switch may end. Nobody joins while it holds the lock, and nobody will afterwards: the listener is
    /// gone with this process.
    fn may_end(&self) -> bool {
        rustix::fs::flock(&self.lock, FlockOperation::NonBlockingLockExclusive).is_ok()
    }

    fn handle(&mut self, token: Token, senders: &mut BTreeSet<Mac>) {
        match token {
            Token::Listener => self.accept(),
            Token::Knocking(fd) => self.open(fd),
            Token::Control(mac) => self.receive(mac),
            Token::Frames(mac) => drop(senders.insert(mac)),
        }
    }

    fn watch(&self, fd: RawFd, events: EventSet, token: Token) -> io::Result<()> {
        let event = EpollEvent::new(events, token.to_bits());
        self.epoll.ctl(ControlOperation::Add, fd, event)
    }

    fn accept(&mut self) {
        let Ok(control) = rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC) else {
            return;
        };
        let fd = control.as_raw_fd();
        // A supervisor for which there is no room sees that the connection is closed.
        let has_room = self.knocking.len() < SWITCH_KNOCKING_MAX;
        if has_room && self.watch(fd, EventSet::IN, Token::Knocking(fd)).is_ok() {
            self.knocking.insert(fd, control);
        }
    }

    /// Handles the request of a supervisor that has connected.
    fn open(&mut self, fd: RawFd) {
        let Some(control) = self.knocking.remove(&fd) else {
            return;
        };
        match membership::receive(&control) {
            Received::Nothing => {
                self.knocking.insert(fd, control);
            }
            Received::End | Received::Names(_) => {}
            Received::Join(join, frames) => self.add(join, control, frames),
        }
    }

    fn add(&mut self, join: Join, control: OwnedFd, frames: OwnedFd) {
        // A member that was killed and started again may join before its end is noticed.
        self.receive_all();
        let mac = join.mac;
        if let Err(refusal) = self.members.add(join) {
            membership::answer(&control, &Answer::Refused(refusal.to_string()));
            return;
        }
        match self.connect(mac, control, frames) {
            Ok(port) => {
                membership::answer(port.control(), &Answer::Admitted);
                self.ports.insert(mac, port);
            }
            // The supervisor sees that the connection is closed.
            Err(_) => self.members.remove(mac),
        }
    }

    fn connect(&self, mac: Mac, control: OwnedFd, frames: OwnedFd) -> io::Result<Port> {
        let event = Token::Control(mac).to_bits();
        let events = EventSet::IN | EventSet::READ_HANG_UP;
        self.epoll.ctl(
            ControlOperation::Modify,
            control.as_raw_fd(),
            EpollEvent::new(events, event),
        )?;
        Port::new(control, frames, &self.epoll, Token::Frames(mac).to_bits())
    }

    fn remove(&mut self, mac: Mac) {
        self.members.remove(mac);
        self.unfinished.remove(&mac);
        // Closing the last of its fds removes it from epoll as well.
        self.ports.remove(&mac);
    }

    /// Receives the messages of a member's supervisor.
    fn receive(&mut self, mac: Mac) {
        // The event may be older than a member that joined again.
        while let Some(port) = self.ports.get(&mac) {
            match membership::receive(port.control()) {
                Received::Nothing => return,
                Received::Names(names) => self.members.rename(mac, names),
                Received::End | Received::Join(..) => self.remove(mac),
            }
        }
    }

    fn receive_all(&mut self) {
        let speaking = self.ports.iter().filter(|(_, port)| port.speaks());
        let macs: Vec<Mac> = speaking.map(|(mac, _)| *mac).collect();
        macs.into_iter().for_each(|mac| self.receive(mac));
    }

    /// Carries the frames that a member has sent.
    fn carry(&mut self, from: Mac) {
        // Removed from the ports meanwhile, because another one of them gets its frames.
        let Some(mut port) = self.ports.remove(&from) else {
            return;
        };
        port.flush();
        let mut receivers = BTreeSet::new();
        let mut bytes = 0;
        while bytes < SWITCH_BYTES_PER_TURN {
            let Some(frame) = port.next() else {
                break;
            };
            bytes += frame.len() + FRAME_COST_BYTES;
            let decision = forward(frame, from, &self.members, &self.gateway);
            let reply = match decision {
                Forward::To(to) => {
                    if let Some(receiver) = self.ports.get_mut(&to) {
                        receiver.give(to, frame);
                        receivers.insert(to);
                    }
                    None
                }
                Forward::Answer(answer) => Some(answer),
                Forward::Back => Some(frame.to_vec()),
                Forward::Nowhere => None,
            };
            port.skip();
            if let Some(reply) = reply {
                port.reply(&reply);
            }
        }
        for to in receivers {
            if let Some(receiver) = self.ports.get_mut(&to) {
                receiver.flush_and_watch(&self.epoll);
            }
        }
        port.flush_and_watch(&self.epoll);
        self.ports.insert(from, port);
        if bytes >= SWITCH_BYTES_PER_TURN {
            self.unfinished.insert(from);
        }
    }
}
