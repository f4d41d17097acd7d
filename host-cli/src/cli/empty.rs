//! Empty words: docker treats `--hostname ""` like no `--hostname`.

use super::{Command, ContainerCommand, PodCommand, PodCreateArgs, RunArgs};

impl Command {
    /// Removes the empty values of flags for which docker has a default.
    pub(super) fn forget_empty_words(&mut self) {
        match self {
            Self::Run(args) => args.forget_empty_words(),
            Self::Top(ContainerCommand::Create(args)) | Self::Container(ContainerCommand::Create(args)) => {
                args.forget_empty_words();
            }
            Self::Pod(PodCommand::Create(args)) => args.forget_empty_words(),
            _ => {}
        }
    }
}

impl RunArgs {
    fn forget_empty_words(&mut self) {
        let words = [
            &mut self.name,
            &mut self.pod,
            &mut self.workdir,
            &mut self.user,
            &mut self.hostname,
            &mut self.cpuset_cpus,
            &mut self.platform,
            &mut self.stop_signal,
            &mut self.network.ip,
            &mut self.network.ip6,
            &mut self.network.mac_address,
        ];
        words.into_iter().for_each(forget);
    }
}

impl PodCreateArgs {
    fn forget_empty_words(&mut self) {
        let words = [
            &mut self.name,
            &mut self.hostname,
            &mut self.network.ip,
            &mut self.network.ip6,
            &mut self.network.mac_address,
        ];
        words.into_iter().for_each(forget);
    }
}

fn forget(word: &mut Option<String>) {
    if word.as_deref() == Some("") {
        *word = None;
    }
}
