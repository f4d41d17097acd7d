//! Controller of processes and threads (`pids`).

use capsid_protocol::spec::Limits;

use super::{Setting, limit};

/// Returns the limit of processes as files and values.
pub(super) fn settings(limits: &Limits) -> Vec<Setting> {
    limits.pids_max.iter().map(|n| ("pids.max", limit(*n))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_written() {
        let limits = Limits {
            pids_max: Some(100),
            ..Limits::default()
        };
        assert_eq!(settings(&limits), [("pids.max", "100".to_owned())]);
    }
}
