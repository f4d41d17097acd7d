//! Controller of processor time (`cpu`).

use capsid_protocol::spec::Limits;

use super::{Setting, limit};

/// Period of the quota in microseconds: the kernel's default, and the protocol's unit.
const PERIOD_US: u64 = 100_000;

/// Returns the processor limits as files and values.
pub(super) fn settings(limits: &Limits) -> Vec<Setting> {
    let max = limits
        .cpu_quota_us
        .map(|quota| ("cpu.max", format!("{} {PERIOD_US}", limit(quota))));
    let weight = limits.cpu_weight.map(|n| ("cpu.weight", n.to_string()));
    max.into_iter().chain(weight).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_written_with_its_period() {
        let limits = Limits {
            cpu_quota_us: Some(50_000),
            cpu_weight: Some(79),
            ..Limits::default()
        };
        let expected = [("cpu.max", "50000 100000".to_owned()), ("cpu.weight", "79".to_owned())];
        assert_eq!(settings(&limits), expected);
    }
}
