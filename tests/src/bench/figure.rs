//! One figure: two measured values, their ratio, and the goal.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Comparison of two measured values.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Figure {
    /// Name in words.
    pub name: String,
    /// Value of Capsid, in `unit`.
    pub ours: f64,
    /// Value of the reference, in `unit`.
    pub reference: f64,
    /// Unit of both values.
    pub unit: String,
    /// Ratio `ours / reference`.
    pub ratio: f64,
    /// Ratio to reach; `None` for a figure without a goal.
    pub goal: Option<f64>,
    /// Number of measurements of each value.
    pub samples: usize,
}

impl Figure {
    /// Creates a figure from two values.
    pub(crate) fn new(name: &str, unit: &str, ours: f64, reference: f64, goal: Option<f64>, samples: usize) -> Self {
        Self {
            name: name.to_owned(),
            ours,
            reference,
            unit: unit.to_owned(),
            ratio: ours / reference,
            goal,
            samples,
        }
    }

    /// Creates a figure from times taken in turns, by their medians.
    pub(crate) fn of_times(name: &str, goal: Option<f64>, ours: &[Duration], reference: &[Duration]) -> Self {
        Self::new(name, "ms", median_ms(ours), median_ms(reference), goal, ours.len())
    }

    /// Whether the goal is reached.
    pub(crate) fn is_met(&self) -> bool {
        self.goal.is_none_or(|goal| self.ratio <= goal)
    }
}

fn median_ms(times: &[Duration]) -> f64 {
    let mut sorted: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1000.0).collect();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// Prints the figures for people.
pub(crate) fn print_table(figures: &[Figure]) {
    println!(
        "{:<58} {:>10} {:>10} {:>4} {:>6} {:>6}",
        "FIGURE", "OURS", "REFERENCE", "", "RATIO", "GOAL"
    );
    for figure in figures {
        let goal = figure.goal.map_or_else(String::new, |goal| format!("{goal:.2}"));
        let verdict = if figure.is_met() { "" } else { "  missed" };
        println!(
            "{:<58} {:>10.1} {:>10.1} {:>4} {:>6.2} {goal:>6}{verdict}",
            figure.name, figure.ours, figure.reference, figure.unit, figure.ratio
        );
    }
}
