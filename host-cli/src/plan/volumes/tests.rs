use super::*;

fn volume(name: Option<&str>, target: &str, readonly: bool, populate: bool) -> Wanted {
    Wanted::Volume {
        name: name.map(Into::into),
        target: target.into(),
        readonly,
        populate,
    }
}

fn sources() -> VolumeSources {
    VolumeSources {
        from: Vec::new(),
        new_names: vec!["new0".into(), "new1".into()],
        room: 3,
        ..VolumeSources::default()
    }
}

#[test]
fn a_volume_flag_is_read() {
    assert_eq!(
        parse_volume("data:/d").unwrap(),
        volume(Some("data"), "/d", false, true)
    );
    assert_eq!(
        parse_volume("data:/d//x/./y/:ro,nocopy").unwrap(),
        volume(Some("data"), "/d/x/y", true, false)
    );
    assert_eq!(parse_volume("/d").unwrap(), volume(None, "/d", false, true));
    for odd in ["~/x:/d", "a/b:/d", ".x:/d"] {
        assert!(matches!(parse_volume(odd), Err(VolumeError::Path(_))), "{odd}");
    }
    for (flag, source, readonly) in [
        ("/host:/d", "/host", false),
        ("./here:/d:ro", "./here", true),
        (".:/d:rw,z", ".", false),
    ] {
        let bind = Bind {
            source: source.into(),
            target: "/d".into(),
            readonly,
            create: true,
        };
        assert_eq!(parse_volume(flag).unwrap(), Wanted::Bind(bind));
    }
    for wrong in [
        "",
        "data",
        ":",
        ":/d",
        "data:",
        "data:d",
        "data:/",
        "data:/d:fast",
        "data:/a/../b",
        "x:/d",
        "a b:/d",
        "data:/d:ro:rw",
        "/h:/d:slow",
        "/h:d",
        "/d:ro",
        "-a:/d",
    ] {
        assert!(parse_volume(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn a_mount_flag_is_read() {
    assert_eq!(
        parse_mount("type=volume,source=data,target=/d,readonly,volume-nocopy=true").unwrap(),
        volume(Some("data"), "/d", true, false)
    );
    assert_eq!(parse_mount("dst=/d,ro=0").unwrap(), volume(None, "/d", false, true));
    let Wanted::Tmpfs(mount, _) = parse_mount("type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=700").unwrap() else {
        panic!("no tmpfs")
    };
    let Some(Source::Tmpfs(memory)) = mount.source else {
        panic!("no tmpfs")
    };
    assert_eq!((memory.size_bytes, memory.mode), (1 << 20, 0o700));
    assert!(matches!(parse_mount("source=/h,target=/d"), Err(VolumeError::Path(_))));
    assert!(matches!(
        parse_mount("target=/d,source=/h,type=bind").unwrap(),
        Wanted::Bind(_)
    ));
    for wrong in [
        "",
        "type=volume",
        "type=volume,source=data",
        "type=npipe,target=/d",
        "target=d",
        "target=/",
        "target=/d,x=1",
        "target=/d,readonly=maybe",
        "target=/d,tmpfs-size=1m",
        "type=tmpfs,target=/t,tmpfs-size=x",
        "type=tmpfs,target=/t,tmpfs-mode=9",
        "type=tmpfs,source=x,target=/t",
        "type=tmpfs,target=/t,volume-nocopy",
        "source=,target=/d",
    ] {
        assert!(parse_mount(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn a_container_to_take_volumes_from_is_read() {
    assert_eq!(parse_from("web"), Ok(("web", false)));
    assert_eq!(parse_from("web:ro"), Ok(("web", true)));
    assert_eq!(parse_from("web:rw"), Ok(("web", false)));
    for wrong in ["", ":ro", "web:", "web:fast"] {
        assert!(parse_from(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn flags_win_over_other_containers_and_these_over_the_image() {
    let inherited = |volume: &str, target: &str| VolumeMount {
        volume: volume.into(),
        target: target.into(),
        readonly: true,
        populate: true,
        anonymous: false,
        serial: "capsid-vol-7".into(),
    };
    let sources = VolumeSources {
        from: vec![inherited("other", "/a"), inherited("other", "/b")],
        ..sources()
    };
    let wanted = [volume(Some("data"), "/a", false, true)];
    let image = ["/a", "/b/", "/c"].map(String::from);
    let (volumes, _) = resolve(&wanted, &image, sources).unwrap();
    let reported: Vec<_> = volumes
        .iter()
        .map(|m| (m.volume.as_str(), m.target.as_str(), m.anonymous, m.serial.as_str()))
        .collect();
    assert_eq!(
        reported,
        [
            ("data", "/a", false, "capsid-vol-0"),
            ("new0", "/c", true, "capsid-vol-1"),
            ("other", "/b", false, "capsid-vol-2"),
        ]
    );
}

#[test]
fn a_volume_at_two_places_is_one_disk() {
    let wanted = [
        volume(Some("data"), "/a", false, true),
        volume(Some("data"), "/b", true, true),
    ];
    let (volumes, _) = resolve(&wanted, &[], sources()).unwrap();
    assert!(volumes.iter().all(|mount| mount.serial == "capsid-vol-0"));
}

#[test]
fn a_pods_mounts_come_after_the_flags() {
    let share = |target: &str| ShareMount {
        source: "/of/pod".into(),
        target: target.into(),
        readonly: false,
        is_file: false,
        tag: "share-pod-0".into(),
    };
    let volume = |name: &str| VolumeMount {
        volume: name.into(),
        target: "/w".into(),
        readonly: false,
        populate: true,
        anonymous: false,
        serial: String::new(),
    };
    let sources = VolumeSources {
        of_pod: (vec![volume("pods")], vec![share("/d"), share("/e")]),
        from: vec![volume("another's")],
        // Two disks: the devices of its shares exist already.
        room: 2,
        ..VolumeSources::default()
    };
    let own = parse_volume("own:/e").unwrap();
    let (volumes, shares) = resolve(&[own], &[], sources).unwrap();
    let names: Vec<_> = volumes.iter().map(|mount| mount.volume.as_str()).collect();
    assert_eq!(names, ["own", "pods"]);
    assert_eq!(shares, [share("/d")]);
}

#[test]
fn shares_have_tags_and_take_room() {
    let bind = |target: &str| Wanted::Bind(binds::parse_volume("", "/h", target, "ro").unwrap());
    let found = FoundSource {
        path: "/real".into(),
        is_file: true,
    };
    let inherited = ShareMount {
        source: "/other".into(),
        target: "/c".into(),
        readonly: false,
        is_file: false,
        tag: "share-of-another".into(),
    };
    let with = |room| VolumeSources {
        found: vec![found.clone(), found.clone()],
        shares_from: vec![inherited.clone()],
        container: "0123456789abcdef".into(),
        room,
        ..VolumeSources::default()
    };
    let (_, shares) = resolve(&[bind("/a"), bind("/b")], &[], with(3)).unwrap();
    let reported: Vec<_> = shares
        .iter()
        .map(|share| (share.source.as_str(), share.tag.as_str()))
        .collect();
    assert_eq!(
        reported,
        [
            ("/real", "share-0123456789ab-0"),
            ("/real", "share-0123456789ab-1"),
            ("/other", "share-0123456789ab-2")
        ]
    );
    assert_eq!(
        resolve(&[bind("/a"), bind("/b")], &[], with(2)),
        Err(VolumeError::TooMany { count: 3, max: 2 })
    );
}

#[test]
fn places_are_unique_and_volumes_are_bounded() {
    let same = [volume(None, "/a", false, true), volume(Some("data"), "/a", false, true)];
    assert_eq!(resolve(&same, &[], sources()), Err(VolumeError::Duplicate("/a".into())));
    let many: Vec<Wanted> = (0..4).map(|i| volume(None, &format!("/{i}"), false, true)).collect();
    assert_eq!(
        resolve(&many, &[], sources()),
        Err(VolumeError::TooMany { count: 4, max: 3 })
    );
}

#[test]
fn an_images_volumes_are_below_its_root_whatever_they_say() {
    for (path, expected) in [
        ("/data/", Some("/data")),
        ("rel", Some("/rel")),
        ("./a/../b", Some("/b")),
        ("../../etc", Some("/etc")),
        ("/", None),
        ("", None),
        ("..", None),
    ] {
        assert_eq!(image_target(path).as_deref(), expected, "{path:?}");
    }
}
