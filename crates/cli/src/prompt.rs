//! Questions on the terminal.
//!
//! They are asked on `/dev/tty`, as `ssh` and `sudo` do, because standard error
//! may lead into a file. A thread of its own waits for the answer, so that Ctrl-C
//! is heard meanwhile; echo comes back however the question ends.

use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Read, Write};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::exit::Exit;
use crate::failure::{Failure, Result};

/// More than anybody types.
const LONGEST: u64 = 1 << 20;

/// Whether somebody is there to answer.
pub(crate) fn is_possible() -> bool {
    std::io::stdin().is_terminal()
}

/// Asks for a line.
pub(crate) async fn line(question: &str) -> Result<String> {
    let terminal = terminal()?;
    answer(&terminal, question).await
}

/// Asks for a line that is not shown.
pub(crate) async fn secret(question: &str) -> Result<String> {
    let terminal = terminal()?;
    let hidden = Hidden::on(&terminal).map_err(failed)?;
    let answer = answer(&terminal, question).await;
    drop(hidden);
    // The Enter was not shown either.
    writeln!(&terminal).map_err(failed)?;
    answer
}

async fn answer(mut terminal: &File, question: &str) -> Result<String> {
    write!(terminal, "{question}").map_err(failed)?;
    let input = terminal.try_clone().map_err(failed)?;
    let mut answer = tokio::task::spawn_blocking(move || {
        let mut answer = String::new();
        let mut input = BufReader::new(input.take(LONGEST));
        input.read_line(&mut answer).map(|_| answer)
    })
    .await?
    .map_err(failed)?;
    // Ctrl-D gives nothing, not even an empty line.
    if answer.pop() != Some('\n') {
        return Err(Failure::new(Exit::Interrupted, "no answer was given"));
    }
    Ok(answer)
}

fn terminal() -> Result<File> {
    let terminal = File::options().read(true).write(true).open("/dev/tty");
    terminal.map_err(|error| {
        Failure::new(Exit::Usage, "there is no terminal to ask on")
            .cause(&error)
            .help("give the answer on standard input")
    })
}

fn failed(error: impl Into<std::io::Error>) -> Failure {
    Failure::new(Exit::Internal, "could not ask on the terminal").cause(&error.into())
}

/// A terminal that does not show what is typed, for as long as this lives.
struct Hidden<'a> {
    terminal: &'a File,
    before: Termios,
}

impl<'a> Hidden<'a> {
    fn on(terminal: &'a File) -> rustix::io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(terminal, OptionalActions::Flush, &silent)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Hidden<'_> {
    fn drop(&mut self) {
        // A terminal that has gone away needs none.
        let _ = tcsetattr(self.terminal, OptionalActions::Flush, &self.before);
    }
}
