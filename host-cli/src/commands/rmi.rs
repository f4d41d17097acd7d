//! `capsid rmi`.

use capsid_image::Removed;

use super::{Context, describe};
use crate::cli::RmiArgs;

/// Removes each image; goes on after one that fails, and says so at the end.
pub(crate) fn run(context: Context, args: &RmiArgs) -> anyhow::Result<u8> {
    let (_, store) = context.store()?;
    let mut code = 0;
    for name in &args.images {
        match store.remove(name, args.force) {
            Ok(removed) => removed.iter().for_each(print),
            Err(error) => {
                eprintln!("capsid: {}", describe(&error.into()));
                code = 1;
            }
        }
    }
    Ok(code)
}

fn print(removed: &Removed) {
    match removed {
        Removed::Untagged(reference) => println!("Untagged: {reference}"),
        Removed::Deleted(digest) => println!("Deleted: {digest}"),
    }
}
