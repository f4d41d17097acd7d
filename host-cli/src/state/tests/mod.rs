//! Tests of containers and pods in the state, and of user-defined networks and their members.

mod migrations;

use super::*;
use crate::model::{
    AccelChoice, ConnectTarget, Container, ContainerConfig, Endpoint, LogOptions, MachineSize, Network, NetworkConfig,
    NetworkSpec, Pod, PodConfig, RestartPolicy, Status, Subnet,
};

pub(crate) fn subnet(network: &str, gateway: &str) -> Subnet {
    Subnet {
        network: network.parse().unwrap(),
        gateway: gateway.parse().unwrap(),
    }
}

/// Adds a user-defined network, named `net-` and the given name.
pub(crate) fn network(state: &State, name: &str, subnets: &[Subnet]) -> Network {
    let mut network = Network {
        id: name.repeat(64),
        name: format!("net-{name}"),
        created_ns: 7,
        config: NetworkSpec {
            subnets: Vec::new(),
            internal: false,
            labels: vec!["tier=back".into()],
        },
    };
    state.add_network(&mut network, |_| Ok(subnets.to_vec())).unwrap();
    network
}

/// Requested endpoint on a network.
fn place(network: &Network, wanted: &[&str]) -> Endpoint {
    Endpoint {
        network: network.id.clone(),
        name: network.name.clone(),
        addresses: wanted.iter().map(|address| address.parse().unwrap()).collect(),
        aliases: Vec::new(),
    }
}

/// Configuration with the own link and no other network.
pub(crate) fn plain(mac: u8) -> NetworkConfig {
    NetworkConfig {
        mac: [2, 0, 0, 0, 0, mac],
        ports: Vec::new(),
        egress: Vec::new(),
        dns: Vec::new(),
        dns_search: Vec::new(),
        dns_options: Vec::new(),
        own_link: true,
        endpoints: Vec::new(),
        bytes_per_second: None,
    }
}

fn on(network: &Network, wanted: &[&str], mac: u8) -> NetworkConfig {
    NetworkConfig {
        own_link: false,
        endpoints: vec![place(network, wanted)],
        ..plain(mac)
    }
}

fn machine(hostname: &str, network: Option<NetworkConfig>) -> PodConfig {
    let size = MachineSize {
        vcpus: 1,
        memory_mib: 64,
    };
    PodConfig {
        network,
        ..PodConfig::implicit(size, AccelChoice::Kvm, hostname.into())
    }
}

