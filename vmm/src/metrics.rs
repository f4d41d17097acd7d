//! Counters of errors that a guest caused.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counter that several threads increment.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl std::fmt::Debug for Counter {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.get().fmt(formatter)
    }
}

impl Counter {
    /// Increments the counter by one.
    pub fn increment(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Current count.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counters of one virtio-mmio transport.
#[derive(Debug, Default)]
pub struct TransportMetrics {
    /// Number of accesses of a width or to a register that does not exist, or in the wrong direction.
    pub bad_accesses: Counter,
    /// Number of status changes that the specification does not define.
    pub bad_status: Counter,
    /// Number of feature sets with bits not offered, without `VERSION_1`, or written at the wrong time.
    pub bad_features: Counter,
    /// Number of writes to queue registers at the wrong time or with an impossible value.
    pub bad_queue_writes: Counter,
    /// Number of queues that were unusable when the driver set `DRIVER_OK`, or became unusable later.
    pub queue_faults: Counter,
}

impl TransportMetrics {
    /// Sum of all counts.
    pub fn total(&self) -> u64 {
        let counters = [
            &self.bad_accesses,
            &self.bad_status,
            &self.bad_features,
            &self.bad_queue_writes,
            &self.queue_faults,
        ];
        counters.into_iter().map(Counter::get).sum()
    }
}
