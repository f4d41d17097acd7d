//! A network of a test's own, in two network namespaces: a host that Capsid runs on, and the world around it.
//!
//! ```text
//!   host                                   world
//!   192.168.77.1, 2001:db8:77::1  ──veth──  192.168.77.2, 2001:db8:77::2   the way to everywhere
//!   127.0.0.1                               203.0.113.5, 2001:db8:1::5     public: servers
//!                                           10.9.0.5, fd99::5              private
//!                                           169.254.169.254, 168.63.129.16 metadata of clouds
//!                                           203.0.113.53                   resolver: dnsmasq
//! ```

use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

use crate::capsid::Capsid;
use crate::invocation::Invocation;
use crate::sys;

/// IPv4 address of the world's public servers.
pub const PUBLIC_V4: &str = "203.0.113.5";
/// IPv6 address of the world's public servers.
pub const PUBLIC_V6: &str = "2001:db8:1::5";
/// IPv4 address of a private network.
pub const PRIVATE_V4: &str = "10.9.0.5";
/// IPv6 address of a private network.
pub const PRIVATE_V6: &str = "fd99::5";
/// Metadata address, where clouds give their machines secrets.
pub const METADATA: &str = "169.254.169.254";
/// Azure's metadata address, which looks like one of the public internet.
pub const WIRE_SERVER: &str = "168.63.129.16";
/// IPv4 address of the host, as the world sees it.
pub const HOST_V4: &str = "192.168.77.1";
/// IPv6 address of the host, as the world sees it.
pub const HOST_V6: &str = "2001:db8:77::1";
/// Port of the servers in the world and on the host.
pub const PORT: u16 = 7000;
/// Second port of the servers in the world.
pub const OTHER_PORT: u16 = 7001;
const RESOLVER: &str = "203.0.113.53";

/// Locks out other tests, for tests that count what exists.
pub fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Both namespaces, removed with the value.
#[derive(Debug)]
pub struct World {
    name: String,
    resolver: Option<Child>,
}

