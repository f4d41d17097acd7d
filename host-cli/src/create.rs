//! Creation of a container: its row, its folder, its lock. Nothing runs yet.

use anyhow::{Context as _, bail};
use capsid_image::{Image, Platform, Reference, Store};

use crate::accelerator::{self, Accelerator};
use crate::app::{open_store, pull_options, unless_interrupted};
use crate::attachment::AttachError;
use crate::cli::{PullPolicy, RunArgs};
use crate::container_lock::ContainerLock;
use crate::folders::Folders;
use crate::model::{AccelChoice, Container, Pod, Status, Volume};
use crate::plan::{self, Plan, RunRequest, size};
use crate::progress::Bars;
use crate::settings::Settings;
use crate::signals::{Deadline, Signals};
use crate::state::{Pending, State, StateError};
use crate::timings::Timings;
use crate::volumes::{self, VolumesLock};
use crate::{
    clock, confinement, doctor, events, install_paths, names, network, scratch, session, shares, store_folder,
    surroundings,
};

/// Number of attempts at a generated name.
const NAME_ATTEMPTS: u32 = 10;

/// Container that was just created, locked by this command.
#[derive(Debug)]
pub(crate) struct Created {
    pub container: Container,
    pub lock: ContainerLock,
}

impl Created {
    /// Rolls the creation back, as if the container had never existed.
    pub(crate) fn undo(self, state: &State, folders: &Folders) -> anyhow::Result<()> {
        remove(state, folders, self.lock, &self.container, true)
    }
}

/// Removes a held container. The row is removed first, and leaves a record: an interruption leaves files without a row,
/// which the next command removes, and never a row without files. With `anonymous`, also removes the volumes that were
/// created for the container.
pub(crate) fn remove(
    state: &State,
    folders: &Folders,
    lock: ContainerLock,
    container: &Container,
    anonymous: bool,
) -> anyhow::Result<()> {
    volumes::remove_container(state, &folders.data, container, anonymous)?;
    events::record(&folders.data, container, "destroy", &[]);
    store_folder::remove(&folders.data, &container.id).context("cannot remove the container's files")?;
    lock.remove().context("cannot remove the container's run folder")?;
    state.finish_pending(Pending::Container, &container.id);
    Ok(())
}

/// Creates a container: image, accelerator and plan first, then lock, folder, row.
pub(crate) async fn create(
    folders: &Folders,
    state: &State,
    settings: &Settings,
    args: &RunArgs,
    signals: &mut Signals,
    timings: &mut Timings,
) -> anyhow::Result<Created> {
    // The contents of an image are bounded; the time that the host takes is not.
    let _deadline = Deadline::set();
    let request = RunRequest::parse(beside_another(args, state)?)?;
    let args = &request.flags;
    confinement::check(&[confinement::Process::Converter])?;
    // All flags are checked before a registry is asked and before anything is created.
    check_free(args, state)?;
    let pod = args.pod.as_deref().map(|name| state.find_pod(name)).transpose()?;
    let machine = choose_machine(&request, settings, folders, pod.as_ref())?;
    timings.mark("accelerator chosen");
    if let Some(kernel) = &args.kernel {
        install_paths::open_kernel(kernel)?;
    }
    let mut around = surroundings::collect(&request, state, folders, machine, pod.as_ref())?;
    plan::check(&request, around.clone())?;
    timings.mark("flags checked");
    let image = find_image(folders, settings, &request, signals).await?;
    timings.mark("image found");
    around.volumes.found = shares::find(&request.binds(), folders)?;
    let random = session::random(4)?;
    let mut plan = plan::plan(&request, &image.config, around)?;
    timings.mark("planned");
    warn_of_memory(&plan);
    if let (None, Some(network)) = (&pod, &mut plan.pod.network) {
        network::choose_ports(&mut network.ports)?;
    }
    let mut container = container(&request.image, &image, plan, pod);
    let lock = lock_new(state, folders, &container.id)?;
    let added = make_disk(folders, &container.id, container.config.remove)
        .and_then(|()| add_with_volumes(state, folders, &mut container, args.name.as_deref(), &random));
    let created = Created { container, lock };
    if let Err(error) = added {
        // The reason for the failure matters more than leftovers, which the next command removes.
        let _ = created.undo(state, folders);
        return Err(error);
    }
    events::record(&folders.data, &created.container, "create", &[]);
    timings.mark("container made");
    Ok(created)
}

