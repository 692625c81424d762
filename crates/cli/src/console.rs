//! Everything the command line prints goes through here.
//!
//! `status()` is standard error: what is happening, for people. `data()` is
//! standard output: the result, for people and programs. A reader that went
//! away (`| head`) silences that side and changes nothing else; a disk that is
//! full is an error at the end.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::failure::{Failure, Result};
use crate::output::fold::fold;
use crate::output::tame::{tame, tame_line};

pub(crate) const BOLD: Style = Style::new().bold();
pub(crate) const DIM: Style = Style::new().dimmed();
pub(crate) const GREEN: Style = AnsiColor::Green.on_default();
pub(crate) const YELLOW: Style = AnsiColor::Yellow.on_default();
pub(crate) const RED: Style = AnsiColor::Red.on_default();

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Text,
    /// One JSON document on standard output, and nothing else there
    Json,
}

pub(crate) struct Console {
    format: Format,
    statuses: Statuses,
    width: Option<usize>,
    bar: Bar,
    data_error: Option<io::Error>,
    /// Sides whose reader has gone away.
    gone: Vec<To>,
}

impl Console {
    pub(crate) fn new(format: Format, quiet: bool) -> Self {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let statuses = if quiet {
            Statuses::Quiet
        } else if !dumb && io::stderr().is_terminal() {
            Statuses::Live
        } else {
            Statuses::Lines
        };
        Self {
            format,
            statuses,
            width: width(io::stdout()),
            bar: Bar::default(),
            data_error: None,
            gone: Vec::new(),
        }
    }

    /// Says nothing from now on but results and errors.
    pub(crate) fn hush(&mut self) {
        self.statuses = Statuses::Quiet;
    }

    /// Whether results go to a terminal.
    pub(crate) fn is_read_by_people(&self) -> bool {
        self.format == Format::Text && io::stdout().is_terminal()
    }

    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// The columns that output may fill; none when nobody set a limit.
    pub(crate) fn width(&self) -> Option<usize> {
        self.width
    }