impl World {
    /// Makes the network.
    pub fn make() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // The first named namespace makes the folder of names a mount.
        static MAKING: Mutex<()> = Mutex::new(());
        let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut world = Self {
            name: format!("capsid-{}-{number}", std::process::id()),
            resolver: None,
        };
        let (host, outside) = (world.host(), world.outside());
        for namespace in [&host, &outside] {
            ip(&["netns", "add", namespace]);
            ip(&["-n", namespace, "link", "set", "lo", "up"]);
        }
        ip(&[
            "-n", &host, "link", "add", "up0", "type", "veth", "peer", "name", "down0", "netns", &outside,
        ]);
        let addresses = [
            (&host, "up0", &["192.168.77.1/24", "2001:db8:77::1/64"][..]),
            (&outside, "down0", &["192.168.77.2/24", "2001:db8:77::2/64"]),
            (
                &outside,
                "lo",
                &[
                    "203.0.113.5/32",
                    "2001:db8:1::5/128",
                    "10.9.0.5/32",
                    "fd99::5/128",
                    "169.254.169.254/32",
                    "168.63.129.16/32",
                    "203.0.113.53/32",
                ],
            ),
        ];
        for (namespace, link, addresses) in addresses {
            for address in addresses {
                let nodad = if address.contains(':') { &["nodad"][..] } else { &[] };
                ip(&[&["-n", namespace, "addr", "add", address, "dev", link], nodad].concat());
            }
            ip(&["-n", namespace, "link", "set", link, "up"]);
        }
        ip(&["-n", &host, "route", "add", "default", "via", "192.168.77.2"]);
        ip(&["-n", &host, "-6", "route", "add", "default", "via", "2001:db8:77::2"]);
        // Same as systemd's setting: everybody may send echoes.
        let sysctl = "/proc/sys/net/ipv4/ping_group_range";
        world.on_host_do(|| fs::write(sysctl, "0 2147483647").expect("a namespace of our own"));
        // `ip netns exec` mounts it over /etc.
        fs::create_dir_all(world.etc()).expect("/etc/netns");
        fs::write(world.etc().join("resolv.conf"), format!("nameserver {RESOLVER}\n")).expect("a file");
        world.resolver = Some(world.serve_names());
        world
    }

    /// Makes the network with servers at [`PORT`] and [`OTHER_PORT`] of all the world's addresses, and at [`PORT`] of
    /// the host's.
    pub fn with_servers() -> Self {
        let world = Self::make();
        for address in [PUBLIC_V4, PUBLIC_V6, PRIVATE_V4, PRIVATE_V6, METADATA, WIRE_SERVER] {
            world.serve(address, PORT);
            world.serve(address, OTHER_PORT);
        }
        for address in ["127.0.0.1", "::1", HOST_V4, HOST_V6] {
            world.serve_on_host(address, PORT);
        }
        world
    }

    /// Prepares a call of `capsid` on this host.
    pub fn call<A: AsRef<OsStr>>(&self, capsid: &Capsid, arguments: impl IntoIterator<Item = A>) -> Invocation {
        let mut plain = capsid.call(arguments);
        let plain = plain.command();
        // Found whatever PATH the call is given.
        let mut invocation = Invocation::new("/sbin/ip", ["netns", "exec", &self.host()]);
        let command = invocation.command();
        command.arg(plain.get_program()).args(plain.get_args()).env_clear();
        for (name, value) in plain.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        invocation
    }

    /// Calls `act` as a process of the world around the host.
    pub fn outside_do<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        within(&self.outside(), act)
    }

    /// Calls `act` as a process of the host.
    pub fn on_host_do<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        within(&self.host(), act)
    }

    /// Starts a server in the world that sends `hello` and echoes its input, until the client closes the connection.
    pub fn serve(&self, address: &str, port: u16) {
        self.outside_do(|| serve(address, port));
    }

    /// Starts the same server on the host.
    pub fn serve_on_host(&self, address: &str, port: u16) {
        self.on_host_do(|| serve(address, port));
    }

    /// Connects from the world.
    pub fn connect(&self, to: &str) -> std::io::Result<TcpStream> {
        self.outside_do(|| connect(to))
    }

    /// Connects from the host.
    pub fn connect_on_host(&self, to: &str) -> std::io::Result<TcpStream> {
        self.on_host_do(|| connect(to))
    }

    /// Opens a UDP socket in the world.
    pub fn udp(&self, address: &str) -> UdpSocket {
        let socket = self.outside_do(|| UdpSocket::bind(address).expect("an address of the world's"));
        socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .expect("a socket");
        socket
    }

    /// Gives the host one more address, such as `203.0.113.99/32`.
    pub fn give_host(&self, address: &str) {
        ip(&["-n", &self.host(), "addr", "add", address, "dev", "up0"]);
    }

    /// Returns the names of the existing namespaces.
    pub fn namespaces() -> String {
        let output = Command::new("ip")
            .args(["netns", "list"])
            .output()
            .expect("iproute2 is installed");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn host(&self) -> String {
        format!("{}-host", self.name)
    }

    fn outside(&self) -> String {
        format!("{}-world", self.name)
    }

    fn etc(&self) -> PathBuf {
        PathBuf::from("/etc/netns").join(self.host())
    }

    fn serve_names(&self) -> Child {
        let mut command = Command::new("ip");
        command
            .args([
                "netns",
                "exec",
                &self.outside(),
                "dnsmasq",
                "--keep-in-foreground",
                "--conf-file=/dev/null",
            ])
            .args([
                "--no-resolv",
                "--no-hosts",
                "--bind-interfaces",
                "--pid-file=",
                "--user=root",
            ])
            .arg(format!("--listen-address={RESOLVER}"))
            .args([
                "--host-record=public.test,203.0.113.5,2001:db8:1::5",
                "--host-record=private.test,10.9.0.5",
                "--host-record=rebound.test,192.168.77.1",
                "--host-record=other.test,203.0.113.53",
                "--cname=alias.test,public.test",
            ])
            .stderr(Stdio::null());
        sys::die_with_parent(&mut command);
        let child = command.spawn().expect("dnsmasq is installed");
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.connect(&format!("{RESOLVER}:53")).is_err() {
            assert!(Instant::now() < deadline, "dnsmasq does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        child
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(mut resolver) = self.resolver.take() {
            let _ = resolver.kill();
            let _ = resolver.wait();
        }
        for namespace in [self.host(), self.outside()] {
            let _ = Command::new("ip").args(["netns", "del", &namespace]).status();
        }
        let _ = fs::remove_dir_all(self.etc());
    }
}

fn ip(words: &[&str]) {
    let output = Command::new("ip").args(words).output().expect("iproute2 is installed");
    assert!(
        output.status.success(),
        "ip {words:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Calls `act` in a thread that enters a network namespace: sockets that it opens stay there.
fn within<T: Send>(namespace: &str, act: impl FnOnce() -> T + Send) -> T {
    let file = File::open(format!("/run/netns/{namespace}")).expect("a namespace");
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(&file, CloneFlags::CLONE_NEWNET).expect("a right to enter it");
            act()
        });
        thread.join().expect("no panic")
    })
}

fn connect(to: &str) -> std::io::Result<TcpStream> {
    let address: SocketAddr = to.parse().expect("an address");
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    Ok(stream)
}

/// Serves TCP, echoing after a greeting, and UDP, echoing, for as long as the test runs.
fn serve(address: &str, port: u16) {
    let address = SocketAddr::new(address.parse().expect("an address"), port);
    let listener = TcpListener::bind(address).expect("an address of this side");
    let socket = UdpSocket::bind(address).expect("an address of this side");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || greet_and_echo(stream));
        }
    });
    std::thread::spawn(move || {
        let mut bytes = [0; 65536];
        while let Ok((count, from)) = socket.recv_from(&mut bytes) {
            let _ = socket.send_to(&bytes[..count], from);
        }
    });
}

fn greet_and_echo(mut stream: TcpStream) {
    use std::io::Write;
    if stream.write_all(b"hello\n").is_ok() {
        let mut reader = stream.try_clone().expect("a socket");
        let _ = std::io::copy(&mut reader, &mut stream);
        // The other half stays open until here.
        let _ = stream.shutdown(std::net::Shutdown::Write);
    }
}
