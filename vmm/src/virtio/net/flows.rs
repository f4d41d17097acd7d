//! Conversations that a guest goes on with, though it might not begin them: those that others began through a published
//! port, and those with addresses that a name had once.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::egress::Protocol;
use crate::limits::NET_FLOWS_MAX;

/// How long after its last packet a conversation over UDP, or an echo, is over: conntrack's `udp_timeout_stream`.
const CONNECTIONLESS_LIFE: Duration = Duration::from_secs(120);
/// The same of TCP: longer than two hours, after which Linux asks for a sign of life.
const CONNECTED_LIFE: Duration = Duration::from_secs(3 * 3600);

/// Whose conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Flow {
    pub(super) protocol: Protocol,
    /// The guest's port; of an echo, its identifier.
    pub(super) port: u16,
    pub(super) peer: IpAddr,
    /// 0 of an echo.
    pub(super) peer_port: u16,
}

/// The conversations known, and when their last packet came.
#[derive(Debug, Default)]
pub(super) struct Flows(HashMap<Flow, Instant>);

impl Flows {
    /// A packet of `flow` came. When there are too many, that which was silent the longest is forgotten.
    pub(super) fn note(&mut self, flow: Flow, now: Instant) {
        if self.0.len() >= NET_FLOWS_MAX && !self.0.contains_key(&flow) {
            self.forget_some(now);
        }
        self.0.insert(flow, now);
    }

    /// A packet of `flow` came, which goes on if it is known and not over.
    pub(super) fn refresh(&mut self, flow: Flow, now: Instant) {
        if let Some(last) = self.0.get_mut(&flow).filter(|last| !is_over(flow, **last, now)) {
            *last = now;
        }
    }

    /// Whether the guest may go on with `flow`.
    pub(super) fn has(&self, flow: Flow, now: Instant) -> bool {
        self.0.get(&flow).is_some_and(|&last| !is_over(flow, last, now))
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Those that are over; when none is, the eighth that was silent the longest, so that it is not looked for each time.
    fn forget_some(&mut self, now: Instant) {
        self.0.retain(|flow, last| !is_over(*flow, *last, now));
        if self.0.len() < NET_FLOWS_MAX {
            return;
        }
        let mut times: Vec<Instant> = self.0.values().copied().collect();
        let (_, limit, _) = times.select_nth_unstable(NET_FLOWS_MAX / 8);
        let limit = *limit;
        self.0.retain(|_, last| *last > limit);
    }
}

fn is_over(flow: Flow, last: Instant, now: Instant) -> bool {
    let life = match flow.protocol {
        Protocol::Tcp => CONNECTED_LIFE,
        Protocol::Udp | Protocol::Icmp => CONNECTIONLESS_LIFE,
    };
    now.saturating_duration_since(last) > life
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(protocol: Protocol, peer_port: u16) -> Flow {
        Flow {
            protocol,
            port: 80,
            peer: IpAddr::from([192, 168, 0, 1]),
            peer_port,
        }
    }

    #[test]
    fn a_silent_conversation_is_over() {
        let (mut flows, now) = (Flows::default(), Instant::now());
        let (udp, tcp) = (flow(Protocol::Udp, 1), flow(Protocol::Tcp, 1));
        flows.note(udp, now);
        flows.note(tcp, now);
        let later = now + CONNECTIONLESS_LIFE + Duration::from_secs(1);
        assert!(flows.has(udp, now) && !flows.has(udp, later));
        assert!(flows.has(tcp, later) && !flows.has(flow(Protocol::Tcp, 2), now));
        // What is over, or never was, does not begin by going on.
        flows.refresh(udp, later);
        flows.refresh(flow(Protocol::Udp, 2), now);
        assert!(!flows.has(udp, later) && !flows.has(flow(Protocol::Udp, 2), now));
        flows.refresh(udp, now + CONNECTIONLESS_LIFE);
        assert!(flows.has(udp, later));
    }

    #[test]
    fn the_longest_silent_are_forgotten_first() {
        let (mut flows, now) = (Flows::default(), Instant::now());
        for index in 0..=NET_FLOWS_MAX {
            flows.note(
                flow(Protocol::Tcp, index as u16),
                now + Duration::from_millis(index as u64),
            );
        }
        assert!(flows.0.len() <= NET_FLOWS_MAX);
        assert!(!flows.has(flow(Protocol::Tcp, 0), now));
        assert!(flows.has(flow(Protocol::Tcp, NET_FLOWS_MAX as u16), now));
    }
}
