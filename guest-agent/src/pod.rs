//! Shared parts of a pod's containers: namespaces of network, ipc and uts, `/dev/shm`, a cgroup above their own, and
//! the pid namespace if requested. The first container makes the pod, and it stays until the machine ends, whichever
//! containers start and end.
//!
//! The namespaces are held by descriptors; only the pid namespace needs a process, its PID 1, which only reaps.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use capsid_protocol::process::init_order::Kind as Order;
use capsid_protocol::spec::{self, Unit};
use capsid_protocol::{ContainerSpec, FrameError, InitOrder, write_frame};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::cgroup::{self, Cgroup, CgroupError};
use crate::log;
use crate::mount::{self, MountError};
use crate::namespaces::{self, NamespaceError};
use crate::network::Device;
use crate::plan::attribute;
use crate::spawner::Spawner;
use crate::sys::{self, PidNamespace, Spawned};

/// Mount point of the shared memory, in the agent's mount namespace, of which each container init has a copy at first.
pub(crate) const SHM: &str = "/shm";

/// Name of the cgroup above those of the containers; theirs are ids.
const CGROUP: &str = "pod";

/// Error of making a pod.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PodError {
    /// The thread that makes the namespaces cannot be started.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
    /// The thread that makes the namespaces has panicked.
    #[error("the thread that makes the namespaces has ended")]
    Ended,
    /// The namespaces cannot be made.
    #[error("cannot make the namespaces")]
    Namespaces(#[source] Errno),
    /// Host name, loopback interface, network device or kernel parameters cannot be set.
    #[error("cannot set up the namespaces")]
    SetUp(#[source] NamespaceError),
    /// A namespace cannot be opened to hold it.
    #[error("cannot open the namespace {path}")]
    Open { path: String, source: std::io::Error },
    /// The cgroup above the containers' cannot be made.
    #[error("cannot make the cgroup")]
    Cgroup(#[source] CgroupError),
    /// The mount point of the shared memory cannot be made.
    #[error("cannot make {SHM}")]
    ShmFolder(#[source] Errno),
    /// The shared memory cannot be mounted.
    #[error("cannot mount the shared memory")]
    Shm(#[source] MountError),
    /// The first process of the pid namespace cannot be started.
    #[error("cannot start the pod's first process")]
    First(#[source] Errno),
    /// The first process of the pid namespace does not accept its order.
    #[error("cannot speak to the pod's first process")]
    Control(#[source] FrameError),
}

/// Pod of the machine, held while the machine runs.
pub(crate) struct Pod {
    namespaces: Namespaces,
    cgroup: Cgroup,
    pids: Option<Pids>,
}

/// Namespaces of network, ipc and uts.
type Namespaces = [OwnedFd; 3];

/// Pid namespace of the pod.
struct Pids {
    namespace: OwnedFd,
    /// Pid namespace of the agent, to return to.
    own: OwnedFd,
    /// PID 1 of the pid namespace, which runs as long as the machine.
    _first: Spawned,
    _control: UnixStream,
}

impl Pod {
    /// Makes the pod for its first container.
    pub(crate) fn make(first: &ContainerSpec, pod: &spec::Pod, spawner: &Spawner) -> Result<Self, PodError> {
        let cgroup = Cgroup::make(None, CGROUP, &pod.limits).map_err(PodError::Cgroup)?;
        cgroup.share_out();
        mount_shm(pod.shm_bytes)?;
        Ok(Self {
            namespaces: make_namespaces(first.clone())?,
            cgroup,
            pids: pod.shares_pids.then(|| Pids::make(spawner)).transpose()?,
        })
    }

    /// Returns the cgroup above the containers'.
    pub(crate) fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Returns the namespaces that a container init passes to [`enter`].
    pub(crate) fn namespaces(&self) -> Vec<BorrowedFd<'_>> {
        self.namespaces.iter().map(AsFd::as_fd).collect()
    }

    /// Returns only the network namespace.
    pub(crate) fn network(&self) -> BorrowedFd<'_> {
        let [network, ..] = &self.namespaces;
        network.as_fd()
    }

    /// Starts a container init in the pid namespace of this pod's containers, or in one of its own.
    pub(crate) fn spawn(
        &self,
        program: BorrowedFd<'_>,
        cgroup: BorrowedFd<'_>,
        control: BorrowedFd<'_>,
    ) -> Result<Spawned, Errno> {
        let Some(pids) = &self.pids else {
            return sys::spawn_init(program, cgroup, control, PidNamespace::New);
        };
        // Applies to the next children of this thread alone: it makes one, and moves back before it starts a thread,
        // which the kernel refuses in between.
        let kind = Some(LinkNameSpaceType::ProcessID);
        move_into_link_name_space(pids.namespace.as_fd(), kind)?;
        let spawned = sys::spawn_init(program, cgroup, control, PidNamespace::Inherited);
        if let Err(e) = move_into_link_name_space(pids.own.as_fd(), kind) {
            log::warn(&format!("cannot leave a pid namespace: {e}"));
        }
        spawned
    }
}

/// Joins the namespaces of a pod, as a container init.
pub(crate) fn enter(namespaces: &[OwnedFd]) -> Result<(), Errno> {
    namespaces
        .iter()
        .try_for_each(|namespace| move_into_link_name_space(namespace.as_fd(), None))
}

/// Makes the namespaces in a thread of their own; the descriptors keep them.
fn make_namespaces(first: ContainerSpec) -> Result<Namespaces, PodError> {
    let make = move || {
        let device = first.network.as_ref().map(|_| Device::here()).transpose();
        let device = device.map_err(|e| PodError::SetUp(NamespaceError::Network(e)))?;
        sys::unshare_pod_namespaces().map_err(PodError::Namespaces)?;
        namespaces::set_up(&first, device).map_err(PodError::SetUp)?;
        let open = |kind: &str| open_namespace(&format!("/proc/thread-self/ns/{kind}"));
        Ok([open("net")?, open("ipc")?, open("uts")?])
    };
    let thread = std::thread::Builder::new().name("namespaces".into()).spawn(make);
    thread.map_err(PodError::Thread)?.join().map_err(|_| PodError::Ended)?
}

fn open_namespace(path: &str) -> Result<OwnedFd, PodError> {
    File::open(path).map(OwnedFd::from).map_err(|source| PodError::Open {
        path: path.into(),
        source,
    })
}

fn mount_shm(bytes: u64) -> Result<(), PodError> {
    match rustix::fs::mkdir(SHM, Mode::from_raw_mode(0o755)) {
        Ok(()) => {}
        // Left by a pod whose creation failed half-way.
        Err(Errno::EXIST) => return Ok(()),
        Err(e) => return Err(PodError::ShmFolder(e)),
    }
    let size = bytes.to_string();
    let attributes = attribute::NOSUID | attribute::NODEV | attribute::NOEXEC;
    let options = [("source", "shm"), ("size", size.as_str()), ("mode", "1777")];
    mount::filesystem("tmpfs", &options, &[], attributes)
        .and_then(|m| mount::attach(&m, CWD, SHM))
        .map_err(PodError::Shm)
}

impl Pids {
    fn make(spawner: &Spawner) -> Result<Self, PodError> {
        let (mut control, init_end) = UnixStream::pair().map_err(|e| PodError::Control(FrameError::Io(e)))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let cgroup = rustix::fs::open(cgroup::AGENT, flags, Mode::empty()).map_err(PodError::First)?;
        let (program, folder) = (spawner.program.as_fd(), cgroup.as_fd());
        let spawn = || sys::spawn_init(program, folder, init_end.as_fd(), PidNamespace::New);
        let first = spawner.reaper.spawn(spawn, Box::new(|_| {})).map_err(PodError::First)?;
        let namespace = open_namespace(&format!("/proc/{}/ns/pid", first.pid.as_raw_nonzero()))?;
        let own = open_namespace("/proc/self/ns/pid")?;
        let order = InitOrder::from(Order::ReapPod(Unit {}));
        write_frame(&mut control, &order).map_err(PodError::Control)?;
        Ok(Self {
            namespace,
            own,
            _first: first,
            _control: control,
        })
    }
}
