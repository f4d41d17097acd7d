//! Signals by name or number.

/// Error of a text that is not a signal.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("invalid signal {0:?}")]
pub(crate) struct SignalError(pub String);

/// Parses `TERM`, `SIGTERM`, `15` or `RTMIN+3`.
pub(crate) fn parse(text: &str) -> Result<u32, SignalError> {
    let wrong = || SignalError(text.into());
    if let Ok(number) = text.parse::<u32>() {
        return if (1..=64).contains(&number) {
            Ok(number)
        } else {
            Err(wrong())
        };
    }
    let upper = text.to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    // Real-time signals as glibc numbers them for programs: 34 to 64.
    let offset = |rest: &str, max: u32| match rest {
        "" => Some(0),
        _ => rest[1..].parse::<u32>().ok().filter(|n| *n <= max),
    };
    if let Some(rest) = short
        .strip_prefix("RTMIN")
        .filter(|r| r.is_empty() || r.starts_with('+'))
    {
        return offset(rest, 30).map(|n| 34 + n).ok_or_else(wrong);
    }
    if let Some(rest) = short
        .strip_prefix("RTMAX")
        .filter(|r| r.is_empty() || r.starts_with('-'))
    {
        return offset(rest, 30).map(|n| 64 - n).ok_or_else(wrong);
    }
    let signal: nix::sys::signal::Signal = format!("SIG{short}").parse().map_err(|_| wrong())?;
    Ok(signal as u32)
}

/// Returns docker's name of a signal: `SIGTERM`, `SIGRTMIN+3`; a number where there is no name.
pub(crate) fn name(number: u32) -> String {
    let known = i32::try_from(number)
        .ok()
        .and_then(|number| nix::sys::signal::Signal::try_from(number).ok());
    match (known, number) {
        (Some(signal), _) => signal.as_str().into(),
        (None, 34) => "SIGRTMIN".into(),
        (None, 35..=49) => format!("SIGRTMIN+{}", number - 34),
        (None, 50..=63) => format!("SIGRTMAX-{}", 64 - number),
        (None, 64) => "SIGRTMAX".into(),
        (None, number) => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_known() {
        assert_eq!(parse("TERM"), Ok(15));
        assert_eq!(parse("sigint"), Ok(2));
        assert_eq!(parse("9"), Ok(9));
        assert_eq!(parse("SIGRTMIN+3"), Ok(37));
        assert_eq!(parse("RTMAX-1"), Ok(63));
        for number in (1..=31).chain(34..=64) {
            assert_eq!(parse(&name(number)), Ok(number));
        }
        assert_eq!(
            (name(15), name(37), name(32)),
            ("SIGTERM".into(), "SIGRTMIN+3".into(), "32".into())
        );
        for wrong in ["", "0", "65", "SIG", "RTMIN+99", "RTMIN3", "TERMINATE"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
