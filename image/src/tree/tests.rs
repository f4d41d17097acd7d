use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn path(text: &str) -> LayerPath {
    LayerPath::normalise(text.as_bytes()).unwrap()
}

fn make(at: &str, node: Node) -> Entry {
    Entry {
        path: path(at),
        action: Action::Make(Attributes::implied_directory(), node),
    }
}

fn file(at: &str, size: u64) -> Entry {
    make(at, Node::File { block: 0, size })
}

fn symlink(at: &str, target: &str) -> Entry {
    make(at, Node::Symlink(target.into()))
}

fn hide(at: &str, action: Action) -> Entry {
    Entry { path: path(at), action }
}

fn build(layers: &[Vec<Entry>]) -> Result<Tree, LayerFault> {
    let mut tree = Tree::new();
    for layer in layers {
        tree.begin_layer();
        layer.iter().try_for_each(|entry| tree.apply(entry.clone(), 0))?;
    }
    Ok(tree)
}

/// Paths of all files in the tree, with sizes of regular files and `None` for the rest.
fn list(tree: &Tree) -> BTreeMap<String, Option<u64>> {
    let mut all = BTreeMap::new();
    let mut pending = vec![(String::new(), InodeId::ROOT)];
    while let Some((at, id)) = pending.pop() {
        let Content::Directory(directory) = &tree[id].content else {
            continue;
        };
        for (name, child) in directory.children() {
            let at = format!("{at}/{}", String::from_utf8_lossy(name));
            let size = match tree[child].content {
                Content::File { size, .. } => Some(size),
                _ => None,
            };
            all.insert(at.clone(), size);
            pending.push((at, child));
        }
    }
    all
}

fn names(tree: &Tree) -> Vec<String> {
    list(tree).into_keys().collect()
}

#[test]
fn whiteouts_hide_lower_layers_only() {
    let lower = vec![file("d/a", 1), file("d/b", 1), file("e", 1)];
    let upper = vec![
        hide("d/a", Action::Whiteout),
        file("d/a", 2),
        hide("e", Action::Whiteout),
        hide("nowhere/x", Action::Whiteout),
    ];
    let tree = build(&[lower.clone(), upper]).unwrap();
    assert_eq!(
        list(&tree),
        BTreeMap::from([("/d".into(), None), ("/d/a".into(), Some(2)), ("/d/b".into(), Some(1))])
    );
    // Before or after the directory's own entries: the opaque mark means the same.
    for upper in [
        vec![hide("d", Action::Opaque), file("d/c", 1)],
        vec![file("d/c", 1), hide("d", Action::Opaque)],
    ] {
        assert_eq!(names(&build(&[lower.clone(), upper]).unwrap()), ["/d", "/d/c", "/e"]);
    }
}

#[test]
fn whiteouts_in_a_directory_in_place_of_a_link_leave_its_target_alone() {
    let lower = vec![file("d/x", 1), file("d/e/y", 1), symlink("l", "d")];
    let all = ["/d", "/d/e", "/d/e/y", "/d/x", "/l"];
    for upper in [
        vec![make("l", Node::Directory), hide("l", Action::Opaque)],
        vec![make("l", Node::Directory), hide("l/x", Action::Whiteout)],
        vec![
            hide("l", Action::Whiteout),
            make("l", Node::Directory),
            hide("l/e", Action::Opaque),
        ],
    ] {
        assert_eq!(names(&build(&[lower.clone(), upper]).unwrap()), all);
    }
    // A link that stays is followed, as in the name of any entry.
    let followed = build(&[lower, vec![hide("l/e", Action::Whiteout)]]).unwrap();
    assert_eq!(names(&followed), ["/d", "/d/x", "/l"]);
}

#[test]
fn a_whiteout_of_a_directory_keeps_what_its_layer_has_in_it() {
    let link = |at: &str, target: &str| hide(at, Action::Link(path(target)));
    let lower = vec![file("d/a", 1), file("d/e/a", 1), file("d/f/a", 1), symlink("l", "d/f")];
    let upper = vec![
        file("d/n/o/a", 1),
        file("d/e/b", 1),
        file("l/b", 1),
        link("d/c", "d/a"),
        hide("d", Action::Whiteout),
    ];
    assert_eq!(
        names(&build(&[lower, upper]).unwrap()),
        [
            "/d", "/d/c", "/d/e", "/d/e/b", "/d/f", "/d/f/b", "/d/n", "/d/n/o", "/d/n/o/a", "/l"
        ]
    );
}

