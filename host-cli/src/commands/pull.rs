//! `capsid pull`.

use capsid_image::Reference;

use super::{Context, pull_options};
use crate::cli::PullArgs;
use crate::progress::Bars;
use crate::settings;

/// Pulls one image and prints its name.
pub(crate) async fn run(context: Context, args: PullArgs) -> anyhow::Result<u8> {
    let reference: Reference = args.image.parse()?;
    let settings = settings::read()?;
    let (_, store) = context.store()?;
    let platform = args.platform.as_deref().map(str::parse).transpose()?;
    let options = pull_options(platform, &args.registry, &settings);
    let image = capsid_image::pull(&store, &reference, &options, &Bars::new(args.quiet)).await?;
    if !args.quiet {
        eprintln!("Digest: {}", image.manifest);
    }
    println!("{}", reference.canonical());
    Ok(0)
}
