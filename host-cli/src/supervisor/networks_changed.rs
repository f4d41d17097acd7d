//! Networks of a running machine, reconciled with its row.

use std::rc::Rc;

use super::guest::Guest;
use super::pod::Pod;
use super::supervised_container::{Running, SupervisedContainer};
use crate::control::{Answer, Failure};
use crate::folders::Folders;
use crate::network::{AttachmentsError, GuestNetwork, PodNetworks, Turn};
use crate::state::State;

/// Reconciles the networks of a container without a pod. For one that is about to start, or to end, the configuration
/// is only read again.
pub(super) async fn container(supervised: &SupervisedContainer) -> Result<Answer, Failure> {
    // A machine that boots has read its row already.
    let _ = supervised.started().await;
    let running = supervised.running().ok();
    let attachments = running.as_ref().and_then(|running| running.attachments.as_ref());
    let turn = match attachments {
        Some(attachments) => Some(attachments.turn().await),
        None => None,
    };
    let state = State::open(&supervised.data).map_err(|e| Failure::of(&e))?;
    let row = state.container(&supervised.id).map_err(|e| Failure::of(&e))?;
    supervised
        .container
        .borrow_mut()
        .config
        .network
        .clone_from(&row.config.network);
    let (Some(running), Some(turn)) = (&running, turn) else {
        return Ok(Answer::Reconciled { no_default_route: None });
    };
    let pod_networks = PodNetworks::of_container(&row, &state).map_err(|e| Failure::of(&e))?;
    reconcile(turn, &pod_networks, &running.guest, &supervised.id).await
}

/// Notifies the networks of the new name of a container without a pod.
pub(super) async fn rename(supervised: &SupervisedContainer) -> Result<(), Failure> {
    let is_on_networks = |running: Rc<Running>| running.attachments.is_some();
    if supervised.running().is_ok_and(is_on_networks) {
        container(supervised).await?;
    }
    Ok(())
}

/// Reconciles the networks of a pod.
pub(super) async fn pod(pod: &Pod, folders: &Folders) -> Result<Answer, Failure> {
    let guest = pod.up().await?;
    let Some(attachments) = pod.attachments() else {
        return Ok(Answer::Reconciled { no_default_route: None });
    };
    let turn = attachments.turn().await;
    let state = State::open(&folders.data).map_err(|e| Failure::of(&e))?;
    let row = state.pod(&pod.id).map_err(|e| Failure::of(&e))?;
    let pod_networks = PodNetworks::of_pod(&row, &state).map_err(|e| Failure::of(&e))?;
    // The id is empty: no container stands for the pod, which may have none at all.
    reconcile(turn, &pod_networks, &guest, "").await
}

async fn reconcile(turn: Turn<'_>, pod_networks: &PodNetworks<'_>, guest: &Guest, id: &str) -> Result<Answer, Failure> {
    let Some(config) = pod_networks.config else {
        return Err(Failure::because(format!(
            "{} was made without a network",
            pod_networks.name
        )));
    };
    let configure = async |network: &GuestNetwork| {
        let configured = guest.configure_network(id, network.interface()).await;
        configured.map_err(|e| Failure::of(&e))
    };
    let refusal = turn.reconcile(pod_networks, config, configure).await?;
    Ok(Answer::Reconciled {
        no_default_route: refusal.map(|refusal| Failure::of(&refusal).message),
    })
}

impl From<AttachmentsError> for Failure {
    fn from(error: AttachmentsError) -> Self {
        Self::of(&error)
    }
}
