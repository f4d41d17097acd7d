//! Verb `capsid rmi`.

use anyhow::bail;
use capsid_image::{Removed, Store};

use crate::app::{Context, open_store};
use crate::cli::RmiArgs;
use crate::error_text;
use crate::state::State;

/// Removes each image; continues after a failed one, and reports the failure in the exit code.
pub(crate) fn run(context: Context, args: &RmiArgs) -> anyhow::Result<u8> {
    let (folders, state) = context.state()?;
    let store = open_store(&folders)?;
    let mut code = 0;
    for name in &args.images {
        match remove(&state, &store, name, args.force) {
            Ok(removed) => removed.iter().for_each(print),
            Err(error) => {
                error_text::print(error.as_ref());
                code = 1;
            }
        }
    }
    Ok(code)
}

/// Removes an image, unless a container was created from it: without the image the container could not start again. As
/// in docker, `force` removes the names of an image that only stopped containers use; `system prune` removes it when
/// they are gone.
fn remove(state: &State, store: &Store, name: &str, force: bool) -> anyhow::Result<Vec<Removed>> {
    let Some(image) = store.find(name)?.filter(|image| !image.has_other_tag(name)) else {
        return Ok(store.remove(name, force)?);
    };
    let users = state.users_of_image(&image.id.to_string())?;
    let running = users.iter().find(|user| user.status.is_live());
    match (running, users.first()) {
        (None, None) => Ok(store.remove(name, force)?),
        (None, Some(_)) if force && !image.references.is_empty() => Ok(store.untag(&image)?),
        (Some(user), _) if force => bail!(
            "image {name} is used by the running container {}: stop it first",
            user.name
        ),
        (Some(user), _) | (None, Some(user)) => bail!(
            "image {name} is used by container {} ({}): remove that container first",
            user.name,
            user.status.as_str()
        ),
    }
}

fn print(removed: &Removed) {
    match removed {
        Removed::Untagged(reference) => println!("Untagged: {reference}"),
        Removed::Deleted(digest) => println!("Deleted: {digest}"),
    }
}
