//! Device with nonexistent files, for fuzzing: checks that whatever passes the filter keeps the filter's promises.

use std::ffi::CStr;
use std::io;
use std::time::Duration;

use fuse_backend_rs::abi::fuse_abi::{CreateIn, stat64, statvfs64};
use fuse_backend_rs::api::filesystem::{
    Context, DirEntry, Entry, FileSystem, FsOptions, OpenOptions, SetattrValid, ZeroCopyReader, ZeroCopyWriter,
};
use vhost_user_backend::{VhostUserBackend as _, VringRwLock, VringT as _};
use virtio_queue::QueueT as _;
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryAtomic, GuestMemoryMmap};

use crate::device::FileDevice;
use crate::files::Files;
use crate::limits;

/// Size of the guest's memory in bytes.
pub const MEMORY_BYTES: u64 = 4 << 20;
/// Number of entries in the ring.
pub const RING_SIZE: u16 = 64;
/// Addresses of the ring's descriptors, available entries and used entries.
pub const RING: [u64; 3] = [0x1000, 0x2000, 0x3000];

/// File server with a guest's memory and one ring.
pub struct Bench {
    device: FileDevice<Nothing>,
    memory: GuestMemoryMmap,
    ring: VringRwLock,
}

impl Bench {
    /// Creates a device that is started.
    ///
    /// # Panics
    /// Panics when memory cannot be allocated.
    #[must_use]
    pub fn new(event_index: bool) -> Self {
        let range = [(GuestAddress(0), MEMORY_BYTES as usize)];
        let memory = GuestMemoryMmap::from_ranges(&range).expect("memory");
        let shared = GuestMemoryAtomic::new(memory.clone());
        let device = FileDevice::new(Files::over(Nothing), shared.clone());
        device.set_event_idx(event_index);
        let ring = VringRwLock::new(shared, limits::QUEUE_SIZE as u16).expect("a ring");
        ring.set_queue_size(RING_SIZE);
        ring.set_queue_info(RING[0], RING[1], RING[2]).expect("aligned");
        ring.set_queue_event_idx(event_index);
        ring.set_queue_ready(true);
        Self { device, memory, ring }
    }

    /// Writes to the guest's memory; ignores addresses outside of it.
    pub fn write(&self, address: u64, bytes: &[u8]) {
        let _ = self.memory.write_slice(bytes, GuestAddress(address));
    }

    /// Serves the ring and returns whether it is still usable. Checks that the bytes of used entries lie within the
    /// memory.
    pub fn serve(&self) -> bool {
        let served = self.device.serve(&self.ring).is_ok();
        assert!(self.ring.get_mut().get_queue().is_valid(&self.memory));
        served
    }
}

/// File system in which every name exists and every request succeeds. Each request asserts the filter's promises.
struct Nothing;

fn mode_is_harmless(mode: u32) {
    assert_eq!(mode & libc::S_ISUID, 0, "{mode:o}");
}

fn name_is_component(name: &CStr) {
    assert!(!matches!(name.to_bytes(), b"." | b".."), "{name:?}");
}

fn entry() -> Entry {
    Entry {
        inode: 2,
        ..Entry::default()
    }
}

impl FileSystem for Nothing {
    type Inode = u64;
    type Handle = u64;

    fn init(&self, _: FsOptions) -> io::Result<FsOptions> {
        Ok(FsOptions::all())
    }

    fn lookup(&self, _: &Context, _: u64, name: &CStr) -> io::Result<Entry> {
        name_is_component(name);
        Ok(entry())
    }

    fn getattr(&self, _: &Context, inode: u64, _: Option<u64>) -> io::Result<(stat64, Duration)> {
        // All zero but for the kind: by the library's own conversion.
        let mut attributes = fuse_backend_rs::abi::fuse_abi::Attr::default();
        attributes.mode = if inode & 1 == 1 { libc::S_IFDIR } else { libc::S_IFREG };
        Ok((attributes.into(), Duration::ZERO))
    }

    fn setattr(
        &self,
        context: &Context,
        inode: u64,
        attributes: stat64,
        handle: Option<u64>,
        valid: SetattrValid,
    ) -> io::Result<(stat64, Duration)> {
        if valid.contains(SetattrValid::MODE) {
            mode_is_harmless(attributes.st_mode);
        }
        self.getattr(context, inode, handle)
    }

