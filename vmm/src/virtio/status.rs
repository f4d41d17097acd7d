//! Device status (virtio 1.3, section 2.1): table of the changes that a driver may make.

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FAILED,
    VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET,
};

pub(crate) const RESET: u32 = 0;
pub(crate) const ACKNOWLEDGED: u32 = VIRTIO_CONFIG_S_ACKNOWLEDGE;
pub(crate) const DRIVER: u32 = ACKNOWLEDGED | VIRTIO_CONFIG_S_DRIVER;
pub(crate) const FEATURES_OK: u32 = DRIVER | VIRTIO_CONFIG_S_FEATURES_OK;
pub(crate) const DRIVER_OK: u32 = FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK;
pub(crate) const FAILED: u32 = VIRTIO_CONFIG_S_FAILED;
pub(crate) const NEEDS_RESET: u32 = VIRTIO_CONFIG_S_NEEDS_RESET;

/// Request of a driver's write to the status register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Resets the device.
    Reset,
    /// Reports that the driver has given up.
    GiveUp,
    /// Repeats the current status.
    Same,
    /// Makes a step without consequences.
    Step,
    /// Chooses the features, which are then checked.
    ChooseFeatures,
    /// Starts the device: the queues are set up.
    Start,
    /// Requests a change that is not in the table.
    Illegal,
}

/// Steps forward, each from exactly one status.
const STEPS: [(u32, u32, Change); 4] = [
    (RESET, ACKNOWLEDGED, Change::Step),
    (ACKNOWLEDGED, DRIVER, Change::Step),
    (DRIVER, FEATURES_OK, Change::ChooseFeatures),
    (FEATURES_OK, DRIVER_OK, Change::Start),
];

/// Request that writing `to` makes when the status is `from`.
pub(crate) fn change(from: u32, to: u32) -> Change {
    // This bit belongs to the device; a driver that reads, adds and writes back carries it along.
    let (old, new) = (from & !NEEDS_RESET, to & !NEEDS_RESET);
    if to == RESET {
        return Change::Reset;
    }
    if new == old {
        return Change::Same;
    }
    if new == old | FAILED {
        return Change::GiveUp;
    }
    let step = STEPS.iter().find(|(before, after, _)| (*before, *after) == (old, new));
    step.map_or(Change::Illegal, |(_, _, change)| *change)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_way_is_legal() {
        assert_eq!(change(RESET, 1), Change::Step);
        assert_eq!(change(1, 3), Change::Step);
        assert_eq!(change(3, 0xb), Change::ChooseFeatures);
        assert_eq!(change(0xb, 0xf), Change::Start);
        assert_eq!(change(0xf, 0), Change::Reset);
    }

    #[test]
    fn nothing_else_but_reset_and_failure_is() {
        for from in [RESET, ACKNOWLEDGED, DRIVER, FEATURES_OK, DRIVER_OK, DRIVER | FAILED] {
            for to in 0..=0x1ff {
                match change(from, to) {
                    Change::Reset => assert_eq!(to, 0),
                    Change::GiveUp | Change::Same => assert_eq!(to & !NEEDS_RESET & !FAILED, from & !FAILED),
                    Change::Illegal => {}
                    _ => assert!(STEPS.iter().any(|step| (step.0, step.1) == (from, to & !NEEDS_RESET))),
                }
            }
        }
    }

    #[test]
    fn after_a_failure_only_reset_helps() {
        for to in 1..=0xff {
            let change = change(FEATURES_OK | FAILED, to);
            assert!(matches!(change, Change::Illegal | Change::Same), "{to:#x}");
        }
    }
}
