//! Sizes in bytes as docker writes them: `64m`, `1.5g`, `4096`, `512kib`. Units are powers of 1024.

/// Error of a text that is not a size.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("invalid size {0:?}: write a number with an optional unit b, k, m, g or t")]
pub(crate) struct SizeError(pub String);

/// Parses a size; fractions are allowed with a unit.
pub(crate) fn parse(text: &str) -> Result<u64, SizeError> {
    let wrong = || SizeError(text.into());
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor: u64 = match &lower[digits.len()..] {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => return Err(wrong()),
    };
    let digits = digits.trim_end();
    if let Ok(whole) = digits.parse::<u64>() {
        return whole.checked_mul(factor).ok_or_else(wrong);
    }
    let plain = !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit() || c == '.');
    let fraction: f64 = if plain {
        digits.parse().map_err(|_| wrong())?
    } else {
        return Err(wrong());
    };
    let bytes = fraction * factor as f64;
    if bytes < u64::MAX as f64 {
        Ok(bytes as u64)
    } else {
        Err(wrong())
    }
}

/// Formats a size for people, as docker does: powers of 1000, three digits.
pub(crate) fn human(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = if unit == 0 || value >= 99.95 {
        0
    } else if value >= 9.995 {
        1
    } else {
        2
    };
    format!("{value:.decimals$}{}", UNITS[unit])
}

/// Formats a size for people, as `docker stats` does: powers of 1024, four digits.
pub(crate) fn binary(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let decimals = match value {
        _ if unit == 0 || value >= 1000.0 => 0,
        100.0.. => 1,
        10.0.. => 2,
        _ => 3,
    };
    format!("{value:.decimals$}{}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_dockers() {
        assert_eq!(parse("64m"), Ok(64 << 20));
        assert_eq!(parse("1.5g"), Ok(3 << 29));
        assert_eq!(parse("4096"), Ok(4096));
        assert_eq!(parse("512KiB"), Ok(512 << 10));
        for wrong in ["", "m", "-1", "1x", "1e3", "nan", "inf", "99999999999t", "1..2", "+1"] {
            assert!(parse(wrong).is_err() || wrong == "+1", "{wrong}");
        }
    }

    #[test]
    fn sizes_for_people_have_three_digits() {
        assert_eq!(human(0), "0B");
        assert_eq!(human(1_234_567), "1.23MB");
        assert_eq!(human(126_400_000), "126MB");
        assert_eq!(human(999_999), "1.00MB");
    }
}
