//! What was measured, thing by thing.

use std::time::Duration;

/// The measured times of one thing with one tool.
pub(crate) struct Row {
    pub(crate) tool: &'static str,
    pub(crate) what: &'static str,
    pub(crate) times: Vec<Duration>,
}

#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<Row>,
    absent: Vec<&'static str>,
}

impl Table {
    pub(crate) fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    pub(crate) fn add_absent(&mut self, tool: &'static str) {
        self.absent.push(tool);
    }

    /// One line for each thing and tool, with how much longer the others took
    /// for it than Updraft.
    pub(crate) fn print(&self, bars: &[(&str, u64)]) {
        println!(
            "{:<27} {:<8} {:>11} {:>11} {:>11} {:>5} {:>7} {:>11}",
            "what", "tool", "median", "min", "max", "runs", "ratio", "bar"
        );
        for ours in self.rows.iter().filter(|row| row.tool == "updraft") {
            for row in self.rows.iter().filter(|row| row.what == ours.what) {
                let ratio = row.median().as_secs_f64() / ours.median().as_secs_f64();
                let bar = bars
                    .iter()
                    .find(|(what, _)| *what == row.what && row.tool == "updraft");
                let bar = bar.map_or(String::new(), |(_, ms)| format!("< {ms} ms"));
                println!(
                    "{:<27} {:<8} {:>11} {:>11} {:>11} {:>5} {ratio:>7.2} {bar:>11}",
                    row.what,
                    row.tool,
                    shown(row.median()),
                    shown(row.times.iter().min().copied().unwrap_or_default()),
                    shown(row.times.iter().max().copied().unwrap_or_default()),
                    row.times.len(),
                );
            }
        }
        if !self.absent.is_empty() {
            println!("\nnot installed here: {}", self.absent.join(", "));
        }
    }
}

impl Row {
    fn median(&self) -> Duration {
        let mut times = self.times.clone();
        times.sort();
        times[times.len() / 2]
    }
}

fn shown(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}
