//! Progress of pulls and loads: one bar per layer on a terminal, nothing otherwise.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use capsid_image::{Digest, LayerState, Progress, Warning};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Progress bars, one per layer.
#[derive(Debug)]
pub(crate) struct Bars {
    all: MultiProgress,
    by_layer: Mutex<HashMap<Digest, ProgressBar>>,
}

impl Bars {
    /// Creates the bars; none when `quiet`, or when stderr is no terminal.
    pub(crate) fn new(quiet: bool) -> Self {
        let target = if quiet || !std::io::stderr().is_terminal() {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        Self {
            all: MultiProgress::with_draw_target(target),
            by_layer: Mutex::default(),
        }
    }

    /// Removes the bars: the next output on the terminal begins on a line of its own.
    pub(crate) fn clear(&self) {
        // A closed terminal shows nothing anyway.
        let _ = self.all.clear();
    }

    fn bar(&self, layer: Digest) -> ProgressBar {
        let mut bars = self.by_layer.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        bars.entry(layer)
            .or_insert_with_key(|layer| {
                let bar = self.all.add(ProgressBar::new(0));
                bar.set_style(style("{prefix}: {msg}"));
                bar.set_prefix(layer.hex().chars().take(12).collect::<String>());
                bar
            })
            .clone()
    }
}

impl Progress for Bars {
    fn layer(&self, layer: Digest, state: LayerState) {
        let bar = self.bar(layer);
        if let LayerState::Downloading { bytes, total } = state {
            bar.set_style(style(
                "{prefix}: Downloading [{bar:40}] {bytes}/{total_bytes} {bytes_per_sec}",
            ));
            bar.set_length(total);
            bar.set_position(bytes);
            return;
        }
        bar.set_style(style("{prefix}: {msg}"));
        match state {
            LayerState::Waiting => bar.set_message("Waiting"),
            LayerState::Retrying => bar.set_message("Retrying"),
            LayerState::AlreadyExists => bar.finish_with_message("Already exists"),
            LayerState::Done => bar.finish_with_message("Pull complete"),
            _ => bar.set_message("Converting"),
        }
    }

    /// Prints a warning, but only once in the life of the process, however many images it pulls.
    fn warn(&self, warning: &Warning) {
        static WARNED: AtomicBool = AtomicBool::new(false);
        if !WARNED.swap(true, Ordering::Relaxed) {
            self.all.suspend(|| eprintln!("capsid: warning: {warning}"));
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
