//! Verbs that change the status of containers: start, stop, restart, kill, pause, unpause, wait, rm, rename, prune.
//!
//! As in docker, each verb continues after a container that it failed for, and its exit code reports the failure. A
//! verb works on several containers at once, and prints in the order in which they were named.

use std::collections::HashSet;
use std::io::BufRead;
use std::pin::pin;
use std::time::Duration;

use anyhow::bail;
use futures_util::{StreamExt, stream};
use tokio::sync::Semaphore;

use super::run::{await_start, report};
use crate::app::{AppContext, Context};
use crate::attachment::{Course, Wanted};
use crate::cli::{KillArgs, NamesArgs, PruneArgs, RenameArgs, RmArgs, StartArgs, StopArgs};
use crate::control::{Answer, Connection, Request};
use crate::model::{Container, Status};
use crate::plan;
use crate::signals::Signals;
use crate::state::StateError;
use crate::{create, error_text, events, start};

/// Maximum number of names that a verb works on at once. A stop mostly waits; docker's limit is 50, for containers
/// without machines of their own.
const AT_ONCE: usize = 16;
/// Maximum number of machines that a verb starts at once: each takes one of the host's processors while it boots.
pub(super) const STARTS_AT_ONCE: usize = 4;

/// Runs `act` for each name, for several at once; like docker, prints the name as the user wrote it.
pub(super) async fn each<'a>(
    names: &'a [String],
    act: impl AsyncFn(&'a str) -> anyhow::Result<Option<String>>,
) -> anyhow::Result<u8> {
    // Work on one container would wait for other work on it.
    let are_different = names.iter().collect::<HashSet<_>>().len() == names.len();
    let at_once = if are_different { AT_ONCE } else { 1 };
    let mut done = pin!(stream::iter(names).map(|name| act(name)).buffered(at_once));
    let mut code = 0;
    while let Some(acted) = done.next().await {
        match acted {
            Ok(Some(line)) => println!("{line}"),
            Ok(None) => {}
            Err(error) => {
                error_text::print(error.as_ref());
                code = 1;
            }
        }
    }
    Ok(code)
}

/// Time limit for a supervisor's answer to anything but a wait: each of its own requests to the guest or the machine
/// ends within half a minute, and a container that is about to run is waited for.
const ANSWER_MAX: Duration = Duration::from_secs(180);
/// Time limit for a supervisor to kill a container: ten seconds if its guest does not do it, and more on a very busy
/// host.
pub(super) const KILL_MAX: Duration = Duration::from_secs(60);

/// Sends one request and returns the answer; a refusal is an error.
pub(super) async fn ask(connection: &mut Connection, request: &impl serde::Serialize) -> anyhow::Result<Answer> {
    connection.writer.send(request).await?;
    match connection.receive_within::<Answer>(ANSWER_MAX).await?.0 {
        Answer::Failed(failure) => Err(failure.into()),
        answer => Ok(answer),
    }
}

/// Runs `capsid start`.
pub(crate) async fn start(context: Context, args: StartArgs) -> anyhow::Result<u8> {
    let app = AppContext::open(context)?;
    if !args.attach && !args.interactive {
        let starts = Semaphore::new(STARTS_AT_ONCE);
        return each(&args.containers, async |name| {
            let _turn = starts.acquire().await?;
            start_one(&app, name).await?;
            Ok(Some(name.into()))
        })
        .await;
    }
    let [name] = &args.containers[..] else {
        bail!("only one container at a time can be attached to");
    };
    let container = app.state.find(name)?;
    let Some(lock) = app.lock(&container.id)? else {
        bail!("container {} is running already: use `capsid attach`", container.name);
    };
    let mut signals = Signals::listen()?;
    let mut started = start::container(&app.folders, lock, &container).await?;
    let wanted = Wanted {
        stdin: args.interactive,
        keys: args.detach_keys.clone(),
        signals: true,
    };
    let end = super::run::attach(&mut started.connection, wanted, &mut signals, &mut Course::default()).await;
    if !matches!(end, Ok(crate::attachment::End::Detached)) {
        started.gone().await;
    }
    report(end?)
}

/// Starts a container, unless it runs.
pub(super) async fn start_one(app: &AppContext, name: &str) -> anyhow::Result<()> {
    let container = app.state.find(name)?;
    let Some(lock) = app.lock(&container.id)? else {
        return Ok(());
    };
    let mut started = start::container(&app.folders, lock, &container).await?;
    Ok(await_start(&mut started.connection).await?)
}

