//! Health checks: the image's `HEALTHCHECK` and the `--health-*` flags, as docker combines them.

use capsid_image::ImageConfig;

use crate::cli::RunArgs;
use crate::clock;
use crate::model::HealthCheck;

/// Default interval between checks: docker's, like the timeout and the retries below.
const INTERVAL_NS: u64 = 30_000_000_000;
const TIMEOUT_NS: u64 = 30_000_000_000;
const RETRIES: u32 = 3;
/// Shortest duration that docker accepts.
const SHORTEST_NS: u64 = 1_000_000;

/// Reason why a health check is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum HealthError {
    #[error("--no-healthcheck conflicts with --health-* options")]
    Conflict,
    #[error("invalid value {value:?} for --{flag}: write a time of at least 1ms, as 30s or 1m30s")]
    Duration { flag: &'static str, value: String },
    #[error("the image's health check is malformed: it is to begin with CMD, CMD-SHELL or NONE")]
    Image,
}

/// Computes the health check of a container, if it has one.
pub(crate) fn health(args: &RunArgs, image: &ImageConfig) -> Result<Option<HealthCheck>, HealthError> {
    let times = [&args.health_interval, &args.health_timeout, &args.health_start_period];
    let is_asked =
        args.health_cmd.is_some() || args.health_retries.is_some() || times.iter().any(|time| time.is_some());
    if args.no_healthcheck {
        return if is_asked { Err(HealthError::Conflict) } else { Ok(None) };
    }
    // Checked also where there is nothing to run.
    let given = [
        ("health-interval", &args.health_interval),
        ("health-timeout", &args.health_timeout),
        ("health-start-period", &args.health_start_period),
    ];
    for (flag, text) in given {
        text.as_deref().map_or(Ok(0), |text| duration(flag, text))?;
    }
    let own = &image.healthcheck;
    let command = match &args.health_cmd {
        Some(command) => Some(shell(image, command)),
        None => test(image)?,
    };
    let Some(command) = command.filter(|command| !command.is_empty()) else {
        return Ok(None);
    };
    let time = |flag, given: &Option<String>, image_ns: u64, default_ns| match given {
        Some(text) => duration(flag, text),
        None if image_ns > 0 => Ok(image_ns),
        None => Ok(default_ns),
    };
    let retries = args.health_retries.filter(|count| *count > 0);
    let image_retries = (own.retries > 0).then_some(own.retries);
    Ok(Some(HealthCheck {
        command,
        interval_ns: time("health-interval", &args.health_interval, own.interval_ns, INTERVAL_NS)?,
        timeout_ns: time("health-timeout", &args.health_timeout, own.timeout_ns, TIMEOUT_NS)?,
        start_period_ns: time("health-start-period", &args.health_start_period, own.start_period_ns, 0)?,
        retries: retries.or(image_retries).unwrap_or(RETRIES),
    }))
}

/// Parses the image's own check command.
fn test(image: &ImageConfig) -> Result<Option<Vec<String>>, HealthError> {
    let Some((kind, words)) = image.healthcheck.test.split_first() else {
        return Ok(None);
    };
    match (kind.as_str(), words) {
        ("NONE" | "", _) => Ok(None),
        ("CMD", words) => Ok(Some(words.to_vec())),
        ("CMD-SHELL", [command]) => Ok(Some(shell(image, command))),
        _ => Err(HealthError::Image),
    }
}

fn shell(image: &ImageConfig, command: &str) -> Vec<String> {
    let mut words = image.shell.clone();
    if words.is_empty() {
        words = vec!["/bin/sh".into(), "-c".into()];
    }
    words.push(command.into());
    words
}

fn duration(flag: &'static str, text: &str) -> Result<u64, HealthError> {
    let nanoseconds = clock::duration(text).and_then(|ns| u64::try_from(ns).ok());
    match nanoseconds {
        // In docker, 0 means inherited or the default; for a start period it means none, here as there.
        Some(0) if flag == "health-start-period" => Ok(0),
        Some(ns) if ns >= SHORTEST_NS => Ok(ns),
        _ => Err(HealthError::Duration {
            flag,
            value: text.into(),
        }),
    }
}
