//! Muxer of all streams of one guest: who they belong to, whose turn it is, which have taken too long.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::connection::{Connection, Turn, Violation};
use super::control::{self, Asked};
use super::packet::{HOST_CID, Header, Operation, RawHeader, StreamKey, TYPE_STREAM};
use crate::limits::{VSOCK_ANSWER_TIMEOUT_MS, VSOCK_CONNECTIONS_MAX, VSOCK_RESETS_MAX};
use crate::virtio::chain::Buffers;

/// First host port of streams that the host requests: far from any that a person would choose.
const FIRST_HOST_PORT: u32 = 1 << 30;

/// Host port that no stream has (`VMADDR_PORT_ANY`); in epoll's data it marks what is no stream.
const NO_PORT: u32 = u32::MAX;
const CONTROL_EVENT: u64 = u64::MAX;
const TIMER_EVENT: u64 = u64::MAX - 1;
const AGAIN_EVENT: u64 = u64::MAX - 2;

const ANSWER_TIMEOUT: Duration = Duration::from_millis(VSOCK_ANSWER_TIMEOUT_MS);
const EVENTS_PER_WAIT: usize = 64;

/// Counts of errors so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VsockCounters {
    /// Guest: number of chains too short for what their header says, or unusable.
    pub malformed: u64,
    /// Guest: number of packets from or to another context id.
    pub foreign: u64,
    /// Guest: number of packets for streams that do not exist, or of an unknown kind.
    pub refused: u64,
    /// Guest: number of streams ended because it broke their rules.
    pub violations: u64,
    /// Guest: number of streams ended because it did not answer in time.
    pub overdue: u64,
    /// Number of resets that the guest did not get because it left no room for them.
    pub resets_dropped: u64,
    /// Supervisor: number of malformed requests for streams.
    pub control_malformed: u64,
    /// Supervisor: number of streams over the limit.
    pub control_refused: u64,
}

/// Next item that the device as a whole owes the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// Sends a packet.
    Packet(Header),
    /// Sends payload of a stream, at most `bytes_max` bytes.
    Payload { stream: StreamKey, bytes_max: usize },
}

/// All streams of one guest.
#[derive(Debug)]
pub(super) struct Muxer {
    guest_cid: u64,
    session_port: u32,
    /// Socket of the session, until the guest has connected.
    session: Option<OwnedFd>,
    /// Socket of the supervisor's requests, until the supervisor closes it.
    control: Option<OwnedFd>,
    streams: HashMap<StreamKey, Connection>,
    next_host_port: u32,
    /// Streams that have something for the guest, in order of their turns.
    listed: VecDeque<StreamKey>,
    resets: VecDeque<StreamKey>,
    /// Deadlines of answers, in order of time, because all time limits are equal.
    deadlines: VecDeque<(Instant, StreamKey)>,
    epoll: Epoll,
    timer: OwnedFd,
    again: OwnedFd,
    pub(super) counters: VsockCounters,
}

