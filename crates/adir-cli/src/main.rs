//! The program `adir`: arguments, progress, exit codes, signals. All the work is the library's.
#![cfg_attr(not(test), warn(clippy::unwrap_used))]

#[macro_use]
mod out;

mod adaptation;
mod args;
mod commands;
mod cost;
mod events;
mod exit;
mod hub;
mod latent;
mod log;
mod memory;
mod metrics;
mod model;
mod pipe;
mod remote;
mod seed;
mod stop;
mod store;
mod time;
mod watch;

use std::borrow::Cow;
use std::io::Write;
use std::process::ExitCode;

use adir::compute::Workers;
use adir::io::plain;
use adir::tensor::OrExit;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

/// Says that there is no memory, where nothing else can be said any more.
#[global_allocator]
static ALLOCATOR: OrExit = OrExit::new(exit::LIMITS as i32, log::out_of_memory);

/// Restore images whose degradation is known, with a diffusion prior that agrees with the measurement.
///
/// Exit codes: 0 done, 1 some images or checks failed, 2 usage or configuration, 3 input file, 4 model file,
/// 5 limits (memory, disk, size), 6 numerical failure, 130 interrupted.
#[derive(Debug, Parser)]
#[command(name = "adir", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Format of the log on stderr
    #[arg(long, global = true, value_enum, default_value_t)]
    log_format: log::Format,
    /// Print only errors and warnings
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Print settings with their sources, files and times too
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    verbose: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Restore(Box<commands::restore::RestoreArgs>),
    Edit(Box<commands::edit::EditArgs>),
    Merge(commands::merge::MergeArgs),
    Degrade(commands::degrade::DegradeArgs),
    Compare(commands::compare::CompareArgs),
    Eval(Box<commands::eval::EvalArgs>),
    Models(commands::models::ModelsArgs),
    Adapt(Box<commands::adapt::AdaptCommandArgs>),
    Index(commands::index::IndexArgs),
    Train(Box<commands::train::TrainArgs>),
    Verify(commands::verify::VerifyArgs),
    Replay(commands::replay::ReplayArgs),
    #[cfg(feature = "serve")]
    Serve(Box<commands::serve::ServeArgs>),
    Doctor(commands::doctor::DoctorArgs),
    Completions(commands::completions::CompletionsArgs),
    Man(commands::completions::ManArgs),
}

/// Options take negative numbers: what is wrong with one is said where it is used.
fn with_negative_numbers(command: clap::Command) -> clap::Command {
    let is_option = |arg: &clap::Arg| !arg.is_positional() && arg.get_action().takes_values();
    let command = command.mut_args(|arg| if is_option(&arg) { arg.allow_negative_numbers(true) } else { arg });
    let names: Vec<String> = command.get_subcommands().map(|inner| inner.get_name().to_owned()).collect();
    names.into_iter().fold(command, |command, name| command.mut_subcommand(name, with_negative_numbers))
}

/// The long names of the options that can help the command in `matches`: those it has, and where it may adapt to a gallery
/// and has none, none that say how to train.
fn options(command: &clap::Command, matches: &clap::ArgMatches) -> Vec<String> {
    const OF_TRAINING: [&str; 4] = ["recompute", "adapt-micro-batch", "adapt-crop", "lora"];
    if let Some((command, inner)) =
        matches.subcommand().and_then(|(name, inner)| command.find_subcommand(name).zip(Some(inner)))
    {
        return options(command, inner);
    }
    let names = command.get_arguments().filter_map(clap::Arg::get_long);
    let adapts = ["gallery", "archive"].iter().any(|id| matches!(matches.try_contains_id(id), Ok(true)));
    let may_adapt = command.get_arguments().any(|arg| arg.get_id() == "gallery");
    let helps = |name: &&str| adapts || !may_adapt || !OF_TRAINING.contains(name);
    names.filter(helps).map(str::to_owned).collect()
}

/// Whether a restoration lacks its task.
fn lacks_task(error: &clap::Error) -> bool {
    let restores = std::env::args_os().any(|arg| arg == "restore");
    match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::Strings(missing)) if error.kind() == ErrorKind::MissingRequiredArgument => {
            restores && missing.iter().any(|name| name.starts_with("--task"))
        }
        _ => false,
    }
}

