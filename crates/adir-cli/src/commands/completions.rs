//! `adir completions` and `adir man`: what a shell and `man` know of the program.

use std::path::PathBuf;

use adir::io::atomic;
use adir::{Error, Result};
use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::Man;

/// Print completions of commands and options for a shell.
///
/// For bash: `adir completions bash > ~/.local/share/bash-completion/completions/adir`
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub fn run(args: &CompletionsArgs, mut command: Command) -> Result<u8> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command, "adir", &mut text);
    print(&text)
}

/// Print the manual page of the program or of a command, or write those of all commands.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// The command, in words: `adapt create` [default: the program as a whole]
    command: Vec<String>,
    /// Write the pages of all commands to this folder: adir.1, adir-restore.1 ...
    #[arg(short, long, value_name = "FOLDER", conflicts_with = "command")]
    output: Option<PathBuf>,
    /// Replace existing pages
    #[arg(long, requires = "output")]
    overwrite: bool,
}

pub fn man(args: &ManArgs, command: Command) -> Result<u8> {
    // Pages have the names that `man` asks for: adir-restore.
    let mut command = named(command, "");
    command.build();
    if let Some(folder) = &args.output {
        let mut pages = Vec::new();
        collect(&command, &mut pages)?;
        let paths: Vec<PathBuf> = pages.iter().map(|(name, _)| folder.join(format!("{name}.1"))).collect();
        let all: Vec<_> = paths.iter().map(PathBuf::as_path).collect();
        atomic::check_outputs(&[], &all, args.overwrite)?;
        for (path, (_, page)) in paths.iter().zip(&pages) {
            atomic::write(path, |file| {
                std::io::Write::write_all(file, page).map_err(|e| Error::io(path.as_path(), e))
            })?;
        }
        return Ok(crate::exit::DONE);
    }
    let mut found = &command;
    for word in &args.command {
        let inner = found.find_subcommand(word);
        found = inner.ok_or_else(|| Error::config(format!("no command {:?}", args.command.join(" "))))?;
    }
    print(&page(found)?)
}

/// The command and those below it, with the names of the pages that hold them.
fn named(command: Command, above: &str) -> Command {
    let name = format!("{above}{}", command.get_name());
    let inner: Vec<String> = command.get_subcommands().map(|inner| inner.get_name().to_owned()).collect();
    let below = format!("{name}-");
    let command =
        inner.into_iter().fold(command, |command, inner| command.mut_subcommand(inner, |inner| named(inner, &below)));
    command.display_name(name).disable_help_subcommand(true)
}

/// The pages of a command and of those below it.
fn collect(command: &Command, pages: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    pages.push((command.get_display_name().unwrap_or(command.get_name()).to_owned(), page(command)?));
    command.get_subcommands().try_for_each(|inner| collect(inner, pages))
}

fn page(command: &Command) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    Man::new(command.clone()).render(&mut text).map_err(crate::out::failed)?;
    Ok(text)
}

/// Writes to stdout as it is: programs read it.
fn print(text: &[u8]) -> Result<u8> {
    let mut out = std::io::stdout().lock();
    std::io::Write::write_all(&mut out, text).map_err(crate::out::failed)?;
    Ok(crate::exit::DONE)
}