#[test]
fn links_in_the_way_are_followed_inside_the_root() {
    let lower = vec![
        make("usr/bin", Node::Directory),
        symlink("bin", "usr/bin"),
        symlink("up", "../../../usr"),
        symlink("abs", "/usr/bin"),
    ];
    let upper = vec![file("bin/a", 1), file("up/b", 1), file("abs/c", 1)];
    let tree = build(&[lower, upper]).unwrap();
    assert_eq!(
        names(&tree),
        [
            "/abs",
            "/bin",
            "/up",
            "/usr",
            "/usr/b",
            "/usr/bin",
            "/usr/bin/a",
            "/usr/bin/c"
        ]
    );
    let dangling = build(&[vec![symlink("l", "new/dir"), file("l/f", 1)]]).unwrap();
    assert_eq!(names(&dangling), ["/l", "/new", "/new/dir", "/new/dir/f"]);
    let circle = build(&[vec![symlink("a", "b"), symlink("b", "a"), file("a/x", 1)]]);
    assert_eq!(circle.unwrap_err(), LayerFault::TooManyLinks { path: "a/x".into() });
    let outward = build(&[vec![symlink("l", "../../etc"), file("l/passwd", 1)]]).unwrap();
    assert_eq!(names(&outward), ["/etc", "/etc/passwd", "/l"]);
}

#[test]
fn clashes_replace() {
    let tree = build(&[vec![file("a/b", 1), file("a", 2)], vec![file("a/c", 3)]]);
    assert_eq!(tree.unwrap_err(), LayerFault::NotADirectory { path: "a/c".into() });
    let tree = build(&[
        vec![file("a/b", 1)],
        vec![file("a", 2)],
        vec![make("a", Node::Directory), file("a/c", 3)],
    ])
    .unwrap();
    assert_eq!(names(&tree), ["/a", "/a/c"]);
    let tree = build(&[
        vec![make("t", Node::Directory), symlink("d", "t")],
        vec![make("d", Node::Directory), file("d/x", 1)],
    ])
    .unwrap();
    assert_eq!(names(&tree), ["/d", "/d/x", "/t"]);
    assert_eq!(build(&[vec![file("", 1)]]).unwrap_err(), LayerFault::Root);
}

#[test]
fn hard_links_share_and_are_counted() {
    let link = |at: &str, target: &str| hide(at, Action::Link(path(target)));
    let tree = build(&[
        vec![file("a", 7), link("b", "a")],
        vec![link("c", "b"), hide("a", Action::Whiteout)],
    ])
    .unwrap();
    let id = tree.child(InodeId::ROOT, b"b").unwrap();
    assert_eq!(
        (tree.child(InodeId::ROOT, b"c"), tree[id].link_count(&tree)),
        (Some(id), 2)
    );
    assert!(matches!(
        build(&[vec![link("b", "none")]]),
        Err(LayerFault::LinkTarget { .. })
    ));
    assert!(matches!(
        build(&[vec![make("d", Node::Directory), link("b", "d")]]),
        Err(LayerFault::LinkToDirectory { .. })
    ));
    // The link's name is where the target's directory was: the target lives on under it.
    let tree = build(&[vec![file("d/f", 1), link("d", "d/f")]]).unwrap();
    assert_eq!(list(&tree), BTreeMap::from([("/d".into(), Some(1))]));
}

/// Simplest model of the result of layers with files, directories and whiteouts.
fn model(layers: &[Vec<Entry>]) -> BTreeMap<String, Option<u64>> {
    let mut paths = BTreeMap::new();
    let text = |path: &LayerPath| format!("/{}", String::from_utf8_lossy(path.as_bytes()));
    let cut = |paths: &mut BTreeMap<String, Option<u64>>, at: &str, itself: bool| {
        let below = format!("{}/", at.trim_end_matches('/'));
        paths.retain(|path, _| !((itself && path == at) || path.starts_with(&below)));
    };
    for layer in layers {
        for entry in layer {
            match entry.action {
                Action::Whiteout => cut(&mut paths, &text(&entry.path), true),
                Action::Opaque if !matches!(paths.get(&text(&entry.path)), Some(Some(_))) => {
                    cut(&mut paths, &text(&entry.path), false)
                }
                _ => {}
            }
        }
        for entry in layer {
            let Action::Make(_, node) = &entry.action else { continue };
            let at = text(&entry.path);
            for (slash, _) in at.match_indices('/').skip(1) {
                paths.entry(at[..slash].to_owned()).or_insert(None);
            }
            match node {
                Node::File { size, .. } => {
                    cut(&mut paths, &at, true);
                    paths.insert(at, Some(*size));
                }
                _ => {
                    paths.insert(at, None);
                }
            }
        }
    }
    paths
}

proptest! {
    #[test]
    fn merging_is_what_the_model_says(layers in vec(vec(("[ab](/[ab]){0,2}", 0..5u8, 1..9u64), 0..6), 1..4)) {
        let layers: Vec<Vec<Entry>> = layers.into_iter().map(|layer| layer.into_iter().map(|(at, kind, size)| match kind {
            0 => hide(&at, Action::Whiteout),
            1 => hide(&at, Action::Opaque),
            2 => make(&at, Node::Directory),
            _ => file(&at, size),
        }).collect()).collect();
        if let Ok(tree) = build(&layers) {
            prop_assert_eq!(list(&tree), model(&layers));
        }
    }
}
