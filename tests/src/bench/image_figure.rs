//! Time to make an image ready to run.

use std::time::Instant;

use capsid_tests::{Capsid, Invocation, Registry, TestImage};

use crate::figure::Figure;

/// Goal: half of the time of a program that only unpacks.
const GOAL: Option<f64> = Some(0.5);
const SAMPLES: usize = 3;

/// Measures pull from a registry on loopback and conversion, against `umoci unpack` of an image that is on disk.
pub(crate) fn pull_against_umoci() -> Figure {
    let image = TestImage::ManyFiles;
    let source = format!("docker-archive:{}", image.docker_archive().display());
    let registry = Registry::start();
    registry.push(&source, "files:1");
    let folder = tempfile::tempdir().unwrap();
    let layout = format!("{}:latest", folder.path().join("layout").display());
    let target = format!("oci:{layout}");
    Invocation::new("skopeo", ["--insecure-policy", "copy", "--quiet", &source, &target])
        .within(300)
        .wait()
        .succeeds();
    let (mut ours, mut reference) = (Vec::new(), Vec::new());
    for sample in 0..SAMPLES {
        let capsid = Capsid::empty();
        registry.introduce(&capsid);
        ours.push(
            capsid
                .call(["pull", "-q", &registry.reference("files:1")])
                .within(300)
                .wait()
                .succeeds()
                .took,
        );
        let bundle = folder.path().join(format!("bundle{sample}"));
        let started = Instant::now();
        let words = ["unpack", "--image", &layout, bundle.to_str().unwrap()];
        Invocation::new("umoci", words).within(600).wait().succeeds();
        reference.push(started.elapsed());
    }
    Figure::of_times("pull and convert 100 000 files / umoci unpack", GOAL, &ours, &reference)
}
