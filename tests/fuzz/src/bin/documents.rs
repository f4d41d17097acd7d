//! Documents of an image from a registry, and image names from a user.
#![no_main]

use capsid_image::{ImageConfig, Reference, fuzzing};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = ImageConfig::parse(bytes);
    fuzzing::manifest(bytes);
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(reference) = text.parse::<Reference>()
    {
        // The printed reference names the same image.
        let again: Reference = reference.to_string().parse().expect("its own words");
        assert_eq!(again.to_string(), reference.to_string());
    }
});
