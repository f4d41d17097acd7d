//! The networks of a machine that runs, made to be those of its row.

use capsid_protocol::message::{Readdress, Request as Asked, agent_message, host_message};

use super::agent::Agent;
use super::charge::Charge;
use super::life::sanitise;
use super::pod::Pod;
use crate::control::{Answer, Failure};
use crate::folders::Folders;
use crate::network::{Endpoint, Wiring};
use crate::session::SessionError;
use crate::state::State;

/// A container's without a pod. One that is about to be started, or to end, needs no more than to know.
pub(super) async fn container(charge: &Charge) -> Result<Answer, Failure> {
    let state = State::open(&charge.data).map_err(|e| Failure::of(&e))?;
    // A machine that boots has read its row already.
    let _ = charge.started().await;
    let row = state.container(&charge.id).map_err(|e| Failure::of(&e))?;
    charge
        .container
        .borrow_mut()
        .config
        .network
        .clone_from(&row.config.network);
    let (wiring, guest) = (charge.wiring.borrow().clone(), charge.guest());
    let (Some(wiring), Ok(agent)) = (wiring, guest) else {
        return Ok(Answer::Rewired { no_way_out: None });
    };
    let endpoint = Endpoint::of_container(&row, &state).map_err(|e| Failure::of(&e))?;
    follow(&wiring, &endpoint, &agent, &charge.id).await
}

/// The new name of a container without a pod, where its networks know it by that.
pub(super) async fn rename(charge: &Charge) -> Result<(), Failure> {
    let is_on_networks = charge.wiring.borrow().is_some();
    if is_on_networks {
        container(charge).await?;
    }
    Ok(())
}

/// A pod's.
pub(super) async fn pod(pod: &Pod, folders: &Folders) -> Result<Answer, Failure> {
    let agent = pod.up().await?;
    let state = State::open(&folders.data).map_err(|e| Failure::of(&e))?;
    let row = state.pod(&pod.id).map_err(|e| Failure::of(&e))?;
    let endpoint = Endpoint::of_pod(&row, &state).map_err(|e| Failure::of(&e))?;
    match pod.wiring() {
        // The agent knows it by no container's name: it may have none at all.
        Some(wiring) => follow(&wiring, &endpoint, &agent, "").await,
        None => Ok(Answer::Rewired { no_way_out: None }),
    }
}

async fn follow(wiring: &Wiring, endpoint: &Endpoint<'_>, agent: &Agent, id: &str) -> Result<Answer, Failure> {
    let Some(config) = endpoint.config else {
        return Err(Failure::because(format!(
            "{} was made without a network",
            endpoint.name
        )));
    };
    let before = wiring.standing();
    let (guest, refusal) = match wiring.follow(endpoint, config).await {
        Ok(followed) => followed,
        Err(error) => {
            let _ = wiring.retreat(before).await;
            return Err(Failure::of(&error));
        }
    };
    let readdress = Readdress {
        container: id.into(),
        network: guest.interface(),
    };
    let asked = agent.ask(id, Asked::Readdress, host_message::Kind::Readdress(readdress));
    let failure = match asked.await {
        Ok(agent_message::Kind::Readdressed(_)) => {
            let no_way_out = refusal.map(|refusal| Failure::of(&refusal).message);
            return Ok(Answer::Rewired { no_way_out });
        }
        Ok(agent_message::Kind::Failed(failed)) => Failure::because(sanitise(&failed.message)),
        Ok(_) => Failure::of(&SessionError::Unexpected),
        Err(error) => Failure::of(&error),
    };
    // Its row is about to say that it is not there. Without an answer of the device the machine is broken anyway.
    let _ = wiring.retreat(before).await;
    Err(failure)
}
