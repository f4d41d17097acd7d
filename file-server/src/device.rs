//! The virtio-fs device (virtio 1.3, section 5.11): two rings of FUSE requests. The VMM has its configuration space.

use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};

use fuse_backend_rs::api::filesystem::FileSystem;
use fuse_backend_rs::api::server::Server;
use fuse_backend_rs::passthrough::PassthroughFs;
use fuse_backend_rs::transport::{Reader, VirtioFsWriter, Writer};
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::{VhostUserBackend, VringRwLock, VringT};
use virtio_bindings::virtio_config::{VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_VERSION_1};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{DescriptorChain, QueueOwnedT};
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryLoadGuard, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;

use crate::files::Files;
use crate::limits;

/// Number of queues: high priority (forgotten files) and requests.
const QUEUES: usize = 2;

type Memory = GuestMemoryAtomic<GuestMemoryMmap>;
type Chain = DescriptorChain<GuestMemoryLoadGuard<GuestMemoryMmap>>;

/// Virtio-fs device, shared by the thread that speaks vhost-user and the one that serves the rings.
pub(crate) struct FileDevice<F = PassthroughFs>
where
    F: FileSystem<Inode = u64, Handle = u64> + Send + Sync + 'static,
{
    server: Server<Arc<Files<F>>>,
    memory: Memory,
    event_index: RwLock<bool>,
    gate: Gate,
}

impl<F> FileDevice<F>
where
    F: FileSystem<Inode = u64, Handle = u64> + Send + Sync + 'static,
{
    /// Creates a device that serves `files`, with its gate closed.
    pub(crate) fn new(files: Files<F>, memory: Memory) -> Self {
        Self {
            server: Server::new(Arc::new(files)),
            memory,
            event_index: RwLock::new(false),
            gate: Gate::default(),
        }
    }

    /// Opens the gate, so that the machine gets its first answer.
    pub(crate) fn open_gate(&self) {
        self.gate.open();
    }

    /// Answers every request in the ring, including requests that arrive meanwhile.
    pub(crate) fn serve(&self, vring: &VringRwLock) -> io::Result<()> {
        let event_index = *self.event_index.read().unwrap_or_else(PoisonError::into_inner);
        if !event_index {
            return self.work_off(vring);
        }
        loop {
            vring.disable_notification().map_err(io::Error::other)?;
            self.work_off(vring)?;
            // True when a request arrived before the guest knew that it has to notify again.
            if !vring.enable_notification().map_err(io::Error::other)? {
                return Ok(());
            }
        }
    }

    fn work_off(&self, vring: &VringRwLock) -> io::Result<()> {
        let memory = self.memory.memory();
        loop {
            // The ring's lock is not held while a request is carried out. `pop_descriptor_chain` would take an index
            // that no ring can have for an empty ring, and this loop would never end.
            let next = {
                let mut ring = vring.get_mut();
                let mut chains = ring.get_queue_mut().iter(memory.clone()).map_err(io::Error::other)?;
                chains.next()
            };
            let Some(chain) = next else {
                return Ok(());
            };
            let head = chain.head_index();
            let used_bytes = self.answer(&memory, chain);
            vring.add_used(head, used_bytes).map_err(io::Error::other)?;
            // Notify at once: the next request may take its time.
            if vring.needs_notification().map_err(io::Error::other)? {
                vring.signal_used_queue()?;
            }
        }
    }

    /// Answers one request and returns the answer's size in bytes; 0 for a malformed request or one without an answer.
    fn answer(&self, memory: &GuestMemoryMmap, chain: Chain) -> u32 {
        let Ok(reader) = Reader::from_descriptor_chain(memory, chain.clone()) else {
            return 0;
        };
        let Ok(writer) = VirtioFsWriter::new(memory, chain) else {
            return 0;
        };
        // Checks what the chain holds, not what its first words claim: overlapping parts can make a chain far larger
        // than the guest, and some requests are copied whole before they are refused (CVE-2016-5403's kind).
        if reader.available_bytes() > limits::MESSAGE_BYTES || writer.available_bytes() > limits::MESSAGE_BYTES {
            return 0;
        }
        let answered = self.server.handle_message(reader, Writer::VirtioFs(writer), None, None);
        answered.map_or(0, |bytes| u32::try_from(bytes).unwrap_or(0))
    }
}

impl<F> VhostUserBackend for FileDevice<F>
where
    F: FileSystem<Inode = u64, Handle = u64> + Send + Sync + 'static,
{
    type Bitmap = ();
    type Vring = VringRwLock;

    fn num_queues(&self) -> usize {
        QUEUES
    }

    fn max_queue_size(&self) -> usize {
        limits::QUEUE_SIZE
    }

    fn features(&self) -> u64 {
        // Every machine asks for this before anything else that needs an answer.
        self.gate.wait();
        1 << VIRTIO_F_VERSION_1
            // For machines that want bounce buffers used; nothing here depends on it.
            | 1 << VIRTIO_F_ACCESS_PLATFORM
            | 1 << VIRTIO_RING_F_INDIRECT_DESC
            | 1 << VIRTIO_RING_F_EVENT_IDX
            | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        // QEMU asks for the channel back where bounce buffers are wanted, and never uses it.
        VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::REPLY_ACK | VhostUserProtocolFeatures::BACKEND_REQ
    }

    fn set_event_idx(&self, enabled: bool) {
        *self.event_index.write().unwrap_or_else(PoisonError::into_inner) = enabled;
    }

    /// Does nothing: the library keeps the memory that it shares with this device up to date.
    fn update_memory(&self, _memory: Memory) -> io::Result<()> {
        Ok(())
    }

    fn handle_event(
        &self,
        device_event: u16,
        events: EventSet,
        vrings: &[VringRwLock],
        _thread: usize,
    ) -> io::Result<()> {
        let Some(vring) = vrings.get(usize::from(device_event)) else {
            return Ok(());
        };
        if !events.contains(EventSet::IN) {
            return Ok(());
        }
        if let Err(error) = self.serve(vring) {
            // The library would leave the ring unserved, and the guest would wait for ever.
            eprintln!("capsid-fs: the guest has made ring {device_event} unusable: {error}");
            std::process::exit(1);
        }
        Ok(())
    }
}

/// Gate that stays closed until the process is confined.
#[derive(Debug, Default)]
struct Gate {
    is_open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn open(&self) {
        *self.is_open.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.opened.notify_all();
    }

    fn wait(&self) {
        let is_open = self.is_open.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.opened.wait_while(is_open, |is_open| !*is_open));
    }
}
