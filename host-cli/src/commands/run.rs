//! Verb `capsid run`.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::lifecycle::KILL_MAX;
use crate::app::Context;
use crate::attachment::{self, AttachError, Course, End, Wanted};
use crate::cli::{NOT_YET, RunArgs};
use crate::container_lock;
use crate::control::{self, Answer, Connection, Request};
use crate::create::{self, Created};
use crate::folders::Folders;
use crate::model::{Exit, exit_code};
use crate::plan::PlanError;
use crate::settings;
use crate::signals::Signals;
use crate::start;
use crate::terminal;
use crate::timings::Timings;

/// Interval of attempts to connect to a supervisor that has just started.
const KNOCK_EVERY: Duration = Duration::from_millis(20);

/// Time limit for a supervisor to report whether what it was started for runs: longer than its waits for a machine and
/// a container, a minute each, and for volumes.
pub(super) const START_MAX: Duration = Duration::from_secs(180);

/// Creates and starts a container, and attaches to it unless it is detached.
pub(crate) async fn run(context: Context, args: RunArgs) -> anyhow::Result<u8> {
    let mut timings = Timings::start();
    check_terminal(&args)?;
    let settings = settings::read()?;
    let (folders, state) = context.state()?;
    let mut signals = Signals::listen()?;
    let created = create::create(&folders, &state, &settings, &args, &mut signals, &mut timings).await?;
    let id = created.container.id.clone();
    if let Some(path) = &args.cidfile
        && let Err(error) = write_id_file(path, &id)
    {
        created.undo(&state, &folders)?;
        return Err(error);
    }
    let Created { lock, container } = created;
    let mut started = start::container(&folders, lock, &container).await?;
    timings.mark("supervisor started");
    if args.detach {
        let interrupted = tokio::select! {
            waited = await_start(&mut started.connection) => { waited?; None }
            number = signals.interruption() => Some(number),
        };
        if let Some(number) = interrupted {
            let gone = started.gone();
            tokio::pin!(gone);
            tokio::select! {
                () = &mut gone => {}
                () = end(&folders, &id) => gone.await,
            }
            return Err(AttachError::Interrupted(number).into());
        }
        println!("{id}");
        return Ok(0);
    }
    let wanted = Wanted {
        stdin: args.interactive,
        keys: args.detach_keys.clone(),
        signals: args.sig_proxy,
    };
    let mut course = Course::default();
    let end = attach(&mut started.connection, wanted, &mut signals, &mut course).await;
    if !matches!(end, Ok(End::Detached)) {
        started.gone().await;
    }
    if args.timings {
        timings.add(&course.moments);
        timings.agent_start_ns = course.agent_start_ns;
        timings.mark("torn down");
        timings.print();
    }
    report(end?)
}

/// Attaches to a container from its first byte of output.
pub(super) async fn attach(
    connection: &mut Connection,
    wanted: Wanted,
    signals: &mut Signals,
    course: &mut Course,
) -> Result<End, AttachError> {
    let stdin = wanted.stdin;
    connection.writer.send(&Request::Attach { stdin }).await?;
    attachment::follow(connection, wanted, signals, course).await
}

/// Waits until the container runs; an error if it does not.
pub(super) async fn await_start(connection: &mut Connection) -> Result<(), AttachError> {
    connection.writer.send(&Request::Start).await?;
    match connection.receive_within::<Answer>(START_MAX).await?.0 {
        Answer::Started { .. } => Ok(()),
        Answer::Failed(failure) => Err(AttachError::Refused(failure)),
        _ => Err(AttachError::Unexpected),
    }
}

/// Ends a container whose start is not waited for any more. Retries while its supervisor does not listen yet; for one
/// that is gone it waits forever.
async fn end(folders: &Folders, id: &str) {
    loop {
        if let Ok(mut connection) = control::connect(&container_lock::folder(&folders.run, id))
            && connection.writer.send(&Request::Signal(libc::SIGKILL)).await.is_ok()
            && connection.end_within::<Answer>(KILL_MAX).await.is_some()
        {
            return;
        }
        tokio::time::sleep(KNOCK_EVERY).await;
    }
}

