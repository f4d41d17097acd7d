//! Environment of the container: docker's own variables, then the image's, then the user's; the last value wins.

/// Reason why the environment is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum EnvironmentError {
    #[error("invalid environment variable {0:?}: the name is empty")]
    NoName(String),
    #[error("line {line} of the environment file has white space in the name {name:?}")]
    SpaceInName { line: usize, name: String },
}

/// Search path that docker sets when the image has none.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Combines the parts of the environment, in order.
pub(crate) fn compose(hostname: &str, terminal: bool, image: &[String], user: &[String]) -> Vec<Vec<u8>> {
    let mut all: Vec<String> = vec![PATH.into(), format!("HOSTNAME={hostname}")];
    if terminal {
        all.push("TERM=xterm".into());
    }
    for setting in image.iter().chain(user) {
        match all.iter_mut().find(|known| name(known) == name(setting)) {
            Some(known) => known.clone_from(setting),
            None => all.push(setting.clone()),
        }
    }
    all.into_iter().map(String::into_bytes).collect()
}

/// Parses `NAME=VALUE`, or `NAME` alone for the caller's own value; a variable that the caller does not have is left
/// out.
pub(crate) fn parse_flag(flag: &str, own: impl Fn(&str) -> Option<String>) -> Result<Option<String>, EnvironmentError> {
    if name(flag).is_empty() {
        return Err(EnvironmentError::NoName(flag.into()));
    }
    Ok(if flag.contains('=') {
        Some(flag.into())
    } else {
        own(flag).map(|value| format!("{flag}={value}"))
    })
}

/// Parses the lines of an `--env-file`: comments and empty lines skipped, everything after `=` literal, as docker does.
pub(crate) fn parse_file(text: &str, own: impl Fn(&str) -> Option<String>) -> Result<Vec<String>, EnvironmentError> {
    let mut settings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let name = name(line);
        if name.contains(char::is_whitespace) {
            return Err(EnvironmentError::SpaceInName {
                line: index + 1,
                name: name.into(),
            });
        }
        settings.extend(parse_flag(line, &own)?);
    }
    Ok(settings)
}

fn name(setting: &str) -> &str {
    setting.split_once('=').map_or(setting, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_wins_and_keeps_its_place() {
        let env = compose(
            "h",
            false,
            &["PATH=/bin".into(), "A=1".into()],
            &["A=2".into(), "B=".into()],
        );
        let text: Vec<_> = env.iter().map(|e| String::from_utf8_lossy(e).into_owned()).collect();
        assert_eq!(text, ["PATH=/bin", "HOSTNAME=h", "A=2", "B="]);
    }

    #[test]
    fn a_file_is_read_as_docker_reads_it() {
        let own = |name: &str| (name == "HOME").then(|| "/root".to_string());
        let settings = parse_file("# c\n\nA=b c # d\nHOME\nNOT_SET\n  B=\"q\"\n", own).unwrap();
        assert_eq!(settings, ["A=b c # d", "HOME=/root", "B=\"q\""]);
        assert!(parse_file("a b=c", own).is_err());
        assert!(parse_file("=c", own).is_err());
    }
}
