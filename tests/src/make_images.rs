//! `capsid-test-images NAME FILE`: writes one test image as a docker archive; `all`: fills the cache, see
//! `test_images`.

use std::env;
use std::path::Path;
use std::process::ExitCode;

use capsid_tests::TestImage;
use capsid_tests::test_images::export;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["all"] => {
            for image in TestImage::ALL {
                println!("{}", image.docker_archive().display());
            }
        }
        [name, file] => match TestImage::by_name(name) {
            Some(image) => export(image, Path::new(file)),
            None => return usage(),
        },
        _ => return usage(),
    }
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    let names: Vec<&str> = TestImage::ALL.iter().map(|image| image.name()).collect();
    eprintln!("usage: capsid-test-images {{{}}} FILE | all", names.join("|"));
    ExitCode::from(2)
}
