//! Networks of a pod's running machine, reconciled with its row.

use std::path::Path;
use std::rc::Rc;

use super::guest::Guest;
use super::pod::Pod;
use crate::control::{Answer, Failure};
use crate::network::{AttachmentsError, GuestNetwork, PodNetworks};
use crate::state::State;

/// Reconciles the machine with the pod's row. The next machine of a pod that has none now is started from the row.
pub(super) async fn reconcile(pod: &Pod, data: &Path) -> Result<Answer, Failure> {
    let (Some(guest), Some(attachments)) = (ready(pod).await?, pod.attachments()) else {
        return Ok(Answer::Reconciled { no_default_route: None });
    };
    let turn = attachments.turn().await;
    let state = State::open(data).map_err(|e| Failure::of(&e))?;
    let row = state.pod(&pod.id).map_err(|e| Failure::of(&e))?;
    let pod_networks = PodNetworks::of(&row, &state).map_err(|e| Failure::of(&e))?;
    let Some(config) = pod_networks.config else {
        return Err(Failure::because(format!("{} was made without a network", row.name)));
    };
    let configure = async |network: &GuestNetwork| {
        let configured = guest.configure_network(namespace(pod), network.interface()).await;
        configured.map_err(|e| Failure::of(&e))
    };
    let refusal = turn.reconcile(&pod_networks, config, configure).await?;
    Ok(Answer::Reconciled {
        no_default_route: refusal.map(|refusal| Failure::of(&refusal).message),
    })
}

/// Notifies the networks of a pod of its new name, which the other members resolve from now on.
pub(super) async fn rename(pod: &Pod, data: &Path) -> Result<(), Failure> {
    let container = pod.only_container();
    if container.is_some_and(|container| container.running().is_ok()) && pod.attachments().is_some() {
        reconcile(pod, data).await?;
    }
    Ok(())
}

/// Returns the guest whose networks can be configured: once it is up, and the container of an implicit pod runs.
async fn ready(pod: &Pod) -> Result<Option<Rc<Guest>>, Failure> {
    let Some(container) = pod.only_container() else {
        return pod.up().await.map(Some);
    };
    // A machine that boots has read its row already.
    let _ = container.started().await;
    Ok(container.running().ok().map(|running| Rc::clone(&running.guest)))
}

/// Returns the id of the container whose network namespace the machine's device is in; empty for the pod's own.
fn namespace(pod: &Pod) -> &str {
    if pod.is_implicit() { &pod.id } else { "" }
}

impl From<AttachmentsError> for Failure {
    fn from(error: AttachmentsError) -> Self {
        Self::of(&error)
    }
}
