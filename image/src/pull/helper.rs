//! Docker's credential helpers: programs that keep a user's secrets (docker-credential-helpers, "Usage").
//!
//! A helper runs in a process group of its own, which is killed when the helper has answered, takes too long, writes
//! too much or is no longer wanted: neither it nor its children outlive the question. Only processes that move to a
//! session of their own survive, as the agents of key rings do on purpose.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::CredentialsError;
use super::credentials::Secret;
use crate::limits::{HELPER_BYTES_MAX, HELPER_NAME_BYTES_MAX, HELPER_SECONDS_MAX};
use crate::sys;
use crate::text::printable;

/// Output of every helper of docker's library that has no credentials for a server.
const NOT_FOUND: &[u8] = b"credentials not found";
/// User name in the answer of a helper that returns an identity token.
const IDENTITY_USER: &str = "<token>";
/// Time limit for reading output after the helper's end. Its group is dead by then, so all output is in the pipes,
/// whose ends only a process of another session can still hold open.
const AFTER_EXIT: Duration = Duration::from_millis(200);

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Asks `docker-credential-NAME` for a server's secret; `None` if the helper has none. `config` is the file that names
/// the helper.
pub(super) async fn ask(name: &str, server: &str, config: &Path) -> Result<Option<Secret>, CredentialsError> {
    if !is_valid_name(name) {
        return Err(CredentialsError::HelperName {
            path: config.to_owned(),
            name: printable(name.as_bytes(), HELPER_NAME_BYTES_MAX),
        });
    }
    let helper = || format!("docker-credential-{name}");
    let start_error = |source| CredentialsError::StartHelper {
        helper: helper(),
        source,
    };
    let mut running = Running::start(&helper()).map_err(start_error)?;
    let conversation = running.converse(server);
    let Ok(reported) = timeout(Duration::from_secs(HELPER_SECONDS_MAX), conversation).await else {
        return Err(CredentialsError::HelperSilent { helper: helper() });
    };
    let Told { output, errors, status } = match reported {
        Ok(reported) => reported,
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
            return Err(CredentialsError::HelperTooLong { helper: helper() });
        }
        Err(error) => return Err(start_error(error)),
    };
    let knows_nobody = |text: &[u8]| text.windows(NOT_FOUND.len()).any(|window| window == NOT_FOUND);
    if status.success() {
        let secret = parse(&output).ok_or_else(|| CredentialsError::HelperAnswer { helper: helper() });
        secret.map(Some)
    } else if knows_nobody(&output) || knows_nobody(&errors) {
        Ok(None)
    } else {
        Err(CredentialsError::HelperFailed {
            helper: helper(),
            status,
        })
    }
}

/// Whether a name can only be that of a program in `PATH`.
fn is_valid_name(name: &str) -> bool {
    name.len() <= HELPER_NAME_BYTES_MAX
        && name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// Complete output of a helper. Nothing of it may reach the terminal or a log: it may hold the secret.
struct Told {
    output: Vec<u8>,
    errors: Vec<u8>,
    status: ExitStatus,
}

/// Running helper with its process group, which is killed when the value is dropped.
struct Running {
    child: Child,
    group: Pid,
    /// Readable when the helper has ended, before it is reaped: until then its process id is not reused.
    ended: AsyncFd<OwnedFd>,
    pipes: Option<(ChildStdin, ChildStdout, ChildStderr)>,
}

impl Running {
    fn start(program: &str) -> io::Result<Self> {
        let mut command = std::process::Command::new(program);
        command
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        sys::die_with_parent(&mut command);
        let mut child = Command::from(command).kill_on_drop(true).spawn()?;
        let pid = child.id().and_then(|pid| Pid::from_raw(pid.try_into().ok()?));
        let group = pid.ok_or(io::ErrorKind::NotFound)?;
        let ended = sys::watch_exit(group)?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        Ok(Self {
            child,
            group,
            ended,
            pipes: Some((stdin, stdout, stderr)),
        })
    }

    async fn converse(&mut self, server: &str) -> io::Result<Told> {
        let (mut stdin, stdout, stderr) = self.pipes.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let (mut output, mut errors) = (Vec::new(), Vec::new());
        {
            let asking = async {
                // A helper may answer without reading the question.
                let _ = stdin.write_all(server.as_bytes()).await;
                drop(stdin);
                Ok(())
            };
            let talking = async {
                let (output, errors) = (read_bounded(stdout, &mut output), read_bounded(stderr, &mut errors));
                tokio::try_join!(asking, output, errors).map(drop)
            };
            tokio::pin!(talking);
            tokio::select! {
                talked = &mut talking => talked?,
                ended = self.ended.readable() => {
                    ended?.retain_ready();
                    self.kill_group();
                    if let Ok(talked) = timeout(AFTER_EXIT, &mut talking).await {
                        talked?;
                    }
                }
            }
        }
        self.ended.readable().await?.retain_ready();
        self.kill_group();
        let status = self.child.wait().await?;
        Ok(Told { output, errors, status })
    }

    /// Kills the rest of the group while the helper is not reaped: afterwards its process id could be another group's.
    fn kill_group(&self) {
        if self.child.id().is_some() {
            // Fails only when all processes of the group have ended.
            let _ = kill_process_group(self.group, Signal::KILL);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill_group();
    }
}

async fn read_bounded(pipe: impl AsyncRead + Unpin, bytes: &mut Vec<u8>) -> io::Result<()> {
    pipe.take(HELPER_BYTES_MAX + 1).read_to_end(bytes).await?;
    if bytes.len() as u64 > HELPER_BYTES_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(())
}

fn parse(reported: &[u8]) -> Option<Secret> {
    let Answer { username, secret } = serde_json::from_slice(reported).ok()?;
    Some(if username == IDENTITY_USER {
        Secret::Identity(secret)
    } else {
        Secret::Password {
            username,
            password: secret,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_programs() {
        for good in ["pass", "ecr-login", "desktop.exe", "osx_keychain", "1password"] {
            assert!(is_valid_name(good), "{good}");
        }
        let long = "a".repeat(HELPER_NAME_BYTES_MAX + 1);
        for bad in [
            "",
            "/bin/sh",
            "../x",
            "a/b",
            "-x",
            ".x",
            "a b",
            "a\0",
            "a\n",
            "\u{202e}x",
            &long,
        ] {
            assert!(!is_valid_name(bad), "{bad:?}");
        }
    }
}
