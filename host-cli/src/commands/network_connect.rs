//! Verbs `capsid network connect` and `capsid network disconnect`.
//!
//! The pod's row is changed first, in one transaction that also assigns addresses. Then the supervisor of a running pod
//! is notified, and reconciles the machine. One that does not run cannot be started meanwhile: its lock is held.

use anyhow::bail;

use super::lifecycle::ask;
use crate::app::AppContext;
use crate::cli::{NetworkConnectArgs, NetworkDisconnectArgs};
use crate::container_lock::ContainerLock;
use crate::control::{Answer, Connection, ControlError, Request};
use crate::events;
use crate::model::{ConnectTarget, Endpoint, Pod};
use crate::plan;

/// Way in which a pod can be changed now.
enum Reach {
    /// Not running: changed by this process alone, for as long as the lock is held.
    Held { _lock: ContainerLock },
    /// Running: its supervisor must change the machine, too.
    Runs(Connection),
}

/// Connects a container or pod to one more network.
pub(super) async fn connect(app: &AppContext, args: &NetworkConnectArgs) -> anyhow::Result<u8> {
    let place = match plan::network_connection(args)? {
        Some(request) => ConnectTarget::UserDefined(plan::network_place(
            &request,
            &app.state.find_network(&request.network)?,
        )?),
        None => ConnectTarget::OwnLink,
    };
    let pod = app.state.find_member(&args.name)?;
    let reach = reach(app, &pod)?;
    let pod = app.state.connect(&pod.id, &place)?;
    if let Reach::Runs(connection) = reach
        && let Err(error) = notify_supervisor(connection, &pod).await
    {
        // The error of the connection matters more than that of a disconnection by somebody else meanwhile.
        if let Ok(pod) = app.state.disconnect(&pod.id, &place)
            && let Some(connection) = app.connect(&pod.id)
        {
            // Another change may have read the row before it was restored.
            let _ = notify_supervisor(connection, &pod).await;
        }
        return Err(error);
    }
    events::record_network(&app.folders.data, &pod, &place, "connect");
    Ok(0)
}

/// Disconnects a container or pod from a network. A machine that does not reconcile now does so at its next start.
pub(super) async fn disconnect(app: &AppContext, args: &NetworkDisconnectArgs) -> anyhow::Result<u8> {
    let place = match plan::user_network(&args.network)? {
        Some(word) => ConnectTarget::UserDefined(Endpoint::anywhere(&app.state.find_network(word)?)),
        None => ConnectTarget::OwnLink,
    };
    let pod = app.state.find_member(&args.name)?;
    let reach = reach(app, &pod)?;
    let pod = app.state.disconnect(&pod.id, &place)?;
    events::record_network(&app.folders.data, &pod, &place, "disconnect");
    if let Reach::Runs(connection) = reach {
        notify_supervisor(connection, &pod).await?;
    }
    Ok(0)
}

/// Determines the way to change a pod now, waiting for other commands.
fn reach(app: &AppContext, pod: &Pod) -> anyhow::Result<Reach> {
    loop {
        if let Some(connection) = app.connect(&pod.id) {
            return Ok(Reach::Runs(connection));
        }
        let held = if pod.is_implicit {
            app.lock(&pod.id)?
        } else {
            app.lock_pod(&pod.id)?
        };
        // When it was started meanwhile, the loop repeats.
        if let Some(lock) = held {
            return Ok(Reach::Held { _lock: lock });
        }
    }
}

