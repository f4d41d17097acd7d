//! Verbs `capsid inspect` and `capsid image inspect`.

use anyhow::anyhow;
use capsid_image::Store;
use serde_json::Value;

use super::{inspect_fields, network, table, volume};
use crate::app::{Context, open_store};
use crate::cli::{ContainerInspectArgs, InspectArgs, ObjectKind};
use crate::error_text;
use crate::folders::Folders;
use crate::format::Template;
use crate::network::PodNetworks;
use crate::state::{State, StateError};

/// Prints the images in docker's fields; missing images are reported after the others.
pub(crate) fn images(context: Context, args: &InspectArgs) -> anyhow::Result<u8> {
    let template = args.format.as_deref().map(Template::of_objects).transpose()?;
    let (_, store) = context.store()?;
    let mut found = Vec::new();
    let mut code = 0;
    for name in &args.images {
        match find_image(&store, name)? {
            Some(image) => found.push(image),
            None => {
                error_text::print(anyhow!("no such image: {name}").as_ref());
                code = 1;
            }
        }
    }
    table::print_objects(&found, template.as_ref())?;
    Ok(code)
}

/// Prints containers in docker's fields; also images, networks and volumes, in this order, when nothing before has the
/// name, as in docker.
pub(crate) fn containers(context: Context, args: &ContainerInspectArgs) -> anyhow::Result<u8> {
    let template = args.format.as_deref().map(Template::of_objects).transpose()?;
    let (folders, state) = context.state()?;
    let store = open_store(&folders)?;
    let mut found = Vec::new();
    let mut code = 0;
    for name in &args.names {
        match find(&state, &store, &folders, args.kind, name)? {
            Some(object) => found.push(object),
            None => {
                error_text::print(anyhow!("no such object: {name}").as_ref());
                code = 1;
            }
        }
    }
    table::print_objects(&found, template.as_ref())?;
    Ok(code)
}

fn find(
    state: &State,
    store: &Store,
    folders: &Folders,
    kind: Option<ObjectKind>,
    name: &str,
) -> anyhow::Result<Option<Value>> {
    let kinds = [
        ObjectKind::Container,
        ObjectKind::Image,
        ObjectKind::Network,
        ObjectKind::Volume,
    ];
    for wanted in kinds
        .into_iter()
        .filter(|wanted| kind.is_none_or(|kind| kind == *wanted))
    {
        let found = match wanted {
            ObjectKind::Container => find_container(state, folders, name)?,
            ObjectKind::Image => find_image(store, name)?,
            ObjectKind::Network => network::find_object(state, name)?,
            ObjectKind::Volume => volume::find_object(state, folders, name)?,
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

fn find_container(state: &State, folders: &Folders, name: &str) -> anyhow::Result<Option<Value>> {
    match state.find(name) {
        Ok(container) => {
            let pod_networks = match container.explicit_pod() {
                // As in docker, a container that shares another's network shows none of its own.
                Some(pod) => PodNetworks::without(pod),
                None => PodNetworks::of(&container.pod, state)?,
            };
            Ok(Some(inspect_fields::container(&container, &pod_networks, folders)))
        }
        Err(StateError::Unknown(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn find_image(store: &Store, name: &str) -> anyhow::Result<Option<Value>> {
    Ok(store.find(name)?.map(|image| inspect_fields::image(&image)))
}
