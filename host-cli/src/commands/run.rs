//! `capsid run`.

use std::ffi::OsString;
use std::fs::File;
use std::io::IsTerminal;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context as _, bail};
use capsid_image::{Image, Platform, Reference, Store};
use capsid_protocol::Stopped;

use super::{Context, open_store, pull_options, unless_interrupted};
use crate::accelerator::{self, Accelerator, Disk, MachineParts};
use crate::cli::{AccelChoice, NOT_YET, PullPolicy, RunArgs};
use crate::folders::Folders;
use crate::plan::{self, Plan, ROOTFS_SERIAL, SCRATCH_SERIAL, SeccompChoice, Surroundings};
use crate::progress::Bars;
use crate::registration::{PodRecord, Registration};
use crate::settings::Settings;
use crate::signals::Signals;
use crate::supervisor::{self, PodError, Sockets};
use crate::timings::Timings;
use crate::{console, initramfs, parts, scratch, session, settings, terminal};

/// Largest `--env-file` and seccomp profile, bytes: the spec that carries them is at most 4 MiB.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The recipe: arguments to image to plan to pod to exit code.
pub(crate) async fn run(context: Context, args: RunArgs) -> anyhow::Result<u8> {
    let mut timings = Timings::start();
    let (name, command) = image_and_command(&args)?;
    if args.tty && args.interactive && !terminal::stdin_is_terminal() {
        bail!("the input device is not a terminal: leave out -t");
    }
    let settings = settings::read()?;
    let folders = context.folders()?;
    let store = open_store(&folders)?;
    let mut signals = Signals::listen()?;
    let bars = Bars::new(args.quiet);
    let obtaining = obtain(&store, &name, &args, &settings, &bars);
    let image = unless_interrupted(&store, &mut signals, &bars, obtaining).await;
    let image = image.map_err(PodError::Interrupted)??;
    drop(bars);
    check_platform(&name, &image)?;
    timings.mark("image found");
    let choice = args.accel.or(settings.accel).unwrap_or(AccelChoice::Auto);
    let (accelerator, fallback) = accelerator::choose(choice, &folders.run)?;
    if let Some(reason) = fallback {
        eprintln!(
            "capsid: warning: {reason}; this pod is emulated: slower, and no security boundary (see `capsid doctor`)"
        );
    }
    timings.mark("accelerator chosen");
    let plan = plan::plan(&args, &command, &image.config, surroundings(&args)?)?;
    timings.mark("planned");
    let stopped = run_pod(
        &*accelerator,
        &args,
        &name,
        &store,
        &image,
        plan,
        &folders,
        &mut signals,
        &mut timings,
    )
    .await;
    timings.mark("torn down");
    if args.timings {
        timings.print(&mut std::io::stderr())?;
    }
    Ok(exit_status(&stopped?))
}

/// From a plan to a stopped container; every resource is given back on return.
#[expect(clippy::too_many_arguments, reason = "the rooms of one recipe")]
async fn run_pod(
    accelerator: &dyn Accelerator,
    args: &RunArgs,
    image_name: &str,
    store: &Store,
    image: &Image,
    plan: Plan,
    folders: &Folders,
    signals: &mut Signals,
    timings: &mut Timings,
) -> anyhow::Result<Stopped> {
    let record = PodRecord {
        id: plan.spec.id.clone(),
        name: args
            .name
            .clone()
            .unwrap_or_else(|| plan.spec.id.chars().take(12).collect()),
        image: image_name.into(),
        image_id: image.id.to_string(),
        accelerator: accelerator.name().into(),
        supervisor_pid: std::process::id(),
        labels: args.label.clone(),
        stop_signal: plan.stop_signal,
    };
    let _registration = Registration::claim(&folders.run, &record)?;
    let (sockets, session, control) = Sockets::pair()?;
    let parts = MachineParts {
        size: plan.machine,
        kernel: open_kernel(args)?,
        initramfs: initramfs::build(&parts::agent()?).context("cannot make the initramfs")?,
        disks: disks(store, image, folders)?,
        session,
        control,
    };
    timings.mark("disks and kernel opened");
    let stopped = supervisor::run(accelerator, sockets, parts, plan.spec, signals, timings).await;
    if let Err(PodError::MachineEnded { end, .. }) = &stopped
        && !end.console.is_empty()
    {
        eprintln!("capsid: last lines of the guest's console:");
        for line in last_lines(&end.console) {
            eprintln!("  {}", supervisor::sanitise(line));
        }
    }
    Ok(stopped?)
}