/// Notifies a running machine's supervisor of its changed row, and warns when the machine got no default route.
async fn notify_supervisor(mut connection: Connection, pod: &Pod) -> anyhow::Result<()> {
    match ask(&mut connection, &Request::NetworksChanged).await {
        Ok(Answer::Reconciled { no_default_route: None }) => Ok(()),
        Ok(Answer::Reconciled {
            no_default_route: Some(reason),
        }) => {
            eprintln!("capsid: warning: {} has no default route: {reason}", pod.name);
            Ok(())
        }
        Ok(_) => bail!("unexpected answer of the pod's supervisor"),
        // The supervisor ends just now: its next machine is created from the row.
        Err(error) if matches!(error.downcast_ref(), Some(ControlError::Closed)) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container_lock;
    use crate::control::{self, Failure};
    use crate::folders::Folders;
    use crate::state::State;
    use crate::state::tests::{container, network, plain, subnet};

    /// Creates a container `web-1` and a network `net-a`, in folders of the test's own.
    fn app(root: &std::path::Path) -> AppContext {
        let folders = Folders {
            data: root.join("data"),
            run: root.join("run"),
        };
        std::fs::create_dir_all(&folders.data).unwrap();
        let state = State::open(&folders.data).unwrap();
        state.add(&mut container("1", Some(plain(1))), &[]).unwrap();
        network(&state, "a", &[subnet("10.89.0.0/24", "10.89.0.1")]);
        AppContext { folders, state }
    }

    fn shop() -> NetworkConnectArgs {
        NetworkConnectArgs {
            network: "net-a".into(),
            name: "web-1".into(),
            ..NetworkConnectArgs::default()
        }
    }

    fn leave(network: &str) -> NetworkDisconnectArgs {
        NetworkDisconnectArgs {
            force: false,
            network: network.into(),
            name: "web-1".into(),
        }
    }

    fn names(app: &AppContext) -> Vec<String> {
        let network = app.state.find_member("web-1").unwrap().config.network;
        network.unwrap().names().map(Into::into).collect()
    }

    /// Runs a supervisor that gives every request one answer, or hangs up.
    async fn while_it_answers<T>(app: &AppContext, answer: Option<Answer>, act: impl Future<Output = T>) -> T {
        let folder = container_lock::folder(&app.folders.run, &"1".repeat(64));
        std::fs::create_dir_all(&folder).unwrap();
        let listener = control::listen(&folder).unwrap();
        let supervisor = async {
            loop {
                let mut connection = control::accepted(listener.accept().await.unwrap().0);
                let (request, _) = connection.reader.receive::<Request>().await.unwrap();
                assert!(matches!(request, Request::NetworksChanged));
                if let Some(answer) = &answer {
                    connection.writer.send(answer).await.unwrap();
                }
            }
        };
        tokio::select! {
            done = act => done,
            () = supervisor => unreachable!(),
        }
    }

    #[tokio::test]
    async fn what_does_not_run_is_changed_in_its_row() {
        let root = tempfile::tempdir().unwrap();
        let app = app(root.path());
        assert_eq!(connect(&app, &shop()).await.unwrap(), 0);
        assert_eq!(names(&app), ["default", "net-a"]);
        disconnect(&app, &leave("default")).await.unwrap();
        assert_eq!(names(&app), ["net-a"]);
        // Nobody holds the lock any more.
        assert!(app.lock(&"1".repeat(64)).unwrap().is_some());
    }

    #[tokio::test]
    async fn what_a_machine_cannot_follow_is_undone() {
        let root = tempfile::tempdir().unwrap();
        let app = app(root.path());
        let refused = || Some(Answer::Failed(Failure::because("no room")));
        let reported = while_it_answers(&app, refused(), connect(&app, &shop())).await;
        assert_eq!(reported.unwrap_err().to_string(), "no room");
        assert_eq!(names(&app), ["default"]);
        let reconciled = Some(Answer::Reconciled { no_default_route: None });
        while_it_answers(&app, reconciled, connect(&app, &shop()))
            .await
            .unwrap();
        assert_eq!(names(&app), ["default", "net-a"]);
        // It is disconnected all the same: its next machine is not on the network.
        let reported = while_it_answers(&app, refused(), disconnect(&app, &leave("net-a"))).await;
        assert!(reported.is_err());
        assert_eq!(names(&app), ["default"]);
    }

    #[tokio::test]
    async fn what_ends_just_now_follows_when_it_is_started_again() {
        let root = tempfile::tempdir().unwrap();
        let app = app(root.path());
        while_it_answers(&app, None, connect(&app, &shop())).await.unwrap();
        assert_eq!(names(&app), ["default", "net-a"]);
    }
}
