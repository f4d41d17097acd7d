//! Verb `capsid pull`.

use capsid_image::Reference;

use crate::app::{Context, pull_options, unless_interrupted};
use crate::cli::PullArgs;
use crate::confinement;
use crate::model::exit_code;
use crate::progress::Bars;
use crate::settings;
use crate::signals::Signals;

/// Pulls one image and prints its name.
pub(crate) async fn run(context: Context, args: PullArgs) -> anyhow::Result<u8> {
    let reference: Reference = args.image.parse()?;
    let platform = args.platform.as_deref().map(str::parse).transpose()?;
    let settings = settings::read()?;
    confinement::check(&[confinement::Process::Converter])?;
    let (_, store) = context.store()?;
    let options = pull_options(platform, &args.registry, &settings);
    let (mut signals, bars) = (Signals::listen_to_ending()?, Bars::new(args.quiet));
    let pulling = capsid_image::pull(&store, &reference, &options, &bars);
    let pulled = match unless_interrupted(&store, &mut signals, &bars, pulling).await {
        Ok(pulled) => pulled?,
        Err(number) => return Ok(exit_code::of_signal(number.unsigned_abs())),
    };
    if !args.quiet {
        eprintln!("Digest: {}", pulled.digest);
    }
    println!("{}", reference.canonical());
    Ok(0)
}
