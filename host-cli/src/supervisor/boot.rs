//! Boot of a guest: from the started processes of its machine to a ready agent, with the machine on its networks. Every
//! machine boots this way: a container's own, a pod's, and one for a task.

use tokio::time::timeout;

use super::BOOT_TIMEOUT;
use super::conversation::Conversation;
use super::machine::Sockets;
use super::streams::StreamOpener;
use crate::network::AttachmentsError;
use crate::session::{Session, SessionError};

/// Guest whose agent is ready.
#[derive(Debug)]
pub(super) struct Booted {
    pub conversation: Conversation,
    /// Time from the guest kernel's entry to the agent's start, nanoseconds.
    pub agent_start_ns: u64,
}

/// Reason why a guest did not become ready.
#[derive(Debug, thiserror::Error)]
pub(super) enum BootError {
    #[error("the machine did not become ready within {} s", BOOT_TIMEOUT.as_secs())]
    Timeout,
    #[error("the session with the guest failed")]
    Session(#[from] SessionError),
    #[error("cannot connect the machine to its networks")]
    Network(#[from] AttachmentsError),
}

/// Waits until the guest of a started machine is ready. The end of the machine is the caller's to notice.
pub(super) async fn boot(sockets: Sockets) -> Result<Booted, BootError> {
    let opened = timeout(BOOT_TIMEOUT, Session::open(sockets.session)).await;
    let session = opened.map_err(|_| BootError::Timeout)??;
    if let Some(attachments) = &sockets.network {
        attachments.plug().await?;
    }
    let opener = StreamOpener {
        control: sockets.control,
        nonce: session.nonce.clone(),
    };
    Ok(Booted {
        agent_start_ns: session.hello.agent_start_ns,
        conversation: Conversation::new(session, opener),
    })
}
