//! Conversations that a guest may continue although it may not start them: those that others started through a
//! published port, and those with addresses that a name had once.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::egress::Protocol;
use crate::limits::NET_FLOWS_MAX;

/// Lifetime of a conversation over UDP, or an echo, after its last packet: conntrack's `udp_timeout_stream`.
const CONNECTIONLESS_LIFE: Duration = Duration::from_secs(120);
/// Lifetime of a TCP conversation after its last packet: longer than two hours, after which Linux sends a keep-alive
/// probe.
const CONNECTED_LIFE: Duration = Duration::from_secs(3 * 3600);

/// Conversation, identified by its protocol and its two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Flow {
    pub(super) protocol: Protocol,
    /// Port of the guest; identifier of an echo.
    pub(super) port: u16,
    pub(super) peer: IpAddr,
    /// Port of the peer; 0 for an echo.
    pub(super) peer_port: u16,
}

/// Table of the known conversations with the time of their last packet.
#[derive(Debug, Default)]
pub(super) struct Flows(HashMap<Flow, Instant>);

impl Flows {
    /// Records a packet of `flow`. When there are too many conversations, those that were silent the longest are
    /// forgotten.
    pub(super) fn note(&mut self, flow: Flow, now: Instant) {
        if self.0.len() >= NET_FLOWS_MAX && !self.0.contains_key(&flow) {
            self.forget_some(now);
        }
        self.0.insert(flow, now);
    }

    /// Records a packet of `flow`, if the conversation is known and not over.
    pub(super) fn refresh(&mut self, flow: Flow, now: Instant) {
        if let Some(last) = self.0.get_mut(&flow).filter(|last| !is_over(flow, **last, now)) {
            *last = now;
        }
    }

    /// Whether the guest may continue `flow`.
    pub(super) fn has(&self, flow: Flow, now: Instant) -> bool {
        self.0.get(&flow).is_some_and(|&last| !is_over(flow, last, now))
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Forgets the conversations that are over; if there are none, the eighth of all that was silent the longest, so
    /// that the search is not repeated for each new one.
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
        // A conversation that is over, or was never known, is not started by a refresh.
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
