//! `capsid doctor`.

use std::io::IsTerminal;

use super::Context;
use crate::cli::{AccelChoice, DoctorArgs};
use crate::doctor::{self, Environment, Marks};
use crate::{output, parts, probe, settings};

/// Examines the host and prints what was found; exits with 1 where `run` would fail.
pub(crate) fn run(context: Context, args: &DoctorArgs) -> anyhow::Result<u8> {
    let settings = settings::read()?;
    let folders = context.folders()?;
    let environment = Environment {
        kvm: probe::cached_verdict(&folders.run),
        accelerator: args.accel.or(settings.accel).unwrap_or(AccelChoice::Auto),
        kernel: args.kernel.clone().or_else(|| parts::kernel().ok()),
        agent: parts::agent().ok(),
        vmm: parts::vmm().ok(),
        file_server: parts::file_server().ok(),
        qemu: parts::qemu().ok(),
        passt: parts::in_path("passt"),
        data: folders.data,
        run: folders.run,
    };
    let checks = doctor::examine(&environment);
    if args.json {
        println!("{}", output::pretty_json(&doctor::to_json(&checks))?);
    } else {
        let marks = if std::io::stdout().is_terminal() {
            Marks::Symbols
        } else {
            Marks::Words
        };
        print!("{}", doctor::to_text(&checks, marks));
    }
    Ok(u8::from(!doctor::can_run(&checks)))
}