/// Container in an implicit pod, whose id repeats one digit.
pub(crate) fn container(digit: &str, network: Option<NetworkConfig>) -> Container {
    let id = digit.repeat(64);
    Container {
        pod: Box::new(Pod::implicit(&id, 1, machine("", network))),
        id,
        name: format!("web-{digit}"),
        image: "busybox".into(),
        image_id: "sha256:0".into(),
        created_ns: 1,
        spec: capsid_protocol::ContainerSpec::default(),
        config: ContainerConfig {
            labels: Vec::new(),
            stop_signal: 15,
            stop_timeout_s: 10,
            remove: false,
            stdin_once: false,
            restart: RestartPolicy::No,
            was_stopped: false,
            log: LogOptions::default(),
            health: None,
            mounts: Vec::new(),
            shares: Vec::new(),
            declared: None,
        },
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

fn pod(digit: &str, config: NetworkConfig) -> Pod {
    Pod::new(
        digit.repeat(64),
        format!("pod-{digit}"),
        1,
        machine("pod", Some(config)),
    )
}

fn addresses(config: Option<&NetworkConfig>) -> Vec<String> {
    let endpoint = config.into_iter().flat_map(|config| &config.endpoints);
    let addresses = endpoint.flat_map(|endpoint| &endpoint.addresses);
    addresses.map(ToString::to_string).collect()
}

/// Adds a container, and returns its addresses.
fn add(state: &State, mut container: Container) -> Result<Vec<String>, StateError> {
    state.add(&mut container, &[])?;
    let row = state.container(&container.id).unwrap();
    assert_eq!((row.config, &row.pod.config), (container.config, &container.pod.config));
    assert_eq!(state.pod(&row.pod.id).unwrap().config, row.pod.config);
    Ok(addresses(container.pod.config.network.as_ref()))
}

#[test]
fn pods_and_containers_get_the_lowest_free_addresses() {
    let data = tempfile::tempdir().unwrap();
    let state = State::open(data.path()).unwrap();
    let both = [subnet("10.89.0.0/24", "10.89.0.1"), subnet("fd12::/64", "fd12::1")];
    let made = network(&state, "a", &both);
    assert_eq!(
        add(&state, container("1", Some(on(&made, &[], 1)))).unwrap(),
        ["10.89.0.2", "fd12::2"]
    );
    let mut grouped = pod("2", on(&made, &["10.89.0.9"], 2));
    state.add_pod(&mut grouped).unwrap();
    assert_eq!(addresses(grouped.config.network.as_ref()), ["10.89.0.9", "fd12::3"]);
    assert_eq!(state.pod(&grouped.id).unwrap().config, grouped.config);
    assert_eq!(
        add(&state, container("3", Some(on(&made, &[], 3)))).unwrap(),
        ["10.89.0.3", "fd12::4"]
    );
    let members = state.members(&made.id).unwrap();
    let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
    assert_eq!(names, ["pod-2", "web-1", "web-3"]);
    // A removed member frees its own addresses, and only those.
    state.remove_pod(&grouped.id).unwrap();
    state.remove_with_volumes(&"1".repeat(64), &[]).unwrap();
    assert_eq!(
        add(&state, container("4", Some(on(&made, &["10.89.0.9"], 2)))).unwrap(),
        ["10.89.0.9", "fd12::2"]
    );
    assert_eq!(state.members(&made.id).unwrap().len(), 2);
}

#[test]
fn an_address_is_given_once() {
    let data = tempfile::tempdir().unwrap();
    let state = State::open(data.path()).unwrap();
    let small = network(&state, "a", &[subnet("10.89.0.0/30", "10.89.0.1")]);
    assert_eq!(
        add(&state, container("1", Some(on(&small, &[], 1)))).unwrap(),
        ["10.89.0.2"]
    );
    let reported = |error: StateError| error.to_string();
    assert_eq!(
        reported(add(&state, container("2", Some(on(&small, &[], 2)))).unwrap_err()),
        "network net-a has no free address in 10.89.0.0/30"
    );
    assert_eq!(
        reported(add(&state, container("2", Some(on(&small, &["10.89.0.2"], 2)))).unwrap_err()),
        "address 10.89.0.2 is already in use by web-1"
    );
    assert_eq!(
        reported(add(&state, container("2", Some(on(&small, &[], 1)))).unwrap_err()),
        "address 02:00:00:00:00:01 is already in use by web-1"
    );
    assert!(matches!(state.container(&"2".repeat(64)), Err(StateError::Unknown(_))));
    // The same address on another network is free.
    let other = network(&state, "b", &[subnet("10.89.0.0/30", "10.89.0.1")]);
    assert_eq!(
        add(&state, container("2", Some(on(&other, &[], 1)))).unwrap(),
        ["10.89.0.2"]
    );
}

#[test]
fn commands_at_once_take_different_addresses() {
    let data = tempfile::tempdir().unwrap();
    let made = network(
        &State::open(data.path()).unwrap(),
        "a",
        &[subnet("10.89.0.0/24", "10.89.0.1")],
    );
    let add_some = |digits: &[u8]| {
        let state = State::open(data.path()).unwrap();
        let add_one = |digit: &u8| add(&state, container(&format!("{digit:x}"), Some(on(&made, &[], *digit)))).unwrap();
        digits.iter().flat_map(add_one).collect::<Vec<_>>()
    };
    let mut given: Vec<String> = std::thread::scope(|scope| {
        let threads = [[1, 2, 3], [4, 5, 6], [7, 8, 9]].map(|digits| scope.spawn(move || add_some(&digits)));
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    given.sort_unstable();
    let expected: Vec<String> = (2..=9).map(|last| format!("10.89.0.{last}")).collect();
    assert_eq!(given[1..], expected);
    assert_eq!(given[0], "10.89.0.10");
}

#[test]
fn a_container_that_is_not_added_has_no_addresses() {
    let data = tempfile::tempdir().unwrap();
    let state = State::open(data.path()).unwrap();
    let made = network(&state, "a", &[subnet("10.89.0.0/24", "10.89.0.1")]);
    add(&state, container("1", None)).unwrap();
    let mut twin = container("2", Some(on(&made, &[], 1)));
    twin.name = "web-1".into();
    assert!(matches!(state.add(&mut twin, &[]), Err(StateError::NameTaken { .. })));
    assert_eq!(addresses(twin.pod.config.network.as_ref()), <[&str; 0]>::default());
    assert_eq!(state.members(&made.id).unwrap(), []);
    state.remove_network(&made).unwrap();
    let reported = add(&state, container("2", Some(on(&made, &[], 1)))).unwrap_err();
    assert_eq!(reported.to_string(), "network net-a not found");
}

#[test]
fn networks_are_found_and_removed_when_nobody_is_on_them() {
    let data = tempfile::tempdir().unwrap();
    let state = State::open(data.path()).unwrap();
    let made = network(&state, "a", &[subnet("10.89.0.0/24", "10.89.0.1")]);
    let mut twin = made.clone();
    twin.id = "b".repeat(64);
    let reported = state.add_network(&mut twin, |others| {
        assert_eq!(others, std::slice::from_ref(&made));
        Ok(Vec::new())
    });
    assert_eq!(
        reported.unwrap_err().to_string(),
        "network with name net-a already exists"
    );
    for word in ["net-a", "aaa", &made.id] {
        assert_eq!(state.find_network(word).unwrap(), made, "{word}");
    }
    assert!(matches!(state.find_network(""), Err(StateError::UnknownNetwork(_))));
    add(&state, container("1", Some(on(&made, &[], 1)))).unwrap();
    assert_eq!(
        state.remove_network(&made).unwrap_err().to_string(),
        "network net-a is used by web-1: disconnect or remove them first"
    );
    state.remove(&"1".repeat(64)).unwrap();
    state.remove_network(&made).unwrap();
    assert_eq!(state.networks().unwrap(), []);
}

/// Creates two networks, and a container of id 1 that has its own link.
fn two_networks(state: &State) -> (Network, Network) {
    add(state, container("1", Some(plain(1)))).unwrap();
    (
        network(state, "a", &[subnet("10.89.0.0/24", "10.89.0.1")]),
        network(
            state,
            "b",
            &[subnet("10.90.0.0/24", "10.90.0.1"), subnet("fd12::/64", "fd12::1")],
        ),
    )
}

fn names(pod: &Pod) -> Vec<&str> {
    pod.config.network.as_ref().unwrap().names().collect()
}

#[test]
fn who_is_connected_has_a_place_on_each_network() {
    let data = tempfile::tempdir().unwrap();
    let state = State::open(data.path()).unwrap();
    let (one, other) = two_networks(&state);
    let id = "1".repeat(64);
    let to = |network: &Network, wanted: &[&str]| ConnectTarget::UserDefined(place(network, wanted));
    state.connect(&id, &to(&other, &["10.90.0.9"])).unwrap();
    let connected = state.connect(&id, &to(&one, &[])).unwrap();
    assert_eq!(names(&connected), ["default", "net-b", "net-a"]);
    assert_eq!(
        addresses(connected.config.network.as_ref()),
        ["10.90.0.9", "fd12::2", "10.89.0.2"]
    );
    assert_eq!(
        state.find("web-1").unwrap().pod.config.network,
        connected.config.network
    );
    let has = |network: &Network| state.members(&network.id).unwrap()[0].addresses().to_vec();
    assert_eq!((has(&one).len(), has(&other).len()), (1, 2));
    // The next member gets what is free on that network.
    let mut grouped = pod("2", plain(2));
    state.add_pod(&mut grouped).unwrap();
    let pods = state.connect(&grouped.id, &to(&one, &[])).unwrap();
    assert_eq!(addresses(pods.config.network.as_ref()), ["10.89.0.3"]);
    assert_eq!(state.pod(&grouped.id).unwrap().config, pods.config);
    // A removed container leaves all its networks.
    state.remove(&id).unwrap();
    assert_eq!(state.members(&other.id).unwrap(), []);
    assert_eq!(state.members(&one.id).unwrap().len(), 1);
}

#[test]
fn who_is_disconnected_frees_what_it_had() {
    let data = tempfile::tempdir().unwrap();
    let state = State::open(data.path()).unwrap();
    let (one, _) = two_networks(&state);
    let id = "1".repeat(64);
    let before = state.pod(&id).unwrap().config;
    let there = ConnectTarget::UserDefined(Endpoint::anywhere(&one));
    state
        .connect(&id, &ConnectTarget::UserDefined(place(&one, &["10.89.0.9"])))
        .unwrap();
    state.disconnect(&id, &there).unwrap();
    // Nothing is left of the membership: a failed connection can be undone.
    assert_eq!(state.pod(&id).unwrap().config, before);
    state.remove_network(&state.find_network("net-b").unwrap()).unwrap();
    add(&state, container("2", Some(on(&one, &["10.89.0.9"], 2)))).unwrap();
    // Disconnected from all networks, and connected again.
    let none = state.disconnect(&id, &ConnectTarget::OwnLink).unwrap();
    assert_eq!(names(&none), [] as [&str; 0]);
    let back = state.connect(&id, &there).unwrap();
    assert_eq!(addresses(back.config.network.as_ref()), ["10.89.0.2"]);
}

#[test]
fn a_connection_that_is_not_possible_changes_nothing() {
    let data = tempfile::tempdir().unwrap();
    let state = State::open(data.path()).unwrap();
    let (one, other) = two_networks(&state);
    add(&state, container("2", Some(on(&one, &["10.89.0.9"], 2)))).unwrap();
    add(&state, container("3", None)).unwrap();
    let mut grouped = pod("4", plain(4));
    state.add_pod(&mut grouped).unwrap();
    let mut inside = container("5", None);
    inside.pod = Box::new(grouped);
    add(&state, inside).unwrap();
    let reported = state.find_member("web-5").unwrap_err().to_string();
    assert!(reported.contains("name the pod, pod-4"), "{reported}");
    let gone = Network {
        id: "f".repeat(64),
        name: "net-f".into(),
        ..one.clone()
    };
    let id = |digit: &str| digit.repeat(64);
    let to = |network: &Network, wanted: &[&str]| ConnectTarget::UserDefined(place(network, wanted));
    for (digit, place, words) in [
        ("1", ConnectTarget::OwnLink, "web-1 is on network default already"),
        ("2", to(&one, &[]), "web-2 is on network net-a already"),
        (
            "1",
            to(&one, &["10.89.0.9"]),
            "address 10.89.0.9 is already in use by web-2",
        ),
        ("1", to(&gone, &[]), "network net-f not found"),
        ("3", to(&one, &[]), "web-3 was made with --network none"),
        ("6", to(&one, &[]), "no such container or pod"),
    ] {
        let reported = state.connect(&id(digit), &place).unwrap_err().to_string();
        assert!(reported.contains(words), "{reported}");
    }
    for (digit, place, words) in [
        ("2", ConnectTarget::OwnLink, "web-2 is not on network default"),
        ("1", to(&other, &[]), "web-1 is not on network net-b"),
        ("3", ConnectTarget::OwnLink, "web-3 was made with --network none"),
    ] {
        let reported = state.disconnect(&id(digit), &place).unwrap_err().to_string();
        assert!(reported.contains(words), "{reported}");
    }
    assert_eq!(state.members(&one.id).unwrap().len(), 1);
    assert_eq!(state.pod(&id("1")).unwrap().config.network, Some(plain(1)));
}

#[test]
fn there_are_places_for_so_many_networks_only() {
    let data = tempfile::tempdir().unwrap();
    let state = State::open(data.path()).unwrap();
    add(&state, container("1", Some(plain(1)))).unwrap();
    let connect = |number: usize| {
        let (link, gateway) = (format!("10.{number}.0.0/24"), format!("10.{number}.0.1"));
        let made = network(&state, &format!("{number:x}"), &[subnet(&link, &gateway)]);
        state.connect(&"1".repeat(64), &ConnectTarget::UserDefined(Endpoint::anywhere(&made)))
    };
    for number in 0..SEGMENTS_MAX {
        connect(number).unwrap();
    }
    let reported = connect(SEGMENTS_MAX).unwrap_err().to_string();
    assert_eq!(reported, "a container or pod is on 16 networks at most");
}

#[test]
fn a_whole_name_is_meant_before_an_ids_beginning() {
    let data = tempfile::tempdir().unwrap();
    let state = State::open(data.path()).unwrap();
    add(&state, container("d", None)).unwrap();
    let mut named = pod("4", plain(4));
    named.name = "dd".into();
    state.add_pod(&mut named).unwrap();
    for (word, name) in [("dd", "dd"), ("ddd", "web-d"), ("web-d", "web-d"), ("44", "dd")] {
        assert_eq!(state.find_member(word).unwrap().name, name, "{word}");
    }
    // Also where that is the beginning of several ids.
    let mut other = pod("4", plain(5));
    other.id = format!("{}5", "4".repeat(63));
    state.add_pod(&mut other).unwrap();
    let mut short = container("e", None);
    short.name = "44".into();
    add(&state, short).unwrap();
    assert_eq!(state.find_member("44").unwrap().name, "44");
    assert!(matches!(state.find_member("444"), Err(StateError::AmbiguousPod(_))));
    assert!(matches!(state.find_member("web"), Err(StateError::UnknownMember(_))));
}

#[test]
fn a_supervisors_older_copy_does_not_change_networks() {
    let data = tempfile::tempdir().unwrap();
    let state = State::open(data.path()).unwrap();
    let (one, _) = two_networks(&state);
    let id = "1".repeat(64);
    let mut copy = state.container(&id).unwrap();
    state
        .connect(&id, &ConnectTarget::UserDefined(place(&one, &[])))
        .unwrap();
    copy.config.was_stopped = true;
    state.set_plan(&copy).unwrap();
    let row = state.container(&id).unwrap();
    assert!(row.config.was_stopped);
    assert_eq!(addresses(row.pod.config.network.as_ref()), ["10.89.0.2"]);
}

#[test]
fn an_implicit_pod_comes_and_goes_with_its_container() {
    let data = tempfile::tempdir().unwrap();
    let state = State::open(data.path()).unwrap();
    add(&state, container("1", Some(plain(1)))).unwrap();
    let id = "1".repeat(64);
    assert_eq!(state.pod(&id).unwrap().name, "web-1");
    state.rename(&id, "shop").unwrap();
    assert_eq!(state.pod(&id).unwrap().name, "shop");
    assert_eq!(state.container(&id).unwrap().pod.name, "shop");
    // Users create and name the other pods.
    assert!(state.pods().unwrap().is_empty());
    for word in ["shop", &id, "11"] {
        assert!(matches!(state.find_pod(word), Err(StateError::UnknownPod(_))), "{word}");
    }
    let mut named = pod("2", plain(2));
    named.name = "shop".into();
    state.add_pod(&mut named).unwrap();
    let machine = MachineSize {
        vcpus: 2,
        memory_mib: 96,
    };
    state
        .set_plan_and_machine(&state.container(&id).unwrap(), machine)
        .unwrap();
    let config = state.container(&id).unwrap().pod.config;
    assert_eq!((config.machine.vcpus, config.network), (2, Some(plain(1))));
    state.remove(&id).unwrap();
    assert!(matches!(state.pod(&id), Err(StateError::UnknownPod(_))));
    assert!(state.pending(Pending::Pod).unwrap().is_empty());
}

#[test]
fn recovery_removes_what_was_recorded_and_has_no_row() {
    let place = tempfile::tempdir().unwrap();
    let folders = crate::folders::Folders {
        data: place.path().join("data"),
        run: place.path().join("run"),
    };
    let state = State::open(&folders.data).unwrap();
    let (made, removed, kept, unknown) = ("a".repeat(64), "b".repeat(64), "c".repeat(64), "d".repeat(64));
    state.record(Pending::Container, &made).unwrap();
    for digit in ["b", "c"] {
        state.record(Pending::Container, &digit.repeat(64)).unwrap();
        add(&state, container(digit, None)).unwrap();
    }
    assert_eq!(state.pending(Pending::Container).unwrap(), [(made.clone(), Step::Make)]);
    state.remove(&removed).unwrap();
    let mut pod = pod("e", plain(1));
    state.add_pod(&mut pod).unwrap();
    state.remove_pod(&pod.id).unwrap();
    let network = network(&state, "f", &[subnet("10.89.0.0/24", "10.89.0.1")]);
    state.remove_network(&network).unwrap();
    // No command writes such a name, and it leads out of the folder.
    state.record(Pending::Container, "../../x").unwrap();
    let of = |id: &str| {
        [
            folders.data.join("containers").join(id),
            folders.run.join("pods").join(id),
        ]
    };
    let of_network = folders.run.join("networks").join(&network.id);
    let gone = [&of(&made)[..], &of(&removed), &of(&pod.id)[1..], &[of_network]].concat();
    let stays = [of(&kept), of(&unknown), of("mine")].concat();
    for path in gone.iter().chain(&stays) {
        std::fs::create_dir_all(path).unwrap();
        std::fs::write(path.join("lock"), "").unwrap();
    }
    let held = crate::container_lock::ContainerLock::try_take(&folders.run, &removed)
        .unwrap()
        .unwrap();
    crate::recovery::recover(&state, &folders).unwrap();
    assert!(of(&removed).iter().all(|path| path.exists()), "somebody works on it");
    drop(held);
    crate::recovery::recover(&state, &folders).unwrap();
    for path in &gone {
        assert!(!path.exists(), "{}", path.display());
    }
    for path in &stays {
        assert!(path.join("lock").exists(), "{}", path.display());
    }
    for kind in [Pending::Pod, Pending::Network] {
        assert!(state.pending(kind).unwrap().is_empty());
    }
    assert_eq!(state.pending(Pending::Container).unwrap().len(), 1);
}
