//! The table of `--timings`: time of each step of a start.

use serde::{Deserialize, Serialize};

/// Time of each step of a start.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Breakdown {
    /// Name of the accelerator, `kvm` or `emulate`.
    pub accelerator: String,
    /// Steps in their order.
    pub steps: Vec<Step>,
}

/// One line of the table.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Step {
    /// Name in words.
    pub name: String,
    /// Duration, ms.
    pub took_ms: f64,
}

impl Breakdown {
    /// Parses the table: a heading, then for each step its name, its duration and its end; the last line, in
    /// parentheses, lies within another step.
    pub(crate) fn read(accelerator: &str, text: &str) -> Self {
        let lines = text.lines().skip_while(|line| !line.starts_with("STEP")).skip(1);
        let steps: Vec<Step> = lines.filter_map(Step::read).collect();
        assert!(!steps.is_empty(), "no timings in: {text}");
        Self {
            accelerator: accelerator.to_owned(),
            steps,
        }
    }

    /// Returns the median of each step.
    pub(crate) fn median(all: Vec<Self>) -> Self {
        let mut all = all.into_iter();
        let mut first = all.next().unwrap();
        let others: Vec<Self> = all.collect();
        for (index, step) in first.steps.iter_mut().enumerate() {
            let mut times: Vec<f64> = others.iter().map(|other| other.steps[index].took_ms).collect();
            times.push(step.took_ms);
            times.sort_by(f64::total_cmp);
            step.took_ms = times[times.len() / 2];
        }
        first
    }

    /// Returns the duration of a step, ms.
    pub(crate) fn took(&self, name: &str) -> f64 {
        let step = self.steps.iter().find(|step| step.name == name);
        step.unwrap_or_else(|| panic!("no step {name:?} in {self:?}")).took_ms
    }

    /// Prints the breakdown for people.
    pub(crate) fn print(&self) {
        println!(
            "\n{:<58} {:>10}",
            format!("STEP OF A START ({})", self.accelerator),
            "MS"
        );
        for step in &self.steps {
            println!("{:<58} {:>10.1}", step.name, step.took_ms);
        }
    }
}

impl Step {
    fn read(line: &str) -> Option<Self> {
        // Names are padded to this many characters; some have spaces in them.
        let (name, numbers) = line.split_at_checked(28)?;
        Some(Self {
            name: name.trim_end().to_owned(),
            took_ms: numbers.split_whitespace().next()?.parse().ok()?,
        })
    }
}
