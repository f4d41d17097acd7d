//! Verb `capsid doctor`.

use crate::app::Context;
use crate::cli::DoctorArgs;
use crate::confinement::Process;
use crate::doctor::{self, Confined, Environment, Marks};
use crate::model::AccelChoice;
use crate::probe::KvmVerdict;
use crate::{confinement, install_paths, output, probe, settings};

/// Examines the host and prints the findings; exits with 1 where `run` would fail.
pub(crate) fn run(context: Context, args: &DoctorArgs) -> anyhow::Result<u8> {
    let settings = settings::read()?;
    let folders = context.folders()?;
    let kvm = probe::cached_verdict(&folders.run);
    let accelerator = args.accel.or(settings.accel).unwrap_or(AccelChoice::Auto);
    let environment = Environment {
        confinement: confinement(accelerator, &kvm),
        required: confinement::required()?,
        kvm,
        accelerator,
        kernel: args.kernel.clone().or_else(|| install_paths::kernel().ok()),
        agent: install_paths::agent().ok(),
        vmm: install_paths::vmm().ok(),
        file_server: install_paths::file_server().ok(),
        qemu: install_paths::qemu().ok(),
        passt: install_paths::in_path("passt"),
        data: folders.data,
        run: folders.run,
    };
    let checks = doctor::examine(&environment);
    if args.json {
        let found = doctor::to_json(&checks, &environment.confinement);
        println!("{}", output::pretty_json(&found)?);
    } else {
        let marks = if output::is_terminal() {
            Marks::Symbols
        } else {
            Marks::Words
        };
        print!("{}", doctor::to_text(&checks, marks));
    }
    Ok(u8::from(!doctor::can_run(&checks)))
}

/// Examines the confinement of the processes whose programs are installed.
fn confinement(accelerator: AccelChoice, kvm: &KvmVerdict) -> Vec<Confined> {
    let emulates = accelerator == AccelChoice::Emulate || accelerator == AccelChoice::Auto && !kvm.is_usable();
    let all = [
        (Process::Vmm, install_paths::vmm().is_ok(), true),
        (
            Process::Emulator,
            install_paths::vmm().is_ok() && install_paths::qemu().is_ok(),
            emulates,
        ),
        (Process::FileServer, install_paths::file_server().is_ok(), false),
        (Process::Converter, install_paths::vmm().is_ok(), true),
        (Process::Passt, install_paths::passt().is_ok(), true),
    ];
    let there = all.into_iter().filter(|(_, is_there, _)| *is_there);
    there
        .map(|(process, _, is_needed)| Confined::examine(process, is_needed))
        .collect()
}
