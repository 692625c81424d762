use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::time::Duration;

use updraft_agent::LocalAirflow;

use super::local::place::Place;
use crate::console::{Console, DIM};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, Result};

/// Show what the components of the project's Airflow write
///
/// Without a component, all of them. What tasks write is on Airflow's own pages.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
pub(crate) struct LogsArgs {
    /// Go on with what they write from now on, until Ctrl-C
    #[arg(short, long)]
    follow: bool,

    /// The scheduler
    #[arg(short, long)]
    scheduler: bool,

    /// The API server (Airflow 3)
    #[arg(short, long)]
    api_server: bool,

    /// The DAG processor (Airflow 3)
    #[arg(short, long)]
    dag_processor: bool,

    /// The triggerer
    #[arg(short, long)]
    triggerer: bool,

    /// The webserver (Airflow 2)
    #[arg(short, long)]
    webserver: bool,

    /// The Celery worker (where the project's `.env` names the `CeleryExecutor`)
    #[arg(short, long)]
    celery_worker: bool,

    /// How many lines of each to begin with
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 100)]
    lines: usize,
}

/// How often it is looked whether there is more.
const LOOK: Duration = Duration::from_millis(200);

pub(crate) async fn run(args: &LogsArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    let (kept, airflow) = Place::of(cx)?.started()?;
    let names = args.names(&airflow.component_names(&kept.run.airflow_version))?;
    let width = names.iter().map(|name| name.len()).max().unwrap_or(0);
    let is_one = names.len() == 1;
    let mut logs: Vec<Log> = names.iter().map(|name| Log::of(&airflow, name)).collect();
    let mut is_first = true;
    loop {
        for log in &mut logs {
            let more = log
                .more()
                .map_err(|error| Failure::file("read", &log.path, &error))?;
            let lines: Vec<&str> = more.lines().collect();
            let from = if is_first {
                lines.len().saturating_sub(args.lines)
            } else {
                0
            };
            let name = log.name;
            let mut data = out.data();
            for line in &lines[from..] {
                if is_one {
                    writeln!(data, "{line}")?;
                } else {
                    writeln!(data, "{DIM}{name:width$} |{DIM:#} {line}")?;
                }
            }
        }
        if !args.follow {
            return Ok(Exit::Success);
        }
        is_first = false;
        tokio::time::sleep(LOOK).await;
    }
}

impl LogsArgs {
    fn names(&self, there: &[&'static str]) -> Result<Vec<&'static str>> {
        let asked = [
            (self.api_server, "api-server"),
            (self.webserver, "webserver"),
            (self.scheduler, "scheduler"),
            (self.dag_processor, "dag-processor"),
            (self.triggerer, "triggerer"),
            (self.celery_worker, "celery-worker"),
        ];
        let asked = asked.iter().filter(|(asked, _)| *asked);
        let asked: Vec<&'static str> = asked.map(|(_, name)| *name).collect();
        if let Some(name) = asked.iter().find(|name| !there.contains(name)) {
            return Err(Failure::new(
                Exit::NotFound,
                format!("this Airflow has no component `{name}`"),
            )
            .help(format!("it has {}", there.join(", "))));
        }
        Ok(if asked.is_empty() {
            there.to_vec()
        } else {
            asked
        })
    }
}

/// A component's log, read on.
struct Log {
    name: &'static str,
    path: PathBuf,
    read: u64,
    /// A line that is not whole yet.
    begun: Vec<u8>,
}

impl Log {
    /// From where the component's last start wrote.
    fn of(airflow: &LocalAirflow, name: &'static str) -> Self {
        Self {
            name,
            path: airflow.log(name),
            read: airflow.log_offset(name),
            begun: Vec::new(),
        }
    }

    /// The whole lines that were written since the last look.
    fn more(&mut self) -> io::Result<String> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
            Err(error) => return Err(error),
        };
        let length = file.metadata()?.len();
        if length < self.read {
            // It was cut, because it had become large.
            self.read = 0;
            self.begun.clear();
        }
        file.seek(SeekFrom::Start(self.read))?;
        let mut bytes = std::mem::take(&mut self.begun);
        self.read += file.take(length - self.read).read_to_end(&mut bytes)? as u64;
        let whole = bytes
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        self.begun = bytes.split_off(whole);
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_whole_lines_and_begins_again_where_a_log_was_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.log");
        let mut log = Log {
            name: "x",
            path: path.clone(),
            read: 4,
            begun: Vec::new(),
        };
        assert_eq!(log.more().unwrap(), "");
        std::fs::write(&path, "old\nnew\nhal").unwrap();
        assert_eq!(log.more().unwrap(), "new\n");
        assert_eq!(log.more().unwrap(), "");
        std::fs::write(&path, "old\nnew\nhalf\n").unwrap();
        assert_eq!(log.more().unwrap(), "half\n");
        std::fs::write(&path, "cut\n").unwrap();
        assert_eq!(log.more().unwrap(), "cut\n");
    }
}
