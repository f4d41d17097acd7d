//! Controller of processor sets (`cpuset`).

use capsid_protocol::spec::Limits;

use super::Setting;

/// Returns the processor set as files and values.
pub(super) fn settings(limits: &Limits) -> Vec<Setting> {
    limits
        .cpuset_cpus
        .iter()
        .map(|list| ("cpuset.cpus", list.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_written_as_it_came() {
        let limits = Limits {
            cpuset_cpus: Some("0-2,4".into()),
            ..Limits::default()
        };
        assert_eq!(settings(&limits), [("cpuset.cpus", "0-2,4".to_owned())]);
    }
}