    /// Standard error: what is happening.
    pub(crate) fn status(&mut self) -> Lines<'_> {
        let hushed = self.statuses == Statuses::Quiet;
        self.lines(To::Status, hushed)
    }

    /// Standard error: what went wrong. Also when quiet.
    pub(crate) fn complaint(&mut self) -> Lines<'_> {
        self.lines(To::Status, false)
    }

    /// Standard output: the result.
    pub(crate) fn data(&mut self) -> Lines<'_> {
        self.lines(To::Data, false)
    }

    fn lines(&mut self, to: To, hushed: bool) -> Lines<'_> {
        Lines {
            console: self,
            to,
            hushed,
            text: Vec::new(),
        }
    }

    /// A way to say something from where the console itself is not at hand.
    pub(crate) fn aside(&self) -> Aside {
        Aside {
            bar: self.bar.clone(),
            quiet: self.statuses == Statuses::Quiet,
        }
    }

    /// Prints the result as the one JSON document of this command.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string_pretty(value)?;
        writeln!(self.data(), "{text}")?;
        Ok(())
    }

    pub(crate) fn warn(&mut self, text: &str) {
        let _ = writeln!(self.status(), "{YELLOW}warning{YELLOW:#}: {text}");
    }

    /// Prints an error as `error`, its causes, `help`; as JSON too when that was asked for.
    pub(crate) fn error(&mut self, failure: &Failure) {
        let mut text = String::new();
        let _ = writeln!(text, "{RED}error{RED:#}: {}", failure.message);
        for cause in &failure.causes {
            let _ = writeln!(
                text,
                "  {DIM}because{DIM:#}: {}",
                cause.replace('\n', "\n  ")
            );
        }
        if let Some(help) = &failure.help {
            let _ = writeln!(text, "{GREEN}help{GREEN:#}: {help}");
        }
        let _ = self.complaint().write_all(text.as_bytes());
        if self.is_json() {
            let document = serde_json::json!({ "error": {
                "code": failure.code,
                "message": failure.message,
                "causes": failure.causes,
                "help": failure.help,
                "exit": failure.exit,
                "exit_code": failure.exit.code(),
            }});
            let _ = self.json(&document);
        }
    }

    /// Begins a step that may take a while. One at a time.
    pub(crate) fn step(&mut self, what: impl Into<String>) -> Step {
        let what = tame_line(&what.into());
        let bar = (self.statuses == Statuses::Live).then(|| {
            let bar = ProgressBar::new_spinner();
            bar.set_style(style(SPINNER));
            bar.set_message(what.clone());
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        self.bar.set(bar.clone());
        Step {
            bar,
            since: Instant::now(),
            said: what,
        }
    }

    /// Says on a plain pipe what begins; a terminal shows it anyway.
    pub(crate) fn announce(&mut self, step: &Step) {
        if step.bar.is_none() {
            let text = step.said.clone();
            let _ = writeln!(self.status(), "  {text} …");
        }
    }

    /// Shows what a step is busy with now: in place on a terminal, as a line
    /// on a pipe when it changed.
    pub(crate) fn update(&mut self, step: &mut Step, text: &str) {
        let text = tame_line(text);
        if step.said == text {
            return;
        }
        step.said.clone_from(&text);
        match &step.bar {
            Some(bar) => {
                bar.set_style(style(SPINNER));
                bar.set_message(text);
            }
            None => {
                let _ = writeln!(self.status(), "  {text} …");
            }
        }
    }

    /// Ends a step with what came of it and how long it took.
    pub(crate) fn done(&mut self, step: Step, text: &str) {
        let took = step.since.elapsed();
        drop(step);
        self.bar.set(None);
        self.mark(text, took);
    }

    /// A line for something that ended and took some time.
    pub(crate) fn mark(&mut self, text: &str, took: Duration) {
        let took = crate::output::time::duration(took);
        let _ = writeln!(
            self.status(),
            "{GREEN}✓{GREEN:#} {text} {DIM}({took}){DIM:#}"
        );
    }

    /// Ends a step that came to nothing; the error says the rest.
    pub(crate) fn abandon(&mut self, step: Step) {
        drop(step);
        self.bar.set(None);
    }

    /// Takes an unfinished step off the screen.
    pub(crate) fn clear(&mut self) {
        if let Some(bar) = self.bar.get() {
            self.bar.set(None);
            bar.finish_and_clear();
        }
    }

    /// Whether everything that should be on standard output is there.
    pub(crate) fn finish(&mut self) -> Result<()> {
        self.clear();
        match self.data_error.take() {
            Some(error) => {
                let exit = crate::failure::exit_of_io(&error, crate::exit::Exit::Internal);
                Err(Failure::new(exit, "could not write the output").cause(&error))
            }
            None => Ok(()),
        }
    }

    fn print(&mut self, to: To, text: &[u8]) {
        if let Some(bar) = self.bar.get() {
            bar.suspend(|| self.write(to, text));
        } else {
            self.write(to, text);
        }
    }

    /// Text as it is printed: tamed, and statuses broken between words where a
    /// terminal is too narrow. Results are copied, so their lines stay whole.
    fn shown(&self, to: To, text: &[u8]) -> Vec<u8> {
        if to == To::Data && self.is_json() {
            return text.to_owned();
        }
        let text = String::from_utf8_lossy(text);
        let text = tame(&text);
        if to == To::Status && io::stderr().is_terminal() {
            return fold(&text, width(io::stderr())).into_bytes();
        }
        text.into_owned().into_bytes()
    }

    fn write(&mut self, to: To, text: &[u8]) {
        if self.gone.contains(&to) {
            return;
        }
        let shown = self.shown(to, text);
        let text = shown.as_slice();
        let written = match to {
            To::Status => AutoStream::auto(io::stderr()).write_all(text),
            To::Data => {
                let choice = match self.format {
                    Format::Json => ColorChoice::Never,
                    Format::Text => AutoStream::choice(&io::stdout()),
                };
                let mut stream = AutoStream::new(io::stdout(), choice);
                stream.write_all(text).and_then(|()| stream.flush())
            }
        };
        if let Err(error) = written {
            self.gone.push(to);
            // Nothing can be said about a standard error that is broken.
            if to == To::Data && error.kind() != io::ErrorKind::BrokenPipe {
                self.data_error = Some(error);
            }
        }
    }
}

/// The step that is on the screen.
#[derive(Debug, Clone, Default)]
struct Bar(Arc<Mutex<Option<ProgressBar>>>);

impl Bar {
    fn get(&self) -> Option<ProgressBar> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, bar: Option<ProgressBar>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = bar;
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Aside {
    bar: Bar,
    quiet: bool,
}

impl Aside {
    /// How far the step is that is under way, on a terminal, once it is worth
    /// looking at. Whether it is shown.
    pub(crate) fn progress(&self, done: usize, of: usize) -> bool {
        let Some(bar) = self.bar.get() else {
            return false;
        };
        if bar.elapsed() > SOON {
            bar.set_style(style(COUNTED));
            bar.set_length(of as u64);
            bar.set_position(done as u64);
        }
        true
    }

    /// A line on standard error, above what is under way.
    pub(crate) fn say(&self, text: &str) {
        if self.quiet {
            return;
        }
        // Nobody is there to hear it, at worst.
        let text = tame(text);
        let write = || drop(writeln!(AutoStream::auto(io::stderr()), "  {text}"));
        match self.bar.get() {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }
}

/// What takes less needs no bar.
const SOON: Duration = Duration::from_secs(1);
/// Something that is under way.
const SPINNER: &str = "{spinner:.cyan} {wide_msg} {elapsed:.dim}";
/// The same, where it is known how much there is.
const COUNTED: &str = "{spinner:.cyan} {wide_msg} {bar:20.cyan} {pos:.bold}/{len} {elapsed:.dim}";

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
        .progress_chars("━╸ ")
}

/// How to say what is happening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Statuses {
    Quiet,
    /// To a pipe: a line each.
    Lines,
    /// To a terminal: a step is redrawn in place.
    Live,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    Status,
    Data,
}

/// Text on its way out; it goes as one when this is dropped. Never fails.
pub(crate) struct Lines<'a> {
    console: &'a mut Console,
    to: To,
    /// Nobody wants to hear it.
    hushed: bool,
    text: Vec<u8>,
}

impl Write for Lines<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Lines<'_> {
    fn drop(&mut self) {
        if self.hushed {
            return;
        }
        let text = std::mem::take(&mut self.text);
        self.console.print(self.to, &text);
    }
}

/// Something that is under way.
#[derive(Debug)]
pub(crate) struct Step {
    bar: Option<ProgressBar>,
    since: Instant,
    said: String,
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// `COLUMNS`, or the terminal's width; a pipe has none.
fn width(of: impl AsFd) -> Option<usize> {
    let given = std::env::var("COLUMNS")
        .ok()
        .and_then(|columns| columns.parse().ok());
    let terminal = || {
        let size = rustix::termios::tcgetwinsize(of).ok()?;
        Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
    };
    given
        .or_else(terminal)
        .map(|columns: usize| columns.max(20))
}