impl Muxer {
    pub(super) fn new(guest_cid: u64, session_port: u32, session: OwnedFd, control: OwnedFd) -> io::Result<Self> {
        let timer = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
        )?;
        let again = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        let epoll = Epoll::new()?;
        for (fd, event) in [
            (control.as_raw_fd(), CONTROL_EVENT),
            (timer.as_raw_fd(), TIMER_EVENT),
            (again.as_raw_fd(), AGAIN_EVENT),
        ] {
            epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, event))?;
        }
        Ok(Self {
            guest_cid,
            session_port,
            session: Some(session),
            control: Some(control),
            streams: HashMap::new(),
            next_host_port: FIRST_HOST_PORT,
            listed: VecDeque::new(),
            resets: VecDeque::new(),
            deadlines: VecDeque::new(),
            epoll,
            timer,
            again,
            counters: VsockCounters::default(),
        })
    }

    /// Fd that is readable when a socket, the supervisor or the clock has an event.
    pub(super) fn event_fd(&self) -> BorrowedFd<'_> {
        crate::virtio::sys::epoll_fd(&self.epoll)
    }

    /// Resets all streams that the guest's previous driver knew of.
    pub(super) fn reset(&mut self) {
        self.resets.clear();
        self.deadlines.clear();
        self.streams.retain(|_, stream| stream.is_unknown_to_guest());
        self.listed.retain(|key| self.streams.contains_key(key));
    }

    /// Requests that [`Self::host_events`] is called again although no event happens.
    pub(super) fn come_again(&self) {
        // Fails only if it is raised already.
        let _ = rustix::io::write(&self.again, &1_u64.to_ne_bytes());
    }

    /// Processes the events of the host side.
    pub(super) fn host_events(&mut self) {
        let mut events = [EpollEvent::default(); EVENTS_PER_WAIT];
        // Interrupted or not: remaining events are reported again.
        let count = self.epoll.wait(0, &mut events).unwrap_or(0);
        for event in &events[..count] {
            match event.data() {
                CONTROL_EVENT => self.supervisor_asks(),
                TIMER_EVENT => self.time_has_passed(Instant::now()),
                AGAIN_EVENT => {
                    // Read only to clear it.
                    let _ = rustix::io::read(&self.again, &mut [0; 8]);
                }
                data => {
                    let key = StreamKey {
                        host_port: (data >> 32) as u32,
                        guest_port: data as u32,
                    };
                    self.stream_event(key, event.event_set());
                }
            }
        }
    }

    /// Processes a packet of the guest; `payload` has exactly the length that its header says.
    pub(super) fn guest_packet(&mut self, header: &RawHeader, payload: Buffers<'_>) {
        if header.source_cid != self.guest_cid || header.target_cid != HOST_CID {
            self.counters.foreign += 1;
            return;
        }
        let key = StreamKey {
            host_port: header.target_port,
            guest_port: header.source_port,
        };
        let operation = Operation::from_wire(header.operation).filter(|_| header.kind == TYPE_STREAM);
        let Some(stream) = self.streams.get_mut(&key) else {
            self.guest_knocks(key, operation, header);
            return;
        };
        stream.guest_update(header.credit);
        let result = match operation {
            Some(Operation::Response) => stream.guest_response(header.credit),
            Some(Operation::ReadWrite) => stream.guest_payload(payload),
            Some(Operation::Shutdown) => stream.guest_shutdown(header.flags),
            Some(Operation::CreditUpdate) => Ok(()),
            Some(Operation::CreditRequest) => {
                stream.guest_asks_for_credit();
                Ok(())
            }
            Some(Operation::Reset) => {
                if !stream.guest_reset() {
                    self.end(key);
                }
                self.schedule(key);
                return;
            }
            Some(Operation::Request) | None => Err(Violation),
        };
        match result {
            Ok(()) => self.schedule(key),
            Err(Violation) => {
                self.counters.violations += 1;
                self.streams.remove(&key);
                self.refuse(key);
            }
        }
    }

    /// Next item that is due for the guest, if any. It counts as sent when it is returned, unless it is payload.
    pub(super) fn next_due(&mut self) -> Option<Due> {
        if let Some(key) = self.resets.pop_front() {
            return Some(Due::Packet(Header::reset(key)));
        }
        while let Some(key) = self.listed.pop_front() {
            // A stream may have ended since it was listed.
            let Some(stream) = self.streams.get_mut(&key) else {
                continue;
            };
            stream.listed = false;
            let until = Instant::now() + ANSWER_TIMEOUT;
            let turn = stream.next_turn(until);
            let due = match turn {
                Turn::Packet(header) => Due::Packet(header),
                Turn::Question(header) => {
                    self.expect_answer(key, until);
                    Due::Packet(header)
                }
                Turn::Payload { bytes_max } => return Some(Due::Payload { stream: key, bytes_max }),
                Turn::Last(header) => {
                    self.end(key);
                    return Some(Due::Packet(header));
                }
                Turn::Over => {
                    self.end(key);
                    continue;
                }
                Turn::Nothing => continue,
            };
            self.schedule(key);
            return Some(due);
        }
        None
    }

    /// Whether [`Self::next_due`] may have an item.
    pub(super) fn has_due(&self) -> bool {
        !self.resets.is_empty() || !self.listed.is_empty()
    }

    /// Whether bytes of `stream` wait for a slow reader.
    #[cfg(test)]
    pub(super) fn waits_for_room(&self, stream: StreamKey) -> bool {
        self.streams.get(&stream).is_some_and(Connection::waits_for_room)
    }

    /// Receives payload of `stream` for the guest into `target`; returns the number of bytes.
    pub(super) fn receive(&mut self, stream: StreamKey, target: &Buffers<'_>) -> usize {
        self.streams.get_mut(&stream).map_or(0, |stream| stream.receive(target))
    }

    /// Header of a packet with `payload_bytes` of what was received.
    pub(super) fn payload_header(&mut self, stream: StreamKey, payload_bytes: u32) -> Option<Header> {
        self.streams
            .get_mut(&stream)
            .map(|stream| stream.payload_header(payload_bytes))
    }

    /// Lists `key` for a turn if it has an item to send, and watches for room if it waits for that.
    pub(super) fn schedule(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.get_mut(&key) else {
            return;
        };
        if stream.has_turn() && !stream.listed {
            stream.listed = true;
            self.listed.push_back(key);
        }
        let waits = stream.waits_for_room();
        if waits != stream.room_watched {
            let event = EpollEvent::new(stream_events(waits), event_data(key));
            let fd = stream.socket().as_raw_fd();
            // Fails only for lack of kernel memory; the stream's next packet tries again.
            if self.epoll.ctl(ControlOperation::Modify, fd, event).is_ok() {
                stream.room_watched = waits;
            }
        }
    }

    /// Handles a packet for a stream that does not exist.
    fn guest_knocks(&mut self, key: StreamKey, operation: Option<Operation>, header: &RawHeader) {
        match operation {
            Some(Operation::Request) if key.host_port == self.session_port && !self.is_full() => {
                match self.session.take() {
                    Some(socket) => self.add(key, Connection::accepted(key, socket, header.credit)),
                    None => self.refuse_counted(key),
                }
            }
            // No answer is needed: the guest has forgotten the stream as well.
            Some(Operation::Reset) => {}
            _ => self.refuse_counted(key),
        }
    }

    fn supervisor_asks(&mut self) {
        loop {
            let Some(control) = &self.control else {
                return;
            };
            match control::receive(control) {
                Asked::Stream { .. } if self.is_full() => self.counters.control_refused += 1,
                Asked::Stream { port, socket } => {
                    let key = StreamKey {
                        host_port: self.free_host_port(port),
                        guest_port: port,
                    };
                    self.add(key, Connection::wanted(key, socket));
                }
                Asked::Malformed => self.counters.control_malformed += 1,
                Asked::Nothing => return,
                // Closing it removes it from the epoll instance as well.
                Asked::Closed => self.control = None,
            }
        }
    }

    fn stream_event(&mut self, key: StreamKey, events: EventSet) {
        let Some(stream) = self.streams.get_mut(&key) else {
            return;
        };
        let hung_up = events.intersects(EventSet::HANG_UP | EventSet::ERROR);
        stream.host_event(events.contains(EventSet::IN), events.contains(EventSet::OUT), hung_up);
        self.schedule(key);
    }

    fn time_has_passed(&mut self, now: Instant) {
        while self.deadlines.front().is_some_and(|(until, _)| *until <= now) {
            let Some((_, key)) = self.deadlines.pop_front() else {
                break;
            };
            if self.streams.get(&key).is_some_and(|stream| stream.is_overdue(now)) {
                self.counters.overdue += 1;
                self.end(key);
                self.refuse(key);
            }
        }
        self.set_timer(now);
    }

    fn expect_answer(&mut self, key: StreamKey, until: Instant) {
        let was_idle = self.deadlines.is_empty();
        self.deadlines.push_back((until, key));
        if was_idle {
            self.set_timer(Instant::now());
        }
    }

    /// Sets the clock to the next deadline, or stops it.
    fn set_timer(&self, now: Instant) {
        let wait = self.deadlines.front().map_or(Duration::ZERO, |(until, _)| {
            // A value of zero would stop it.
            until.saturating_duration_since(now).max(Duration::from_millis(1))
        });
        let value = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec {
                tv_sec: wait.as_secs() as i64,
                tv_nsec: i64::from(wait.subsec_nanos()),
            },
        };
        // The value is valid, and nothing else can fail (timerfd_settime(2)). Setting clears the event as well.
        let _ = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &value);
    }

    fn add(&mut self, key: StreamKey, stream: Connection) {
        let event = EpollEvent::new(stream_events(false), event_data(key));
        if self
            .epoll
            .ctl(ControlOperation::Add, stream.socket().as_raw_fd(), event)
            .is_err()
        {
            // No socket at all, or the same socket twice.
            self.counters.control_malformed += 1;
            if !stream.is_unknown_to_guest() {
                self.refuse(key);
            }
            return;
        }
        self.streams.insert(key, stream);
        self.schedule(key);
    }

    fn end(&mut self, key: StreamKey) {
        if let Some(stream) = self.streams.remove(&key) {
            stream.close();
        }
    }

    fn refuse_counted(&mut self, key: StreamKey) {
        self.counters.refused += 1;
        self.refuse(key);
    }

    fn refuse(&mut self, key: StreamKey) {
        if self.resets.len() < VSOCK_RESETS_MAX {
            self.resets.push_back(key);
        } else {
            self.counters.resets_dropped += 1;
        }
    }

    fn is_full(&self) -> bool {
        self.streams.len() >= VSOCK_CONNECTIONS_MAX
    }

    /// Host port that makes a new stream to `guest_port`. There are far fewer streams than ports, so the search ends.
    fn free_host_port(&mut self, guest_port: u32) -> u32 {
        loop {
            let host_port = self.next_host_port;
            self.next_host_port = match host_port.wrapping_add(1) {
                NO_PORT | 0 => FIRST_HOST_PORT,
                next => next,
            };
            let key = StreamKey { host_port, guest_port };
            if host_port != self.session_port && !self.streams.contains_key(&key) {
                return host_port;
            }
        }
    }
}

/// Epoll events of a stream. Edges, not levels: a socket that cannot be served for lack of credit or buffers must not
/// wake us all the time.
fn stream_events(room: bool) -> EventSet {
    match room {
        true => EventSet::IN | EventSet::OUT | EventSet::EDGE_TRIGGERED,
        false => EventSet::IN | EventSet::EDGE_TRIGGERED,
    }
}

fn event_data(key: StreamKey) -> u64 {
    u64::from(key.host_port) << 32 | u64::from(key.guest_port)
}