/// What to show of a console: from the kernel's last words on when it said any, else the last lines.
fn last_lines(console: &str) -> impl Iterator<Item = &str> {
    const LINES_MAX: usize = 12;
    let lines: Vec<&str> = console.lines().filter(|line| !line.trim().is_empty()).collect();
    let panicked = lines.iter().position(|line| console::tells_panic(line));
    let first = panicked.unwrap_or_else(|| lines.len().saturating_sub(LINES_MAX));
    lines.into_iter().skip(first).take(LINES_MAX)
}

/// The container's status as this process's exit code.
fn exit_status(stopped: &Stopped) -> u8 {
    if stopped.oom_killed {
        eprintln!(
            "capsid: the container ran out of its memory limit and the kernel killed a process of it (oom_killed)"
        );
    }
    match stopped.signal {
        0 => stopped.exit_code.min(255) as u8,
        signal => 128u8.saturating_add(signal.min(127) as u8),
    }
}

/// The exit code for an error of `run`.
pub(crate) fn exit_code(error: &anyhow::Error) -> u8 {
    error.downcast_ref::<PodError>().map_or(125, PodError::exit_code)
}

/// The first word is the image; a flag there is one that is not known.
fn image_and_command(args: &RunArgs) -> anyhow::Result<(String, Vec<Vec<u8>>)> {
    let (image, command) = args.image_and_command.split_first().context("no image given")?;
    let Some(name) = image.to_str() else {
        bail!("the image name {image:?} is not text")
    };
    if name.starts_with('-') {
        bail!(
            "{}",
            explain_flag(name).unwrap_or_else(|| format!("unknown flag: {name} (see `capsid run --help`)"))
        );
    }
    Ok((
        name.into(),
        command.iter().map(|word| word.as_bytes().to_vec()).collect(),
    ))
}

/// For a line that clap did not understand: the flag of docker's that is not honoured yet, if that is the reason.
pub(crate) fn explain_unknown_flag(words: &[OsString]) -> Option<String> {
    words
        .iter()
        .skip(1)
        .find_map(|word| explain_flag(&word.to_string_lossy()))
}

fn explain_flag(word: &str) -> Option<String> {
    let name = word.split_once('=').map_or(word, |(name, _)| name);
    let known = |flag: &&&str| {
        if flag.starts_with("--") {
            **flag == name
        } else {
            name.starts_with(**flag)
        }
    };
    let long = name.starts_with("--");
    NOT_YET
        .iter()
        .filter(|flag| flag.starts_with("--") == long)
        .find(known)
        .map(|flag| format!("{flag} is not honoured yet: the container was not started"))
}

/// The image from the store or a registry, as `--pull` says.
async fn obtain(store: &Store, name: &str, args: &RunArgs, settings: &Settings, bars: &Bars) -> anyhow::Result<Image> {
    let platform: Option<Platform> = args.platform.as_deref().map(str::parse).transpose()?;
    let stored = if args.pull == PullPolicy::Always {
        None
    } else {
        store.find(name)?
    };
    match (stored, &platform) {
        (Some(image), None) => return Ok(image),
        (Some(image), Some(wanted)) if wanted.accepts(&image.config.platform) => return Ok(image),
        (Some(image), Some(wanted)) if args.pull == PullPolicy::Never => {
            bail!(
                "image {name} is for {}, not for {wanted} (and --pull never)",
                image.config.platform
            )
        }
        (None, _) if args.pull == PullPolicy::Never => bail!("no such image: {name} (and --pull never)"),
        _ => {}
    }
    let reference: Reference = name.parse()?;
    let options = pull_options(platform, &args.registry, settings);
    // As the bars of the pull: for people who watch. A script gets an error's one line or none.
    if !args.quiet && std::io::stderr().is_terminal() {
        eprintln!("Unable to find image '{reference}' locally");
    }
    Ok(capsid_image::pull(store, &reference, &options, bars).await?.image)
}