/// Chooses the accelerator of the container's machine, its own or its pod's, and returns how many disks the machine has
/// room for.
fn choose_machine(
    request: &RunRequest,
    settings: &Settings,
    folders: &Folders,
    pod: Option<&Pod>,
) -> anyhow::Result<(AccelChoice, usize)> {
    let choice = request.flags.accel.or(settings.accel).unwrap_or(AccelChoice::Auto);
    if let Some(pod) = pod {
        // The container's disks go into the pod's disk slots, which have room for many.
        return Ok((pods_accelerator(pod, choice)?, usize::MAX));
    }
    let accelerator = choose_accelerator(choice, folders)?;
    let disks_max = accelerator.disks_max(request.has_network());
    Ok((AccelChoice::named(accelerator.name()), disks_max))
}

/// Finds the image, complete and for this machine's platform.
async fn find_image(
    folders: &Folders,
    settings: &Settings,
    request: &RunRequest,
    signals: &mut Signals,
) -> anyhow::Result<Image> {
    let store = open_store(folders)?;
    let bars = Bars::new(request.flags.quiet);
    let obtaining = async {
        let image = obtain(&store, request, settings, &bars).await?;
        check(&store, image).await
    };
    let image = unless_interrupted(&store, signals, &bars, obtaining).await;
    let image = image.map_err(AttachError::Interrupted)??;
    check_platform(&request.image, &image)?;
    Ok(image)
}

/// Refuses a name that a container has, and an id file that exists already. Both are checked again when they are taken.
fn check_free(args: &RunArgs, state: &State) -> anyhow::Result<()> {
    if let Some(name) = &args.name {
        state.check_name_is_free(name)?;
    }
    check_id_file(args.cidfile.as_deref())
}

/// Replaces `--network container:NAME` in the arguments by the pod of that container. An implicit pod has room for its
/// own container alone, and the plan reports the error.
fn beside_another(args: &RunArgs, state: &State) -> anyhow::Result<RunArgs> {
    let mut args = args.clone();
    let ([network], None) = (&args.network.network[..], &args.pod) else {
        return Ok(args);
    };
    let Some(name) = network.strip_prefix("container:") else {
        return Ok(args);
    };
    if let Some(pod) = state.find(name)?.explicit_pod() {
        args.network.network.clear();
        args.pod = Some(pod.id.clone());
    }
    Ok(args)
}

/// Warns when the machine may use more memory than is free: a machine gets its memory as it touches it, so it starts,
/// and is ended when it uses too much. The user should know before.
fn warn_of_memory(plan: &Plan) {
    let Some(limit) = plan.spec.limits.memory_max_bytes else {
        return;
    };
    if let Some(free) = doctor::free_memory_bytes().filter(|free| limit > *free) {
        eprintln!(
            "capsid: warning: --memory {} is more than the {} that this host has free: a container that uses it all may \
             be ended by the host",
            size::binary(limit),
            size::binary(free)
        );
    }
}

/// Chooses the accelerator for a new pod, and warns of a fallback.
pub(crate) fn choose_accelerator(choice: AccelChoice, folders: &Folders) -> anyhow::Result<Box<dyn Accelerator>> {
    let (accelerator, fallback) = accelerator::choose(choice, &folders.run)?;
    if let Some(reason) = fallback {
        eprintln!(
            "capsid: warning: {reason}; this pod is emulated: slower, and no security boundary (see `capsid doctor`)"
        );
    }
    Ok(accelerator)
}

/// Returns the accelerator of the pod, which has only one. Refuses `--accel kvm` for an emulated pod: nobody who asks
/// for a boundary gets none.
fn pods_accelerator(pod: &Pod, choice: AccelChoice) -> anyhow::Result<AccelChoice> {
    let accelerator = pod.config.accelerator;
    if choice == AccelChoice::Kvm && accelerator != AccelChoice::Kvm {
        anyhow::bail!("pod {} is emulated, which --accel kvm forbids", pod.name);
    }
    Ok(accelerator)
}

/// Takes the lock of a new container, whose id is recorded first.
fn lock_new(state: &State, folders: &Folders, id: &str) -> anyhow::Result<ContainerLock> {
    state.record(Pending::Container, id)?;
    // The id is new, but a command that cleans up may hold the lock for a moment.
    let lock = ContainerLock::take(&folders.run, id, || false)?.context("another command makes this container")?;
    // In that moment that command may have removed the record, which it does only under the lock: record again, now
    // that this process holds the lock.
    if let Err(error) = state.record(Pending::Container, id) {
        // The reason for the failure matters more.
        let _ = lock.remove();
        return Err(error.into());
    }
    Ok(lock)
}

fn make_disk(folders: &Folders, id: &str, is_transient: bool) -> anyhow::Result<()> {
    store_folder::make(&folders.data, id).context("cannot make the container's folder")?;
    Ok(scratch::create(
        &folders.data,
        &store_folder::scratch(&folders.data, id),
        is_transient,
    )?)
}

