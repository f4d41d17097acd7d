//! Controller of memory (`memory`).

use capsid_protocol::spec::Limits;

use super::{Setting, limit};

/// Name of the file that limits swap.
pub(super) const SWAP_MAX: &str = "memory.swap.max";

/// Returns the memory limits as files and values.
pub(super) fn settings(limits: &Limits) -> Vec<Setting> {
    let max = limits.memory_max_bytes.map(|n| ("memory.max", limit(n)));
    let swap = limits.swap_max_bytes.map(|n| (SWAP_MAX, limit(n)));
    let low = limits.memory_low_bytes.map(|n| ("memory.low", limit(n)));
    [max, swap, low].into_iter().flatten().collect()
}

/// Parses the `oom_kill` counter of `memory.events`.
pub(super) fn was_oom_killed(events: &str) -> bool {
    let count = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|n| n.trim().parse::<u64>().ok()).is_some_and(|n| n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_limits_write_nothing() {
        assert!(settings(&Limits::default()).is_empty());
        let limits = Limits {
            memory_max_bytes: Some(1 << 20),
            swap_max_bytes: Some(0),
            memory_low_bytes: Some(4096),
            ..Limits::default()
        };
        let expected = [
            ("memory.max", "1048576".to_owned()),
            ("memory.swap.max", "0".to_owned()),
            ("memory.low", "4096".to_owned()),
        ];
        assert_eq!(settings(&limits), expected);
    }

    #[test]
    fn a_limit_can_be_taken_away() {
        let limits = Limits {
            memory_max_bytes: Some(u64::MAX),
            ..Limits::default()
        };
        assert_eq!(settings(&limits), [("memory.max", "max".to_owned())]);
    }

    #[test]
    fn only_the_oom_kill_counter_counts() {
        assert!(was_oom_killed("low 0\nmax 5\noom 1\noom_kill 1\noom_group_kill 0\n"));
        assert!(!was_oom_killed("low 0\nmax 5\noom 1\noom_kill 0\noom_group_kill 3\n"));
        assert!(!was_oom_killed(""));
    }
}