/// Whether the arguments ask for events in JSON, though they cannot be read.
fn asks_for_json() -> bool {
    let arguments: Vec<_> = std::env::args_os().collect();
    let in_two = arguments.windows(2).any(|pair| pair[0] == "--log-format" && pair[1] == "json");
    in_two || arguments.iter().any(|arg| arg == "--log-format=json")
}

/// The arguments, and the options that there are beside them; what is wrong with them ends the program.
fn arguments() -> (Cli, Vec<String>) {
    let command = with_negative_numbers(Cli::command());
    let matches = command.clone().try_get_matches();
    // Of a group that may be absent, the parser itself does not ask for the rest.
    let whole = |error: clap::Error| match error.kind() {
        ErrorKind::MissingRequiredArgument => {
            command.clone().error(error.kind(), "--task is missing, to which the other options of a degradation belong")
        }
        _ => error.format(&mut command.clone()),
    };
    let parsed =
        matches.and_then(|matches| Ok((Cli::from_arg_matches(&matches).map_err(whole)?, options(&command, &matches))));
    parsed.unwrap_or_else(|error| {
        let text = error.to_string();
        let hint = lacks_task(&error)
            .then_some("the factor belongs to the task: --task sr4 restores an image four times as large");
        if error.use_stderr() && asks_for_json() {
            let code = u8::try_from(error.exit_code()).unwrap_or(exit::CONFIG);
            let log = log::Log::new(log::Format::Json, log::Level::Usual, stop::Stop::default());
            let text = plain::brief(&text);
            log.error(text.trim().strip_prefix("error: ").unwrap_or(&text).trim(), hint, code);
            std::process::exit(error.exit_code());
        }
        match plain::brief(&text) {
            // What was typed is repeated, however long it is.
            Cow::Owned(short) if error.use_stderr() => drop(write!(std::io::stderr(), "{}", plain::lines(&short))),
            _ => drop(error.print()),
        }
        if let Some(hint) = hint {
            log::put(format_args!("hint: {hint}"));
        }
        std::process::exit(error.exit_code())
    })
}

fn main() -> ExitCode {
    adir::tensor::keep_freed_memory();
    adir::tensor::refuse_large_files();
    let (cli, options) = arguments();
    log::remember(cli.log_format);
    let (stop, listening) = match stop::Stop::listen(cli.log_format) {
        Ok(stop) => (stop, Ok(())),
        Err(error) => (stop::Stop::default(), Err(error)),
    };
    let level = match (cli.quiet, cli.verbose) {
        (true, _) => log::Level::Quiet,
        (false, true) => log::Level::Verbose,
        (false, false) => log::Level::Usual,
    };
    let log = log::Log::new(cli.log_format, level, stop);
    hub::notes().iter().for_each(|note| log.warn(note));
    let done = listening.and_then(|()| Workers::start_shared()).and_then(|()| match &cli.command {
        Command::Restore(args) => commands::restore::run(args, &log),
        Command::Edit(args) => commands::edit::run(args, &log),
        Command::Merge(args) => commands::merge::run(args, &log),
        Command::Degrade(args) => commands::degrade::run(args, &log),
        Command::Eval(args) => commands::eval::run(args, &log),
        Command::Compare(args) => commands::compare::run(args, &log),
        Command::Models(args) => commands::models::run(args, &log),
        Command::Adapt(args) => commands::adapt::run(args, &log),
        Command::Index(args) => commands::index::run(args, &log),
        Command::Train(args) => commands::train::run(args, &log),
        Command::Verify(args) => commands::verify::run(args, &log),
        Command::Replay(args) => commands::replay::run(args, &log),
        #[cfg(feature = "serve")]
        Command::Serve(args) => commands::serve::run(args, &log),
        Command::Doctor(args) => commands::doctor::run(args),
        Command::Completions(args) => commands::completions::run(args, Cli::command()),
        Command::Man(args) => commands::completions::man(args, Cli::command()),
    });
    ExitCode::from(done.unwrap_or_else(|error| {
        if out::nobody_listens(&error) {
            return exit::DONE;
        }
        let code = exit::code(&error);
        let hint = exit::hint(&error, &|name| options.iter().any(|option| option == name));
        log.error(&error.to_string(), hint.as_deref(), code);
        code
    }))
}