/// Creates the volumes that do not exist yet, and adds their rows together with the container's.
fn add_with_volumes(
    state: &State,
    folders: &Folders,
    container: &mut Container,
    wanted: Option<&str>,
    random: &[u8],
) -> anyhow::Result<()> {
    if container.config.mounts.is_empty() {
        return Ok(add(state, container, &[], wanted, random)?);
    }
    let lock = VolumesLock::take(&folders.data)?;
    let made = volumes::make_missing(&lock, state, &folders.data, &container.config.mounts)?;
    let added = add(state, container, &made, wanted, random);
    if added.is_err() {
        made.iter()
            .try_for_each(|volume| volumes::remove_disk(state, &folders.data, &volume.name))?;
    }
    Ok(added?)
}

/// Adds the row, under the user's name or a free generated one.
fn add(
    state: &State,
    container: &mut Container,
    made: &[Volume],
    wanted: Option<&str>,
    random: &[u8],
) -> Result<(), StateError> {
    if let Some(name) = wanted {
        container.name = name.into();
        return state.add(container, made);
    }
    let mut attempt = 0;
    loop {
        container.name = names::generate(random, attempt);
        match state.add(container, made) {
            Err(StateError::NameTaken { .. }) if attempt < NAME_ATTEMPTS => attempt += 1,
            Err(StateError::NameTaken { .. }) => {
                container.name = container.id.chars().take(12).collect();
                return state.add(container, made);
            }
            added => return added,
        }
    }
}

/// Returns the row of a new container, which gets its name when it is added.
fn container(image_name: &str, image: &Image, plan: Plan, pod: Option<Pod>) -> Container {
    let created_ns = clock::now_ns();
    let Plan {
        spec,
        config,
        pod: planned,
    } = plan;
    Container {
        id: spec.id.clone(),
        name: String::new(),
        pod: Box::new(pod.unwrap_or_else(|| Pod::implicit(&spec.id, created_ns, planned))),
        image: image_name.into(),
        image_id: image.id.to_string(),
        created_ns,
        config,
        spec,
        status: Status::Created,
        started_ns: 0,
        finished_ns: 0,
        exit_code: 0,
        oom_killed: false,
        error: String::new(),
        restarts: 0,
        supervisor_pid: 0,
    }
}

/// Gets the image from the store or a registry, according to `--pull`.
async fn obtain(store: &Store, request: &RunRequest, settings: &Settings, bars: &Bars) -> anyhow::Result<Image> {
    let (name, args, platform) = (&request.image, &request.flags, request.platform.clone());
    let may_be_here = args.pull == PullPolicy::Always || platform.is_some();
    let stored = if args.pull == PullPolicy::Always {
        None
    } else {
        store.find(name)?
    };
    match (stored, &platform) {
        (Some(image), None) => return Ok(image),
        (Some(image), Some(wanted)) if wanted.matches(&image.config.platform) => return Ok(image),
        (Some(image), Some(wanted)) if args.pull == PullPolicy::Never => {
            anyhow::bail!(
                "image {name} is for {}, not for {wanted} (and --pull never)",
                image.config.platform
            )
        }
        (None, _) if args.pull == PullPolicy::Never => anyhow::bail!("no such image: {name} (and --pull never)"),
        _ => {}
    }
    let reference: Reference = name.parse()?;
    let options = pull_options(platform, &args.registry, settings);
    // Printed under the same condition as the progress bars: for people who watch. A script gets an error's one line or
    // none.
    if !args.quiet && std::io::IsTerminal::is_terminal(&std::io::stderr()) {
        eprintln!("Unable to find image '{reference}' locally");
    }
    let pulled = capsid_image::pull(store, &reference, &options, bars).await;
    Ok(pulled
        .with_context(|| {
            let why = if may_be_here { "" } else { ", which is not here" };
            format!("cannot pull {reference}{why}")
        })?
        .image)
}

/// Verifies the parts of the image that were not used since the last boot. The supervisor could not be interrupted
/// while it does so.
async fn check(store: &Store, image: Image) -> anyhow::Result<Image> {
    let store = store.clone();
    let checking = tokio::task::spawn_blocking(move || store.check_image(&image).map(|()| image));
    Ok(checking.await.context("the check of the image broke off")??)
}

/// Refuses to run an image for another platform, which may be in the store to inspect or to copy.
fn check_platform(name: &str, image: &Image) -> anyhow::Result<()> {
    let (here, built) = (Platform::host(), &image.config.platform);
    if !here.accepts(built) {
        anyhow::bail!("image {name} is for {built}, and this machine runs {here}");
    }
    Ok(())
}

/// Returns an error when the file for the id exists already, before anything is created.
pub(crate) fn check_id_file(path: Option<&std::path::Path>) -> anyhow::Result<()> {
    if let Some(path) = path
        && path.symlink_metadata().is_ok()
    {
        bail!("cannot write the id to {}: the file exists", path.display());
    }
    Ok(())
}
