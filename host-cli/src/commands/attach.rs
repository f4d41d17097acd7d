//! Verbs `capsid attach` and `capsid exec`.

use std::os::unix::ffi::OsStrExt;

use anyhow::{Context as _, bail};

use super::run::{self, report};
use crate::app::Context;
use crate::attachment::{self, Course, Wanted};
use crate::cli::{AttachArgs, ExecArgs};
use crate::control::{self, Answer, Connection, ExecRequest, Request};
use crate::model::Status;
use crate::signals::Signals;
use crate::{container_lock, plan, surroundings, terminal};

/// Attaches to a running container. Its exit code becomes this process's.
pub(crate) async fn attach(context: Context, args: AttachArgs) -> anyhow::Result<u8> {
    let mut connection = running(context, &args.container)?;
    let wanted = Wanted {
        stdin: !args.no_stdin,
        keys: args.detach_keys,
        signals: args.sig_proxy,
    };
    let mut signals = Signals::listen()?;
    let end = run::attach(&mut connection, wanted, &mut signals, &mut Course::default()).await?;
    report(end)
}

/// Runs another process in a running container. Its exit code becomes this process's.
pub(crate) async fn exec(context: Context, args: ExecArgs) -> anyhow::Result<u8> {
    let (name, command) = args.container_and_command.split_first().context("no container given")?;
    let name = name.to_str().context("the container's name is not text")?;
    if args.tty && args.interactive && !args.detach && !terminal::stdin_is_terminal() {
        bail!("the input device is not a terminal: leave out -t");
    }
    args.user.as_deref().map_or(Ok(()), plan::check_user)?;
    let request = ExecRequest {
        args: command.iter().map(|word| word.as_bytes().to_vec()).collect(),
        env: surroundings::user_env(&args.env_file, &args.env)?,
        cwd: args.workdir.clone(),
        user: args.user.clone(),
        terminal: args
            .tty
            .then(|| terminal::size().map_or((24, 80), |size| (size.rows, size.columns))),
        stdin: args.interactive,
        privileged: args.privileged,
        detached: args.detach,
    };
    let mut connection = running(context, name)?;
    let mut signals = Signals::listen()?;
    connection.writer.send(&Request::Exec(Box::new(request))).await?;
    if args.detach {
        return match connection.receive_within::<Answer>(run::START_MAX).await?.0 {
            Answer::Started { .. } => Ok(0),
            Answer::Failed(failure) => Err(attachment::AttachError::Refused(failure).into()),
            _ => bail!("unexpected answer of the pod's supervisor"),
        };
    }
    let wanted = Wanted {
        stdin: args.interactive,
        keys: args.detach_keys,
        signals: true,
    };
    let end = attachment::follow(&mut connection, wanted, &mut signals, &mut Course::default()).await?;
    report(end)
}

/// Connects to the supervisor of a container that runs and is not paused.
fn running(context: Context, name: &str) -> anyhow::Result<Connection> {
    let (folders, state) = context.state()?;
    let container = state.find(name)?;
    if container.status == Status::Paused {
        bail!("container {} is paused: unpause it first", container.name);
    }
    match control::connect(&container_lock::folder(&folders.run, &container.id)) {
        Ok(connection) => Ok(connection),
        Err(_) => bail!("container {} is not running", container.name),
    }
}