/// Runs `capsid stop`.
pub(crate) async fn stop(context: Context, args: StopArgs) -> anyhow::Result<u8> {
    let app = AppContext::open(context)?;
    each(&args.containers, async |name| {
        stop_one(&app, name, args.timeout).await?;
        Ok(Some(name.into()))
    })
    .await
}

/// Stops a container, if it runs, and waits until its supervisor has released it.
async fn stop_one(app: &AppContext, name: &str, timeout_s: Option<u64>) -> anyhow::Result<()> {
    let container = app.state.find(name)?;
    match app.stop(&container.id, timeout_s).await {
        // With `--rm` it is removed when it stops.
        Err(error) if container.config.remove && is_unknown(&error) => Ok(()),
        stopped => stopped.map(drop),
    }
}

/// Runs `capsid restart`.
pub(crate) async fn restart(context: Context, args: StopArgs) -> anyhow::Result<u8> {
    let app = AppContext::open(context)?;
    let starts = Semaphore::new(STARTS_AT_ONCE);
    each(&args.containers, async |name| {
        stop_one(&app, name, args.timeout).await?;
        let _turn = starts.acquire().await?;
        start_one(&app, name).await?;
        events::record(&app.folders.data, &app.state.find(name)?, "restart", &[]);
        Ok(Some(name.into()))
    })
    .await
}

/// Runs `capsid kill`.
pub(crate) async fn kill(context: Context, args: KillArgs) -> anyhow::Result<u8> {
    let number = i32::try_from(plan::parse_signal(&args.signal)?)?;
    let app = AppContext::open(context)?;
    each(&args.containers, async |name| {
        let (_, mut connection) = app.running(name)?;
        let request = Request::Signal(number);
        if number != libc::SIGKILL {
            ask(&mut connection, &request).await?;
            return Ok(Some(name.into()));
        }
        connection.writer.send(&request).await?;
        match connection.end_within::<Answer>(KILL_MAX).await {
            Some(Answer::Failed(failure)) => Err(failure.into()),
            _ => Ok(Some(name.into())),
        }
    })
    .await
}

/// Runs `capsid pause` and `capsid unpause`.
pub(crate) async fn pause(context: Context, args: NamesArgs, pause: bool) -> anyhow::Result<u8> {
    let app = AppContext::open(context)?;
    let request = if pause { Request::Pause } else { Request::Unpause };
    each(&args.containers, async |name| {
        let (_, mut connection) = app.running(name)?;
        ask(&mut connection, &request).await?;
        Ok(Some(name.into()))
    })
    .await
}

/// Runs `capsid wait`.
pub(crate) async fn wait(context: Context, args: NamesArgs) -> anyhow::Result<u8> {
    let app = AppContext::open(context)?;
    each(&args.containers, async |name| {
        let (container, connection) = app.find(name)?;
        let Some(mut connection) = connection else {
            return Ok(Some(app.state.container(&container.id)?.exit_code.to_string()));
        };
        let reported = match connection.writer.send(&Request::Wait).await {
            Ok(()) => connection.reader.receive::<Answer>().await,
            Err(error) => Err(error),
        };
        let code = match reported {
            Ok((Answer::Exited { exit, .. }, _)) => exit.code,
            Ok((Answer::Failed(failure), _)) => failure.code,
            Ok(_) => bail!("unexpected answer of the pod's supervisor"),
            // The supervisor was killed, or was about to end: the row has the exit code.
            Err(_) => {
                drop(app.lock(&container.id)?);
                crate::recovery::recover(&app.state, &app.folders)?;
                app.state.container(&container.id)?.exit_code
            }
        };
        Ok(Some(code.to_string()))
    })
    .await
}

/// Runs `capsid rm`.
pub(crate) async fn rm(context: Context, args: RmArgs) -> anyhow::Result<u8> {
    let app = AppContext::open(context)?;
    each(&args.containers, async |name| {
        match rm_one(&app, name, args.force, args.volumes).await {
            Err(error) if args.force && is_unknown(&error) => Ok(None),
            Err(error) => Err(error),
            Ok(()) => Ok(Some(name.into())),
        }
    })
    .await
}

fn is_unknown(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<StateError>(), Some(StateError::Unknown(_)))
}

