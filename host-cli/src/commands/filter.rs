//! What all `--filter` have in common.

use anyhow::{Context as _, bail};

/// The two halves of `name=value`.
pub(super) fn halves(text: &str) -> anyhow::Result<(&str, &str)> {
    text.split_once('=')
        .with_context(|| format!("invalid filter {text:?}: write name=value"))
}

/// The value of `dangling`.
pub(super) fn dangling(value: &str) -> anyhow::Result<bool> {
    match value {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        other => bail!("invalid filter dangling={other:?}: write true or false"),
    }
}