/// Converts the container's end to this process's exit code.
pub(super) fn report(end: End) -> anyhow::Result<u8> {
    match end {
        End::Detached => Ok(0),
        End::Exited(Exit { code, oom_killed, .. }) => {
            if oom_killed {
                eprintln!(
                    "capsid: the container ran out of its memory limit and the kernel killed a process of it (oom_killed)"
                );
            }
            Ok(code)
        }
    }
}

/// Checks that stdin is a terminal when the container has a terminal that gets its input from here.
pub(super) fn check_terminal(args: &RunArgs) -> anyhow::Result<()> {
    if args.tty && args.interactive && !args.detach && !terminal::stdin_is_terminal() {
        bail!("the input device is not a terminal: leave out -t");
    }
    Ok(())
}

/// Writes the id into a file that must not exist yet, as in docker.
pub(super) fn write_id_file(path: &std::path::Path, id: &str) -> anyhow::Result<()> {
    let write = || {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o644).open(path)?;
        file.write_all(id.as_bytes())
    };
    write().with_context(|| format!("cannot write the id to {}", path.display()))
}

/// Returns the exit code for an error of `run`, `create`, `start` or `exec`.
pub(crate) fn exit_code(error: &anyhow::Error) -> u8 {
    if let Some(PlanError::EmptyProgram) = error.downcast_ref() {
        return exit_code::NOT_FOUND;
    }
    error
        .downcast_ref::<AttachError>()
        .map_or(exit_code::FAILURE, AttachError::exit_code)
}

/// Returns the last lines of a guest's console that explain an error.
pub(crate) fn console(error: &anyhow::Error) -> Option<&str> {
    match error.downcast_ref::<AttachError>() {
        Some(AttachError::Refused(failure)) if !failure.console.is_empty() => Some(&failure.console),
        _ => None,
    }
}

/// Explains an unknown flag when it is one of docker's not honored yet: alone, or among others (`-dp`).
pub(crate) fn explain_flag(word: &str) -> Option<String> {
    let name = word.split_once('=').map_or(word, |(name, _)| name);
    let is_meant = |flag: &&&str| match (flag.strip_prefix("--"), name.strip_prefix("--")) {
        (Some(_), Some(_)) => **flag == name,
        // What follows the first one that takes a value is its value.
        (None, None) => name
            .chars()
            .skip(1)
            .take_while(char::is_ascii_alphabetic)
            .any(|c| flag.ends_with(c)),
        _ => false,
    };
    let flag = NOT_YET.iter().find(is_meant)?;
    Some(format!("{flag} is not honoured yet: the container was not started"))
}

/// Runs `capsid create`.
pub(crate) async fn create(context: Context, args: RunArgs) -> anyhow::Result<u8> {
    let settings = settings::read()?;
    let (folders, state) = context.state()?;
    let mut signals = Signals::listen_to_ending()?;
    let created = create::create(&folders, &state, &settings, &args, &mut signals, &mut Timings::start()).await?;
    let id = created.container.id.clone();
    if let Some(path) = &args.cidfile
        && let Err(error) = write_id_file(path, &id)
    {
        created.undo(&state, &folders)?;
        return Err(error);
    }
    println!("{id}");
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_flags_that_are_not_honoured_are_named() {
        assert!(explain_flag("--gpus=all").unwrap().starts_with("--gpus "));
        assert!(explain_flag("-astdin").unwrap().starts_with("-a "));
        assert!(explain_flag("-a").is_some());
        assert!(explain_flag("--fly").is_none());
        assert!(explain_flag("-da").unwrap().starts_with("-a "));
        assert!(explain_flag("-ita").unwrap().starts_with("-a "));
    }
}
