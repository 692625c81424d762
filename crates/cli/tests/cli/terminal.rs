//! Questions on a terminal.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, Stdio};

use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

use crate::common::Sandbox;
use crate::common::world::World;

/// A terminal with a command in front of it, and who sits there.
struct Terminal {
    person: File,
    screen: File,
    child: Child,
}

impl Terminal {
    fn start(sandbox: &Sandbox, arguments: &[&str]) -> Self {
        let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        unlockpt(&person).unwrap();
        let name = ptsname(&person, Vec::new()).unwrap();
        let screen = File::options()
            .read(true)
            .write(true)
            .custom_flags(OpenptFlags::NOCTTY.bits().cast_signed())
            .open(name.to_str().unwrap())
            .unwrap();
        let wanted = sandbox.command(arguments);
        // Makes the terminal the command's own.
        let mut command = Command::new("setsid");
        command
            .args(["--ctty", "--wait"])
            .arg(wanted.get_program())
            .args(wanted.get_args())
            .current_dir(sandbox.here())
            .env_clear();
        for (name, value) in wanted.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        let child = command
            .stdin(screen.try_clone().unwrap())
            // What is printed goes elsewhere: the question still has to be seen.
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            person: person.into(),
            screen,
            child,
        }
    }

    fn wait_for(&mut self, text: &str) {
        let mut seen = String::new();
        while !seen.contains(text) {
            let mut bytes = [0; 256];
            let read = self.person.read(&mut bytes).unwrap();
            seen.push_str(&String::from_utf8_lossy(&bytes[..read]));
        }
    }

    fn shows_what_is_typed(&self) -> bool {
        let modes = tcgetattr(&self.screen).unwrap().local_modes;
        modes.contains(LocalModes::ECHO)
    }

    fn type_in(&mut self, text: &str) {
        self.person.write_all(text.as_bytes()).unwrap();
    }
}

#[test]
fn a_secret_is_asked_for_on_the_terminal_whatever_becomes_of_the_output() {
    let mut world = World::bare();
    world.sandbox.unset("UPDRAFT_TOKEN");
    let mut terminal = Terminal::start(&world.sandbox, &["login", &world.url]);
    terminal.wait_for("Token for ");
    assert!(!terminal.shows_what_is_typed());
    terminal.type_in(&format!("{}\n", world.token));
    let shown = terminal.child.wait_with_output().unwrap();
    world.sandbox.printed(shown).ended_with(0);
    world.run(&["whoami"]).ended_with(0);
}

#[test]
fn what_a_pipeline_is_made_of_is_asked() {
    let world = World::new();
    let settings = "[[target]]\nbranch = \"main\"\ndeployment = \"shop\"\n";
    world.sandbox.write("here/updraft.toml", settings);
    let mut terminal = Terminal::start(&world.sandbox, &["ci", "init"]);
    terminal.wait_for("The tool that runs it");
    terminal.type_in("abacus\n");
    terminal.wait_for("The tool that runs it");
    terminal.type_in("gitlab\n");
    terminal.wait_for("[one-branch]");
    terminal.type_in("\n");
    terminal.wait_for("[token]");
    terminal.type_in("identity\n");
    terminal.wait_for("[no]");
    terminal.type_in("yes\n");
    let shown = terminal.child.wait_with_output().unwrap();
    world.sandbox.printed(shown).ended_with(0);
    let file = world.sandbox.path("here/.gitlab-ci.yml");
    let text = std::fs::read_to_string(file).unwrap();
    assert!(text.contains("UPDRAFT_ID_TOKEN:"), "{text}");
    assert!(text.contains("updraft-preview:"), "{text}");
}

#[test]
fn ctrl_c_at_a_question_ends_the_command_and_gives_the_terminal_back() {
    let mut sandbox = Sandbox::new();
    sandbox.set("UPDRAFT_TOKEN", "t");
    let update = &["deployment", "update", "shop", "--env", "PASSWORD"][..];
    let login = &["login", "http://127.0.0.1:9"][..];
    let enroll = &["agent", "enroll", "--root", "agent"][..];
    for (arguments, question) in [
        (update, "Value of PASSWORD"),
        (login, "Token for"),
        (enroll, "Code of"),
    ] {
        let mut terminal = Terminal::start(&sandbox, arguments);
        terminal.wait_for(question);
        assert!(!terminal.shows_what_is_typed());
        terminal.type_in("\u{3}");
        let ended = terminal.child.wait().unwrap();
        assert_eq!(ended.code(), Some(130), "{arguments:?}");
        assert!(terminal.shows_what_is_typed(), "{arguments:?}");
    }
}
