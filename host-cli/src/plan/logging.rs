//! Log options, `--log-driver` and `--log-opt`.

use super::size;
use crate::model::LogOptions;

/// Most files of a log.
const FILES_MAX: u32 = 1000;

/// Reason why a log option is refused.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(crate) enum LogError {
    #[error("there is no log driver {0:?}: use json-file or none")]
    Driver(String),
    #[error("{0:?} is no option of the log: write max-size=BYTES or max-file=NUMBER")]
    Option(String),
    #[error("max-size {0:?} is not a size of at least 1 KiB")]
    Size(String),
    #[error("max-file {0:?} is not a number from 1 to {FILES_MAX}")]
    Files(String),
}

/// Parses the amount of output that is kept.
pub(super) fn options(driver: &str, options: &[String]) -> Result<LogOptions, LogError> {
    let mut log = LogOptions::default();
    match driver {
        "json-file" | "local" => {}
        "none" => log.keep = false,
        other => return Err(LogError::Driver(other.into())),
    }
    for option in options {
        match option.split_once('=') {
            Some(("max-size", "-1")) => log.max_size = u64::MAX,
            Some(("max-size", value)) => {
                let bytes = size::parse(value).ok().filter(|bytes| *bytes >= 1024);
                log.max_size = bytes.ok_or_else(|| LogError::Size(value.into()))?;
            }
            Some(("max-file", value)) => {
                let count = value.parse().ok().filter(|count| (1..=FILES_MAX).contains(count));
                log.max_files = count.ok_or_else(|| LogError::Files(value.into()))?;
            }
            _ => return Err(LogError::Option(option.clone())),
        }
    }
    Ok(log)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read() {
        let log = options("json-file", &["max-size=1m".into(), "max-file=3".into()]).unwrap();
        assert_eq!((log.max_size, log.max_files, log.keep), (1 << 20, 3, true));
        assert!(!options("none", &[]).unwrap().keep);
        assert!(options("syslog", &[]).is_err());
        assert!(options("json-file", &["max-file=0".into()]).is_err());
    }
}
