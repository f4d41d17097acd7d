//! Docker's credential helpers: programs that keep a user's secrets (docker-credential-helpers, "Usage").

use std::io;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::time::timeout;

use super::CredentialsError;
use super::credentials::Secret;
use crate::limits::{HELPER_BYTES_MAX, HELPER_SECONDS_MAX};
use crate::text::printable;

/// What every helper of docker's library says when it knows nobody.
const NOT_FOUND: &[u8] = b"credentials not found";
/// The name under which a helper gives an identity token.
const IDENTITY_USER: &str = "<token>";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Asks `docker-credential-NAME` for a server's secret; `None` if it has none. The program ends with the future.
pub(super) async fn ask(name: &str, server: &str) -> Result<Option<Secret>, CredentialsError> {
    let helper = || format!("docker-credential-{}", printable(name.as_bytes(), 80));
    let start_error = |source| CredentialsError::StartHelper {
        helper: helper(),
        source,
    };
    let mut child = Command::new(format!("docker-credential-{name}"))
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // Nothing of it may reach the terminal raw, nor a log: it may hold the secret.
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(start_error)?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let (Some(mut stdin), Some(stdout)) = (stdin, stdout) else {
        return Err(start_error(io::ErrorKind::BrokenPipe.into()));
    };
    let conversation = async {
        // A helper may know its answer without reading the question.
        let _ = stdin.write_all(server.as_bytes()).await;
        drop(stdin);
        let mut told = Vec::new();
        stdout.take(HELPER_BYTES_MAX + 1).read_to_end(&mut told).await?;
        if told.len() as u64 > HELPER_BYTES_MAX {
            return Ok((told, None));
        }
        Ok((told, Some(child.wait().await?)))
    };
    let talked: Result<io::Result<_>, _> = timeout(Duration::from_secs(HELPER_SECONDS_MAX), conversation).await;
    let (told, status) = match talked {
        Ok(talked) => talked.map_err(start_error)?,
        Err(_) => return Err(CredentialsError::HelperSilent { helper: helper() }),
    };
    match status {
        Some(status) if status.success() => parse(&told)
            .map(Some)
            .ok_or_else(|| CredentialsError::HelperAnswer { helper: helper() }),
        Some(_) if told.windows(NOT_FOUND.len()).any(|window| window == NOT_FOUND) => Ok(None),
        Some(status) => Err(CredentialsError::HelperFailed {
            helper: helper(),
            status,
        }),
        None => Err(CredentialsError::HelperAnswer { helper: helper() }),
    }
}

fn parse(told: &[u8]) -> Option<Secret> {
    let Answer { username, secret } = serde_json::from_slice(told).ok()?;
    Some(if username == IDENTITY_USER {
        Secret::Identity(secret)
    } else {
        Secret::Password {
            username,
            password: secret,
        }
    })
}
