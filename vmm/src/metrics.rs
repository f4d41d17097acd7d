//! What went wrong by the guest's doing, counted.

use std::sync::atomic::{AtomicU64, Ordering};

/// A count that several threads add to.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl std::fmt::Debug for Counter {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.get().fmt(formatter)
    }
}

impl Counter {
    /// Adds one.
    pub fn increment(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// The count.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counters of one virtio-mmio transport.
#[derive(Debug, Default)]
pub struct TransportMetrics {
    /// Accesses of a width or to a register that does not exist, or in the wrong direction.
    pub bad_accesses: Counter,
    /// Status changes that the specification does not know.
    pub bad_status: Counter,
    /// Feature sets with bits not offered, without `VERSION_1`, or written at the wrong time.
    pub bad_features: Counter,
    /// Queue registers written at the wrong time or with an impossible value.
    pub bad_queue_writes: Counter,
    /// Queues that were unusable when the driver said `DRIVER_OK`, or became so.
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