pub(super) async fn rm_one(app: &AppContext, name: &str, force: bool, volumes: bool) -> anyhow::Result<()> {
    let container = app.state.find(name)?;
    let held = if force {
        app.stop(&container.id, Some(0)).await.map(Some)
    } else {
        app.lock(&container.id)
    };
    let lock = match held {
        Ok(Some(lock)) => lock,
        Ok(None) => bail!(
            "container {} is running: stop it first, or use `capsid rm -f`",
            container.name
        ),
        // Removed meanwhile: by its own `--rm` or another command.
        Err(error) if is_unknown(&error) => return Ok(()),
        Err(error) => return Err(error),
    };
    create::remove(&app.state, &app.folders, lock, &container, volumes)
}

/// Runs `capsid rename`.
pub(crate) async fn rename(context: Context, args: &RenameArgs) -> anyhow::Result<u8> {
    let app = AppContext::open(context)?;
    plan::check_name(&args.name)?;
    let container = app.state.find(&args.container)?;
    app.state.rename(&container.id, &args.name)?;
    if let Some(mut connection) = app.connect(&container.id) {
        // A supervisor that ends just now need not be notified.
        let _ = ask(&mut connection, &Request::Renamed(args.name.clone())).await;
    }
    let old = format!("/{}", container.name);
    let renamed = app.state.container(&container.id)?;
    events::record(&app.folders.data, &renamed, "rename", &[("oldName", &old)]);
    Ok(0)
}

/// Runs `capsid container prune`.
pub(crate) async fn prune(context: Context, args: PruneArgs) -> anyhow::Result<u8> {
    if !args.force && !confirm("WARNING! This will remove all stopped containers.")? {
        return Ok(0);
    }
    remove_ended(&AppContext::open(context)?, |_| 0).await?;
    Ok(0)
}

/// Removes all containers that do not run. Returns the sum of `measure` for the removed ones.
pub(super) async fn remove_ended(app: &AppContext, measure: impl Fn(&Container) -> u64) -> anyhow::Result<u64> {
    let mut ended = app.state.containers()?;
    ended.retain(|container| matches!(container.status, Status::Created | Status::Exited));
    if !ended.is_empty() {
        println!("Deleted Containers:");
    }
    let mut measured = 0;
    for container in ended {
        let bytes = measure(&container);
        // A container that was started meanwhile stays.
        if rm_one(app, &container.id, false, false).await.is_ok() {
            measured += bytes;
            println!("{}", container.id);
        }
    }
    Ok(measured)
}

/// Asks the user to confirm, in docker's words.
pub(super) fn confirm(warning: &str) -> anyhow::Result<bool> {
    print!("{warning}\nAre you sure you want to continue? [y/N] ");
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Runs [`each`] on `names`, and returns the exit code with the largest number of names in work at a time.
    async fn most_at_once(names: &[String], act: impl AsyncFn(&str) -> anyhow::Result<Option<String>>) -> (u8, usize) {
        let (now, most) = (Cell::new(0), Cell::new(0));
        let code = each(names, async |name| {
            now.set(now.get() + 1);
            most.set(now.get().max(most.get()));
            tokio::task::yield_now().await;
            let acted = act(name).await;
            now.set(now.get() - 1);
            acted
        });
        (code.await.unwrap(), most.get())
    }

    #[tokio::test]
    async fn many_names_are_worked_on_at_once_but_not_all() {
        let names: Vec<String> = (0..3 * AT_ONCE).map(|number| number.to_string()).collect();
        let done = Cell::new(0);
        let counted = most_at_once(&names, async |_| {
            done.set(done.get() + 1);
            Ok(None)
        });
        assert_eq!(counted.await, (0, AT_ONCE));
        assert_eq!(done.get(), names.len());
        // Work on one container does not wait for other work on it.
        let twice = vec!["a".to_owned(), "b".to_owned(), "a".to_owned()];
        assert_eq!(most_at_once(&twice, async |_| Ok(None)).await, (0, 1));
    }

    #[tokio::test]
    async fn a_name_that_fails_stops_no_other() {
        let names = ["a", "b", "c"].map(String::from);
        let done = Cell::new(0);
        let acted = most_at_once(&names, async |name| {
            done.set(done.get() + 1);
            if name == "b" {
                bail!("no such container")
            } else {
                Ok(None)
            }
        });
        assert_eq!(acted.await, (1, 3));
        assert_eq!(done.get(), 3);
    }
}