    fn readlink(&self, _: &Context, _: u64) -> io::Result<Vec<u8>> {
        Ok(b"target".to_vec())
    }

    fn symlink(&self, _: &Context, _: &CStr, _: u64, _: &CStr) -> io::Result<Entry> {
        Ok(entry())
    }

    fn mknod(&self, _: &Context, _: u64, _: &CStr, mode: u32, device: u32, _: u32) -> io::Result<Entry> {
        mode_is_harmless(mode);
        let kind = mode & libc::S_IFMT;
        assert!(
            device == 0 && kind != libc::S_IFCHR && kind != libc::S_IFBLK,
            "{mode:o}"
        );
        Ok(entry())
    }

    fn mkdir(&self, _: &Context, _: u64, _: &CStr, mode: u32, _: u32) -> io::Result<Entry> {
        mode_is_harmless(mode);
        Ok(entry())
    }

    fn rename(&self, _: &Context, _: u64, _: &CStr, _: u64, _: &CStr, flags: u32) -> io::Result<()> {
        assert_eq!(flags & libc::RENAME_WHITEOUT, 0);
        Ok(())
    }

    fn link(&self, _: &Context, _: u64, _: u64, _: &CStr) -> io::Result<Entry> {
        Ok(entry())
    }

    fn open(
        &self,
        _: &Context,
        inode: u64,
        flags: u32,
        fuse_flags: u32,
    ) -> io::Result<(Option<u64>, OpenOptions, Option<u32>)> {
        let odd = libc::O_PATH | libc::O_ASYNC | libc::O_NOATIME | libc::O_DIRECT | libc::O_CREAT;
        assert_eq!((flags & odd as u32, fuse_flags), (0, 0));
        Ok((Some(inode), OpenOptions::empty(), None))
    }

    fn create(
        &self,
        context: &Context,
        inode: u64,
        _: &CStr,
        arguments: CreateIn,
    ) -> io::Result<(Entry, Option<u64>, OpenOptions, Option<u32>)> {
        mode_is_harmless(arguments.mode);
        let flags = arguments.flags & !(libc::O_CREAT as u32);
        let (handle, options, _) = self.open(context, inode, flags, arguments.fuse_flags)?;
        Ok((entry(), handle, options, None))
    }

    fn read(
        &self,
        _: &Context,
        _: u64,
        _: u64,
        writer: &mut dyn ZeroCopyWriter,
        size: u32,
        _: u64,
        _: Option<u64>,
        _: u32,
    ) -> io::Result<usize> {
        writer.write(&[7; 4096][..size.min(4096) as usize])
    }

    fn write(
        &self,
        _: &Context,
        _: u64,
        _: u64,
        reader: &mut dyn ZeroCopyReader,
        size: u32,
        _: u64,
        _: Option<u64>,
        _: bool,
        _: u32,
        _: u32,
    ) -> io::Result<usize> {
        reader.read(&mut [0; 4096][..size.min(4096) as usize])
    }

    fn statfs(&self, _: &Context, _: u64) -> io::Result<statvfs64> {
        Err(io::Error::from_raw_os_error(libc::EIO))
    }

    fn opendir(&self, _: &Context, inode: u64, _: u32) -> io::Result<(Option<u64>, OpenOptions)> {
        Ok((Some(inode), OpenOptions::empty()))
    }

    fn readdir(
        &self,
        _: &Context,
        _: u64,
        _: u64,
        size: u32,
        offset: u64,
        add_entry: &mut dyn FnMut(DirEntry) -> io::Result<usize>,
    ) -> io::Result<()> {
        assert!(size <= limits::LISTING_BYTES);
        for index in 0..64 {
            let entry = DirEntry {
                ino: index,
                offset: offset.wrapping_add(index),
                type_: u32::from(libc::DT_REG),
                name: b"name",
            };
            if add_entry(entry)? == 0 {
                break;
            }
        }
        Ok(())
    }

    fn readdirplus(
        &self,
        context: &Context,
        inode: u64,
        handle: u64,
        size: u32,
        offset: u64,
        add_entry: &mut dyn FnMut(DirEntry, Entry) -> io::Result<usize>,
    ) -> io::Result<()> {
        self.readdir(context, inode, handle, size, offset, &mut |found| {
            add_entry(found, entry())
        })
    }
}