/// An image for another platform may be in the store, to look at or to copy, but not run.
fn check_platform(name: &str, image: &Image) -> anyhow::Result<()> {
    let (here, built) = (Platform::host(), &image.config.platform);
    if !here.accepts(built) {
        bail!("image {name} is for {built}, and this machine runs {here}");
    }
    Ok(())
}

fn surroundings(args: &RunArgs) -> anyhow::Result<Surroundings> {
    let own = |name: &str| std::env::var(name).ok();
    let mut user_env = Vec::new();
    for path in &args.env_file {
        let text = read_text(path).context("cannot read --env-file")?;
        user_env.extend(plan::parse_file(&text, own)?);
    }
    for flag in &args.env {
        user_env.extend(plan::parse_flag(flag, own)?);
    }
    let seccomp_profile = match plan::security_options(args)?.seccomp {
        SeccompChoice::File(path) => Some(
            read_text(&path)
                .context("cannot read the seccomp profile")?
                .into_bytes(),
        ),
        SeccompChoice::Default | SeccompChoice::Unconfined => None,
    };
    Ok(Surroundings {
        id: session::random(32)?.iter().map(|byte| format!("{byte:02x}")).collect(),
        host_cpus: std::thread::available_parallelism().map_or(1, usize::from),
        user_env,
        seccomp_profile,
        terminal: terminal::size(),
    })
}

fn read_text(path: &Path) -> anyhow::Result<String> {
    let bytes = std::fs::metadata(path)
        .with_context(|| path.display().to_string())?
        .len();
    if bytes > FILE_BYTES_MAX {
        bail!(
            "{}: {bytes} bytes are over the limit of {FILE_BYTES_MAX}",
            path.display()
        );
    }
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}

fn open_kernel(args: &RunArgs) -> anyhow::Result<File> {
    let path = match &args.kernel {
        Some(path) => path.clone(),
        None => parts::kernel()?,
    };
    let file = File::open(&path).with_context(|| format!("cannot open the kernel {}", path.display()))?;
    check_elf(&file).with_context(|| format!("{} is not a kernel", path.display()))?;
    Ok(file)
}

/// The cheap part of what the VMM checks in full, so that both accelerators name the same cause.
fn check_elf(file: &File) -> anyhow::Result<()> {
    use std::os::unix::fs::FileExt;
    let mut header = [0u8; 20];
    file.read_exact_at(&mut header, 0).context("it is too short")?;
    let x86_64 = u16::from_le_bytes([header[18], header[19]]) == 62;
    if !header.starts_with(b"\x7fELF\x02\x01") || !x86_64 {
        bail!("it is not a 64-bit x86 ELF file");
    }
    Ok(())
}

fn disks(store: &Store, image: &Image, folders: &Folders) -> anyhow::Result<Vec<Disk>> {
    let rootfs = store.rootfs(image)?;
    let files = std::iter::once(rootfs.metadata).chain(rootfs.data).collect();
    let scratch = scratch::create(&folders.data)?;
    Ok(vec![
        Disk {
            serial: ROOTFS_SERIAL,
            readonly: true,
            files,
        },
        Disk {
            serial: SCRATCH_SERIAL,
            readonly: false,
            files: vec![scratch],
        },
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_flags_that_are_not_honoured_are_named() {
        assert!(explain_flag("--publish=80:80").unwrap().starts_with("--publish "));
        assert!(explain_flag("-p80:80").unwrap().starts_with("-p "));
        assert!(explain_flag("-d").is_some());
        assert!(explain_flag("--fly").is_none());
        assert!(explain_unknown_flag(&["run".into(), "-it".into(), "--network".into()]).is_some());
    }
}
