//! Processes of a running machine as one value, which ends them.

use tokio::sync::oneshot;

/// Running machine; dropping it ends it.
#[derive(Debug)]
pub(crate) struct RunningMachine {
    /// Receives one value, when the machine has ended.
    pub end: oneshot::Receiver<MachineEnd>,
    /// Sender whose drop ends the machine.
    pub(crate) kill: oneshot::Sender<()>,
}

impl RunningMachine {
    /// Ends the machine, if it has not ended, and waits until its processes have ended.
    pub(crate) async fn stop(self) {
        drop(self.kill);
        if !self.end.is_terminated() {
            // An error means that the end was reported before.
            let _ = self.end.await;
        }
    }
}

/// End of a machine, with its reason.
#[derive(Debug, Clone)]
pub(crate) struct MachineEnd {
    /// Description of the final state.
    pub reason: String,
    /// Whether somebody killed one of the machine's processes.
    pub killed: bool,
    /// Last bytes of the machine's serial console.
    pub console: String,
}

#[cfg(test)]
impl RunningMachine {
    /// Creates a machine without processes, which the returned value ends.
    pub(crate) fn fake() -> (Self, oneshot::Sender<MachineEnd>) {
        let (end_sender, end) = oneshot::channel();
        let kill = oneshot::channel().0;
        (Self { end, kill }, end_sender)
    }
}
