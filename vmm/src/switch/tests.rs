//! Tests of the switch as its members see it, without the jail.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::Duration;

use etherparse::PacketBuilder;
use rustix::fs::FlockOperation;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tempfile::TempDir;

use super::fabric::Fabric;
use super::membership::{Answer, Join, join, rename};
use crate::config::SwitchConfig;

struct Network {
    folder: TempDir,
    /// Lock file as supervisors that join have it.
    lock: std::fs::File,
    thread: JoinHandle<std::io::Result<()>>,
}

#[derive(Debug)]
struct Member {
    control: OwnedFd,
    frames: UnixStream,
}

fn socket() -> OwnedFd {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
}

fn mac(last: u8) -> [u8; 6] {
    [2, 0xca, 0, 0, 0, last]
}

impl Network {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = socket();
        rustix::net::bind(&listener, &SocketAddrUnix::new(folder.path().join("socket")).unwrap()).unwrap();
        rustix::net::listen(&listener, 16).unwrap();
        let open = || std::fs::File::create(folder.path().join("lock")).unwrap();
        let (lock, its_lock) = (open(), open());
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).unwrap();
        let config = SwitchConfig {
            listener_fd: 0,
            lock_fd: 0,
            gateway_mac: mac(1),
            gateways: vec!["10.89.0.1".parse().unwrap()],
        };
        let switch = Fabric::new(&config, 8, listener, its_lock.into()).unwrap();
        let thread = std::thread::spawn(|| switch.run());
        Self { folder, lock, thread }
    }

    fn join(&self, last: u8, name: &str) -> Result<Member, String> {
        let control = socket();
        rustix::net::connect(
            &control,
            &SocketAddrUnix::new(self.folder.path().join("socket")).unwrap(),
        )
        .unwrap();
        let (frames, its_frames) = UnixStream::pair().unwrap();
        frames.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let wish = Join {
            mac: mac(last),
            addresses: vec![[10, 89, 0, last].into()],
            names: vec![name.into()],
        };
        match join(control.as_fd(), wish, its_frames.into()).unwrap() {
            Answer::Admitted => Ok(Member { control, frames }),
            Answer::Refused(reason) => Err(reason),
        }
    }
}

impl Member {
    fn send(&mut self, from: u8, to: u8, payload: &[u8]) {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(mac(from), mac(to))
            .ipv4([10, 89, 0, from], [10, 89, 0, to], 64)
            .udp(7, 7)
            .write_to_vec(&mut frame, payload)
            .unwrap();
        self.frames.write_all(&(frame.len() as u32).to_be_bytes()).unwrap();
        self.frames.write_all(&frame).unwrap();
    }

    fn receive(&mut self) -> Vec<u8> {
        let mut length = [0; 4];
        self.frames.read_exact(&mut length).unwrap();
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        self.frames.read_exact(&mut frame).unwrap();
        frame.split_off(14 + 20 + 8)
    }
}

#[test]
fn members_speak_to_each_other_until_they_leave() {
    let network = Network::start();
    let (mut web, mut db) = (network.join(2, "web").unwrap(), network.join(3, "db").unwrap());
    // More frames than one turn carries.
    for number in 0..1000_u32 {
        web.send(2, 3, &number.to_be_bytes());
        if number % 4 == 0 {
            db.send(3, 2, b"back");
            assert_eq!(web.receive(), b"back");
        }
        assert_eq!(db.receive(), number.to_be_bytes());
    }
    web.send(2, 3, &[7; 60_000]);
    assert_eq!(db.receive(), [7; 60_000]);
    drop(db);
    web.send(2, 3, b"to nobody");
    let mut db = network.join(3, "db").unwrap();
    web.send(2, 3, b"again");
    assert_eq!(db.receive(), b"again");
}

#[test]
fn an_address_is_one_members_until_it_leaves() {
    let network = Network::start();
    let first = network.join(2, "web").unwrap();
    assert!(network.join(2, "web").unwrap_err().contains("02:ca:00:00:00:02"));
    for _ in 0..50 {
        drop(network.join(3, "db").unwrap());
    }
    drop(first);
    network.join(2, "web").unwrap();
}

#[test]
fn a_renamed_member_stays_one() {
    let network = Network::start();
    let (mut web, mut db) = (network.join(2, "web").unwrap(), network.join(3, "db").unwrap());
    rename(&db.control, vec!["data".into()]).unwrap();
    // Another member that joins does not remove it.
    let _third = network.join(4, "third").unwrap();
    web.send(2, 3, b"still");
    assert_eq!(db.receive(), b"still");
    let ask = |web: &mut Member, name: &str| {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(mac(2), mac(1))
            .ipv4([10, 89, 0, 2], [10, 89, 0, 1], 64)
            .udp(7, 53)
            .write_to_vec(&mut frame, &super::names::tests::question(name, 1))
            .unwrap();
        web.frames.write_all(&(frame.len() as u32).to_be_bytes()).unwrap();
        web.frames.write_all(&frame).unwrap();
        web.receive().len() > frame.len() - 42
    };
    assert!(ask(&mut web, "data") && !ask(&mut web, "db"));
}

#[test]
fn a_member_that_does_not_read_stops_nobody() {
    let network = Network::start();
    let (mut web, mut db) = (network.join(2, "web").unwrap(), network.join(3, "db").unwrap());
    let _deaf = network.join(4, "deaf").unwrap();
    for _ in 0..200 {
        web.send(2, 4, &[0; 60_000]);
    }
    web.send(2, 3, b"heard");
    assert_eq!(db.receive(), b"heard");
}

#[test]
fn it_ends_with_its_last_member_but_not_while_one_joins() {
    let network = Network::start();
    let nonsense = socket();
    rustix::net::connect(
        &nonsense,
        &SocketAddrUnix::new(network.folder.path().join("socket")).unwrap(),
    )
    .unwrap();
    rustix::net::send(&nonsense, b"{}", rustix::net::SendFlags::empty()).unwrap();
    let member = network.join(2, "web").unwrap();
    drop(member.control);
    std::thread::sleep(Duration::from_millis(200));
    assert!(!network.thread.is_finished(), "the lock is held");
    rustix::fs::flock(&network.lock, FlockOperation::Unlock).unwrap();
    network.thread.join().unwrap().unwrap();
}
