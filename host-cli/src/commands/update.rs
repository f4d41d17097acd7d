//! Verb `capsid update`.

use anyhow::bail;
use prost::Message as _;

use super::lifecycle::{ask, each};
use crate::app::{AppContext, Context};
use crate::cli::UpdateArgs;
use crate::control::{Answer, Request, UpdateRequest};
use crate::plan;

/// Changes limits and restart policy; of running containers at once.
pub(crate) async fn run(context: Context, args: UpdateArgs) -> anyhow::Result<u8> {
    let app = AppContext::open(context)?;
    each(&args.containers, async |name| {
        update(&app, name, &args).await?;
        Ok(Some(name.into()))
    })
    .await
}

async fn update(app: &AppContext, name: &str, args: &UpdateArgs) -> anyhow::Result<()> {
    loop {
        let (container, connection) = app.find(name)?;
        let is_running = connection.is_some();
        let (limits, machine) = (&container.spec.limits, container.pod.config.machine);
        let changed = plan::update(args, limits, machine, is_running)?;
        if let Some(mut connection) = connection {
            // The supervisor changes the row: it has a copy of its own.
            let request = Request::Update(UpdateRequest {
                changes: changed.changes.encode_to_vec(),
                limits: changed.limits.encode_to_vec(),
                restart: args.restart,
            });
            return match ask(&mut connection, &request).await? {
                Answer::Done => Ok(()),
                _ => bail!("unexpected answer of the pod's supervisor"),
            };
        }
        // When it was started meanwhile, the loop repeats.
        let Some(_lock) = app.lock(&container.id)? else {
            continue;
        };
        let mut now = app.state.container(&container.id)?;
        now.spec.limits = changed.limits;
        now.config.restart = args.restart.unwrap_or(now.config.restart);
        app.state.set_plan_and_machine(&now, changed.machine)?;
        crate::events::record(&app.folders.data, &now, "update", &[]);
        return Ok(());
    }
}
